package capture

import (
	"encoding/binary"
	"net/netip"
)

// An address is an IPv6 address, or an IPv4 one mapped into IPv6.
type address [16]byte

func addressOf(ip netip.Addr) address { return ip.As16() }

func mapped(v4 []byte) address {
	a := address{10: 0xff, 11: 0xff}
	copy(a[12:], v4)
	return a
}

// Protocols that are understood.
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

// A frame is what the headers of an Ethernet frame say. Offsets are within what was captured.
type frame struct {
	// headers is the end of what may be shown to those who may not see payload.
	headers int
	// ip is true when there is a whole IP header; what follows is only then set.
	ip                  bool
	source, destination address
	// protocol is that of the transport; 0 when the packet is a fragment but the first, or its headers are not whole.
	protocol uint8
	// transport are the captured bytes from the transport's header on; padding of short frames is not among them.
	transport []byte
}

const (
	ethernetHeader = 14
	arpSize        = 28
	// mostTags and mostExtensions bound the walk through headers.
	mostTags       = 8
	mostExtensions = 16
)

// parse reads the headers of an Ethernet frame, whatever its bytes are.
func parse(data []byte) frame {
	if len(data) < ethernetHeader {
		return frame{headers: len(data)}
	}
	kind, at := binary.BigEndian.Uint16(data[12:]), ethernetHeader
	for range mostTags {
		if kind != 0x8100 && kind != 0x88a8 && kind != 0x9100 || len(data) < at+4 {
			break
		}
		kind, at = binary.BigEndian.Uint16(data[at+2:]), at+4
	}
	switch kind {
	case 0x0800:
		return parseIPv4(data, at)
	case 0x86dd:
		return parseIPv6(data, at)
	case 0x0806:
		return frame{headers: min(at+arpSize, len(data))}
	}
	return frame{headers: at}
}

func parseIPv4(data []byte, at int) frame {
	f := frame{headers: at}
	packet := data[at:]
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return f
	}
	size := int(packet[0]&15) * 4
	if size < 20 || len(packet) < size {
		return f
	}
	// A packet that segmentation offload made larger than the field can say has a length of 0.
	if total := int(binary.BigEndian.Uint16(packet[2:])); total >= size && total < len(packet) {
		packet = packet[:total]
	}
	f.ip, f.headers = true, at+size
	f.source, f.destination = mapped(packet[12:16]), mapped(packet[16:20])
	if fragment := binary.BigEndian.Uint16(packet[6:]); fragment&0x1fff != 0 {
		return f
	}
	f.setTransport(packet[9], packet[size:])
	return f
}

func parseIPv6(data []byte, at int) frame {
	f := frame{headers: at}
	packet := data[at:]
	const size = 40
	if len(packet) < size || packet[0]>>4 != 6 {
		return f
	}
	if total := int(binary.BigEndian.Uint16(packet[4:])); total > 0 && size+total < len(packet) {
		packet = packet[:size+total]
	}
	f.ip, f.headers = true, at+size
	f.source, f.destination = address(packet[8:24]), address(packet[24:40])
	next, rest := packet[6], packet[size:]
	for range mostExtensions {
		length := extension(next, rest)
		if length == 0 {
			f.setTransport(next, rest)
			return f
		}
		if len(rest) < length {
			return f
		}
		const fragment = 44
		later := next == fragment && binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
		next, rest, f.headers = rest[0], rest[length:], f.headers+length
		if later {
			return f
		}
	}
	return f
}

// extension is the size of an extension header of IPv6; 0 when it is none. A size beyond rest says that it is not whole.
func extension(kind uint8, rest []byte) int {
	switch kind {
	case 0, 43, 60, 135, 139, 140: // hop-by-hop, routing, destination, mobility, HIP, shim6
		if len(rest) < 2 {
			return 8
		}
		return (int(rest[1]) + 1) * 8
	case 44: // fragment
		return 8
	case 51: // authentication
		if len(rest) < 2 {
			return 8
		}
		return (int(rest[1]) + 2) * 4
	}
	return 0
}

// setTransport takes a transport header into the headers when it is whole.
func (f *frame) setTransport(protocol uint8, rest []byte) {
	f.protocol, f.transport = protocol, rest
	size := 0
	switch protocol {
	case protocolTCP:
		if len(rest) < 20 {
			return
		}
		if size = int(rest[12]>>4) * 4; size < 20 {
			return
		}
	case protocolUDP, protocolICMP, protocolICMPv6:
		size = 8
	case protocolSCTP:
		size = 12
	}
	if len(rest) >= size {
		f.headers += size
	}
}

// ports are those of TCP, UDP and SCTP.
func (f *frame) ports() (source, destination uint16, ok bool) {
	switch f.protocol {
	case protocolTCP, protocolUDP, protocolSCTP:
		if len(f.transport) >= 4 {
			return binary.BigEndian.Uint16(f.transport), binary.BigEndian.Uint16(f.transport[2:]), true
		}
	}
	return 0, 0, false
}

// echo says whether the packet asks for an echo, or answers it.
func (f *frame) echo() (asks, answers bool) {
	if len(f.transport) == 0 {
		return false, false
	}
	switch kind := f.transport[0]; f.protocol {
	case protocolICMP:
		return kind == 8, kind == 0
	case protocolICMPv6:
		return kind == 128, kind == 129
	}
	return false, false
}
