// Package own is what an agent says of itself: whether it sees what it should, what it lost, how full it is, and what it
// takes.
//
//	own.go      the registry, streams and scrapes as they are measured
//	numbers.go  what is read at each scrape
//
// What the node's row has is taken from the row that the same scrape has read, so that nothing is read twice.
package own

import (
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Config is where the numbers come from. Functions are called at each scrape, must be quick and safe for concurrent use;
// those that are nil have no series.
type Config struct {
	Version, Kernel string
	Start           time.Time
	// Disabled are the collectors that are switched off, which have no series.
	Disabled []string

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
	// Tables is how full tables are, by name, beside those that are in Node. One without room has no series.
	Tables map[string]func() (entries, capacity int64)
	// Others are registered as they are: those of exporters.
	Others []prometheus.Collector
}

// Telemetry is what the API server has configured.
type Telemetry interface {
	Config() *v1alpha1.TelemetryConfig
	Connected() bool
	// Unkept is why the configuration would be lost in a restart; empty when it would not.
	Unkept() string
}

// Captures are the captures of this node.
type Captures struct {
	Running, Ended int64
	// Counters since the agent began, of packets of all captures.
	Packets, RingDrops, DiskDrops, LimitDrops, OtherVantage int64
	// Bytes on disk, and how many there may be.
	Bytes, Quota int64
}

// Kinds of streams, as Began gets them.
const (
	kindStats = "stats"
	prefix    = "networkobservability_agent_"
)

var kinds = []string{kindStats, "flows", "capture", "telemetry"}

// Results of reads.
const (
	resultOK       = "ok"
	resultRefused  = "refused"  // too many, or not as the protocol says
	resultCanceled = "canceled" // nobody waited any more
	resultFailed   = "failed"
)

// Metrics is a prometheus.Gatherer. Its methods are safe for concurrent use.
type Metrics struct {
	*prometheus.Registry
	streams *prometheus.GaugeVec
	reads   *prometheus.CounterVec
	read    prometheus.Histogram
	scrape  prometheus.Histogram
}

// New registers everything.
func New(config Config) (*Metrics, error) {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "streams", Help: "Streams to the API server that are open, by what is sent on them.",
		}, []string{"kind"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "reads_total", Help: "Reads of statistics by the API server that ended, by result: ok, refused, canceled, failed.",
		}, []string{"result"}),
		read:   latency("read_duration_seconds", "Time that reads of statistics by the API server took, whatever their result."),
		scrape: latency("scrape_duration_seconds", "Time that gathering took for a scrape, without writing."),
	}
	for _, kind := range kinds {
		m.streams.WithLabelValues(kind)
	}
	for _, result := range []string{resultOK, resultRefused, resultCanceled, resultFailed} {
		m.reads.WithLabelValues(result)
	}
	var problems []error
	for _, collector := range append([]prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.streams, m.reads, m.read, m.scrape, numbers{config},
	}, config.Others...) {
		problems = append(problems, m.Register(collector))
	}
	return m, errors.Join(problems...)
}

// latency is a histogram, native and with the buckets that all histograms of the agent have.
func latency(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: prefix + name, Help: help, Buckets: prometheus.ExponentialBuckets(1.0/1024, 4, 8),
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	})
}

// Timed is a gatherer of which every gathering is measured as a scrape.
func (m *Metrics) Timed(gatherer prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		began := time.Now()
		families, err := gatherer.Gather()
		m.scrape.Observe(time.Since(began).Seconds())
		return families, err
	})
}

// Began implements serve.Observer: a stream of a kind (stats, flows, capture, telemetry) began, and ended is called when
// it has, with why.
func (m *Metrics) Began(kind string) (ended func(error)) {
	if !slices.Contains(kinds, kind) {
		return func(error) {}
	}
	began := time.Now()
	open := m.streams.WithLabelValues(kind)
	open.Inc()
	return func(err error) {
		open.Dec()
		if kind == kindStats {
			m.read.Observe(time.Since(began).Seconds())
			m.reads.WithLabelValues(resultOf(err)).Inc()
		}
	}
}

func resultOf(err error) string {
	switch status.Code(err) {
	case codes.OK:
		return resultOK
	case codes.ResourceExhausted, codes.InvalidArgument, codes.FailedPrecondition:
		return resultRefused
	case codes.Canceled, codes.DeadlineExceeded:
		return resultCanceled
	}
	return resultFailed
}

// Join gathers from several gatherers one after the other whose families have different names. It checks nothing, which
// prometheus.Gatherers does at the cost of hashing each series.
func Join(gatherers ...prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		var all []*dto.MetricFamily
		var problems []error
		for _, gatherer := range gatherers {
			families, err := gatherer.Gather()
			all, problems = append(all, families...), append(problems, err)
		}
		return all, errors.Join(problems...)
	})
}
