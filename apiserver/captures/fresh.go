package captures

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// freshWithin is how long a question for the present status may take.
	freshWithin = time.Second
	// freshAsks is how many agents are asked for it at a time.
	freshAsks = 32
)

func isComplete(status *v1alpha1.CaptureStatus) bool {
	return meta.IsStatusConditionTrue(status.Conditions, v1alpha1.CaptureComplete)
}

// Fresh is the status of a Capture or ClusterCapture with what the agents say of it at this moment: rows and totals. Those
// that do not answer within a second have the rows that were stored. It works in every replica and changes nothing.
func (c *Controller) Fresh(ctx context.Context, capture runtime.Object) (*v1alpha1.CaptureStatus, error) {
	s, err := subjectOf(capture)
	if err != nil {
		return nil, err
	}
	if s.status.Control == nil || isFinished(s.status) || len(s.status.Control.Nodes) == 0 {
		return s.status, nil
	}
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	states := c.ask(ctx, s)
	m := newMachine(s, &selection{})
	m.onlyStored = true
	now := c.cfg.Clock.Now()
	for node, state := range states {
		m.answer(node, state, now)
	}
	status := s.status.DeepCopy()
	m.reportTargets(status)
	return status, nil
}

// ask asks the agents that record a capture for its state. Those that do not answer as they should have none.
func (c *Controller) ask(ctx context.Context, s *subject) map[string]*agentv1.CaptureState {
	uid := string(s.uid())
	states := map[string]*agentv1.CaptureState{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	places := make(chan struct{}, freshAsks)
	for _, node := range s.status.Control.Nodes {
		if !node.Recorded {
			continue
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			found, err := c.cfg.Agents.List(ctx, node.Node, []string{uid})
			if err != nil || found[uid] == nil || c.check(s, node.Node, found[uid]) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			states[node.Node] = found[uid]
		})
	}
	asking.Wait()
	return states
}
