package agents

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// TestWideReadLeavesWorkers: reads of many silent nodes keep nobody from one that answers, not even when they wait for
// it too.
func TestWideReadLeavesWorkers(t *testing.T) {
	w := newWorld(t)
	nodes := []string{"well"}
	w.agent("well")
	var agents []*fakeAgent
	for i := range 16 {
		node := fmt.Sprintf("n%d", i)
		nodes = append(nodes, node)
		agents = append(agents, w.agent(node))
		agents[i].now(silent)
	}
	f := w.fleet(func(c *Config) { c.Workers, c.NodeTimeout, c.ReadTimeout = 8, 2*patience, 2*patience })
	ctx, cancel := context.WithCancel(t.Context())
	var wideRead sync.WaitGroup
	wideRead.Go(func() { f.Read(ctx, ask(nodes...)) })
	defer wideRead.Wait()
	defer cancel()
	eventually(t, patience, "taking all workers that wide reads may have", func() bool {
		calls := int64(0)
		for _, a := range agents {
			calls += a.calls.Load()
		}
		return calls == 6
	})
	// The silent nodes give their workers up after this only.
	soon, done := context.WithTimeout(t.Context(), patience)
	defer done()
	replies, err := f.Read(soon, ask("well"))
	if err != nil || replies["well"].Err != nil {
		t.Errorf("reading one node beside a wide read: %v, %v", err, replies["well"].Err)
	}
}

// TestNarrowReadsLeaveWorkers: nor do many reads of few nodes hold up one of many.
func TestNarrowReadsLeaveWorkers(t *testing.T) {
	f := &Fleet{workers: 8, agents: map[string]*agent{}}
	f.running[narrow] = 6
	for i, width := range []width{narrow, wide} {
		a := &agent{node: fmt.Sprint(i)}
		a.flights.waiting = &flight{width: width}
		f.enqueue(a)
	}
	if a, width := f.dequeue(); a == nil || width != wide {
		t.Errorf("next is %v, %v", a, width)
	}
	if a, _ := f.dequeue(); a != nil {
		t.Errorf("then comes %v", a)
	}
}
