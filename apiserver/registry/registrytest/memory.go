// Package registrytest is what tests of resources that are stored have in common.
package registrytest

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// NewMemory makes a store without a backend, for one resource. It keeps what the codec writes, so that nothing is shared with who
// stores it. It cannot be watched.
func NewMemory(codec runtime.Codec) generic.RESTOptionsGetter {
	return &memory{codec: codec, objects: map[string]item{}}
}

type memory struct {
	storage.Interface
	codec runtime.Codec

	mu      sync.Mutex
	version uint64
	objects map[string]item
}

type item struct {
	data    []byte
	version uint64
}

// GetRESTOptions makes one store for each resource.
func (m *memory) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	config := storagebackend.NewDefaultConfig("", m.codec)
	return generic.RESTOptions{
		StorageConfig: config.ForResource(resource), ResourcePrefix: resource.Resource, EnableGarbageCollection: true, DeleteCollectionWorkers: 1,
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
			storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers,
		) (storage.Interface, factory.DestroyFunc, error) {
			return m, func() {}, nil
		},
	}, nil
}

func (m *memory) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

func (m *memory) ReadinessCheck() error { return nil }

func (m *memory) Watch(context.Context, string, storage.ListOptions) (watch.Interface, error) {
	return nil, errors.New("not watched here")
}

func (m *memory) put(key string, object, out runtime.Object) error {
	object = object.DeepCopyObject()
	if err := m.Versioner().PrepareObjectForStorage(object); err != nil {
		return err
	}
	data, err := runtime.Encode(m.codec, object)
	if err != nil {
		return err
	}
	// As a real store, it does not write what is there.
	if string(data) != string(m.objects[key].data) {
		m.version++
		m.objects[key] = item{data, m.version}
	}
	return m.load(key, out)
}

func (m *memory) load(key string, out runtime.Object) error {
	if _, _, err := m.codec.Decode(m.objects[key].data, nil, out); err != nil {
		return err
	}
	return m.Versioner().UpdateObject(out, m.objects[key].version)
}

func (m *memory) Create(_ context.Context, key string, object, out runtime.Object, _ uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.objects[key]; there {
		return storage.NewKeyExistsError(key, 0)
	}
	return m.put(key, object, out)
}

func (m *memory) Get(_ context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.objects[key]; !there {
		if options.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	return m.load(key, out)
}

func (m *memory) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions, check storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	if err := m.Get(ctx, key, storage.GetOptions{}, out); err != nil {
		return err
	}
	if err := preconditions.Check(key, out); err != nil {
		return err
	}
	if err := check(ctx, out); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

func (m *memory) GetList(_ context.Context, key string, options storage.ListOptions, list runtime.Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	value, err := conversion.EnforcePtr(items)
	if err != nil {
		return err
	}
	for _, each := range slices.Sorted(maps.Keys(m.objects)) {
		if !strings.HasPrefix(each, key) {
			continue
		}
		object := reflect.New(value.Type().Elem())
		if err := m.load(each, object.Interface().(runtime.Object)); err != nil {
			return err
		}
		matches, err := options.Predicate.Matches(object.Interface().(runtime.Object))
		if err != nil {
			return err
		}
		if matches {
			value.Set(reflect.Append(value, object.Elem()))
		}
	}
	return m.Versioner().UpdateList(list, m.version+1, "", nil)
}

func (m *memory) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, update storage.UpdateFunc, _ runtime.Object) error {
	current := reflect.New(reflect.TypeOf(out).Elem()).Interface().(runtime.Object)
	if err := m.Get(ctx, key, storage.GetOptions{IgnoreNotFound: ignoreNotFound}, current); err != nil {
		return err
	}
	if err := preconditions.Check(key, current); err != nil {
		return err
	}
	m.mu.Lock()
	version := m.objects[key].version
	m.mu.Unlock()
	changed, _, err := update(current, storage.ResponseMeta{ResourceVersion: version})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects[key].version != version {
		return storage.NewResourceVersionConflictsError(key, int64(version))
	}
	return m.put(key, changed, out)
}
