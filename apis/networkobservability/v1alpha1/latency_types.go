package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LatencyHistogram counts latencies in buckets whose bounds are powers of two: eight buckets for each doubling. They
// are the buckets of a native histogram of Prometheus with schema 3, and of an exponential histogram of OpenTelemetry
// with scale 3. Histograms of several pods, nodes or times are merged by adding the counts of equal indexes.
type LatencyHistogram struct {
	// count is the number of values.
	Count int64 `json:"count"`
	// sum of all values.
	Sum metav1.Duration `json:"sum"`
	// p50 is the median, taken as the middle of its bucket: right to 5%. Absent when there are no values, as are the
	// next two.
	// +optional
	P50 *metav1.Duration `json:"p50,omitempty"`
	// p90 is what nine of ten values do not exceed.
	// +optional
	P90 *metav1.Duration `json:"p90,omitempty"`
	// p99 is what 99 of 100 values do not exceed.
	// +optional
	P99 *metav1.Duration `json:"p99,omitempty"`
	// buckets that are not empty, in rising order.
	// +optional
	// +listType=map
	// +listMapKey=index
	Buckets []HistogramBucket `json:"buckets,omitempty"`
}

// HistogramBucket counts the values between two bounds.
type HistogramBucket struct {
	// index i is the bucket of values above 2^((i-1)/8) and up to 2^(i/8) seconds. Values below the lowest bucket
	// (-160, about a microsecond) are in it, and those above the highest (48, 64 seconds) too.
	Index int32 `json:"index"`
	// count of the values in this bucket alone.
	Count int64 `json:"count"`
}
