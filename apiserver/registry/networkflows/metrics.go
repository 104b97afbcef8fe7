package networkflows

import (
	"fmt"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Reasons for which rows of agents are left out.
const (
	rowUnknown     = "unknown_pod"
	rowOfOtherNode = "pod_of_another_node"
	rowInvalid     = "invalid"
)

type flowMetrics struct {
	rejected *metrics.CounterVec
	watchers *metrics.Gauge
	feeds    *metrics.Gauge
	ended    *metrics.CounterVec
}

// newMetrics makes the metrics and registers them; nil means legacyregistry.Register.
func newMetrics(register func(metrics.Registerable) error) (*flowMetrics, error) {
	if register == nil {
		register = legacyregistry.Register
	}
	const namespace, subsystem = "networkobservability", "apiserver"
	m := &flowMetrics{
		rejected: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "flow_rows_rejected_total", StabilityLevel: metrics.ALPHA,
			Help: "Flows of node agents that were left out, by reason.",
		}, []string{"reason"}),
		watchers: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "flow_watchers", StabilityLevel: metrics.ALPHA,
			Help: "Watches of networkflows.",
		}),
		feeds: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "flow_feeds", StabilityLevel: metrics.ALPHA,
			Help: "Nodes whose flows are followed for watches.",
		}),
		ended: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "flow_watchers_ended_total", StabilityLevel: metrics.ALPHA,
			Help: "Watches of networkflows that this server ended before their time, by reason.",
		}, []string{"reason"}),
	}
	for _, metric := range []metrics.Registerable{m.rejected, m.watchers, m.feeds, m.ended} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of networkflows: %w", err)
		}
	}
	return m, nil
}

func (m *flowMetrics) reject(reason string) { m.rejected.WithLabelValues(reason).Inc() }
