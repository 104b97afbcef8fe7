package networkflows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"
	serverwarning "k8s.io/apiserver/pkg/warning"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// maxQueue is how many events wait for a slow watcher before it is ended.
	maxQueue = 20_000
	// maxTracked is how many flows a watcher with selectors on what changes can know of.
	maxTracked = 100_000
	// awaitNodes is how long a watch waits for nodes that are not followed yet before it begins without them.
	awaitNodes = 3 * time.Second
	// bookmarkInterval is how often a watcher hears its version.
	bookmarkInterval = time.Minute
	// pollLabels is how often a watcher looks whether pods' labels have changed.
	pollLabels = 250 * time.Millisecond
	// renewNodes is how often a watcher looks for nodes that have come into its selection.
	renewNodes = time.Second
	// replayable is for how long a version of another replica can be gone on from, and replayMargin what clocks may differ.
	replayable   = time.Minute
	replayMargin = 5 * time.Second
)

var _ rest.Watcher = &REST{}

// Watch begins where options say: with all flows, after a version, or now.
func (r *REST) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	if options == nil {
		options = &metainternalversion.ListOptions{}
	}
	selection, err := newSelection(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := r.names.Synced(); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	from, err := parseVersion(options.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := r.versions.adopt(from); err != nil {
		return nil, err
	}
	w := newWatcher(r, selection, options.AllowWatchBookmarks)
	w.initial = from == 0
	if options.SendInitialEvents != nil {
		w.initial = *options.SendInitialEvents
		w.markEnd = w.initial && options.AllowWatchBookmarks
	}
	if !w.initial {
		w.from = from
	}
	errs, err := w.subscribe(ctx)
	if err != nil {
		r.hub.leave(w)
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	if len(errs) > 0 {
		serverwarning.AddWarning(ctx, "", live.Warning(errs, len(w.feeds)))
	}
	r.metrics.watchers.Inc()
	go w.run(ctx)
	return w, nil
}

// A watcher sends one client what it selected. Batches wait in its queue; run takes them out and is the only sender.
type watcher struct {
	rest      *REST
	selection *selection
	bookmarks bool
	// initial asks for all flows to begin with, markEnd for the bookmark behind them (KEP-3157). from is the version
	// after which a watch begins; 0 for now.
	initial, markEnd bool
	from             uint64

	results chan watch.Event
	woken   chan struct{}
	stop    func()
	done    chan struct{}

	// feeds are those subscribed to, waiting those whose flows have not been read to begin with; came are the nodes that
	// came into the selection later, and have no past. Of run alone, as are the next.
	feeds, waiting map[string]*feed
	came           map[string]bool
	// read is up to which revision of a node what was read says all; older events are no news.
	read map[string]checkpoint
	// relabelled is up to which change of pods' labels the client was told what it makes of the selection.
	relabelled uint64
	// last is the version of the last event sent.
	last uint64
	// tracked are flows that the client knows of, or was told are gone; nil when the selection is by what cannot change.
	tracked map[place]bool

	mu     sync.Mutex
	queue  []batch
	queued int
	// expired is why the watch ended.
	expired string
}

var _ watch.Interface = &watcher{}

func newWatcher(r *REST, selection *selection, bookmarks bool) *watcher {
	w := &watcher{
		rest: r, selection: selection, bookmarks: bookmarks,
		results: make(chan watch.Event, 16), woken: make(chan struct{}, 1), done: make(chan struct{}),
		feeds: map[string]*feed{}, waiting: map[string]*feed{}, came: map[string]bool{}, read: map[string]checkpoint{},
		relabelled: r.names.Relabelled(),
	}
	if len(selection.ofFlow) > 0 || !selection.since.IsZero() {
		w.tracked = map[place]bool{}
	}
	w.stop = sync.OnceFunc(func() { close(w.done) })
	return w
}

// Stop ends the watch. It does not wait.
func (w *watcher) Stop() { w.stop() }

// ResultChan is closed when the watch has ended.
func (w *watcher) ResultChan() <-chan watch.Event { return w.results }

// offer is called under the hub's lock.
func (w *watcher) offer(b batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.expired != "" {
		return
	}
	w.queue = append(w.queue, b)
	w.queued += len(b.events)
	if w.queued > maxQueue {
		w.expireLocked("this watch is too slow: more happened than waits for it", "slow")
	}
	w.wake()
}

// expire ends the watch: what follows cannot be told.
func (w *watcher) expire(why, metric string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expireLocked(why, metric)
}

func (w *watcher) expireLocked(why, metric string) {
	if w.expired != "" {
		return
	}
	w.expired, w.queue, w.queued = why, nil, 0
	w.rest.metrics.ended.WithLabelValues(metric).Inc()
	w.wake()
}

func (w *watcher) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (w *watcher) take() (b batch, ok, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.expired != "" {
		return batch{}, false, true
	}
	if len(w.queue) == 0 {
		return batch{}, false, false
	}
	b = w.queue[0]
	w.queue[0] = batch{} // Else the queue would keep it until it grows.
	w.queue = w.queue[1:]
	w.queued -= len(b.events)
	return b, true, false
}

// subscribe follows the nodes that can have flows of the selection, those that are not followed yet, and waits a while
// for them. errs are of those that gave no answer.
func (w *watcher) subscribe(ctx context.Context) (errs []error, err error) {
	nodes := slices.Collect(maps.Keys(w.selection.queries(w.rest.names)))
	if w.from > 0 {
		nodes = append(nodes, w.selection.leftNodes(w.rest.names)...)
	}
	for _, node := range nodes {
		if w.feeds[node] != nil {
			continue
		}
		f, err := w.rest.hub.subscribe(node, w)
		if err != nil {
			return nil, err
		}
		w.feeds[node], w.waiting[node] = f, f
	}
	timeout := w.rest.clock.NewTimer(awaitNodes)
	defer timeout.Stop()
	for _, node := range nodesOf(w.waiting) {
		select {
		case <-w.waiting[node].tried:
		case <-timeout.C():
			return append(errs, fmt.Errorf("%s: did not answer in time", node)), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if _, err := w.rest.hub.state(w.waiting[node]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs, nil
}

// state says whether a feed knows where its history is, and otherwise why not.
func (h *hub) state(f *feed) (known bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.known {
		return true, nil
	}
	return false, f.err
}

// run sends what the watch begins with and then what comes, until the client goes or the watch is ended.
func (w *watcher) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer close(w.results)
	defer w.rest.metrics.watchers.Dec()
	defer w.rest.hub.leave(w)
	w.last = w.from
	if w.initial || w.from == 0 {
		w.last = w.rest.hub.now()
	}
	if w.begin(ctx) && (!w.markEnd || w.sendBookmark(ctx, true)) {
		w.follow(ctx)
	}
	w.mu.Lock()
	why := w.expired
	w.mu.Unlock()
	if why != "" {
		status := apierrors.NewResourceExpired("too old resource version: " + why + ", list again").ErrStatus
		w.send(ctx, watch.Event{Type: watch.Error, Object: &status})
	}
}

// begin reads what the watch begins with, of the nodes that wait for that and answer.
func (w *watcher) begin(ctx context.Context) bool {
	ready := map[string]*feed{}
	for node, f := range w.waiting {
		if known, _ := w.rest.hub.state(f); known {
			ready[node] = f
			delete(w.waiting, node)
		}
	}
	all := map[string]*feed{}
	for _, node := range nodesOf(ready) {
		switch {
		case w.initial || w.came[node]:
			all[node] = ready[node]
		case w.from > 0 && !w.beginAfter(ctx, node):
			return false
		}
	}
	return len(all) == 0 || w.beginWithAll(ctx, all)
}

// beginWithAll sends all flows of nodes.
func (w *watcher) beginWithAll(ctx context.Context, ready map[string]*feed) bool {
	queries := w.selection.queries(w.rest.names)
	for node := range queries {
		if ready[node] == nil {
			delete(queries, node)
		}
	}
	return w.sendListed(ctx, queries, watch.Added, true)
}

// sendListed sends the flows that nodes have now; whole says that this is all that is selected of them.
func (w *watcher) sendListed(ctx context.Context, queries map[string]*agentv1.ReadFlowsRequest, kind watch.EventType, whole bool) bool {
	defer w.rest.hub.reads()()
	forever := time.Now().Add(24 * time.Hour)
	m := newMerge(ctx, w.rest.source, judge{w.rest.names, w.selection, w.rest.metrics}, queries, nil, firstChunk, forever)
	for _, l := range m.nodes {
		if whole {
			w.read[l.node] = checkpoint{instance: l.instance, revision: l.revision}
		}
	}
	for {
		row, ok := m.next(ctx)
		if !ok {
			break
		}
		left, ok := w.tell(row)
		if !ok || !left && !w.sendRow(ctx, kind, &row, w.last) {
			return false
		}
	}
	for _, l := range m.nodes {
		if l.err != nil && ctx.Err() == nil {
			// Some of its flows may have been sent, and the others never would be.
			w.expire(l.err.Error(), "node")
			return false
		}
	}
	return ctx.Err() == nil
}

// tell notes in the books that the client is told of a flow that no feed brought. One that has left the history since it was
// read is not to be told of: nothing would say that it went.
func (w *watcher) tell(row row) (left, ok bool) {
	h := w.rest.hub
	h.mu.Lock()
	left = h.hasLeft(row.node, row.instance, row.position)
	ok = left || h.tell(row.node, row.instance, row.position, row.pod)
	h.mu.Unlock()
	if !ok {
		w.expire("too many flows are watched", "memory")
	}
	return left, ok
}

// beginAfter sends what has happened on a node since the watch's version: exactly, if this replica gave the version
// out; else, if it is young, all flows that had packets since.
func (w *watcher) beginAfter(ctx context.Context, node string) bool {
	since, known, elsewhere := w.rest.hub.since(node, w.from)
	if !known {
		since.relabelled = w.rest.names.RelabelledBy(timeOf(w.from).Add(-replayMargin))
	}
	request := w.selection.queries(w.rest.names)[node]
	switch {
	case request == nil && !w.selection.byLabels():
		return true
	case !known && (!elsewhere || w.rest.clock.Since(timeOf(w.from)) > replayable):
		w.expire("what happened since on node "+node+" is not known here", "version")
		return false
	case !w.relabel(ctx, since.relabelled, node):
		return false
	case request == nil:
		return true
	case known:
		return w.catchUp(ctx, node, request, since)
	}
	request.SinceUnixNano = max(request.SinceUnixNano, timeOf(w.from).Add(-replayMargin).UnixNano())
	return w.sendListed(ctx, map[string]*agentv1.ReadFlowsRequest{node: request}, watch.Modified, true)
}

// errCaughtUp ends a stream that has told all.
var errCaughtUp = errors.New("caught up")

// catchUp sends all that has changed on a node since a checkpoint.
func (w *watcher) catchUp(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, since checkpoint) bool {
	places := w.feeds[node].catchingUp
	if places.Acquire(ctx, 1) != nil {
		return false // The client has gone.
	}
	defer places.Release(1)
	defer w.rest.hub.reads()()
	limited, cancel := context.WithCancel(ctx) // Without a deadline, by which the agent would seem to be slow.
	defer cancel()
	defer time.AfterFunc(w.rest.hub.catchUpTime, cancel).Stop()
	// Filters of the agent would hide what has left the selection.
	request = &agentv1.ReadFlowsRequest{PodKeys: request.PodKeys, Follow: true, AfterRevision: since.revision, Instance: since.instance}
	judge := judge{w.rest.names, everything, w.rest.metrics}
	there := map[int64]struct{}{}
	err := w.rest.source.Read(limited, node, request, func(from *agentv1.ReadFlowsResponse) error {
		var events []event
		for _, flow := range from.Flows {
			there[flow.Position] = struct{}{}
			if object, pod, what := judge.take(node, from.Instance, flow); what == selected {
				at := place{node, from.Instance, flow.Position}
				events = append(events, event{place: at, revision: flow.Revision, row: &row{at, flow.Revision, object, pod}, pod: pod})
			}
		}
		if from.Current && since.revision == 0 {
			// After revision 0 comes everything that is there, and nothing of what has gone.
			from.Gone = w.rest.hub.missing(node, from.Instance, there)
		}
		events = w.rest.hub.past(node, from, events)
		for _, e := range events {
			if !w.sendEvent(limited, e, w.last) {
				return context.Canceled
			}
		}
		if from.Current {
			w.read[node] = checkpoint{instance: from.Instance, revision: from.Revision}
			return errCaughtUp
		}
		return nil
	})
	switch {
	case errors.Is(err, errCaughtUp) || ctx.Err() != nil:
	case limited.Err() != nil:
		w.expire("this watch is too slow: others wait to read what they missed on node "+node, "slow")
		return false
	default:
		w.expire(fmt.Sprintf("what happened since cannot be read: %v", err), "version")
		return false
	}
	return ctx.Err() == nil
}

// past completes events of a while ago by what the books say: whether a flow is new to clients, and which flows have gone.
func (h *hub) past(node string, from *agentv1.ReadFlowsResponse, events []event) []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bookOf(node, from.Instance)
	for i, e := range events {
		_, known := b.pods[e.position]
		events[i].fresh = !known
		h.tell(node, from.Instance, e.position, e.pod)
		if h.hasLeft(node, from.Instance, e.position) {
			events[i].gone, events[i].row = true, nil
		}
	}
	for _, position := range from.Gone {
		if pod, ok := b.pods[position]; ok {
			events = append(events, event{place: place{node, from.Instance, position}, revision: from.Revision, pod: pod, gone: true})
		}
	}
	return events
}

// missing are the flows that clients know of and that are not there.
func (h *hub) missing(node string, instance int64, there map[int64]struct{}) (gone []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for position := range h.bookOf(node, instance).pods {
		if _, ok := there[position]; !ok {
			gone = append(gone, position)
		}
	}
	return gone
}

func (w *watcher) follow(ctx context.Context) bool {
	renew := w.rest.clock.NewTicker(renewNodes)
	defer renew.Stop()
	bookmark := w.rest.clock.NewTicker(bookmarkInterval)
	defer bookmark.Stop()
	labels := w.rest.clock.NewTicker(pollLabels)
	defer labels.Stop()
	for {
		if !w.drain(ctx) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-w.woken:
		case <-labels.C():
		case <-renew.C():
			if !w.renew(ctx) {
				return false
			}
		case <-bookmark.C():
			if w.bookmarks && !w.bookmark(ctx) {
				return false
			}
		}
	}
}

// drain sends what waits in the queue, and what changes of pods' labels mean.
func (w *watcher) drain(ctx context.Context) bool {
	for {
		b, ok, ended := w.take()
		// Before the batch: who goes on from a version in it is told of no change that came before that version.
		if ended || !w.relabelAll(ctx) {
			return false
		}
		if !ok {
			return true
		}
		first := b.last - uint64(len(b.events)) + 1
		for i, e := range b.events {
			if !w.sendEvent(ctx, e, max(w.last, first+uint64(i))) {
				return false
			}
		}
		w.last = max(w.last, b.last)
	}
}

// renew follows nodes that have come into the selection, or answer only now, and reads what they have.
func (w *watcher) renew(ctx context.Context) bool {
	for _, node := range w.selection.nodes(w.rest.names) {
		if w.feeds[node] != nil {
			continue
		}
		f, err := w.rest.hub.subscribe(node, w)
		if err != nil {
			return false
		}
		w.feeds[node], w.waiting[node], w.came[node] = f, f, true
	}
	return w.begin(ctx)
}

// bookmark tells the version up to which the client knows all, when nothing waits for it.
func (w *watcher) bookmark(ctx context.Context) bool {
	h := w.rest.hub
	h.mu.Lock()
	w.mu.Lock()
	idle := len(w.queue) == 0 && len(w.waiting) == 0
	w.mu.Unlock()
	last := w.last
	if idle {
		last = h.versions.next(1)
	}
	h.mu.Unlock()
	if w.rest.names.Relabelled() == w.relabelled {
		w.last = last // Else the client does not know all up to there.
	}
	return w.sendBookmark(ctx, false)
}

// sendEvent sends what an event is to this watcher.
func (w *watcher) sendEvent(ctx context.Context, e event, version uint64) bool {
	if read, ok := w.read[e.node]; ok && read.instance == e.instance && e.revision <= read.revision {
		return true
	}
	if !w.selects(e) {
		return true
	}
	if e.gone {
		return w.sendGone(ctx, e, version)
	}
	if !w.selection.matchesFlow(e.row.object) {
		return w.sendLeft(ctx, e, version)
	}
	kind := watch.Modified
	if known, tracked := w.tracked[e.place]; e.fresh || tracked && !known || w.tracked != nil && !tracked && w.from == 0 {
		kind = watch.Added
	}
	return w.sendRow(ctx, kind, e.row, version)
}

// sendGone tells of a flow that has gone, or whose pod has left the selection.
func (w *watcher) sendGone(ctx context.Context, e event, version uint64) bool {
	known, tracked := w.tracked[e.place]
	delete(w.tracked, e.place)
	if w.tracked != nil && (tracked && !known || !tracked && w.from == 0) {
		return true
	}
	return w.send(ctx, watch.Event{Type: watch.Deleted, Object: departedObject(e, version)})
}

// sendLeft tells of a flow that is not, or no longer, in the selection. Of one that began before the watch did nobody
// knows which, but where what cannot change says that it never was.
func (w *watcher) sendLeft(ctx context.Context, e event, version uint64) bool {
	known, tracked := w.tracked[e.place]
	if !known && (tracked || e.fresh || w.from == 0) {
		return true
	}
	if !w.track(e.place, false) {
		return false
	}
	if !known && w.selection.neverMatches(e.row.object) {
		return true
	}
	object := *e.row.object
	object.ResourceVersion = format(version)
	object.DeletionTimestamp = &metav1.Time{Time: w.rest.clock.Now()}
	return w.send(ctx, watch.Event{Type: watch.Deleted, Object: &object})
}

func (w *watcher) track(at place, known bool) bool {
	if w.tracked == nil {
		return true
	}
	if _, tracked := w.tracked[at]; !tracked && len(w.tracked) >= maxTracked {
		w.expire(fmt.Sprintf("more than %d flows are selected by what can change", maxTracked), "memory")
		return false
	}
	w.tracked[at] = known
	return true
}

// sendRow sends a flow. What a row points to is shared with other watchers.
func (w *watcher) sendRow(ctx context.Context, kind watch.EventType, row *row, version uint64) bool {
	if !w.track(row.place, true) {
		return false
	}
	object := *row.object
	object.ResourceVersion = format(version)
	return w.send(ctx, watch.Event{Type: kind, Object: &object})
}

// departedObject is what is still known of a flow that has left the history.
func departedObject(e event, version uint64) *v1alpha1.NetworkFlow {
	object := &v1alpha1.NetworkFlow{ObjectMeta: e.meta(e.pod, time.Time{})}
	object.ResourceVersion = format(version)
	object.CreationTimestamp = metav1.Time{}
	object.DeletionTimestamp = &metav1.Time{Time: timeOf(version)}
	object.Pod = v1alpha1.FlowPod{Namespace: e.pod.Namespace, Name: e.pod.Name, UID: string(e.pod.HostUID), Workload: workloadOf(e.pod)}
	object.NodeName = e.node
	return object
}

func (w *watcher) sendBookmark(ctx context.Context, end bool) bool {
	object := &v1alpha1.NetworkFlow{}
	object.ResourceVersion = format(w.last)
	if end {
		object.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return w.send(ctx, watch.Event{Type: watch.Bookmark, Object: object})
}

func (w *watcher) send(ctx context.Context, event watch.Event) bool {
	select {
	case w.results <- event:
		return true
	case <-ctx.Done():
		return false
	}
}
