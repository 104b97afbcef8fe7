package export

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

// Config is what Exporters need.
type Config struct {
	// Node is the node's name, Version the agent's; Cluster is the cluster's name, and may be empty.
	Node, Cluster, Version string
	// Metrics gathers all families of metrics. It is called from several goroutines, once an interval for each destination
	// of metrics. Nil when there are none.
	Metrics func() ([]*dto.MetricFamily, error)
	// LogsDir is the folder of flow logs. It is made when it is needed.
	LogsDir string
	// Stdout is where flow logs go that are for standard output.
	Stdout io.Writer
	// Open makes the Exporter of a kind of destination that this package does not have: see docs/exporters.md. May be nil.
	Open func(*v1alpha1.TelemetryExporter) (Exporter, error)
	// Failed is told when a destination begins to fail, and with nil when it works again. It is called from several
	// goroutines and must not call back. Nil when nobody wants to know.
	Failed func(exporter string, err error)
	// RetryAfter is how long to wait after the first failure; every further one waits twice as long, up to RetryAtMost. By
	// default 1 s and 30 s.
	RetryAfter, RetryAtMost time.Duration
}

// Exporters are all destinations. Its methods are safe for concurrent use.
type Exporters struct {
	config Config

	applying sync.Mutex     // one Apply or Close at a time
	ending   sync.WaitGroup // destinations that are no longer configured

	mu           sync.RWMutex // of the fields below
	closed       bool
	destinations []*destination // in the order of the configuration
}

var _ prometheus.Collector = (*Exporters)(nil)

// New makes Exporters that have no destination until Apply says so.
func New(config Config) *Exporters {
	if config.RetryAfter <= 0 {
		config.RetryAfter = time.Second
	}
	if config.RetryAtMost <= 0 {
		config.RetryAtMost = 30 * time.Second
	}
	if config.Failed == nil {
		config.Failed = func(string, error) {}
	}
	return &Exporters{config: config}
}

// Apply begins, changes and ends destinations. One that stays the same goes on undisturbed, and one that changed keeps
// what waits for it, unless it is of another kind. It does not wait for anything that is sent.
func (e *Exporters) Apply(config *v1alpha1.TelemetryConfig) {
	e.applying.Lock()
	defer e.applying.Unlock()
	if e.isClosed() {
		return
	}
	before := e.all()
	var after []*destination
	for _, wanted := range config.GetExporters() {
		if slices.ContainsFunc(after, func(d *destination) bool { return d.name == wanted.GetName() }) {
			continue // a name is one destination
		}
		i := slices.IndexFunc(before, func(d *destination) bool { return d.takes(wanted) })
		if i < 0 {
			after = append(after, newDestination(e.config, wanted))
			continue
		}
		after = append(after, before[i])
		before[i].change(wanted)
	}
	e.mu.Lock()
	e.destinations = after
	e.mu.Unlock()
	for _, d := range before {
		if !slices.Contains(after, d) {
			ended := d.stop(reasonRemoved)
			e.ending.Go(func() { <-ended })
		}
	}
}

// Log gives records to all destinations of flow logs, and never waits for one. Records are encoded before it returns.
func (e *Exporters) Log(records []*flowlog.Record) {
	if len(records) == 0 {
		return
	}
	for _, d := range e.all() {
		d.log(records)
	}
}

// States says how each destination does, in the order of the configuration.
func (e *Exporters) States() []*v1alpha1.TelemetryExporterState {
	var states []*v1alpha1.TelemetryExporterState
	for _, d := range e.all() {
		states = append(states, d.state())
	}
	return states
}

// Close sends what waits, as long as the context lasts; what still waits then, and what is logged afterwards, is counted as
// dropped.
func (e *Exporters) Close(ctx context.Context) error {
	e.applying.Lock()
	defer e.applying.Unlock()
	if e.isClosed() {
		return nil
	}
	e.mu.Lock()
	e.closed = true
	destinations := e.destinations
	e.mu.Unlock()
	problems := make([]error, len(destinations))
	var group sync.WaitGroup
	for i, d := range destinations {
		group.Go(func() { problems[i] = d.flush(ctx) })
	}
	group.Wait()
	e.ending.Wait()
	return errors.Join(problems...)
}

func (e *Exporters) isClosed() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.closed
}

func (e *Exporters) all() []*destination {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return slices.Clone(e.destinations)
}

const prefix = "networkobservability_agent_exporter_"

var (
	sentTotal = prometheus.NewDesc(prefix+"sent_total",
		"Records of flows and points of metrics that a destination took.", []string{"exporter", "signal"}, nil)
	droppedTotal = prometheus.NewDesc(prefix+"dropped_total",
		"Records of flows and points of metrics that a destination did not get, by reason.", []string{"exporter", "signal", "reason"}, nil)
	queueBytes = prometheus.NewDesc(prefix+"queue_bytes",
		"Size of what waits to be sent, encoded and not compressed.", []string{"exporter"}, nil)
	up = prometheus.NewDesc(prefix+"up",
		"1 when the last request to a destination was answered well, 0 when it was not.", []string{"exporter"}, nil)
)

// Describe implements prometheus.Collector.
func (e *Exporters) Describe(to chan<- *prometheus.Desc) {
	to <- sentTotal
	to <- droppedTotal
	to <- queueBytes
	to <- up
}

// Collect implements prometheus.Collector.
func (e *Exporters) Collect(to chan<- prometheus.Metric) {
	for _, d := range e.all() {
		d.collect(to)
	}
}
