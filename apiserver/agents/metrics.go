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

type fleetMetrics struct {
	requests  *metrics.CounterVec
	duration  *metrics.Histogram
	open      *metrics.Gauge
	rejected  *metrics.CounterVec
	coalesced *metrics.Counter
	known     *metrics.Gauge
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
	}
	for _, metric := range []metrics.Registerable{m.requests, m.duration, m.open, m.rejected, m.coalesced, m.known} {
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
