package traffic

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Hook names the way of attaching to interfaces.
type Hook string

// The ways. Auto is tcx, and clsact where the kernel has no tcx.
const (
	Auto   Hook = "auto"
	TCX    Hook = "tcx"
	Clsact Hook = "clsact"
)

// Config is what New needs.
type Config struct {
	// BPFFS is where the BPF file system is mounted.
	BPFFS string
	// Node is the name of this node, a folder of its pins.
	Node string
	// CgroupRoot is where cgroup version 2 is mounted; empty where it is not.
	CgroupRoot string
	Hook       Hook
	// Shared are the maps of bpf/headers; nil when there are none, and then packets are in no flow and are not handed
	// on for inspection.
	Shared map[string]*ebpf.Map
	// Flows says whether packets are added to the tables of flows, too.
	Flows bool
}

const (
	// retryAfter is when a pod to which attaching did not work is tried again.
	retryAfter = 5 * time.Second
	// linger is how long totals of a pod without a live process are kept: while a sandbox is made anew, a pod has none.
	linger = 2 * time.Minute
	// most is how many such totals are kept.
	most = 256
	// workers is how many pods are attached to at a time: the kernel waits for all its CPUs at each program, mostly idly.
	workers = 8
)

// Collector counts the traffic of pods. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Collector struct {
	config  Config
	root    string
	earlier []Layout

	// mu may be taken while a target's is held, never the other way round.
	mu      sync.Mutex
	targets map[string]*target
	// fallback is why clsact is used instead of tcx, though tcx would have been first choice.
	fallback error
	// beyond is what programs do besides counting, and reduced why that is less than was configured.
	beyond  bpf.Beyond
	reduced error
	// sweeping is what went wrong when pins were last swept.
	sweeping error

	// What follows belongs to Follow.
	swept bool
	gone  map[string]time.Time
}

// New makes a collector that attaches to nothing before Follow.
func New(config Config) *Collector {
	return &Collector{
		beyond: bpf.Beyond{Shared: config.Shared, Flows: config.Flows},
		config: config, root: pins.Root(config.BPFFS, config.Node), earlier: earlier,
		targets: map[string]*target{}, gone: map[string]time.Time{},
	}
}

// Name is how users know the collector.
func (c *Collector) Name() string { return "traffic" }

// State says whether all pods are counted, and how.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	failed, all, first := c.failed()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case failed > 0:
		return v1alpha1.Collector_STATE_DEGRADED, fmt.Sprintf("%d of %d pods are not fully counted: %v", failed, all, first)
	case c.sweeping != nil:
		return v1alpha1.Collector_STATE_DEGRADED, c.sweeping.Error()
	case c.config.Flows && c.config.Shared == nil:
		return v1alpha1.Collector_STATE_DEGRADED, "packets are in no flow: this node's maps could not be opened"
	case c.reduced != nil:
		return v1alpha1.Collector_STATE_DEGRADED, c.reduced.Error()
	case c.fallback != nil:
		return v1alpha1.Collector_STATE_DEGRADED, fmt.Sprintf("attached by clsact, %s: %v", c.flowsState(), c.fallback)
	case c.config.Hook == Clsact:
		return v1alpha1.Collector_STATE_DEGRADED, fmt.Sprintf("attached by clsact, as configured, %s", c.flowsState())
	}
	return v1alpha1.Collector_STATE_RUNNING, "attached by tcx, " + c.flowsState()
}

// Hooks says which way of attaching to interfaces there is.
func (c *Collector) Hooks() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.config.Hook == Clsact:
		return map[string]bool{string(Clsact): true}
	case c.fallback != nil:
		return map[string]bool{string(TCX): false, string(Clsact): true}
	}
	return map[string]bool{string(TCX): true}
}

// flowsState needs the lock.
func (c *Collector) flowsState() string {
	if c.beyond.Flows && c.beyond.Shared != nil {
		return "with flows"
	}
	return "without flows"
}

// failed is how many of all pods have a problem. It waits for pods that are being attached to.
func (c *Collector) failed() (count, all int, first error) {
	targets := c.snapshot()
	for _, t := range targets {
		t.mu.Lock()
		if t.problem != nil {
			count++
			first = t.problem
		}
		t.mu.Unlock()
	}
	return count, len(targets), first
}

// ReadNode fills in the number of pods that are counted.
func (c *Collector) ReadNode(row *v1alpha1.NodeStats) error {
	failed, all, _ := c.failed()
	row.Agent.Pods = int32(all - failed)
	return nil
}

// Follow attaches to the pods that are new or have changed, and lets go of all others. Pods that cannot be told from
// the node are left alone.
func (c *Collector) Follow(pods []*podmap.Pod) {
	now := time.Now()
	live := map[string]bool{}
	var touched atomic.Bool
	touched.Store(!c.swept)
	var group errgroup.Group
	group.SetLimit(workers)
	for _, pod := range pods {
		if pod.HostNetwork && (pod.Cgroup == "" || c.config.CgroupRoot == "") {
			continue
		}
		live[pod.Key] = true
		group.Go(func() error {
			if c.follow(pod, now) {
				touched.Store(true)
			}
			return nil
		})
	}
	_ = group.Wait() // problems are kept with their pods
	changed := touched.Load()
	for key, t := range c.snapshot() {
		if !live[key] {
			c.drop(key, t)
			changed = true
		}
	}
	if changed || len(c.gone) > 0 {
		err := c.sweep(live, now)
		c.mu.Lock()
		c.sweeping = err
		c.mu.Unlock()
		c.swept = true
	}
}

func (c *Collector) snapshot() map[string]*target {
	c.mu.Lock()
	defer c.mu.Unlock()
	copied := make(map[string]*target, len(c.targets))
	for key, t := range c.targets {
		copied[key] = t
	}
	return copied
}

// follow attaches to one pod if there is reason to, and reports whether there was.
func (c *Collector) follow(pod *podmap.Pod, now time.Time) bool {
	c.mu.Lock()
	t := c.targets[pod.Key]
	c.mu.Unlock()
	isNew := t == nil
	if isNew {
		t = &target{interfaces: map[int]*counted{}}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !isNew && t.pod.Revision == pod.Revision && (t.problem == nil || now.Before(t.retry)) {
		t.pod = pod
		return false
	}
	if !isNew && t.pod.NetnsCookie != pod.NetnsCookie {
		t.forget(nil)
	}
	t.pod = pod
	t.problem = c.attach(t, pod)
	if errors.Is(t.problem, podmap.ErrGone) && isNew {
		t.close()
		return true
	}
	t.retry = now.Add(retryAfter)
	if isNew {
		c.mu.Lock()
		c.targets[pod.Key] = t
		c.mu.Unlock()
	}
	return true
}

func (c *Collector) drop(key string, t *target) {
	c.mu.Lock()
	delete(c.targets, key)
	c.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
	t.ledger = nil
}

// sweep removes links that belong to no live pod, and totals of pods that are gone for long.
func (c *Collector) sweep(live map[string]bool, now time.Time) error {
	keep := map[string]bool{}
	for _, t := range c.snapshot() {
		t.mu.Lock()
		keep[t.pins] = true
		t.mu.Unlock()
	}
	kept := map[string]time.Time{}
	err := c.sweepTotals(func(key string) bool {
		if live[key] {
			return true
		}
		since, known := c.gone[key]
		if !known {
			since = now
		}
		if now.Sub(since) > linger || len(kept) >= most {
			return false
		}
		kept[key] = since
		return true
	})
	c.gone = kept
	return errors.Join(err, c.sweepLinks(keep))
}

// attachBest uses the configured hook, or the one that works.
func (c *Collector) attachBest(iface netlink.Link, pins string, programs [2]*ebpf.Program) (fresh bool, err error) {
	if c.usesClsact() {
		return clsactHook{}.attach(iface, pins, programs)
	}
	fresh, err = tcxHook{}.attach(iface, pins, programs)
	if c.config.Hook != Auto || !errors.Is(err, ebpf.ErrNotSupported) {
		return fresh, err
	}
	c.mu.Lock()
	c.fallback = err
	c.mu.Unlock()
	return clsactHook{}.attach(iface, pins, programs)
}

func (c *Collector) usesClsact() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.Hook == Clsact || c.fallback != nil
}

// isAttached says whether the programs that were put on an interface are on this one: what is deleted can be made again
// with the same number, and what is moved away takes its programs along.
func (c *Collector) isAttached(iface netlink.Link, pins string) bool {
	if c.usesClsact() {
		return clsactHook{}.isAttached(iface)
	}
	return tcxHook{}.isAttached(iface, pins)
}

// Sample takes the samples that rates are later compared with.
func (c *Collector) Sample(now time.Time) {
	for _, t := range c.snapshot() {
		t.mu.Lock()
		if t.ledger != nil {
			if totals, err := t.ledger.read(); err == nil {
				t.window.Add(now, totals)
			}
		}
		t.mu.Unlock()
	}
}

// ReadPod fills in the pod's traffic, when counting began, and what its programs know of flows: those that they began,
// and the packets that they could not put into one. What is in the flows is for nodeagent/flows to say. The error says what is missing, and why.
func (c *Collector) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) error {
	c.mu.Lock()
	t := c.targets[pod.Key]
	c.mu.Unlock()
	if t == nil {
		return errors.New("counting has not begun yet")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ledger == nil {
		return errors.New("counting has ended")
	}
	if t.problem != nil && len(t.interfaces) == 0 {
		return t.problem
	}
	return errors.Join(t.problem, c.fill(t, row))
}

// texts are what files are read into.
var texts = sync.Pool{New: func() any { return new([]byte) }}

func (c *Collector) fill(t *target, row *v1alpha1.PodStats) error {
	buffer := texts.Get().(*[]byte)
	defer texts.Put(buffer)
	devices, devicesError := t.pod.ReadFile("net/dev", (*buffer)[:0]) // before the totals, see readBypassed
	*buffer = devices
	totals, err := t.ledger.read()
	if err != nil {
		return err
	}
	now := time.Now()
	row.Traffic = &v1alpha1.Traffic{Receive: direction(&totals, bpf.Receive), Transmit: direction(&totals, bpf.Transmit)}
	if bypassed, ok := t.readBypassed(devices, &totals); ok && devicesError == nil {
		row.Traffic.Transmit.Bypassed = &bypassed
	}
	if c.config.Flows && c.config.Shared != nil {
		if row.Flows == nil {
			row.Flows = &v1alpha1.FlowTotals{}
		}
		row.Flows.Created, row.Flows.Unparsed = int64(totals.FlowsCreated), int64(totals.Unparsed)
	}
	row.Measurement.StartUnixNano = t.notes.StartUnixNano
	before, window, ok := t.window.Before(now)
	if !ok {
		return nil
	}
	row.Measurement.WindowNano = int64(window)
	row.Traffic.Receive.Rates = rate(&before, &totals, bpf.Receive, window)
	row.Traffic.Transmit.Rates = rate(&before, &totals, bpf.Transmit, window)
	return nil
}

func direction(totals *bpf.Totals, d bpf.Direction) *v1alpha1.DirectionTraffic {
	cell := func(c bpf.Cell) *v1alpha1.Counters {
		counters := totals.Cells[d][c]
		return &v1alpha1.Counters{
			Packets: int64(counters.Packets), Bytes: int64(counters.Bytes), Buffers: int64(counters.Buffers),
		}
	}
	return &v1alpha1.DirectionTraffic{
		Ipv4Unicast: cell(bpf.IPv4Unicast), Ipv4NonUnicast: cell(bpf.IPv4NonUnicast),
		Ipv6Unicast: cell(bpf.IPv6Unicast), Ipv6NonUnicast: cell(bpf.IPv6NonUnicast),
		NonIp: cell(bpf.NonIP),
	}
}

func rate(before, now *bpf.Totals, d bpf.Direction, window time.Duration) *v1alpha1.Rates {
	oldPackets, oldBytes := sum(before, d)
	newPackets, newBytes := sum(now, d)
	return &v1alpha1.Rates{
		MilliPackets: rates.Milli(oldPackets, newPackets, window),
		MilliBytes:   rates.Milli(oldBytes, newBytes, window),
	}
}

// sum is the total of IPv4 and IPv6, of which rates are taken.
func sum(totals *bpf.Totals, d bpf.Direction) (packets, bytes int64) {
	for _, c := range []bpf.Cell{bpf.IPv4Unicast, bpf.IPv4NonUnicast, bpf.IPv6Unicast, bpf.IPv6NonUnicast} {
		packets += int64(totals.Cells[d][c].Packets)
		bytes += int64(totals.Cells[d][c].Bytes)
	}
	return packets, bytes
}

// Close lets go of the maps. What is attached goes on counting, and a new collector finds it.
func (c *Collector) Close() {
	for key, t := range c.snapshot() {
		c.drop(key, t)
	}
}
