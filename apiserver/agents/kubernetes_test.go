package agents

import (
	"context"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// TestKubernetesAPI: the addresses of the Service and of its endpoints are known, of both families, and no others.
func TestKubernetesAPI(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}}
	service.Spec.ClusterIPs = []string{"10.96.0.1", "None"}
	service.Spec.Ports = []corev1.ServicePort{{Port: 443}}
	slice := func(name, service, address string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{address}}},
			Ports:      []discoveryv1.EndpointPort{{Port: new(int32(6443))}, {}},
		}
	}
	client := fake.NewClientset(service, slice("a", "kubernetes", "192.0.2.1"), slice("b", "kubernetes", "2001:db8::1"),
		slice("c", "kubernetes", "no address"), slice("d", "other", "192.0.2.9"))
	api := newKubernetesAPI(client)
	if got := api.addresses(); len(got) != 0 {
		t.Errorf("%v are known before anything was read", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { api.run(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), api.service.HasSynced, api.endpoints.HasSynced) {
		t.Fatal("nothing was read")
	}
	want := []string{"10.96.0.1:443", "192.0.2.1:6443", "[2001:db8::1]:6443"}
	if got := api.addresses(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
