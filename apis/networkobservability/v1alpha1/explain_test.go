package v1alpha1_test

import (
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/networkobservability/networkobservability/apis/generated/openapi"
)

// TestFieldsAreExplained: kubectl explain has words for every field.
func TestFieldsAreExplained(t *testing.T) {
	ours := 0
	for name, definition := range openapi.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} }) {
		if !strings.HasPrefix(name, "io.k8s.networkobservability.") {
			continue
		}
		ours++
		for field, schema := range definition.Schema.Properties {
			if schema.Description == "" {
				t.Errorf("%s.%s has no comment", name, field)
			}
		}
	}
	if ours == 0 {
		t.Error("no type is ours")
	}
}
