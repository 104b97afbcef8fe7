package metrics

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is when every world begins.
var epoch = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A world is what a gatherer looks at.
type world struct {
	config  *v1alpha1.TelemetryConfig
	called  map[string]*v1alpha1.TelemetryPod
	process map[string]*podmap.Pod
	rows    map[string]*v1alpha1.PodStats
	node    *v1alpha1.NodeStats
	peers   []peers.Counter
	folded  int64
	now     time.Time
	metrics *Metrics

	// asked is what was read: keys of pods with the collectors, and "node".
	asked []string
}

func newWorld() *world {
	w := &world{
		config: &v1alpha1.TelemetryConfig{SeriesLimit: 50_000},
		called: map[string]*v1alpha1.TelemetryPod{}, process: map[string]*podmap.Pod{}, rows: map[string]*v1alpha1.PodStats{},
		node: &v1alpha1.NodeStats{}, now: epoch,
	}
	w.begin()
	return w
}

// begin begins a new agent.
func (w *world) begin() {
	w.metrics = New(Config{
		Pods: w.pods, Read: func() Reading { return w }, Telemetry: w, Peers: (*peerCounters)(w),
	})
	w.metrics.began = w.now
}

func (w *world) pods() (all []*podmap.Pod) {
	for _, p := range w.process {
		all = append(all, p)
	}
	return all
}

func (w *world) Config() *v1alpha1.TelemetryConfig     { return w.config }
func (w *world) Pod(key string) *v1alpha1.TelemetryPod { return w.called[key] }
func (w *world) Node() *v1alpha1.NodeStats             { w.asked = append(w.asked, "node"); return w.node }
func (w *world) gather() []*dto.MetricFamily           { return w.metrics.gather(w.now) }
func (w *world) text(t testing.TB, prefixes ...string) string {
	return text(t, w.gather(), prefixes...)
}

// PodOnly gives of the pod's row what collectors would fill in.
func (w *world) PodOnly(pod *podmap.Pod, collectors ...string) *v1alpha1.PodStats {
	w.asked = append(w.asked, pod.Key+":"+strings.Join(collectors, ","))
	row, only := w.rows[pod.Key], &v1alpha1.PodStats{Key: pod.Key, Measurement: &v1alpha1.Measurement{}}
	if row == nil {
		return only
	}
	if row.Measurement != nil {
		only.Measurement = row.Measurement
	}
	for _, collector := range collectors {
		switch collector {
		case "traffic":
			only.Traffic = row.Traffic
		case "drops":
			only.Drops = row.Drops
		case "tcp":
			only.Connections, only.ApiServer = row.Connections, row.ApiServer
		case "dns":
			only.Dns = row.Dns
		}
	}
	return only
}

// peerCounters are the world's peers.
type peerCounters world

func (c *peerCounters) Read(yield func(peers.Counter) bool) {
	for _, one := range c.peers {
		if !yield(one) {
			return
		}
	}
}

func (c *peerCounters) Folded() int64 { return c.folded }

// text is the exposition of families whose names begin, behind ours, with one of prefixes; of all without.
func text(t testing.TB, families []*dto.MetricFamily, prefixes ...string) string {
	t.Helper()
	var buffer bytes.Buffer
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), Prefix)
		if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&buffer, f); err != nil {
			t.Fatal(err)
		}
	}
	return buffer.String()
}
