package streams

import (
	"encoding/binary"
	"net/netip"
)

// addressesOf are the source and destination addresses of an Ethernet frame that carries IP, behind any VLAN tags.
func addressesOf(frame []byte) (source, destination netip.Addr, ok bool) {
	const (
		ipv4, ipv6    = 0x0800, 0x86DD
		vlan, service = 0x8100, 0x88A8
	)
	for at := 12; len(frame) >= at+2; at += 4 {
		kind, packet := binary.BigEndian.Uint16(frame[at:]), frame[at+2:]
		switch {
		case kind == vlan || kind == service:
			continue
		case kind == ipv4 && len(packet) >= 20:
			return netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), true
		case kind == ipv6 && len(packet) >= 40:
			return netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), true
		}
		return source, destination, false
	}
	return source, destination, false
}
