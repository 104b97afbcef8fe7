package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

type link struct {
	Index         int             `json:"index"`
	Name          string          `json:"name"`
	Kind          string          `json:"kind,omitempty"`
	Type          string          `json:"type,omitempty"`
	MTU           int             `json:"mtu"`
	Flags         string          `json:"flags"`
	State         string          `json:"state"`
	Address       string          `json:"address,omitempty"`
	Alias         string          `json:"alias,omitempty"`
	Parent        int             `json:"parent,omitempty"`
	Master        int             `json:"master,omitempty"`
	TxQueueLength int             `json:"txQueueLength,omitempty"`
	Queues        *queues         `json:"queues,omitempty"`
	Statistics    *linkStatistics `json:"statistics,omitempty"`
}

type queues struct {
	Receive  int `json:"receive"`
	Transmit int `json:"transmit"`
}

// linkStatistics are those that every driver has.
type linkStatistics struct {
	RxPackets uint64 `json:"rxPackets"`
	RxBytes   uint64 `json:"rxBytes"`
	RxErrors  uint64 `json:"rxErrors"`
	RxDropped uint64 `json:"rxDropped"`
	RxMissed  uint64 `json:"rxMissed"`
	Multicast uint64 `json:"multicast"`
	TxPackets uint64 `json:"txPackets"`
	TxBytes   uint64 `json:"txBytes"`
	TxErrors  uint64 `json:"txErrors"`
	TxDropped uint64 `json:"txDropped"`
	TxCarrier uint64 `json:"txCarrierErrors"`
}

func readLinks(_ context.Context, s *items) error {
	all, err := netlink.LinkList()
	for _, one := range all {
		a := one.Attrs()
		item := link{
			Index: a.Index, Name: a.Name, Kind: one.Type(), Type: a.EncapType, MTU: a.MTU, Flags: a.Flags.String(), State: a.OperState.String(),
			Address: a.HardwareAddr.String(), Alias: a.Alias, Parent: a.ParentIndex, Master: a.MasterIndex, TxQueueLength: max(a.TxQLen, 0),
			Queues: &queues{Receive: a.NumRxQueues, Transmit: a.NumTxQueues},
		}
		if c := a.Statistics; c != nil {
			item.Statistics = &linkStatistics{
				RxPackets: c.RxPackets, RxBytes: c.RxBytes, RxErrors: c.RxErrors, RxDropped: c.RxDropped, RxMissed: c.RxMissedErrors, Multicast: c.Multicast,
				TxPackets: c.TxPackets, TxBytes: c.TxBytes, TxErrors: c.TxErrors, TxDropped: c.TxDropped, TxCarrier: c.TxCarrierErrors,
			}
		}
		s.add(item)
	}
	return err
}

type address struct {
	Link             int    `json:"link"`
	Address          string `json:"address"`
	Peer             string `json:"peer,omitempty"`
	Broadcast        string `json:"broadcast,omitempty"`
	Label            string `json:"label,omitempty"`
	Scope            string `json:"scope"`
	Flags            int    `json:"flags"`
	ValidSeconds     int    `json:"validSeconds,omitempty"`
	PreferredSeconds int    `json:"preferredSeconds,omitempty"`
}

func readAddresses(_ context.Context, s *items) error {
	all, err := netlink.AddrList(nil, unix.AF_UNSPEC)
	for _, a := range all {
		item := address{
			Link: a.LinkIndex, Address: a.IPNet.String(), Broadcast: text(a.Broadcast), Label: a.Label, Scope: netlink.Scope(a.Scope).String(),
			Flags: a.Flags, ValidSeconds: seconds(a.ValidLft), PreferredSeconds: seconds(a.PreferedLft),
		}
		if a.Peer != nil && a.Peer.String() != item.Address {
			item.Peer = a.Peer.String()
		}
		s.add(item)
	}
	return err
}

// seconds of a lifetime; 0, which is left out, for ever.
func seconds(n int) int {
	if n == math.MaxUint32 {
		return 0
	}
	return n
}

func text(ip net.IP) string {
	if len(ip) == 0 {
		return ""
	}
	return ip.String()
}

func network(n *net.IPNet) string {
	if n == nil {
		return ""
	}
	return n.String()
}

type neighbour struct {
	Link      int    `json:"link"`
	Address   string `json:"address"`
	LinkLayer string `json:"linkLayer,omitempty"`
	State     string `json:"state"`
	Flags     int    `json:"flags,omitempty"`
}

var neighbourStates = map[int]string{
	netlink.NUD_NONE: "NONE", netlink.NUD_INCOMPLETE: "INCOMPLETE", netlink.NUD_REACHABLE: "REACHABLE", netlink.NUD_STALE: "STALE", netlink.NUD_DELAY: "DELAY",
	netlink.NUD_PROBE: "PROBE", netlink.NUD_FAILED: "FAILED", netlink.NUD_NOARP: "NOARP", netlink.NUD_PERMANENT: "PERMANENT",
}

func readNeighbours(_ context.Context, s *items) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := netlink.NeighList(0, family)
		errs = append(errs, err)
		for _, n := range all {
			s.add(neighbour{Link: n.LinkIndex, Address: text(n.IP), LinkLayer: n.HardwareAddr.String(), State: named(neighbourStates, n.State), Flags: n.Flags})
		}
	}
	return errors.Join(errs...)
}

// named is a number's name, or the number.
func named[N ~int | ~uint8 | ~uint16 | ~uint32](names map[N]string, n N) string {
	if name, ok := names[n]; ok {
		return name
	}
	return fmt.Sprint(n)
}

var families = map[int]string{unix.AF_INET: "inet", unix.AF_INET6: "inet6"}

type route struct {
	Family        string `json:"family"`
	Type          string `json:"type"`
	Table         int    `json:"table"`
	Destination   string `json:"destination"`
	Source        string `json:"source,omitempty"`
	Gateway       string `json:"gateway,omitempty"`
	Link          int    `json:"link,omitempty"`
	Scope         string `json:"scope"`
	Protocol      string `json:"protocol"`
	Priority      int    `json:"priority,omitempty"`
	MTU           int    `json:"mtu,omitempty"`
	AdvertisedMSS int    `json:"advertisedMSS,omitempty"`
	Hops          []hop  `json:"hops,omitempty"`
}

type hop struct {
	Gateway string `json:"gateway,omitempty"`
	Link    int    `json:"link"`
	Weight  int    `json:"weight"`
}

var routeTypes = map[int]string{
	unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// maxRoutes bounds how many routes are looked at: routers have a million of them.
const maxRoutes = 100_000

func readRoutes(ctx context.Context, s *items) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		seen := 0
		err := netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			s.add(routeItem(r))
			seen++
			return seen < maxRoutes && ctx.Err() == nil
		})
		if seen >= maxRoutes {
			err = errors.Join(err, fmt.Errorf("there are more than %d routes; the rest was not looked at", maxRoutes))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func routeItem(r netlink.Route) route {
	item := route{
		Family: named(families, r.Family), Type: named(routeTypes, r.Type), Table: r.Table, Destination: network(r.Dst), Source: text(r.Src), Gateway: text(r.Gw),
		Link: r.LinkIndex, Scope: r.Scope.String(), Protocol: r.Protocol.String(), Priority: r.Priority, MTU: r.MTU, AdvertisedMSS: r.AdvMSS,
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		item.Gateway = via.Addr.String()
	}
	for _, h := range r.MultiPath {
		item.Hops = append(item.Hops, hop{Gateway: text(h.Gw), Link: h.LinkIndex, Weight: h.Hops + 1})
	}
	return item
}

type rule struct {
	Family           string `json:"family"`
	Priority         int    `json:"priority"`
	Table            int    `json:"table,omitempty"`
	Source           string `json:"source,omitempty"`
	Destination      string `json:"destination,omitempty"`
	Mark             uint32 `json:"mark,omitempty"`
	Mask             uint32 `json:"mask,omitempty"`
	InputLink        string `json:"inputLink,omitempty"`
	OutputLink       string `json:"outputLink,omitempty"`
	Protocol         int    `json:"protocol,omitempty"`
	SourcePorts      string `json:"sourcePorts,omitempty"`
	DestinationPorts string `json:"destinationPorts,omitempty"`
	Not              bool   `json:"not,omitempty"`
	Goto             int    `json:"goto,omitempty"`
}

func readRules(_ context.Context, s *items) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := netlink.RuleList(family)
		errs = append(errs, err)
		for _, r := range all {
			item := rule{
				Family: named(families, family), Priority: max(r.Priority, 0), Table: r.Table, Source: network(r.Src), Destination: network(r.Dst), Mark: r.Mark,
				InputLink: r.IifName, OutputLink: r.OifName, Protocol: r.IPProto, SourcePorts: ports(r.Sport), DestinationPorts: ports(r.Dport),
				Not: r.Invert, Goto: max(r.Goto, 0),
			}
			if r.Mask != nil {
				item.Mask = *r.Mask
			}
			s.add(item)
		}
	}
	return errors.Join(errs...)
}

func ports(p *netlink.RulePortRange) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf("%d-%d", p.Start, p.End)
}
