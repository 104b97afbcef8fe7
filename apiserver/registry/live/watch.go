package live

import (
	"context"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// maxQueue is how many changes of records wait for a slow watcher before it is closed. A client that comes
	// back with its last version is sent what it missed.
	maxQueue = 1000
	// maxReadings is how many readings wait for a slow watcher before the next is not sent to it. The one after
	// that is then sent in full.
	maxReadings = 2
	// initialChunk is how many objects are read at a time for the first events of a watch, which bounds memory.
	initialChunk = 20_000
	// bookmarkInterval is how often a watcher hears its version when nothing else tells it.
	bookmarkInterval = time.Minute
)

// Watch begins where options say: with all objects, after a version, or now.
func (r *REST) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	if options == nil {
		options = &metainternalversion.ListOptions{}
	}
	selection, err := newSelection(ctx, r.kind.NamespaceScoped(), options)
	if err != nil {
		return nil, err
	}
	if err := r.catchUpText(ctx, options.ResourceVersion); err != nil {
		return nil, err
	}
	w := newWatcher(r, selection, options.AllowWatchBookmarks)
	anywhere := options.ResourceVersion == "" || options.ResourceVersion == "0"
	initial := anywhere
	if options.SendInitialEvents != nil {
		initial = *options.SendInitialEvents
	}
	switch {
	case initial:
		page := r.store.listen(w, selection)
		release, err := r.crowd.watch(len(page.records))
		if err != nil {
			r.store.forget(w)
			return nil, err
		}
		w.markEnd = options.SendInitialEvents != nil && options.AllowWatchBookmarks
		go w.run(ctx, func(ctx context.Context) bool {
			defer release()
			return w.sendAll(ctx, page)
		})
	case anywhere:
		w.missed = true
		r.store.listen(w, selection)
		go w.run(ctx, func(context.Context) bool { return true })
	default:
		return r.watchSince(ctx, w, options.ResourceVersion)
	}
	return w, nil
}

// watchSince sends what happened after a version. Too old a version is told in the stream, as kube-apiserver does:
// some clients (client-go's RetryWatcher) look for it only there.
func (r *REST) watchSince(ctx context.Context, w *watcher, text string) (watch.Interface, error) {
	from, err := r.parse(text)
	if err != nil {
		return nil, err
	}
	w.missed = true
	changes, ok := r.store.listenSince(w, from)
	if !ok {
		w.expired = true
		go w.run(ctx, func(context.Context) bool { return false })
		return w, nil
	}
	go w.run(ctx, func(ctx context.Context) bool { return w.sendPast(ctx, changes) })
	return w, nil
}

// sendPast sends changes of a while ago with the numbers of now.
func (w *watcher) sendPast(ctx context.Context, changes []change) bool {
	var records []*Record
	var at []int
	for i, c := range changes {
		// What only left the selection is still there.
		if _, ok := w.translate(c); ok && c.kind != watch.Deleted {
			records, at = append(records, c.record), append(at, i)
		}
	}
	readings, _, _, err := read(ctx, w.rest.reader, records)
	if err != nil {
		readings = unread(records, err)
	}
	for i, reading := range readings {
		changes[at[i]].reading = reading
	}
	return w.sendChanges(ctx, batch{changes: changes})
}

// A watcher sends one client what it selected. Batches wait in queue; run takes them out and is the only sender.
type watcher struct {
	rest      *REST
	selection *selection
	bookmarks bool
	// markEnd asks for the bookmark that ends the initial events (KEP-3157).
	markEnd bool

	results chan watch.Event
	// wake holds one token while there is something new in the fields below.
	wake chan struct{}
	stop func()
	done chan struct{}

	mu       sync.Mutex
	queue    []batch
	changes  int
	readings int
	// missed is set when a reading was not queued, and for a client that comes with numbers of its own: of another
	// replica, or of a while ago. The next complete reading is then sent in full.
	missed bool
	// closed is set when the watcher is too slow, expired when its version means nothing any more.
	closed, expired bool
}

var (
	_ watch.Interface = &watcher{}
	_ listener        = &watcher{}
)

func newWatcher(r *REST, selection *selection, bookmarks bool) *watcher {
	w := &watcher{
		rest: r, selection: selection, bookmarks: bookmarks,
		results: make(chan watch.Event, 16),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	w.stop = sync.OnceFunc(func() { close(w.done) })
	return w
}

// Stop ends the watch. It does not wait.
func (w *watcher) Stop() { w.stop() }

// ResultChan is closed when the watch has ended.
func (w *watcher) ResultChan() <-chan watch.Event { return w.results }

func (w *watcher) offer(b batch) {
	if !b.readings && !w.concerns(b.changes[0]) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed || w.expired:
		return
	case b.readings && w.readings >= maxReadings:
		w.missed = true
		return
	case b.readings:
		w.readings++
		if w.missed && b.complete {
			b.full = true
			w.missed = false
		}
	case w.changes >= maxQueue:
		// The sender may be held by a client that reads nothing, and would not look at closed for hours.
		w.closed, w.queue = true, nil
		w.stop()
		return
	default:
		w.changes++
	}
	w.queue = append(w.queue, b)
	w.signal()
}

func (w *watcher) wants() *selection { return w.selection }

func (w *watcher) concerns(c change) bool {
	return w.selection.matches(c.record) || (c.before != nil && w.selection.matches(c.before))
}

func (w *watcher) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expired = true
	w.signal()
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run sends what the watch begins with and then what comes, until the client goes or the watcher is closed.
func (w *watcher) run(ctx context.Context, begin func(context.Context) bool) {
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
	defer w.rest.store.forget(w)
	if begin(ctx) {
		w.follow(ctx)
	}
	w.mu.Lock()
	expired := w.expired
	w.mu.Unlock()
	if expired {
		status := apierrors.NewResourceExpired("too old resource version: what happened since is not known, list again").ErrStatus
		w.send(ctx, watch.Event{Type: watch.Error, Object: &status})
	}
}

func (w *watcher) follow(ctx context.Context) {
	lastBookmark := w.rest.clock.Now()
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		for {
			b, ok, ended := w.take()
			if ended {
				return
			}
			if !ok {
				break
			}
			if !w.sendChanges(ctx, b) {
				return
			}
			if now := w.rest.clock.Now(); b.readings && w.bookmarks && now.Sub(lastBookmark) >= bookmarkInterval {
				lastBookmark = now
				if !w.sendBookmark(ctx, b.version, false) {
					return
				}
			}
		}
	}
}

func (w *watcher) take() (b batch, ok, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.expired {
		return batch{}, false, true
	}
	if len(w.queue) == 0 {
		return batch{}, false, false
	}
	b = w.queue[0]
	w.queue[0] = batch{} // Else the queue would keep it until it grows.
	w.queue = w.queue[1:]
	if b.readings {
		w.readings--
	} else {
		w.changes--
	}
	return b, true, false
}

// sendAll sends every object of a page, and the mark behind the last.
func (w *watcher) sendAll(ctx context.Context, page page) bool {
	for records := range slices.Chunk(page.records, initialChunk) {
		readings, _, _, err := read(ctx, w.rest.reader, records)
		if err != nil {
			if ctx.Err() != nil {
				return false
			}
			readings = unread(records, err)
		}
		w.rest.store.rememberReadings(records, readings)
		for i, record := range records {
			if !w.sendObject(ctx, watch.Added, change{record: record, reading: readings[i], version: page.version}) {
				return false
			}
		}
	}
	return !w.markEnd || w.sendBookmark(ctx, page.version, true)
}

// unread is what is said of objects when nothing could be read: a watch has begun, and goes on when the nodes do.
func unread(records []*Record, err error) []Reading {
	readings := make([]Reading, len(records))
	for i, record := range records {
		if record.Node != "" {
			readings[i] = Reading{Err: err}
		}
	}
	return readings
}

func (w *watcher) sendChanges(ctx context.Context, b batch) bool {
	changes := b.changes
	if b.readings && w.selection.namespace != "" {
		changes = inNamespace(changes, w.selection.namespace)
	}
	for _, c := range changes {
		c.unchanged = c.unchanged && !b.full
		kind, ok := w.translate(c)
		if !ok {
			continue
		}
		if kind == watch.Deleted && c.before != nil {
			// It left the selection: the client is shown it as it knew it.
			c.record = c.before
		}
		if !w.sendObject(ctx, kind, c) {
			return false
		}
	}
	return true
}

// inNamespace cuts changes in the order of their keys to those of a namespace, so that a tick of 100,000 costs a
// thousand watches of small namespaces little.
func inNamespace(changes []change, namespace string) []change {
	find := func(k key) int {
		at, _ := slices.BinarySearchFunc(changes, k, func(c change, k key) int { return compareKeys(c.record.key(), k) })
		return at
	}
	return changes[find(key{namespace: namespace}):find(key{namespace, "\xff"})]
}

// translate says what a change is to this watcher.
func (w *watcher) translate(c change) (watch.EventType, bool) {
	is := w.selection.matches(c.record)
	if c.before == nil {
		return c.kind, is && !c.unchanged
	}
	was := w.selection.matches(c.before)
	switch {
	case was && is:
		return watch.Modified, true
	case is:
		return watch.Added, true
	default:
		return watch.Deleted, was
	}
}

func (w *watcher) sendObject(ctx context.Context, kind watch.EventType, c change) bool {
	object := w.rest.kind.Object(c.record, c.reading)
	object.SetResourceVersion(c.version.String())
	return w.send(ctx, watch.Event{Type: kind, Object: object})
}

func (w *watcher) sendBookmark(ctx context.Context, v version, end bool) bool {
	object := w.rest.kind.New().(Object)
	object.SetResourceVersion(v.String())
	if end {
		object.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
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
