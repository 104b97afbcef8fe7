// Package collectors puts the agent's sources of numbers together, one folder each, and makes rows of what they read.
//
// A new source is a folder with a type that has Name and State and one or more of the roles below, and a line in list.
// docs/collectors.md walks through one.
package collectors

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A collector is a source of numbers. It has some of the roles below, too. Its constructor does not fail: one that
// cannot work says so in its state, and why.
type collector interface {
	// Name is how users know the collector.
	Name() string
	// State says whether it works and, when it does not in full, what is missing and why.
	State() (v1alpha1.Collector_State, string)
}

// A podReader fills in its part of a pod's row. An error leaves the rest of the row valid.
type podReader interface {
	ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
}

// A nodeReader fills in its part of the node's row. An error leaves the rest of the row valid.
type nodeReader interface {
	ReadNode(*v1alpha1.NodeStats) error
}

// A snapshotter reads once what the rows of an answer have in common; what it returns reads these rows.
type snapshotter interface {
	Snapshot() interface {
		ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
		ReadNode(*v1alpha1.NodeStats) error
	}
}

// A counter is a snapshotter that offers the same for less, without what only people look at.
type counter interface {
	Counters() interface {
		ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
		ReadNode(*v1alpha1.NodeStats) error
	}
}

// A follower is told of all pods when some came or went, and at least every five seconds. Calls do not overlap.
type follower interface {
	Follow([]*podmap.Pod)
}

// A sampler is called every rates.Every.
type sampler interface {
	Sample(now time.Time)
}

// A runner works on its own until the context ends.
type runner interface {
	Run(context.Context)
}

// A listener learns where the Kubernetes API is served ("192.0.2.1:6443"), when that changes.
type listener interface {
	APIServers([]string)
}

// A hooked has programs in the kernel: it says of each of their hooks whether they are there. The map does not change.
type hooked interface {
	Hooks() map[string]bool
}

// Set is all collectors. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Set struct {
	entries []entry
	index   *podindex.Index
	flows   *flows.Collector
	shared  map[string]*ebpf.Map

	// forgetIn removes what a collector that is off has left in pods; nil when that is done, or there is nothing. It belongs
	// to Follow.
	forgetIn func([]*podmap.Pod) error

	mu sync.Mutex
	// preparing is what went wrong before collectors began.
	preparing error
	// indexing is what went wrong when pods were last told to the kernel.
	indexing   error
	apiServers []string
}

// An entry is a collector and, if it is switched off, why.
type entry struct {
	collector
	off string
}

// nothing stands for a collector that is switched off.
type nothing string

func (n nothing) Name() string { return string(n) }

func (nothing) State() (v1alpha1.Collector_State, string) { return v1alpha1.Collector_STATE_OFF, "" }

// State is that of the collector, unless it is switched off.
func (e entry) State() (v1alpha1.Collector_State, string) {
	if e.off != "" {
		return v1alpha1.Collector_STATE_OFF, e.off
	}
	return e.collector.State()
}

// each calls do with every collector that is on and has a role.
func each[role any](s *Set, do func(role)) {
	for _, e := range s.entries {
		if with, ok := e.collector.(role); ok && e.off == "" {
			do(with)
		}
	}
}

// Follow tells the collectors which pods there are.
func (s *Set) Follow(pods []*podmap.Pod) {
	if s.index != nil {
		err := s.index.Follow(pods)
		s.mu.Lock()
		s.indexing = err
		s.mu.Unlock()
	}
	if s.forgetIn != nil {
		err := s.forgetIn(pods)
		s.forgetIn = nil
		s.mu.Lock()
		s.preparing = errors.Join(s.preparing, err)
		s.mu.Unlock()
	}
	each(s, func(f follower) { f.Follow(pods) })
}

// APIServers tells the collectors where the Kubernetes API is served.
func (s *Set) APIServers(addresses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(addresses) == 0 || slices.Equal(addresses, s.apiServers) {
		return
	}
	s.apiServers = slices.Clone(addresses)
	each(s, func(l listener) { l.APIServers(s.apiServers) })
}

// Flows is the history of flows; nil when flows are switched off.
func (s *Set) Flows() *flows.Collector { return s.flows }

// Run takes samples, and lets collectors work on their own, until the context ends.
func (s *Set) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	each(s, func(r runner) { running.Go(func() { r.Run(ctx) }) })
	ticker := time.NewTicker(rates.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.sample(time.Now())
		}
	}
}

func (s *Set) sample(now time.Time) {
	each(s, func(sampler sampler) { sampler.Sample(now) })
}

// A Reading makes the rows of one answer. It is not safe for concurrent use.
type Reading struct {
	set     *Set
	sources []source
}

// A source is what a collector offers for one answer.
type source struct {
	entry
	pods  podReader
	nodes nodeReader
}

// Read begins an answer.
func (s *Set) Read() *Reading { return s.read(false) }

// Counters begins an answer that costs less, in which there are no round-trip times of connections that are open.
func (s *Set) Counters() *Reading { return s.read(true) }

func (s *Set) read(less bool) *Reading {
	reading := &Reading{set: s}
	for _, e := range s.entries {
		from := source{entry: e}
		some, canLess := e.collector.(counter)
		many, ok := e.collector.(snapshotter)
		switch {
		case less && canLess && e.off == "":
			snapshot := some.Counters()
			from.pods, from.nodes = snapshot, snapshot
		case ok && e.off == "":
			snapshot := many.Snapshot()
			from.pods, from.nodes = snapshot, snapshot
		default:
			from.pods, _ = e.collector.(podReader)
			from.nodes, _ = e.collector.(nodeReader)
		}
		reading.sources = append(reading.sources, from)
	}
	return reading
}

// Pod makes the row of a pod.
func (r *Reading) Pod(pod *podmap.Pod) *v1alpha1.PodStats { return r.pod(pod, nil) }

// PodOnly makes the row of a pod as far as it comes from the named collectors. Nobody else is asked.
func (r *Reading) PodOnly(pod *podmap.Pod, collectors ...string) *v1alpha1.PodStats {
	return r.pod(pod, func(name string) bool { return slices.Contains(collectors, name) })
}

// pod asks the collectors that are wanted; all with nil.
func (r *Reading) pod(pod *podmap.Pod, wanted func(name string) bool) *v1alpha1.PodStats {
	row := &v1alpha1.PodStats{Key: pod.Key, Measurement: &v1alpha1.Measurement{}}
	if pod.HostNetwork && pod.Cgroup == "" {
		row.Measurement.TimeUnixNano, row.Measurement.State = time.Now().UnixNano(), v1alpha1.State_STATE_NOT_ATTRIBUTED
		row.Measurement.Message = "the pod uses the node's network and has no cgroup of version 2 of its own"
		return row
	}
	problems := r.set.problems()
	for _, s := range r.sources {
		if s.off == "" && s.pods != nil && (wanted == nil || wanted(s.Name())) {
			problems = note(problems, s.Name(), s.pods.ReadPod(pod, row))
		}
	}
	r.set.finish(row.Measurement, problems)
	return row
}

// Node makes the node's row, but for who the agent is.
func (r *Reading) Node() *v1alpha1.NodeStats {
	row := &v1alpha1.NodeStats{Measurement: &v1alpha1.Measurement{}, Agent: &v1alpha1.AgentInfo{}}
	problems := r.set.problems()
	for _, s := range r.sources {
		if s.off == "" && s.nodes != nil {
			problems = note(problems, s.Name(), s.nodes.ReadNode(row))
		}
	}
	row.Agent.Collectors = r.set.States()
	r.set.finish(row.Measurement, problems)
	return row
}

func (s *Set) problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return note(note(nil, "preparing", s.preparing), "pods", s.indexing)
}

// States says of each collector whether it works.
func (s *Set) States() []*v1alpha1.Collector {
	var states []*v1alpha1.Collector
	for _, e := range s.entries {
		state, message := e.State()
		states = append(states, &v1alpha1.Collector{Name: e.Name(), State: state, Message: cut(message)})
	}
	return states
}

// Hooks says of each hook of the kernel that collectors want whether their programs are there. What is switched off wants
// none.
func (s *Set) Hooks() map[string]bool {
	all := map[string]bool{}
	each(s, func(h hooked) { maps.Copy(all, h.Hooks()) })
	return all
}

func note(problems []string, name string, err error) []string {
	if err == nil {
		return problems
	}
	return append(problems, name+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
}

// finish says how a row was measured. What operators have switched off is named, but is no defect.
func (s *Set) finish(m *v1alpha1.Measurement, problems []string) {
	m.TimeUnixNano = time.Now().UnixNano()
	m.State = v1alpha1.State_STATE_MEASURED
	if len(problems) > 0 {
		m.State = v1alpha1.State_STATE_DEGRADED
	}
	for _, e := range s.entries {
		if e.off != "" {
			problems = append(problems, e.Name()+": "+e.off)
		}
	}
	m.Message = cut(strings.Join(problems, "; "))
}

// cut keeps a message within the limit of the wire, and valid for it.
func cut(message string) string {
	const limit = 1 << 10
	if len(message) > limit {
		message = message[:limit]
	}
	return strings.ToValidUTF8(message, "?")
}
