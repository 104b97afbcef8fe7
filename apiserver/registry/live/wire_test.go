package live

import (
	"slices"
	"testing"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestLatency: histograms add up, percentiles are within half a bucket of the truth, and what is against the protocol
// is left out.
func TestLatency(t *testing.T) {
	merged := LatencyOf(
		&agentv1.Histogram{Indexes: []int32{-80, 0}, Counts: []int64{50, 1}, SumNano: int64(time.Second)},
		&agentv1.Histogram{Indexes: []int32{-80, 8}, Counts: []int64{48, 1}, SumNano: int64(time.Second)},
		nil,
	)
	want := []v1alpha1.HistogramBucket{{Index: -80, Count: 98}, {Index: 0, Count: 1}, {Index: 8, Count: 1}}
	if merged.Count != 100 || merged.Sum.Duration != 2*time.Second || !slices.Equal(merged.Buckets, want) {
		t.Errorf("merged %+v", merged)
	}
	for _, test := range []struct {
		name      string
		got       time.Duration
		low, high float64
	}{
		{"p50", merged.P50.Duration, 1.0 / 1024 * 0.917, 1.0 / 1024},
		{"p90", merged.P90.Duration, 1.0 / 1024 * 0.917, 1.0 / 1024},
		{"p99", merged.P99.Duration, 0.917, 1},
	} {
		if got := test.got.Seconds(); got < test.low || got > test.high {
			t.Errorf("%s is %v, want it between %v and %v s", test.name, test.got, test.low, test.high)
		}
	}
	for _, hostile := range []*agentv1.Histogram{
		nil, {}, {Indexes: []int32{1}}, {Counts: []int64{1}}, {Indexes: []int32{1}, Counts: []int64{-5}},
		{Indexes: []int32{1 << 30, -1 << 30}, Counts: []int64{1, 1}},
	} {
		if got := LatencyOf(hostile); got.Count != 0 || got.P50 != nil || len(got.Buckets) != 0 {
			t.Errorf("%v became %+v", hostile, got)
		}
	}
}

func TestDrops(t *testing.T) {
	got := DropsOf(&agentv1.Drops{Unsorted: 4, Drops: []*agentv1.Drop{
		{Reason: "NETFILTER_DROP", Class: agentv1.Drop_CLASS_POLICY, Direction: agentv1.Direction_DIRECTION_RECEIVE, Protocol: 6, Port: 80, Packets: 10},
		{Reason: "TCP_OLD_DATA", Class: agentv1.Drop_CLASS_BENIGN, Packets: 100},
		{Reason: "NEW", Class: 99, Packets: 1},
	}})
	if got.Packets != 15 || got.Benign != 100 || got.Reasons[0].Protocol != "TCP" || got.Reasons[2].Class != v1alpha1.DropOther {
		t.Errorf("got %+v", got)
	}
	if len(got.ByClass) != 3 || got.ByClass[0].Class != v1alpha1.DropBenign || got.ByClass[1].Packets != 10 {
		t.Errorf("classes are %+v", got.ByClass)
	}
	if DropsOf(nil) != nil {
		t.Error("drops that nobody counts are there")
	}
}

func TestDNS(t *testing.T) {
	got := DNSOf(&agentv1.DNS{
		Queries:   []*agentv1.DNSQueries{{Type: 1, Count: 5}, {Type: 28, Count: 7}, {Type: 65535, Count: 1}, {Type: 700, Count: 1}},
		Responses: []*agentv1.DNSResponses{{Type: 1, Code: 0, Count: 4}, {Type: 1, Code: 3, Count: 1}, {Type: 1, Code: 99, Count: 1}},
		Names:     []*agentv1.DNSNameCount{{Name: "a\x1b[31m.", Count: 3}},
	})
	if got.Queries != 14 || got.Responses != 6 || got.Errors != 2 || got.QueriesByType[0].Type != "AAAA" || got.QueriesByType[3].Type != "TYPE700" {
		t.Errorf("got %+v", got)
	}
	if got.ResponsesByCode[1].Code != "NXDOMAIN" || got.ResponsesByCode[2].Code != "RCODE99" || got.TopNames[0].Name != "a?[31m." {
		t.Errorf("got %+v", got)
	}
}

func TestCoverage(t *testing.T) {
	traffic := &v1alpha1.TrafficStats{}
	if got := CoverageOf(&agentv1.FlowTotals{}, traffic); got.Coverage != nil {
		t.Errorf("a pod without packets is covered to %v", got.Coverage)
	}
	traffic.Receive.Packets, traffic.Transmit.Packets = 600, 400
	for packets, want := range map[int64]string{0: "0", 999: "999m", 1000: "1", 1001: "1"} {
		if got := CoverageOf(&agentv1.FlowTotals{Packets: packets}, traffic).Coverage.String(); got != want {
			t.Errorf("%d of 1000 packets are %s, want %s", packets, got, want)
		}
	}
}
