package captures

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
)

// cluster is what is in it: pods, namespaces, nodes and Services, of which it keeps what is read here. Its methods are
// safe for concurrent use.
type cluster struct {
	informers []cache.SharedIndexInformer
	handlers  []cache.ResourceEventHandlerRegistration

	mu         sync.RWMutex
	pods       map[string]map[string]*pod // by namespace and name
	byUID      map[types.UID]*pod
	namespaces map[string]labels.Set
	nodes      map[string]labels.Set
	services   map[types.NamespacedName]service
	followers  map[int]follower
	nextID     int
}

// A service has cluster addresses, unless it is headless, and chooses pods, unless somebody else keeps its endpoints.
type service struct {
	addresses []netip.Addr
	selector  map[string]string
}

// A follower is told what changed, not under the lock.
type follower struct {
	// pod: before is nil for one that is new, after for one that is gone.
	pod func(before, after *pod)
	// labels of a namespace, or of a node, changed; or it came or went.
	labels func()
}

func newCluster(client kubernetes.Interface) (*cluster, error) {
	c := &cluster{
		pods: map[string]map[string]*pod{}, byUID: map[types.UID]*pod{}, namespaces: map[string]labels.Set{}, nodes: map[string]labels.Set{},
		services: map[types.NamespacedName]service{}, followers: map[int]follower{},
	}
	for _, one := range []struct {
		informer cache.SharedIndexInformer
		trim     cache.TransformFunc
		handler  cache.ResourceEventHandler
	}{
		{coreinformers.NewPodInformer(client, "", 0, cache.Indexers{}), trimPod, handler(c.putPod, c.removePod)},
		{coreinformers.NewNamespaceInformer(client, 0, cache.Indexers{}), trimMeta, handler(c.putNamespace, c.removeNamespace)},
		{coreinformers.NewNodeInformer(client, 0, cache.Indexers{}), trimMeta, handler(c.putNode, c.removeNode)},
		{coreinformers.NewServiceInformer(client, "", 0, cache.Indexers{}), trimMeta, handler(c.putService, c.removeService)},
	} {
		if err := one.informer.SetTransform(one.trim); err != nil {
			return nil, fmt.Errorf("following the cluster: %w", err)
		}
		registration, err := one.informer.AddEventHandler(one.handler)
		if err != nil {
			return nil, fmt.Errorf("following the cluster: %w", err)
		}
		c.informers, c.handlers = append(c.informers, one.informer), append(c.handlers, registration)
	}
	return c, nil
}

func handler[T any](put, remove func(T)) cache.ResourceEventHandler {
	call := func(f func(T), object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		if of, ok := object.(T); ok {
			f(of)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { call(put, object) },
		UpdateFunc: func(_, object any) { call(put, object) },
		DeleteFunc: func(object any) { call(remove, object) },
	}
}

// run follows the cluster until ctx ends.
func (c *cluster) run(ctx context.Context) {
	var running sync.WaitGroup
	for _, informer := range c.informers {
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	running.Wait()
}

func (c *cluster) synced() bool {
	return !slices.ContainsFunc(c.handlers, func(r cache.ResourceEventHandlerRegistration) bool { return !r.HasSynced() })
}

// follow tells of every change from now on, until stop is called.
func (c *cluster) follow(f follower) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	c.followers[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.followers, id)
	}
}

func (c *cluster) tell(do func(follower)) {
	c.mu.RLock()
	followers := slices.Collect(maps.Values(c.followers))
	c.mu.RUnlock()
	for _, f := range followers {
		do(f)
	}
}

func (c *cluster) putPod(object *corev1.Pod) {
	after := podOf(object)
	c.mu.Lock()
	before := c.pods[after.namespace][after.name]
	if before != nil {
		delete(c.byUID, before.uid)
	}
	if c.pods[after.namespace] == nil {
		c.pods[after.namespace] = map[string]*pod{}
	}
	c.pods[after.namespace][after.name], c.byUID[after.uid] = after, after
	c.mu.Unlock()
	if before == nil || !before.same(after) {
		c.tell(func(f follower) { f.pod(before, after) })
	}
}

func (c *cluster) removePod(object *corev1.Pod) {
	c.mu.Lock()
	before := c.pods[object.Namespace][object.Name]
	if before != nil {
		delete(c.byUID, before.uid)
		delete(c.pods[object.Namespace], object.Name)
		if len(c.pods[object.Namespace]) == 0 {
			delete(c.pods, object.Namespace)
		}
	}
	c.mu.Unlock()
	if before != nil {
		c.tell(func(f follower) { f.pod(before, nil) })
	}
}

func (c *cluster) putNamespace(object *corev1.Namespace) {
	c.putLabels(c.namespaces, &object.ObjectMeta)
}
func (c *cluster) putNode(object *corev1.Node) { c.putLabels(c.nodes, &object.ObjectMeta) }

func (c *cluster) removeNamespace(object *corev1.Namespace) {
	c.removeLabels(c.namespaces, object.Name)
}
func (c *cluster) removeNode(object *corev1.Node) { c.removeLabels(c.nodes, object.Name) }

func (c *cluster) putLabels(of map[string]labels.Set, object *metav1.ObjectMeta) {
	c.mu.Lock()
	before, known := of[object.Name]
	of[object.Name] = object.Labels
	c.mu.Unlock()
	if !known || !maps.Equal(before, object.Labels) {
		c.tell(func(f follower) { f.labels() })
	}
}

func (c *cluster) removeLabels(of map[string]labels.Set, name string) {
	c.mu.Lock()
	delete(of, name)
	c.mu.Unlock()
	c.tell(func(f follower) { f.labels() })
}

func (c *cluster) putService(object *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.services[types.NamespacedName{Namespace: object.Namespace, Name: object.Name}] = service{parse(object.Spec.ClusterIPs), object.Spec.Selector}
}

func (c *cluster) removeService(object *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, types.NamespacedName{Namespace: object.Namespace, Name: object.Name})
}

// targets are those that a selection chooses now.
func (c *cluster) targets(s *selection) []*target {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var found []*target
	add := func(p *pod) {
		if p == nil || !s.choosesPod(p, func(namespace string) labels.Set { return c.namespaces[namespace] }) {
			return
		}
		if t, ok := s.targetOf(p); ok {
			found = append(found, t)
		}
	}
	switch {
	case s.podsOf != nil:
		for name := range s.podsOf {
			add(c.pods[name.Namespace][name.Name])
		}
	case s.pods != nil && s.namespace != "":
		for _, p := range c.pods[s.namespace] {
			add(p)
		}
	case s.pods != nil:
		for _, of := range c.pods {
			for _, p := range of {
				add(p)
			}
		}
	}
	for node, set := range c.nodes {
		if s.choosesNode(node, set) {
			found = append(found, &target{Match: Match{Node: node}, interfaces: s.nodeInterfaces, running: true})
		}
	}
	return found
}

// chooses says whether a change of a pod is one of what a selection chooses.
func (c *cluster) chooses(s *selection, before, after *pod) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	namespace := func(name string) labels.Set { return c.namespaces[name] }
	return before != nil && s.choosesPod(before, namespace) || after != nil && s.choosesPod(after, namespace)
}

// elsewhere says that a pod is known to be on another node.
func (c *cluster) elsewhere(uid types.UID, node string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p := c.byUID[uid]
	return p != nil && p.node != "" && p.node != node
}

// resolve gives the addresses of a pod or Service. Errors are for users.
func (c *cluster) resolve(kind filtertext.Kind, namespace, name string) ([]netip.Addr, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, isService := c.services[types.NamespacedName{Namespace: namespace, Name: name}]
	p := c.pods[namespace][name]
	switch {
	case kind != filtertext.Pod && isService:
		addresses := c.addressesOf(namespace, s)
		if len(addresses) == 0 {
			return nil, fmt.Errorf("the Service %s/%s has no address: neither a cluster IP, nor a pod behind it that has one", namespace, name)
		}
		return addresses, nil
	case kind == filtertext.Service:
		return nil, fmt.Errorf("there is no Service %s in namespace %s", name, namespace)
	case p == nil && kind == filtertext.Pod:
		return nil, fmt.Errorf("there is no pod %s in namespace %s", name, namespace)
	case p == nil:
		return nil, fmt.Errorf("there is no Service and no pod %s in namespace %s; DNS is not asked: of a host outside of the cluster write the address", name, namespace)
	case len(p.addresses) == 0:
		return nil, fmt.Errorf("the pod %s/%s has no address yet", namespace, name)
	}
	return p.addresses, nil
}

// addressesOf are all that stand for a Service in packets: the cluster's before they are translated, those of its pods behind that,
// and where programs are translated for when they connect.
func (c *cluster) addressesOf(namespace string, s service) []netip.Addr {
	var pods []netip.Addr
	if len(s.selector) > 0 {
		chosen := labels.SelectorFromSet(s.selector)
		for _, p := range c.pods[namespace] {
			if !p.ended && chosen.Matches(labels.Set(p.labels)) {
				pods = append(pods, p.addresses...)
			}
		}
	}
	slices.SortFunc(pods, netip.Addr.Compare)
	return slices.Concat(s.addresses, slices.Compact(pods))
}

func parse(texts []string) []netip.Addr {
	var addresses []netip.Addr
	for _, text := range texts { // Headless Services have "None", which does not parse.
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses
}

func podOf(object *corev1.Pod) *pod {
	p := &pod{
		namespace: object.Namespace, name: object.Name, node: object.Spec.NodeName, uid: object.UID, key: podKey(object),
		labels: object.Labels, hostNetwork: object.Spec.HostNetwork,
		running: object.Status.Phase == corev1.PodRunning && object.DeletionTimestamp == nil,
		ended:   object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed,
	}
	for _, ip := range object.Status.PodIPs {
		p.addresses = append(p.addresses, parse([]string{ip.IP})...)
	}
	if len(p.addresses) == 0 {
		p.addresses = parse([]string{object.Status.PodIP})
	}
	return p
}

func (p *pod) same(other *pod) bool {
	return p.uid == other.uid && p.node == other.node && p.key == other.key && p.hostNetwork == other.hostNetwork &&
		p.running == other.running && p.ended == other.ended && maps.Equal(p.labels, other.labels) && slices.Equal(p.addresses, other.addresses)
}

// podKey is the name by which the kubelet names the pod's cgroup: the UID, and for a static pod, of which the cluster
// sees a mirror with another UID, the hash of its configuration. Anybody who may create pods may write what says so, so that
// a pod with such a key is treated as one in its node's network.
func podKey(object *corev1.Pod) string {
	hash := object.Annotations[configHash]
	owner := metav1.GetControllerOf(object)
	if hash != "" && object.Annotations[corev1.MirrorPodAnnotationKey] == hash && len(hash) == 32 && owner != nil && owner.Kind == "Node" && owner.Name == object.Spec.NodeName {
		return hash
	}
	return string(object.UID)
}

// configHash is the annotation that the kubelet puts on mirror pods (k8s.io/kubernetes/pkg/kubelet/types).
const configHash = "kubernetes.io/config.hash"

func trimPod(object any) (any, error) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels, DeletionTimestamp: p.DeletionTimestamp,
	}}
	if hash, ok := p.Annotations[configHash]; ok {
		trimmed.Annotations = map[string]string{configHash: hash, corev1.MirrorPodAnnotationKey: p.Annotations[corev1.MirrorPodAnnotationKey]}
		trimmed.OwnerReferences = p.OwnerReferences
	}
	trimmed.Spec.NodeName, trimmed.Spec.HostNetwork = p.Spec.NodeName, p.Spec.HostNetwork
	trimmed.Status.Phase, trimmed.Status.PodIP, trimmed.Status.PodIPs = p.Status.Phase, p.Status.PodIP, p.Status.PodIPs
	return trimmed, nil
}

// trimMeta leaves of a namespace or node its name and labels, and of a Service its addresses.
func trimMeta(object any) (any, error) {
	trimmed := func(m *metav1.ObjectMeta) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
	}
	switch o := object.(type) {
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: trimmed(&o.ObjectMeta)}, nil
	case *corev1.Node:
		return &corev1.Node{ObjectMeta: trimmed(&o.ObjectMeta)}, nil
	case *corev1.Service:
		return &corev1.Service{ObjectMeta: trimmed(&o.ObjectMeta), Spec: corev1.ServiceSpec{ClusterIPs: o.Spec.ClusterIPs, Selector: o.Spec.Selector}}, nil
	}
	return object, nil
}

var errNotSynced = errors.New("the cluster's pods, namespaces, nodes and Services are not listed yet")

// matches are the targets of a capture now, in a fixed order.
func (c *cluster) matches(object runtime.Object) ([]Match, error) {
	if !c.synced() {
		return nil, errNotSynced
	}
	s, err := selectionOf(object)
	if err != nil {
		return nil, err
	}
	targets := c.targets(s)
	slices.SortFunc(targets, (*target).compare)
	found := make([]Match, len(targets))
	for i, t := range targets {
		found[i] = t.Match
	}
	return found, nil
}
