package directory

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// Config says what a Directory stands on.
type Config struct {
	// Client lists and watches Services and nodes.
	Client kubernetes.Interface
	// Clock is the real one unless a test sets another.
	Clock clock.WithTicker
}

var _ live.Observer = &Directory{}

// New makes a Directory. It learns of pods as an observer of podnetworkstats, of the rest once Run is called.
func New(config Config) (*Directory, error) {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	d := &Directory{
		clock: config.Clock, maxGone: maxGone,
		pods: map[string]*holder{}, services: map[string]*holder{}, nodes: map[string]*holder{},
		byNamespace: map[string]map[*holder]struct{}{}, byNode: map[string]map[*holder]struct{}{}, arrivals: map[string]uint64{},
		addresses: map[netip.Addr][]span{}, conventional: map[netip.Addr]string{},
		sources: sources{
			services: coreinformers.NewServiceInformer(config.Client, "", 0, cache.Indexers{}),
			nodes:    coreinformers.NewNodeInformer(config.Client, 0, cache.Indexers{}),
		},
	}
	return d, d.sources.tell(d)
}

// Run follows Services and nodes and forgets those that went long ago, until ctx ends.
func (d *Directory) Run(ctx context.Context) {
	var following sync.WaitGroup
	following.Go(func() { d.sources.services.RunWithContext(ctx) })
	following.Go(func() { d.sources.nodes.RunWithContext(ctx) })
	defer following.Wait()
	ticker := d.clock.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			d.sweep()
		}
	}
}

// Changed is part of live.Observer.
func (d *Directory) Changed(before, after *live.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if before != nil && (after == nil || after.PodKey != before.PodKey) {
		d.remove(d.pods, before.PodKey)
	}
	if after != nil {
		d.putPod(after)
	}
}

// Replaced is part of live.Observer.
func (d *Directory) Replaced(records []*live.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	there := make(map[string]struct{}, len(records))
	for _, record := range records {
		there[record.PodKey] = struct{}{}
	}
	for key := range d.pods {
		if _, ok := there[key]; !ok {
			d.remove(d.pods, key)
		}
	}
	for _, record := range records {
		d.putPod(record)
	}
	d.podsListed = true
}

// putPod gives a pod that runs its addresses. One that has ended has given them back.
func (d *Directory) putPod(pod *live.Record) {
	var addresses []netip.Addr
	if !pod.HostNetwork && !pod.Ended {
		addresses = parse(pod.IPs)
	}
	if h := d.pods[pod.PodKey]; h != nil {
		d.noteLabels(h.owner.Pod, pod)
	}
	d.put(d.pods, pod.PodKey, Owner{Pod: pod}, addresses, pod.Created.Time)
}

func parse(texts []string) []netip.Addr {
	var addresses []netip.Addr
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses
}

// sources are informers, which keep of each object only what is read here.
type sources struct {
	services, nodes cache.SharedIndexInformer
}

func (s sources) synced() bool { return s.services.HasSynced() && s.nodes.HasSynced() }

func (s sources) tell(d *Directory) error {
	err := s.services.SetTransform(trimService)
	if err == nil {
		err = s.nodes.SetTransform(trimNode)
	}
	if err == nil {
		_, err = s.services.AddEventHandler(handler(d.putService, func(service *corev1.Service) {
			d.remove(d.services, service.Namespace+"/"+service.Name)
		}, d))
	}
	if err == nil {
		_, err = s.nodes.AddEventHandler(handler(d.putNode, d.removeNode, d))
	}
	if err != nil {
		return fmt.Errorf("following Services and nodes: %w", err)
	}
	return nil
}

// handler calls put and remove under the directory's lock.
func handler[T any](put, remove func(T), d *Directory) cache.ResourceEventHandler {
	call := func(f func(T), object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		if of, ok := object.(T); ok {
			d.mu.Lock()
			defer d.mu.Unlock()
			f(of)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { call(put, object) },
		UpdateFunc: func(_, object any) { call(put, object) },
		DeleteFunc: func(object any) { call(remove, object) },
	}
}

func (d *Directory) putService(service *corev1.Service) {
	known := &Service{Namespace: service.Namespace, Name: service.Name}
	for _, port := range service.Spec.Ports {
		known.Ports = append(known.Ports, ServicePort{Name: port.Name, Protocol: string(port.Protocol), Port: port.Port})
	}
	addresses := parse(service.Spec.ClusterIPs) // Headless Services have "None", which does not parse.
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		addresses = append(addresses, parse([]string{ingress.IP})...)
	}
	d.put(d.services, service.Namespace+"/"+service.Name, Owner{Service: known}, addresses, service.CreationTimestamp.Time)
}

func (d *Directory) putNode(node *corev1.Node) {
	var addresses []netip.Addr
	for _, address := range node.Status.Addresses {
		addresses = append(addresses, parse([]string{address.Address})...) // Host names do not parse.
	}
	// A node has its addresses before it is registered.
	d.put(d.nodes, node.Name, Owner{Node: node.Name}, addresses, time.Unix(0, 0))
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			network := prefix.Masked().Addr()
			d.conventional[network], d.conventional[network.Next()] = node.Name, node.Name
		}
	}
}

func (d *Directory) removeNode(node *corev1.Node) {
	d.remove(d.nodes, node.Name)
	for address, name := range d.conventional {
		if name == node.Name {
			delete(d.conventional, address)
		}
	}
}

func trimService(object any) (any, error) {
	service, ok := object.(*corev1.Service)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Service{}
	trimmed.Namespace, trimmed.Name, trimmed.UID = service.Namespace, service.Name, service.UID
	trimmed.ResourceVersion, trimmed.CreationTimestamp = service.ResourceVersion, service.CreationTimestamp
	trimmed.Spec.ClusterIPs, trimmed.Spec.Ports = service.Spec.ClusterIPs, service.Spec.Ports
	trimmed.Status.LoadBalancer = service.Status.LoadBalancer
	return trimmed, nil
}

func trimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Node{}
	trimmed.Name, trimmed.UID, trimmed.ResourceVersion = node.Name, node.UID, node.ResourceVersion
	trimmed.Spec.PodCIDRs, trimmed.Status.Addresses = node.Spec.PodCIDRs, node.Status.Addresses
	return trimmed, nil
}
