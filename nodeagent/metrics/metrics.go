package metrics

import (
	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Config is what New needs. Functions are called by one goroutine at a time.
type Config struct {
	// Pods are the pods that have a live process here.
	Pods func() []*podmap.Pod
	// Read begins a reading of the collectors.
	Read func() Reading
	// Telemetry says what is asked for, and what pods are called.
	Telemetry Telemetry
	// Peers gives what pods have exchanged with their peers, by the labels that the group Traffic has in the
	// configuration, which also folds what is beyond the limit of values. Sums of the same pod and peer do not fall. It is
	// called only while such labels are asked for; nil when there are no flows.
	Peers func(yield func(Peer))
}

// Reading makes rows. collectors.Reading is one.
type Reading interface {
	Node() *v1alpha1.NodeStats
	// PodOnly fills in what the named collectors have of a pod.
	PodOnly(pod *podmap.Pod, collectors ...string) *v1alpha1.PodStats
}

// Telemetry is the configuration in force. telemetry.State is one.
type Telemetry interface {
	// Config is never nil, and does not change.
	Config() *v1alpha1.TelemetryConfig
	// Pod is what a pod is called; nil while that is not known.
	Pod(key string) *v1alpha1.TelemetryPod
}

// A Peer is what a pod has exchanged with all peers that have the same values of the labels asked for. Values of labels
// that are not asked for are left out.
type Peer struct {
	// Pod is the key of the pod.
	Pod string
	// PeerNamespace and PeerWorkload are of the label PeerWorkload, and so on.
	PeerNamespace, PeerWorkload string
	ServiceNamespace, Service   string
	Protocol, Port              string
	DNSName                     string

	ReceivedBytes, TransmittedBytes     int64
	ReceivedPackets, TransmittedPackets int64
}

// Metrics gathers metrics of the node and of its pods. Its methods are safe for concurrent use.
type Metrics struct {
	config Config
}

// New makes metrics that hold nothing before the first gather.
func New(config Config) *Metrics { return &Metrics{config: config} }

// Gather reads, and returns families sorted by name; within one, series are sorted by namespace, pod and then their other
// labels, those of "other" last. The families may be shared with other callers and must not be changed. Who asks while
// another gather runs gets the same answer.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) { return nil, nil }

// Series says how many series of pods the last gather offered, those of "other" included, and how many others it added
// up in "other".
func (m *Metrics) Series() (offered, folded int64) { return 0, 0 }

// Folded is the second result of Series by group: Traffic, Drops, TCP, DNS and APIServer. It does not count what Peers
// folded.
func (m *Metrics) Folded() map[string]int64 { return nil }
