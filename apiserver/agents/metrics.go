package agents

import (
	"fmt"
	"time"

	"k8s.io/component-base/metrics"
)

// result is how a call ended, as metrics name it.
type result string

const (
	resultOK       result = "ok"
	resultTimeout  result = "timeout"
	resultNoDial   result = "unreachable" // no connection, or it broke
	resultRefused  result = "refused"     // the agent answered with an error
	resultInvalid  result = "invalid"     // the answer broke the protocol
	resultCanceled result = "canceled"    // nobody waited any more
)

// Reasons for which rows are not taken over.
const (
	rowNotAsked = "not_asked"
	rowRepeated = "repeated"
	rowMissing  = "missing"
)

// maxNamed is how many open breakers are named; agent_breakers_open counts all.
const maxNamed = 100

type fleetMetrics struct {
	requests  *metrics.CounterVec
	duration  *metrics.Histogram
	open      *metrics.Gauge
	rejected  *metrics.CounterVec
	coalesced *metrics.Counter
	known     *metrics.Gauge
	breaker   *metrics.GaugeVec
	fanOut    *metrics.Histogram

	// named are the nodes that breaker has. It belongs to sweep.
	named map[string]bool
}

// newMetrics makes the fleet's metrics and registers them.
func newMetrics(register func(metrics.Registerable) error) (*fleetMetrics, error) {
	const namespace, subsystem = "networkobservability", "apiserver"
	m := &fleetMetrics{
		requests: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_requests_total", StabilityLevel: metrics.ALPHA,
			Help: "Calls to node agents that ended, by result.",
		}, []string{"result"}),
		duration: metrics.NewHistogram(&metrics.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_request_duration_seconds", StabilityLevel: metrics.ALPHA,
			Help:    "Time that calls to node agents took, whatever their result.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 3, 5},
		}),
		open: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_breakers_open", StabilityLevel: metrics.ALPHA,
			Help: "Node agents that are not asked because they did not answer.",
		}),
		rejected: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_rows_rejected_total", StabilityLevel: metrics.ALPHA,
			Help: "Rows that node agents sent against the protocol or left out, by reason.",
		}, []string{"reason"}),
		coalesced: metrics.NewCounter(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_reads_coalesced_total", StabilityLevel: metrics.ALPHA,
			Help: "Reads of a node that shared a call with another read.",
		}),
		known: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agents_known", StabilityLevel: metrics.ALPHA,
			Help: "Nodes for which the control plane names an agent.",
		}),
		breaker: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_breaker_open", StabilityLevel: metrics.ALPHA,
			Help: "1 for nodes whose agent is not asked because it did not answer, the first 100 of them. Others have no series.",
		}, []string{"node"}),
		fanOut: metrics.NewHistogram(&metrics.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "fan_out_nodes", StabilityLevel: metrics.ALPHA,
			Help:    "Nodes that a read of statistics concerned.",
			Buckets: []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000},
		}),
		named: map[string]bool{},
	}
	for _, metric := range []metrics.Registerable{m.requests, m.duration, m.open, m.rejected, m.coalesced, m.known, m.breaker, m.fanOut} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of the agents: %w", err)
		}
	}
	return m, nil
}

func (m *fleetMetrics) ended(r result, took time.Duration) {
	m.requests.WithLabelValues(string(r)).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *fleetMetrics) reject(reason string, rows int) {
	if rows > 0 {
		m.rejected.WithLabelValues(reason).Add(float64(rows))
	}
}

// breakers says which breakers are open.
func (m *fleetMetrics) breakers(open map[string]bool) {
	m.open.Set(float64(len(open)))
	for node := range m.named {
		if !open[node] {
			m.breaker.DeleteLabelValues(node)
			delete(m.named, node)
		}
	}
	for node := range open {
		if !m.named[node] && len(m.named) < maxNamed {
			m.breaker.WithLabelValues(node).Set(1)
			m.named[node] = true
		}
	}
}
