package agents

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// kubernetesAPI knows where the Kubernetes API is served, so that agents can tell the latency to it: the Service
// kubernetes in the namespace default, and its endpoints. Its methods are safe for concurrent use.
type kubernetesAPI struct {
	service, endpoints cache.SharedIndexInformer
}

func newKubernetesAPI(client kubernetes.Interface) kubernetesAPI {
	const name = "kubernetes"
	return kubernetesAPI{
		service: coreinformers.NewFilteredServiceInformer(client, metav1.NamespaceDefault, 0, cache.Indexers{}, func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}),
		endpoints: discoveryinformers.NewFilteredEndpointSliceInformer(client, metav1.NamespaceDefault, 0, cache.Indexers{}, func(options *metav1.ListOptions) {
			options.LabelSelector = labels.Set{discoveryv1.LabelServiceName: name}.String()
		}),
	}
}

// run follows both until ctx ends.
func (k kubernetesAPI) run(ctx context.Context) {
	var informers sync.WaitGroup
	informers.Go(func() { k.service.RunWithContext(ctx) })
	informers.Go(func() { k.endpoints.RunWithContext(ctx) })
	informers.Wait()
}

// addresses are those that are known now, in a fixed order; none until all are, so that replicas that start tell agents
// nothing else than those that run.
func (k kubernetesAPI) addresses() []string {
	if !k.service.HasSynced() || !k.endpoints.HasSynced() {
		return nil
	}
	var found []netip.AddrPort
	for _, object := range k.service.GetStore().List() {
		if service, ok := object.(*corev1.Service); ok {
			for _, port := range service.Spec.Ports {
				found = appendAddresses(found, service.Spec.ClusterIPs, port.Port)
			}
		}
	}
	for _, object := range k.endpoints.GetStore().List() {
		slice, ok := object.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, port := range slice.Ports {
			for i := range slice.Endpoints {
				if port.Port != nil {
					found = appendAddresses(found, slice.Endpoints[i].Addresses, *port.Port)
				}
			}
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	found = slices.Compact(found)
	found = found[:min(len(found), agentv1.MaxAPIServers)]
	texts := make([]string, len(found))
	for i, address := range found {
		texts[i] = address.String()
	}
	return texts
}

func appendAddresses(to []netip.AddrPort, addresses []string, port int32) []netip.AddrPort {
	for _, text := range addresses {
		if address, err := netip.ParseAddr(text); err == nil && port > 0 && port < 1<<16 {
			to = append(to, netip.AddrPortFrom(address.Unmap(), uint16(port)))
		}
	}
	return to
}
