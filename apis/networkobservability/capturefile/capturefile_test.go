package capturefile

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func TestHeaderOf(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid"}
	capture := &v1alpha1.Capture{ObjectMeta: meta}
	capture.Spec.Filter = "tcp port 443"
	if got, err := HeaderOf(capture); err != nil || got != (pcapfile.Header{UID: "uid", Namespace: "shop", Name: "web", Filter: "tcp port 443", SnapLength: 262_144}) {
		t.Errorf("%+v, %v", got, err)
	}
	cluster := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "uid"}}
	cluster.Spec.PacketBytes = new(int32(64))
	cluster.Spec.Match = []v1alpha1.CaptureMatch{{Direction: v1alpha1.CaptureIngress}}
	if got, err := HeaderOf(cluster); err != nil || got != (pcapfile.Header{UID: "uid", Name: "web", Filter: `match [{"direction":"Ingress"}]`, SnapLength: 64}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := HeaderOf(&corev1.Pod{}); err == nil {
		t.Error("a pod has a file")
	}
}
