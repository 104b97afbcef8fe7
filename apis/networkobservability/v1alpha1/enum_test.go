package v1alpha1_test

import (
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
