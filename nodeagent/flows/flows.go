package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Limits of the history, and what it is where nothing else is configured.
const (
	MinHistory, MaxHistory, DefaultHistory = 1_000, 200_000, 200_000

	MinAge, MaxAge, DefaultAge = time.Minute, 24 * time.Hour, 30 * time.Minute
)

// Config is what New needs.
type Config struct {
	// Root is the folder of this node's pins (nodeagent/pins).
	Root string
	// Shared are the maps of bpf/headers.
	Shared map[string]*ebpf.Map
	// History is how many flows are kept that have ended, and MaxAge for how long; 0 for the defaults. Those in the
	// kernel's tables are kept beside them, as long as all together are at most MaxHistory.
	History int
	MaxAge  time.Duration
	// Reason gives the name and the class of a reason for dropping; nil for numbers.
	Reason func(uint16) (string, v1alpha1.Drop_Class)
	// PeerName gives the name under which a pod (headers.PodNumber) looked up an address, or "". It is called often and
	// must be quick. nil for none.
	PeerName func(pod uint64, peer netip.Addr) string
}

const (
	// drainEvery is the time between drains while nobody follows, and drainFollowed while somebody does.
	drainEvery    = 5 * time.Second
	drainFollowed = 750 * time.Millisecond
	// freshFor is how old what a read answers may be.
	freshFor = time.Second
)

// Collector keeps the history of flows. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Collector struct {
	config   Config
	instance int64
	capacity int // of the kernel's tables
	flows4   *table[headers.FlowKey4]
	flows6   *table[headers.FlowKey6]
	counts   *ebpf.Map
	ledger   *ledger
	broken   error // why it cannot work; set by New

	// draining is held by who drains, and what follows belongs to it.
	draining   sync.Mutex
	sweep      sweep
	idle       []int
	ledgerNode node
	conntrack  conntrack
	closed     bool

	mu         sync.Mutex // never held during a system call, or while something is sent
	history    *history
	names      names
	pods       pods
	generation uint8
	hand       uint32 // of makeRoom
	pushed     uint64 // how many drains there will have been when what makeRoom did last does not matter any more
	unrecorded uint64 // how often a flow was seen for which the history had no room
	failed     uint64 // flows for which the kernel's tables had no room
	problem    error  // of the last drain
	untracked  error  // why conntrack cannot be asked
	present    [families]int
	created    uint64
	evicted    uint64
	drains     uint64
	drained    time.Time // when the last drain ended
	clock      int64     // nanoseconds from CLOCK_MONOTONIC to the wall clock
	followers  int
	watches    []*Watch
	news       chan struct{} // closed at the end of each drain
	hurry      chan struct{} // tells Run that somebody follows
	ending     chan struct{} // closed when Run ends: followers end, too
	endOnce    sync.Once
}

// New makes a collector; it holds nothing before Run or the first read.
func New(config Config) *Collector {
	c := &Collector{
		config: config, instance: time.Now().UnixNano(), names: newNames(), pods: pods{byNumber: map[uint64]uint32{}},
		news: make(chan struct{}), hurry: make(chan struct{}, 1), ending: make(chan struct{}),
	}
	if c.config.History == 0 {
		c.config.History = DefaultHistory
	}
	if c.config.MaxAge == 0 {
		c.config.MaxAge = DefaultAge
	}
	c.broken = c.open()
	return c
}

var errClosed = errors.New("the history of flows is closed")

func (c *Collector) open() error {
	flows4, flows6, counts := c.config.Shared["flows4"], c.config.Shared["flows6"], c.config.Shared["flow_table"]
	if flows4 == nil || flows6 == nil || counts == nil {
		return errors.New("the maps of this node could not be opened")
	}
	c.flows4, c.flows6, c.counts = newTable[headers.FlowKey4](flows4), newTable[headers.FlowKey6](flows6), counts
	c.capacity = int(flows4.MaxEntries() + flows6.MaxEntries())
	l, err := openLedger(c.config.Root)
	if err != nil {
		return err
	}
	c.ledger = l
	var written map[uint64]entry
	if c.ledgerNode, written, err = l.read(); err != nil {
		return err
	}
	c.pods.restore(written)
	c.history, err = newHistory(max(c.capacity, min(c.config.History+c.capacity, MaxHistory)))
	return err
}

// Name is how users know the collector.
func (*Collector) Name() string { return "flows" }

// State says whether it works.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	if c.broken != nil {
		return v1alpha1.Collector_STATE_OFF, c.broken.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.problem != nil:
		return v1alpha1.Collector_STATE_DEGRADED, c.problem.Error()
	case c.unrecorded > 0:
		return v1alpha1.Collector_STATE_DEGRADED, "the kernel's tables hold more flows than the history has room for"
	case c.untracked != nil:
		return v1alpha1.Collector_STATE_RUNNING, fmt.Sprintf("peers behind address translation are not shown: %v", c.untracked)
	}
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// Follow learns which pods there are.
func (c *Collector) Follow(pods []*podmap.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods.follow(pods)
}

// Run drains the kernel's tables until the context ends. Followers end with it.
func (c *Collector) Run(ctx context.Context) {
	defer c.endOnce.Do(func() { close(c.ending) })
	if c.broken != nil {
		<-ctx.Done()
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hurry:
		case <-timer.C:
		}
		_ = c.drainUnless(0) // State says it
		timer.Reset(c.pause())
	}
}

// pause is the time until the next drain.
func (c *Collector) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.followers > 0 {
		return drainFollowed
	}
	return drainEvery
}

// drainUnless drains unless that was done within the time fresh, and remembers what went wrong.
func (c *Collector) drainUnless(fresh time.Duration) error {
	c.draining.Lock()
	defer c.draining.Unlock()
	if c.closed {
		return errClosed
	}
	if c.drains > 0 && time.Since(c.drained) < fresh {
		return nil // by whom this call waited for
	}
	err := c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problem = err
	return err
}

// refresh drains unless that was done a moment ago.
func (c *Collector) refresh() error {
	if c.broken != nil {
		return c.broken
	}
	return c.drainUnless(freshFor)
}

// Snapshot brings the history up to date for the rows of one answer.
func (c *Collector) Snapshot() interface {
	ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
	ReadNode(*v1alpha1.NodeStats) error
} {
	return snapshot{c, c.refresh()}
}

type snapshot struct {
	*Collector
	err error
}

// ReadPod fills in what passed in the pod's flows.
func (s snapshot) ReadPod(of *podmap.Pod, row *v1alpha1.PodStats) error {
	if s.err != nil {
		return s.err
	}
	if row.Flows == nil {
		row.Flows = &v1alpha1.FlowTotals{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if place, ok := s.pods.byNumber[headers.PodNumber(of.Key)]; ok {
		total := s.pods.places[place].shown
		row.Flows.Packets, row.Flows.Bytes = int64(total.Packets), int64(total.Bytes)
	}
	return nil
}

// ReadNode fills in how full the tables and the history are.
func (s snapshot) ReadNode(row *v1alpha1.NodeStats) error {
	if s.err != nil {
		return s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history
	if h == nil {
		return errClosed
	}
	row.Flows = &v1alpha1.FlowTable{
		Present: int64(s.present[0] + s.present[1]), Capacity: int64(s.capacity), Created: int64(s.created), Evicted: int64(s.evicted),
		Recorded: int64(h.count), HistoryCapacity: int64(s.config.History),
	}
	if h.ended.first != nowhere {
		row.Flows.OldestUnixNano = s.wall(h.records[h.ended.first].last)
	}
	s.addLost(row)
	return nil
}

// Table is how many flows the kernel's table of a version of IP (4 or 6) had at the last drain, and how many it has room
// for. Each of the two gets full by itself. Without tables both are 0.
func (c *Collector) Table(version int) (present, capacity int64) {
	if c.flows4 == nil || c.flows6 == nil {
		return 0, 0
	}
	family, room := 0, c.flows4.m.MaxEntries()
	if version == 6 {
		family, room = 1, c.flows6.m.MaxEntries()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.present[family]), int64(room)
}

// addLost adds what was lost for want of room, other than by eviction, if anything was.
func (s snapshot) addLost(row *v1alpha1.NodeStats) {
	for _, lost := range []*v1alpha1.Counter{
		{Collector: "flows", Name: "failed", Value: int64(s.failed)},
		{Collector: "flows", Name: "unrecorded", Value: int64(s.unrecorded)},
	} {
		if lost.Value > 0 {
			row.Additional = append(row.Additional, lost)
		}
	}
}

// reason names a reason for dropping.
func (c *Collector) reason(number uint16) (string, v1alpha1.Drop_Class) {
	if c.config.Reason == nil {
		return strconv.Itoa(int(number)), v1alpha1.Drop_CLASS_UNSPECIFIED
	}
	return c.config.Reason(number)
}

// setClock takes how far the wall clock is from CLOCK_MONOTONIC. By how much measuring that wavers is ignored, so that a
// flow's times stay the same.
func (c *Collector) setClock(clock int64) {
	const wavers = int64(20 * time.Millisecond)
	if clock-c.clock > wavers || c.clock-clock > wavers {
		c.clock = clock
	}
}

// wall turns a time of CLOCK_MONOTONIC into nanoseconds since the Unix epoch.
func (c *Collector) wall(monotonic uint64) int64 { return int64(monotonic) + c.clock }

// Close lets go of the maps and the memory. What is in the kernel's tables stays, and a new collector finds it. Run and
// all reads must have ended.
func (c *Collector) Close() {
	c.endOnce.Do(func() { close(c.ending) })
	c.draining.Lock()
	defer c.draining.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.conntrack.close()
	if c.ledger != nil {
		c.ledger.close()
		c.ledger = nil
	}
	if c.history != nil {
		c.history.close()
		c.history = nil
	}
}
