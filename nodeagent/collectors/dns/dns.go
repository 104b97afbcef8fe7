// Package dns shows DNS as each pod sees it that asks: queries, responses by type and code, latency, what stayed
// unanswered, and the names most asked for.
//
// bpf/dns counts in the kernel and keeps its counters over restarts of the agent. Names come through a ring buffer,
// with a budget for each pod: what is beyond is counted as lost, and changes no other number. They begin anew with the
// agent. From the same responses it is known under which name a pod looked an address up (PeerName).
//
// What the numbers mean:
//
//   - A pod counts as a client only: what it sends to port 53, and what it receives from there. The queries that a
//     server of DNS receives are not its own.
//
//   - queries are messages, so one that is asked again counts again. Types beyond the first 16 that a pod asks for are
//     counted as type 65535. Updates, notifications and other messages that look nothing up are not counted.
//
//   - responses are all that come over UDP, also those that answer nothing; the values of latency are how many answered
//     a query, and each query is answered once. Codes are those of the header: what EDNS adds to them is not read.
//
//   - latency is from when a question was first asked to its answer; a question that is asked again with the same id is
//     the same one.
//
//   - unanswered are questions without answer for 10 s. An answer that comes later counts as a response.
//
//   - unparsed are UDP packets in which there is no message, no whole question, or an opcode that does not exist.
//
//   - lost are exchanges of which the name is not known: more than 1,024 questions of the pod were open (their answers
//     have no latency then), more than 200 answers came in a second, no agent ran to read them, or the response does not
//     repeat the question.
//
//   - Over TCP a message is read where its length stands at the beginning of a segment, or behind a message that does;
//     queries must be in one segment. What is not read is in no number.
//
//   - names are counted when a question is answered or given up. Only answers to what a pod asked name anything.
//
//   - The node's row is the sum of its pods, those that have gone included. What processes outside of pods ask is in none.
//
//     dns.go      the collector: loading, reading rows, forgetting pods
//     events.go   what comes through the ring buffer, and giving up queries
//     names.go    names as text, the names most asked for
//     peers.go    names by address
//     message.go  decoding of responses
package dns

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/dns"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/histograms"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Config is what New needs.
type Config struct {
	// Root is the folder of this node's pins (nodeagent/pins).
	Root string
	// Shared are the maps of bpf/headers.
	Shared map[string]*ebpf.Map
	// Without names hooks that shall be taken for missing. Those here are inspectors, cgroup_inspectors and syscall.
	Without []string
	// Names is how many names a row shows; with 0 no names are kept at all, nor those of addresses.
	Names int
}

const (
	// linger is how long the state of a pod without a live process is kept.
	linger = 2 * time.Minute
	// lookEvery is how often state of pods that are gone is looked for.
	lookEvery = 30 * time.Second
)

// departed is the key, no pod's, of what pods had counted that have gone: the node's numbers only rise.
const departed uint64 = 0

// Collector shows DNS. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Collector struct {
	config   Config
	maps     map[string]*ebpf.Map
	sweep    *ebpf.Program
	reader   *ringbuf.Reader
	problems []string
	// hooks are where programs belong, and whether they are there.
	hooks map[string]bool
	// off is why nothing works.
	off error
	// patience is after which time a query is unanswered.
	patience time.Duration

	mu sync.Mutex
	// asked are the names of each pod, and of the node as headers.Node.
	asked map[uint64]*ranking
	peers *peers
	// sweeping is what went wrong when queries were last given up, or events read.
	sweeping error

	// counting guards what user space writes into the map of pods.
	counting sync.Mutex

	// What follows belongs to Follow.
	looked time.Time
	gone   map[uint64]time.Time
}

// New makes a collector, and puts its programs where bpf/traffic finds them. They stay there until a later agent's take
// their place.
func New(config Config) *Collector {
	c := &Collector{
		config: config, patience: bpf.Patience, hooks: map[string]bool{"inspectors": false, "cgroup_inspectors": false},
		asked: map[uint64]*ranking{}, peers: newPeers(), gone: map[uint64]time.Time{},
	}
	if c.off = c.open(); c.off != nil {
		c.Close()
	}
	return c
}

// open makes what there is to be made. Hooks that are missing are problems, but leave the others working.
func (c *Collector) open() error {
	if c.config.Shared == nil {
		return errors.New("the maps that programs share are not there")
	}
	specs, err := bpf.MapSpecs()
	if err != nil {
		return err
	}
	if c.maps, err = pins.Maps(filepath.Join(c.config.Root, bpf.Layout), specs); err != nil {
		return err
	}
	if c.reader, err = ringbuf.NewReader(c.maps[bpf.Events]); err != nil {
		return fmt.Errorf("opening the ring buffer of events: %w", err)
	}
	interfaces, sockets := c.offer(bpf.Interface, "inspectors"), c.offer(bpf.Socket, "cgroup_inspectors")
	c.hooks["inspectors"], c.hooks["cgroup_inspectors"] = interfaces == nil, sockets == nil
	c.note("DNS of pods with a network of their own is not seen", interfaces)
	c.note("DNS of pods in the node's network is not seen", sockets)
	if interfaces != nil && sockets != nil {
		return interfaces
	}
	c.sweep, err = c.load(bpf.Sweep, "syscall")
	c.note("unanswered queries are not counted, and the table of queries fills up", err)
	return nil
}

func (c *Collector) note(consequence string, err error) {
	if err != nil {
		c.problems = append(c.problems, fmt.Sprintf("%s: %v", consequence, err))
	}
}

func (c *Collector) load(program bpf.Program, hook string) (*ebpf.Program, error) {
	if slices.Contains(c.config.Without, hook) {
		return nil, fmt.Errorf("%s is taken for missing, as configured", hook)
	}
	maps := map[string]*ebpf.Map{"inspection": c.config.Shared["inspection"]}
	for name, m := range c.maps {
		maps[name] = m
	}
	return bpf.Load(program, maps, c.config.Names > 0)
}

// offer puts a program into one of the arrays of inspectors, in place of a former agent's.
func (c *Collector) offer(program bpf.Program, array string) error {
	loaded, err := c.load(program, array)
	if err != nil {
		if err := c.config.Shared[array].Delete(headers.InspectDNS); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("removing the former program from %s: %w", array, err)
		}
		return err
	}
	defer loaded.Close() // the array keeps it
	if err := c.config.Shared[array].Put(headers.InspectDNS, loaded); err != nil {
		return fmt.Errorf("putting %s into %s: %w", program, array, err)
	}
	return nil
}

// Name is how users know the collector.
func (*Collector) Name() string { return "dns" }

// Hooks says of each place of programs of bpf/traffic whether a program of this collector is there.
func (c *Collector) Hooks() map[string]bool { return c.hooks }

// State says whether it works.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	if c.off != nil {
		return v1alpha1.Collector_STATE_OFF, c.off.Error()
	}
	problems := slices.Clone(c.problems)
	var homeless uint64
	if err := c.maps[bpf.Homeless].Lookup(uint32(0), &homeless); err == nil && homeless > 0 {
		problems = append(problems, fmt.Sprintf("%d messages of pods beyond the first %d are not counted", homeless, c.maps[bpf.Pods].MaxEntries()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeping != nil {
		problems = append(problems, c.sweeping.Error())
	}
	if len(problems) > 0 {
		return v1alpha1.Collector_STATE_DEGRADED, strings.Join(problems, "; ")
	}
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// read are what counters are read into: they are too large to be made anew for each pod.
var read = sync.Pool{New: func() any { return new(bpf.Pod) }}

// ReadPod fills in the pod's DNS.
func (c *Collector) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) error {
	if c.off != nil {
		return nil // State says so
	}
	number := headers.PodNumber(pod.Key)
	counted := read.Get().(*bpf.Pod)
	defer read.Put(counted)
	*counted = bpf.Pod{} // that is what a pod without an entry has
	if err := c.maps[bpf.Pods].Lookup(number, counted); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("reading counters: %w", err)
	}
	row.Dns = wire(counted)
	row.Dns.Names = c.names(number)
	return nil
}

// ReadNode fills in the sum of what the pods of this node have asked for, those that have gone included.
func (c *Collector) ReadNode(row *v1alpha1.NodeStats) error {
	if c.off != nil {
		return nil
	}
	sum, err := c.sum()
	if err != nil {
		return err
	}
	row.Dns = wire(sum)
	row.Dns.Names = c.names(headers.Node)
	return nil
}

func (c *Collector) names(number uint64) []*v1alpha1.DNSNameCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked[number]
	if asked == nil {
		return nil
	}
	return asked.first(c.config.Names)
}

// sum adds up all pods. A type has a row of its own in the sum once the sum has a place for it, and keeps it.
func (c *Collector) sum() (*bpf.Pod, error) {
	c.counting.Lock()
	defer c.counting.Unlock()
	sum, err := c.readDeparted()
	if err != nil {
		return nil, err
	}
	base := *sum
	var number uint64
	var counted bpf.Pod
	entries := c.maps[bpf.Pods].Iterate()
	for entries.Next(&number, &counted) {
		if number != departed {
			merge(sum, &counted)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("reading counters: %w", err)
	}
	if base.TypeMarks != sum.TypeMarks {
		base.TypeMarks = sum.TypeMarks
		if err := c.maps[bpf.Pods].Put(departed, &base); err != nil {
			return nil, fmt.Errorf("keeping the places of types: %w", err)
		}
	}
	return sum, nil
}

func (c *Collector) readDeparted() (*bpf.Pod, error) {
	var sum bpf.Pod
	if err := c.maps[bpf.Pods].Lookup(departed, &sum); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("reading what has gone: %w", err)
	}
	return &sum, nil
}

// merge adds other to sum.
func merge(sum, other *bpf.Pod) {
	for place := range other.Queries {
		to := bpf.Types
		if place < bpf.Types {
			to = placeOf(sum, other.TypeMarks[place])
		}
		sum.Queries[to] += other.Queries[place]
		for code, count := range other.Responses[place] {
			sum.Responses[to][code] += count
		}
	}
	sum.Latency.Merge(&other.Latency)
	sum.Unanswered += other.Unanswered
	sum.Unparsed += other.Unparsed
	sum.Lost += other.Lost
}

func placeOf(sum *bpf.Pod, mark uint32) int {
	for place := range sum.TypeMarks {
		if sum.TypeMarks[place] == 0 {
			sum.TypeMarks[place] = mark
		}
		if sum.TypeMarks[place] == mark {
			return place
		}
	}
	return bpf.Types
}

// otherTypes stands on the wire for all types without a place.
const otherTypes = 65535

// wire is all but the names, in order of type and code.
func wire(counted *bpf.Pod) *v1alpha1.DNS {
	row := &v1alpha1.DNS{
		Unanswered: int64(counted.Unanswered), Unparsed: int64(counted.Unparsed), Lost: int64(counted.Lost),
		Latency: histograms.Wire(&counted.Latency),
	}
	// Type 65535 is reserved, but may be asked for: it is with the others then.
	queries, responses := map[int32]uint64{}, map[int32]*[bpf.Codes]uint64{}
	for place, count := range counted.Queries {
		kind := int32(otherTypes)
		if place < bpf.Types {
			kind = int32(counted.TypeMarks[place] & 0xffff)
		}
		queries[kind] += count
		if responses[kind] == nil {
			responses[kind] = new([bpf.Codes]uint64)
		}
		for code, count := range counted.Responses[place] {
			responses[kind][code] += count
		}
	}
	for kind, count := range queries {
		if count > 0 {
			row.Queries = append(row.Queries, &v1alpha1.DNSQueries{Type: kind, Count: int64(count)})
		}
		for code, count := range responses[kind] {
			if count > 0 {
				row.Responses = append(row.Responses, &v1alpha1.DNSResponses{Type: kind, Code: int32(code), Count: int64(count)})
			}
		}
	}
	slices.SortFunc(row.Queries, func(a, b *v1alpha1.DNSQueries) int { return int(a.Type - b.Type) })
	slices.SortFunc(row.Responses, func(a, b *v1alpha1.DNSResponses) int {
		return int((a.Type-b.Type)*bpf.Codes + a.Code - b.Code)
	})
	return row
}

// Follow forgets pods that are gone for long. What they counted stays in the node's numbers.
func (c *Collector) Follow(pods []*podmap.Pod) {
	now := time.Now()
	if c.off != nil || now.Sub(c.looked) < lookEvery {
		return
	}
	c.looked = now
	live := map[uint64]bool{departed: true, headers.Node: true}
	for _, pod := range pods {
		live[headers.PodNumber(pod.Key)] = true
	}
	c.forget(live, now)
}

func (c *Collector) forget(live map[uint64]bool, now time.Time) {
	gone := map[uint64]time.Time{}
	for number := range c.known() {
		if live[number] {
			continue
		}
		since, before := c.gone[number]
		if !before {
			since = now
		}
		if now.Sub(since) < linger {
			gone[number] = since
			continue
		}
		if err := c.bury(number); err != nil {
			gone[number] = since // tried again next time
		}
		c.mu.Lock()
		delete(c.asked, number)
		c.peers.forget(number)
		c.mu.Unlock()
	}
	c.gone = gone
}

// known are the numbers of all pods of which there is state.
func (c *Collector) known() map[uint64]bool {
	known := map[uint64]bool{}
	var number uint64
	var counted bpf.Pod
	entries := c.maps[bpf.Pods].Iterate()
	for entries.Next(&number, &counted) {
		known[number] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for number := range c.asked {
		known[number] = true
	}
	return known
}

// bury moves what a pod has counted to what has gone.
func (c *Collector) bury(number uint64) error {
	c.counting.Lock()
	defer c.counting.Unlock()
	sum, err := c.readDeparted()
	if err != nil {
		return err
	}
	var counted bpf.Pod
	err = c.maps[bpf.Pods].LookupAndDelete(number, &counted)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the counters of a pod: %w", err)
	}
	merge(sum, &counted)
	if err := c.maps[bpf.Pods].Put(departed, sum); err != nil {
		return fmt.Errorf("keeping the counters of a pod that has gone: %w", err)
	}
	return nil
}

// Close lets go of what the collector holds. The programs go on counting.
func (c *Collector) Close() {
	if c.reader != nil {
		c.reader.Close()
	}
	if c.sweep != nil {
		c.sweep.Close()
	}
	pins.CloseAll(c.maps)
}
