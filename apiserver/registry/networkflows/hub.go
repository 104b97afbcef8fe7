package networkflows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// linger is how long a node is followed after its last watcher went, who may come back.
	linger = time.Minute
	// pollArrivals is how often a feed looks whether pods have come to its node.
	pollArrivals = 250 * time.Millisecond
	// firstPause and lastPause are between attempts to follow a node that does not answer.
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
	// maxCatchingUp is how many watchers at a time read what they missed on a node.
	maxCatchingUp = 2
	// catchUpTime is how long one of them may take, which a client that does not read could draw out.
	catchUpTime = time.Minute
	// maxCheckpoints is at least keepFor at a checkpoint a second.
	maxCheckpoints = 400
)

// A hub follows nodes for all watchers: one stream a node, for as long as somebody watches it.
type hub struct {
	source   Source
	names    Names
	clock    clock.WithTicker
	metrics  *flowMetrics
	versions *counter
	// catchUpTime is the constant, but for tests.
	catchUpTime time.Duration

	// mu orders everything that watchers are told, over all nodes. It is never held over I/O.
	mu       sync.Mutex
	lifetime context.Context
	end      context.CancelFunc
	running  sync.WaitGroup
	feeds    map[string]*feed
	books    map[string]*book
	booked   int
	// reading is how many read flows of which nobody has been told yet, left how many have gone meanwhile.
	reading, left int
	marks         map[uint64]*mark
}

// A feed follows one node. The hub's lock guards it.
type feed struct {
	node     string
	watchers map[*watcher]struct{}
	// created is the version at which it began.
	created uint64
	// catchingUp bounds the streams beside the feed's own: an agent has few, for all replicas.
	catchingUp *semaphore.Weighted
	// lonely is since when there are no watchers.
	lonely time.Time
	// known says that instance and revision are; tried is closed when the first attempt to learn them has ended, in err
	// if it failed.
	known              bool
	tried              chan struct{}
	err                error
	instance, revision int64
	// asked are the keys of the pods that are followed, of its goroutine alone; nil before the first stream.
	asked       map[string]struct{}
	checkpoints []checkpoint
	stop        context.CancelFunc
}

// An event is what happened to one flow.
type event struct {
	place
	revision int64
	// fresh marks a flow that nobody can have been told of before.
	fresh bool
	row   *row
	pod   *live.Record
	// gone marks a flow that has left the history; row is nil then.
	gone bool
}

// A batch is what watchers of a node are told at once. The events have the versions up to last.
type batch struct {
	feed   *feed
	events []event
	last   uint64
}

func newHub(r *REST) *hub {
	h := &hub{
		source: r.source, names: r.names, clock: r.clock, metrics: r.metrics, versions: r.versions,
		feeds: map[string]*feed{}, books: map[string]*book{}, marks: map[uint64]*mark{}, catchUpTime: catchUpTime,
	}
	h.lifetime, h.end = context.WithCancel(context.Background())
	return h
}

// run forgets what is not needed any more, and ends all feeds when ctx ends.
func (h *hub) run(ctx context.Context) {
	ticker := h.clock.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.end() // Under the lock, so that no feed begins afterwards.
			h.mu.Unlock()
			h.running.Wait()
			return
		case <-ticker.C():
			h.tidy()
		}
	}
}

func (h *hub) tidy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, f := range h.feeds {
		if len(f.watchers) == 0 && h.clock.Since(f.lonely) > linger {
			f.stop()
			delete(h.feeds, node)
		}
	}
	h.metrics.feeds.Set(float64(len(h.feeds)))
	h.sweep()
}

var errNotRunning = errors.New("the server is not serving watches")

// subscribe has a watcher told of what happens on a node from now on.
func (h *hub) subscribe(node string, w *watcher) (*feed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lifetime.Err() != nil {
		return nil, errNotRunning
	}
	f := h.feeds[node]
	if f == nil {
		f = &feed{
			node: node, watchers: map[*watcher]struct{}{}, tried: make(chan struct{}), created: h.versions.next(1),
			catchingUp: semaphore.NewWeighted(maxCatchingUp),
		}
		var ctx context.Context
		ctx, f.stop = context.WithCancel(h.lifetime)
		h.feeds[node] = f
		h.running.Go(func() { h.follow(ctx, f) })
		h.metrics.feeds.Set(float64(len(h.feeds)))
	}
	f.watchers[w] = struct{}{}
	return f, nil
}

// leave ends all subscriptions of a watcher.
func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.feeds {
		if _, ok := f.watchers[w]; ok {
			delete(f.watchers, w)
			f.lonely = h.clock.Now()
		}
	}
}

// now is a version up to which a watcher has been told everything that is not in its queue.
func (h *hub) now() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions.next(1)
}

// follow keeps a feed going until ctx ends.
func (h *hub) follow(ctx context.Context, f *feed) {
	defer f.stop()
	pause := firstPause
	for ctx.Err() == nil {
		began := h.clock.Now()
		err := h.attempt(ctx, f)
		h.tried(f, err)
		switch {
		case errors.Is(err, errArrivals):
			pause = 0
		case errors.Is(err, ErrGone):
			h.begun(f)
			pause = firstPause
		case h.clock.Since(began) > lastPause:
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-h.clock.After(pause):
		}
		pause = min(max(2*pause, firstPause), lastPause)
	}
}

// tried notes how an attempt ended, for those who wait for the first.
func (h *hub) tried(f *feed, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.try(err)
}

func (f *feed) try(err error) {
	f.err = err
	select {
	case <-f.tried:
	default:
		close(f.tried)
	}
}

// begun notes that the history is another one than was followed, or has moved on too fast: what watchers know cannot be
// brought up to date.
func (h *hub) begun(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeBook(f.node)
	f.instance, f.revision, f.checkpoints = 0, 0, nil
	f.known = false
	for w := range f.watchers {
		w.expire(fmt.Sprintf("the history of node %s began anew, or has moved on too fast", f.node), "history")
		delete(f.watchers, w)
	}
	f.lonely = h.clock.Now()
}

// errArrivals ends a stream that does not ask for all pods any more.
var errArrivals = errors.New("pods have come to the node")

// attempt follows a node until the stream breaks, or pods come to the node.
func (h *hub) attempt(ctx context.Context, f *feed) error {
	if !f.known { // Only this goroutine sets it.
		if err := h.probe(ctx, f); err != nil {
			return err
		}
	}
	arrivals := h.names.Arrivals(f.node)
	keys := keysOn(h.names, f.node)
	if err := h.catchUpArrivals(ctx, f, keys); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var polling sync.WaitGroup
	defer polling.Wait()
	defer cancel(nil)
	polling.Go(func() {
		ticker := h.clock.NewTicker(pollArrivals)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C():
				if h.names.Arrivals(f.node) != arrivals {
					cancel(errArrivals)
				}
			}
		}
	})
	request := &agentv1.ReadFlowsRequest{PodKeys: keys, Follow: true, AfterRevision: f.revision, Instance: f.instance}
	there := map[int64]struct{}{}
	err := h.source.Read(ctx, f.node, request, func(batch *agentv1.ReadFlowsResponse) error {
		if f.revision == 0 {
			// As in catchUp: it is not said what has gone, and somebody may have been told of it since the history was found empty.
			for _, flow := range batch.Flows {
				there[flow.Position] = struct{}{}
			}
			if batch.Current {
				batch.Gone = h.missing(f.node, f.instance, there)
			}
		}
		return h.publish(f, batch)
	})
	if errors.Is(context.Cause(ctx), errArrivals) {
		return errArrivals
	}
	return err
}

// probe learns where the history is.
func (h *hub) probe(ctx context.Context, f *feed) error {
	var first *agentv1.ReadFlowsResponse
	err := h.source.Read(ctx, f.node, &agentv1.ReadFlowsRequest{Limit: 1}, func(batch *agentv1.ReadFlowsResponse) error {
		first = batch
		return nil
	})
	if err != nil {
		return err
	}
	if first == nil {
		return fmt.Errorf("%s: the answer of the agent has no revision", f.node)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f.instance, f.revision, f.known, f.asked = first.Instance, first.Revision, true, nil
	h.checkpoint(f)
	f.try(nil)
	for w := range f.watchers {
		w.wake()
	}
	return nil
}

// keysOn are the keys of a node's pods, as many as can be asked for, those that are there first.
func keysOn(names Names, node string) []string {
	var there, gone []string
	for pod, isThere := range names.PodsOn(node) {
		if isThere {
			there = append(there, pod.PodKey)
		} else {
			gone = append(gone, pod.PodKey)
		}
	}
	all := append(there, gone...)
	return all[:min(len(all), agentv1.MaxPodKeys)]
}

// catchUpArrivals tells of flows of pods that were not asked for until now, up to the revision at which all others
// are. There are some only when pods are known to their node before they are to us.
func (h *hub) catchUpArrivals(ctx context.Context, f *feed, keys []string) error {
	asked := make(map[string]struct{}, len(keys))
	var arrived []string
	for _, key := range keys {
		asked[key] = struct{}{}
		if _, ok := f.asked[key]; !ok && f.asked != nil {
			arrived = append(arrived, key)
		}
	}
	if len(arrived) > 0 {
		request := &agentv1.ReadFlowsRequest{PodKeys: arrived, Instance: f.instance}
		err := h.source.Read(ctx, f.node, request, func(batch *agentv1.ReadFlowsResponse) error {
			flows := slices.DeleteFunc(batch.Flows, func(flow *agentv1.Flow) bool { return flow.Revision > f.revision })
			return h.publish(f, &agentv1.ReadFlowsResponse{Flows: flows, Instance: batch.Instance})
		})
		if err != nil {
			return err // Nobody else tells of these flows: they are read when the agent answers again.
		}
	}
	f.asked = asked
	return nil
}

// publish tells the watchers of a feed what its agent sent.
func (h *hub) publish(f *feed, from *agentv1.ReadFlowsResponse) error {
	if from.Instance != f.instance {
		return fmt.Errorf("%s: %w", f.node, ErrGone)
	}
	judge := judge{h.names, everything, h.metrics}
	events := make([]event, 0, len(from.Flows)+len(from.Gone))
	for _, flow := range from.Flows {
		object, pod, what := judge.take(f.node, f.instance, flow)
		if what == selected {
			at := place{f.node, f.instance, flow.Position}
			events = append(events, event{place: at, revision: flow.Revision, row: &row{at, flow.Revision, object, pod}, pod: pod})
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.books[f.node]; b != nil && b.instance == f.instance {
		for i, e := range events {
			_, known := b.pods[e.position]
			events[i].fresh = !known
		}
	} else {
		for i := range events {
			events[i].fresh = true
		}
	}
	events = append(events, h.departures(f, from)...)
	if !h.book(f, events) {
		return nil
	}
	if len(events) > 0 {
		b := batch{feed: f, events: events, last: h.versions.next(len(events))}
		for w := range f.watchers {
			w.offer(b)
		}
	}
	if from.Current {
		f.revision = from.Revision
		h.checkpoint(f)
	}
	return nil
}

// book notes the flows that a watcher may be told of. Without room for them nobody can be told when they go.
func (h *hub) book(f *feed, events []event) bool {
	for _, e := range events {
		for w := range f.watchers {
			if w.selection.namespace != "" && w.selection.namespace != e.pod.Namespace {
				continue
			}
			if !h.tell(f.node, f.instance, e.position, e.pod) {
				for w := range f.watchers {
					w.expire("too many flows are watched", "memory")
				}
				return false
			}
			break
		}
	}
	return true
}

// departures are events of flows that have gone, of which clients have been told.
func (h *hub) departures(f *feed, from *agentv1.ReadFlowsResponse) (events []event) {
	if len(from.Gone) == 0 {
		return nil
	}
	b := h.books[f.node]
	if h.reading > 0 {
		b = h.bookOf(f.node, f.instance)
	}
	if b == nil || b.instance != f.instance {
		return nil
	}
	for _, position := range from.Gone {
		if pod, ok := b.pods[position]; ok {
			events = append(events, event{place: place{f.node, f.instance, position}, revision: from.Revision, pod: pod, gone: true})
			b.gone = append(b.gone, departed{position, h.clock.Now()})
		} else if h.reading > 0 && h.left < maxLeft {
			h.left++
			b.left[position] = h.clock.Now()
		}
	}
	return events
}

// checkpoint notes what has been sent by now, once a second at most.
func (h *hub) checkpoint(f *feed) {
	now := h.clock.Now()
	c := checkpoint{instance: f.instance, revision: f.revision, relabelled: h.names.Relabelled(), at: now}
	c.version = h.versions.next(1) // After the labels: a list of this version has what they make of it.
	if n := len(f.checkpoints); n > 1 && now.Sub(f.checkpoints[n-2].at) < time.Second {
		f.checkpoints[n-1] = c
		return
	}
	f.checkpoints = append(f.checkpoints, c)
	for len(f.checkpoints) > maxCheckpoints || now.Sub(f.checkpoints[0].at) > keepFor {
		f.checkpoints = f.checkpoints[1:]
	}
}

// nodesOf are the nodes of feeds, in order.
func nodesOf(feeds map[string]*feed) []string { return slices.Sorted(maps.Keys(feeds)) }
