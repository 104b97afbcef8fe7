package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

const canary = "CANARY-PAYLOAD"

// unhex reads hexadecimal digits with blanks between.
func unhex(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

const (
	macs   = "020000000001 020000000002"
	v4     = "45000000 00000000 40PP0000 0a000001 0a000002"
	v6     = "60000000 0000PP40 20010db8000000000000000000000001 20010db8000000000000000000000002"
	ports  = "03e8 07d0"
	tcp20  = ports + "00000001 00000002 5018 ffff 0000 0000"
	udp8   = ports + "0000 0000"
	icmp8  = "0800 0000 0001 0001"
	sctp12 = ports + "00000001 00000000"
)

func over(header, protocol string) string { return strings.ReplaceAll(header, "PP", protocol) }

// Payload never stays, and headers always do.
func TestHeadersEnd(t *testing.T) {
	for _, test := range []struct{ name, headers string }{
		{"TCP", macs + "0800" + over(v4, "06") + tcp20},
		{"TCP with options", macs + "0800" + over(v4, "06") + ports + "00000001 00000002 8018 ffff 0000 0000 0101080a 00000001 00000002"},
		{"TCP over IPv6", macs + "86dd" + over(v6, "06") + tcp20},
		{"UDP", macs + "0800" + over(v4, "11") + udp8},
		{"UDP over IPv6", macs + "86dd" + over(v6, "11") + udp8},
		{"SCTP", macs + "0800" + over(v4, "84") + sctp12},
		{"ICMP", macs + "0800" + over(v4, "01") + icmp8},
		{"ICMPv6", macs + "86dd" + over(v6, "3a") + "8000 0000 0001 0001"},
		{"an unknown protocol", macs + "0800" + over(v4, "2f")},
		{"an unknown protocol over IPv6", macs + "86dd" + over(v6, "32")},
		{"no next header", macs + "86dd" + over(v6, "3b")},
		{"IP options", macs + "0800" + "46000000 00000000 40110000 0a000001 0a000002 94040000" + udp8},
		{"a first fragment", macs + "0800" + "45000000 00002000 40110000 0a000001 0a000002" + udp8},
		{"a later fragment", macs + "0800" + "45000000 00000001 40110000 0a000001 0a000002"},
		{"a later fragment of IPv6", macs + "86dd" + over(v6, "2c") + "1100 0009 00000001"},
		{"a first fragment of IPv6", macs + "86dd" + over(v6, "2c") + "1100 0001 00000001" + udp8},
		{"extension headers", macs + "86dd" + over(v6, "00") + "3c00 000000000000" + "2b01 0000000000000000000000000000" + "0600 000000000000" + tcp20},
		{"an authentication header", macs + "86dd" + over(v6, "33") + "1104 0000 00000000 00000000 000000000000000000000000" + udp8},
		{"a VLAN tag", macs + "8100 0064 0800" + over(v4, "11") + udp8},
		{"two VLAN tags", macs + "88a8 0064 8100 0065 0800" + over(v4, "11") + udp8},
		{"TCP with an offset below 5", macs + "0800" + over(v4, "06")},
		{"not IP", macs + "88cc"},
		{"a length in place of a type", macs + "0040"},
		{"IPv4 with a version of 6", macs + "0800"},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers := unhex(test.headers)
			payload := []byte(canary)
			switch test.name {
			case "TCP with an offset below 5":
				payload = append(unhex(ports+"00000001 00000002 4018 ffff 0000 0000"), canary...)
			case "IPv4 with a version of 6":
				payload = append(unhex(over(v6, "11")), canary...)
			}
			data := append(bytes.Clone(headers), payload...)
			if f := parse(data); f.headers != len(headers) {
				t.Errorf("headers end at %d, want %d", f.headers, len(headers))
			}
			for size := range len(data) { // whatever the snap length is
				if f := parse(data[:size]); f.headers > min(size, len(headers)) {
					t.Errorf("of %d bytes %d are headers", size, f.headers)
				}
			}
		})
	}
}

func TestARPStaysWhole(t *testing.T) {
	data := append(unhex(macs+"0806"), make([]byte, 28)...)
	if f := parse(append(data, canary...)); f.headers != 42 {
		t.Errorf("headers end at %d, want 42", f.headers)
	}
}

// Padding of short frames, and what is behind the packet, is not the packet's.
func TestPaddingIsNoHeader(t *testing.T) {
	data := unhex(macs + "0800" + "45000018 00000000 40060000 0a000001 0a000002" + ports)
	f := parse(append(data, canary...))
	if f.headers != 34 || len(f.transport) != 4 {
		t.Errorf("headers end at %d and the transport has %d bytes, want 34 and 4", f.headers, len(f.transport))
	}
}

func TestAddressesOfFrames(t *testing.T) {
	for _, ips := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		f := parse(frameOf(ips[0], ips[1], 1, 2, nil))
		if !f.ip || f.source != addressOf(netip.MustParseAddr(ips[0])) || f.destination != addressOf(netip.MustParseAddr(ips[1])) {
			t.Errorf("%v: %+v", ips, f)
		}
	}
}

// Cutting leaves a block of the same packet that says how long it was.
func TestWithoutPayload(t *testing.T) {
	data := frameOf("10.0.0.1", "10.0.0.2", 1, 2, []byte(canary))
	before := pcapng.AppendPacket(nil, 7, 5, data[:20], 20, pcapng.Inbound)
	blocks := pcapng.AppendPacket(bytes.Clone(before), 3, 12345, data, 9999, pcapng.Outbound)
	blocks = withoutPayload(blocks, len(before))
	if bytes.Contains(blocks, []byte("CANARY")) {
		t.Error("the payload is there")
	}
	packet, rest, err := pcapng.Next(blocks[len(before):])
	if err != nil || len(rest) > 0 || packet.Number() != 3 || packet.Time() != 12345 || packet.Original() != 9999 ||
		packet.Direction() != pcapng.Outbound || !bytes.Equal(packet.Data(), data[:42]) {
		t.Errorf("%x (%v)", packet, err)
	}
}

// Whatever the bytes are, headers lie within them, and a longer capture of the same packet has no shorter ones.
func FuzzParse(f *testing.F) {
	f.Add(frameOf("10.0.0.1", "10.0.0.2", 1, 2, []byte("payload")), 20)
	f.Add(unhex(macs+"86dd"+over(v6, "00")+"3c00 000000000000"+"2b01 0000000000000000000000000000"+"0600 000000000000"+tcp20), 60)
	f.Add(unhex(macs+"88a8 0064 8100 0065 0800"+over(v4, "11")+udp8), 30)
	f.Add(unhex(macs+"0800"+"45000018 00000000 40060000 0a000001 0a000002"+ports), 40)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		whole := parse(data)
		if whole.headers < 0 || whole.headers > len(data) || len(whole.transport) > len(data) {
			t.Fatalf("%d bytes: %+v", len(data), whole)
		}
		if size < 0 || size > len(data) {
			return
		}
		if part := parse(data[:size]); part.headers > whole.headers && part.headers > ethernetHeader {
			t.Errorf("%d of %d bytes have headers of %d, all have %d", size, len(data), part.headers, whole.headers)
		}
		for _, direction := range []pcapng.Direction{pcapng.Inbound, pcapng.Outbound} {
			peers{whole.source: {}, whole.destination: {}}.elsewhere(&whole, direction)
		}
		block := withoutPayload(pcapng.AppendPacket(nil, 0, 1, data[:min(len(data), 1<<19)], uint32(len(data)), pcapng.Inbound), 0)
		if packet, rest, err := pcapng.Next(block); err != nil || len(rest) > 0 || !bytes.HasPrefix(data, packet.Data()) {
			t.Errorf("cut to %x (%v)", block, err)
		}
	})
}

// Every packet between two recorded ends is kept at exactly one of them.
func TestOneVantagePoint(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	port := func(from, to uint16) []byte {
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	}
	tcp := func(from, to uint16) []byte {
		return append(port(from, to), unhex("00000001 00000002 5018 ffff 0000 0000")...)
	}
	fragment := ip(a, b, protocolUDP, port(5000, 53))
	fragment[21] = 1 // of the fragment's offset
	for _, test := range []struct {
		name   string
		packet []byte
		sender bool // keeps it
	}{
		{"a client's packet", ip(a, b, protocolTCP, tcp(40000, 443)), true},
		{"a server's packet", ip(a, b, protocolTCP, tcp(443, 40000)), false},
		{"UDP", ip(a, b, protocolUDP, append(port(5000, 53), 0, 0, 0, 0)), true},
		{"SCTP", ip(a, b, protocolSCTP, append(port(53, 5000), make([]byte, 8)...)), false},
		{"equal ports, from the lower address", ip(a, b, protocolUDP, port(7, 7)), true},
		{"equal ports, to the lower address", ip(b, a, protocolUDP, port(7, 7)), false},
		{"a ping", ip(a, b, protocolICMP, unhex(icmp8)), true},
		{"the answer to a ping", ip(a, b, protocolICMP, unhex("0000 0000 0001 0001")), false},
		{"unreachable", ip(a, b, protocolICMP, unhex("0301 0000 0001 0001")), true},
		{"another protocol", ip(a, b, 47, make([]byte, 8)), true},
		{"a later fragment", fragment, true},
		{"ports that were cut off", ip(a, b, protocolTCP, nil), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := parse(test.packet)
			both := peers{addressOf(a): {}, addressOf(b): {}}
			if out, in := !both.elsewhere(&f, pcapng.Outbound), !both.elsewhere(&f, pcapng.Inbound); out != test.sender || in == test.sender {
				t.Errorf("kept by sender %v and receiver %v", out, in)
			}
			for _, direction := range []pcapng.Direction{pcapng.Outbound, pcapng.Inbound} {
				if (peers{}).elsewhere(&f, direction) {
					t.Error("left to a peer that nobody records")
				}
			}
		})
	}
	arp := parse(append(unhex(macs+"0806"), make([]byte, 28)...))
	if (peers{arp.source: {}}).elsewhere(&arp, pcapng.Inbound) {
		t.Error("ARP was left to a peer")
	}
}

// The remote end decides: what is between a recorded pod and others is always kept.
func TestOtherPeersAreAlwaysKept(t *testing.T) {
	set := newPeers([][]byte{netip.MustParseAddr("10.0.0.2").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()})
	for _, test := range []struct {
		from, to  string
		direction pcapng.Direction
		elsewhere bool
	}{
		{"10.0.0.2", "192.0.2.1", pcapng.Outbound, false},
		{"192.0.2.1", "10.0.0.2", pcapng.Inbound, false},
		{"192.0.2.1", "10.0.0.2", pcapng.Outbound, true},
		{"10.0.0.2", "192.0.2.1", pcapng.Inbound, false},
		{"2001:db8::1", "2001:db8::2", pcapng.Outbound, true},
	} {
		f := parse(frameOf(test.from, test.to, 53, 5000, nil))
		if got := set.elsewhere(&f, test.direction); got != test.elsewhere {
			t.Errorf("%s to %s, %v: elsewhere %v", test.from, test.to, test.direction, got)
		}
	}
}
