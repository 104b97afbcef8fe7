// Package histograms puts the kernel's histograms on the wire.
package histograms

import (
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Wire is the sum of histograms as it goes over the wire.
func Wire(parts ...*headers.Histogram) *v1alpha1.Histogram {
	if len(parts) == 1 {
		return wire(parts[0])
	}
	var sum headers.Histogram
	for _, part := range parts {
		sum.Merge(part)
	}
	return wire(&sum)
}

func wire(h *headers.Histogram) *v1alpha1.Histogram {
	on := &v1alpha1.Histogram{SumNano: int64(h.SumNanoseconds)}
	filled := 0
	for _, count := range &h.Counts {
		if count > 0 {
			filled++
		}
	}
	if filled == 0 {
		return on
	}
	on.Indexes, on.Counts = make([]int32, 0, filled), make([]int64, 0, filled)
	for slot, count := range &h.Counts {
		if count > 0 {
			on.Indexes = append(on.Indexes, int32(slot+headers.LowestBucket))
			on.Counts = append(on.Counts, int64(count))
		}
	}
	return on
}
