package streams

import (
	"fmt"

	"k8s.io/component-base/metrics"
)

type streamMetrics struct {
	open  *metrics.GaugeVec
	ended *metrics.CounterVec
	bytes *metrics.CounterVec
}

func newMetrics() streamMetrics {
	const namespace, subsystem = "networkobservability", "apiserver"
	return streamMetrics{
		open: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "capture_streams_open", StabilityLevel: metrics.ALPHA,
			Help: "Streams of packets to clients that are open, by subresource.",
		}, []string{"subresource"}),
		ended: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "capture_streams_total", StabilityLevel: metrics.ALPHA,
			Help: "Streams of packets to clients that ended, by subresource and by how: complete, refused (nothing was sent) or broken.",
		}, []string{"subresource", "result"}),
		bytes: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "capture_stream_bytes_total", StabilityLevel: metrics.ALPHA,
			Help: "Bytes of files with packets that were sent to clients, by subresource.",
		}, []string{"subresource"}),
	}
}

func (m streamMetrics) register(register func(metrics.Registerable) error) error {
	for _, metric := range []metrics.Registerable{m.open, m.ended, m.bytes} {
		if err := register(metric); err != nil {
			return fmt.Errorf("registering metrics of streams: %w", err)
		}
	}
	return nil
}
