package live

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// measured is a reader of which every reading is timed.
type measured struct {
	Reader
	took *metrics.Histogram
}

// measure has reads for a resource timed. A process has one such resource; where a test has it twice, the second one's
// reads are in no metric.
func measure(reader Reader, resource string) Reader {
	took := metrics.NewHistogram(&metrics.HistogramOpts{
		Namespace: "networkobservability", Subsystem: "apiserver", Name: "read_duration_seconds", StabilityLevel: metrics.ALPHA,
		Help:        "Time that nodes were waited for, of an answer or of one look for watches, by resource.",
		ConstLabels: map[string]string{"resource": resource},
		Buckets:     []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 3, 5, 8},
	})
	var twice prometheus.AlreadyRegisteredError
	if err := legacyregistry.Register(took); err != nil && !errors.As(err, &twice) {
		panic(err) // no build of this program can run: the name is taken by something else
	}
	return measured{reader, took}
}

// Read implements Reader.
func (m measured) Read(ctx context.Context, queries map[string]Query) (map[string]Reply, error) {
	began := time.Now()
	defer func() { m.took.Observe(time.Since(began).Seconds()) }()
	return m.Reader.Read(ctx, queries)
}
