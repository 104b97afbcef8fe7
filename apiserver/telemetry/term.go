package telemetry

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// everySecond is how often nodes, pods and owners of addresses are looked at for changes.
	everySecond = time.Second
	// opening bounds the streams that are being opened at a time.
	opening = 128
)

// A term is the time for which this replica leads.
type term struct {
	*Controller
	began   time.Time
	looking chan struct{}
	opening *semaphore.Weighted
	// secrets are those that the spec names, as they were read last; used by steer alone.
	secrets     map[use]secret
	secretsRead time.Time

	mu sync.Mutex
	// wanted is what agents shall do; nil until the store was looked at. replaced is closed when another one comes.
	wanted   *desired
	replaced chan struct{}
	// since is when a spec was first wanted.
	since time.Time
	// object is the NetworkTelemetry as it was last seen, to write its status.
	object *v1alpha1.NetworkTelemetry
	nodes  map[string]*node
}

func newTerm(c *Controller) *term {
	return &term{
		Controller: c, began: c.cfg.Clock.Now(), looking: make(chan struct{}, 1), opening: semaphore.NewWeighted(opening),
		replaced: make(chan struct{}), nodes: map[string]*node{},
	}
}

// run tells agents about telemetry until ctx ends.
func (t *term) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	logger.Info("This replica tells agents about telemetry")
	defer logger.Info("This replica no longer tells agents about telemetry")
	t.metrics.leading.Set(1)
	defer t.metrics.resign()
	stop, err := t.follow()
	if err != nil {
		logger.Error(err, "Telemetry is not configured")
		<-ctx.Done()
		return
	}
	defer stop()
	t.lookAgain()
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { t.steer(ctx) })
	working.Go(func() { t.attend(ctx) })
	working.Go(func() { t.report(ctx) })
}

// want is what agents shall do; nil while that is not known.
func (t *term) want() *desired {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wanted
}

// next is the same, and a channel that is closed when it is replaced.
func (t *term) next() (*desired, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wanted, t.replaced
}

// publish has all streams told.
func (t *term) publish(d *desired) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wanted == nil || t.wanted.revision != d.revision {
		t.since = t.cfg.Clock.Now()
	}
	t.wanted = d
	if !older(d.object, t.object) {
		t.object = d.object
	}
	close(t.replaced)
	t.replaced = make(chan struct{})
}

// attend keeps a stream to each node that has an agent, until ctx ends.
func (t *term) attend(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	ticker := t.cfg.Clock.NewTicker(everySecond)
	defer ticker.Stop()
	for {
		if t.want() != nil {
			t.meet(ctx, &streams)
		}
		streams, states := t.census()
		t.metrics.count(streams, states)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// meet begins with nodes that have an agent now, and ends with those that have none any more.
func (t *term) meet(ctx context.Context, streams *sync.WaitGroup) {
	there := t.cfg.Agents.Nodes()
	t.mu.Lock()
	defer t.mu.Unlock()
	known := make(map[string]bool, len(there))
	for _, name := range there {
		known[name] = true
		if t.nodes[name] != nil {
			continue
		}
		n := &node{term: t, name: name}
		t.nodes[name] = n
		var alive context.Context
		alive, n.leave = context.WithCancel(ctx)
		streams.Go(func() { n.serve(alive) })
	}
	for name, n := range t.nodes {
		if !known[name] {
			n.leave()
			delete(t.nodes, name)
		}
	}
}

// views are what is known of all nodes now, in no order.
func (t *term) views() []view {
	t.mu.Lock()
	nodes := make([]*node, 0, len(t.nodes))
	for _, n := range t.nodes {
		nodes = append(nodes, n)
	}
	t.mu.Unlock()
	views := make([]view, len(nodes))
	for i, n := range nodes {
		views[i] = n.view()
	}
	return views
}

// census counts open streams, and nodes by state.
func (t *term) census() (streams int, states map[string]int) {
	want, states := t.want(), map[string]int{}
	if want == nil {
		return 0, states
	}
	now := t.cfg.Clock.Now()
	for _, v := range t.views() {
		if v.open {
			streams++
		}
		states[v.state(want, now).metric()]++
	}
	return streams, states
}

// budget is how many answers each stream may look at again in a second.
func (t *term) budget() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(fewLookups, lookups/max(len(t.nodes), 1))
}
