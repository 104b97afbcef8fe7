package networktelemetry

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func TestTable(t *testing.T) {
	for object, want := range map[string]string{
		"{metadata: {name: cluster, generation: 1}}": "[cluster <unknown> - 90m - -]",
		"{metadata: {name: cluster, generation: 2}, spec: {podMetrics: [{group: Traffic}, {group: DNS}]}, status: {observedGeneration: 2, nodes: {total: 13, applied: 12}}}": "[cluster 12/13 - 90m Traffic,DNS -]",
		`{metadata: {name: cluster, generation: 2}, spec: {exporters: [{name: a}, {name: b}]}, status: {observedGeneration: 2, nodes: {total: 3, applied: 3},
			conditions: [{type: Exporting, status: "False"}]}}`: "[cluster 3/3 False 90m - a,b]",
		"{metadata: {name: cluster, generation: 2}, spec: {exporters: [{name: a}]}, status: {observedGeneration: 2, nodes: {total: 3, applied: 3}}}": "[cluster 3/3 <unknown> 90m - a]",
		// What is known is about another spec.
		`{metadata: {name: cluster, generation: 3}, spec: {exporters: [{name: a}]}, status: {observedGeneration: 2, nodes: {total: 3, applied: 3}, conditions: [{type: Exporting, status: "True"}]}}`: "[cluster <unknown> <unknown> 90m - a]",
	} {
		telemetry := &v1alpha1.NetworkTelemetry{}
		if err := yaml.Unmarshal([]byte(object), telemetry); err != nil {
			t.Fatal(err)
		}
		telemetry.CreationTimestamp = metav1.Time{Time: time.Now().Add(-90 * time.Minute)}
		table, err := tableConvertor{}.ConvertToTable(t.Context(), telemetry, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(table.Rows[0].Cells); got != want || len(table.ColumnDefinitions) != len(table.Rows[0].Cells) {
			t.Errorf("%s is shown as %s, want %s", object, got, want)
		}
	}
}
