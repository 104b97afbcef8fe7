package tcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const (
	// linger is how long the totals of a pod are kept after its last process: its sandbox may be made anew.
	linger = 2 * time.Minute
	// most is how many pods that have gone are kept at a time.
	most = 256
)

// Config is what New needs.
type Config struct {
	// Root is the folder of this node's pins (nodeagent/pins).
	Root string
	// Shared are the maps of bpf/headers.
	Shared map[string]*ebpf.Map
	// Without names hooks that shall be taken for missing.
	Without []string
}

// Collector follows TCP sockets. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Collector struct {
	folder string
	// problem is why nothing works, incomplete why rows lack something.
	problem, incomplete error
	traced              *pins.Traced
	// byCgroup tells which pods in the node's network can be told from it.
	byCgroup *ebpf.Map
	// read, count and seed are nil where the kernel lacks the iterator.
	read, count, seed *link.Iter
	// live is what count leaves.
	live *ebpf.Map
	// environment are the API servers that the environment names.
	environment []netip.AddrPort
	seeds       *queue

	mu sync.Mutex
	// unfollowed is why pods are not followed.
	unfollowed error
	// apiProblem is about the addresses of API servers.
	apiProblem error
	apiKnown   bool

	// iterating makes runs of the iterators wait for each other: a seed that learns to which pod a socket belongs must
	// not meet one that adds to the pod's totals. It guards what follows.
	iterating sync.Mutex
	buffer    []byte
	// settled is when totals were last brought up to date.
	settled time.Time

	// What follows belongs to Follow.
	followed map[uint64]bool
	gone     map[uint64]time.Time
}

// New makes a collector, and attaches it to what the kernel offers.
func New(config Config) *Collector {
	c := &Collector{
		folder: filepath.Join(config.Root, bpf.Layout), byCgroup: config.Shared["pods_by_cgroup"],
		seeds: newQueue(), followed: map[uint64]bool{}, gone: map[uint64]time.Time{}, buffer: make([]byte, portion),
	}
	if c.byCgroup == nil {
		c.problem = errors.New("there are no maps of pods")
		return c
	}
	if c.problem = c.start(config); c.problem != nil {
		c.Close()
	}
	return c
}

func (c *Collector) start(config Config) error {
	spec, err := bpf.Load()
	if err != nil {
		return err
	}
	if c.live, err = ebpf.NewMap(spec.Maps[bpf.MapLive]); err != nil {
		return fmt.Errorf("making the map of what there is: %w", err)
	}
	maps := maps.Clone(config.Shared)
	maps[bpf.MapLive] = c.live
	if c.traced, err = pins.Trace(c.folder, spec, maps, config.Without); err != nil {
		return err
	}
	c.read = c.iterator(spec.Programs[bpf.ProgramRead], c.traced.Maps[bpf.MapSockets])
	c.count = c.iterator(spec.Programs[bpf.ProgramCount], c.traced.Maps[bpf.MapSockets])
	c.seed = c.iterator(spec.Programs[bpf.ProgramSeed], nil)
	for name, without := range map[string]string{
		bpf.ProgramStateChanges: "connections that were opened or closed since then are not counted",
		bpf.ProgramRead:         "open connections cannot be read",
	} {
		if cause := c.traced.Problems[spec.Programs[name].AttachTo]; cause != nil {
			c.incomplete = errors.Join(c.incomplete, fmt.Errorf("%s: %w", without, cause))
		}
	}
	// What a former agent learned stays until APIServers.
	address := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	if endpoint, err := netip.ParseAddrPort(address); err == nil {
		c.environment = append(c.environment, endpoint)
	}
	known, err := c.putAPIServers(c.environment, false)
	c.apiProblem, c.apiKnown = err, known > 0
	return c.follow(headers.Node, time.Now())
}

// iterator makes a program that is run on request ready to run; nil where that cannot be, which the state says.
func (c *Collector) iterator(spec *ebpf.ProgramSpec, over *ebpf.Map) *link.Iter {
	program := c.traced.Iterators[spec.Name]
	if program == nil {
		return nil
	}
	ready, err := link.AttachIter(link.IterOptions{Program: program, Map: over})
	if err != nil {
		c.traced.Problems[spec.AttachTo] = fmt.Errorf("attaching: %w", err)
		return nil
	}
	return ready
}

// missed is how often a program did not run because it was running already on the same CPU, for another socket: an interrupt came
// (docs/collectors.md). It begins anew with every release that has other programs.
func (c *Collector) missed() (sum uint64) {
	for _, name := range []string{bpf.ProgramStateChanges, bpf.ProgramResetSent, bpf.ProgramResetReceived} {
		attached, err := link.LoadPinnedLink(filepath.Join(c.folder, name), nil)
		if err != nil {
			continue // the state says so
		}
		sum += misses(attached)
		attached.Close()
	}
	return sum
}

// misses is 0 on kernels that do not tell (before 5.12).
func misses(attached link.Link) uint64 {
	info, err := attached.Info()
	if err != nil {
		return 0
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return 0
	}
	defer program.Close()
	stats, err := program.Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}

// Close lets go of the maps. What is attached goes on counting, and a new collector finds it.
func (c *Collector) Close() {
	for _, iterator := range []*link.Iter{c.read, c.count, c.seed} {
		if iterator != nil {
			iterator.Close()
		}
	}
	if c.live != nil {
		c.live.Close()
	}
	if c.traced != nil {
		c.traced.Close()
	}
}

// Name is how users know the collector.
func (*Collector) Name() string { return "tcp" }

// Hooks says of each hook whether it is there; nil when it is not known.
func (c *Collector) Hooks() map[string]bool {
	if c.traced == nil {
		return nil
	}
	return c.traced.Hooks()
}

// State says which hooks are missing, and what of the totals with them.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	if c.problem != nil {
		return v1alpha1.Collector_STATE_OFF, c.problem.Error()
	}
	var messages []string
	for _, hook := range slices.Sorted(maps.Keys(c.traced.Problems)) {
		messages = append(messages, fmt.Sprintf("%s: %v", hook, c.traced.Problems[hook]))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range []error{c.unfollowed, c.apiProblem, c.seeds.problem()} {
		if err != nil {
			messages = append(messages, err.Error())
		}
	}
	if len(messages) > 0 {
		return v1alpha1.Collector_STATE_DEGRADED, strings.Join(messages, "; ")
	}
	return v1alpha1.Collector_STATE_RUNNING, "at changes of state, no packet is looked at"
}

// Follow makes totals for the pods that are new, and deletes those of pods that are gone for long. Pods that cannot be
// told from the node are left alone.
func (c *Collector) Follow(pods []*podmap.Pod) {
	if c.problem != nil {
		return
	}
	now := time.Now()
	attributed, err := c.attributed()
	problems := []error{err}
	live := map[uint64]bool{headers.Node: true}
	var fresh []*podmap.Pod
	for _, pod := range pods {
		number := headers.PodNumber(pod.Key)
		if pod.HostNetwork && !attributed[number] {
			continue
		}
		live[number] = true
		if c.followed[number] {
			continue
		}
		if err := c.follow(number, now); err != nil {
			problems = append(problems, fmt.Errorf("pod %s: %w", pod.Key, err))
			delete(live, number) // tried again
			continue
		}
		fresh = append(fresh, pod)
	}
	c.seeds.follow(pods, fresh)
	c.followed = live
	problems = append(problems, c.sweep(now))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unfollowed = errors.Join(problems...)
}

// attributed are the pods in the node's network that can be told from it.
func (c *Collector) attributed() (map[uint64]bool, error) {
	pods := map[uint64]bool{}
	var cgroup, number uint64
	entries := c.byCgroup.Iterate()
	for entries.Next(&cgroup, &number) {
		pods[number] = true
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("reading which pods use the node's network: %w", err)
	}
	return pods, nil
}

// follow makes totals for a pod, unless there are some: of a former agent, or of the pod's former sandbox.
func (c *Collector) follow(number uint64, now time.Time) error {
	err := c.traced.Maps[bpf.MapTotals].Update(number, &bpf.Totals{StartUnixNano: now.UnixNano()}, ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("making totals: %w", err)
	}
	return nil
}

// sweep deletes the totals of pods that are gone for long.
func (c *Collector) sweep(now time.Time) error {
	totals := c.traced.Maps[bpf.MapTotals]
	numbers, err := keys(totals)
	kept := map[uint64]time.Time{}
	for _, number := range numbers {
		if c.followed[number] {
			continue
		}
		since, known := c.gone[number]
		if !known {
			since = now
		}
		if now.Sub(since) < linger && len(kept) < most {
			kept[number] = since
			continue
		}
		if failed := totals.Delete(number); failed != nil && !errors.Is(failed, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("deleting totals: %w", failed))
		}
	}
	c.gone = kept
	return err
}

func keys(m *ebpf.Map) ([]uint64, error) {
	var all []uint64
	var before any
	for {
		var key uint64
		err := m.NextKey(before, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("listing totals: %w", err)
		}
		all = append(all, key)
		before = key
	}
}

// APIServers learns where the Kubernetes API is served ("192.0.2.1:6443"). Connections that are open already are looked
// at again.
func (c *Collector) APIServers(addresses []string) {
	if c.problem != nil {
		return
	}
	endpoints := slices.Clone(c.environment)
	var problems []error
	for _, address := range addresses {
		endpoint, err := netip.ParseAddrPort(address)
		if err != nil {
			problems = append(problems, fmt.Errorf("reading the address of an API server: %w", err))
			continue
		}
		endpoints = append(endpoints, endpoint)
	}
	known, err := c.putAPIServers(endpoints, true)
	c.mu.Lock()
	c.apiProblem, c.apiKnown = errors.Join(append(problems, err)...), known > 0
	c.mu.Unlock()
	c.seeds.again()
}

// putAPIServers tells the kernel, and returns how many it knows now. With only, it knows no others.
func (c *Collector) putAPIServers(endpoints []netip.AddrPort, only bool) (known int, err error) {
	m := c.traced.Maps[bpf.MapAPIServers]
	var problems []error
	want := map[bpf.Endpoint]bool{}
	for _, endpoint := range endpoints {
		key := bpf.Endpoint{Address: headers.AddressOf(endpoint.Addr())}
		binary.BigEndian.PutUint16(key.Port[:], endpoint.Port())
		want[key] = true
		problems = append(problems, m.Put(key, uint8(1)))
	}
	var key bpf.Endpoint
	var value uint8
	var have []bpf.Endpoint
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		have = append(have, key)
	}
	problems = append(problems, entries.Err())
	for _, key := range have {
		switch {
		case want[key] || !only:
			known++
		default:
			problems = append(problems, m.Delete(key))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return known, fmt.Errorf("keeping the addresses of API servers: %w", err)
	}
	return known, nil
}

// Run follows the sockets that pods had before, until the context ends.
func (c *Collector) Run(ctx context.Context) {
	if c.problem != nil || c.seed == nil {
		return
	}
	c.seeds.run(ctx, c.seedPod)
}
