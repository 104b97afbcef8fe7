package drops

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/drops"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const (
	// layout names the meaning of the bytes in the maps.
	layout = "drops-v1"
	// linger is how long rows of a pod without a live process are kept: while a sandbox is made anew, a pod has none.
	linger = 2 * time.Minute
)

// Config is what New needs.
type Config struct {
	// Root is the folder of this node's pins (nodeagent/pins).
	Root string
	// Shared are the maps of bpf/headers.
	Shared map[string]*ebpf.Map
	// Without names hooks that shall be taken for missing.
	Without []string
	// Flows says whether drops are noted in the tables of flows, too.
	Flows bool
}

// Collector reads what was dropped. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Collector struct {
	kernel bpf.Kernel
	// problem is why nothing is counted.
	problem error
	traced  *pins.Traced
	program *ebpf.Program

	mu sync.Mutex
	// sweeping is what went wrong when rows were last swept.
	sweeping error
	closed   bool

	// gone belongs to Follow: since when pods that have rows are gone, by number.
	gone map[uint64]time.Time
}

// New attaches the program, or finds it attached.
func New(config Config) *Collector {
	kernel, err := bpf.Look()
	return start(config, kernel, err)
}

func start(config Config, kernel bpf.Kernel, err error) *Collector {
	c := &Collector{kernel: kernel, problem: err, gone: map[uint64]time.Time{}}
	if c.problem == nil {
		c.problem = c.attach(config)
	}
	return c
}

func (c *Collector) attach(config Config) error {
	if config.Shared == nil {
		return errors.New("the maps of this node are missing")
	}
	spec, err := bpf.Spec(c.kernel)
	if err != nil {
		return err
	}
	folder := filepath.Join(config.Root, layout)
	if err := prepare(folder, spec, settings(c.kernel.Reasons, config.Flows)); err != nil {
		return err
	}
	former := attached(folder, spec)
	if former != nil {
		defer former.Close()
	}
	if c.traced, err = pins.Trace(folder, spec, config.Shared, config.Without); err != nil {
		return err
	}
	if err := c.traced.Problems[bpf.Hook]; err != nil {
		return err
	}
	c.program = attached(folder, spec)
	return c.keepMissed(former)
}

// prepare writes the settings before a program is attached that reads them.
func prepare(folder string, spec *ebpf.CollectionSpec, settings bpf.SettingsOf) error {
	made, err := pins.Maps(folder, map[string]*ebpf.MapSpec{bpf.Settings: spec.Maps[bpf.Settings]})
	if err != nil {
		return err
	}
	defer pins.CloseAll(made)
	if err := made[bpf.Settings].Put(uint32(0), settings); err != nil {
		return fmt.Errorf("writing settings: %w", err)
	}
	return nil
}

// attached is the program that is attached now, or nil. The caller closes it.
func attached(folder string, spec *ebpf.CollectionSpec) *ebpf.Program {
	for name := range spec.Programs {
		pinned, err := link.LoadPinnedLink(filepath.Join(folder, name), nil)
		if err != nil {
			continue
		}
		defer pinned.Close()
		info, err := pinned.Info()
		if err != nil {
			return nil
		}
		program, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return nil
		}
		return program
	}
	return nil
}

// keepMissed adds what a former program missed to what others did, if another one has taken its place.
func (c *Collector) keepMissed(former *ebpf.Program) error {
	if former == nil || c.program == nil {
		return nil
	}
	before, err1 := former.Info()
	now, err2 := c.program.Info()
	if err1 != nil || err2 != nil {
		return errors.Join(err1, err2)
	}
	old, _ := before.ID()
	if id, _ := now.ID(); id == old {
		return nil
	}
	missed, err := c.lost(bpf.MissedBefore)
	if err != nil {
		return err
	}
	statistics, err := former.Stats()
	if err != nil {
		return fmt.Errorf("reading the statistics of a program: %w", err)
	}
	if err := c.traced.Maps[bpf.Lost].Put(bpf.MissedBefore, missed+statistics.RecursionMisses); err != nil {
		return fmt.Errorf("writing what former programs missed: %w", err)
	}
	return nil
}

func (c *Collector) lost(entry uint32) (value uint64, err error) {
	if err := c.traced.Maps[bpf.Lost].Lookup(entry, &value); err != nil {
		return 0, fmt.Errorf("reading what was lost: %w", err)
	}
	return value, nil
}

// missed is how many events no program saw, because they came while it ran on the same CPU.
func (c *Collector) missed() (uint64, error) {
	missed, err := c.lost(bpf.MissedBefore)
	if err != nil || c.program == nil {
		return missed, err
	}
	statistics, err := c.program.Stats()
	if err != nil {
		return 0, fmt.Errorf("reading the statistics of a program: %w", err)
	}
	return missed + statistics.RecursionMisses, nil
}

// Name is how users know the collector.
func (*Collector) Name() string { return "drops" }

// Hooks says whether the program is attached.
func (c *Collector) Hooks() map[string]bool { return map[string]bool{bpf.Hook: c.problem == nil} }

// State says whether drops are counted.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	if c.problem != nil {
		return v1alpha1.Collector_STATE_OFF, c.problem.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return v1alpha1.Collector_STATE_OFF, "is closed"
	}
	if c.sweeping != nil {
		return v1alpha1.Collector_STATE_DEGRADED, c.sweeping.Error()
	}
	lost, err := c.lost(bpf.LostPackets)
	if err != nil {
		return v1alpha1.Collector_STATE_DEGRADED, err.Error()
	}
	if lost > 0 {
		return v1alpha1.Collector_STATE_DEGRADED, fmt.Sprintf("the table of pods was full: %d packets are not counted", lost)
	}
	if !c.kernel.Receivers {
		return v1alpha1.Collector_STATE_RUNNING, "attached to kfree_skb, which does not tell receiving sockets before Linux 6.11"
	}
	return v1alpha1.Collector_STATE_RUNNING, "attached to kfree_skb"
}

// Follow lets go of the rows of pods that are gone for long.
func (c *Collector) Follow(pods []*podmap.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.problem != nil || c.closed {
		return
	}
	live := map[uint64]bool{headers.Node: true}
	for _, pod := range pods {
		live[headers.PodNumber(pod.Key)] = true
	}
	c.sweeping = c.sweep(live, time.Now())
}

// sweep deletes what belongs to pods that are gone for longer than linger.
func (c *Collector) sweep(live map[uint64]bool, now time.Time) error {
	var number uint64
	var account bpf.Account
	gone, expired := map[uint64]time.Time{}, map[uint64]bool{}
	entries := c.traced.Maps[bpf.Accounts].Iterate()
	for entries.Next(&number, &account) {
		if live[number] {
			continue
		}
		since, known := c.gone[number]
		if !known {
			since = now
		}
		gone[number] = since
		expired[number] = now.Sub(since) > linger
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading the table of pods: %w", err)
	}
	c.gone = gone
	return c.forget(expired)
}

// forget deletes the rows of pods and then their accounts.
func (c *Collector) forget(pods map[uint64]bool) error {
	var any bool
	for _, expired := range pods {
		any = any || expired
	}
	if !any {
		return nil
	}
	var problems []error
	err := eachRow(c.traced.Maps[bpf.Rows], func(row *bpf.Row, _ uint64) {
		if pods[row.Pod] {
			problems = append(problems, remove(c.traced.Maps[bpf.Rows], row))
		}
	})
	problems = append(problems, err)
	for number, expired := range pods {
		if expired {
			problems = append(problems, remove(c.traced.Maps[bpf.Accounts], number))
			delete(c.gone, number)
		}
	}
	return errors.Join(problems...)
}

func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forgetting a pod: %w", err)
	}
	return nil
}

// Close lets go of the maps. What is attached goes on counting, and a new collector finds it.
func (c *Collector) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if c.traced != nil {
		c.traced.Close()
	}
	if c.program != nil {
		c.program.Close()
	}
}
