package streams

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

// A block is one of a file, of any type.
type block struct {
	kind uint32
	raw  []byte
}

// readBlock reads the next block. io.EOF is an end between two blocks, io.ErrUnexpectedEOF one within.
func readBlock(r io.Reader) (block, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return block{}, err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if size < 12 || size%4 != 0 || size > 1<<20 {
		return block{}, fmt.Errorf("a block of %d bytes", size)
	}
	raw := append(head, make([]byte, size-8)...)
	if _, err := io.ReadFull(r, raw[8:]); err == io.EOF {
		return block{}, io.ErrUnexpectedEOF
	} else if err != nil {
		return block{}, err
	}
	if last := binary.LittleEndian.Uint32(raw[size-4:]); last != size {
		return block{}, fmt.Errorf("a block of %d bytes ends as one of %d", size, last)
	}
	return block{binary.LittleEndian.Uint32(head), raw}, nil
}

// option is the value of the first option with this code behind so many fixed bytes of the body.
func (b block) option(fixed int, code uint16) (value []byte, ok bool) {
	for rest := b.raw[8+fixed : len(b.raw)-4]; len(rest) >= 4; {
		length := int(binary.LittleEndian.Uint16(rest[2:]))
		if binary.LittleEndian.Uint16(rest) == code {
			return rest[4 : 4+length], true
		}
		rest = rest[4+(length+3)&^3:]
	}
	return nil, false
}

// name is that of an interface block.
func (b block) name() string {
	value, _ := b.option(8, 2)
	return string(value)
}

// A blockReader reads blocks of a stream in a test.
type blockReader struct {
	t testing.TB
	r *bufio.Reader
}

// next wants a block of this type.
func (r blockReader) next(kind uint32) block {
	r.t.Helper()
	b, err := readBlock(r.r)
	if err != nil {
		r.t.Fatalf("reading a block of type %#x: %v", kind, err)
	}
	if b.kind != kind {
		r.t.Fatalf("block of type %#x, want %#x: %q", b.kind, kind, b.raw)
	}
	return b
}

// packet wants a packet, and passes by what may come before it.
func (r blockReader) packet() pcapng.Packet {
	r.t.Helper()
	for {
		b, err := readBlock(r.r)
		if err != nil {
			r.t.Fatalf("reading a packet: %v", err)
		}
		switch b.kind {
		case pcapng.TypePacket:
			packet, _, err := pcapng.Next(b.raw)
			if err != nil {
				r.t.Fatal(err)
			}
			return packet
		case pcapng.TypeInterface, pcapng.TypeNames:
		default:
			r.t.Fatalf("block of type %#x before a packet", b.kind)
		}
	}
}
