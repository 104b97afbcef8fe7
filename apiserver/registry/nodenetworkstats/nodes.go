package nodenetworkstats

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// NewREST serves the nodes that client sees, with what reader says of them, read for watchers every interval.
func NewREST(client kubernetes.Interface, reader live.Reader, interval time.Duration) *live.REST {
	return live.New(live.Config{
		Kind: kind{}, Host: nodes(client), HostType: &corev1.Node{}, Reader: reader, WatchInterval: interval,
		HostGet: func(ctx context.Context, _, name string) (runtime.Object, error) {
			return client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		},
	})
}

type kind struct{}

var _ live.Kind = kind{}

func (kind) Resource() schema.GroupResource { return v1alpha1.Resource("nodenetworkstats") }
func (kind) Singular() string               { return "nodenetworkstats" }
func (kind) ShortNames() []string           { return []string{"nnst"} }
func (kind) NamespaceScoped() bool          { return false }
func (kind) New() runtime.Object            { return &v1alpha1.NodeNetworkStats{} }
func (kind) NewList() runtime.Object        { return &v1alpha1.NodeNetworkStatsList{} }

func nodes(client kubernetes.Interface) cache.ListerWatcherWithContext {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			if options.ResourceVersion == "0" {
				options.ResourceVersion = ""
			}
			return client.CoreV1().Nodes().List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Nodes().Watch(ctx, options)
		},
	}
	return cache.ToListerWatcherWithContext(cache.ToListWatcherWithWatchListSemantics(lw, client))
}

// Record is part of live.Kind.
func (kind) Record(host runtime.Object) (*live.Record, error) {
	node, ok := host.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("a %T is no node", host)
	}
	record := &live.Record{
		Name:    node.Name,
		HostUID: node.UID,
		Created: node.CreationTimestamp,
		Labels:  node.Labels,
		Node:    node.Name,
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			record.IPs = append(record.IPs, address.Address)
		}
	}
	return record, nil
}
