package e2e

import (
	"bytes"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// TestAPIService checks how the API is registered: verified by the server's own CA, served by two replicas on
// two nodes.
func TestAPIService(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	service, err := aggregator.NewForConfigOrDie(c.config).ApiregistrationV1().APIServices().
		Get(t.Context(), "v1alpha1.networkobservability.k8s.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	published, err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Get(t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if service.Spec.InsecureSkipTLSVerify {
		t.Error("the APIService skips verification")
	}
	if serving := published.Data[agentv1.ServingCAKey]; !bytes.Equal(bytes.TrimSpace(service.Spec.CABundle), bytes.TrimSpace([]byte(serving))) {
		t.Errorf("the APIService's CA bundle is not the serving CA:\n%s\n%s", service.Spec.CABundle, serving)
	}
	available := false
	for _, condition := range service.Status.Conditions {
		available = available || condition.Type == apiregistrationv1.Available && condition.Status == apiregistrationv1.ConditionTrue
	}
	if !available {
		t.Errorf("the APIService is not available: %+v", service.Status.Conditions)
	}
	if servers := c.servers(t); len(servers) < 2 || len(byNode(servers)) != len(servers) {
		t.Errorf("%d API servers run on %d nodes, want two on two", len(servers), len(byNode(servers)))
	}
}
