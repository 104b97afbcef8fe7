package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestClusterIsReal resolves a Service's name in a pod and fetches a page through it from a pod on another
// node: what the other tests stand on.
func TestClusterIsReal(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if _, err := c.kube.CoreV1().Services(namespace).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := c.start(t, namespace, sink("web", nodes[0]), sink("client", nodes[1]))
	name := "web." + namespace + ".svc.cluster.local"
	c.exec(t, pods[1], "/bin/traffic", "dns", name, "1", "0s")
	if page := c.exec(t, pods[1], "/bin/wget", "-q", "-O", "-", "http://"+name+"/"); !strings.HasPrefix(page, "web\n") {
		t.Errorf("the Service answered %.100q", page)
	}
}
