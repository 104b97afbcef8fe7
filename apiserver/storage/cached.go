package storage

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
)

// A cached storage answers from the generic server's cache what may be stale (resourceVersion "0") and what happens from
// now on (watches), and everything else from the host. The cache is fed by one list and one watch of the host, however
// many clients watch.
//
// The cache by itself could not serve lists that have to be as new as the host, nor watches that begin with one: it would
// have to learn that nothing has happened up to a version, which etcd tells on request and the host does not.
type cached struct {
	*store
	cache *cacher.CacheDelegator
}

var _ apistorage.Interface = (*cached)(nil)

func (c *cached) Get(ctx context.Context, key string, opts apistorage.GetOptions, out runtime.Object) error {
	if opts.ResourceVersion == "0" {
		return c.cache.Get(ctx, key, opts, out)
	}
	return c.store.Get(ctx, key, opts, out)
}

func (c *cached) GetList(ctx context.Context, key string, opts apistorage.ListOptions, list runtime.Object) error {
	if mayBeStale(opts) {
		return c.cache.GetList(ctx, key, opts, list)
	}
	return c.store.GetList(ctx, key, opts, list)
}

func mayBeStale(opts apistorage.ListOptions) bool {
	return opts.ResourceVersion == "0" && opts.Predicate.Continue == "" &&
		(opts.ResourceVersionMatch == "" || opts.ResourceVersionMatch == metav1.ResourceVersionMatchNotOlderThan)
}

// Delete and GuaranteedUpdate get the cache's object as a suggestion, which mostly saves reading it from the host.

func (c *cached) Delete(ctx context.Context, key string, out runtime.Object, preconditions *apistorage.Preconditions,
	validate apistorage.ValidateObjectFunc, suggested runtime.Object, opts apistorage.DeleteOptions) error {
	return c.cache.Delete(ctx, key, out, preconditions, validate, suggested, opts)
}

func (c *cached) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *apistorage.Preconditions, tryUpdate apistorage.UpdateFunc, suggested runtime.Object) error {
	return c.cache.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions, tryUpdate, suggested)
}

// ReadinessCheck: the cache has read everything once.
func (c *cached) ReadinessCheck() error { return c.cache.ReadinessCheck() }

// Watch begins with all objects if it is asked to, and then tells what the cache sees.
func (c *cached) Watch(ctx context.Context, key string, opts apistorage.ListOptions) (watch.Interface, error) {
	if opts.SendInitialEvents == nil {
		return c.cache.Watch(ctx, key, opts)
	}
	if _, err := apistorage.PrepareKey(c.prefix, key, opts.Recursive); err != nil {
		return nil, err
	}
	if err := c.ReadinessCheck(); err != nil {
		// As the cache has it.
		return nil, apierrors.NewTooManyRequests("storage is (re)initializing", 1)
	}
	if *opts.SendInitialEvents {
		return stream(ctx, func(ctx context.Context, send func(watch.Event) bool) {
			c.listAndWatch(ctx, key, opts, send)
		}), nil
	}
	opts.SendInitialEvents = nil
	if opts.ResourceVersion == "" || opts.ResourceVersion == "0" {
		current, err := c.GetCurrentResourceVersion(ctx)
		if err != nil {
			return nil, err
		}
		opts.ResourceVersion = version(current)
	}
	return c.cache.Watch(ctx, key, opts)
}

// listAndWatch sends an event for each object, page by page, a bookmark that says that these were all, and then what has
// happened since.
func (c *cached) listAndWatch(ctx context.Context, key string, opts apistorage.ListOptions, send func(watch.Event) bool) {
	version, err := sendAll(ctx, c, c.newList, key, opts, send)
	if err == nil && opts.Predicate.AllowWatchBookmarks {
		err = c.sendInitialEventsEnd(version, send)
	}
	if err == nil {
		opts.SendInitialEvents, opts.ResourceVersion, opts.ResourceVersionMatch = nil, version, ""
		err = c.forward(ctx, key, opts, send)
	}
	if err != nil {
		send(watch.Event{Type: watch.Error, Object: statusOf(err)})
	}
}

func (c *cached) sendInitialEventsEnd(version string, send func(watch.Event) bool) error {
	bookmark := c.newFunc()
	accessor, err := meta.Accessor(bookmark)
	if err != nil {
		return fmt.Errorf("making a bookmark: %w", err)
	}
	accessor.SetResourceVersion(version)
	accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	if !send(watch.Event{Type: watch.Bookmark, Object: bookmark}) {
		return errWatchEnded
	}
	return nil
}

func (c *cached) forward(ctx context.Context, key string, opts apistorage.ListOptions, send func(watch.Event) bool) error {
	inner, err := c.cache.Watch(ctx, key, opts)
	if err != nil {
		return err
	}
	defer inner.Stop()
	for event := range inner.ResultChan() {
		if !send(event) {
			return nil
		}
	}
	return nil
}
