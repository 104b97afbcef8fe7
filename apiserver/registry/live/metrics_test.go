package live

import (
	"context"
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"
)

type answers struct{}

func (answers) Read(context.Context, map[string]Query) (map[string]Reply, error) { return nil, nil }

// reads is how many reads of a resource the metric has.
func reads(t *testing.T, resource string) (count uint64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.Metric {
			if family.GetName() == "networkobservability_apiserver_read_duration_seconds" && metric.Label[0].GetValue() == resource {
				count = metric.Histogram.GetSampleCount()
			}
		}
	}
	return count
}

func TestReadsAreMeasuredByResource(t *testing.T) {
	one, other := measure(answers{}, "ones"), measure(answers{}, "others")
	again := measure(answers{}, "ones")
	for _, reader := range []Reader{one, one, other, again} {
		if _, err := reader.Read(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	if ones, others := reads(t, "ones"), reads(t, "others"); ones != 2 || others != 1 {
		t.Errorf("%d and %d reads were measured", ones, others)
	}
}
