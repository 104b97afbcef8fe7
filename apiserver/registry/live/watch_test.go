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

// TestInNamespace: of a tick a watch of one namespace goes through its own changes only.
func TestInNamespace(t *testing.T) {
	var changes []change
	for _, k := range []key{{"a", "x"}, {"a-b", "p"}, {"b", "p"}, {"b", "q"}, {"b-c", "p"}} {
		changes = append(changes, change{record: &Record{Namespace: k.namespace, Name: k.name}})
	}
	for namespace, want := range map[string]int{"a": 1, "a-b": 1, "b": 2, "b-c": 1, "": 0, "aa": 0, "c": 0} {
		got := inNamespace(changes, namespace)
		if len(got) != want {
			t.Errorf("%d changes in %q, want %d", len(got), namespace, want)
		}
		for _, c := range got {
			if c.record.Namespace != namespace {
				t.Errorf("%v in %q", c.record.key(), namespace)
			}
		}
	}
}
