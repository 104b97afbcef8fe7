// Package interfaces reads the counters that the kernel and the drivers keep of the node's own network interfaces and
// their queues, and says which of them are the node's uplinks.
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

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
)

// most is how many interfaces are reported: so many that their message stays below the limit of the wire.
const most = 500

// Collector reads interfaces. Its methods are safe for concurrent use.
type Collector struct {
	nodeIPs []netip.Addr

	// asking holds one element while drivers are asked.
	asking chan struct{}

	mu      sync.Mutex
	windows map[int]*rates.Window[netlink.LinkStatistics] // by index
	missing string                                        // of the drivers' statistics, in the latest reading
}

// New makes a collector. nodeIPs are the node's addresses as Kubernetes knows them; there may be none.
func New(nodeIPs []netip.Addr) *Collector {
	return &Collector{
		nodeIPs: nodeIPs, asking: make(chan struct{}, 1), windows: map[int]*rates.Window[netlink.LinkStatistics]{},
	}
}

// Name is how users know the collector.
func (c *Collector) Name() string { return "interfaces" }

// State is always Running: the kernel has these counters everywhere. The message says which of the drivers' statistics
// are missing.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return v1alpha1.Collector_STATE_RUNNING, c.missing
}

// Sample takes the samples that rates are later compared with.
func (c *Collector) Sample(now time.Time) {
	all, err := list()
	if err != nil {
		return // without a sample there are no rates, and a reader learns why when it fails too
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	present := map[int]bool{}
	for _, link := range all.links {
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
	all, err := list()
	if err != nil {
		return err
	}
	up, uplinksError := c.uplinks(all.links)
	var tooMany error
	if links := all.links; len(links) > most {
		slices.SortStableFunc(links, func(a, b netlink.Link) int {
			return cmp.Compare(rank(up, a), rank(up, b))
		})
		tooMany = fmt.Errorf("%d of %d interfaces are left out", len(links)-most, len(links))
		all.links = links[:most]
	}
	queues, queuesError := queues()
	drivers, missing := c.drivers(asked(all.links, up))
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missing = missing
	for _, link := range all.links {
		row, attrs := c.row(link, up[link.Attrs().Index], now, node.Measurement), link.Attrs()
		row.CarrierChanges = all.carrierChanges[attrs.Index]
		row.Queue = queues[attrs.Index]
		row.Driver, row.SpeedMegabits = drivers[attrs.Name].counters, drivers[attrs.Name].speed
		node.Interfaces = append(node.Interfaces, row)
	}
	return errors.Join(uplinksError, queuesError, tooMany)
}

// drivers asks drivers, and says what is missing. That is no error: no driver has to offer anything.
func (c *Collector) drivers(names []string) (map[string]driver, string) {
	var missing []string
	if len(names) > mostDrivers {
		missing = append(missing, fmt.Sprintf("the drivers of %d of %d interfaces are not asked", len(names)-mostDrivers, len(names)))
		names = names[:mostDrivers]
	}
	found, err := c.askDrivers(names)
	if err != nil {
		missing = append(missing, err.Error())
	}
	for _, name := range names {
		if left := found[name].leftOut; left > 0 {
			missing = append(missing, fmt.Sprintf("%d statistics of the driver of %s are left out", left, name))
		}
	}
	return found, strings.Join(missing, "; ")
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
		Name: text(attrs.Name), Kind: kind, State: strings.ReplaceAll(attrs.OperState.String(), "-", ""), Mtu: int32(attrs.MTU), Uplink: uplink,
		Receive:  received(s),
		Transmit: transmitted(s),
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

// received takes the larger of two numbers for overruns: drivers count them in either, and some the same ones in both.
func received(s *netlink.LinkStatistics) *v1alpha1.InterfaceCounters {
	return &v1alpha1.InterfaceCounters{
		Bytes: int64(s.RxBytes), Packets: int64(s.RxPackets), Errors: int64(s.RxErrors), Dropped: int64(s.RxDropped),
		Missed: int64(s.RxMissedErrors), Overruns: int64(max(s.RxOverErrors, s.RxFifoErrors)),
		ChecksumErrors: int64(s.RxCrcErrors), Multicast: int64(s.Multicast),
	}
}

func transmitted(s *netlink.LinkStatistics) *v1alpha1.InterfaceCounters {
	return &v1alpha1.InterfaceCounters{
		Bytes: int64(s.TxBytes), Packets: int64(s.TxPackets), Errors: int64(s.TxErrors), Dropped: int64(s.TxDropped),
		Overruns: int64(s.TxFifoErrors),
	}
}

// Uplinks are the names of the current network namespace's uplinks. nodeIPs are the node's addresses as Kubernetes knows
// them.
func Uplinks(nodeIPs []netip.Addr) (names []string, err error) {
	all, err := list()
	if err != nil {
		return nil, err
	}
	up, err := New(nodeIPs).uplinks(all.links)
	if err != nil {
		return nil, err
	}
	for _, link := range all.links {
		if up[link.Attrs().Index] {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

// uplinks are the interfaces that carry a default route or one of the node's addresses, but not those that lie upon
// another uplink: they carry the same packets again.
func (c *Collector) uplinks(links []netlink.Link) (map[int]bool, error) {
	candidates := map[int]bool{}
	if err := defaultRoutes(candidates); err != nil {
		return nil, err
	}
	if err := owners(c.nodeIPs, candidates); err != nil {
		return nil, err
	}
	return lowest(links, candidates), nil
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
