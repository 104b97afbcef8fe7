package interfaces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// defaultRoutes adds the indexes of the interfaces to which the main table's default routes lead, of both IP versions.
func defaultRoutes(indexes map[int]bool) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		about := make([]byte, unix.SizeofRtMsg)
		about[0], about[4] = family, unix.RT_TABLE_MAIN
		found := map[int]bool{}
		err := dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, about, func(message []byte) error {
			addDefault(message, found)
			return nil
		}, func() { clear(found) })
		// There is no main table before its first route, and not always IPv6.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("listing routes: %w", err)
		}
		maps.Copy(indexes, found)
	}
	return nil
}

// addDefault reads a message of type RTM_NEWROUTE.
func addDefault(message []byte, indexes map[int]bool) {
	if len(message) < unix.SizeofRtMsg {
		return
	}
	length, table, kind := message[1], message[4], message[7]
	if length != 0 || table != unix.RT_TABLE_MAIN || kind != unix.RTN_UNICAST {
		return
	}
	eachAttribute(message[unix.SizeofRtMsg:], func(kind uint16, whole []byte) {
		value := whole[unix.SizeofRtAttr:]
		switch {
		case kind == unix.RTA_OIF && len(value) >= 4:
			indexes[int(int32(binary.NativeEndian.Uint32(value)))] = true
		case kind == unix.RTA_MULTIPATH:
			addHops(value, indexes)
		}
	})
}

// addHops reads the hops of a route of many paths: each has its length and the interface's index in a struct rtnexthop.
func addHops(hops []byte, indexes map[int]bool) {
	for len(hops) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(hops))
		if length < unix.SizeofRtNexthop || length > len(hops) {
			return
		}
		indexes[int(int32(binary.NativeEndian.Uint32(hops[4:])))] = true
		hops = hops[min((length+3)&^3, len(hops)):]
	}
}

// owners adds the indexes of the interfaces that have one of some addresses.
func owners(addresses []netip.Addr, indexes map[int]bool) error {
	if len(addresses) == 0 {
		return nil
	}
	found := map[int]bool{}
	err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg), func(message []byte) error {
		if index, address := parseAddress(message); slices.Contains(addresses, address) {
			found[index] = true
		}
		return nil
	}, func() { clear(found) })
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	maps.Copy(indexes, found)
	return nil
}

// parseAddress reads a message of type RTM_NEWADDR. The address is not valid when there is none.
func parseAddress(message []byte) (index int, address netip.Addr) {
	if len(message) < unix.SizeofIfAddrmsg {
		return 0, netip.Addr{}
	}
	attributes := message[unix.SizeofIfAddrmsg:]
	own := attribute(attributes, unix.IFA_LOCAL)
	if own == nil { // IFA_ADDRESS is the other end of a link that has one, and else the own address
		own = attribute(attributes, unix.IFA_ADDRESS)
	}
	address, _ = netip.AddrFromSlice(own)
	return int(int32(binary.NativeEndian.Uint32(message[4:]))), address.Unmap()
}
