package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	apistorage "k8s.io/apiserver/pkg/storage"
)

var errSelectedWatch = errors.New("the storage itself is watched whole: selecting is for the cache in front of it")

// Watch watches everything below a key: it is for the cache, which serves all clients from the one watch and knows what
// an object was like before, so that it can select. The watch outlives connections to the host; it ends with an error
// when the host has forgotten what has happened since.
func (s *store) Watch(ctx context.Context, key string, opts apistorage.ListOptions) (watch.Interface, error) {
	key, err := apistorage.PrepareKey(s.prefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	version, err := s.parse(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if p := opts.Predicate; p.Label != nil && !p.Label.Empty() || p.Field != nil && !p.Field.Empty() {
		return nil, errSelectedWatch
	}
	w := &hostWatch{store: s, version: opts.ResourceVersion, bookmarks: opts.ProgressNotify || opts.Predicate.AllowWatchBookmarks}
	l := listing{store: s, prefix: key, opts: opts}
	l.scope()
	w.selector = l.query.FieldSelector
	if version > 0 {
		return stream(ctx, w.run), nil
	}
	return stream(ctx, func(ctx context.Context, send func(watch.Event) bool) {
		version, err := sendAll(ctx, s, s.newList, key, opts, send)
		if err != nil {
			send(watch.Event{Type: watch.Error, Object: statusOf(err)})
			return
		}
		w.version = version
		w.run(ctx, send)
	}), nil
}

// sendAll sends an event for each object of a list, reading it page by page, and returns the list's version.
func sendAll(ctx context.Context, from apistorage.Interface, newList func() runtime.Object, key string, opts apistorage.ListOptions,
	send func(watch.Event) bool) (string, error) {
	if opts.ResourceVersionMatch == "" && opts.ResourceVersion != "" {
		opts.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	}
	opts.SendInitialEvents = nil
	opts.Predicate.Limit = pageSize
	for {
		list := newList()
		if err := from.GetList(ctx, key, opts, list); err != nil {
			return "", err
		}
		err := meta.EachListItem(list, func(object runtime.Object) error {
			if !send(watch.Event{Type: watch.Added, Object: object}) {
				return errWatchEnded
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		page, err := meta.ListAccessor(list)
		if err != nil {
			return "", err
		}
		if page.GetContinue() == "" {
			return page.GetResourceVersion(), nil
		}
		opts.Predicate.Continue, opts.ResourceVersion, opts.ResourceVersionMatch = page.GetContinue(), "", ""
	}
}

// IsWatchListSemanticsUnSupported tells client-go's reflector, by which the cache reads, to list before it watches.
func (s *store) IsWatchListSemanticsUnSupported() bool { return true }

// A hostWatch is one watch, over as many watches of the host as it takes.
type hostWatch struct {
	store    *store
	selector string
	// version is that of the last event.
	version   string
	bookmarks bool
}

var errWatchEnded = errors.New("the watch has ended")

// run sends events until it cannot go on. Between watches that bring nothing it waits longer and longer.
func (w *hostWatch) run(ctx context.Context, send func(watch.Event) bool) {
	backoff := newBackoff()
	for {
		before := w.version
		err := w.once(ctx, send)
		if err != nil {
			if !errors.Is(err, errWatchEnded) {
				send(watch.Event{Type: watch.Error, Object: statusOf(err)})
			}
			return
		}
		if w.version != before {
			backoff = newBackoff()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
}

func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8, Cap: 5 * time.Second}
}

// once sends the events of one watch of the host. An error ends it all.
func (w *hostWatch) once(ctx context.Context, send func(watch.Event) bool) error {
	inner, err := w.store.host.watch(ctx, metav1.ListOptions{
		ResourceVersion: w.version, AllowWatchBookmarks: true, FieldSelector: w.selector,
	})
	if err != nil {
		return expired(err)
	}
	defer inner.Stop()
	for event := range inner.ResultChan() {
		if event.Type == watch.Error {
			return expired(apierrors.FromObject(event.Object))
		}
		object, err := w.object(event)
		if err != nil {
			return err
		}
		if event.Type == watch.Bookmark && !w.bookmarks {
			continue
		}
		if !send(watch.Event{Type: event.Type, Object: object}) {
			return errWatchEnded
		}
	}
	return nil
}

// expired returns what cannot be mended by watching again from the same version.
func expired(err error) error {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return apierrors.NewResourceExpired(watchExpired)
	}
	return nil
}

// object is the object in an event's envelope; in that of a bookmark, an empty one with the version.
func (w *hostWatch) object(event watch.Event) (runtime.Object, error) {
	e, ok := event.Object.(*envelope)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the host sent %T", event.Object))
	}
	w.version = e.ResourceVersion
	object := w.store.newFunc()
	if event.Type == watch.Bookmark {
		return object, w.store.versioner.UpdateObject(object, versionOf(e))
	}
	err := w.store.decodeInto(e, object)
	if event.Type == watch.Deleted {
		w.store.sizes.remove(e.Name)
	}
	return object, err
}

func statusOf(err error) runtime.Object {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	answer := status.Status()
	return &answer
}

// A generated is a watch whose events a function sends. It ends when the function does, or when it is stopped.
type generated struct {
	events chan watch.Event
	stop   context.CancelFunc
}

// stream runs a function that sends events, until it returns. Send answers false when nobody takes events any more.
func stream(ctx context.Context, run func(ctx context.Context, send func(watch.Event) bool)) watch.Interface {
	ctx, cancel := context.WithCancel(ctx)
	g := &generated{events: make(chan watch.Event, 100), stop: cancel}
	go func() {
		defer cancel()
		defer close(g.events)
		run(ctx, func(event watch.Event) bool {
			if ctx.Err() != nil {
				return false
			}
			select {
			case g.events <- event:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	return g
}

func (g *generated) Stop()                          { g.stop() }
func (g *generated) ResultChan() <-chan watch.Event { return g.events }
