package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
)

// TestStalledWatcher: behind a client that reads nothing no more waits than a queue may hold.
func TestStalledWatcher(t *testing.T) {
	w := newWatcher(&REST{}, &selection{labels: labels.Everything()}, false)
	for range 3 * maxQueue {
		w.offer(batch{changes: []change{{kind: watch.Added, record: &Record{Name: "p"}}}})
	}
	if len(w.queue) > maxQueue {
		t.Errorf("%d batches wait", len(w.queue))
	}
	select {
	case <-w.done:
	default:
		t.Error("the watch is not ended")
	}
}
