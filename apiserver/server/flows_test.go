package server

import (
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics"

	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows/flowtest"
)

// flowsOf serves the flows of agents, which may be nil.
func flowsOf(t *testing.T, client kubernetes.Interface, source *flowtest.Agents) (*directory.Directory, *networkflows.REST) {
	t.Helper()
	names, err := directory.New(directory.Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	if source == nil {
		source = flowtest.New(networkflows.ErrGone)
	}
	flows, err := networkflows.NewREST(networkflows.Config{
		Source: source, Names: names, Register: metrics.NewKubeRegistry().Register,
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, flows
}
