package dns

import (
	"encoding/binary"
	"maps"
	"strings"
	"testing"
)

// read is what the kernel should make of a UDP payload, in Go: which counter rises.
func read(payload []byte, received bool) (kind string, questionType, code uint16) {
	if len(payload) < 12 {
		return "unparsed", 0, 0
	}
	switch payload[2] >> 3 & 15 {
	case 0:
	case 2, 4, 5, 6:
		return "", 0, 0
	default:
		return "unparsed", 0, 0
	}
	if received != (payload[2]&0x80 != 0) {
		return "", 0, 0
	}
	code = uint16(payload[3] & 15)
	if binary.BigEndian.Uint16(payload[4:]) == 0 {
		if received {
			return "response", others, code
		}
		return "unparsed", 0, 0
	}
	rest := payload[12:]
	for length := 0; ; {
		if len(rest) == 0 || rest[0] > 63 || len(rest) <= int(rest[0]) {
			return "unparsed", 0, 0
		}
		label := int(rest[0])
		rest, length = rest[label+1:], length+label+1
		if length > 255 {
			return "unparsed", 0, 0
		}
		if label == 0 {
			break
		}
	}
	if len(rest) < 4 {
		return "unparsed", 0, 0
	}
	if received {
		return "response", others, code // nobody asked, so its type has no place
	}
	return "query", binary.BigEndian.Uint16(rest), 0
}

// FuzzPacket compares the kernel's reading of UDP with read. That of TCP must not fail.
func FuzzPacket(f *testing.F) {
	f.Add(query(1, "www.example.com", typeA), false, false, false)
	f.Add(answer(1, "www.example.com", typeAAAA, 3), true, true, false)
	f.Add(message(1, 0, 0, 1, question([]byte{0xc0, 12}, 1)), false, true, false)
	f.Add(message(1, response, 2, 0), true, false, false)
	f.Add(query(1, strings.Repeat(strings.Repeat("a", 63)+".", 3)+strings.Repeat("a", 61), typeA), false, false, false)
	f.Add(query(1, strings.Repeat(strings.Repeat("a", 63)+".", 3)+strings.Repeat("a", 62), typeA), false, false, false)
	f.Add(append(prefixed(query(1, "a", typeA)), prefixed(query(2, "b", typeTXT))...), false, false, true)
	n := newNode(f)
	f.Fuzz(func(t *testing.T, payload []byte, received, ipv6, tcp bool) {
		if len(payload) > 1400 {
			return // PROG_TEST_RUN takes no more than a page
		}
		n.t = t
		n.run(end{pod: 7, port: 40000, ipv6: ipv6, tcp: tcp}.packet(payload, !received))
		got := n.count(7)
		if err := RunSweep(n.sweep, 0); err != nil {
			t.Fatal(err)
		}
		if err := n.maps[Pods].Delete(uint64(7)); err != nil {
			if tcp {
				return // there was no message
			}
			t.Fatal(err)
		}
		n.events()
		if tcp {
			return
		}
		want := count{queries: map[uint16]uint64{}, responses: map[[2]uint16]uint64{}}
		switch kind, questionType, code := read(payload, received); kind {
		case "query":
			want.queries[questionType] = 1
		case "response":
			want.responses[[2]uint16{questionType, code}] = 1
		case "unparsed":
			want.unparsed = 1
		}
		if !maps.Equal(got.queries, want.queries) || !maps.Equal(got.responses, want.responses) || got.unparsed != want.unparsed || got.answered != 0 {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}
