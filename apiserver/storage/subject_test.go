package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/api/apitesting"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/tools/cache"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const podPrefix = "/pods/"

var podCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	return serializer.NewCodecFactory(scheme)
}()

// A subject is a storage of the suite's pods, with what the suite wants of it beside.
type subject struct {
	apistorage.Interface
	codec runtime.Codec
	// cached: in front is the generic server's cache. It answers reads that have to be new, too, when reads is set.
	cached, reads bool
	sized         bool
	host          *host // of envelopes
	validate      storagetesting.KeyValidation
	swap          *swapped
}

var _ storagetesting.InterfaceWithPrefixTransformer = (*subject)(nil)

// newSubject makes an empty storage, which ends with the test.
func newSubject(t *testing.T, name, test string) *subject {
	t.Helper()
	s := &subject{
		cached: name == cachedEnvelopes || name == cachedEtcd, reads: name == cachedEtcd || name == rawEtcd,
		sized: name == cachedEnvelopes || name == cachedEtcd,
		swap:  &swapped{Transformer: storagetesting.NewPrefixTransformer([]byte("test!"), false)},
	}
	s.codec = apitesting.TestCodec(podCodecs, examplev1.SchemeGroupVersion)
	config := storagebackend.NewDefaultConfig("/suite/"+strings.ReplaceAll(name, " ", "-")+"/"+test, s.codec)
	config.CompactionInterval = time.Hour // none but the tests'
	config.Transport.ServerList = []string{string(cluster.etcd)}
	var decorate generic.StorageDecorator
	switch name {
	case rawEnvelopes:
		s.codec = &transforming{Codec: s.codec, transformer: s.swap, keepWritten: test == "RunTestListResourceVersionMatch"}
		fallthrough
	case cachedEnvelopes:
		host := suiteHost(t)
		config.Codec = s.codec
		decorate = decoratorOf(host, name == cachedEnvelopes)
		s.validate, s.host = validator(host, s.codec), host
	case cachedEtcd:
		decorate = genericregistry.StorageWithCacher()
		s.validate = func(context.Context, *testing.T, string) {}
	case rawEtcd:
		config.Transformer = s.swap
		decorate = generic.UndecoratedStorage
		s.validate = func(context.Context, *testing.T, string) {}
	}
	keyFunc := func(object runtime.Object) (string, error) { return apistorage.NamespaceKeyFunc(podPrefix, object) }
	if test == "RunTestClusterScopedWatch" {
		keyFunc = func(object runtime.Object) (string, error) { return apistorage.NoNamespaceKeyFunc(podPrefix, object) }
	}
	var destroy factory.DestroyFunc
	var err error
	s.Interface, destroy, err = decorate(config.ForResource(schema.GroupResource{Resource: "pods"}), podPrefix, keyFunc,
		func() runtime.Object { return &example.Pod{} }, func() runtime.Object { return &example.PodList{} }, podAttrs, nil, &cache.Indexers{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	if err := await(t.Context(), "the storage", s.ReadinessCheck); err != nil {
		t.Fatal(err)
	}
	s.Interface = fromBegin(t, s.Interface)
	return s
}

// fromBegin is for tests that watch from version 1, where a storage of its own begins: ours begins where it is now.
func fromBegin(t *testing.T, storage apistorage.Interface) apistorage.Interface {
	t.Helper()
	current, err := storage.GetCurrentResourceVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return begun{storage, version(current)}
}

type begun struct {
	apistorage.Interface
	begin string
}

func (b begun) Watch(ctx context.Context, key string, opts apistorage.ListOptions) (watch.Interface, error) {
	if opts.ResourceVersion == "1" {
		opts.ResourceVersion = b.begin
	}
	return b.Interface.Watch(ctx, key, opts)
}

func decoratorOf(host *host, cached bool) generic.StorageDecorator {
	if cached {
		return decorator(host)
	}
	return func(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, newList func() runtime.Object, _ apistorage.AttrFunc, _ apistorage.IndexerFuncs, _ *cache.Indexers,
	) (apistorage.Interface, factory.DestroyFunc, error) {
		return &store{host: host, codec: config.Codec, prefix: prefix, newFunc: newFunc, newList: newList}, func() {}, nil
	}
}

// suiteHost has no envelopes.
func suiteHost(t *testing.T) *host {
	t.Helper()
	host, err := newHost(cluster.config, kind{resource: suiteResource, name: "StoredPod", names: suiteNames{}})
	if err != nil {
		t.Fatal(err)
	}
	err = host.client.Delete().Namespace(agentv1.Namespace).Resource(suiteResource).Do(t.Context()).Error()
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// suiteNames are for the suite's keys, which are those of pods in a namespace, of pods in none, and worse.
type suiteNames struct{}

const noNamespace = "0"

func (suiteNames) envelope(key string) (string, string, bool) {
	namespace, name, ok := strings.Cut(key, "/")
	switch {
	case key == "":
		return noNamespace, "", true
	case !ok:
		return key, "", true
	case namespace == "":
		return noNamespace + "." + name, "", true
	}
	return namespace + "." + name, namespace, !strings.Contains(name, "/")
}

func (suiteNames) key(envelope string) string {
	if envelope == noNamespace {
		return ""
	}
	return strings.TrimPrefix(strings.Replace(envelope, ".", "/", 1), noNamespace+"/")
}

func (suiteNames) start(key string) string { return strings.Replace(key, "/", ".", 1) }

func (suiteNames) namespace(prefix string) (string, bool) { return namespacedNames{}.namespace(prefix) }

func podAttrs(object runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := object.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("%T is no pod", object)
	}
	return pod.Labels, fields.Set{
		"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy), "status.phase": string(pod.Status.Phase),
	}, nil
}

// validator checks what is stored.
func validator(host *host, codec runtime.Codec) storagetesting.KeyValidation {
	return func(ctx context.Context, t *testing.T, key string) {
		t.Helper()
		name, _, _ := host.kind.names.envelope(strings.TrimPrefix(strings.TrimPrefix(key, podPrefix), "/registry"+podPrefix))
		stored, err := host.get(ctx, name)
		if err != nil {
			t.Fatalf("reading the envelope for %s: %v", key, err)
		}
		object, err := runtime.Decode(codec, []byte(stored.Spec.Object))
		if err != nil {
			t.Fatalf("decoding the envelope for %s: %v", key, err)
		}
		if pod := object.(*example.Pod); pod.GetResourceVersion() != "" || pod.GetSelfLink() != "" {
			t.Errorf("stored with resourceVersion %q and selfLink %q", pod.GetResourceVersion(), pod.GetSelfLink())
		}
	}
}

func (s *subject) compact(ctx context.Context, t *testing.T, version string) {
	t.Helper()
	if err := cluster.etcd.compact(ctx, version); err != nil {
		t.Fatal(err)
	}
	compacted, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	err = await(ctx, "the compaction to be seen", func() error {
		if s.host == nil && s.CompactRevision() < compacted {
			return fmt.Errorf("compacted is %d, not %d", s.CompactRevision(), compacted)
		}
		return s.expired(ctx, compacted-1)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// expired is nil when a version is too old.
func (s *subject) expired(ctx context.Context, version int64) error {
	var err error
	if s.host != nil {
		_, err = s.host.list(ctx, metav1.ListOptions{ResourceVersion: fmt.Sprint(version), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	} else {
		err = s.GetList(ctx, podPrefix, apistorage.ListOptions{
			ResourceVersion: fmt.Sprint(version), ResourceVersionMatch: metav1.ResourceVersionMatchExact,
			Predicate: apistorage.Everything, Recursive: true,
		}, &example.PodList{})
	}
	if apierrors.IsResourceExpired(err) {
		return nil
	}
	return fmt.Errorf("a list at %d: %w", version, err)
}

func (s *subject) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	revision, err := cluster.etcd.put(ctx, "increase", "")
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func (s *subject) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	original := s.swap.get()
	changed := *original.(*storagetesting.PrefixTransformer)
	s.swap.set(modify(&changed))
	return func() { s.swap.set(original) }
}

// A swapped transformer can be replaced while it is used.
type swapped struct {
	mu sync.Mutex
	value.Transformer
}

func (s *swapped) get() value.Transformer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Transformer
}

func (s *swapped) set(transformer value.Transformer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Transformer = transformer
}

func (s *swapped) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	return s.get().TransformFromStorage(ctx, data, at)
}

func (s *swapped) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	return s.get().TransformToStorage(ctx, data, at)
}

// A transforming codec does for envelopes, which the host encrypts, what etcd's storage does with a transformer. What
// was read stale is written another way, so that it is not taken for what is stored.
type transforming struct {
	runtime.Codec
	transformer *swapped
	mu          sync.Mutex
	stale       bool
	// What was written is decoded for the answer, which etcd's storage does without the transformer. It matters where the
	// transformer writes, too.
	keepWritten bool
	written     []byte
}

func (c *transforming) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	c.mu.Lock()
	own := c.keepWritten && bytes.Equal(data, c.written)
	c.written = nil
	c.mu.Unlock()
	if own {
		return c.Codec.Decode(data[bytes.IndexByte(data, '{'):], defaults, into)
	}
	plain, stale, err := c.transformer.TransformFromStorage(context.Background(), data, value.DefaultContext(nil))
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	c.stale = stale
	c.mu.Unlock()
	return c.Codec.Decode(plain, defaults, into)
}

func (c *transforming) Encode(object runtime.Object, w io.Writer) error {
	var plain bytes.Buffer
	if err := c.Codec.Encode(object, &plain); err != nil {
		return err
	}
	c.mu.Lock()
	if c.stale {
		plain.WriteByte('\n')
	}
	c.mu.Unlock()
	data, err := c.transformer.TransformToStorage(context.Background(), plain.Bytes(), value.DefaultContext(nil))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.written = data
	c.mu.Unlock()
	_, err = w.Write(data)
	return err
}

// leftByLibraries are goroutines that libraries end late, or never.
func leftByLibraries() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// Wakes, after 3 s, who waits for the cache by then.
		goleak.IgnoreTopFunction("k8s.io/apiserver/pkg/storage/cacher.(*watchCache).waitUntilFreshLocked.func2"),
	}
}
