package export

import (
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// TestErrorsDoNotFall: a port that gives up its place takes what it had counted out of the drops, and not out of the sum over them.
func TestErrorsDoNotFall(t *testing.T) {
	c := &collector{otlpEncoder: otlpEncoder{here}}
	uid := "uid-0"
	// sums are what is sent when drops by port are so many: receive 80, receive 443, transmit 80.
	sums := func(byPort bool, values ...float64) string {
		info := family(podInfo, dto.MetricType_GAUGE, gauge(1, "namespace", "shop", "pod", "web-0", "workload", "web-0", "uid", uid))
		drops := family(podDrops, dto.MetricType_COUNTER)
		for i, value := range values {
			pairs := []string{"namespace", "shop", "pod", "web-0", "workload", "web-0", "class", "policy", "reason", "NETFILTER_DROP", "direction", []string{"receive", "receive", "transmit"}[i]}
			if byPort {
				pairs = append(pairs, "protocol", "TCP", "port", []string{"80", "443", "80"}[i])
			}
			if value >= 0 {
				drops.Metric = append(drops.Metric, counter(value, pairs...))
			}
		}
		var got []string
		for _, p := range decodeMetrics(t, c.EncodeMetrics([]*dto.MetricFamily{drops, info}, now))[uid]["k8s.pod.network.errors"].GetSum().GetDataPoints() {
			got = append(got, fmt.Sprint(attributesOf(p.GetAttributes())["network.io.direction"], " ", p.GetAsInt()))
		}
		return strings.Join(got, ", ")
	}
	const gone = -1
	for i, step := range []struct {
		uid    string
		byPort bool
		values []float64
		want   string
	}{
		{"uid-0", true, []float64{100, 1000, 7}, "receive 1100, transmit 7"},
		{"uid-0", true, []float64{110, gone, 7}, "receive 1100, transmit 7"}, // without what 80 has counted meanwhile
		{"uid-0", true, []float64{120, gone, gone}, "receive 1110"},
		{"uid-0", true, nil, ""}, // drops could not be read
		{"uid-0", true, []float64{120, 5, 1}, "receive 1115, transmit 7"}, // 443 and 80 have come back, and begin at 0
		{"uid-1", true, []float64{3, gone, gone}, "receive 3"},            // another pod of the name
		{"uid-1", true, []float64{1, gone, gone}, "receive 3"},
		{"uid-1", false, []float64{4, gone, gone}, "receive 4"}, // nothing is missing in what is not by port
		{"uid-1", false, []float64{2, gone, gone}, "receive 2"}, // which falls only to begin anew
		{"uid-1", true, []float64{2, 2, gone}, "receive 4"},
	} {
		uid = step.uid
		if got := sums(step.byPort, step.values...); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
	c.EncodeMetrics(nil, now)
	if len(c.errors.pods) > 1 { // the node
		t.Errorf("%d pods are remembered", len(c.errors.pods))
	}
}
