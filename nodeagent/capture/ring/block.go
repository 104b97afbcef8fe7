package ring

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

// Where the kernel puts things (linux/if_packet.h): in a block (tpacket_block_desc with tpacket_hdr_v1),
const (
	blockStatus  = 8
	blockPackets = 12
	blockFirst   = 16
	blockHeader  = 48
)

// in the header of a packet (tpacket3_hdr), which the address of its link follows (sockaddr_ll),
const (
	packetNext        = 0
	packetSeconds     = 4
	packetNanoseconds = 8
	packetCaptured    = 12
	packetOriginal    = 16
	packetStatus      = 20
	packetOffset      = 24
	packetTCI         = 32
	packetTPID        = 36
	packetProtocol    = 50
	packetKind        = 58
	packetHeader      = 68
)

// and in the packet itself.
const (
	addressesLength = 12 // of an Ethernet header
	ethernetLength  = 14
	tagLength       = 4
	// lowestProtocol is the lowest Ethernet type; below are lengths, and numbers that only the kernel uses.
	lowestProtocol = 0x600
)

// A Packet is a view of a packet in the ring. Data is valid until the function that was given the block returns.
type Packet struct {
	// Time is when the kernel took the packet, in nanoseconds since the epoch. Times of one ring may step back a little
	// between processors.
	Time int64
	// Data begins with an Ethernet header and has at most as many bytes as were asked for.
	Data []byte
	// Original is the length before the packet was cut.
	Original uint32
	// Direction is Outbound for what the interface sent, and Inbound for everything else, packets for other hosts
	// among it.
	Direction pcapng.Direction
}

// A Block is a number of packets, in the order in which the kernel took them.
type Block struct {
	memory []byte
	offset int
	left   int
	snap   int
	// made says that packets have no Ethernet header, and get one.
	made bool
	err  error
}

// Len is the number of packets that Next has not returned yet.
func (b *Block) Len() int { return b.left }

// Next returns the next packet; false when there is none.
func (b *Block) Next() (packet Packet, ok bool) {
	if b.left == 0 {
		return Packet{}, false
	}
	b.left--
	if packet, ok = b.read(); !ok {
		b.left = 0
	}
	return packet, ok
}

// open begins to walk a block that the kernel has handed over.
func open(memory []byte, snap int, made bool) Block {
	return Block{
		memory: memory, snap: snap, made: made,
		left:   int(binary.NativeEndian.Uint32(memory[blockPackets:])),
		offset: int(binary.NativeEndian.Uint32(memory[blockFirst:])),
	}
}

var errMalformed = errors.New("the kernel's ring does not have the form of TPACKET_V3")

// malformed is what cannot be. It ends the walk, and the ring.
func (b *Block) malformed(what string, number int) (Packet, bool) {
	b.err = fmt.Errorf("%w: %s %d in a block of %d bytes", errMalformed, what, number, len(b.memory))
	return Packet{}, false
}

// read reads the packet at offset and moves on.
func (b *Block) read() (Packet, bool) {
	if b.offset < blockHeader || b.offset > len(b.memory)-packetHeader {
		return b.malformed("packet at", b.offset)
	}
	raw := b.memory[b.offset:]
	captured := int(binary.NativeEndian.Uint32(raw[packetCaptured:]))
	start := int(binary.NativeEndian.Uint16(raw[packetOffset:]))
	if start < packetHeader || start > len(raw) {
		return b.malformed("data at", start)
	}
	if captured > len(raw)-start {
		return b.malformed("length", captured)
	}
	packet := Packet{
		Time:      int64(binary.NativeEndian.Uint32(raw[packetSeconds:]))*1e9 + int64(binary.NativeEndian.Uint32(raw[packetNanoseconds:])),
		Original:  binary.NativeEndian.Uint32(raw[packetOriginal:]),
		Direction: pcapng.Inbound,
	}
	if raw[packetKind] == unix.PACKET_OUTGOING {
		packet.Direction = pcapng.Outbound
	}
	added, inData := b.complete(raw, start, captured)
	if inData < 0 {
		return b.malformed("data at", start)
	}
	packet.Original += uint32(added)
	packet.Data = raw[start-inData : start-inData+min(captured+inData, b.snap)]
	packet.Data = packet.Data[:len(packet.Data):len(packet.Data)]
	next := int(binary.NativeEndian.Uint32(raw[packetNext:]))
	if b.left > 0 && next < packetHeader {
		return b.malformed("next packet after", next)
	}
	b.offset += next
	return packet, true
}

// complete puts before the packet what it lacks of an Ethernet header, in the room that the kernel leaves there. It
// returns how many bytes the packet lacked and how many of them it now has, less than 0 when there is no room.
func (b *Block) complete(raw []byte, start, captured int) (lacked, put int) {
	if b.made {
		if start < packetHeader+ethernetLength {
			return 0, -1
		}
		makeHeader(raw, start, captured)
		start, captured, put = start-ethernetLength, captured+ethernetLength, ethernetLength
	}
	if binary.NativeEndian.Uint32(raw[packetStatus:])&unix.TP_STATUS_VLAN_VALID == 0 {
		return put, put
	}
	// What was taken off is the outer tag, and belongs behind the addresses; it is not there when those were cut.
	if captured < addressesLength {
		return put + tagLength, put
	}
	if start < packetHeader+tagLength {
		return 0, -1
	}
	copy(raw[start-tagLength:], raw[start:start+addressesLength])
	tag := raw[start-tagLength+addressesLength:][:tagLength]
	binary.BigEndian.PutUint16(tag, tagProtocol(raw))
	binary.BigEndian.PutUint16(tag[2:], uint16(binary.NativeEndian.Uint32(raw[packetTCI:])))
	return put + tagLength, put + tagLength
}

func tagProtocol(raw []byte) uint16 {
	if binary.NativeEndian.Uint32(raw[packetStatus:])&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
		return unix.ETH_P_8021Q
	}
	return binary.NativeEndian.Uint16(raw[packetTPID:])
}

// makeHeader puts an Ethernet header of no addresses before a packet that begins with its network header. Its type is
// what the kernel takes the packet for; where that is no type of Ethernet's, what the packet's version says.
func makeHeader(raw []byte, start, captured int) {
	header := raw[start-ethernetLength : start]
	clear(header[:addressesLength])
	protocol := binary.BigEndian.Uint16(raw[packetProtocol:])
	if protocol < lowestProtocol && captured > 0 {
		switch raw[start] >> 4 {
		case 4:
			protocol = unix.ETH_P_IP
		case 6:
			protocol = unix.ETH_P_IPV6
		}
	}
	binary.BigEndian.PutUint16(header[addressesLength:], protocol)
}
