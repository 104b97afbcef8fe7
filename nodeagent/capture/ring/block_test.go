package ring

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// described is a block with a packet of data, after which the kernel's flags say that a tag was taken off.
func described(data []byte, status uint32) []byte {
	const start = packetHeader + ethernetLength + tagLength
	block := make([]byte, blockHeader+start+len(data))
	binary.NativeEndian.PutUint32(block[blockPackets:], 1)
	binary.NativeEndian.PutUint32(block[blockFirst:], blockHeader)
	packet := block[blockHeader:]
	binary.NativeEndian.PutUint32(packet[packetSeconds:], 3)
	binary.NativeEndian.PutUint32(packet[packetNanoseconds:], 5)
	binary.NativeEndian.PutUint32(packet[packetCaptured:], uint32(len(data)))
	binary.NativeEndian.PutUint32(packet[packetOriginal:], uint32(len(data)))
	binary.NativeEndian.PutUint32(packet[packetStatus:], status)
	binary.NativeEndian.PutUint16(packet[packetOffset:], start)
	binary.NativeEndian.PutUint32(packet[packetTCI:], 42)
	copy(packet[start:], data)
	return block
}

var somePacket = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 1, 2, 3, 4}

func TestTagWithoutType(t *testing.T) {
	block := open(described(somePacket, unix.TP_STATUS_VLAN_VALID), MaxSnapLength, false)
	packet, ok := block.Next()
	want := slices.Concat(somePacket[:12], []byte{0x81, 0, 0, 42}, somePacket[12:])
	if !ok || !bytes.Equal(packet.Data, want) || packet.Time != 3e9+5 || int(packet.Original) != len(want) {
		t.Errorf("%v, %+v, want %x", ok, packet, want)
	}
	if _, ok := block.Next(); ok || block.err != nil {
		t.Errorf("another packet: %v, %v", ok, block.err)
	}
}

func TestMalformedBlocks(t *testing.T) {
	good := described(somePacket, unix.TP_STATUS_VLAN_VALID)
	for name, spoil := range map[string]func(block []byte){
		"first packet in the header":  func(b []byte) { binary.NativeEndian.PutUint32(b[blockFirst:], 8) },
		"first packet beyond the end": func(b []byte) { binary.NativeEndian.PutUint32(b[blockFirst:], uint32(len(b))) },
		"data in the header":          func(b []byte) { binary.NativeEndian.PutUint16(b[blockHeader+packetOffset:], 8) },
		"no room for a tag":           func(b []byte) { binary.NativeEndian.PutUint16(b[blockHeader+packetOffset:], packetHeader) },
		"data beyond the end":         func(b []byte) { binary.NativeEndian.PutUint16(b[blockHeader+packetOffset:], 60_000) },
		"too long":                    func(b []byte) { binary.NativeEndian.PutUint32(b[blockHeader+packetCaptured:], 1<<31) },
		"a second packet that is not": func(b []byte) { binary.NativeEndian.PutUint32(b[blockPackets:], 1<<31) },
	} {
		t.Run(name, func(t *testing.T) {
			memory := slices.Clone(good)
			spoil(memory)
			block := open(memory, MaxSnapLength, false)
			for range 2 {
				block.Next()
			}
			if block.err == nil || block.Len() != 0 {
				t.Errorf("error %v, %d packets left", block.err, block.Len())
			}
		})
	}
}

// Whatever is in a block, what is read is in it, and nothing is written but before the data of packets.
func FuzzBlock(f *testing.F) {
	f.Add(described(somePacket, 0), uint32(64), false)
	f.Add(described(somePacket, unix.TP_STATUS_VLAN_VALID|unix.TP_STATUS_VLAN_TPID_VALID), uint32(MaxSnapLength), false)
	f.Add(described(somePacket, unix.TP_STATUS_VLAN_VALID), uint32(16), true)
	f.Add(described(nil, 0), uint32(1), true)
	f.Fuzz(func(t *testing.T, memory []byte, snap uint32, made bool) {
		if len(memory) < blockHeader || snap > MaxSnapLength {
			t.Skip("the kernel's blocks are larger")
		}
		const guard = 64
		before := bytes.Repeat([]byte{0xa5}, guard)
		all := slices.Concat(before, memory, before)
		own := all[guard : guard+len(memory) : guard+len(memory)]
		block := open(own, int(snap), made)
		packets := 0
		for packet, ok := block.Next(); ok; packet, ok = block.Next() {
			packets++
			if len(packet.Data) > int(snap) {
				t.Fatalf("%d bytes, more than %d", len(packet.Data), snap)
			}
			_ = bytes.Clone(packet.Data)
		}
		if packets > len(memory)/packetHeader+1 || block.Len() != 0 {
			t.Fatalf("%d packets in %d bytes, %d left", packets, len(memory), block.Len())
		}
		if !bytes.Equal(all[:guard], before) || !bytes.Equal(all[guard+len(memory):], before) || !bytes.Equal(own[:blockHeader], memory[:blockHeader]) {
			t.Fatal("written outside of packets")
		}
	})
}
