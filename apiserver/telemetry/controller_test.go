package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

var web = map[string]string{"app": "web"}

const traffic, dns = agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC, agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS

// metricsOf are a group's of pods that a selector of namespaces chooses, if there is one.
func metricsOf(group v1alpha1.PodMetricGroup, namespaces map[string]string) v1alpha1.NetworkTelemetrySpec {
	of := v1alpha1.PodMetrics{Group: group}
	if namespaces != nil {
		of.Pods = &v1alpha1.TelemetryPods{NamespaceSelector: &metav1.LabelSelector{MatchLabels: namespaces}}
	}
	return v1alpha1.NetworkTelemetrySpec{PodMetrics: []v1alpha1.PodMetrics{of}}
}

// otlp sends metrics to a collector, with headers from a Secret.
func otlp(secret string) v1alpha1.NetworkTelemetrySpec {
	return v1alpha1.NetworkTelemetrySpec{Exporters: []v1alpha1.TelemetryExporter{{
		Name: "otlp", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics},
		OTLP: &v1alpha1.OTLPExporter{Endpoint: "https://collector:4317", HeadersSecret: &v1alpha1.TelemetrySecretReference{Name: secret}},
	}}}
}

// TestLife follows a NetworkTelemetry from its creation to its deletion, and pods that come and go meanwhile.
func TestLife(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.namespace("shop", map[string]string{"team": "a"})
	w.pod("n1", "a", web, "10.0.0.1")
	w.pod("n2", "b", web, "10.0.0.2")
	w.controller("one")
	n1, n2 := w.agents["n1"], w.agents["n2"]
	w.eventually("being told that there is none", n1.is(func() bool { return n1.config.GetRevision() == 1000 && len(n1.pods) == 1 }))

	w.apply(metricsOf(v1alpha1.PodTraffic, map[string]string{"team": "a"}))
	w.eventually("applying", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
	status := w.status()
	if status.Nodes != (v1alpha1.TelemetryNodes{Total: 2, Applied: 2}) || status.ObservedGeneration != 1 || w.condition(v1alpha1.TelemetryWithinLimits) != "True WithinLimits" {
		t.Errorf("the status is %+v", status)
	}
	w.eventually("the pods' groups", n1.is(func() bool { return slices.Equal(n1.pods["key-a"].GetGroups(), []agentv1.TelemetryGroupName{traffic}) }))

	// Namespaces and pods change.
	w.namespace("shop", map[string]string{"team": "b"})
	w.eventually("leaving the selection", n2.is(func() bool { return len(n2.pods["key-b"].GetGroups()) == 0 }))
	w.apply(metricsOf(v1alpha1.PodDNS, nil))
	w.eventually("other groups", n2.is(func() bool { return slices.Equal(n2.pods["key-b"].GetGroups(), []agentv1.TelemetryGroupName{dns}) }))

	// An address is asked for, its pod goes, another one gets it.
	address := netip.MustParseAddr("10.0.0.2")
	n1.with(func() { n1.wanted = [][]byte{address.AsSlice()} })
	w.eventually("the first owner", n1.is(func() bool { return n1.names[address] == "pod shop/b of Deployment/web" }))
	w.gone("n2", "b")
	w.pod("n1", "c", web, "10.0.0.2")
	w.eventually("the next owner", n1.is(func() bool { return strings.HasPrefix(n1.names[address], "pod shop/c of Deployment/web since ") }))
	w.eventually("the pods that are there", func() bool {
		return n2.is(func() bool { return len(n2.pods) == 0 })() && n1.is(func() bool { return len(n1.pods) == 2 })()
	})

	before := n1.config.GetRevision()
	w.delete()
	w.eventually("the end", n1.is(func() bool {
		return len(n1.config.GetGroups()) == 0 && n1.config.GetRevision() > before && len(n1.pods["key-a"].GetGroups()) == 0
	}))
	w.apply(metricsOf(v1alpha1.PodTraffic, nil))
	w.eventually("applying again", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
}

// TestTakeover: another replica goes on where the first one left off.
func TestTakeover(t *testing.T) {
	w := newWorld(t, "n1")
	w.pod("n1", "a", web, "")
	stop := w.controller("one")
	w.apply(metricsOf(v1alpha1.PodTraffic, nil))
	w.eventually("applying", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
	stop()
	n1 := w.agents["n1"]
	n1.mu.Lock()
	streams := n1.streams
	n1.mu.Unlock()
	w.controller("two")
	w.eventually("another stream", n1.is(func() bool { return n1.streams > streams && n1.named["key-a"] }))
	w.apply(metricsOf(v1alpha1.PodDNS, nil))
	w.eventually("the next spec", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
}

// TestTwoLeaders: two replicas think that they lead, and end each other's streams. What the agent does is always the spec.
func TestTwoLeaders(t *testing.T) {
	w := newWorld(t, "n1")
	n1 := w.agents["n1"]
	lead := func(identity string) (stop func()) {
		c := w.new(identity)
		return w.run(func(ctx context.Context) {
			var informers sync.WaitGroup
			informers.Go(func() { c.informer.RunWithContext(ctx) })
			informers.Go(func() { c.namespaces.informer.RunWithContext(ctx) })
			newTerm(c).run(ctx)
			informers.Wait()
		})
	}
	w.apply(metricsOf(v1alpha1.PodTraffic, nil))
	lead("one")
	stop := lead("two")
	w.eventually("a stream that another one ends", n1.is(func() bool { return n1.streams >= 4 && n1.config.GetGeneration() == 1 }))
	w.apply(metricsOf(v1alpha1.PodDNS, nil))
	w.eventually("the next spec", n1.is(func() bool { return n1.config.GetGeneration() == 2 }))
	stop()
	w.apply(metricsOf(v1alpha1.PodTraffic, nil))
	w.eventually("the one that is left", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
}

// TestAgents: agents restart, come, go, and are too old.
func TestAgents(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.secret("keys", map[string]string{"authorization": "Bearer one"})
	w.pod("n1", "a", web, "")
	registry := metrics.NewKubeRegistry()
	w.controller("one", func(cfg *Config) { cfg.Register = registry.Register })
	w.apply(otlp("keys"))
	w.eventually("applying", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })

	n1 := w.agents["n1"]
	n1.stop()
	w.eventually("missing it", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "False NodesUnreachable" })
	if status := w.status(); len(status.Problems) != 1 || status.Problems[0].Node != "n1" || status.Nodes.Applied != 1 || status.Nodes.WithProblems != 1 {
		t.Errorf("the status is %+v", status)
	}
	n1.start()
	w.eventually("its return", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
	w.eventually("headers, which it does not keep", n1.is(func() bool { return n1.config.Exporters[0].GetOtlp().Headers["authorization"] == "Bearer one" }))
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
		# HELP networkobservability_apiserver_telemetry_nodes [ALPHA] Nodes that have agents, by whether the NetworkTelemetry is in force there: applied, refused (or not known to the agent), unreachable (or not answered yet). Only the replica that leads shows them.
		# TYPE networkobservability_apiserver_telemetry_nodes gauge
		networkobservability_apiserver_telemetry_nodes{state="applied"} 2
		networkobservability_apiserver_telemetry_nodes{state="refused"} 0
		networkobservability_apiserver_telemetry_nodes{state="unreachable"} 0
	`), "networkobservability_apiserver_telemetry_nodes"); err != nil {
		w.eventually("the gauges", func() bool { return strings.Contains(gathered(t, registry), `telemetry_nodes{state="applied"} 2`) })
	}

	n3 := w.agent("n3")
	w.eventually("a node that comes", n3.is(func() bool { return n3.config.GetGeneration() == 1 }))
	w.mu.Lock()
	delete(w.agents, "n3")
	w.mu.Unlock()
	w.eventually("a node that goes", func() bool { return w.status().Nodes.Total == 2 })

	n1.mu.Lock()
	n1.old = true
	n1.mu.Unlock()
	n1.stop()
	w.eventually("an old agent", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "False AgentsTooOld" })
	if problems := w.status().Problems; len(problems) != 1 || problems[0].Message != "the agent does not know telemetry, version v0.4.0" {
		t.Errorf("the problems are %+v", problems)
	}
}

func gathered(t *testing.T, registry metrics.KubeRegistry) string {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	var all strings.Builder
	for _, family := range families {
		for _, metric := range family.Metric {
			labels := ""
			for _, label := range metric.Label {
				labels += fmt.Sprintf("{%s=%q}", label.GetName(), label.GetValue())
			}
			fmt.Fprintf(&all, "%s%s %v\n", family.GetName(), labels, metric.GetGauge().GetValue()+metric.GetCounter().GetValue())
		}
	}
	return all.String()
}

// TestSecrets: headers are read again, and their values are nowhere but on the wire.
func TestSecrets(t *testing.T) {
	var log syncBuffer
	klog.LogToStderr(false)
	klog.SetOutput(&log)
	t.Cleanup(func() { klog.LogToStderr(true); klog.SetOutput(nil) })
	const canary, next = "canary-5e0c1a77d2", "canary-99b31f04ac"

	w := newWorld(t, "n1")
	n1 := w.agents["n1"]
	registry := metrics.NewKubeRegistry()
	w.controller("one", func(cfg *Config) { cfg.Register = registry.Register })
	w.apply(otlp("keys"))
	problem := func(text string) func() bool {
		return n1.is(func() bool {
			exporters := n1.config.GetExporters()
			return len(exporters) == 1 && exporters[0].GetOtlp().Problem == text && exporters[0].GetOtlp().NeedsHeaders
		})
	}
	w.eventually("the missing Secret", problem("there is no Secret keys in namespace network-observability: make it, it is looked for every minute"))
	revision := n1.config.GetRevision()
	w.secret("keys", map[string]string{"Authorization": "Bearer " + canary + "\n"})
	header := func(value string) func() bool {
		return n1.is(func() bool { return n1.config.GetExporters()[0].GetOtlp().Headers["authorization"] == "Bearer "+value })
	}
	w.eventually("the Secret", header(canary))
	n1.with(func() {
		n1.exporters = []*agentv1.TelemetryExporterState{{Name: "otlp", Failing: true, Message: "401: token " + canary + " is not known", Dropped: 7}}
	})
	w.eventually("the failure", func() bool { return w.condition(v1alpha1.TelemetryExporting) == "False ExportersFailing" })
	if status := w.status(); status.Exporters[0].Message != "n1: 401: token [header] is not known" || status.Exporters[0].Dropped != 7 {
		t.Errorf("the exporter is %+v", status.Exporters[0])
	}
	w.secret("keys", map[string]string{"authorization": "Bearer " + next})
	w.eventually("the rotated Secret", header(next))
	w.secret("keys", map[string]string{"authorization": "Bearer " + next, "content-type": canary})
	w.eventually("the bad Secret", problem(`the Secret keys has a key "content-type", which is a header that the protocol sets itself`))
	n1.mu.Lock()
	if n1.config.GetRevision() != revision {
		t.Errorf("the revision went from %d to %d, for a Secret", revision, n1.config.GetRevision())
	}
	n1.mu.Unlock()
	n1.with(func() { n1.exporters = []*agentv1.TelemetryExporterState{{Name: "otlp", Reaching: true, Sent: 1}} })
	w.eventually("reaching it", func() bool { return w.condition(v1alpha1.TelemetryExporting) == "True AllReaching" })

	w.mu.Lock()
	stored, err := json.Marshal(w.store.object)
	w.mu.Unlock()
	must(t, err)
	for where, text := range map[string]string{"the object": string(stored), "metrics": gathered(t, registry), "the log": log.String()} {
		if strings.Contains(text, "canary-") {
			t.Errorf("a header's value is in %s", where)
		}
	}
}

// A syncBuffer is what was logged.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestHeaders: a Secret has headers, or a reason why not.
func TestHeaders(t *testing.T) {
	for want, data := range map[string]map[string]string{
		"": {"authorization": "Bearer x", "x.y_z-1": "a b"},
		"the Secret s has no keys, each of which would be a header":                                     {},
		`the Secret s has a key "grpc-timeout", which is a header that the protocol sets itself`:        {"grpc-timeout": "1"},
		`the Secret s has a key "trace-bin", which gRPC would take for binary`:                          {"trace-bin": "1"},
		`the Secret s has a key "a b", which is no name of a header`:                                    {"a b": "1"},
		`the Secret s has the header "x" twice: upper and lower case are the same`:                      {"x": "1", "X": "2"},
		`the Secret s has a value under "x" that no header can have: only printable ASCII, on one line`: {"x": "1\r\ninjected: 2"},
		`the Secret s has more than 16384 bytes of headers`:                                             {"x": strings.Repeat("a", 20_000)},
	} {
		object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{}}
		for key, value := range data {
			object.Data[key] = []byte(value)
		}
		got := headersOf(object)
		if got.problem != want || (want == "") != (len(got.headers) == len(data) && len(data) > 0) {
			t.Errorf("got %q, want %q", got.problem, want)
		}
	}
}

// TestOwnSecrets: the keys of authorities are not read, whatever the spec says.
func TestOwnSecrets(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]string{
		agentv1.CAConfigMapName:               "the Secret networkobservability-ca is this program's own by its name and cannot be used",
		"networkobservability-telemetry":      "",
		"networkobservability-telemetry-loki": "",
		"missing":                             "there is no Secret missing in namespace network-observability: make it, it is looked for every minute",
	} {
		if name != "missing" {
			w.secret(name, map[string]string{"authorization": "x"})
		}
		if got := readSecret(t.Context(), w.kube, use{name: name}, epoch); got.problem != want || (want == "") != (len(got.headers) == 1) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	refuse := func(err error) clienttesting.ReactionFunc {
		return func(clienttesting.Action) (bool, apiruntime.Object, error) { return true, nil, err }
	}
	w.kube.PrependReactor("get", "secrets", refuse(apierrors.NewForbidden(corev1.Resource("secrets"), "a", nil)))
	if got := readSecret(t.Context(), w.kube, use{name: "a"}, epoch); got.problem != "the API server may not get the Secret a: allow it by a Role in namespace network-observability" {
		t.Errorf("got %+v", got)
	}
	// A host that does not answer changes nothing of what is known.
	w.kube.PrependReactor("get", "secrets", refuse(apierrors.NewInternalError(errors.New("no"))))
	object := &v1alpha1.NetworkTelemetry{Spec: otlp("a")}
	known := secret{headers: map[string]string{"x": "y"}}
	if got := readSecrets(t.Context(), w.kube, object, epoch, map[use]secret{{name: "a"}: known})[use{name: "a"}]; !got.equal(known) {
		t.Errorf("got %+v", got)
	}
	if got := readSecrets(t.Context(), w.kube, object, epoch, nil)[use{name: "a"}]; !got.unread || got.problem == "" {
		t.Errorf("got %+v", got)
	}
}

// TestCrowd: a thousand nodes take two goroutines each, beside those of their streams, and all are told.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand nodes take a while")
	}
	w := newWorld(t)
	crowd := newMemoryAgents(1000)
	for _, node := range crowd.Nodes() {
		w.pod(node, "a-"+node, web, "")
	}
	before := runtime.NumGoroutine()
	stop := w.controller("one", func(cfg *Config) { cfg.Agents, cfg.Clock = crowd, nil })
	w.apply(metricsOf(v1alpha1.PodTraffic, nil))
	w.eventually("applying", func() bool { return w.condition(v1alpha1.TelemetryApplied) == "True AppliedEverywhere" })
	if status := w.status(); status.Nodes.Applied != 1000 {
		t.Errorf("the status is %+v", status.Nodes)
	}
	if more := runtime.NumGoroutine() - before; more > 2*1000+100 {
		t.Errorf("there are %d goroutines more", more)
	}
	w.eventually("everybody's pod", func() bool { return crowd.pods() == 1000 })
	stop()
	w.eventually("the end", func() bool { return runtime.NumGoroutine() <= before+5 })
}
