package live

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// A host is the source of a store's records: kube-apiserver, seen through client-go's reflector. A reflector and
// not an informer, because the store has to know the version of each list and each deletion, and because an
// informer would keep every object a second time.
type host struct {
	cache.ListerWatcherWithContext
	reflector *cache.Reflector
	clock     clock.WithTickerAndDelayedExecution

	mu sync.Mutex
	// watch is nil while there is none; began is when it was asked for, short says that it brings its bookmark soon.
	watch watch.Interface
	began time.Time
	short bool
	// hurried asks for the next watch to be short.
	hurried bool
}

// listPage is how many objects are decoded at a time where the host cannot stream lists (before Kubernetes 1.34).
const listPage = 500

func newHost(config Config, store *store) *host {
	h := &host{ListerWatcherWithContext: config.Host, clock: config.Clock}
	h.reflector = cache.NewReflectorWithOptions(h, config.HostType, store, cache.ReflectorOptions{
		Name: config.Kind.Resource().String(), Clock: config.Clock,
	})
	h.reflector.WatchListPageSize = listPage
	return h
}

func (h *host) run(ctx context.Context) { h.reflector.RunWithContext(ctx) }

// IsWatchListSemanticsUnSupported passes on what the client says of itself (fakes in tests cannot stream lists).
func (h *host) IsWatchListSemanticsUnSupported() bool {
	unsupporting, ok := h.ListerWatcherWithContext.(interface{ IsWatchListSemanticsUnSupported() bool })
	return ok && unsupporting.IsWatchListSemanticsUnSupported()
}

// List and Watch are the forms without a context, which the reflector does not call.
func (h *host) List(options metav1.ListOptions) (runtime.Object, error) {
	return h.ListWithContext(context.Background(), options)
}

// Watch is described at List.
func (h *host) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return h.WatchWithContext(context.Background(), options)
}

// hurriedTimeout, in seconds, is the shortest that brings a bookmark: kube-apiserver sends one two seconds before
// a watch ends by its timeout (k8s.io/apiserver/pkg/storage/cacher), and looks once a second.
const hurriedTimeout int64 = 4

// minWatch is the age below which a watch that brought nothing may not be ended: the reflector would take it for
// broken, pause and list everything anew.
const minWatch = time.Second

// WatchWithContext remembers the watch, so that hurry can end it.
func (h *host) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	h.mu.Lock()
	h.short = h.hurried && options.SendInitialEvents == nil
	if h.short {
		timeout := hurriedTimeout
		options.TimeoutSeconds = &timeout
	}
	h.watch, h.hurried = nil, false
	began := h.clock.Now()
	h.mu.Unlock()
	w, err := h.ListerWatcherWithContext.WatchWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch, h.began = w, began
	return w, nil
}

// hurry learns soon how far the host is, when a client knows of a version that no event has told us of: perhaps
// there was none, and the host's next bookmark would be a minute away. It ends the watch, and the reflector begins
// another where that one was, with a short timeout and so with an early bookmark. Any client can ask for this, with
// a version that it made up, and as often as it likes: a watch is left to bring something first.
func (h *host) hurry() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hurried || h.short || h.watch == nil {
		return
	}
	h.hurried = true
	if age := h.clock.Since(h.began); age < minWatch {
		h.clock.AfterFunc(minWatch-age, h.watch.Stop)
		return
	}
	h.watch.Stop()
}
