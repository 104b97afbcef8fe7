package agents

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/utils/clock"
)

// TestOneDeadlineForARead: that the agents were not known at first, that no worker was free, and that nobody is known
// to answer takes no longer than ReadTimeout together.
func TestOneDeadlineForARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetrics(metrics.NewKubeRegistry().Register)
		if err != nil {
			t.Fatal(err)
		}
		f := &Fleet{
			nodeTimeout: 3 * time.Second, readTimeout: 8 * time.Second, clock: clock.RealClock{}, metrics: m,
			synced: make(chan struct{}), agents: map[string]*agent{"asked": {node: "asked"}, "other": {node: "other"}},
		}
		f.alive, f.stop = context.WithCancelCause(t.Context())
		time.AfterFunc(2*time.Second, func() { close(f.synced) })
		began := time.Now()
		_, err = f.Read(t.Context(), ask("asked"))
		if !errors.Is(err, ErrNoAgents) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != f.readTimeout {
			t.Errorf("the read took %v", took)
		}
	})
}
