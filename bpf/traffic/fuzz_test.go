package traffic

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FuzzPacket throws packets at the programs of an interface and of a cgroup. Every packet is in the flow that judge
// finds, or is not parsed; nothing is counted twice and nothing is left out.
//
// The kernel gives the frame to a program as it came from the network, except that it insists on whole IP headers.
func FuzzPacket(f *testing.F) {
	needRoot(f)
	for _, p := range packets {
		f.Add(p.packet, false)
	}
	for i, shape := range shapes {
		f.Add(shape.packet, i%2 == 0)
	}
	for _, quoted := range [][]byte{in4(protoUDP, udp(1000, 53)), in4(protoICMP, icmp(3, 3, 0)), in6(protoDestination, long(2))} {
		f.Add(in4(protoICMP, icmp(3, 3, 0), quoted[14:]), true)
		f.Add(in6(protoICMPv6, icmp(1, 4, 0), quoted[14:]), false)
	}
	inside := ownNamespace(f)
	shared := newShared(f, 1024)
	programs := map[Hook][directions]*counted{}
	for _, hook := range []Hook{EtherAny, Cgroup} {
		var both [directions]*counted
		for d := range both {
			both[d] = loadWith(f, hook, Direction(d), Beyond{Pod: testPod, Shared: shared, Flows: true})
		}
		programs[hook] = both
	}
	f.Fuzz(func(t *testing.T, packet []byte, sent bool) {
		direction := Receive
		if sent {
			direction = Transmit
		}
		for hook, both := range programs {
			tryPacket(t, inside, hook, both[direction], direction, packet)
		}
	})
}

func tryPacket(t *testing.T, inside func(func()), hook Hook, c *counted, direction Direction, packet []byte) {
	c.clear(t)
	before := read(t, c.totals)
	var err error
	inside(func() { _, err = c.program.Run(&ebpf.RunOptions{Data: packet, Context: buffer{IfIndex: 2}}) })
	if errors.Is(err, unix.EINVAL) {
		return // too short or too long for the kernel
	}
	if err != nil {
		t.Fatal(err)
	}
	after, flows := read(t, c.totals), c.flows(t)
	old, sum := ofIP(&before, direction), ofIP(&after, direction)
	seen := sum.Packets - old.Packets
	want, isIP, parsed := judge(packet, hook == EtherAny, direction)
	unparsed := after.Unparsed - before.Unparsed
	switch {
	case !isIP && (seen != 0 || unparsed != 0 || len(flows) != 0):
		t.Fatalf("what is not IP: %d packets, %d not parsed, flows %v", seen, unparsed, slices.Collect(maps.Keys(flows)))
	case isIP && seen != 1:
		t.Fatalf("counted %d packets", seen)
	case isIP && !parsed && (unparsed != 1 || len(flows) != 0):
		t.Fatalf("%d packets not parsed, flows %v, want none", unparsed, slices.Collect(maps.Keys(flows)))
	case parsed:
		flow, ok := flows[want]
		if !ok || len(flows) != 1 || unparsed != 0 {
			t.Fatalf("%d packets not parsed, flows %v, want %v", unparsed, slices.Collect(maps.Keys(flows)), want)
		}
		checkHalf(t, flow, direction, 1, sum.Bytes-old.Bytes)
	}
}

// judge reads a packet in Go, as slowly and plainly as may be.
func judge(packet []byte, tagged bool, direction Direction) (key flowKey, isIP, parsed bool) {
	kind := binary.BigEndian.Uint16(packet[12:])
	rest := packet[14:]
	for tags := 0; tagged && tags < 3 && (kind == typeVLAN || kind == typeQinQ) && len(rest) >= 4; tags++ {
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	var source, destination, payload []byte
	var protocol byte
	var first bool
	switch kind {
	case typeIPv4:
		source, destination, payload, protocol, first, parsed = judgeIPv4(rest)
	case typeIPv6:
		source, destination, payload, protocol, first, parsed = judgeIPv6(rest)
	default:
		return key, false, false
	}
	if !parsed {
		return key, true, false
	}
	key = flowKey{pod: testPod, protocol: protocol, local: string(source), remote: string(destination)}
	if direction == Receive {
		key.local, key.remote = key.remote, key.local
	}
	if first {
		key.ports, parsed = judgePorts(payload, protocol, direction)
	}
	return key, true, parsed
}

// within cuts what the link layer padded.
func within(packet []byte, declared, least int) []byte {
	if declared >= least && declared <= len(packet) {
		return packet[:declared]
	}
	return packet
}

func judgeIPv4(packet []byte) (source, destination, payload []byte, protocol byte, first, ok bool) {
	if len(packet) < 20 {
		return nil, nil, nil, 0, false, false
	}
	packet = within(packet, int(binary.BigEndian.Uint16(packet[2:])), 20)
	length := int(packet[0]&15) * 4
	if packet[0]>>4 != 4 || length < 20 || length > len(packet) {
		return nil, nil, nil, 0, false, false
	}
	first = binary.BigEndian.Uint16(packet[6:])&0x1fff == 0
	return packet[12:16], packet[16:20], packet[length:], packet[9], first, true
}

func judgeIPv6(packet []byte) (source, destination, payload []byte, protocol byte, first, ok bool) {
	if len(packet) < 40 {
		return nil, nil, nil, 0, false, false
	}
	packet = within(packet, 40+int(binary.BigEndian.Uint16(packet[4:])), 41)
	protocol, payload = packet[6], packet[40:]
	if packet[0]>>4 != 6 {
		return nil, nil, nil, 0, false, false
	}
	for extensions := 0; ; extensions++ {
		length := 0
		switch protocol {
		case protoHopByHop, protoRouting, protoDestination:
			if len(payload) >= 8 {
				length = 8 + 8*int(payload[1])
			}
		case protoAH:
			if len(payload) >= 8 {
				length = 8 + 4*int(payload[1])
			}
		case protoFragment:
			length = 8
		default:
			return packet[8:24], packet[24:40], payload, protocol, true, true
		}
		if extensions == 8 || length == 0 || length > len(payload) {
			return nil, nil, nil, 0, false, false
		}
		later := protocol == protoFragment && binary.BigEndian.Uint16(payload[2:])>>3 != 0
		protocol, payload = payload[0], payload[length:]
		if later {
			return packet[8:24], packet[24:40], nil, protocol, false, true
		}
	}
}

func judgePorts(payload []byte, protocol byte, direction Direction) (ports [4]byte, ok bool) {
	switch protocol {
	case protoTCP, protoUDP, protoSCTP, protoDCCP, protoUDPLite:
		if len(payload) < 4 {
			return ports, false
		}
		if direction == Receive {
			return [4]byte{payload[2], payload[3], payload[0], payload[1]}, true
		}
		return [4]byte(payload), true
	case protoICMP, protoICMPv6:
		if len(payload) < 8 {
			return ports, false
		}
		kind := payload[0]
		questions := map[byte]byte{8: 8, 0: 8, 13: 13, 14: 13} // by answer
		if protocol == protoICMPv6 {
			questions = map[byte]byte{128: 128, 129: 128}
		}
		if question, numbered := questions[kind]; numbered {
			return [4]byte{payload[4], payload[5], question, payload[1]}, true
		}
		return [4]byte{0, 0, kind, payload[1]}, true
	}
	return ports, true
}
