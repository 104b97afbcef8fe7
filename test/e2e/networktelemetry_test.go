package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// telemetryFile writes a manifest of the one NetworkTelemetry with a spec in YAML.
func telemetryFile(t *testing.T, spec string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "telemetry.yaml")
	text := "{apiVersion: networkobservability.k8s.io/v1alpha1, kind: NetworkTelemetry, metadata: {name: cluster}, spec: " + spec + "}"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withoutTelemetry demands that there is none, and removes what the test leaves.
func (c *cluster) withoutTelemetry(t *testing.T) {
	t.Helper()
	if _, err := c.telemetry(t.Context()); !apierrors.IsNotFound(err) {
		t.Fatalf("there is a NetworkTelemetry, or that is not known: %v", err)
	}
	t.Cleanup(func() {
		// The test's context is over by now.
		err := c.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Delete(context.Background(), v1alpha1.NetworkTelemetryName, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting the NetworkTelemetry: %v", err)
		}
	})
}

func (c *cluster) telemetry(ctx context.Context) (*v1alpha1.NetworkTelemetry, error) {
	return c.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Get(ctx, v1alpha1.NetworkTelemetryName, metav1.GetOptions{})
}

// TestNetworkTelemetry goes through the life of the object with kubectl. There is one for all tests, so those that have one
// do not run at the same time.
func TestNetworkTelemetry(t *testing.T) {
	c := newCluster(t)
	c.withoutTelemetry(t)
	t.Run("explain", func(t *testing.T) { c.checkTelemetryExplained(t) })
	t.Run("refused", func(t *testing.T) { c.checkTelemetryRefused(t) })
	t.Run("dry run", func(t *testing.T) {
		file := telemetryFile(t, "{podMetrics: [{group: Traffic}], flowLogs: {}}")
		r := c.kubectlRun(t, "apply", "--dry-run=server", "-o", "yaml", "-f", file)
		if r.err != nil || !strings.Contains(r.stdout, "seriesLimit: 50000") || !strings.Contains(r.stderr, "Warning: spec.flowLogs: no exporter has FlowLogs") {
			t.Errorf("answers %v: %s%s", r.err, r.stdout, r.stderr)
		}
		if _, err := c.telemetry(t.Context()); !apierrors.IsNotFound(err) {
			t.Errorf("a dry run stored something: %v", err)
		}
	})
	t.Run("life", func(t *testing.T) { c.checkTelemetryLife(t) })
	t.Run("applied by several", func(t *testing.T) { c.checkTelemetryApplied(t) })
}

func (c *cluster) checkTelemetryExplained(t *testing.T) {
	// This one asks the server anew, whatever kubectl remembers.
	if out := c.kubectl(t, "api-resources", "--api-group="+v1alpha1.GroupName, "--namespaced=false"); !strings.Contains(out, "networktelemetries") || !strings.Contains(out, "ntel") {
		t.Errorf("api-resources prints %s", out)
	}
	for path, says := range map[string]string{
		"ntel":                                   "NetworkTelemetry says what leaves the cluster's agents",
		"networktelemetry.spec.podMetrics":       "podMetrics are the groups of metrics that agents offer of pods",
		"networktelemetries.spec.exporters.otlp": "caBundle",
		"ntel.status.conditions":                 "Applied, Exporting and WithinLimits",
	} {
		if out := strings.Join(strings.Fields(c.kubectl(t, "explain", path)), " "); !strings.Contains(out, says) {
			t.Errorf("explain %s does not say %q: %s", path, says, out)
		}
	}
}

func (c *cluster) checkTelemetryRefused(t *testing.T) {
	for spec, says := range map[string][]string{
		"{podMetric: [{group: Traffic}]}":                                                                                                  {`unknown field "spec.podMetric"`},
		"{podMetrics: [{group: Traffic, label: [Port]}]}":                                                                                  {`unknown field "spec.podMetrics[0].label"`},
		"{podMetrics: [{group: Drops, labels: [Service]}]}":                                                                                {`spec.podMetrics[0].labels[0]: Unsupported value: "Service"`, `"Port"`},
		"{podMetrics: [{group: TCP}, {group: TCP}]}":                                                                                       {`spec.podMetrics[1].group: Duplicate value: "TCP"`},
		"{seriesLimit: 5}":                                                                                                                 {"spec.seriesLimit: Invalid value: 5: must be 100 to 1000000 series"},
		"{seriesLimit: 100, podMetrics: [{group: Traffic, labels: [Port]}]}":                                                               {"spec.seriesLimit: Invalid value: 100: must be at least 414"},
		"{podMetrics: [{group: TCP, pods: {selector: {matchLabels: {'a b': c}}}}]}":                                                        {"spec.podMetrics[0].pods.selector.matchLabels"},
		"{exporters: [{name: a, signals: [FlowLogs], stdout: {}}]}":                                                                        {"spec.exporters[0].signals[0]: Forbidden: no flows are logged"},
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'collector:4317'}}]}":                                                 {"spec.exporters[0].otlp.endpoint: Invalid value", "must be https://HOST:PORT"},
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://a:hush@c:4317'}}]}":                                          {"spec.exporters[0].otlp.endpoint", "headersSecret"},
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'http://c:4317', headersSecret: {name: b}}}]}":                        {"spec.exporters[0].otlp.headersSecret: Forbidden: would be sent in the clear"},
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://c:4317', headersSecret: {name: networkobservability-ca}}}]}": {"spec.exporters[0].otlp.headersSecret.name: Forbidden"},
	} {
		file := telemetryFile(t, spec)
		for _, args := range [][]string{{"apply", "-f", file}, {"apply", "--server-side", "-f", file}, {"create", "--dry-run=server", "-f", file}} {
			r := c.kubectlFails(t, args...)
			for _, text := range says {
				// Of what its schema does not know, server-side apply says so in words of its own.
				if !strings.Contains(r.stderr, text) && !(args[1] == "--server-side" && strings.Contains(text, "unknown field") && strings.Contains(r.stderr, "field not declared in schema")) &&
					!(args[1] == "--server-side" && strings.Contains(text, "Duplicate") && strings.Contains(r.stderr, "duplicate entries for key")) {
					t.Errorf("kubectl %v of %s says %s, not %q", args[:2], spec, r.stderr, text)
				}
			}
			if strings.Contains(r.stderr, "hush") && !strings.Contains(r.stderr, "last-applied-configuration") {
				t.Errorf("kubectl %v repeats a password: %s", args[:2], r.stderr)
			}
		}
	}
	_, err := c.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Create(t.Context(), &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `metadata.name: Invalid value: "default": must be "cluster"`) {
		t.Errorf("another name: %v", err)
	}
}

// checkTelemetryLife creates, reads, changes and deletes it, and waits each time for every node.
func (c *cluster) checkTelemetryLife(t *testing.T) {
	nodes := len(c.nodes(t))
	c.kubectl(t, "apply", "-f", telemetryFile(t, "{podMetrics: [{group: Traffic}, {group: DNS, pods: {selector: {matchLabels: {a: b}}}}]}"))
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")
	applied := fmt.Sprintf("%d/%d", nodes, nodes)
	if out := c.kubectl(t, "get", "ntel", "--no-headers", "-o", "wide"); !strings.HasPrefix(strings.Join(strings.Fields(out), " "), "cluster "+applied+" - ") || !strings.Contains(out, "Traffic,DNS") {
		t.Errorf("get prints %s, want %s", out, applied)
	}
	eventually(t, podDeadline, "the object to say whom nothing matches", func(context.Context) error {
		out := c.kubectl(t, "describe", "ntel", "cluster")
		for _, says := range []string{"AppliedEverywhere", "Series Limit:  50000", "No pod matches the selectors of group DNS now."} {
			if !strings.Contains(out, says) {
				return fmt.Errorf("describe does not print %q: %s", says, out)
			}
		}
		return nil
	})
	before, err := c.telemetry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "patch", "ntel", "cluster", "--type=merge", "-p", `{"spec": {"seriesLimit": 1000}, "status": {"nodes": {"total": 99}}}`)
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")
	eventually(t, time.Minute, "the change to be in force everywhere", func(ctx context.Context) error {
		after, err := c.telemetry(ctx)
		if err == nil && (after.Generation != before.Generation+1 || after.Status.ObservedGeneration != after.Generation || int(after.Status.Nodes.Applied) != nodes || int(after.Status.Nodes.Total) != nodes) {
			err = fmt.Errorf("at generation %d: %+v", after.Generation, after.Status)
		}
		return err
	})
	c.kubectl(t, "label", "ntel", "cluster", "a=b")
	if after, err := c.telemetry(t.Context()); err != nil || after.Generation != before.Generation+1 {
		t.Errorf("a label made generation %d (%v)", after.Generation, err)
	}
	c.kubectl(t, "delete", "ntel", "cluster")
	if _, err := c.telemetry(t.Context()); !apierrors.IsNotFound(err) {
		t.Errorf("deleted, and yet: %v", err)
	}
}

// checkTelemetryApplied: each applier has the groups and exporters that are his, and a destination that changes leaves nothing of
// the former.
func (c *cluster) checkTelemetryApplied(t *testing.T) {
	apply := func(manager, spec string) run {
		return c.kubectlRun(t, "apply", "--server-side", "--field-manager="+manager, "-f", telemetryFile(t, spec))
	}
	for _, one := range [][2]string{
		{"metrics", "{podMetrics: [{group: Traffic, labels: [Port]}, {group: TCP}]}"},
		{"logs", "{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], otlp: {endpoint: 'https://127.0.0.1:1'}}]}"},
		{"metrics", "{podMetrics: [{group: Traffic}]}"},
		{"logs", "{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], file: {maxFiles: 3}}]}"},
	} {
		if r := apply(one[0], one[1]); r.err != nil {
			t.Errorf("%s of %s: %s", one[1], one[0], r.stderr)
		}
	}
	got, err := c.telemetry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := got.Spec; len(s.PodMetrics) != 1 || len(s.PodMetrics[0].Labels) > 0 || s.FlowLogs == nil || len(s.Exporters) != 1 || s.Exporters[0].OTLP != nil || s.Exporters[0].File == nil {
		t.Errorf("together they have %+v", got.Spec)
	}
	if r := apply("metrics", "{exporters: [{name: a, signals: [FlowLogs], file: {maxFiles: 4}}]}"); r.err == nil || !strings.Contains(r.stderr, "conflict") {
		t.Errorf("what is another's was taken: %s", r.stderr)
	}
	c.kubectl(t, "delete", "ntel", "cluster")
}

// allowEverywhere gives a service account a role in the whole cluster until the test ends.
func (c *cluster) allowEverywhere(t *testing.T, namespace, account, role string) {
	t.Helper()
	name := namespace + "-" + account
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
	if _, err := c.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting the binding of %s: %v", role, err)
		}
	})
}

// allowSecret gives a service account of another namespace the right to get a Secret of ours, until the test ends.
func (c *cluster) allowSecret(t *testing.T, namespace, account, secret string) {
	t.Helper()
	rights, name := c.kube.RbacV1(), namespace+"-"+account
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret}, Verbs: []string{"get"}}},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	}
	if _, err := rights.Roles(agentv1.Namespace).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rights.RoleBindings(agentv1.Namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for what, err := range map[string]error{
			"role":    rights.Roles(agentv1.Namespace).Delete(context.Background(), name, metav1.DeleteOptions{}),
			"binding": rights.RoleBindings(agentv1.Namespace).Delete(context.Background(), name, metav1.DeleteOptions{}),
		} {
			if err != nil {
				t.Errorf("deleting the %s %s: %v", what, name, err)
			}
		}
	})
}

// TestNetworkTelemetryRights tries everything with real tokens and the roles that are shipped.
func TestNetworkTelemetryRights(t *testing.T) {
	c := newCluster(t)
	c.withoutTelemetry(t)
	namespace := c.namespace(t)
	exporting := func(endpoint string) *v1alpha1.NetworkTelemetry {
		return &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NetworkTelemetryName}, Spec: v1alpha1.NetworkTelemetrySpec{
			SeriesLimit: ptr.To[int32](2000),
			Exporters: []v1alpha1.TelemetryExporter{{Name: "a", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics}, OTLP: &v1alpha1.OTLPExporter{
				Endpoint: endpoint, HeadersSecret: &v1alpha1.TelemetrySecretReference{Name: "networkobservability-telemetry-e2e"},
			}}},
		}}
	}
	if _, err := c.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Create(t.Context(), exporting("https://127.0.0.1:1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dry := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
	read := func(ctx context.Context, as *cluster) error { _, err := as.telemetry(ctx); return err }
	patch := func(body string, subresources ...string) func(context.Context, *cluster) error {
		return func(ctx context.Context, as *cluster) error {
			_, err := as.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Patch(ctx, v1alpha1.NetworkTelemetryName, types.MergePatchType, []byte(body), dry, subresources...)
			return err
		}
	}
	limit, elsewhere := patch(`{"spec": {"seriesLimit": 3000}}`), patch(
		`{"spec": {"exporters": [{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://127.0.0.1:2", "headersSecret": {"name": "networkobservability-telemetry-e2e"}}}]}}`)
	apply := func(ctx context.Context, as *cluster) error {
		force := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: "e2e", Force: ptr.To(true)}
		body := `{"apiVersion": "networkobservability.k8s.io/v1alpha1", "kind": "NetworkTelemetry", "spec": {"exporters": [{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://127.0.0.1:2"}}]}}`
		_, err := as.stats.NetworkobservabilityV1alpha1().NetworkTelemetries().Patch(ctx, v1alpha1.NetworkTelemetryName, types.ApplyPatchType, []byte(body), force)
		return err
	}
	const viewer, editor = "networkobservability-node-viewer", "networkobservability-telemetry-editor"
	for i, test := range []struct {
		name, role string
		secret     bool
		do         func(context.Context, *cluster) error
		says       string // empty: allowed
	}{
		{"read without the right", "", false, read, "cannot get resource"},
		{"read", viewer, false, read, ""},
		{"change as who reads", viewer, false, limit, "cannot patch resource"},
		{"change", editor, false, limit, ""},
		{"change the status", editor, true, patch(`{"status": {"nodes": {"total": 1}}}`, "status"), "cannot patch resource"},
		{"send a Secret elsewhere", editor, false, elsewhere, "needs the right to get secrets networkobservability-telemetry-e2e in namespace network-observability"},
		{"send a Secret elsewhere by applying", editor, false, apply, "needs the right to get secrets networkobservability-telemetry-e2e"},
		{"send a Secret elsewhere with the right", editor, true, elsewhere, ""},
		{"take a Secret away", editor, false, patch(`{"spec": {"exporters": null}}`), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			account := fmt.Sprintf("user-%d", i)
			as := c.user(t, namespace, account)
			if test.role != "" {
				c.allowEverywhere(t, namespace, account, test.role)
			}
			if test.secret {
				c.allowSecret(t, namespace, account, "networkobservability-telemetry-e2e")
			}
			// A right that is new takes up to 10 s to be seen where the lack of it was asked for before.
			eventually(t, podDeadline, "the answer", func(ctx context.Context) error {
				err := test.do(ctx, as)
				if test.says == "" {
					return err
				}
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.says) {
					return fmt.Errorf("answered %v, want 403 and %q", err, test.says)
				}
				return nil
			})
		})
	}
}
