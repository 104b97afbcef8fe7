package traffic

import (
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

const testPod uint64 = 1<<63 | 7

// A flowKey is the key of either table.
type flowKey struct {
	pod           uint64
	local, remote string // the addresses' bytes
	ports         [4]byte
	protocol      uint8
}

func (k flowKey) String() string {
	return fmt.Sprintf("pod %x, protocol %d, local %x, remote %x, ports % x", k.pod, k.protocol, k.local, k.remote, k.ports)
}

// counted is a program with maps of its own.
type counted struct {
	totals  *ebpf.Map
	program *ebpf.Program
	shared  map[string]*ebpf.Map
}

// newShared makes the maps of bpf/headers, with smaller tables of flows.
func newShared(t testing.TB, entries uint32) map[string]*ebpf.Map {
	t.Helper()
	shared := map[string]*ebpf.Map{}
	for name, spec := range headers.MapSpecs() {
		if spec.Type == ebpf.LRUHash {
			spec.MaxEntries = min(spec.MaxEntries, entries)
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		shared[name] = m
	}
	return shared
}

func loadWith(t testing.TB, hook Hook, direction Direction, beyond Beyond) *counted {
	t.Helper()
	c := &counted{shared: beyond.Shared}
	var err error
	if c.totals, err = NewMap(Notes{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.totals.Close() })
	if c.program, err = NewProgram(c.totals, hook, direction, beyond); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { c.program.Close() })
	return c
}

func loadFlows(t testing.TB, hook Hook, direction Direction) *counted {
	t.Helper()
	return loadWith(t, hook, direction, Beyond{Pod: testPod, Shared: newShared(t, 4096), Flows: true})
}

// flows reads both tables.
func (c *counted) flows(t testing.TB) map[flowKey]headers.Flow {
	t.Helper()
	found := map[flowKey]headers.Flow{}
	var key4 headers.FlowKey4
	var key6 headers.FlowKey6
	var flow headers.Flow
	entries := c.shared["flows4"].Iterate()
	for entries.Next(&key4, &flow) {
		found[flowKey{
			pod: key4.Pod, local: string(key4.Local[:]), remote: string(key4.Remote[:]),
			ports: [4]byte(slices.Concat(key4.LocalPort[:], key4.RemotePort[:])), protocol: key4.Protocol,
		}] = flow
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	entries = c.shared["flows6"].Iterate()
	for entries.Next(&key6, &flow) {
		found[flowKey{
			pod: key6.Pod, local: string(key6.Local[:]), remote: string(key6.Remote[:]),
			ports: [4]byte(slices.Concat(key6.LocalPort[:], key6.RemotePort[:])), protocol: key6.Protocol,
		}] = flow
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

func (c *counted) clear(t testing.TB) {
	t.Helper()
	for key := range c.flows(t) {
		var err error
		if len(key.local) == 4 {
			err = c.shared["flows4"].Delete(headers.FlowKey4{
				Pod: key.pod, Local: [4]byte([]byte(key.local)), Remote: [4]byte([]byte(key.remote)),
				LocalPort: [2]byte(key.ports[:2]), RemotePort: [2]byte(key.ports[2:]), Protocol: key.protocol,
			})
		} else {
			err = c.shared["flows6"].Delete(headers.FlowKey6{
				Pod: key.pod, Local: [16]byte([]byte(key.local)), Remote: [16]byte([]byte(key.remote)),
				LocalPort: [2]byte(key.ports[:2]), RemotePort: [2]byte(key.ports[2:]), Protocol: key.protocol,
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// ofIP is what the cells hold that flows should hold, too.
func ofIP(totals *Totals, direction Direction) (sum Counters) {
	for _, cell := range []Cell{IPv4Unicast, IPv4NonUnicast, IPv6Unicast, IPv6NonUnicast} {
		sum.add(totals.Cells[direction][cell])
	}
	return sum
}

// table is what both tables have counted, of all CPUs.
func (c *counted) table(t testing.TB) (sum headers.FlowTable) {
	t.Helper()
	var perCPU []headers.FlowTable
	if err := c.shared["flow_table"].Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, one := range perCPU {
		sum.Created += one.Created
		sum.Failed += one.Failed
	}
	return sum
}

// ends writes the ports of TCP, UDP and their kin.
func ends(source, destination uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), destination)
}

func udp(source, destination uint16) []byte { return joined(ends(source, destination), zeros(4)) }

func tcpFlags(source, destination uint16, flags byte) []byte {
	header := joined(ends(source, destination), zeros(16))
	header[12], header[13] = 5<<4, flags
	return header
}

func icmp(kind, code byte, identifier uint16) []byte {
	return joined([]byte{kind, code, 0, 0}, binary.BigEndian.AppendUint16(nil, identifier), zeros(2))
}

// fragment sets the offset, in units of 8 bytes, and whether more fragments come.
func fragment(header []byte, offset uint16, more bool) []byte {
	word := offset
	if more {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(header[6:], word)
	return header
}

// fragmentHeader is that of IPv6.
func fragmentHeader(next byte, offset uint16, more bool) []byte {
	header := []byte{next, 0, 0, 0, 0, 0, 0, 9}
	binary.BigEndian.PutUint16(header[2:], offset<<3)
	if more {
		header[3] |= 1
	}
	return header
}

func in4(protocol byte, rest ...[]byte) []byte {
	payload := joined(rest...)
	return joined(ethernet(host, typeIPv4), ipv4(20+len(payload), protocol, unicast, 0), payload)
}

func in6(next byte, rest ...[]byte) []byte {
	payload := joined(rest...)
	return joined(ethernet(host, typeIPv6), ipv6(len(payload), next, 0xfd), payload)
}

const (
	protoICMP, protoICMPv6, protoSCTP, protoDCCP, protoUDPLite     = 1, 58, 132, 33, 136
	protoFragment, protoESP, protoAH, protoNone, protoGRE, protoMH = 44, 50, 51, 59, 47, 135
)

// long is a chain of extension headers, with a UDP header behind them.
func long(count int) []byte {
	chain := []byte{}
	for i := range count {
		next := byte(protoDestination)
		if i == count-1 {
			next = protoUDP
		}
		chain = append(chain, extension(next, 1)...)
	}
	return joined(chain, udp(1000, 2000))
}

// Packets from a port 1000 to 2000, and the flow that a pod that sends them has.
var shapes = []struct {
	name     string
	packet   []byte
	protocol uint8
	ports    [4]byte
	unparsed bool
	link     bool // has no meaning without a link header
}{
	{name: "UDP", packet: in4(protoUDP, udp(1000, 2000), zeros(30)), protocol: protoUDP, ports: both},
	{name: "UDP without payload", packet: in4(protoUDP, udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "TCP", packet: in4(protoTCP, tcpFlags(1000, 2000, 0x10)), protocol: protoTCP, ports: both},
	{name: "SCTP", packet: in4(protoSCTP, ends(1000, 2000), zeros(20)), protocol: protoSCTP, ports: both},
	{name: "DCCP", packet: in4(protoDCCP, ends(1000, 2000), zeros(20)), protocol: protoDCCP, ports: both},
	{name: "UDP-Lite", packet: in4(protoUDPLite, ends(1000, 2000), zeros(20)), protocol: protoUDPLite, ports: both},
	{name: "GRE", packet: in4(protoGRE, ends(1000, 2000)), protocol: protoGRE},
	{name: "ESP", packet: in4(protoESP, ends(1000, 2000)), protocol: protoESP},
	{name: "protocol 255, nothing behind the header", packet: in4(255), protocol: 255},
	{name: "UDP behind options", packet: joined(ethernet(host, typeIPv4), ipv4(20+40+8, protoUDP, unicast, 10), udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "UDP behind two tags", packet: joined(ethernet(host, typeQinQ), tag(typeVLAN), tag(typeIPv4), in4(protoUDP, udp(1000, 2000))[14:]), protocol: protoUDP, ports: both, link: true},
	{name: "UDPv6 behind a tag", packet: joined(ethernet(host, typeVLAN), tag(typeIPv6), in6(protoUDP, udp(1000, 2000))[14:]), protocol: protoUDP, ports: both, link: true},
	{name: "multicast", packet: joined(ethernet(host, typeIPv4), ipv4(28, protoUDP, [4]byte{224, 0, 0, 1}, 0), udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "padded", packet: joined(in4(protoUDP, udp(1000, 2000)), zeros(18)), protocol: protoUDP, ports: both},

	{name: "first fragment", packet: joined(ethernet(host, typeIPv4), fragment(ipv4(44, protoUDP, unicast, 0), 0, true), udp(1000, 2000), zeros(16)), protocol: protoUDP, ports: both},
	{name: "middle fragment", packet: joined(ethernet(host, typeIPv4), fragment(ipv4(44, protoUDP, unicast, 0), 3, true), udp(1000, 2000), zeros(16)), protocol: protoUDP},
	{name: "last fragment", packet: joined(ethernet(host, typeIPv4), fragment(ipv4(21, protoTCP, unicast, 0), 8191, false), zeros(1)), protocol: protoTCP},
	{name: "first fragment, v6", packet: in6(protoFragment, fragmentHeader(protoUDP, 0, true), udp(1000, 2000), zeros(16)), protocol: protoUDP, ports: both},
	{name: "middle fragment, v6", packet: in6(protoFragment, fragmentHeader(protoUDP, 3, true), udp(1000, 2000), zeros(16)), protocol: protoUDP},
	{name: "last fragment, v6", packet: in6(protoFragment, fragmentHeader(protoTCP, 8191, false), zeros(1)), protocol: protoTCP},
	{name: "atomic fragment, v6", packet: in6(protoFragment, fragmentHeader(protoTCP, 0, false), tcpFlags(1000, 2000, 2)), protocol: protoTCP, ports: both},
	{name: "last fragment of ICMP", packet: joined(ethernet(host, typeIPv4), fragment(ipv4(40, protoICMP, unicast, 0), 100, false), zeros(20)), protocol: protoICMP},

	{name: "echo", packet: in4(protoICMP, icmp(8, 0, 0x1234)), protocol: protoICMP, ports: [4]byte{0x12, 0x34, 8, 0}},
	{name: "echo reply", packet: in4(protoICMP, icmp(0, 0, 0x1234)), protocol: protoICMP, ports: [4]byte{0x12, 0x34, 8, 0}},
	{name: "timestamp reply", packet: in4(protoICMP, icmp(14, 0, 0x1234)), protocol: protoICMP, ports: [4]byte{0x12, 0x34, 13, 0}},
	{name: "time exceeded", packet: in4(protoICMP, icmp(11, 1, 0x1234)), protocol: protoICMP, ports: [4]byte{0, 0, 11, 1}},
	{name: "unreachable that quotes nothing", packet: in4(protoICMP, icmp(3, 1, 0x1234)), protocol: protoICMP, ports: [4]byte{0, 0, 3, 1}},
	{name: "echo, v6", packet: in6(protoICMPv6, icmp(128, 0, 0x1234)), protocol: protoICMPv6, ports: [4]byte{0x12, 0x34, 128, 0}},
	{name: "echo reply, v6", packet: in6(protoICMPv6, icmp(129, 0, 0x1234)), protocol: protoICMPv6, ports: [4]byte{0x12, 0x34, 128, 0}},
	{name: "neighbour advertisement", packet: in6(protoICMPv6, icmp(136, 0, 0x1234)), protocol: protoICMPv6, ports: [4]byte{0, 0, 136, 0}},

	{name: "UDPv6", packet: in6(protoUDP, udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "TCPv6", packet: in6(protoTCP, tcpFlags(1000, 2000, 0x12)), protocol: protoTCP, ports: both},
	{name: "SCTPv6", packet: in6(protoSCTP, ends(1000, 2000), zeros(8)), protocol: protoSCTP, ports: both},
	{name: "hop by hop, routing, destination, then TCP", packet: in6(protoHopByHop, extension(protoRouting, 1), extension(protoDestination, 0), extension(protoTCP, 1), tcpFlags(1000, 2000, 0x10)), protocol: protoTCP, ports: both},
	{name: "authentication header", packet: in6(protoAH, []byte{protoUDP, 4}, zeros(22), udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "long extension header", packet: in6(protoDestination, []byte{protoUDP, 255}, zeros(2046), udp(1000, 2000)), protocol: protoUDP, ports: both},
	{name: "8 extension headers", packet: in6(protoDestination, long(8)), protocol: protoUDP, ports: both},
	{name: "9 extension headers", packet: in6(protoDestination, long(9)), unparsed: true},
	{name: "no next header", packet: in6(protoNone), protocol: protoNone},
	{name: "mobility header", packet: in6(protoMH, zeros(8)), protocol: protoMH},

	{name: "version 5", packet: joined(ethernet(host, typeIPv4), []byte{0x55}, in4(protoUDP, udp(1000, 2000))[15:]), unparsed: true},
	{name: "version 4 as 6", packet: joined(ethernet(host, typeIPv6), []byte{0x40}, in6(protoUDP, udp(1000, 2000))[15:]), unparsed: true},
	{name: "a header of 16 bytes", packet: joined(ethernet(host, typeIPv4), []byte{0x44}, in4(protoUDP, udp(1000, 2000))[15:]), unparsed: true},
	{name: "options beyond the end", packet: joined(ethernet(host, typeIPv4), ipv4(40, protoGRE, unicast, 10)[:40]), unparsed: true},
	{name: "ports cut by the declared length", packet: joined(ethernet(host, typeIPv4), ipv4(23, protoUDP, unicast, 0), udp(1000, 2000), zeros(16)), unparsed: true},
	{name: "ports whole, the rest cut by the declared length", packet: joined(ethernet(host, typeIPv4), ipv4(24, protoUDP, unicast, 0), udp(1000, 2000), zeros(16)), protocol: protoUDP, ports: both},
	{name: "ports cut by the buffer", packet: in4(protoTCP, ends(1000, 2000)[:3]), unparsed: true},
	{name: "ICMP cut", packet: in4(protoICMP, icmp(8, 0, 1)[:7]), unparsed: true},
	{name: "ICMPv6 cut", packet: in6(protoICMPv6, icmp(128, 0, 1)[:7]), unparsed: true},
	{name: "extension header cut", packet: in6(protoHopByHop, extension(protoUDP, 1)[:7]), unparsed: true},
	{name: "extension header that says more than there is", packet: in6(protoHopByHop, []byte{protoGRE, 1}, zeros(10)), unparsed: true},
	{name: "IPv4 header cut", packet: joined(ethernet(host, typeVLAN), tag(typeIPv4), in4(protoUDP)[14:33]), unparsed: true, link: true},
	{name: "IPv6 header cut", packet: joined(ethernet(host, typeVLAN), tag(typeIPv6), in6(protoUDP)[14:53]), unparsed: true, link: true},
}

var both = [4]byte{1000 >> 8, 1000 & 255, 2000 >> 8, 2000 & 255}

// wantedKey is the key of a shape's flow.
func wantedKey(packet []byte, protocol uint8, ports [4]byte, direction Direction) flowKey {
	ip := packet[14:]
	for kind := binary.BigEndian.Uint16(packet[12:]); kind == typeVLAN || kind == typeQinQ; ip = ip[4:] {
		kind = binary.BigEndian.Uint16(ip[2:])
	}
	key := flowKey{pod: testPod, protocol: protocol, ports: ports}
	if ip[0]>>4 == 4 {
		key.local, key.remote = string(ip[12:16]), string(ip[16:20])
	} else {
		key.local, key.remote = string(ip[8:24]), string(ip[24:40])
	}
	if direction == Receive {
		key.local, key.remote = key.remote, key.local
		if protocol != protoICMP && protocol != protoICMPv6 {
			key.ports = [4]byte{ports[2], ports[3], ports[0], ports[1]}
		}
	}
	return key
}

func TestFlowOfEachShape(t *testing.T) {
	needRoot(t)
	inside := ownNamespace(t)
	for hook, name := range map[Hook]string{EtherAny: "ether", Cgroup: "cgroup"} {
		for _, direction := range []Direction{Receive, Transmit} {
			c := loadFlows(t, hook, direction)
			for _, shape := range shapes {
				if hook == Cgroup && shape.link {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, direction, shape.name), func(t *testing.T) {
					c.clear(t)
					before := read(t, c.totals)
					inside(func() { run(t, c.program, shape.packet, buffer{IfIndex: 2}) })
					after := read(t, c.totals)
					if unparsed := after.Unparsed - before.Unparsed; unparsed != map[bool]uint64{true: 1}[shape.unparsed] {
						t.Errorf("%d packets were not parsed", unparsed)
					}
					flows := c.flows(t)
					if shape.unparsed {
						if len(flows) != 0 {
							t.Errorf("flows %v", slices.Collect(maps.Keys(flows)))
						}
						return
					}
					want := wantedKey(shape.packet, shape.protocol, shape.ports, direction)
					flow, ok := flows[want]
					if !ok || len(flows) != 1 {
						t.Fatalf("flows %v, want %v", slices.Collect(maps.Keys(flows)), want)
					}
					sum, old := ofIP(&after, direction), ofIP(&before, direction)
					checkHalf(t, flow, direction, sum.Packets-old.Packets, sum.Bytes-old.Bytes)
					if after.FlowsCreated != before.FlowsCreated+1 {
						t.Errorf("%d flows were made, want 1", after.FlowsCreated-before.FlowsCreated)
					}
				})
			}
		}
	}
}

func checkHalf(t *testing.T, flow headers.Flow, direction Direction, packets, bytes uint64) {
	t.Helper()
	got, other := flow.Receive, flow.Transmit
	if direction == Transmit {
		got, other = other, got
	}
	if got.Packets != packets || got.Bytes != bytes || other.Packets != 0 || other.Bytes != 0 {
		t.Errorf("the flow has %v and %v, want %d packets, %d bytes and nothing", got, other, packets, bytes)
	}
	if flow.BegunByTransmit != uint8(direction) {
		t.Errorf("begun by direction %d, want %d", flow.BegunByTransmit, direction)
	}
	if flow.First == 0 || flow.Last < flow.First {
		t.Errorf("first %d, last %d", flow.First, flow.Last)
	}
}

// Super-packets are in their flow with the segments that the totals have.
func TestFlowsHoldWhatIsCounted(t *testing.T) {
	needRoot(t)
	inside := ownNamespace(t)
	for _, hook := range []Hook{EtherAny, Cgroup} {
		for _, direction := range []Direction{Receive, Transmit} {
			c := loadFlows(t, hook, direction)
			for _, p := range packets {
				if hook == Cgroup && p.onlyEther {
					continue
				}
				inside(func() {
					run(t, c.program, p.packet, buffer{IfIndex: 2, WireLen: p.wire, Segments: p.segments, Size: p.size})
				})
				if err := c.equal(t, direction); err != nil {
					t.Fatalf("after %s: %v", p.name, err)
				}
			}
		}
	}
}

// equal says whether the flows hold what the totals hold. Bytes are compared while everything was parsed.
func (c *counted) equal(t testing.TB, direction Direction) error {
	t.Helper()
	totals := read(t, c.totals)
	var packets, bytes uint64
	for _, flow := range c.flows(t) {
		packets += flow.Receive.Packets + flow.Transmit.Packets
		bytes += flow.Receive.Bytes + flow.Transmit.Bytes
	}
	want := ofIP(&totals, direction)
	if packets+totals.Unparsed != want.Packets {
		return fmt.Errorf("%d packets in flows and %d not parsed, of %d", packets, totals.Unparsed, want.Packets)
	}
	if bytes > want.Bytes || totals.Unparsed == 0 && bytes != want.Bytes {
		return fmt.Errorf("%d bytes in flows, of %d", bytes, want.Bytes)
	}
	return nil
}

// A flow's story, seen from the pod that opens a connection and from the one that takes it.
func TestHandshake(t *testing.T) {
	needRoot(t)
	const syn, synAck, ack, rst = 2, 0x12, 0x10, 0x14
	type step struct {
		out   bool
		flags byte
	}
	for _, test := range []struct {
		name                   string
		steps                  []step
		handshake, waits       bool
		received, transmitted  uint8
		handshakeAfterLastStep bool
	}{
		{name: "opened", steps: []step{{true, syn}, {false, synAck}, {true, ack}}, handshake: true, received: synAck, transmitted: syn | ack},
		{name: "taken", steps: []step{{false, syn}, {true, synAck}, {false, ack}}, handshake: true, received: syn | ack, transmitted: synAck},
		{name: "a SYN without answer", steps: []step{{true, syn}, {true, syn}}, waits: true, transmitted: syn},
		{name: "an answer without answer", steps: []step{{false, syn}, {true, synAck}, {false, syn}}, waits: true, received: syn, transmitted: synAck},
		{name: "refused", steps: []step{{true, syn}, {false, rst}}, received: rst, transmitted: syn},
		{name: "in its midst", steps: []step{{true, ack}, {false, ack}}, received: ack, transmitted: ack},
	} {
		t.Run(test.name, func(t *testing.T) {
			shared := newShared(t, 4096)
			in := loadWith(t, EtherAny, Receive, Beyond{Pod: testPod, Shared: shared, Flows: true})
			out := loadWith(t, EtherAny, Transmit, Beyond{Pod: testPod, Shared: shared, Flows: true})
			back := joined(in4(protoTCP, zeros(20)))
			copy(back[14+12:], unicast[:])
			copy(back[14+16:], []byte{10, 0, 0, 2})
			for _, s := range test.steps {
				if s.out {
					run(t, out.program, in4(protoTCP, tcpFlags(1000, 2000, s.flags)), buffer{})
				} else {
					copy(back[34:], tcpFlags(2000, 1000, s.flags))
					run(t, in.program, back, buffer{})
				}
			}
			flows := in.flows(t)
			if len(flows) != 1 {
				t.Fatalf("%d flows, want 1: %v", len(flows), flows)
			}
			for _, flow := range flows {
				if (flow.HandshakeMicroseconds > 0) != test.handshake || (flow.SYN != 0) != test.waits {
					t.Errorf("handshake %d us, SYN at %d", flow.HandshakeMicroseconds, flow.SYN)
				}
				if want := [2]uint8{test.received, test.transmitted}; flow.Flags != want {
					t.Errorf("flags %#x, want %#x", flow.Flags, want)
				}
				if flow.DropReason != 0 || flow.BegunByTransmit != map[bool]uint8{true: 1}[test.steps[0].out] {
					t.Errorf("drop reason %d, begun by %d", flow.DropReason, flow.BegunByTransmit)
				}
			}
		})
	}
}

// An ICMP message that something could not be delivered marks the flow of the packet that it quotes.
func TestRejected(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name   string
		packet []byte
		icmp   func(quoted []byte) []byte
		want   uint8
	}{
		{"no such port", in4(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in4(protoICMP, icmp(3, 3, 0), q) }, 1},
		{"prohibited", in4(protoTCP, tcpFlags(1000, 2000, 2)), func(q []byte) []byte { return in4(protoICMP, icmp(3, 13, 0), q) }, 1},
		{"too large", in4(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in4(protoICMP, icmp(3, 4, 0), q) }, 0},
		{"time exceeded", in4(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in4(protoICMP, icmp(11, 0, 0), q) }, 0},
		{"quoted with ports only", in4(protoTCP, tcpFlags(1000, 2000, 2)), func(q []byte) []byte { return in4(protoICMP, icmp(3, 13, 0), q[:24]) }, 1},
		{"quoted without ports", in4(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in4(protoICMP, icmp(3, 3, 0), q[:23]) }, 0},
		{"no such port, v6", in6(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in6(protoICMPv6, icmp(1, 4, 0), q) }, 1},
		{"v6 behind an extension header", in6(protoDestination, long(1)), func(q []byte) []byte { return in6(protoICMPv6, icmp(1, 1, 0), q) }, 1},
		{"too large, v6", in6(protoUDP, udp(1000, 2000)), func(q []byte) []byte { return in6(protoICMPv6, icmp(2, 0, 0), q) }, 0},
	} {
		for _, direction := range []Direction{Receive, Transmit} {
			t.Run(fmt.Sprintf("%s/%s", direction, test.name), func(t *testing.T) {
				shared := newShared(t, 4096)
				programs := [directions]*counted{}
				for d := range programs {
					programs[d] = loadWith(t, EtherAny, Direction(d), Beyond{Pod: testPod, Shared: shared, Flows: true})
				}
				// The message goes the other way than what it quotes.
				run(t, programs[Transmit-direction].program, test.packet, buffer{})
				run(t, programs[direction].program, test.icmp(test.packet[14:]), buffer{})
				flows := programs[0].flows(t)
				if len(flows) != 2 {
					t.Errorf("%d flows, want that of the packet and that of the message", len(flows))
				}
				for key, flow := range flows {
					want := test.want
					if key.protocol == protoICMP || key.protocol == protoICMPv6 {
						want = 0
					}
					if flow.Rejected != want {
						t.Errorf("%v: rejected %d, want %d", key, flow.Rejected, want)
					}
				}
			})
		}
	}
}

// inspection is struct inspection of inspection.h.
type inspection struct {
	Pod                     uint64
	Network, Transport, End uint32
	Protocol                [2]byte
	TransportProtocol       uint8
	Direction               uint8
}

func TestInspection(t *testing.T) {
	needRoot(t)
	inside := ownNamespace(t)
	shared := newShared(t, 4096)
	answers := map[Hook]uint32{EtherAny: 77, Cgroup: 1}
	for name, kind := range map[string]ebpf.ProgramType{"inspectors": ebpf.SchedCLS, "cgroup_inspectors": ebpf.CGroupSKB} {
		answer := map[ebpf.ProgramType]int32{ebpf.SchedCLS: 77, ebpf.CGroupSKB: 0}[kind]
		inspector, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: kind, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer inspector.Close()
		if err := shared[name].Put(headers.InspectDNS, inspector); err != nil {
			t.Fatal(err)
		}
	}
	answers[Cgroup] = 0
	for _, test := range []struct {
		name   string
		packet []byte
		want   inspection // without pod, direction and the link header's length
	}{
		{"query", in4(protoUDP, udp(1000, 53), zeros(12)), inspection{Transport: 20, End: 40, Protocol: [2]byte{8, 0}, TransportProtocol: protoUDP}},
		{"answer, padded", joined(in4(protoUDP, udp(53, 1000), zeros(12)), zeros(7)), inspection{Transport: 20, End: 40, Protocol: [2]byte{8, 0}, TransportProtocol: protoUDP}},
		{"over TCP", in4(protoTCP, tcpFlags(1000, 53, 0x18)), inspection{Transport: 20, End: 40, Protocol: [2]byte{8, 0}, TransportProtocol: protoTCP}},
		{"behind options", joined(ethernet(host, typeIPv4), ipv4(24+8, protoUDP, unicast, 1), udp(53, 53)), inspection{Transport: 24, End: 32, Protocol: [2]byte{8, 0}, TransportProtocol: protoUDP}},
		{"v6", in6(protoUDP, udp(1000, 53), zeros(12)), inspection{Transport: 40, End: 60, Protocol: [2]byte{0x86, 0xdd}, TransportProtocol: protoUDP}},
		{"v6 behind an extension header", in6(protoDestination, extension(protoUDP, 1), udp(1000, 53)), inspection{Transport: 48, End: 56, Protocol: [2]byte{0x86, 0xdd}, TransportProtocol: protoUDP}},
		{"another port", in4(protoUDP, udp(1000, 5300)), inspection{}},
		{"SCTP", in4(protoSCTP, ends(1000, 53), zeros(8)), inspection{}},
		{"ICMP", in4(protoICMP, icmp(8, 0, 53)), inspection{}},
		{"fragment", joined(ethernet(host, typeIPv4), fragment(ipv4(44, protoUDP, unicast, 0), 3, true), udp(53, 53), zeros(16)), inspection{}},
	} {
		for hook, name := range map[Hook]string{EtherAny: "ether", Cgroup: "cgroup"} {
			for _, direction := range []Direction{Receive, Transmit} {
				for _, flows := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%s/%s/flows=%v", test.name, name, direction, flows), func(t *testing.T) {
						c := loadWith(t, hook, direction, Beyond{Pod: testPod, Shared: shared, Flows: flows})
						want, passed := test.want, test.want == inspection{}
						if !passed {
							want.Pod, want.Direction = testPod, uint8(direction)
							if hook != Cgroup {
								want.Network, want.Transport, want.End = 14, want.Transport+14, want.End+14
							}
						}
						got, verdict := inspected(t, inside, c, test.packet)
						if got != want {
							t.Errorf("handed on %+v, want %+v", got, want)
						}
						if inspector := verdict == answers[hook]; inspector == passed {
							t.Errorf("the answer is %d", verdict)
						}
						if totals := read(t, c.totals); ofIP(&totals, direction).Packets != 1 {
							t.Errorf("counted %v, want one packet", totals)
						}
					})
				}
			}
		}
	}
}

// inspected runs a program and returns what it hands on, if it does.
func inspected(t *testing.T, inside func(func()), c *counted, packet []byte) (got inspection, verdict uint32) {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	perCPU := make([]inspection, cpus)
	if err := c.shared["inspection"].Put(uint32(0), perCPU); err != nil {
		t.Fatal(err)
	}
	// Programs on cgroups hand on in the packet's control buffer.
	type control struct {
		_       [40]byte
		IfIndex uint32
		_       [4]byte
		Words   [5]uint32
		_       [124]byte
	}
	var after control
	inside(func() {
		if verdict, err = c.program.Run(&ebpf.RunOptions{Data: packet, Context: control{IfIndex: 2}, ContextOut: &after}); err != nil {
			t.Error(err)
		}
	})
	if w := after.Words; w != [5]uint32{} {
		got = inspection{
			Pod: uint64(w[1])<<32 | uint64(w[0]), Transport: w[2], End: w[3],
			TransportProtocol: uint8(w[4] >> 16), Direction: uint8(w[4] >> 24),
		}
		binary.LittleEndian.PutUint16(got.Protocol[:], uint16(w[4]))
	}
	if err := c.shared["inspection"].Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, one := range perCPU {
		if one != (inspection{}) {
			got = one
		}
	}
	return got, verdict
}

// Nothing but counting happens without the maps, or when flows are off.
func TestWithoutFlows(t *testing.T) {
	needRoot(t)
	shared := newShared(t, 4096)
	for name, beyond := range map[string]Beyond{
		"no maps": {Pod: testPod, Flows: true}, "off": {Pod: testPod, Shared: shared}, "nothing": {},
	} {
		for hook := range hooks {
			for _, direction := range []Direction{Receive, Transmit} {
				t.Run(fmt.Sprintf("%s/%d/%s", name, hook, direction), func(t *testing.T) {
					c := loadWith(t, hook, direction, beyond)
					if hook == EtherAny {
						run(t, c.program, in4(protoUDP, udp(1000, 53)), buffer{})
						totals := read(t, c.totals)
						if totals.FlowsCreated != 0 || ofIP(&totals, direction) != (Counters{1, 28, 1}) {
							t.Errorf("counted %+v", totals)
						}
					}
					c.shared = shared
					if flows := c.flows(t); len(flows) != 0 {
						t.Errorf("flows %v", flows)
					}
				})
			}
		}
	}
}

// Two programs are loaded for every pod, so the kernel must not take long to verify one.
func TestVerifierHasLittleToDo(t *testing.T) {
	needRoot(t)
	shared := newShared(t, 4096)
	for hook := range hooks {
		for _, direction := range []Direction{Receive, Transmit} {
			c := loadWith(t, hook, direction, Beyond{Pod: testPod, Shared: shared, Flows: true})
			info, err := c.program.Info()
			if err != nil {
				t.Fatal(err)
			}
			instructions, ok := info.VerifiedInstructions()
			if !ok {
				t.Skip("the kernel does not say how many instructions it looked at (it does since 5.16)")
			}
			if instructions > 12_000 {
				t.Errorf("hook %d, %s: %d instructions were looked at, three times as many as on 6.18", hook, direction, instructions)
			}
		}
	}
}

// repeat runs a program many times. The scheduler's signal would end a run early, and begin it anew.
func repeat(t testing.TB, program *ebpf.Program, packet []byte, context buffer, times uint32) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var mask, before unix.Sigset_t
	mask.Val[0] = 1 << (uint(unix.SIGURG) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, &before); err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	if _, err := program.Run(&ebpf.RunOptions{Data: packet, Context: context, Repeat: times}); err != nil {
		t.Error(err)
	}
}

func TestTwoCPUsOnOneFlow(t *testing.T) {
	needRoot(t)
	const each = 1_000_000
	c := loadFlows(t, EtherAny, Transmit)
	var group sync.WaitGroup
	for cpu := range min(2, runtime.NumCPU()) {
		group.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread keeps its CPU
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			repeat(t, c.program, in4(protoUDP, udp(1000, 2000)), buffer{}, each)
		})
	}
	group.Wait()
	if err := c.equal(t, Transmit); err != nil {
		t.Error(err)
	}
	if n, table := len(c.flows(t)), c.table(t); n != 1 || table != (headers.FlowTable{Created: 1}) {
		t.Errorf("%d flows, %+v", n, table)
	}
}

// A million packets of 50,000 flows are all in the tables as large as they are on a node; in a small one, as many
// flows are missing as were pushed out.
func TestManyFlows(t *testing.T) {
	needRoot(t)
	const flows, each = 50_000, 20
	for name, entries := range map[string]uint32{"all fit": 1 << 20, "a quarter fits": flows / 4} {
		t.Run(name, func(t *testing.T) {
			c := loadWith(t, EtherAny, Receive, Beyond{Pod: testPod, Shared: newShared(t, entries), Flows: true})
			packet := in4(protoUDP, udp(1000, 2000), zeros(10))
			for i := range uint32(flows) {
				binary.BigEndian.PutUint32(packet[14+12:], 10<<24|i)
				repeat(t, c.program, packet, buffer{}, each)
			}
			totals, table, present := read(t, c.totals), c.table(t), c.flows(t)
			if table.Failed != 0 || table.Created < flows || totals.FlowsCreated != table.Created {
				t.Errorf("%+v, of the pod %d", table, totals.FlowsCreated)
			}
			evicted := table.Created - uint64(len(present))
			if entries < flows {
				if evicted < flows-uint64(entries) {
					t.Errorf("%d flows were pushed out, %d are there, of %d", evicted, len(present), table.Created)
				}
				return
			}
			if err := c.equal(t, Receive); err != nil || evicted != 0 {
				t.Errorf("%d flows were pushed out: %v", evicted, err)
			}
		})
	}
}
