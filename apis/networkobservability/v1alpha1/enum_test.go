package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/networkobservability/networkobservability/apis/generated/openapi"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestStatesAreEnums: kubectl explain shows which states there are.
func TestStatesAreEnums(t *testing.T) {
	definitions := openapi.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} })
	for _, test := range []struct {
		of   util.OpenAPIModelNamer
		want int
	}{
		{v1alpha1.PodNetworkStats{}, 6}, {v1alpha1.NodeNetworkStats{}, 6}, {v1alpha1.CollectorStatus{}, 3},
	} {
		state := definitions[test.of.OpenAPIModelName()].Schema.Properties["state"]
		if len(state.Enum) != test.want {
			t.Errorf("%s: the state is one of %v", test.of.OpenAPIModelName(), state.Enum)
		}
	}
}

// TestFlowsHaveEnums is the same for flows.
func TestFlowsHaveEnums(t *testing.T) {
	definitions := openapi.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} })
	flow := definitions[v1alpha1.NetworkFlow{}.OpenAPIModelName()].Schema.Properties
	peer := definitions[v1alpha1.FlowPeer{}.OpenAPIModelName()].Schema.Properties
	for name, enum := range map[string][]any{
		"Egress Ingress": flow["direction"].Enum, "Dropped Forwarded Rejected": flow["verdict"].Enum, "External Node Pod Service": peer["kind"].Enum,
	} {
		if got := strings.Trim(fmt.Sprint(enum...), "[]"); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(name, " ", "") {
			t.Errorf("one of %q, want %q", got, name)
		}
	}
}
