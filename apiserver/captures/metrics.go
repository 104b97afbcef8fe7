package captures

import (
	"fmt"

	"k8s.io/component-base/metrics"
)

type controllerMetrics struct {
	captures *metrics.GaugeVec
	writes   *metrics.CounterVec
	swept    *metrics.Counter
	leading  *metrics.Gauge
}

// newMetrics makes the controller's metrics and registers them.
func newMetrics(register func(metrics.Registerable) error) (*controllerMetrics, error) {
	const namespace, subsystem = "networkobservability", "apiserver"
	m := &controllerMetrics{
		captures: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "captures", StabilityLevel: metrics.ALPHA,
			Help: "Captures by phase: scheduled, recording, ending, complete, failed. Only the replica that leads shows them.",
		}, []string{"phase"}),
		writes: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "capture_status_writes_total", StabilityLevel: metrics.ALPHA,
			Help: "Writes of captures' status, by result.",
		}, []string{"result"}),
		swept: metrics.NewCounter(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "capture_orphans_deleted_total", StabilityLevel: metrics.ALPHA,
			Help: "Recordings that were deleted from nodes because their captures are gone.",
		}),
		leading: metrics.NewGauge(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "captures_leading", StabilityLevel: metrics.ALPHA,
			Help: "1 in the replica that controls captures.",
		}),
	}
	for _, metric := range []metrics.Registerable{m.captures, m.writes, m.swept, m.leading} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of captures: %w", err)
		}
	}
	return m, nil
}

// phases are all values of the label phase.
var phases = []string{"scheduled", "recording", "ending", "complete", "failed"}

func (m *controllerMetrics) count(byPhase map[string]int) {
	for _, phase := range phases {
		m.captures.WithLabelValues(phase).Set(float64(byPhase[phase]))
	}
}
