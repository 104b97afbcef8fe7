package flows

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is the kernel's tables, which the test fills itself as programs would.
type world struct {
	t       testing.TB
	root    string
	shared  map[string]*ebpf.Map
	created uint64
	now     uint64
}

// newWorld makes tables of so many flows each.
func newWorld(t testing.TB, capacity uint32) *world {
	t.Helper()
	w := &world{t: t, root: pins.Root(fakepod.BPFFS(t), "n"), shared: map[string]*ebpf.Map{}, now: monotonic()}
	specs := headers.MapSpecs()
	for _, name := range []string{"flows4", "flows6", "flow_table"} {
		if name != "flow_table" {
			specs[name].MaxEntries = capacity
		}
		m, err := ebpf.NewMap(specs[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		w.shared[name] = m
	}
	return w
}

var podKeys = []string{"11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000"}

// agent starts a collector that knows both pods.
func (w *world) agent(config Config) *Collector {
	w.t.Helper()
	config.Root, config.Shared = w.root, w.shared
	c := New(config)
	if c.broken != nil {
		w.t.Fatal(c.broken)
	}
	w.t.Cleanup(c.Close)
	c.Follow([]*podmap.Pod{{Key: podKeys[0]}, {Key: podKeys[1]}})
	return c
}

func key4(pod, i int) headers.FlowKey4 {
	k := headers.FlowKey4{
		Pod: headers.PodNumber(podKeys[pod]), Local: [4]byte{10, 0, 0, byte(pod)}, Remote: [4]byte{192, 0, 2, byte(i >> 16)}, Protocol: unix.IPPROTO_UDP,
	}
	binary.BigEndian.PutUint16(k.LocalPort[:], uint16(i))
	binary.BigEndian.PutUint16(k.RemotePort[:], 53)
	return k
}

func key6(pod, i int) headers.FlowKey6 {
	k := headers.FlowKey6{Pod: headers.PodNumber(podKeys[pod]), Local: [16]byte{0xfd, 15: byte(pod)}, Remote: [16]byte{0xfd, 1}, Protocol: unix.IPPROTO_TCP}
	binary.BigEndian.PutUint32(k.Remote[12:], uint32(i))
	return k
}

// flow is one that began now, with so many packets each way.
func (w *world) flow(received, transmitted uint64) headers.Flow {
	f := headers.Flow{First: w.now, Last: w.now}
	f.Receive.Packets, f.Receive.Bytes = received, received*100
	f.Transmit.Packets, f.Transmit.Bytes = transmitted, transmitted*100
	return f
}

func put[K any](w *world, k K, f headers.Flow) {
	w.t.Helper()
	m := w.shared["flows4"]
	if unsafe.Sizeof(k) == unsafe.Sizeof(headers.FlowKey6{}) {
		m = w.shared["flows6"]
	}
	var before headers.Flow
	if m.Lookup(&k, &before) != nil {
		w.created++
		w.count()
	}
	if err := m.Put(&k, &f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count() {
	perCPU := make([]headers.FlowTable, ebpf.MustPossibleCPU())
	perCPU[len(perCPU)-1].Created = w.created
	if err := w.shared["flow_table"].Put(uint32(0), perCPU); err != nil {
		w.t.Fatal(err)
	}
}

func drain(t testing.TB, c *Collector) {
	t.Helper()
	if err := c.drainUnless(0); err != nil {
		t.Fatal(err)
	}
	check(t, c)
}

// check compares what is reckoned in passing with what can be counted.
func check(t testing.TB, c *Collector) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	present := map[uint32]amount{}
	live := 0
	for number := c.history.all.first; number != nowhere; number = c.history.records[number].links[byPosition].after {
		r := &c.history.records[number]
		if r.state&active != 0 {
			live++
			sum := present[r.pod]
			sum.add(r.amount())
			present[r.pod] = sum
		}
	}
	if live != c.history.liveCount {
		t.Errorf("%d records are active, reckoned were %d", live, c.history.liveCount)
	}
	for place, p := range c.pods.places {
		if p != nil && p.entry.Present != present[uint32(place)] {
			t.Errorf("present of pod %x is %v, reckoned was %v", p.number, present[uint32(place)], p.entry.Present)
		}
	}
}

func totals(t testing.TB, c *Collector, pod int) (packets, bytes int64) {
	t.Helper()
	row := &v1alpha1.PodStats{Flows: &v1alpha1.FlowTotals{Created: 77}}
	if err := (snapshot{c, nil}).ReadPod(&podmap.Pod{Key: podKeys[pod]}, row); err != nil {
		t.Fatal(err)
	}
	if row.Flows.Created != 77 {
		t.Error("what another collector filled in was lost")
	}
	return row.Flows.Packets, row.Flows.Bytes
}

func table4(t testing.TB, c *Collector) *v1alpha1.FlowTable {
	t.Helper()
	row := &v1alpha1.NodeStats{}
	if err := (snapshot{c, nil}).ReadNode(row); err != nil {
		t.Fatal(err)
	}
	return row.Flows
}

// request asks for all flows of both pods.
func request() *v1alpha1.ReadFlowsRequest { return &v1alpha1.ReadFlowsRequest{PodKeys: podKeys} }

func read(t testing.TB, c *Collector, r *v1alpha1.ReadFlowsRequest) []*v1alpha1.Flow {
	t.Helper()
	var flows []*v1alpha1.Flow
	err := c.Read(t.Context(), r, func(batch *v1alpha1.ReadFlowsResponse) error {
		flows = append(flows, batch.Flows...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

// TestTotals: what passed in the flows of a pod is all of it, at whatever moments it is looked at, from either table.
func TestTotals(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			w := newWorld(t, 20_000)
			c := w.agent(Config{})
			c.flows4.single, c.flows6.single = single, single
			var want [2]int64
			for round := range uint64(3) {
				for i := range 3000 {
					pod := i % 2
					put(w, key4(pod, i), w.flow(round+1, 2))
					put(w, key6(pod, i), w.flow(round+1, 0))
				}
				drain(t, c)
				for pod := range want {
					want[pod] = 1500 * int64(2*(round+1)+2)
					if packets, bytes := totals(t, c, pod); packets != want[pod] || bytes != want[pod]*100 {
						t.Errorf("round %d: pod %d has %d packets and %d bytes in flows, want %d and %d", round, pod, packets, bytes, want[pod], want[pod]*100)
					}
				}
			}
			if table := table4(t, c); table.Present != 6000 || table.Created != 6000 || table.Evicted != 0 || table.Recorded != 6000 || table.Capacity != 40_000 {
				t.Errorf("the node's table is %v", table)
			}
			for _, version := range []int{4, 6} {
				if present, capacity := c.Table(version); present != 3000 || capacity != 20_000 {
					t.Errorf("of IPv%d there are %d flows of %d", version, present, capacity)
				}
			}
		})
	}
}

// TestEviction: a table that overflows loses flows, which is counted, and totals stand as they were last seen.
func TestEviction(t *testing.T) {
	w := newWorld(t, 512)
	c := w.agent(Config{History: 4000})
	seen := 0
	for i := range 3000 {
		put(w, key4(0, i), w.flow(1, 0))
		if i%100 == 99 {
			before, _ := totals(t, c, 0)
			drain(t, c)
			after, _ := totals(t, c, 0)
			if after < before {
				t.Fatalf("after %d flows the total fell from %d to %d", i+1, before, after)
			}
			seen = c.history.count
		}
	}
	table := table4(t, c)
	if table.Evicted != 3000-table.Present || table.Present > 512 || table.Evicted < 3000-512 {
		t.Errorf("of 3000 flows %d are present and %d were evicted", table.Present, table.Evicted)
	}
	// The table was drained more often than it filled up: every flow was seen before it was pushed out.
	if packets, _ := totals(t, c, 0); packets != int64(seen) || seen < 2900 {
		t.Errorf("%d packets in %d flows that were seen", packets, seen)
	}
	ended := 0
	for _, flow := range read(t, c, request()) {
		if flow.Ended {
			ended++
		}
	}
	if want := seen - int(table.Present); ended != want {
		t.Errorf("%d flows have ended, want %d", ended, want)
	}
}

// TestOverflowOfRecords: more flows pass between two drains than there are records.
func TestOverflowOfRecords(t *testing.T) {
	w := newWorld(t, 256)
	c := w.agent(Config{History: 100})
	for round := range 20 {
		w.now = monotonic()
		for i := range 400 {
			put(w, key4(0, round*400+i), w.flow(1, 0))
			put(w, key6(1, round*400+i), w.flow(1, 0))
		}
		before, _ := totals(t, c, 0)
		drain(t, c)
		if after, _ := totals(t, c, 0); after <= before || after > int64(w.created) {
			t.Errorf("round %d: %d packets in flows, %d before, %d sent", round, after, before, w.created)
		}
	}
	if c.unrecorded != 0 {
		t.Errorf("%d flows had no room", c.unrecorded)
	}
}

// TestRestart: totals go on over restarts of the agent, with what came while there was none, and never fall.
func TestRestart(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{})
	for i := range 100 {
		put(w, key4(0, i), w.flow(2, 1))
	}
	drain(t, c)
	c.Close()

	w.now = monotonic()
	put(w, key4(0, 0), w.flow(1000, 0)) // a former one: as if pushed out, and begun anew
	for i := range 10 {
		put(w, key4(0, 100+i), w.flow(7, 0))
	}
	c = w.agent(Config{})
	drain(t, c)
	if packets, _ := totals(t, c, 0); packets != 300+1000+70 && packets != 300+1000+70-3 {
		t.Errorf("after a restart %d packets, want %d, give or take the flow that was pushed out", packets, 300+1000+70)
	}
	before, _ := totals(t, c, 0)
	c.Close()

	// All is pushed out, or lost otherwise, while no agent runs.
	for i := range 110 {
		k := key4(0, i)
		if err := w.shared["flows4"].Delete(&k); err != nil {
			t.Fatal(err)
		}
	}
	w.now = monotonic()
	put(w, key4(0, 500), w.flow(1, 0))
	c = w.agent(Config{})
	drain(t, c)
	if packets, _ := totals(t, c, 0); packets != before+1 {
		t.Errorf("after the second restart %d packets, want %d", packets, before+1)
	}
	if table := table4(t, c); table.Evicted != 110 || table.Created != 111 {
		t.Errorf("the node's table is %v", table)
	}
	evicted := table4(t, c).Evicted
	c.Close()
	c = w.agent(Config{})
	drain(t, c)
	if packets, _ := totals(t, c, 0); packets != before+1 || table4(t, c).Evicted != evicted {
		t.Errorf("after a restart with nothing new %d packets and %d evictions, want %d and %d", packets, table4(t, c).Evicted, before+1, evicted)
	}
}

// TestFormerPods: flows of a pod that has ended while no agent ran are shown under its key.
func TestFormerPods(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{})
	put(w, key4(0, 1), w.flow(1, 0))
	drain(t, c)
	c.Close()
	c = New(Config{Root: w.root, Shared: w.shared})
	t.Cleanup(c.Close)
	if flows := read(t, c, request()); len(flows) != 1 || flows[0].PodKey != podKeys[0] {
		t.Errorf("flows are %v", flows)
	}
}

// TestLost: what the kernel could not enter is told, when there is any.
func TestLost(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{})
	drain(t, c)
	row := &v1alpha1.NodeStats{}
	if err := (snapshot{c, nil}).ReadNode(row); err != nil || len(row.Additional) != 0 {
		t.Errorf("additional counters are %v (%v)", row.Additional, err)
	}
	perCPU := make([]headers.FlowTable, ebpf.MustPossibleCPU())
	perCPU[0].Failed = 4
	if err := w.shared["flow_table"].Put(uint32(0), perCPU); err != nil {
		t.Fatal(err)
	}
	drain(t, c)
	if err := (snapshot{c, nil}).ReadNode(row); err != nil || len(row.Additional) != 1 || row.Additional[0].Value != 4 {
		t.Errorf("additional counters are %v (%v)", row.Additional, err)
	}
}

// TestSwitchedOn: what went through the tables before there was a ledger counts as created, but not as evicted.
func TestSwitchedOn(t *testing.T) {
	w := newWorld(t, 1000)
	w.created = 5000
	put(w, key4(0, 1), w.flow(3, 0))
	c := w.agent(Config{})
	drain(t, c)
	drain(t, c)
	if table := table4(t, c); table.Evicted != 0 || table.Created != 5001 || table.Present != 1 {
		t.Errorf("the node's table is %v", table)
	}
	if packets, _ := totals(t, c, 0); packets != 3 {
		t.Errorf("%d packets, want 3", packets)
	}
}

func TestIdle(t *testing.T) {
	const both = fin | syn
	for _, test := range []struct {
		name     string
		protocol uint8
		age      time.Duration
		flags    [2]uint8
		dropped  time.Duration // ago; 0 for never
		taken    bool
	}{
		{"UDP", unix.IPPROTO_UDP, 30 * time.Second, [2]uint8{}, 0, false},
		{"old UDP", unix.IPPROTO_UDP, 62 * time.Second, [2]uint8{}, 0, true},
		{"old UDP with a drop", unix.IPPROTO_UDP, 62 * time.Second, [2]uint8{}, 2 * time.Second, false},
		{"TCP", unix.IPPROTO_TCP, 30 * time.Second, [2]uint8{syn, syn}, 0, false},
		{"TCP ended one way", unix.IPPROTO_TCP, 30 * time.Second, [2]uint8{both, syn}, 0, false},
		{"TCP ended both ways", unix.IPPROTO_TCP, 6 * time.Second, [2]uint8{both, both}, 0, true},
		{"TCP reset", unix.IPPROTO_TCP, 6 * time.Second, [2]uint8{rst, syn}, 0, true},
		{"UDP whose bytes look like flags", unix.IPPROTO_UDP, 30 * time.Second, [2]uint8{both, both}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 100)
			c := w.agent(Config{})
			k := key4(0, 1)
			k.Protocol = test.protocol
			f := w.flow(3, 4)
			f.First, f.Last, f.Flags = w.now-uint64(2*time.Minute), w.now-uint64(test.age), test.flags
			if test.dropped != 0 {
				f.Drops, f.LastDrop = 1, w.now-uint64(test.dropped)
			}
			put(w, k, f)
			drain(t, c)
			var left headers.Flow
			if err := w.shared["flows4"].Lookup(&k, &left); errors.Is(err, ebpf.ErrKeyNotExist) != test.taken {
				t.Errorf("looking it up: %v, taken out is %v", err, test.taken)
			}
			flows := read(t, c, request())
			if len(flows) != 1 || flows[0].Ended != test.taken || flows[0].Receive.Packets != 3 || flows[0].Transmit.Bytes != 400 {
				t.Errorf("flows are %v", flows)
			}
			if packets, _ := totals(t, c, 0); packets != 7 {
				t.Errorf("%d packets in flows, want 7", packets)
			}
			if table := table4(t, c); table.Evicted != 0 || table.Present != map[bool]int64{true: 0, false: 1}[test.taken] {
				t.Errorf("the node's table is %v", table)
			}
		})
	}
}

// TestTakenOutWithWhatCameMeanwhile: packets that come between reading a flow and taking it out are not lost, and the
// same addresses and ports begin another flow afterwards.
func TestTakenOutWithWhatCameMeanwhile(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{})
	drain(t, c)
	f := w.flow(1, 0)
	f.First, f.Last = w.now-uint64(3*time.Minute), w.now-uint64(2*time.Minute)
	k := key4(0, 1)
	put(w, k, f)
	c.sweep.now, c.sweep.first = monotonic(), false
	c.observeAll(1, func(int) (key, *headers.Flow) { return keyOf4(c, &k), &f })
	f.Receive.Packets = 5 // meanwhile
	last := f
	whole := keyOf4(c, &k)
	c.finish(&whole, &last)
	put(w, k, w.flow(10, 0))
	drain(t, c)
	if packets, _ := totals(t, c, 0); packets != 15 {
		t.Errorf("%d packets in flows, want 15", packets)
	}
	flows := read(t, c, request())
	if len(flows) != 2 || flows[0].Receive.Packets != 5 || !flows[0].Ended || flows[1].Receive.Packets != 10 || flows[1].Ended {
		t.Errorf("flows are %v", flows)
	}
}

// TestHistoryIsBounded: the oldest that have ended make room; what is in the kernel's table stays.
func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{History: 100})
	old := func(i int) {
		f := w.flow(1, 0)
		f.Last -= uint64(70 * time.Second)
		put(w, key4(0, i), f)
	}
	put(w, key4(0, 0), w.flow(1, 0)) // stays
	drain(t, c)
	for round := range 5 {
		for i := range 60 {
			old(1 + round*60 + i)
		}
		drain(t, c) // takes them out
		drain(t, c)
	}
	flows := read(t, c, request())
	if len(flows) != 101 || flows[0].Position != 1 || flows[0].Ended || flows[1].Position != 301-99 || flows[100].Position != 301 {
		t.Errorf("%d flows, positions %d, %d to %d", len(flows), flows[0].Position, flows[1].Position, flows[len(flows)-1].Position)
	}
	table := table4(t, c)
	if table.Recorded != 101 || table.HistoryCapacity != 100 || table.OldestUnixNano != c.wall(w.now-uint64(70*time.Second)) {
		t.Errorf("the node's table is %v", table)
	}
	if packets, _ := totals(t, c, 0); packets != 301 {
		t.Errorf("%d packets in flows, want 301", packets)
	}
}

func TestAge(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{MaxAge: 5 * time.Minute})
	for i, age := range []time.Duration{6 * time.Minute, 4 * time.Minute, 0} {
		f := w.flow(1, 0)
		f.First, f.Last = w.now-uint64(10*time.Minute), w.now-uint64(age)
		put(w, key4(0, i), f)
		drain(t, c)
	}
	drain(t, c)
	flows := read(t, c, request())
	if len(flows) != 2 || flows[0].PodPort != 1 || flows[1].PodPort != 2 {
		t.Errorf("flows are %v", flows)
	}
}

// TestMemory: the largest history that can be configured stays within 40 MB with its index, and uses memory only as it
// fills.
func TestMemory(t *testing.T) {
	specs := headers.MapSpecs()
	h, err := newHistory(max(MaxHistory, int(specs["flows4"].MaxEntries+specs["flows6"].MaxEntries)))
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	t.Logf("%d bytes a record, %d in all", unsafe.Sizeof(record{}), len(h.memory))
	if len(h.memory) > 40_000_000 {
		t.Errorf("the history takes %d bytes", len(h.memory))
	}
	for i := range 1000 {
		h.add(&key{pod: uint32(i)})
	}
	resident := 0
	pages := make([]byte, len(h.memory)/unix.Getpagesize()+1)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&h.memory[0])), uintptr(len(h.memory)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, page := range pages {
		resident += int(page&1) * unix.Getpagesize()
	}
	if resident > 8<<20 {
		t.Errorf("1000 records take %d bytes", resident)
	}
	for i := 1000; !h.full(); i++ {
		h.add(&key{pod: uint32(i)})
	}
	for i := range h.count {
		if number, ok := h.find(&key{pod: uint32(i)}); !ok || h.records[number].pod != uint32(i) {
			t.Fatalf("record %d is not found", i)
		}
	}
}

func TestFilters(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{})
	now := w.now
	minute := uint64(time.Minute)
	add := func(k headers.FlowKey4, change func(*headers.Flow)) {
		f := w.flow(1, 1)
		f.First, f.Last = now-minute/2, now-minute/4
		change(&f)
		put(w, k, f)
		drain(t, c)
	}
	tcp := key4(0, 1)
	tcp.Protocol, tcp.RemotePort = unix.IPPROTO_TCP, [2]byte{0x01, 0xbb}
	add(tcp, func(f *headers.Flow) { f.BegunByTransmit = 1 })                 // position 1
	add(key4(1, 2), func(f *headers.Flow) { f.First, f.Last = now-1, now-1 }) // 2: late, the other pod
	add(key4(0, 3), func(f *headers.Flow) { f.Drops, f.LastDrop, f.DropReason = 1, now, 7 })
	add(key4(0, 4), func(f *headers.Flow) { f.Rejected, f.Transmit.Packets = 1, 0 })
	six := key6(0, 5)
	put(w, six, headers.Flow{First: now - minute/2, Last: now - minute/4})
	drain(t, c)
	for _, test := range []struct {
		name string
		ask  *v1alpha1.ReadFlowsRequest
		want []int64
	}{
		{"all", &v1alpha1.ReadFlowsRequest{}, []int64{1, 2, 3, 4, 5}},
		{"one pod", &v1alpha1.ReadFlowsRequest{PodKeys: podKeys[1:]}, []int64{2}},
		{"another pod", &v1alpha1.ReadFlowsRequest{PodKeys: []string{"x"}}, nil},
		{"since", &v1alpha1.ReadFlowsRequest{SinceUnixNano: c.wall(now - minute/8)}, []int64{2, 3}},
		{"since before all", &v1alpha1.ReadFlowsRequest{SinceUnixNano: 1}, []int64{1, 2, 3, 4, 5}},
		{"until", &v1alpha1.ReadFlowsRequest{UntilUnixNano: c.wall(now - minute/8)}, []int64{1, 3, 4, 5}},
		{"until before all", &v1alpha1.ReadFlowsRequest{UntilUnixNano: 1}, nil},
		{"behind a position", &v1alpha1.ReadFlowsRequest{AfterPosition: 2}, []int64{3, 4, 5}},
		{"limit", &v1alpha1.ReadFlowsRequest{Limit: 2}, []int64{1, 2}},
		{"begun by the pod", &v1alpha1.ReadFlowsRequest{Direction: v1alpha1.Direction_DIRECTION_TRANSMIT}, []int64{1}},
		{"begun by the peer", &v1alpha1.ReadFlowsRequest{Direction: v1alpha1.Direction_DIRECTION_RECEIVE}, []int64{2, 3, 4, 5}},
		{"TCP", &v1alpha1.ReadFlowsRequest{Protocols: []int32{6}}, []int64{1, 5}},
		{"TCP and UDP", &v1alpha1.ReadFlowsRequest{Protocols: []int32{6, 17}}, []int64{1, 2, 3, 4, 5}},
		{"the peer's port", &v1alpha1.ReadFlowsRequest{Ports: []int32{443}}, []int64{1}},
		{"the pod's port", &v1alpha1.ReadFlowsRequest{Ports: []int32{2, 4}}, []int64{2, 4}},
		{"dropped", &v1alpha1.ReadFlowsRequest{Verdicts: []v1alpha1.Verdict{v1alpha1.Verdict_VERDICT_DROPPED}}, []int64{3}},
		{"dropped or rejected", &v1alpha1.ReadFlowsRequest{Verdicts: []v1alpha1.Verdict{2, 3}}, []int64{3, 4}},
		{"peer", &v1alpha1.ReadFlowsRequest{Peers: [][]byte{six.Remote[:]}}, []int64{5}},
		{"peers", &v1alpha1.ReadFlowsRequest{Peers: [][]byte{six.Remote[:], {192, 0, 2, 0}}}, []int64{1, 2, 3, 4, 5}},
		{"another peer", &v1alpha1.ReadFlowsRequest{Peers: [][]byte{{192, 0, 2, 1}}}, nil},
		{"this instance", &v1alpha1.ReadFlowsRequest{Instance: c.instance, AfterPosition: 4}, []int64{5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.ask.PodKeys == nil {
				test.ask.PodKeys = podKeys
			}
			var got []int64
			for _, flow := range read(t, c, test.ask) {
				got = append(got, flow.Position)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("positions %v, want %v", got, test.want)
			}
		})
	}
	for _, ask := range []*v1alpha1.ReadFlowsRequest{{Instance: c.instance - 1}, {AfterPosition: 6}, {Follow: true, AfterRevision: 1 << 40}} {
		if err := c.Read(t.Context(), ask, nil); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("%v: %v, want ErrOutOfRange", ask, err)
		}
	}
}

// TestMessage: every field of a flow.
func TestMessage(t *testing.T) {
	w := newWorld(t, 100)
	asked := 0
	c := w.agent(Config{
		Reason: func(n uint16) (string, v1alpha1.Drop_Class) {
			return fmt.Sprintf("REASON_%d", n), v1alpha1.Drop_CLASS_POLICY
		},
		PeerName: func(pod uint64, peer netip.Addr) string {
			if asked++; pod != headers.PodNumber(podKeys[0]) || peer != netip.MustParseAddr("192.0.2.0") {
				t.Errorf("asked for %x and %v", pod, peer)
			}
			return map[bool]string{true: "db.example."}[asked > 1] // not known at first
		},
	})
	f := w.flow(3, 4)
	f.First -= uint64(time.Second)
	f.Drops, f.LastDrop, f.DropReason, f.Flags, f.HandshakeMicroseconds, f.BegunByTransmit = 2, w.now+1, 9, [2]uint8{1, 2}, 250, 1
	put(w, key4(0, 8080), f)
	drain(t, c)
	drain(t, c)
	want := &v1alpha1.Flow{
		Position: 1, Revision: 2, PodKey: podKeys[0], PodAddress: []byte{10, 0, 0, 0}, PeerAddress: []byte{192, 0, 2, 0},
		PodPort: 8080, PeerPort: 53, Protocol: 17, Direction: v1alpha1.Direction_DIRECTION_TRANSMIT,
		Receive: &v1alpha1.Counters{Packets: 3, Bytes: 300}, Transmit: &v1alpha1.Counters{Packets: 4, Bytes: 400},
		StartUnixNano: c.wall(f.First), LastUnixNano: c.wall(f.LastDrop), Verdict: v1alpha1.Verdict_VERDICT_DROPPED,
		Dropped: 2, DropReason: "REASON_9", DropClass: v1alpha1.Drop_CLASS_POLICY, ReceiveFlags: 1, TransmitFlags: 2,
		HandshakeNano: 250_000, PeerName: "db.example.",
	}
	if flows := read(t, c, request()); len(flows) != 1 || !proto.Equal(flows[0], want) {
		t.Errorf("flows are\n%v, want\n%v", flows, want)
	}
	if asked != 2 {
		t.Errorf("the name was asked for %d times", asked)
	}
}

// TestPages: many flows, in pages and in batches below the limit, each once and in order.
func TestPages(t *testing.T) {
	w := newWorld(t, 20_000)
	c := w.agent(Config{PeerName: func(uint64, netip.Addr) string { return string(make([]byte, 200)) }})
	for i := range 5000 {
		put(w, key4(i%2, i), w.flow(1, 1))
	}
	drain(t, c)
	seen, position := 0, int64(0)
	for {
		n := 0
		ask := request()
		ask.AfterPosition, ask.Limit = position, 700
		err := c.Read(t.Context(), ask, func(batch *v1alpha1.ReadFlowsResponse) error {
			if size := proto.Size(batch); size > v1alpha1.MaxBatchBytes {
				t.Errorf("a batch has %d bytes", size)
			}
			if batch.Instance != c.instance || batch.Revision == 0 {
				t.Errorf("instance %d, revision %d", batch.Instance, batch.Revision)
			}
			for _, flow := range batch.Flows {
				if flow.Position <= position {
					t.Fatalf("position %d after %d", flow.Position, position)
				}
				position = flow.Position
				n++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if seen += n; n < 700 {
			break
		}
	}
	batches := 0
	if err := c.Read(t.Context(), request(), func(*v1alpha1.ReadFlowsResponse) error { batches++; return nil }); err != nil {
		t.Fatal(err)
	}
	if seen != 5000 || batches < 5 {
		t.Errorf("%d flows in pages, want 5000; %d batches for all", seen, batches)
	}
}

// A listener is a follower of the history.
type listener struct {
	t     testing.TB
	stop  context.CancelFunc
	ended chan error

	mu       sync.Mutex
	flows    map[int64]*v1alpha1.Flow // what it knows, by position
	gone     int
	revision int64 // up to which it knows everything
	batches  int
}

func listen(t testing.TB, c *Collector, ask *v1alpha1.ReadFlowsRequest) *listener {
	ctx, stop := context.WithCancel(t.Context())
	l := &listener{t: t, stop: stop, ended: make(chan error, 1), flows: map[int64]*v1alpha1.Flow{}}
	ask.Follow = true
	go func() { l.ended <- c.Read(ctx, ask, l.receive) }()
	return l
}

func (l *listener) receive(batch *v1alpha1.ReadFlowsResponse) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches++
	for _, position := range batch.Gone {
		l.gone++
		delete(l.flows, position)
	}
	for _, flow := range batch.Flows {
		l.flows[flow.Position] = flow
	}
	if batch.Current {
		l.revision = batch.Revision
	}
	return nil
}

func (l *listener) await(what string, condition func() bool) {
	l.t.Helper()
	fakepod.Eventually(l.t, what, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return condition()
	}, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Sprintf("%d flows, %d gone, revision %d", len(l.flows), l.gone, l.revision)
	})
}

// TestFollow: with the agent running, a follower is told of what there is, what begins, changes, ends and goes.
func TestFollow(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{History: 1000})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	defer func() { stop(); <-done }()
	put(w, key4(0, 1), w.flow(1, 0))
	l := listen(t, c, request())
	l.await("the flow that was there", func() bool { return len(l.flows) == 1 && l.revision > 0 })
	if c.pause() != drainFollowed || drainFollowed >= time.Second {
		t.Error("drains are not more frequent when somebody follows")
	}
	put(w, key6(1, 1), w.flow(2, 0))
	l.await("a flow that began", func() bool { return len(l.flows) == 2 && l.flows[2] != nil && l.flows[2].Receive.Packets == 2 })
	put(w, key4(0, 1), w.flow(5, 0))
	l.await("a flow that changed", func() bool { return l.flows[1].Receive.Packets == 5 && !l.flows[1].Ended })
	f := w.flow(6, 0)
	f.Last -= uint64(2 * time.Minute)
	put(w, key4(0, 1), f)
	l.await("a flow that ended", func() bool { return l.flows[1].Ended && l.flows[1].Receive.Packets == 6 })
	c.mu.Lock()
	c.config.MaxAge = time.Minute
	c.mu.Unlock()
	l.await("a flow that went", func() bool { return l.flows[1] == nil && l.gone == 1 })
	l.stop()
	if err := <-l.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("following ended with %v", err)
	}
	if c.pause() != drainEvery {
		t.Error("drains are as frequent when nobody follows any more")
	}
	l = listen(t, c, request())
	l.await("the rest", func() bool { return len(l.flows) == 1 })
	stop()
	if err := <-l.ended; !errors.Is(err, ErrEnding) {
		t.Errorf("following ended with %v when the agent ended", err)
	}
}

// TestResume: a follower that comes back is told what changed and what went since, unless that is no longer known.
func TestResume(t *testing.T) {
	w := newWorld(t, 20_000)
	c := w.agent(Config{History: 5000})
	for i := range 4000 {
		put(w, key4(0, i), w.flow(1, 0))
	}
	drain(t, c)
	l := listen(t, c, request())
	l.await("all", func() bool { return len(l.flows) == 4000 && l.revision > 0 })
	l.stop()
	<-l.ended
	known := l.revision

	put(w, key4(0, 0), w.flow(2, 0))
	for i := 1; i <= 3; i++ { // they end
		f := w.flow(1, 0)
		f.Last -= uint64(2 * time.Minute)
		put(w, key4(0, i), f)
	}
	drain(t, c)
	resume := func(pods []string) *listener {
		return listen(t, c, &v1alpha1.ReadFlowsRequest{PodKeys: pods, AfterRevision: known, Instance: c.instance})
	}
	l = resume(podKeys)
	l.await("what changed", func() bool { return len(l.flows) == 4 && l.gone == 0 && l.revision > known })
	known = l.revision
	c.mu.Lock()
	c.config.MaxAge = time.Minute
	c.mu.Unlock()
	drain(t, c)
	l.await("what went", func() bool { return len(l.flows) == 1 && l.gone == 3 })
	l.stop()
	<-l.ended
	l = resume(podKeys)
	l.await("what went since", func() bool { return l.gone == 3 && len(l.flows) == 0 })
	l.stop()
	<-l.ended
	l = resume(podKeys[1:])
	l.await("nothing of another pod", func() bool { return l.revision > known })
	if l.gone != 0 || len(l.flows) != 0 {
		t.Errorf("another pod's follower was told of %d flows, and that %d went", len(l.flows), l.gone)
	}
	l.stop()
	<-l.ended

	// Ever more go than are remembered.
	for round := range 3 {
		for i := range 4000 {
			f := w.flow(1, 0)
			f.First, f.Last = w.now-uint64(3*time.Minute), w.now-uint64(2*time.Minute)
			put(w, key4(1, 10_000+round*4000+i), f)
		}
		drain(t, c)
	}
	l = resume(podKeys)
	if err := <-l.ended; !errors.Is(err, ErrOutOfRange) {
		t.Errorf("after many went, resuming gave %v", err)
	}
}

// TestFollowVerdict: a follower that asks for some verdicts is told of flows that gain one of them, or lose it.
func TestFollowVerdict(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{})
	f := w.flow(1, 0)
	put(w, key4(0, 1), f)
	drain(t, c)
	ask := request()
	ask.Verdicts = []v1alpha1.Verdict{v1alpha1.Verdict_VERDICT_DROPPED}
	l := listen(t, c, ask)
	l.await("nothing yet", func() bool { return len(l.flows) == 0 && l.revision > 0 })
	f.Drops, f.LastDrop = 1, f.Last+1
	put(w, key4(0, 1), f)
	drain(t, c)
	l.await("a drop", func() bool { return len(l.flows) == 1 && l.flows[1].DropReason == "0" })
	f.Last = f.LastDrop + 1
	put(w, key4(0, 1), f)
	drain(t, c)
	l.await("the next packet", func() bool { return len(l.flows) == 0 && l.gone == 1 })
	l.stop()
	<-l.ended
}

// TestSlowFollower: who does not receive holds up nobody, and is told in the end that flows are gone of which it was
// never told.
func TestSlowFollower(t *testing.T) {
	w := newWorld(t, 5000)
	c := w.agent(Config{History: 1000})
	put(w, key4(0, 0), w.flow(1, 0))
	drain(t, c)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	ended := make(chan error, 1)
	ask := request()
	ask.Follow = true
	go func() {
		ended <- c.Read(t.Context(), ask, func(*v1alpha1.ReadFlowsResponse) error {
			held <- struct{}{}
			<-hold
			return nil
		})
	}()
	<-held
	for i := range 3000 {
		f := w.flow(1, 0)
		f.Last -= uint64(2 * time.Minute)
		put(w, key4(0, 1+i), f)
		if i%1000 == 999 {
			drain(t, c)
		}
	}
	if n := len(read(t, c, request())); n != 1001 {
		t.Errorf("another reader got %d flows", n)
	}
	close(hold)
	if err := <-ended; !errors.Is(err, ErrOutOfRange) {
		t.Errorf("following ended with %v", err)
	}
}

// TestFollowersConverge: whatever happens, a follower that keeps up knows what a reader is told.
func TestFollowersConverge(t *testing.T) {
	w := newWorld(t, 3000)
	c := w.agent(Config{History: 1500})
	l := listen(t, c, request())
	for round := range 30 {
		for i := range 200 {
			f := w.flow(uint64(round+1), 0)
			if (i+round)%3 == 0 {
				f.Last -= uint64(2 * time.Minute)
			}
			put(w, key4(i%2, (round*37+i)%2000), f)
		}
		drain(t, c)
		revision := int64(c.history.revision)
		l.await("a round", func() bool { return l.revision == revision })
	}
	want := read(t, c, request())
	if len(want) != len(l.flows) {
		t.Errorf("the follower knows %d flows, a reader %d", len(l.flows), len(want))
	}
	for _, flow := range want {
		if !proto.Equal(flow, l.flows[flow.Position]) {
			t.Errorf("the follower knows %v, a reader %v", l.flows[flow.Position], flow)
		}
	}
	l.stop()
	<-l.ended
}

func TestWithoutMaps(t *testing.T) {
	c := New(Config{})
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	c.Run(ctx)
	c.Follow(nil)
	if state, message := c.State(); state != v1alpha1.Collector_STATE_OFF || message == "" {
		t.Errorf("state %v: %s", state, message)
	}
	if c.Snapshot().ReadNode(&v1alpha1.NodeStats{}) == nil || c.Snapshot().ReadPod(&podmap.Pod{}, &v1alpha1.PodStats{}) == nil || c.Read(t.Context(), request(), nil) == nil {
		t.Error("reading gave no error")
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	a, b := n.take("a"), n.take("b")
	if a == b || n.take("a") != a || n.take("") != 0 || n.take(string(make([]byte, 256))) != 0 {
		t.Error("names are not told apart")
	}
	n.release(a)
	n.release(b)
	if n.texts[a] != "a" || n.take("c") != b || n.texts[b] != "c" {
		t.Error("a name was given up too early, or its number not used again")
	}
	for i := range 2 * maxNames {
		n.take(fmt.Sprint(i))
	}
	if len(n.texts) != maxNames+1 {
		t.Errorf("%d names are held", len(n.texts)-1)
	}
}
