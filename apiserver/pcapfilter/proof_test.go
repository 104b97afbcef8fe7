package pcapfilter

import (
	"math/rand/v2"
	"testing"
)

func TestHeadersOnly(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "ip": true, "tcp port 80": true, "host 10.1.2.3 and not port 22": true, "arp": true, "len > 100": true, "inbound": true,
		"portrange 1-1000": true, "vlan 5 and port 80": true, "vlan and vlan 6": true, "ip or vlan": true, "not vlan": true, "mpls 5": true, "mpls and mpls 6": true,
		"pppoes and udp port 53": true, "pppoed": true, "ether host 00:01:02:03:04:05": true, "ether proto 0x88cc": true, "ip6 multicast": true,
		"tcp[13] & 2 != 0": true, "tcp[16:4] = 0": true, "tcp[tcpflags] = tcp-syn": true, "udp[4:2] > 100": true, "udp[6:2] = 0": true, "icmp[4:4] = 0": true,
		"icmp6[icmp6type] = 1": true, "sctp[8:4] = 0": true, "ip[16:4] = 0": true, "ip6[36:4] = 0": true, "arp[24:4] = 0": true, "ether[12:2] = 0x800": true,
		"ip[2+4:2] & 0x1fff = 0": true, "ip[2:2] > len - 20": true, "byte 13 = 0": true, "tcp[0:2] = tcp[2:2]": true,

		"tcp[20] = 1": false, "tcp[17:4] = 0": false, "tcp[(tcp[12] >> 4) * 4] = 0x47": false, "tcp[ip[0]] = 1": false, "tcp[len - 1] = 1": false,
		"udp[8:2] = 1": false, "udp[7:2] = 1": false, "icmp[8] = 1": false, "icmp6[8] = 1": false, "sctp[12] = 1": false, "ip[20] = 1": false, "ip6[40] = 1": false,
		"arp[28] = 1": false, "ether[14] = 1": false, "ether[54] = 1": false, "byte 14 = 0": false, "igmp[0] = 1": false, "pim[0] = 1": false, "carp[0] = 1": false,
		"len + tcp[0] = 5": false, "5 * udp[0] = 10": false, "ip[0] + tcp[0] = 5": false, "ip[0xfffffff0] = 1": false, "ip[0 - 1] = 1": false, "ether[0xfffff030] = 1": false,
		"mpls and ip": false, "mpls and port 80": false, "geneve": false, "geneve and ip": false, "llc": false, "stp": false, "iso": false, "atalk": false, "isis proto 17": false,
		"vlan or port 80": false, "not vlan and port 80": false, "(vlan or ip) and port 80": false, "(vlan and ip) or udp": false, "not (vlan and ip) and udp": false,
		"pppoes and iso": true, "pppoes and iso proto 5": false, "pppoes and clnp": false, "pppoes and isis": false, "pppoes and l1": false, "pppoes and isis proto 17": false,
		"pppoes or ip": false, "not pppoes and ip": false, "ip[0 << 33] = 1": false,
	} {
		p, err := Compile(text, Options{})
		if err != nil {
			if want {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if p.HeadersOnly != want {
			t.Errorf("%s: HeadersOnly is %v", text, p.HeadersOnly)
		}
	}
}

// TestPayloadDoesNotMatter changes what is behind the headers of packets, and expects the same verdicts of programs
// that are said to depend on headers only.
func TestPayloadDoesNotMatter(t *testing.T) {
	t.Parallel()
	texts := lines(t, "testdata/expressions.txt")
	r := rand.New(rand.NewPCG(8, 8))
	for range 1500 {
		texts = append(texts, (&writer{pick: r.IntN}).expression())
	}
	packets := makePackets(1000, 9)
	type pair struct{ before, after *packet }
	var frames, raw []pair
	for _, p := range packets {
		frames = append(frames, pair{p, p.withPayload(r)})
		if end := headerEnd(p.data); len(p.data) > 14 && end >= 14 && !p.tagged {
			a, b := *p, *p.withPayload(r)
			a.data, b.data = a.data[14:], b.data[14:]
			if kind := a.data[0] >> 4; kind == 4 && p.data[12] == 8 && p.data[13] == 0 || kind == 6 && p.data[12] == 0x86 && p.data[13] == 0xdd {
				raw = append(raw, pair{&a, &b})
			}
		}
	}
	proven := 0
	for _, text := range texts {
		for link, pairs := range map[Link][]pair{Ethernet: frames, RawIP: raw} {
			program, err := Compile(text, Options{Link: link})
			if err != nil || !program.HeadersOnly {
				continue
			}
			proven++
			for i, p := range pairs {
				if run(program.Instructions, p.before) != run(program.Instructions, p.after) {
					t.Fatalf("%s: the payload of packet %d (%s) decides, behind byte %d\n% x\n% x", text, i, p.before.kind, headerEnd(p.before.data), p.before.data, p.after.data)
				}
			}
		}
	}
	if proven < 1000 || len(raw) < 150 {
		t.Errorf("only %d programs are proven, only %d packets are raw IP", proven, len(raw))
	}
	t.Logf("%d programs that depend on headers only, on %d frames and %d raw packets", proven, len(frames), len(raw))
}
