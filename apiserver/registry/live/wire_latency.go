package live

import (
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// bucketsADoubling is what the histograms' schema 3 means.
const bucketsADoubling = 8

// LatencyOf adds up histograms from the wire and reckons their percentiles.
func LatencyOf(parts ...*agentv1.Histogram) v1alpha1.LatencyHistogram {
	counts := map[int32]int64{}
	var h v1alpha1.LatencyHistogram
	lowest, highest := int32(math.MaxInt32), int32(math.MinInt32)
	for _, part := range parts {
		h.Sum.Duration += time.Duration(part.GetSumNano())
		for i, index := range part.GetIndexes() {
			if i >= len(part.GetCounts()) || part.GetCounts()[i] <= 0 || index < lowestBucket || index > highestBucket {
				continue // against the protocol, and of no meaning
			}
			counts[index] += part.GetCounts()[i]
			h.Count += part.GetCounts()[i]
			lowest, highest = min(lowest, index), max(highest, index)
		}
	}
	for index := lowest; index <= highest && h.Count > 0; index++ {
		if count := counts[index]; count > 0 {
			h.Buckets = append(h.Buckets, v1alpha1.HistogramBucket{Index: index, Count: count})
		}
	}
	h.P50, h.P90, h.P99 = percentile(&h, 50), percentile(&h, 90), percentile(&h, 99)
	return h
}

// The buckets that agents have (agent.proto, Histogram).
const lowestBucket, highestBucket = -160, 48

// percentile is the middle of the bucket that holds the value of this rank; nil when there are no values.
func percentile(h *v1alpha1.LatencyHistogram, percent int64) *metav1.Duration {
	if h.Count == 0 {
		return nil
	}
	rank := (h.Count*percent + 99) / 100 // from 1
	for _, bucket := range h.Buckets {
		if rank -= bucket.Count; rank <= 0 {
			middle := math.Exp2((float64(bucket.Index) - 0.5) / bucketsADoubling)
			return &metav1.Duration{Duration: rounded(time.Duration(middle * float64(time.Second)))}
		}
	}
	return nil
}

// rounded leaves out digits that a bucket does not have.
func rounded(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// None stands in a cell for what was measured and has no values yet.
const None = "-"

// LatencyCell is a duration for people, or None.
func LatencyCell(d *metav1.Duration) string {
	if d == nil {
		return None
	}
	return d.Duration.String()
}

// RoundTripCell is the median round-trip time of the open connections, or else of the closed ones.
func RoundTripCell(connections *v1alpha1.ConnectionStats) string {
	if connections == nil {
		return Unknown
	}
	if median := connections.Open.Smoothed.P50; median != nil {
		return LatencyCell(median)
	}
	return LatencyCell(connections.Closed.Smoothed.P50)
}

// APILatencyCell is the round-trip time to the Kubernetes API.
func APILatencyCell(server *v1alpha1.APIServerStats) string {
	if server == nil {
		return Unknown
	}
	return LatencyCell(server.RTT.P99)
}
