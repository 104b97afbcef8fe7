package networktelemetry

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// none is the cell of what there is not.
const none = "-"

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Always cluster."},
	{Name: "Applied", Type: "string", Description: "On how many nodes the spec is in force, of how many that have agents."},
	{Name: "Exporting", Type: "string", Description: "Whether every exporter reaches its destination from every node."},
	{Name: "Age", Type: "string", Description: "Time since the object was created."},
	{Name: "Groups", Type: "string", Priority: 1, Description: "Groups of metrics of pods that are offered."},
	{Name: "Exporters", Type: "string", Priority: 1, Description: "Where metrics and flow logs are sent to."},
}

type tableConvertor struct{}

// ConvertToTable is part of rest.TableConvertor.
func (tableConvertor) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return live.Table(object, options, columns, cells)
}

func cells(object runtime.Object) []any {
	telemetry := of(object)
	var groups, exporters []string
	for i := range telemetry.Spec.PodMetrics {
		groups = append(groups, string(telemetry.Spec.PodMetrics[i].Group))
	}
	for i := range telemetry.Spec.Exporters {
		exporters = append(exporters, telemetry.Spec.Exporters[i].Name)
	}
	return []any{
		telemetry.Name, appliedCell(telemetry), exportingCell(telemetry), live.AgeCell(telemetry.CreationTimestamp), listed(groups), listed(exporters),
	}
}

// appliedCell is about the present spec only: of a spec that nobody has looked at yet nothing is known.
func appliedCell(telemetry *v1alpha1.NetworkTelemetry) string {
	if telemetry.Status.ObservedGeneration != telemetry.Generation {
		return live.Unknown
	}
	return fmt.Sprintf("%d/%d", telemetry.Status.Nodes.Applied, telemetry.Status.Nodes.Total)
}

func exportingCell(telemetry *v1alpha1.NetworkTelemetry) string {
	exporting := meta.FindStatusCondition(telemetry.Status.Conditions, v1alpha1.TelemetryExporting)
	switch {
	case len(telemetry.Spec.Exporters) == 0:
		return none
	case exporting == nil || telemetry.Status.ObservedGeneration != telemetry.Generation:
		return live.Unknown
	}
	return string(exporting.Status)
}

func listed(names []string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ",")
}
