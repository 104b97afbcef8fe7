package telemetry

import (
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// namespaces are the labels of the cluster's namespaces. It is safe for concurrent use.
type namespaces struct {
	informer cache.SharedIndexInformer
	synced   cache.InformerSynced

	mu     sync.RWMutex
	labels map[string]labels.Set
	// version rises with every change.
	version uint64
}

func newNamespaces(client kubernetes.Interface) (*namespaces, error) {
	n := &namespaces{informer: coreinformers.NewNamespaceInformer(client, 0, cache.Indexers{}), labels: map[string]labels.Set{}}
	if err := n.informer.SetTransform(trimNamespace); err != nil {
		return nil, err
	}
	registration, err := n.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.put(object) },
		UpdateFunc: func(_, object any) { n.put(object) },
		DeleteFunc: n.remove,
	})
	if err != nil {
		return nil, err
	}
	n.synced = registration.HasSynced
	return n, nil
}

// of gives a namespace's labels, which must not be changed.
func (n *namespaces) of(name string) labels.Set {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.labels[name]
}

func (n *namespaces) at() (version uint64) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.version
}

func (n *namespaces) put(object any) {
	namespace, ok := object.(*corev1.Namespace)
	if !ok {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if before, known := n.labels[namespace.Name]; known && maps.Equal(before, namespace.Labels) {
		return
	}
	n.labels[namespace.Name] = namespace.Labels
	n.version++
}

func (n *namespaces) remove(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if namespace, ok := object.(*corev1.Namespace); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.labels, namespace.Name)
		n.version++
	}
}

func trimNamespace(object any) (any, error) {
	namespace, ok := object.(*corev1.Namespace)
	if !ok {
		return object, nil
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace.Name, UID: namespace.UID, ResourceVersion: namespace.ResourceVersion, Labels: namespace.Labels,
	}}, nil
}
