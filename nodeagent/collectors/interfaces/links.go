package interfaces

import (
	"encoding/binary"
	"errors"
	"fmt"

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
	messages, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return all, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, message := range messages {
		link, err := netlink.LinkDeserialize(nil, message)
		if err != nil {
			return all, fmt.Errorf("parsing an interface: %w", err)
		}
		if link.Attrs().Statistics == nil {
			continue
		}
		all.links = append(all.links, link)
		all.carrierChanges[link.Attrs().Index] = carrierChanges(message)
	}
	return all, nil
}

func carrierChanges(message []byte) int64 {
	value := attribute(message[unix.SizeofIfInfomsg:], unix.IFLA_CARRIER_CHANGES)
	if len(value) < 4 {
		return 0
	}
	return int64(binary.NativeEndian.Uint32(value))
}

// attribute finds the first of a type among attributes of netlink: length and type, 16 bits each, and the value, padded
// to 4 bytes. It is nil when there is none, or when lengths before it are wrong.
func attribute(attributes []byte, kind uint16) []byte {
	for len(attributes) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return nil
		}
		if binary.NativeEndian.Uint16(attributes[2:]) == kind {
			return attributes[unix.SizeofRtAttr:length]
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return nil
}

// dump asks the kernel for a list. An interrupted one is asked for again, because it may lack some, but what there is
// is returned in the end.
func dump(request, reply int, about nl.NetlinkRequestData) (messages [][]byte, err error) {
	for range 3 {
		r := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
		r.AddData(about)
		messages, err = r.Execute(unix.NETLINK_ROUTE, uint16(reply))
		if err == nil {
			return messages, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
	}
	return messages, nil
}

// queues are the root queueing disciplines by their interfaces' indexes, without those that never hold a packet and
// count nothing.
func queues() (map[int]*v1alpha1.Queue, error) {
	messages, err := dump(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, &nl.TcMsg{Family: nl.FAMILY_ALL})
	if err != nil {
		return nil, fmt.Errorf("listing queueing disciplines: %w", err)
	}
	found := map[int]*v1alpha1.Queue{}
	for _, message := range messages {
		if index, queue := parseQueue(message); queue != nil {
			found[index] = queue
		}
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
