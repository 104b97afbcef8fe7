package networktelemetry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// ways of creating: all have to be decided about in the same way.
func (w *world) ways() map[string]func(query, spec string) answer {
	return map[string]func(string, string) answer{"create": w.create, "apply": w.apply}
}

func TestCreate(t *testing.T) {
	for _, how := range []string{"create", "apply"} {
		w := newWorld(t)
		const spec = "{podMetrics: [{group: Traffic, labels: [Port]}], exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://c:4317'}}]}"
		if got := w.ways()[how]("dryRun=All", spec).telemetry(t); got.Generation != 1 || *got.Spec.SeriesLimit != 50_000 {
			t.Errorf("%s: a dry run answers %+v", how, got)
		}
		w.do(http.MethodGet, one, "", "").refused(t, how+": after a dry run", http.StatusNotFound)
		answered := w.ways()[how]("", spec)
		got := answered.telemetry(t)
		otlp := got.Spec.Exporters[0].OTLP
		if got.Generation != 1 || got.UID == "" || *got.Spec.PodMetrics[0].LabelValuesLimit != 50 || otlp.Protocol != v1alpha1.OTLPGRPC || *otlp.QueueMebibytes != 8 {
			t.Errorf("%s: %+v", how, got)
		}
		if len(answered.warnings) > 0 || len(w.asked) > 0 {
			t.Errorf("%s: warned %q, asked %q", how, answered.warnings, w.asked)
		}
		if stored := w.do(http.MethodGet, one, "", "").telemetry(t); stored.UID != got.UID {
			t.Errorf("%s: stored %+v", how, stored)
		}
	}
}

// TestRefused: what is wrong is said with its field, however it comes, and nothing is stored.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	w.deny("keys")
	for spec, says := range map[string][]string{
		"{seriesLimit: 1, podMetrics: [{group: TCP, labels: [Port]}]}": {"spec.seriesLimit: Invalid value: 1", "spec.podMetrics[0].labels: Forbidden: group TCP has no labels"},
		// What is wrong is said before what is not allowed.
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'http://c:4317', headersSecret: {name: keys}}}]}":                     {"spec.exporters[0].otlp.headersSecret: Forbidden: would be sent in the clear"},
		"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://c:4317', headersSecret: {name: networkobservability-ca}}}]}": {"spec.exporters[0].otlp.headersSecret.name: Forbidden"},
	} {
		for how, create := range w.ways() {
			for _, query := range []string{"", "dryRun=All"} {
				create(query, spec).refused(t, how+" "+spec, 422, says...)
			}
		}
	}
	if len(w.asked) > 0 {
		t.Errorf("asked %q", w.asked)
	}
	w.do(http.MethodPost, all, text, manifest("default", "{}")).refused(t, "another name", 422, `metadata.name: Invalid value: "default": must be "cluster": a cluster has one NetworkTelemetry`)
	w.do(http.MethodPost, all, text, strings.Replace(manifest("x", "{}"), "name:", "generateName:", 1)).refused(t, "a generated name", 422, `must be "cluster"`)
	w.create("fieldValidation=Strict", "{podMetric: []}").refused(t, "an unknown field", 400, `unknown field "spec.podMetric"`)
	w.do(http.MethodGet, one, "", "").refused(t, "what was refused", 404)
	w.create("", "{}").telemetry(t)
	w.create("", "{}").refused(t, "a second one", 409)
	w.create("dryRun=All", "{}").refused(t, "a dry run of a second one", 409)
}

func TestWarnings(t *testing.T) {
	w := newWorld(t)
	if got := w.create("fieldValidation=Warn", "{flowLogs: {}, podMetric: []}"); len(got.warnings) != 2 || !strings.Contains(got.warnings[0], `unknown field`) || !strings.HasPrefix(got.warnings[1], "spec.flowLogs: no exporter has FlowLogs") {
		t.Errorf("warned %q", got.warnings)
	}
	if got := w.patch(`{"spec": {"seriesLimit": 500}}`); len(got.warnings) != 1 {
		t.Errorf("a change warned %q", got.warnings)
	}
	if got := w.do(http.MethodPatch, one+"/status", merged, `{"status": {"nodes": {"total": 1}}}`); len(got.warnings) != 0 || got.code != 200 {
		t.Errorf("a status answered %d, warned %q", got.code, got.warnings)
	}
}

const exporting = `{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: "https://c:4317", headersSecret: {name: keys}}}]}`

// TestSecretsOfAnExporter: each Secret is asked for, and the one that is not allowed is named with its field.
func TestSecretsOfAnExporter(t *testing.T) {
	w := newWorld(t)
	w.deny("pair")
	const both = `{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: "https://c:4317", headersSecret: {name: keys}, clientCertificateSecret: {name: pair}}}]}`
	for how, write := range w.ways() {
		write("", both).refused(t, how, 403,
			"spec.exporters[0].otlp.clientCertificateSecret: what is in the Secret is used at the endpoint in your name; this needs the right to get secrets pair in namespace network-observability")
		if want := []string{"alice: get secrets network-observability/keys", "alice: get secrets network-observability/pair"}; !slices.Equal(w.asked, want) {
			t.Errorf("%s: asked %q", how, w.asked)
		}
		w.deny("pair")
	}
}

// TestSecret: who lets a Secret be sent somewhere has to be allowed to read it, however the exporter came to be so.
func TestSecret(t *testing.T) {
	const denied = "spec.exporters[0].otlp.headersSecret: what is in the Secret is used at the endpoint in your name; this needs the right to get secrets keys in namespace network-observability"
	for _, how := range []string{"create", "apply"} {
		w := newWorld(t)
		w.deny("keys")
		for _, query := range []string{"", "dryRun=All"} {
			w.ways()[how](query, exporting).refused(t, how, 403, denied)
		}
		w.deny()
		w.broken = true
		w.ways()[how]("", exporting).refused(t, how+", when nobody knows", 503, "asking for the right to get secrets keys", "nobody answers")
		w.broken = false
		w.deny()
		w.ways()[how]("", exporting).telemetry(t)
		if want := []string{"alice: get secrets network-observability/keys"}; !slices.Equal(w.asked, want) {
			t.Errorf("%s: asked %q", how, w.asked)
		}
	}
}

func TestSecretOfChange(t *testing.T) {
	exporters := func(text string) string { return `{"spec": {"exporters": [` + text + `]}}` }
	for name, test := range map[string]struct {
		patch  string
		denied bool
	}{
		"endpoint":          {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://evil:4317", "headersSecret": {"name": "keys"}}}`), true},
		"protocol and path": {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317/evil", "protocol": "HTTP", "headersSecret": {"name": "keys"}}}`), true},
		"server name":       {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "serverName": "evil", "headersSecret": {"name": "keys"}}}`), true},
		"signals":           {`{"spec": {"flowLogs": {}, "exporters": [{"name": "a", "signals": ["FlowLogs"], "otlp": {"endpoint": "https://c:4317", "headersSecret": {"name": "keys"}}}]}}`, true},
		"name":              {exporters(`{"name": "b", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "headersSecret": {"name": "keys"}}}`), true},
		"one more": {exporters(`{"name": "b", "signals": ["Metrics"], "otlp": {"endpoint": "https://evil:4317", "headersSecret": {"name": "keys"}}},
			{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "headersSecret": {"name": "keys"}}}`), true},
		"client certificate": {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "headersSecret": {"name": "other"}, "clientCertificateSecret": {"name": "keys"}}}`), true},
		"pace":               {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "compression": "None", "intervalSeconds": 5, "timeoutSeconds": 1, "queueMebibytes": 1, "headersSecret": {"name": "keys"}}}`), false},
		"no Secret":          {exporters(`{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://evil:4317"}}`), false},
		"gone":               {`{"spec": {"exporters": null}}`, false},
		"others":             {`{"spec": {"seriesLimit": 500, "podMetrics": [{"group": "TCP"}]}}`, false},
		"label":              {`{"metadata": {"labels": {"a": "b"}}}`, false},
		"other order": {exporters(`{"name": "c", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317"}},
			{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://c:4317", "headersSecret": {"name": "keys"}}}`), false},
	} {
		w := newWorld(t)
		w.create("", exporting).telemetry(t)
		w.deny("keys")
		got := w.patch(test.patch)
		switch {
		case test.denied:
			got.refused(t, name, 403, "the right to get secrets keys in namespace network-observability")
			if now := w.do(http.MethodGet, one, "", "").telemetry(t); now.Generation != 1 || strings.Contains(now.Spec.Exporters[0].OTLP.Endpoint, "evil") {
				t.Errorf("%s: refused, and yet %+v", name, now.Spec)
			}
		case got.code != http.StatusOK || len(w.asked) > 0:
			t.Errorf("%s: answered %d, asked %q: %s", name, got.code, w.asked, got.body)
		}
	}
	// Taking the Secret away and putting it back in two steps does not get round it, nor does applying or putting.
	w := newWorld(t)
	w.apply("", exporting).telemetry(t)
	w.deny("keys")
	evil := strings.Replace(exporting, "//c:", "//evil:", 1)
	w.apply("", evil).refused(t, "applied", 403)
	w.do(http.MethodPut, one, text, manifest("cluster", evil)).refused(t, "put", 403)
	w.apply("", "{}").telemetry(t)
	w.apply("", exporting).refused(t, "put back", 403)
	w.do(http.MethodPatch, one+"/status", merged, `{"spec": `+`{"exporters": [{"name": "a", "signals": ["Metrics"], "otlp": {"endpoint": "https://evil:4317", "headersSecret": {"name": "keys"}}}]}}`).telemetry(t)
	if got := w.do(http.MethodGet, one, "", "").telemetry(t); len(got.Spec.Exporters) > 0 {
		t.Errorf("by way of the status came %+v", got.Spec.Exporters)
	}
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	const spec = "{podMetrics: [{group: Traffic, labels: [Port]}], exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://c:4317'}}]}"
	created := w.apply("", spec).telemetry(t)
	if got := w.apply("", spec).telemetry(t); got.ResourceVersion != created.ResourceVersion {
		t.Error("applying the same again changed something")
	}
	// Nor does it in another second than the first time.
	earlier := w.do(http.MethodPatch, one, "application/json-patch+json", `[
		{"op": "replace", "path": "/metadata/managedFields/0/time", "value": "2020-01-01T00:00:00Z"},
		{"op": "add", "path": "/metadata/labels", "value": {"c": "d"}}]`).telemetry(t)
	if at := earlier.ManagedFields[0].Time; at.Year() != 2020 {
		t.Fatalf("managed since %s", at)
	}
	if got := w.apply("", spec).telemetry(t); got.ResourceVersion != earlier.ResourceVersion {
		t.Error("applying the same again, later, changed something")
	}
	got := w.patch(`{"metadata": {"labels": {"a": "b"}, "generation": 7}, "status": {"nodes": {"total": 5}}}`).telemetry(t)
	if got.Generation != 1 || got.Labels["a"] != "b" || got.Status.Nodes.Total != 0 {
		t.Errorf("changed to %+v", got)
	}
	if got := w.patch(`{"spec": {"seriesLimit": 500}}`).telemetry(t); got.Generation != 2 || *got.Spec.SeriesLimit != 500 {
		t.Errorf("changed to %+v", got)
	}
	w.patch(`{"spec": {"seriesLimit": 5}}`).refused(t, "a wrong change", 422, "spec.seriesLimit: Invalid value: 5: must be 100 to 1000000 series")
	// Null is the default again.
	if got := w.patch(`{"spec": {"seriesLimit": null}}`).telemetry(t); got.Generation != 3 || *got.Spec.SeriesLimit != 50_000 {
		t.Errorf("changed to %+v", got)
	}
	// What defaults left behind is in nobody's way: labels go, and an exporter goes elsewhere.
	got = w.apply("", "{flowLogs: {}, podMetrics: [{group: Traffic}], exporters: [{name: a, signals: [FlowLogs], file: {}}]}").telemetry(t)
	if to := got.Spec.Exporters[0]; to.OTLP != nil || *to.File.MaxFiles != 5 || len(got.Spec.PodMetrics[0].Labels) > 0 {
		t.Errorf("applied: %+v", got.Spec)
	}
	for _, entry := range got.ManagedFields {
		if owned := entry.FieldsV1.GetRawString(); strings.Contains(owned, "f:status") {
			t.Errorf("%s owns %s", entry.Manager, owned)
		}
	}
	if got := w.do(http.MethodDelete, one, "", ""); got.code != http.StatusOK {
		t.Errorf("deleting answered %d: %s", got.code, got.body)
	}
	w.do(http.MethodPut, one, text, manifest("cluster", "{}")).refused(t, "putting what is not there", 404)
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	created := w.create("", "{}").telemetry(t)
	status := func(body string) answer { return w.do(http.MethodPatch, one+"/status", merged, body) }
	got := status(`{"metadata": {"labels": {"a": "b"}}, "spec": {"seriesLimit": 500}, "status": {"observedGeneration": 1, "nodes": {"total": 3, "applied": 2},
		"conditions": [{"type": "Applied", "status": "False", "reason": "NodesBehind", "message": "", "lastTransitionTime": "2026-11-23T10:00:00Z"}]}}`).telemetry(t)
	if got.Status.Nodes.Applied != 2 || *got.Spec.SeriesLimit != 50_000 || got.Labels["a"] != "" || got.Generation != 1 {
		t.Errorf("changed to %+v", got)
	}
	if got.ResourceVersion == created.ResourceVersion {
		t.Error("the version is the same")
	}
	status(`{"status": {"nodes": {"total": -1}}}`).refused(t, "a wrong status", 422, "status.nodes.total: Invalid value: -1: must not be negative")
	// Applied by somebody else, it keeps what others own.
	if got := w.do(http.MethodPatch, one+"/status?fieldManager=controller&force=true", applied,
		"{apiVersion: networkobservability.k8s.io/v1alpha1, kind: NetworkTelemetry, metadata: {name: cluster}, status: {exporters: [{name: a, reaching: 1, failing: 0, sent: 5, dropped: 0}]}}").telemetry(t); len(got.Status.Exporters) != 1 || got.Status.Nodes.Total != 3 {
		t.Errorf("applied: %+v", got.Status)
	}
	if got := w.patch(`{"spec": {"seriesLimit": 600}}`).telemetry(t); got.Status.Nodes.Total != 3 || got.Generation != 2 {
		t.Errorf("a change of the spec made %+v", got)
	}
	w.do(http.MethodPatch, all+"/nope/status?fieldManager=a", applied, manifest("nope", "{}")).refused(t, "the status of nothing", 404)
}

func TestFieldSelectors(t *testing.T) {
	w := newWorld(t)
	w.create("", "{}").telemetry(t)
	for selector, want := range map[string]int{"metadata.name=cluster": 1, "metadata.name!=cluster": 0, "metadata.name=other": 0} {
		var list v1alpha1.NetworkTelemetryList
		if err := json.Unmarshal([]byte(w.do(http.MethodGet, all+"?fieldSelector="+url.QueryEscape(selector), "", "").body), &list); err != nil || len(list.Items) != want {
			t.Errorf("%s chooses %d (%v)", selector, len(list.Items), err)
		}
	}
	w.do(http.MethodGet, all+"?fieldSelector=spec.seriesLimit%3D1", "", "").refused(t, "another field", 400, "is not a field that NetworkTelemetry can be selected by")
}

// TestDiscovery: one word each for kubectl, and the verbs that roles name.
func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	got := w.do(http.MethodGet, "/apis/networkobservability.k8s.io/v1alpha1", "", "").body
	const want = `{"name":"networktelemetries","singularName":"networktelemetry","namespaced":false,"kind":"NetworkTelemetry","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["ntel"]`
	if !strings.Contains(got, want) || !strings.Contains(got, `{"name":"networktelemetries/status"`) || strings.Contains(got, "categories") {
		t.Errorf("discovery answers %s", got)
	}
}

// TestManyAtOnce: of many that create at once one does, and changes are not lost.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var running sync.WaitGroup
	created := 0
	for range 10 {
		running.Go(func() {
			if got := w.create("", exporting); got.code == http.StatusCreated {
				mu.Lock()
				created++
				mu.Unlock()
			}
			w.apply("", exporting)
			w.do(http.MethodGet, one, "", "").telemetry(t)
		})
	}
	running.Wait()
	if created != 1 {
		t.Errorf("%d were created", created)
	}
}

// TestExamples: what docs/telemetry.md shows can be applied as it is.
func TestExamples(t *testing.T) {
	documentation, err := os.ReadFile("../../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(documentation), "```yaml\n")[1:]
	if len(examples) == 0 {
		t.Fatal("there are no examples")
	}
	w := newWorld(t)
	for _, example := range examples {
		example, _, _ = strings.Cut(example, "```")
		if got := w.do(http.MethodPatch, one+"?fieldManager=test&fieldValidation=Strict", applied, example); got.code >= 300 || len(got.warnings) > 0 {
			t.Errorf("answered %d, warned %q: %s\n%s", got.code, got.warnings, got.body, example)
		}
	}
}
