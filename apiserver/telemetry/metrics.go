package telemetry

import (
	"fmt"

	"k8s.io/component-base/metrics"
)

type controllerMetrics struct {
	streams *metrics.Gauge
	nodes   *metrics.GaugeVec
	updates *metrics.Counter
	leading *metrics.Gauge
}

// newMetrics makes the controller's metrics and registers them.
func newMetrics(register func(metrics.Registerable) error) (*controllerMetrics, error) {
	const namespace, subsystem = "networkobservability", "apiserver"
	m := &controllerMetrics{
		streams: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "telemetry_streams", StabilityLevel: metrics.ALPHA,
			Help: "Streams by which agents are told about telemetry that are open now. Only the replica that leads has any.",
		}),
		nodes: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "telemetry_nodes", StabilityLevel: metrics.ALPHA,
			Help: "Nodes that have agents, by whether the NetworkTelemetry is in force there: applied, refused (or not known to the agent), unreachable (or not answered yet). Only the replica that leads shows them.",
		}, []string{"state"}),
		updates: metrics.NewCounter(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "telemetry_updates_total", StabilityLevel: metrics.ALPHA,
			Help: "Messages about telemetry that were sent to agents.",
		}),
		leading: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "telemetry_leading", StabilityLevel: metrics.ALPHA,
			Help: "1 in the replica that tells agents about telemetry.",
		}),
	}
	for _, metric := range []metrics.Registerable{m.streams, m.nodes, m.updates, m.leading} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of telemetry: %w", err)
		}
	}
	return m, nil
}

// metricStates are all values of the label state.
var metricStates = []string{"applied", "refused", "unreachable"}

func (m *controllerMetrics) count(streams int, byState map[string]int) {
	m.streams.Set(float64(streams))
	for _, state := range metricStates {
		m.nodes.WithLabelValues(state).Set(float64(byState[state]))
	}
}

// resign shows that another replica leads.
func (m *controllerMetrics) resign() {
	m.leading.Set(0)
	m.streams.Set(0)
	m.nodes.Reset()
}
