package interfaces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A listing is the interfaces that have statistics, with what the library does not read.
type listing struct {
	links []netlink.Link
	// carrierChanges are by index.
	carrierChanges map[int]int64
}

// list lists interfaces. Virtual functions are not asked for: there can be hundreds, and nothing here tells of them.
func list() (listing, error) {
	all := listing{carrierChanges: map[int]int64{}}
	err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, make([]byte, unix.SizeofIfInfomsg), func(message []byte) error {
		if len(message) < unix.SizeofIfInfomsg {
			return errors.New("parsing an interface: its message is too short")
		}
		link, err := netlink.LinkDeserialize(nil, wanted(message))
		if err != nil {
			return fmt.Errorf("parsing an interface: %w", err)
		}
		if link.Attrs().Statistics != nil {
			all.links = append(all.links, link)
			all.carrierChanges[link.Attrs().Index] = carrierChanges(message)
		}
		return nil
	}, func() { all = listing{carrierChanges: map[int]int64{}} })
	if err != nil {
		return all, fmt.Errorf("listing interfaces: %w", err)
	}
	return all, nil
}

// wanted is a copy of an interface's message with those attributes only that are used here. Of others there are dozens, and the
// library makes something of each.
func wanted(message []byte) []byte {
	kept := slices.Clip(slices.Clone(message[:unix.SizeofIfInfomsg]))
	eachAttribute(message[unix.SizeofIfInfomsg:], func(kind uint16, whole []byte) {
		switch kind {
		case unix.IFLA_IFNAME, unix.IFLA_MTU, unix.IFLA_OPERSTATE, unix.IFLA_LINKINFO, unix.IFLA_STATS64,
			unix.IFLA_MASTER, unix.IFLA_LINK, unix.IFLA_LINK_NETNSID:
			kept = append(kept, whole...)
			kept = append(kept, make([]byte, -len(whole)&3)...)
		}
	})
	return kept
}

func carrierChanges(message []byte) int64 {
	value := attribute(message[unix.SizeofIfInfomsg:], unix.IFLA_CARRIER_CHANGES)
	if len(value) < 4 {
		return 0
	}
	return int64(binary.NativeEndian.Uint32(value))
}

// attribute finds the first of a type among attributes of netlink. It is nil when there is none, or when lengths before it
// are wrong.
func attribute(attributes []byte, kind uint16) (value []byte) {
	eachAttribute(attributes, func(found uint16, whole []byte) {
		if found == kind && value == nil {
			value = whole[unix.SizeofRtAttr:]
		}
	})
	return value
}

// eachAttribute goes through attributes of netlink up to the first with a wrong length: length and type, 16 bits each, and the
// value, padded to 4 bytes. whole is all of that without the padding.
func eachAttribute(attributes []byte, do func(kind uint16, whole []byte)) {
	for len(attributes) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return
		}
		do(binary.NativeEndian.Uint16(attributes[2:]), attributes[:length])
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
}

// queues are the root queueing disciplines by their interfaces' indexes, without those that never hold a packet and
// count nothing.
func queues() (map[int]*v1alpha1.Queue, error) {
	found := map[int]*v1alpha1.Queue{}
	err := dump(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, make([]byte, nl.SizeofTcMsg), func(message []byte) error {
		if index, queue := parseQueue(message); queue != nil {
			found[index] = queue
		}
		return nil
	}, func() { clear(found) })
	if err != nil {
		return nil, fmt.Errorf("listing queueing disciplines: %w", err)
	}
	return found, nil
}

const (
	statisticsOfQueue = 3     // TCA_STATS_QUEUE of <linux/gen_stats.h>
	sizeOfQueue       = 5 * 4 // struct gnet_stats_queue there
)

// parseQueue reads a message of type RTM_NEWQDISC. Without a queue to tell of, the result is nil. The kernel's counters
// have 32 bits and begin again at 0 beyond.
func parseQueue(message []byte) (index int, queue *v1alpha1.Queue) {
	if len(message) < nl.SizeofTcMsg {
		return 0, nil
	}
	parent, attributes := binary.NativeEndian.Uint32(message[12:]), message[nl.SizeofTcMsg:]
	kind := text(unix.ByteSliceToString(attribute(attributes, nl.TCA_KIND)))
	statistics := attribute(attribute(attributes, nl.TCA_STATS2), statisticsOfQueue)
	if parent != netlink.HANDLE_ROOT || kind == "noqueue" || len(statistics) < sizeOfQueue {
		return 0, nil
	}
	number := func(i int) int64 { return int64(binary.NativeEndian.Uint32(statistics[4*i:])) }
	return int(int32(binary.NativeEndian.Uint32(message[4:]))), &v1alpha1.Queue{
		Kind: kind, BacklogBytes: number(1), Drops: number(2), Requeues: number(3), Overlimits: number(4),
	}
}
