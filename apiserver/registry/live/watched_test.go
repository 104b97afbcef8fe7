package live

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// meddling is a selector during whose use the store changes.
type meddling struct {
	labels.Selector
	change func()
}

func (m meddling) Empty() bool { return false }

func (m meddling) Matches(labels.Labels) bool {
	m.change()
	return true
}

// TestWatchedOnce: a pod that changes while the selections are gone through is read once.
func TestWatchedOnce(t *testing.T) {
	s := newStore(recordOfPod)
	if err := s.Replace([]any{pod("x/a,node=n1", "1")}, "1"); err != nil {
		t.Fatal(err)
	}
	meddle := &selection{namespaced: true, labels: meddling{change: func() {
		if err := s.Update(pod("x/a,node=n1,app=web", "2")); err != nil {
			t.Error(err)
		}
	}}}
	everything := &selection{namespaced: true, labels: labels.Everything()}
	if got := s.watchedBy([]*selection{meddle, everything}); len(got) != 1 {
		t.Errorf("%d records are watched", len(got))
	}
}
