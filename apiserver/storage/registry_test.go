package storage

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	registrytesting "k8s.io/apiserver/pkg/registry/generic/testing"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	apistorage "k8s.io/apiserver/pkg/storage"
	apinames "k8s.io/apiserver/pkg/storage/names"
	restclient "k8s.io/client-go/rest"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() { install.Install(scheme) }

// A strategy does as little as the Store lets it.
type strategy struct {
	runtime.ObjectTyper
	apinames.NameGenerator
	namespaced bool
}

// invalid is the label of objects that the strategy refuses.
const invalid = "invalid"

func (s strategy) NamespaceScoped() bool                                          { return s.namespaced }
func (strategy) PrepareForCreate(context.Context, runtime.Object)                 {}
func (strategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (strategy) AllowCreateOnUpdate(context.Context) bool                         { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool                    { return true }
func (strategy) Canonicalize(runtime.Object)                                      {}
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (strategy) Validate(_ context.Context, object runtime.Object) field.ErrorList {
	if object.(metav1.Object).GetLabels()[invalid] != "" {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "labels"), invalid, "is invalid")}
	}
	return nil
}

func (s strategy) ValidateUpdate(ctx context.Context, object, _ runtime.Object) field.ErrorList {
	return s.Validate(ctx, object)
}

// captureAttrs are labels and fields of captures.
func captureAttrs(object runtime.Object) (labels.Set, fields.Set, error) {
	meta := object.(metav1.Object)
	return meta.GetLabels(), fields.Set{"metadata.name": meta.GetName(), "metadata.namespace": meta.GetNamespace()}, nil
}

// The backends that the server can store in.
var backends = []string{cachedEnvelopes, cachedEtcd}

// eachBackend runs a test with an empty Store of captures in each.
func eachBackend(t *testing.T, run func(t *testing.T, store *genericregistry.Store)) {
	needCluster(t)
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { run(t, newRegistry(t, cluster.config, backend, "captures")) })
	}
}

// resources are what the server stores.
var resources = map[string]struct {
	singular           string
	newObject, newList func() runtime.Object
}{
	"captures": {
		"capture", func() runtime.Object { return &v1alpha1.Capture{} }, func() runtime.Object { return &v1alpha1.CaptureList{} },
	},
	"clustercaptures": {
		"clustercapture", func() runtime.Object { return &v1alpha1.ClusterCapture{} }, func() runtime.Object { return &v1alpha1.ClusterCaptureList{} },
	},
	"networktelemetries": {
		"networktelemetry", func() runtime.Object { return &v1alpha1.NetworkTelemetry{} }, func() runtime.Object { return &v1alpha1.NetworkTelemetryList{} },
	},
}

// newRegistry makes a Store as the server does: from options.
func newRegistry(t *testing.T, host *restclient.Config, backend, resource string) *genericregistry.Store {
	t.Helper()
	options := NewOptions(codecs.LegacyCodec(v1alpha1.SchemeGroupVersion))
	// They end with a server, of which there is none here.
	options.etcd.SkipHealthEndpoints = true
	if backend == cachedEtcd {
		options.etcd.StorageConfig.Transport.ServerList = []string{string(cluster.etcd)}
		options.etcd.StorageConfig.Prefix = "/" + t.Name()
	}
	if errs := options.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	config := genericapiserver.NewRecommendedConfig(codecs)
	if err := options.ApplyTo(&config.Config, host); err != nil {
		t.Fatal(err)
	}
	deleteEnvelopes(t)
	made := resources[resource]
	store := &genericregistry.Store{
		NewFunc:                   made.newObject,
		NewListFunc:               made.newList,
		PredicateFunc:             predicate,
		DefaultQualifiedResource:  v1alpha1.Resource(resource),
		SingularQualifiedResource: v1alpha1.Resource(made.singular),
		TableConvertor:            rest.NewDefaultTableConvertor(v1alpha1.Resource(resource)),
	}
	one := strategy{ObjectTyper: scheme, NameGenerator: apinames.SimpleNameGenerator, namespaced: resource == "captures"}
	store.CreateStrategy, store.UpdateStrategy, store.DeleteStrategy = one, one, one
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: config.RESTOptionsGetter, AttrFunc: captureAttrs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Destroy)
	if err := await(t.Context(), "the storage", store.ReadinessCheck); err != nil {
		t.Fatal(err)
	}
	return store
}

func predicate(label labels.Selector, field fields.Selector) apistorage.SelectionPredicate {
	return apistorage.SelectionPredicate{Label: label, Field: field, GetAttrs: captureAttrs}
}

func deleteEnvelopes(t *testing.T) {
	t.Helper()
	for _, kind := range kinds {
		host, err := newHost(cluster.config, kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := host.client.Delete().Namespace(agentv1.Namespace).Resource(kind.resource).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

func capture(name string) *v1alpha1.Capture {
	return &v1alpha1.Capture{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "test"},
		Spec:       v1alpha1.CaptureSpec{Pods: v1alpha1.CapturePods{Names: []string{"web"}}},
	}
}

func networkTelemetry(name string) *v1alpha1.NetworkTelemetry {
	return &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func clusterCapture(name string) *v1alpha1.ClusterCapture {
	return &v1alpha1.ClusterCapture{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ClusterCaptureSpec{Nodes: &v1alpha1.CaptureNodes{Names: []string{"node-1"}}},
	}
}

// TestREST puts a Store over each backend to k8s.io/apiserver/pkg/registry/rest/resttest. TestDeleteGraceful alone is
// left out, since captures are not deleted gracefully; finalizers are in TestFinalizers.
func TestREST(t *testing.T) {
	needCluster(t)
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Run("captures", func(t *testing.T) {
				testREST(t, func(t *testing.T) *registrytesting.Tester {
					return newTester(t, backend, "captures")
				}, func() metav1.Object { return capture("foo") }, fields.Set{"metadata.namespace": "test", "metadata.name": "foo"})
			})
			t.Run("clustercaptures", func(t *testing.T) {
				testREST(t, func(t *testing.T) *registrytesting.Tester {
					return newTester(t, backend, "clustercaptures").ClusterScope()
				}, func() metav1.Object { return clusterCapture("foo") }, fields.Set{"metadata.name": "foo"})
			})
			t.Run("networktelemetries", func(t *testing.T) {
				testREST(t, func(t *testing.T) *registrytesting.Tester {
					return newTester(t, backend, "networktelemetries").ClusterScope()
				}, func() metav1.Object { return networkTelemetry("foo") }, fields.Set{"metadata.name": "foo"})
			})
		})
	}
}

func newTester(t *testing.T, backend, resource string) *registrytesting.Tester {
	t.Helper()
	store := newRegistry(t, cluster.config, backend, resource)
	store.Storage.Storage = fromBegin(t, store.Storage.Storage)
	return registrytesting.New(t, store)
}

func testREST(t *testing.T, tester func(*testing.T) *registrytesting.Tester, valid func() metav1.Object, found fields.Set) {
	object := func(name, value string) runtime.Object {
		made := valid()
		made.SetLabels(map[string]string{name: value})
		return made.(runtime.Object)
	}
	change := func(name, value string) func(runtime.Object) runtime.Object {
		return func(object runtime.Object) runtime.Object {
			object.(metav1.Object).SetLabels(map[string]string{name: value})
			return object
		}
	}
	t.Run("create", func(t *testing.T) {
		unnamed := object("a", "c")
		unnamed.(metav1.Object).SetName("")
		tester(t).TestCreate(object("a", "c"), object(invalid, "yes"), unnamed)
	})
	t.Run("update", func(t *testing.T) { tester(t).TestUpdate(object("a", "c"), change("a", "d"), change(invalid, "yes")) })
	t.Run("delete", func(t *testing.T) { tester(t).TestDelete(object("a", "c")) })
	t.Run("get", func(t *testing.T) { tester(t).TestGet(object("a", "c")) })
	t.Run("list", func(t *testing.T) { tester(t).TestList(object("a", "c")) })
	t.Run("watch", func(t *testing.T) {
		tester(t).TestWatch(object("a", "c"), []labels.Set{{"a": "c"}}, []labels.Set{{"foo": "bar"}},
			[]fields.Set{found, {"metadata.name": "foo"}}, []fields.Set{{"metadata.name": "bar"}})
	})
}
