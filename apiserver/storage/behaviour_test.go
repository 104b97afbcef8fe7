package storage

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func inNamespace(ctx context.Context, namespace string) context.Context {
	return genericapirequest.WithNamespace(ctx, namespace)
}

func create(ctx context.Context, store *genericregistry.Store, object *v1alpha1.Capture) (*v1alpha1.Capture, error) {
	created, err := store.Create(inNamespace(ctx, object.Namespace), object, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return created.(*v1alpha1.Capture), nil
}

func update(ctx context.Context, store *genericregistry.Store, object *v1alpha1.Capture) (*v1alpha1.Capture, error) {
	updated, _, err := store.Update(inNamespace(ctx, object.Namespace), object.Name, rest.DefaultUpdatedObjectInfo(object),
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return updated.(*v1alpha1.Capture), nil
}

// TestFinalizers: an object with one stays until it has none, and nobody else's managedFields or owners are touched.
func TestFinalizers(t *testing.T) {
	eachBackend(t, func(t *testing.T, store *genericregistry.Store) {
		object := capture("kept")
		object.Finalizers = []string{"example.com/keep"}
		object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "gone", UID: "gone"}}
		object.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: "somebody", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "networkobservability.k8s.io/v1alpha1",
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:pods":{}}}`),
		}}
		created, err := create(t.Context(), store, object)
		if err != nil {
			t.Fatal(err)
		}
		ctx := inNamespace(t.Context(), "test")
		if _, deleted, err := store.Delete(ctx, "kept", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil || deleted {
			t.Fatalf("deleted %v: %v", deleted, err)
		}
		got, err := store.Get(ctx, "kept", &metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		kept := got.(*v1alpha1.Capture)
		if kept.DeletionTimestamp == nil || kept.UID != created.UID || len(kept.OwnerReferences) != 1 {
			t.Errorf("kept as %+v", kept.ObjectMeta)
		}
		if len(kept.ManagedFields) != 1 || kept.ManagedFields[0].FieldsV1.String() != object.ManagedFields[0].FieldsV1.String() {
			t.Errorf("managed fields became %+v", kept.ManagedFields)
		}
		kept.Finalizers = nil
		if _, err := update(t.Context(), store, kept); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Get(ctx, "kept", &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("still there: %v", err)
		}
	})
}

// TestErrors: what users are told names their objects and not the envelopes.
func TestErrors(t *testing.T) {
	eachBackend(t, func(t *testing.T, store *genericregistry.Store) {
		ctx := inNamespace(t.Context(), "test")
		if _, err := create(t.Context(), store, capture("one")); err != nil {
			t.Fatal(err)
		}
		stale := capture("one")
		stale.ResourceVersion = "1"
		large := capture("large")
		large.Spec.Filter = strings.Repeat("x", 4<<20)
		medium := capture("medium")
		medium.Spec.Filter = strings.Repeat("x", 2<<20)
		for name, test := range map[string]struct {
			act func() error
			is  func(error) bool
		}{
			"not found":       {func() error { _, err := store.Get(ctx, "none", &metav1.GetOptions{}); return err }, apierrors.IsNotFound},
			"already there":   {func() error { _, err := create(t.Context(), store, capture("one")); return err }, apierrors.IsAlreadyExists},
			"conflict":        {func() error { _, err := update(t.Context(), store, stale); return err }, apierrors.IsConflict},
			"beyond requests": {func() error { _, err := create(t.Context(), store, large); return err }, isFailure},
			"beyond etcd":     {func() error { _, err := create(t.Context(), store, medium); return err }, isFailure},
		} {
			err := test.act()
			if !test.is(err) {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil && (strings.Contains(err.Error(), "stored") || strings.Contains(err.Error(), "test.")) {
				t.Errorf("%s: tells of envelopes: %v", name, err)
			}
		}
	})
}

func isFailure(err error) bool { return err != nil }

// TestTooLarge: what is larger than a cluster can store is refused as that.
func TestTooLarge(t *testing.T) {
	needCluster(t)
	store := newRegistry(t, cluster.config, cachedEnvelopes, "captures")
	for _, size := range []int{2 << 20, 4 << 20} {
		object := capture("large")
		object.Spec.Filter = strings.Repeat("x", size)
		if _, err := create(t.Context(), store, object); !apierrors.IsRequestEntityTooLargeError(err) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

const many = 1100

// TestMany creates objects in two namespaces, reads them in pages and by an informer, and deletes one namespace's.
func TestMany(t *testing.T) {
	eachBackend(t, func(t *testing.T, store *genericregistry.Store) {
		informed := startInformer(t, store)
		fill(t, store)
		for _, test := range []struct {
			namespace string
			label     labels.Selector
			limit     int64
			want      int
			remaining bool
		}{
			{"", nil, 400, many, true},
			{"even", nil, 100, many / 2, true},
			{"odd", nil, 275, many / 2, true},
			{"", labels.SelectorFromSet(labels.Set{"tens": "yes"}), 7, many / 10, false},
			{"odd", labels.SelectorFromSet(labels.Set{"tens": "no"}), 300, many / 2, false},
		} {
			checkPages(t, store, test.namespace, test.label, test.limit, test.want, test.remaining)
		}
		late := startInformer(t, store)
		for name, informer := range map[string]*informer{"begun before": informed, "begun after": late} {
			if err := informer.await(t.Context(), many); err != nil {
				t.Errorf("the informer %s: %v", name, err)
			}
		}
		_, err := store.DeleteCollection(inNamespace(t.Context(), "even"), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, informer := range map[string]*informer{"begun before": informed, "begun after": late} {
			if err := informer.await(t.Context(), many/2); err != nil {
				t.Errorf("the informer %s: %v", name, err)
			}
		}
		checkPages(t, store, "even", nil, 10, 0, false)
		checkPages(t, store, "", nil, 0, many/2, false)
	})
}

func fill(t *testing.T, store *genericregistry.Store) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(8)
	for i := range many {
		object := capture(fmt.Sprintf("c%d", i))
		object.Namespace = []string{"even", "odd"}[i%2]
		object.Labels = map[string]string{"tens": "no"}
		if i%10 == 0 {
			object.Labels["tens"] = "yes"
		}
		group.Go(func() error { _, err := create(ctx, store, object); return err })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func checkPages(t *testing.T, store *genericregistry.Store, namespace string, label labels.Selector, limit int64, want int, counted bool) {
	t.Helper()
	options := &metainternalversion.ListOptions{Limit: limit, LabelSelector: label}
	seen := map[string]bool{}
	var versions []string
	for {
		object, err := store.List(inNamespace(t.Context(), namespace), options)
		if err != nil {
			t.Fatal(err)
		}
		page := object.(*v1alpha1.CaptureList)
		for _, item := range page.Items {
			seen[item.Namespace+"/"+item.Name] = true
		}
		versions = append(versions, page.ResourceVersion)
		if limit > 0 && int64(len(page.Items)) > limit {
			t.Errorf("%q: a page of %d, the limit is %d", namespace, len(page.Items), limit)
		}
		if page.Continue == "" {
			break
		}
		if rest := int64(want - len(seen)); counted && (page.RemainingItemCount == nil || *page.RemainingItemCount != rest) {
			t.Errorf("%q: %v remain, want %d", namespace, page.RemainingItemCount, rest)
		}
		options.Continue = page.Continue
	}
	if len(seen) != want {
		t.Errorf("%q %v: %d objects, want %d", namespace, label, len(seen), want)
	}
	for _, version := range versions {
		if version != versions[0] {
			t.Errorf("%q: pages are of versions %q", namespace, versions)
		}
	}
}

// An informer is client-go's reflector over a Store, which lists by watching.
type informer struct {
	seen cache.Store
}

func startInformer(t *testing.T, store *genericregistry.Store) *informer {
	t.Helper()
	i := &informer{seen: cache.NewStore(cache.MetaNamespaceKeyFunc)}
	ctx, stop := context.WithCancel(t.Context())
	lists := &atomic.Int64{}
	reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			lists.Add(1)
			return store.List(ctx, internal(options))
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			watcher, err := store.Watch(ctx, internal(options))
			if err != nil {
				return nil, err
			}
			return watch.Filter(watcher, plainEvent), nil
		},
	}, &v1alpha1.Capture{}, i.seen, cache.ReflectorOptions{})
	var running sync.WaitGroup
	running.Go(func() { reflector.RunWithContext(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		if lists.Load() > 0 {
			t.Errorf("the reflector fell back to listing %d times", lists.Load())
		}
	})
	return i
}

// plainEvent takes objects out of what the cache encodes once for all clients.
func plainEvent(event watch.Event) (watch.Event, bool) {
	if cached, ok := event.Object.(runtime.CacheableObject); ok {
		event.Object = cached.GetObject()
	}
	return event, true
}

func internal(options metav1.ListOptions) *metainternalversion.ListOptions {
	out := &metainternalversion.ListOptions{}
	if err := metainternalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&options, out, nil); err != nil {
		panic(err) // no selectors come here
	}
	return out
}

// await returns when the informer has seen so many.
func (i *informer) await(ctx context.Context, count int) error {
	return await(ctx, "the informer", func() error {
		if got := len(i.seen.ListKeys()); got != count {
			return fmt.Errorf("it has %d objects, not %d", got, count)
		}
		return nil
	})
}

// TestExpiredWatch: a watch from before what is remembered ends with 410, of the storage alone and with its cache.
func TestExpiredWatch(t *testing.T) {
	eachBackend(t, func(t *testing.T, store *genericregistry.Store) {
		watcher, err := store.Watch(inNamespace(t.Context(), "test"), &metainternalversion.ListOptions{ResourceVersion: "1"})
		if err != nil {
			t.Fatal(err)
		}
		defer watcher.Stop()
		event := <-watcher.ResultChan()
		if err := apierrors.FromObject(event.Object); event.Type != watch.Error || !apierrors.IsResourceExpired(err) {
			t.Errorf("%s %v", event.Type, err)
		}
	})
}

// TestOutage cuts the host off. Watches stay open and go on; writes fail with a time to try again.
func TestOutage(t *testing.T) {
	needCluster(t)
	way := newWay(t, cluster.config)
	store := newRegistry(t, way.config, cachedEnvelopes, "captures")
	direct := newRegistry(t, cluster.config, cachedEnvelopes, "captures")
	informed := startInformer(t, store)
	if _, err := create(t.Context(), store, capture("before")); err != nil {
		t.Fatal(err)
	}
	if err := informed.await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	way.cut()
	if _, err := create(t.Context(), store, capture("refused")); !apierrors.IsServerTimeout(err) {
		t.Errorf("creating without the host: %v", err)
	}
	if _, err := create(t.Context(), direct, capture("meanwhile")); err != nil {
		t.Fatal(err)
	}
	way.mend()
	if err := informed.await(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if _, err := create(t.Context(), store, capture("after")); err != nil {
		t.Error(err)
	}
	if err := informed.await(t.Context(), 3); err != nil {
		t.Error(err)
	}
}

// TestForgetfulHost: a host that has forgotten what happened since ends watches with 410, and clients list anew.
func TestForgetfulHost(t *testing.T) {
	needCluster(t)
	way := newWay(t, cluster.config)
	var forget atomic.Bool
	config := restclient.CopyConfig(way.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Query().Get("watch") == "true" && forget.CompareAndSwap(true, false) {
				return gone(req), nil
			}
			return next.RoundTrip(req)
		})
	})
	store := newRegistry(t, config, cachedEnvelopes, "captures")
	direct := newRegistry(t, cluster.config, cachedEnvelopes, "captures")
	informed := startInformer(t, store)
	if err := informed.await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	way.cut()
	if _, err := create(t.Context(), direct, capture("meanwhile")); err != nil {
		t.Fatal(err)
	}
	forget.Store(true)
	way.mend()
	if err := informed.await(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if forget.Load() {
		t.Error("nobody asked the host that had forgotten")
	}
}

func gone(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: http.StatusGone, Request: req, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`)),
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// A way leads to the host, and can be cut.
type way struct {
	config *restclient.Config
	target string
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func newWay(t *testing.T, to *restclient.Config) *way {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{config: restclient.CopyConfig(to), target: strings.TrimPrefix(to.Host, "https://"), open: map[net.Conn]bool{}}
	w.config.Host = fmt.Sprintf("https://127.0.0.1:%d", listener.Addr().(*net.TCPAddr).Port)
	var running sync.WaitGroup
	running.Go(func() { w.serve(listener, &running) })
	t.Cleanup(func() {
		listener.Close()
		w.cut()
		running.Wait()
	})
	return w
}

func (w *way) serve(listener net.Listener, running *sync.WaitGroup) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil || !w.keep(near, far) {
			near.Close()
			continue
		}
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			running.Go(func() {
				_, _ = io.Copy(pair[0], pair[1]) // ends when either is closed
				near.Close()
				far.Close()
			})
		}
	}
}

// keep remembers connections to close, or closes them when the way is cut.
func (w *way) keep(connections ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, connection := range connections {
		if w.closed {
			connection.Close()
		} else {
			w.open[connection] = true
		}
	}
	return !w.closed
}

func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for connection := range w.open {
		connection.Close()
		delete(w.open, connection)
	}
}

func (w *way) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = false
}
