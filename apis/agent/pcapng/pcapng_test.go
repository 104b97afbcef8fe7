package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func TestPacket(t *testing.T) {
	for _, length := range []int{0, 1, 2, 3, 4, 5, 64, 262_144} {
		data := bytes.Repeat([]byte{0xa5}, length)
		const time = 1_700_000_000_123_456_789
		b := AppendPacket([]byte("before"), 7, time, data, uint32(length)+9, Outbound)[len("before"):]
		if len(b) != PacketSize(length) || len(b)%4 != 0 {
			t.Errorf("%d bytes are a block of %d, PacketSize says %d", length, len(b), PacketSize(length))
		}
		packet, rest, err := Next(append(b, "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("%d bytes: %v, rest %q", length, err, rest)
		}
		if packet.Number() != 7 || packet.Time() != time || packet.Original() != uint32(length)+9 || packet.Direction() != Outbound || !bytes.Equal(packet.Data(), data) {
			t.Errorf("%d bytes: number %d, time %d, original %d, direction %d, %d bytes", length, packet.Number(), packet.Time(), packet.Original(), packet.Direction(), len(packet.Data()))
		}
		packet.SetNumber(8)
		if again := AppendPacket(nil, 8, time, data, uint32(length)+9, Outbound); !bytes.Equal(packet, again) {
			t.Errorf("%d bytes: another number is not all that changed", length)
		}
	}
}

func TestNextRefuses(t *testing.T) {
	good := AppendPacket(nil, 1, 2, []byte("abc"), 3, Inbound)
	for cut := range len(good) {
		if _, _, err := Next(good[:cut]); !errors.Is(err, ErrIncomplete) {
			t.Errorf("cut at %d of %d: %v", cut, len(good), err)
		}
	}
	put := func(at int, value uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], value)
		return b
	}
	for name, block := range map[string][]byte{
		"another type": put(0, TypeInterface), "size of 0": put(4, 0), "size of a header": put(4, 28), "odd size": put(4, 45), "vast size": put(4, math.MaxUint32&^3),
		"captured more": put(20, 5), "captured less": put(20, 0), "captured nearly 4 GiB": put(20, math.MaxUint32), "captured that wraps": put(20, math.MaxUint32-2),
		"other end": put(len(good)-4, 44), "other option": put(len(good)-16, 1), "longer option": put(len(good)-16, 2|8<<16), "third direction": put(len(good)-12, 3),
		"more options": put(len(good)-8, 1), "padding": put(28, 'a'|'b'<<8|'c'<<16|1<<24),
	} {
		if _, _, err := Next(block); err == nil || errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBlocks walks blocks of all kinds by their lengths, which both ends have to tell.
func TestBlocks(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	b := AppendSection(nil, Section{OS: "Linux", Application: "test", Comment: long})
	b = AppendInterface(b, Interface{Name: "n/e", Description: "d", Filter: long, SnapLength: 64})
	b = AppendNames(b, nil)
	b = AppendNames(b, []Name{{netip.MustParseAddr("192.0.2.1"), []string{"a", "bc"}}, {netip.MustParseAddr("2001:db8::1"), []string{"six"}}})
	b = AppendPacket(b, 0, 1, []byte("abcde"), 5, Unknown)
	b = AppendStatistics(b, 0, Statistics{Time: 3, Start: 1, End: 2, Received: 4, FilterAccepted: 4, Dropped: 2, DroppedByOS: 1, Delivered: 2, Comment: "c"})
	b = AppendStatistics(b, 0, Statistics{Received: -1, FilterAccepted: -1, Dropped: -1, DroppedByOS: -1, Delivered: -1})
	var kinds []uint32
	for len(b) > 0 {
		size := binary.LittleEndian.Uint32(b[4:])
		if size%4 != 0 || int(size) > len(b) || binary.LittleEndian.Uint32(b[size-4:]) != size {
			t.Fatalf("block of type %#x: size %d", binary.LittleEndian.Uint32(b), size)
		}
		kinds, b = append(kinds, binary.LittleEndian.Uint32(b)), b[size:]
	}
	want := []uint32{TypeSection, TypeInterface, TypeNames, TypePacket, TypeStatistics, TypeStatistics}
	if len(kinds) != len(want) {
		t.Fatalf("blocks %#x, want %#x", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Errorf("blocks %#x, want %#x", kinds, want)
		}
	}
}

// TestStatistics reads options one by one, as the specification has them.
func TestStatistics(t *testing.T) {
	b := AppendStatistics(nil, 5, Statistics{Time: 1 << 33, Start: 1<<32 | 7, Received: 100, Dropped: 6, FilterAccepted: 99, DroppedByOS: 1, Delivered: -1})
	if number := binary.LittleEndian.Uint32(b[8:]); number != 5 {
		t.Errorf("interface %d", number)
	}
	got := map[uint16]uint64{}
	for rest := b[20 : len(b)-8]; len(rest) > 0; rest = rest[12:] {
		got[binary.LittleEndian.Uint16(rest)] = binary.LittleEndian.Uint64(rest[4:])
	}
	const isbStart, isbReceived, isbDropped, isbAccepted, isbDroppedByOS = 2, 4, 5, 6, 7
	want := map[uint16]uint64{isbStart: 1 | 7<<32, isbReceived: 100, isbDropped: 6, isbAccepted: 99, isbDroppedByOS: 1}
	if len(got) != len(want) {
		t.Errorf("options %v, want %v", got, want)
	}
	for code, value := range want {
		if got[code] != value {
			t.Errorf("option %d is %d, want %d", code, got[code], value)
		}
	}
}

// FuzzNext takes any bytes: what is accepted is exactly what AppendPacket writes.
func FuzzNext(f *testing.F) {
	f.Add(AppendPacket(nil, 1, 2, []byte("abc"), 3, Inbound))
	f.Add(AppendPacket(AppendPacket(nil, 0, math.MaxInt64, nil, 0, Unknown), 9, 1, make([]byte, 64), 1500, Outbound))
	f.Add(AppendSection(nil, Section{}))
	f.Add([]byte{6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, blocks []byte) {
		for len(blocks) > 0 {
			packet, rest, err := Next(blocks)
			if err != nil {
				return
			}
			again := AppendPacket(nil, packet.Number(), packet.Time(), packet.Data(), packet.Original(), packet.Direction())
			if !bytes.Equal(again, packet) || len(packet)+len(rest) != len(blocks) {
				t.Fatalf("%x was read as %x", packet, again)
			}
			blocks = rest
		}
	})
}

// BenchmarkAppendPacket is what encoding costs, beside copying.
func BenchmarkAppendPacket(b *testing.B) {
	data := make([]byte, 1400)
	buffer := make([]byte, 0, 256<<10)
	b.SetBytes(int64(PacketSize(len(data))))
	for b.Loop() {
		if len(buffer)+2000 > cap(buffer) {
			buffer = buffer[:0]
		}
		buffer = AppendPacket(buffer, 0, 1, data, 1400, Inbound)
	}
}

// BenchmarkNext is what walking costs.
func BenchmarkNext(b *testing.B) {
	block := AppendPacket(nil, 0, 1, make([]byte, 64), 64, Inbound)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, _, err := Next(block); err != nil {
			b.Fatal(err)
		}
	}
}
