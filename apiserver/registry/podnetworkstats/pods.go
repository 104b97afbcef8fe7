package podnetworkstats

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

// NewREST serves the pods that client sees, with what reader says of them, read for watchers every interval.
func NewREST(client kubernetes.Interface, reader live.Reader, interval time.Duration) *live.REST {
	return live.New(live.Config{
		Kind: kind{}, Host: pods(client), HostType: &corev1.Pod{}, Reader: reader, WatchInterval: interval,
		HostGet: func(ctx context.Context, namespace, name string) (runtime.Object, error) {
			return client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
}

type kind struct{}

var _ live.Kind = kind{}

func (kind) Resource() schema.GroupResource { return v1alpha1.Resource("podnetworkstats") }
func (kind) Singular() string               { return "podnetworkstats" }
func (kind) ShortNames() []string           { return []string{"pns"} }
func (kind) NamespaceScoped() bool          { return true }
func (kind) New() runtime.Object            { return &v1alpha1.PodNetworkStats{} }
func (kind) NewList() runtime.Object        { return &v1alpha1.PodNetworkStatsList{} }

// pods lists and watches the pods of the cluster. Lists are read from the host's newest state and cut down page by
// page to what Record needs.
func pods(client kubernetes.Interface) cache.ListerWatcherWithContext {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			if options.ResourceVersion == "0" {
				// Hosts ignore the limit for "0" and would answer with everything at once.
				options.ResourceVersion = ""
			}
			list, err := client.CoreV1().Pods("").List(ctx, options)
			if err != nil {
				return nil, err
			}
			for i := range list.Items {
				trim(&list.Items[i])
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Pods("").Watch(ctx, options)
		},
	}
	return cache.ToListerWatcherWithContext(cache.ToListWatcherWithWatchListSemantics(lw, client))
}

// trim drops what Record does not read from a pod that nobody else has.
func trim(pod *corev1.Pod) {
	pod.ManagedFields = nil
	pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork}
	pod.Status = corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs}
}

// Record is part of live.Kind.
func (kind) Record(host runtime.Object) (*live.Record, error) {
	pod, ok := host.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("a %T is no pod", host)
	}
	record := &live.Record{
		Namespace:   pod.Namespace,
		Name:        pod.Name,
		HostUID:     pod.UID,
		Created:     pod.CreationTimestamp,
		Labels:      pod.Labels,
		Node:        pod.Spec.NodeName,
		PodKey:      podKey(pod),
		IPs:         podIPs(pod),
		HostNetwork: pod.Spec.HostNetwork,
		Ended:       pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		record.OwnerKind, record.OwnerName = owner.Kind, owner.Name
	}
	return record, nil
}

func podIPs(pod *corev1.Pod) []string {
	ips := make([]string, 0, len(pod.Status.PodIPs))
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = append(ips, pod.Status.PodIP)
	}
	return ips
}

// podKey is the name by which the kubelet names the pod's cgroup: the UID, and for a static pod, of which the
// cluster sees a mirror with another UID, the hash of its configuration.
//
// Anybody who may create pods may write annotations, so they are believed only as far as they can do no harm: of
// a pod that says in all three places that a kubelet made it, and for a hash, which no UID is. Such a pod could
// show another static pod's counters at most.
func podKey(pod *corev1.Pod) string {
	hash := pod.Annotations[configHash]
	owner := metav1.GetControllerOf(pod)
	if pod.Annotations[corev1.MirrorPodAnnotationKey] == hash && isHash(hash) && owner != nil && owner.Kind == "Node" && owner.Name == pod.Spec.NodeName {
		return hash
	}
	return string(pod.UID)
}

// configHash is the annotation that the kubelet puts on mirror pods (k8s.io/kubernetes/pkg/kubelet/types).
const configHash = "kubernetes.io/config.hash"

func isHash(text string) bool {
	if len(text) != 32 {
		return false
	}
	for i := range len(text) {
		if (text[i] < '0' || text[i] > '9') && (text[i] < 'a' || text[i] > 'f') {
			return false
		}
	}
	return true
}
