package captures

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestSelection asks whom captures of every form choose.
func TestSelection(t *testing.T) {
	c, err := newCluster(fake.NewClientset())
	must(t, err)
	for name, set := range map[string]map[string]string{"shop": {"team": "red"}, "bank": {"team": "blue"}} {
		c.putNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}})
	}
	for node, set := range map[string]map[string]string{"n1": {"disk": "fast"}, "n2": nil} {
		c.putNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: set}})
	}
	put := func(namespace, name, node string, phase corev1.PodPhase, change ...func(*corev1.Pod)) {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name), Labels: web},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
		}
		for _, one := range change {
			one(pod)
		}
		c.putPod(podAfterTrim(t, pod))
	}
	put("shop", "a", "n1", corev1.PodRunning)
	put("shop", "other", "n1", corev1.PodRunning, func(p *corev1.Pod) { p.Labels = nil })
	put("shop", "ended", "n1", corev1.PodSucceeded)
	put("shop", "unscheduled", "", corev1.PodPending)
	put("bank", "a", "n2", corev1.PodRunning)

	all, labelled := &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: web}
	cluster := func(spec v1alpha1.ClusterCaptureSpec) runtime.Object { return &v1alpha1.ClusterCapture{Spec: spec} }
	shop := func(pods v1alpha1.CapturePods) runtime.Object {
		return &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: v1alpha1.CaptureSpec{Pods: pods}}
	}
	for name, test := range map[string]struct {
		capture runtime.Object
		want    []string
	}{
		"all of a namespace": {shop(v1alpha1.CapturePods{Selector: all}), []string{"n1/shop/a", "n1/shop/other"}},
		"by label":           {shop(v1alpha1.CapturePods{Selector: labelled}), []string{"n1/shop/a"}},
		"by name":            {shop(v1alpha1.CapturePods{Names: []string{"other", "nobody"}}), []string{"n1/shop/other"}},
		"nobody":             {shop(v1alpha1.CapturePods{}), nil},
		"everywhere": {cluster(v1alpha1.ClusterCaptureSpec{Pods: &v1alpha1.ClusterCapturePods{Selector: labelled}}),
			[]string{"n1/shop/a", "n2/bank/a"}},
		"namespaces by label": {cluster(v1alpha1.ClusterCaptureSpec{Pods: &v1alpha1.ClusterCapturePods{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}}}), []string{"n2/bank/a"}},
		"pods by name": {cluster(v1alpha1.ClusterCaptureSpec{Pods: &v1alpha1.ClusterCapturePods{
			Names: []v1alpha1.CapturePodName{{Namespace: "bank", Name: "a"}}}}), []string{"n2/bank/a"}},
		"nodes by label": {cluster(v1alpha1.ClusterCaptureSpec{Nodes: &v1alpha1.CaptureNodes{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "fast"}}}}), []string{"n1//"}},
		"nodes by name": {cluster(v1alpha1.ClusterCaptureSpec{Nodes: &v1alpha1.CaptureNodes{Names: []string{"n2", "n9"}}}), []string{"n2//"}},
		"nobody at all": {cluster(v1alpha1.ClusterCaptureSpec{}), nil},
	} {
		s, err := selectionOf(test.capture)
		must(t, err)
		var got []string
		for _, target := range c.targets(s) {
			got = append(got, target.Node+"/"+target.Namespace+"/"+target.Pod)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func podAfterTrim(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	trimmed, err := trimPod(pod)
	must(t, err)
	return trimmed.(*corev1.Pod)
}

// TestForgedIdentity: a pod that says that it is a static one has its key, and is treated as one in its node's network.
func TestForgedIdentity(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "forged", UID: "u", Annotations: map[string]string{configHash: hash, corev1.MirrorPodAnnotationKey: hash},
			OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: "n1", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	s := &selection{namespace: "shop"}
	target, ok := s.targetOf(podOf(podAfterTrim(t, pod)))
	if !ok || target.key != hash || !target.HostNetwork {
		t.Errorf("it is %+v", target)
	}
	pod.OwnerReferences = nil
	if target, _ = s.targetOf(podOf(podAfterTrim(t, pod))); target.key != "u" || target.HostNetwork {
		t.Errorf("without an owner it is %+v", target)
	}
}

// TestServiceAddresses: a Service stands for what is on the wire before and behind its translation.
func TestServiceAddresses(t *testing.T) {
	c, err := newCluster(fake.NewClientset())
	must(t, err)
	for i, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodRunning} {
		name, set := string(rune('a'+i)), web
		if name == "d" {
			set = map[string]string{"app": "other"}
		}
		address := netip.AddrFrom4([4]byte{10, 0, 0, byte(9 - i)}).String()
		c.putPod(podAfterTrim(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: set}, Spec: corev1.PodSpec{NodeName: "n1"},
			Status: corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: address}}},
		}))
	}
	for name, test := range map[string]struct {
		spec corev1.ServiceSpec
		want string
	}{
		"web":      {corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "fd00::1"}, Selector: web}, "[10.96.0.1 fd00::1 10.0.0.8 10.0.0.9]"},
		"headless": {corev1.ServiceSpec{ClusterIPs: []string{"None"}, Selector: web}, "[10.0.0.8 10.0.0.9]"},
		"manual":   {corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.2"}}, "[10.96.0.2]"},
		"nothing":  {corev1.ServiceSpec{ClusterIPs: []string{"None"}, Selector: map[string]string{"app": "none"}}, "the Service shop/nothing has no address"},
	} {
		trimmed, err := trimMeta(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: test.spec})
		must(t, err)
		c.putService(trimmed.(*corev1.Service))
		addresses, err := c.resolve(filtertext.Host, "shop", name)
		if got := fmt.Sprint(addresses, err); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	for kind, want := range map[filtertext.Kind]string{
		filtertext.Service: "there is no Service example.com in namespace shop", filtertext.Pod: "there is no pod example.com in namespace shop",
		filtertext.Host: "DNS is not asked: of a host outside of the cluster write the address",
	} {
		if _, err := c.resolve(kind, "shop", "example.com"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
