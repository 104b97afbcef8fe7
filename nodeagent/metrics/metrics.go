package metrics

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/singleflight"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Config is what New needs. What is in it is called by one goroutine at a time.
type Config struct {
	// Pods are the pods that have a live process here.
	Pods func() []*podmap.Pod
	// Read begins a reading of the collectors.
	Read func() Reading
	// Telemetry says what is asked for, and what pods are called.
	Telemetry Telemetry
	// Peers has what pods have exchanged with whom; nil when there are no flows.
	Peers Peers
}

// Reading makes rows. *collectors.Reading is one.
type Reading interface {
	Node() *v1alpha1.NodeStats
	// PodOnly makes a pod's row of what the named collectors know.
	PodOnly(pod *podmap.Pod, collectors ...string) *v1alpha1.PodStats
}

// Telemetry is the configuration in force. *telemetry.State is one.
type Telemetry interface {
	// Config is never nil and does not change.
	Config() *v1alpha1.TelemetryConfig
	// Pod is what a pod is called; nil while that is not known.
	Pod(key string) *v1alpha1.TelemetryPod
}

// Peers counts by the labels that group Traffic has in the configuration. *peers.Counters does.
type Peers interface {
	// Read gives the counters of all pods.
	Read(yield func(peers.Counter) bool)
	// Folded is how many combinations of labels are in others now.
	Folded() int64
}

// Metrics gathers metrics of the node and of its pods. Its methods are safe for concurrent use.
type Metrics struct {
	config Config
	// began is when this process began to look.
	began     time.Time
	gathering singleflight.Group

	mu sync.Mutex
	// configured is what groups and ledger are made from.
	configured *v1alpha1.TelemetryConfig
	groups     [groupCount]*group
	ledger     *ledger
	node       node
	pods       map[string]*pod // by key
	// appeared is how many pods have appeared, and gathers how often was gathered.
	appeared, gathers uint64

	// counts is locked for moments only, so that asking does not wait for a gather.
	counts sync.Mutex
	series int64
	folded map[string]int64
	row    *v1alpha1.NodeStats
}

// New makes metrics that know nothing before the first gather.
func New(config Config) *Metrics {
	return &Metrics{config: config, began: time.Now(), pods: map[string]*pod{}}
}

// Gather reads, and returns families sorted by name; in one, series are sorted by namespace, pod and then their other
// labels, and those of "other" are last. Who asks while another gather runs gets the same answer, so that it must not be
// changed. There are no errors: what cannot be read has no series.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) {
	answer, _, _ := m.gathering.Do("", func() (any, error) { return m.gather(time.Now()), nil })
	return answer.([]*dto.MetricFamily), nil
}

func (m *Metrics) gather(now time.Time) []*dto.MetricFamily {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gathers++
	m.configure(m.config.Telemetry.Config())
	out := &output{}
	reading := m.config.Read()
	row := reading.Node()
	m.node.series(out, row, now)
	m.ledger.now = now
	pods := m.follow(now)
	m.read(reading, pods, now)
	m.offer(out, pods)
	m.count(pods, row)
	return out.sorted()
}

// offer makes the series of pods. Those without a place get one in the order in which they appeared, while there are any.
func (m *Metrics) offer(out *output, pods []*pod) {
	w := &walk{ledger: m.ledger, out: out, gather: m.gathers}
	for _, p := range slices.SortedFunc(slices.Values(pods), byAppearance) {
		if p.account.admitted || p.called.Namespace == other && p.called.Name == other {
			continue
		}
		if p.account.size == 0 {
			w.sizing = true
			w.ofPod(p)
			w.sizing = false
		}
		m.ledger.admit(p.account)
	}
	for _, p := range pods {
		w.ofPod(p)
	}
	m.ledger.others(out)
}

// count keeps what Series, Folded and Node answer.
func (m *Metrics) count(pods []*pod, row *v1alpha1.NodeStats) {
	folded := maps.Clone(m.ledger.folded)
	for _, p := range pods {
		if p.ports != nil {
			folded[groupDrops] += int64(p.ports.beyond)
		}
		if p.names != nil {
			folded[groupDNS] += int64(p.names.beyond)
		}
	}
	if m.peersWanted() {
		folded[groupTraffic] += m.config.Peers.Folded()
	}
	delete(folded, groupAny) // a pod in other has no pod_info, and nobody misses it
	maps.DeleteFunc(folded, func(_ string, count int64) bool { return count == 0 })
	m.counts.Lock()
	defer m.counts.Unlock()
	m.series, m.folded, m.row = int64(m.ledger.used+m.ledger.ofOther), folded, row
}

// Series says how many series of pods there are, those of other included, and how many series and combinations of labels
// are folded into others. A histogram counts as its classic series. It is of the last gather.
func (m *Metrics) Series() (offered, folded int64) {
	m.counts.Lock()
	defer m.counts.Unlock()
	for _, count := range m.folded {
		folded += count
	}
	return m.series, folded
}

// Folded is the second result of Series by group, as Traffic; groups of which nothing is folded are left out. It must not
// be changed.
func (m *Metrics) Folded() map[string]int64 {
	m.counts.Lock()
	defer m.counts.Unlock()
	return m.folded
}

// Node is the node's row of the last gather; nil before the first. It must not be changed.
func (m *Metrics) Node() *v1alpha1.NodeStats {
	m.counts.Lock()
	defer m.counts.Unlock()
	return m.row
}

// sorted are the families that have series.
func (o *output) sorted() []*dto.MetricFamily {
	var all []*dto.MetricFamily
	for _, f := range o.families {
		if f != nil {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}
