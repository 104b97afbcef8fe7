// Package pcapng writes and walks the blocks of pcapng files (draft-ietf-opsawg-pcapng), little endian and with
// nanoseconds. It is part of the wire: agents send packets as blocks, and the API server passes them on with another
// interface number.
//
// Append functions append one block to a buffer and return it. Functions that take a block do not keep it.
package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Types of blocks.
const (
	TypeSection    = 0x0A0D0D0A
	TypeInterface  = 1
	TypeNames      = 4
	TypeStatistics = 5
	TypePacket     = 6
)

// LinkEthernet is the link type of every interface that we write (LINKTYPE_ETHERNET).
const LinkEthernet = 1

// Direction of a packet, as the flags of a packet block have it.
type Direction uint32

// Directions as seen by the recorded pod or node.
const (
	Unknown  Direction = 0
	Inbound  Direction = 1
	Outbound Direction = 2
)

const (
	packetHeader  = 28 // up to the packet's data
	packetTrailer = 16 // flags option, end of options, length
	flagsOption   = 2 | 4<<16
	// MaxBlock is the largest block that Next takes.
	MaxBlock = 1 << 20
)

// PacketSize is the size of the block of a packet with so many captured bytes.
func PacketSize(captured int) int { return packetHeader + pad(captured) + packetTrailer }

func pad(n int) int { return (n + 3) &^ 3 }

// AppendPacket appends an Enhanced Packet Block. time is in nanoseconds since the epoch; original is the length of the
// packet before it was cut to data.
func AppendPacket(b []byte, number uint32, time int64, data []byte, original uint32, direction Direction) []byte {
	size := PacketSize(len(data))
	b = binary.LittleEndian.AppendUint32(b, TypePacket)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = binary.LittleEndian.AppendUint32(b, number)
	b = binary.LittleEndian.AppendUint32(b, uint32(uint64(time)>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(time))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, original)
	b = append(b, data...)
	b = append(b, make([]byte, pad(len(data))-len(data))...)
	b = binary.LittleEndian.AppendUint32(b, flagsOption)
	b = binary.LittleEndian.AppendUint32(b, uint32(direction))
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, uint32(size))
}

// A Section describes a file.
type Section struct {
	// OS and Application say what wrote it.
	OS, Application string
	Comment         string
}

// AppendSection appends a Section Header Block, of unknown length.
func AppendSection(b []byte, s Section) []byte {
	block := begin(&b, TypeSection)
	b = binary.LittleEndian.AppendUint32(b, 0x1A2B3C4D)
	b = binary.LittleEndian.AppendUint32(b, 1) // version 1.0
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0))
	b = appendText(b, 1, s.Comment)
	b = appendText(b, 3, s.OS)
	b = appendText(b, 4, s.Application)
	return end(b, block)
}

// An Interface is where packets were recorded.
type Interface struct {
	Name, Description string
	// Filter is the text of the filter.
	Filter     string
	SnapLength uint32
}

// AppendInterface appends an Interface Description Block. Interfaces are numbered in the order of their blocks.
func AppendInterface(b []byte, i Interface) []byte {
	block := begin(&b, TypeInterface)
	b = binary.LittleEndian.AppendUint32(b, LinkEthernet)
	b = binary.LittleEndian.AppendUint32(b, i.SnapLength)
	b = appendText(b, 2, i.Name)
	b = appendText(b, 3, i.Description)
	b = appendOption(b, 9, []byte{9}) // resolution: 10^-9 s
	if i.Filter != "" {
		b = appendOption(b, 11, append([]byte{0}, i.Filter...))
	}
	return end(b, block)
}

// A Name is what an address is called.
type Name struct {
	Address netip.Addr
	Names   []string
}

// AppendNames appends a Name Resolution Block; nothing when there are no names.
func AppendNames(b []byte, names []Name) []byte {
	if len(names) == 0 {
		return b
	}
	block := begin(&b, TypeNames)
	for _, name := range names {
		kind, value := uint16(1), name.Address.AsSlice()
		if len(value) == 16 {
			kind = 2
		}
		for _, text := range name.Names {
			value = append(append(value, text...), 0)
		}
		b = appendOption(b, kind, value)
	}
	b = binary.LittleEndian.AppendUint32(b, 0) // end of records
	return end(b, block)
}

// Statistics of an interface, in packets. Counts below 0 are not known and left out.
type Statistics struct {
	// Time, Start and End are nanoseconds since the epoch. Start and End are left out when they are 0.
	Time, Start, End int64
	// Received are the packets that were seen, and FilterAccepted those of them that the filter let pass. A filter in the
	// kernel lets nobody see the others, so that both are the same for us.
	Received, FilterAccepted int64
	// Dropped are the accepted ones that are lost, for whatever reason; DroppedByOS those of them that the kernel had no
	// place for; Delivered are those in the file.
	Dropped, DroppedByOS, Delivered int64
	Comment                         string
}

// AppendStatistics appends an Interface Statistics Block.
func AppendStatistics(b []byte, number uint32, s Statistics) []byte {
	block := begin(&b, TypeStatistics)
	b = binary.LittleEndian.AppendUint32(b, number)
	b = appendTime(b, s.Time)
	b = appendText(b, 1, s.Comment)
	if s.Start != 0 {
		b = appendOption(b, 2, appendTime(nil, s.Start))
	}
	if s.End != 0 {
		b = appendOption(b, 3, appendTime(nil, s.End))
	}
	for _, o := range []struct {
		code  uint16
		value int64
	}{{4, s.Received}, {5, s.Dropped}, {6, s.FilterAccepted}, {7, s.DroppedByOS}, {8, s.Delivered}} {
		if o.value >= 0 {
			b = appendOption(b, o.code, binary.LittleEndian.AppendUint64(nil, uint64(o.value)))
		}
	}
	return end(b, block)
}

// appendTime appends a timestamp: the upper half comes first.
func appendTime(b []byte, time int64) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(uint64(time)>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(time))
}

func begin(b *[]byte, kind uint32) (start int) {
	start = len(*b)
	*b = binary.LittleEndian.AppendUint32(*b, kind)
	*b = binary.LittleEndian.AppendUint32(*b, 0)
	return start
}

// end ends the options and the block.
func end(b []byte, start int) []byte {
	b = binary.LittleEndian.AppendUint32(b, 0)
	size := uint32(len(b) - start + 4)
	binary.LittleEndian.PutUint32(b[start+4:], size)
	return binary.LittleEndian.AppendUint32(b, size)
}

// maxOption is the longest value of an option that we write; longer texts are cut.
const maxOption = 60000

func appendText(b []byte, code uint16, text string) []byte {
	if text == "" {
		return b
	}
	return appendOption(b, code, []byte(text))
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	value = value[:min(len(value), maxOption)]
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, pad(len(value))-len(value))...)
}

// A Packet is a view of an Enhanced Packet Block.
type Packet []byte

// Number is the number of the packet's interface.
func (p Packet) Number() uint32 { return binary.LittleEndian.Uint32(p[8:]) }

// SetNumber replaces the number of the packet's interface in place.
func (p Packet) SetNumber(number uint32) { binary.LittleEndian.PutUint32(p[8:], number) }

// Time is when the packet was recorded, in nanoseconds since the epoch.
func (p Packet) Time() int64 {
	return int64(uint64(binary.LittleEndian.Uint32(p[12:]))<<32 | uint64(binary.LittleEndian.Uint32(p[16:])))
}

// Data is what was kept of the packet.
func (p Packet) Data() []byte { return p[packetHeader:][:binary.LittleEndian.Uint32(p[20:])] }

// Original is the length of the packet before it was cut.
func (p Packet) Original() uint32 { return binary.LittleEndian.Uint32(p[24:]) }

// Direction says which way the packet went.
func (p Packet) Direction() Direction {
	return Direction(binary.LittleEndian.Uint32(p[len(p)-12:]) & 3)
}

// ErrIncomplete says that a buffer ends within a block.
var ErrIncomplete = errors.New("the block is incomplete")

// Next cuts the first packet off blocks. Everything but a packet block of the form that AppendPacket writes is an
// error; ErrIncomplete when there is not all of it yet.
func Next(blocks []byte) (packet Packet, rest []byte, err error) {
	if len(blocks) < 8 {
		return nil, nil, ErrIncomplete
	}
	if kind := binary.LittleEndian.Uint32(blocks); kind != TypePacket {
		return nil, nil, fmt.Errorf("block of type %#x where a packet was expected", kind)
	}
	size := binary.LittleEndian.Uint32(blocks[4:])
	if size < packetHeader+packetTrailer || size > MaxBlock || size%4 != 0 {
		return nil, nil, fmt.Errorf("packet block of %d bytes", size)
	}
	if len(blocks) < int(size) {
		return nil, nil, ErrIncomplete
	}
	packet = Packet(blocks[:size:size])
	if captured := binary.LittleEndian.Uint32(packet[20:]); captured > size || PacketSize(int(captured)) != int(size) {
		return nil, nil, fmt.Errorf("packet block of %d bytes says that it has %d captured ones", size, captured)
	}
	if last := binary.LittleEndian.Uint32(packet[size-4:]); last != size {
		return nil, nil, fmt.Errorf("packet block of %d bytes ends as one of %d", size, last)
	}
	option, flags, end := binary.LittleEndian.Uint32(packet[size-16:]), binary.LittleEndian.Uint32(packet[size-12:]), binary.LittleEndian.Uint32(packet[size-8:])
	if option != flagsOption || flags > uint32(Outbound) || end != 0 {
		return nil, nil, errors.New("packet block with other options than a direction")
	}
	for _, b := range packet[packetHeader+len(packet.Data()) : size-packetTrailer] {
		if b != 0 {
			return nil, nil, errors.New("packet block with padding that is not 0")
		}
	}
	return packet, blocks[size:], nil
}
