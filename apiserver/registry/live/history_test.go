package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/watch"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestHistoryKeepsLastNumbersOnly: numbers of what is still there are read anew for whom they are sent to.
func TestHistoryKeepsLastNumbersOnly(t *testing.T) {
	h := history{limit: 8}
	reading := Reading{Pod: &agentv1.PodStats{}}
	for i, kind := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		h.add(change{kind: kind, host: uint64(i + 1), reading: reading})
	}
	changes, ok := h.since(0)
	if !ok || len(changes) != 3 {
		t.Fatalf("got %d changes, %v", len(changes), ok)
	}
	for _, c := range changes {
		if kept := c.reading.Pod != nil; kept != (c.kind == watch.Deleted) {
			t.Errorf("%s: a reading is kept: %v", c.kind, kept)
		}
	}
}
