// Package histograms puts the kernel's histograms on the wire.
package histograms

import (
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Wire is the sum of histograms as it goes over the wire.
func Wire(parts ...*headers.Histogram) *v1alpha1.Histogram {
	var sum headers.Histogram
	for _, part := range parts {
		sum.Merge(part)
	}
	wire := &v1alpha1.Histogram{SumNano: int64(sum.SumNanoseconds)}
	for slot, count := range sum.Counts {
		if count > 0 {
			wire.Indexes = append(wire.Indexes, int32(slot+headers.LowestBucket))
			wire.Counts = append(wire.Counts, int64(count))
		}
	}
	return wire
}
