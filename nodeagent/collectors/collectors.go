// Package collectors puts the agent's sources of numbers together, one folder each, and makes rows of what they read.
//
// A new source is a folder with a type that has Name and State and one or more of the roles below, and a line in New.
package collectors

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/interfaces"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/protocols"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A collector is a source of numbers. It has some of the roles below, too.
type collector interface {
	Name() string
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

// A follower is told of all pods when some came or went. Calls do not overlap.
type follower interface {
	Follow([]*podmap.Pod)
}

// A sampler is called every rates.Every.
type sampler interface {
	Sample(now time.Time)
}

// Each collector with what it can do.
var (
	_ podReader  = (*traffic.Collector)(nil)
	_ follower   = (*traffic.Collector)(nil)
	_ sampler    = (*traffic.Collector)(nil)
	_ podReader  = protocols.Collector{}
	_ nodeReader = protocols.Collector{}
	_ nodeReader = (*interfaces.Collector)(nil)
	_ sampler    = (*interfaces.Collector)(nil)
)

// Names are those of all collectors.
var Names = []string{"traffic", "protocols", "interfaces"}

// Config is what New needs.
type Config struct {
	Traffic traffic.Config
	NodeIPs []netip.Addr
	// Off holds, by name, why a collector is switched off.
	Off map[string]string
}

// Set is all collectors. Its methods are safe for concurrent use, but calls of Follow must not overlap.
type Set struct {
	entries []entry
	traffic *traffic.Collector
}

// An entry is a collector and, if it is switched off, why.
type entry struct {
	collector
	off string
}

// New makes the collectors.
func New(config Config) *Set {
	s := &Set{traffic: traffic.New(config.Traffic)}
	for _, c := range []collector{s.traffic, protocols.Collector{}, interfaces.New(config.NodeIPs)} {
		s.entries = append(s.entries, entry{collector: c, off: config.Off[c.Name()]})
	}
	return s
}

// State is that of the collector, unless it is switched off.
func (e entry) State() (v1alpha1.Collector_State, string) {
	if e.off != "" {
		return v1alpha1.Collector_STATE_OFF, e.off
	}
	return e.collector.State()
}

func (e entry) readPod(pod *podmap.Pod, row *v1alpha1.PodStats) error {
	reader, ok := e.collector.(podReader)
	switch {
	case !ok:
		return nil
	case e.off != "":
		return errors.New(e.off)
	}
	return reader.ReadPod(pod, row)
}

func (e entry) readNode(row *v1alpha1.NodeStats) error {
	reader, ok := e.collector.(nodeReader)
	switch {
	case !ok:
		return nil
	case e.off != "":
		return errors.New(e.off)
	}
	return reader.ReadNode(row)
}

// Follow tells the collectors which pods there are.
func (s *Set) Follow(pods []*podmap.Pod) {
	for _, e := range s.entries {
		if f, ok := e.collector.(follower); ok && e.off == "" {
			f.Follow(pods)
		}
	}
}

// Run takes samples until the context ends.
func (s *Set) Run(ctx context.Context) {
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
	for _, e := range s.entries {
		if sampler, ok := e.collector.(sampler); ok && e.off == "" {
			sampler.Sample(now)
		}
	}
}

// ReadPod makes the row of a pod.
func (s *Set) ReadPod(pod *podmap.Pod) *v1alpha1.PodStats {
	row := &v1alpha1.PodStats{Key: pod.Key, Measurement: &v1alpha1.Measurement{}}
	if pod.HostNetwork && pod.Cgroup == "" {
		finish(row.Measurement, v1alpha1.State_STATE_NOT_ATTRIBUTED,
			[]string{"the pod uses the node's network and has no cgroup of version 2 of its own"})
		return row
	}
	var problems []string
	for _, e := range s.entries {
		problems = note(problems, e, e.readPod(pod, row))
	}
	finish(row.Measurement, stateOf(problems), problems)
	return row
}

// ReadNode makes the node's row, but for who the agent is.
func (s *Set) ReadNode() *v1alpha1.NodeStats {
	row := &v1alpha1.NodeStats{Measurement: &v1alpha1.Measurement{}, Agent: &v1alpha1.AgentInfo{}}
	var problems []string
	for _, e := range s.entries {
		problems = note(problems, e, e.readNode(row))
	}
	row.Agent.Collectors = s.States()
	row.Agent.Pods = int32(s.traffic.Pods())
	finish(row.Measurement, stateOf(problems), problems)
	return row
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

func note(problems []string, e entry, err error) []string {
	if err == nil {
		return problems
	}
	return append(problems, e.Name()+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
}

func stateOf(problems []string) v1alpha1.State {
	if len(problems) > 0 {
		return v1alpha1.State_STATE_DEGRADED
	}
	return v1alpha1.State_STATE_MEASURED
}

func finish(m *v1alpha1.Measurement, state v1alpha1.State, problems []string) {
	m.TimeUnixNano = time.Now().UnixNano()
	m.State = state
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
