package manifests

import (
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// grants says whether a role gives a verb on one of our resources, subresources written behind a slash.
func grants(role *rbacv1.ClusterRole, verb, resource string) bool {
	return slices.ContainsFunc(role.Rules, func(rule rbacv1.PolicyRule) bool {
		has := func(all []string, one string) bool { return slices.Contains(all, one) || slices.Contains(all, "*") }
		return has(rule.APIGroups, v1alpha1.GroupName) && has(rule.Verbs, verb) && has(rule.Resources, resource)
	})
}

func isAggregated(role *rbacv1.ClusterRole) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(role.Labels)), func(label string) bool {
		return strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-")
	})
}

// TestTelemetryRoles: who scrapes may do nothing else, who sees nodes sees what is sent of them, and one role changes it.
func TestTelemetryRoles(t *testing.T) {
	objects := build(t)
	reader := only[*rbacv1.ClusterRole](t, objects, "networkobservability-metrics-reader")
	if len(reader.Rules) != 1 || strings.Join(reader.Rules[0].NonResourceURLs, " ") != "/metrics /metrics/retina" ||
		strings.Join(reader.Rules[0].Verbs, " ") != "get" || len(reader.Rules[0].Resources) > 0 {
		t.Errorf("who scrapes may %v", reader.Rules)
	}
	editor := only[*rbacv1.ClusterRole](t, objects, "networkobservability-telemetry-editor")
	viewer := only[*rbacv1.ClusterRole](t, objects, "networkobservability-node-viewer")
	for _, verb := range []string{"create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"} {
		reads := slices.Contains([]string{"get", "list", "watch"}, verb)
		if !grants(editor, verb, "networktelemetries") || grants(viewer, verb, "networktelemetries") != reads ||
			grants(editor, verb, "networktelemetries/status") != (verb == "get") {
			t.Errorf("%s: editors %v, viewers %v", verb, grants(editor, verb, "networktelemetries"), grants(viewer, verb, "networktelemetries"))
		}
	}
	if isAggregated(editor) || isAggregated(reader) {
		t.Error("a role of telemetry is aggregated")
	}
}

// TestCaptureRoles: who records does not read payload by that, and who reads does not record. None of it is aggregated.
func TestCaptureRoles(t *testing.T) {
	objects := build(t)
	for name, want := range map[string]struct{ records, headers, payload string }{
		"networkobservability-capture-user":           {records: "captures", headers: "captures"},
		"networkobservability-payload-reader":         {headers: "captures", payload: "captures"},
		"networkobservability-cluster-capture-user":   {records: "clustercaptures", headers: "clustercaptures"},
		"networkobservability-cluster-payload-reader": {headers: "clustercaptures", payload: "clustercaptures"},
		"networkobservability-pod-viewer":             {},
	} {
		role := only[*rbacv1.ClusterRole](t, objects, name)
		if want.records+want.headers+want.payload != "" && isAggregated(role) {
			t.Errorf("%s is aggregated", name)
		}
		for _, resource := range []string{"captures", "clustercaptures"} {
			for right, given := range map[[2]string]bool{
				{"create", resource}: want.records == resource, {"delete", resource}: want.records == resource,
				{"get", resource + "/headers"}: want.headers == resource, {"get", resource + "/attach"}: want.headers == resource,
				{"get", resource + "/pcap"}: want.payload == resource, {"update", resource + "/status"}: false,
			} {
				if grants(role, right[0], right[1]) != given {
					t.Errorf("%s: %s %s is %v, want %v", name, right[0], right[1], !given, given)
				}
			}
		}
	}
}
