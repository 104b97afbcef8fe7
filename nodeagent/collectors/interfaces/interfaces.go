// Package interfaces reads the counters that the kernel and the drivers keep of the node's own network interfaces,
// and says which of them are the node's uplinks.
package interfaces

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
)

// most is how many interfaces are reported: so many that their message stays below the limit of the wire.
const most = 1000

// Collector reads interfaces. Its methods are safe for concurrent use.
type Collector struct {
	nodeIPs []netip.Addr

	mu      sync.Mutex
	windows map[int]*rates.Window[netlink.LinkStatistics] // by index
}

// New makes a collector. nodeIPs are the node's addresses as Kubernetes knows them; there may be none.
func New(nodeIPs []netip.Addr) *Collector {
	return &Collector{nodeIPs: nodeIPs, windows: map[int]*rates.Window[netlink.LinkStatistics]{}}
}

// Name is how users know the collector.
func (c *Collector) Name() string { return "interfaces" }

// State is always Running: the kernel has these counters everywhere.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// Sample takes the samples that rates are later compared with.
func (c *Collector) Sample(now time.Time) {
	links, err := list()
	if err != nil {
		return // without a sample there are no rates, and a reader learns why when it fails too
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	present := map[int]bool{}
	for _, link := range links {
		attrs := link.Attrs()
		present[attrs.Index] = true
		if c.windows[attrs.Index] == nil {
			c.windows[attrs.Index] = &rates.Window[netlink.LinkStatistics]{}
		}
		c.windows[attrs.Index].Add(now, *attrs.Statistics)
	}
	for index := range c.windows {
		if !present[index] {
			delete(c.windows, index)
		}
	}
}

// ReadNode fills in the node's interfaces. The error says what is missing, and why.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) error {
	links, err := list()
	if err != nil {
		return err
	}
	up, err := c.uplinks(links)
	var tooMany error
	if len(links) > most {
		slices.SortStableFunc(links, func(a, b netlink.Link) int {
			return cmp.Compare(rank(up, a), rank(up, b))
		})
		tooMany = fmt.Errorf("%d of %d interfaces are left out", len(links)-most, len(links))
		links = links[:most]
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, link := range links {
		node.Interfaces = append(node.Interfaces, c.row(link, up[link.Attrs().Index], now, node.Measurement))
	}
	return errors.Join(err, tooMany)
}

func rank(uplinks map[int]bool, link netlink.Link) int {
	if uplinks[link.Attrs().Index] {
		return 0
	}
	return 1
}

func (c *Collector) row(link netlink.Link, uplink bool, now time.Time, measurement *v1alpha1.Measurement) *v1alpha1.Interface {
	attrs := link.Attrs()
	kind := link.Type()
	if kind == "device" {
		kind = "" // netlink's word for hardware
	}
	s := attrs.Statistics
	row := &v1alpha1.Interface{
		Name: attrs.Name, Kind: kind, State: strings.ReplaceAll(attrs.OperState.String(), "-", ""), Mtu: int32(attrs.MTU), Uplink: uplink,
		Receive:  counters(s.RxBytes, s.RxPackets, s.RxErrors, s.RxDropped),
		Transmit: counters(s.TxBytes, s.TxPackets, s.TxErrors, s.TxDropped),
	}
	if c.windows[attrs.Index] == nil {
		return row
	}
	before, window, ok := c.windows[attrs.Index].Before(now)
	if !ok {
		return row
	}
	measurement.WindowNano = int64(window)
	row.Receive.Rates = &v1alpha1.Rates{
		MilliBytes:   rates.Milli(int64(before.RxBytes), int64(s.RxBytes), window),
		MilliPackets: rates.Milli(int64(before.RxPackets), int64(s.RxPackets), window),
	}
	row.Transmit.Rates = &v1alpha1.Rates{
		MilliBytes:   rates.Milli(int64(before.TxBytes), int64(s.TxBytes), window),
		MilliPackets: rates.Milli(int64(before.TxPackets), int64(s.TxPackets), window),
	}
	return row
}

func counters(bytes, packets, errors, dropped uint64) *v1alpha1.InterfaceCounters {
	return &v1alpha1.InterfaceCounters{
		Bytes: int64(bytes), Packets: int64(packets), Errors: int64(errors), Dropped: int64(dropped),
	}
}

// list gives the interfaces that have statistics. An interrupted dump is asked for again: it may lack some.
func list() ([]netlink.Link, error) {
	var links []netlink.Link
	var err error
	for range 3 {
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return slices.DeleteFunc(links, func(link netlink.Link) bool { return link.Attrs().Statistics == nil }), nil
}

// uplinks are the interfaces that carry a default route or one of the node's addresses, but not those that lie upon
// another uplink: they carry the same packets again.
func (c *Collector) uplinks(links []netlink.Link) (map[int]bool, error) {
	candidates := map[int]bool{}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, route := range routes {
		if !isDefault(route) {
			continue
		}
		candidates[route.LinkIndex] = true
		for _, hop := range route.MultiPath {
			candidates[hop.LinkIndex] = true
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, address := range addresses {
		if ip, ok := netip.AddrFromSlice(address.IP); ok && slices.Contains(c.nodeIPs, ip.Unmap()) {
			candidates[address.LinkIndex] = true
		}
	}
	return lowest(links, candidates), nil
}

func isDefault(route netlink.Route) bool {
	if route.Type != unix.RTN_UNICAST {
		return false
	}
	if route.Dst == nil {
		return true
	}
	ones, _ := route.Dst.Mask.Size()
	return ones == 0 && route.Dst.IP.IsUnspecified()
}

// lowest leaves out candidates that lie upon other candidates.
func lowest(links []netlink.Link, candidates map[int]bool) map[int]bool {
	below := map[int][]int{}
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.MasterIndex != 0 {
			below[attrs.MasterIndex] = append(below[attrs.MasterIndex], attrs.Index)
		}
		if attrs.ParentIndex != 0 && attrs.NetNsID < 0 && link.Type() != "veth" {
			below[attrs.Index] = append(below[attrs.Index], attrs.ParentIndex)
		}
	}
	uplinks := map[int]bool{}
	for _, link := range links {
		index := link.Attrs().Index
		if candidates[index] && !liesUpon(index, candidates, below, map[int]bool{index: true}) {
			uplinks[index] = true
		}
	}
	return uplinks
}

func liesUpon(index int, candidates map[int]bool, below map[int][]int, visited map[int]bool) bool {
	for _, lower := range below[index] {
		if visited[lower] {
			continue
		}
		visited[lower] = true
		if candidates[lower] || liesUpon(lower, candidates, below, visited) {
			return true
		}
	}
	return false
}
