package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// alertDeadline is for an alert to fire, or to end: windows are of 10 seconds here.
const alertDeadline = 60 * time.Second

// emptyInPeace are queries of boards that have no data while all is well, by a part of them, with why. Those that
// inIncidents names have some in the incidents that are played here, the others in promtool's tests (rules/tests/boards.yaml).
var emptyInPeace = map[string]string{
	"_collector_up":        "only collectors that miss something are asked for",
	"_lost_events_total":   "only stages that lose something are asked for",
	"dns_name_":            "the label DNSName is not asked for",
	"bypassed":             "nobody passes by the hooks",
	"queue_dropped":        "queues of these interfaces count nothing",
	`result="failed"`:      "every connection of a pod to the Kubernetes API succeeds",
	"capture_stream":       "nobody reads a capture",
	"_exporter_":           "nothing is exported",
	"_ip_errors_total":     "only what is above 0 is asked for",
	"_udp_errors_total":    "only what is above 0 is asked for",
	"_tcp_events_total":    "only what is above 0 is asked for",
	"max_rate5m_past":      "there is no past yet",
	"socket_memory_limit_": "the kernel tells its limits in the machine's first network namespace only",
}

var inIncidents = []string{"_exporter_", "_lost_events_total", `result="failed"`, "max_rate5m_past"}

// TestMonitoring has a real Prometheus scrape the cluster as artifacts/monitoring says, asks everything that the boards
// ask, makes incidents, and sees each alert fire and end. It disturbs the whole cluster, so it runs alone.
func TestMonitoring(t *testing.T) {
	c := newCluster(t)
	rules := shortRules(t)
	c.applyTelemetry(t)
	b := newStage(t, c)
	p := c.startPrometheus(t, rules)
	t.Run("targets", func(t *testing.T) { c.checkTargets(t, p) })
	t.Run("promtool check metrics", func(t *testing.T) { c.checkMetrics(t) })
	t.Run("queries", func(t *testing.T) { c.checkQueries(t, p) })
	seen := watchAlerts(t, p)
	t.Run("incidents", func(t *testing.T) { b.incidents(t, seen) })
	t.Run("limits", func(t *testing.T) { b.limits(t, seen) })
	t.Run("silence", func(t *testing.T) { b.silence(t, seen) })
	t.Run("agents", func(t *testing.T) { b.replaceAgents(t, seen) })
	t.Run("every alert", func(t *testing.T) { checkAlerts(t, p, seen) })
}

// applyTelemetry has agents offer what the boards and alerts need, until the test ends.
func (c *cluster) applyTelemetry(t *testing.T) {
	t.Helper()
	const file = monitoring + "/networktelemetry.yaml"
	c.kubectl(t, "apply", "-f", file)
	t.Cleanup(func() {
		if out, err := c.kubectlCommand(context.Background(), "delete", "-f", file, "--ignore-not-found").CombinedOutput(); err != nil {
			t.Errorf("deleting the NetworkTelemetry: %v: %s", err, out)
		}
	})
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")
}

// checkTargets demands that every agent and every API server is scraped, and with which labels.
func (c *cluster) checkTargets(t *testing.T, p prometheus) {
	var data struct {
		ActiveTargets []struct {
			Labels            map[string]string
			Health, LastError string
		}
	}
	if err := p.get(t.Context(), "targets", &data); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, target := range data.ActiveTargets {
		if target.Health != "up" {
			t.Errorf("%v is %s: %s", target.Labels, target.Health, target.LastError)
		}
		found[target.Labels["job"]]++
		if node := target.Labels["node"]; target.Labels["job"] == "networkobservability-nodeagent" && !slices.Contains(c.nodes(t), node) {
			t.Errorf("an agent's node is %q", node)
		}
	}
	if found["networkobservability-nodeagent"] != len(c.nodes(t)) || found["networkobservability-apiserver"] != len(c.servers(t)) {
		t.Errorf("targets are %v", found)
	}
}

// scraper is the token of Prometheus' service account, and an HTTP client that checks servers as Prometheus does.
func (c *cluster) scraper(t *testing.T, serverName string) (client *http.Client, token string) {
	t.Helper()
	folder := filepath.Join(c.output, "prometheus")
	bundle, err := os.ReadFile(filepath.Join(folder, "serving-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	read, err := os.ReadFile(filepath.Join(folder, "token"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatal("the bundle has no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: answerDeadline}, strings.TrimSpace(string(read))
}

// checkMetrics has promtool judge the text that agents and API servers offer; of the API server's only what is ours.
// Without a token there is none.
func (c *cluster) checkMetrics(t *testing.T) {
	for component, at := range map[string]struct{ address, serverName, prefix string }{
		"agent": {net.JoinHostPort(c.agents(t)[c.nodes(t)[0]].Status.HostIP, strconv.Itoa(agentv1.MetricsPort)), agentv1.MetricsDNSName, ""},
		"API server": {
			net.JoinHostPort(c.servers(t)[0].Status.PodIP, "10250"), "networkobservability-apiserver." + agentv1.Namespace + ".svc", "networkobservability_",
		},
	} {
		client, token := c.scraper(t, at.serverName)
		fetch := func(token string) (int, string) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+at.address+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				request.Header.Set("Authorization", "Bearer "+token)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatalf("%s: %v", component, err)
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatalf("%s: %v", component, err)
			}
			return response.StatusCode, string(text)
		}
		if status, _ := fetch(""); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("%s: without a token the status is %d", component, status)
		}
		status, text := fetch(token)
		if status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", component, status, text)
		}
		cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput() // its exit code is not 0 when it finds something, neighbours' metrics included
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, at.prefix) {
				t.Errorf("%s: promtool: %s", component, strings.TrimSpace(line))
			}
		}
		if at.prefix == "" && err != nil {
			t.Errorf("%s: promtool: %v", component, err)
		}
	}
}

// checkQueries demands that every query of every board is answered, with data.
func (c *cluster) checkQueries(t *testing.T, p prometheus) {
	queries := boardQueries(t)
	empty := maps.Clone(queries)
	reason := func(expr string) string {
		for part := range emptyInPeace {
			if strings.Contains(expr, part) {
				return part
			}
		}
		return ""
	}
	eventually(t, alertDeadline, "data for every query of every board", func(ctx context.Context) error {
		c.kubectl(t, "get", "podnetworkstats", "--all-namespaces") // somebody has to read for there to be reads
		for where, expr := range empty {
			samples, err := p.query(ctx, expr)
			if err != nil {
				return fmt.Errorf("%s: %w", where, err)
			}
			if len(samples) > 0 {
				delete(empty, where)
			}
		}
		for where, expr := range empty {
			if reason(expr) == "" {
				return fmt.Errorf("none for %s: %s", where, expr)
			}
		}
		return nil
	})
	unused, proven := maps.Clone(emptyInPeace), provenQueries(t)
	for where, expr := range empty {
		if !slices.Contains(inIncidents, reason(expr)) && !proven[ofAnyWindow(expr)] {
			t.Errorf("%s has no data here, and no test in rules/tests/boards.yaml shows that it ever has: %s", where, expr)
		}
		t.Logf("no data, since %s: %s", emptyInPeace[reason(expr)], where)
		delete(unused, reason(expr))
	}
	for part, why := range unused {
		t.Logf("everything with %q has data, though %s", part, why)
	}
	t.Logf("%d of %d queries have data; the others need an incident", len(queries)-len(empty), len(queries))
}

// provenQueries are the queries of which promtool's tests see data, of any window.
func provenQueries(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(monitoring + "/rules/tests/boards.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Exprs []struct {
				Expr    string
				Samples []any `json:"exp_samples"`
			} `json:"promql_expr_test"`
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	proven := map[string]bool{}
	for _, test := range file.Tests {
		for _, one := range test.Exprs {
			if len(one.Samples) > 0 {
				proven[ofAnyWindow(one.Expr)] = true
			}
		}
	}
	return proven
}

// ofAnyWindow is a query without the lengths of its windows, which are shorter here than in promtool's tests.
func ofAnyWindow(expr string) string {
	return regexp.MustCompile(`\[\d+[smh]\]`).ReplaceAllString(expr, "[]")
}

// checkIncidentQueries demands data for the queries of boards that have some only while incidents are played.
func checkIncidentQueries(t *testing.T, p prometheus) {
	t.Helper()
	eventually(t, alertDeadline, "data for the queries about incidents", func(ctx context.Context) error {
		for where, expr := range boardQueries(t) {
			if !slices.ContainsFunc(inIncidents, func(part string) bool { return strings.Contains(expr, part) }) {
				continue
			}
			if samples, err := p.query(ctx, expr); err != nil || len(samples) == 0 {
				return fmt.Errorf("none for %s: %s: %v", where, expr, err)
			}
		}
		return nil
	})
}

// A record of alerts is what was seen of them, by name.
type record struct {
	t  *testing.T
	p  prometheus
	mu sync.Mutex
	// fired are alerts that fired at some time, active those that fire or are pending now.
	fired, active []alert
}

// watchAlerts notes alerts until the test ends: some end by themselves.
func watchAlerts(t *testing.T, p prometheus) *record {
	r := &record{t: t, p: p}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if alerts, err := p.alerts(ctx); err == nil {
				r.note(alerts)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *record) note(alerts []alert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = alerts
	for _, one := range alerts {
		if one.State == "firing" && !slices.ContainsFunc(r.fired, func(a alert) bool { return maps.Equal(a.Labels, one.Labels) }) {
			r.fired = append(r.fired, one)
		}
	}
}

// matches says whether an alert has a name, and labels in the form label=value.
func (a alert) matches(name string, labels []string) bool {
	return a.Labels["alertname"] == name && !slices.ContainsFunc(labels, func(want string) bool {
		label, value, _ := strings.Cut(want, "=")
		return a.Labels[label] != value
	})
}

// forget forgets that an alert fired, so that it has to fire again.
func (r *record) forget(name string, labels ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fired = slices.DeleteFunc(r.fired, func(a alert) bool { return a.matches(name, labels) })
}

// awaitFiring waits until an alert has fired.
func (r *record) awaitFiring(t *testing.T, name string, labels ...string) {
	t.Helper()
	eventually(t, alertDeadline, fmt.Sprintf("%s %v to fire", name, labels), func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.IndexFunc(r.fired, func(a alert) bool { return a.matches(name, labels) })
		if i < 0 {
			return fmt.Errorf("active are %v", r.active)
		}
		for _, text := range r.fired[i].Annotations {
			if strings.Contains(text, "<no value>") || strings.Contains(text, "error expanding") {
				t.Errorf("%s says %q", name, text)
			}
		}
		return nil
	})
}

// awaitEnd waits until an alert is no longer active.
func (r *record) awaitEnd(t *testing.T, name string, labels ...string) {
	t.Helper()
	eventually(t, alertDeadline, fmt.Sprintf("%s %v to end", name, labels), func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if i := slices.IndexFunc(r.active, func(a alert) bool { return a.matches(name, labels) }); i >= 0 {
			return fmt.Errorf("%+v", r.active[i])
		}
		return nil
	})
}

// A stage is where incidents are played: pods that each do one thing, and a sink for all of them.
type stage struct {
	*cluster
	namespace string
	sink      *corev1.Pod
	pods      map[string]*corev1.Pod
	nodes     []string
}

// newStage starts a pod for each incident, and in a namespace of its own one that does a little of everything.
func newStage(t *testing.T, c *cluster) *stage {
	b := &stage{cluster: c, namespace: c.namespace(t), nodes: c.nodes(t), pods: map[string]*corev1.Pod{}}
	everyday := c.namespace(t)
	other := c.start(t, everyday, sink("sink", b.nodes[0]))[0]
	to, closed := target(t, other, "ipv4"), net.JoinHostPort(address(t, other, "ipv4"), "7009")
	busy := fmt.Sprintf(`while true; do traffic tcp %s 100000; traffic udp %s 20 100 1ms; traffic udp %s 3 100 1ms; traffic connect %s 1 1s
		traffic dns kubernetes.default 2 0s; traffic connect kubernetes.default:443 2 1s; sleep 0.5; done`, to, to, closed, closed)
	c.start(t, everyday, toolbox("busy", b.nodes[1], "/bin/sh", "-c", busy))
	b.sink = c.start(t, b.namespace, sink("sink", b.nodes[0]))[0]
	var pods []*corev1.Pod
	for _, name := range []string{"dropped", "unanswered", "missing", "asking", "slow", "burst", "lossy", "refused", "cut", "far"} {
		pods = append(pods, toolbox(name, b.nodes[1], "/bin/sleep", "3600"))
	}
	pods = append(pods, sink("recorded", b.nodes[1]), toolbox("flooding", b.nodes[0], "/bin/sleep", "3600"))
	for _, pod := range c.start(t, b.namespace, pods...) {
		b.pods[pod.Name] = pod
	}
	// What nodes themselves do well.
	for _, node := range b.nodes {
		b.inBackground(t, podNetns(t, c.agents(t)[node]).command(t.Context(), "sh", "-c", fmt.Sprintf(
			"while true; do %s connect %s 2 3s; sleep 0.5; done", b.traffic(), b.kubernetes(t))))
	}
	return b
}

// traffic is the program as it is on this machine.
func (b *stage) traffic() string { return filepath.Join(filepath.Dir(b.output), "bin", "traffic") }

// kubernetes is where the Kubernetes API itself is, over IPv4.
func (b *stage) kubernetes(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(b.config.Host, "https://")
}

// inBackground runs a command until the test ends, however it ends.
func (b *stage) inBackground(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // it may have ended
		_ = cmd.Wait()
	})
}

// during runs a script in a pod once a second until the test ends.
func (b *stage) during(t *testing.T, pod, script string) {
	t.Helper()
	args := []string{"exec", "--namespace", b.namespace, pod, "--", "sh", "-c", "for i in $(seq 40); do " + script + "; sleep 1; done"}
	b.inBackground(t, b.kubectlCommand(t.Context(), args...))
}

// filter puts a rule into a network namespace until the test ends.
func filter(t *testing.T, ns netns, table, hook, rule string) {
	t.Helper()
	ns.run(t, fmt.Sprintf("table inet %s { chain c { type filter hook %s priority -10; %s; }; }", table, hook, rule), "nft", "-f", "-")
	t.Cleanup(func() {
		if out, err := ns.command(context.Background(), "nft", "delete", "table", "inet", table).CombinedOutput(); err != nil {
			t.Errorf("taking out table %s: %v: %s", table, err, out)
		}
	})
}
