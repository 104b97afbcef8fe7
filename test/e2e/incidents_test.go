package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// An expected alert: its name, and labels in the form label=value.
type expected struct {
	name   string
	labels []string
}

// play begins incidents, waits until all alerts that are expected have fired since, ends the incidents, and waits until the
// alerts have ended.
func play(t *testing.T, seen *record, alerts []expected, begin func(t *testing.T)) {
	t.Helper()
	for _, want := range alerts {
		seen.awaitEnd(t, want.name, want.labels...)
		seen.forget(want.name, want.labels...)
	}
	t.Run("fires", func(t *testing.T) {
		begin(t)
		for _, want := range alerts {
			seen.awaitFiring(t, want.name, want.labels...)
		}
	})
	for _, want := range alerts {
		seen.awaitEnd(t, want.name, want.labels...)
	}
}

// incidents are those that do not meet each other: each has a pod of its own, or a node's own connections.
func (b *stage) incidents(t *testing.T, seen *record) {
	namespace := "namespace=" + b.namespace
	alerts := []expected{
		{"NetworkPacketsDropped", []string{namespace}},
		{"NetworkDNSFailing", []string{namespace}},
		{"NetworkDNSNamesMissing", []string{namespace, "workload=missing"}},
		{"NetworkDNSSlow", []string{namespace}},
		{"NetworkPodSendsMore", []string{namespace, "pod=burst"}},
		{"NetworkPodRetransmits", []string{namespace, "workload=lossy"}},
		{"NetworkConnectionsFail", []string{namespace, "workload=refused"}},
		{"NetworkPodAPIServerUnreachable", []string{namespace, "workload=cut"}},
		{"NetworkPodAPIServerSlow", []string{namespace, "workload=far"}},
		{"NetworkNodeRetransmits", []string{"node=" + b.nodes[1]}},
		{"NetworkNodeAPIServerUnreachable", []string{"node=" + b.nodes[0]}},
		{"NetworkNodeAPIServerSlow", []string{"node=" + b.nodes[1]}},
		{"NetworkExporterFailing", []string{"exporter=nowhere"}},
		{"NetworkExporterDropping", []string{"exporter=refuses"}},
		{"NetworkConntrackNearLimit", []string{"node=" + b.nodes[0]}},
		{"NetworkAgentTableFull", []string{"node=" + b.nodes[0], "table=flows_ipv4"}},
		{"NetworkAgentEventsLost", []string{"node=" + b.nodes[0], "stage=flows_evicted"}},
		{"NetworkAgentEventsLost", []string{"node=" + b.nodes[1], "stage=dns_names"}},
		{"NetworkInterfaceErrors", []string{"node=" + b.nodes[1], "interface=" + tunnel, "direction=transmit"}},
		{"NetworkCapturePacketsLost", []string{"node=" + b.nodes[1], "cause=ring"}},
	}
	eventually(t, alertDeadline, "a past with which what is sent is compared", func(ctx context.Context) error {
		samples, err := seen.p.query(ctx, fmt.Sprintf(`workload:networkobservability_pod_transmit_bytes:max_rate5m_past{namespace=%q,workload="burst"}`, b.namespace))
		if err == nil && len(samples) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	play(t, seen, alerts, func(t *testing.T) {
		b.export(t)
		b.manyConnections(t)
		b.manyFlows(t)
		b.manyNames(t)
		b.tunnelToNowhere(t)
		b.slowRecorder(t)
		b.loss(t)
		b.badNames(t)
		b.farAPI(t)
		to := address(t, b.sink, "ipv4")
		filter(t, podNetns(t, b.sink), "netobs_drop", "input", "udp dport 7001 drop")
		b.during(t, "dropped", "traffic udp "+net.JoinHostPort(to, "7001")+" 500 100")
		b.during(t, "refused", "traffic connect "+net.JoinHostPort(to, "7009")+" 20 1s")
		// Less than a minute of it: then it is the past.
		b.inBackground(t, b.kubectlCommand(t.Context(), "exec", "--namespace", b.namespace, "burst", "--",
			"/bin/traffic", "tcp", target(t, b.sink, "ipv4"), "1000000000"))
		checkIncidentQueries(t, seen.p)
	})
}

// loss has one in five packets to a port of the sink get lost, and a pod and its node send there.
func (b *stage) loss(t *testing.T) {
	filter(t, podNetns(t, b.sink), "netobs_loss", "input", "tcp dport 8080 numgen random mod 5 == 0 drop")
	url := fmt.Sprintf("http://%s", net.JoinHostPort(address(t, b.sink, "ipv4"), "8080"))
	for range 4 {
		b.during(t, "lossy", "traffic http "+url+" 20 0s")
		b.inBackground(t, podNetns(t, b.agents(t)[b.nodes[1]]).command(t.Context(), b.traffic(), "http", url, "0", "50ms"))
	}
}

// badNames has one pod ask for names that do not exist, has the questions of another get lost, and stops the cluster's
// DNS again and again for most of a second.
func (b *stage) badNames(t *testing.T) {
	b.during(t, "missing", "traffic dns nobody.example. 20 0s")
	// In the namespace of the pod's node: there they are on their way.
	b.dropOnNode(t, b.nodes[1], "netobs_unanswered", "ip saddr "+address(t, b.pods["unanswered"], "ipv4")+" udp dport 53 drop")
	for range 6 {
		b.during(t, "unanswered", "traffic dns kubernetes.default.svc.cluster.local. 1 0s")
	}
	b.during(t, "slow", "traffic dns kubernetes.default.svc.cluster.local. 20 50ms")
	list, err := b.kube.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		t.Fatal(err)
	}
	var servers []int
	for i := range list.Items {
		servers = append(servers, process(t, &list.Items[i], "coredns"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for stopped := false; ; stopped = !stopped {
			for _, pid := range servers {
				_ = unix.Kill(pid, map[bool]unix.Signal{true: unix.SIGCONT, false: unix.SIGSTOP}[stopped || ctx.Err() != nil])
			}
			if ctx.Err() != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// farAPI has new connections to the Kubernetes API be refused, of one pod and one node, and lose the first packet of every
// other one, of another pod and node: that one waits a second. Connections that are there go on.
func (b *stage) farAPI(t *testing.T) {
	const syn = "tcp flags & (syn | ack) == syn "
	host, port, err := net.SplitHostPort(b.kubernetes(t))
	if err != nil {
		t.Fatal(err)
	}
	service, err := b.kube.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	toService, toServer := fmt.Sprintf("ip daddr %s tcp dport 443 ", service.Spec.ClusterIP), fmt.Sprintf("ip daddr %s tcp dport %s ", host, port)
	filter(t, podNetns(t, b.pods["cut"]), "netobs_cut", "output", toService+syn+"reject with tcp reset")
	filter(t, podNetns(t, b.pods["far"]), "netobs_far", "output", toService+syn+"numgen inc mod 2 == 0 drop")
	filter(t, podNetns(t, b.agents(t)[b.nodes[0]]), "netobs_cut", "output", toServer+syn+"reject with tcp reset")
	filter(t, podNetns(t, b.agents(t)[b.nodes[1]]), "netobs_far", "output", toServer+syn+"numgen inc mod 2 == 0 drop")
	for _, pod := range []string{"cut", "far"} {
		b.during(t, pod, "traffic connect "+net.JoinHostPort(service.Spec.ClusterIP, "443")+" 4 3s")
	}
}

// export adds two exporters until the test ends: nobody listens to the first, and the second refuses what it gets.
func (b *stage) export(t *testing.T) {
	t.Helper()
	// Where nodes reach this machine: the address from which it reaches them.
	conn, err := net.Dial("udp", net.JoinHostPort(b.agents(t)[b.nodes[0]].Status.HostIP, "9"))
	if err != nil {
		t.Fatal(err)
	}
	here := conn.LocalAddr().(*net.UDPAddr).IP.String()
	conn.Close()
	listener, err := net.Listen("tcp", net.JoinHostPort(here, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this is no collector", http.StatusBadRequest)
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	interval := int32(5)
	exporter := func(name, endpoint string) v1alpha1.TelemetryExporter {
		return v1alpha1.TelemetryExporter{Name: name, Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics},
			OTLP: &v1alpha1.OTLPExporter{Endpoint: endpoint, Protocol: v1alpha1.OTLPHTTP, IntervalSeconds: &interval}}
	}
	b.change(t, func(spec *v1alpha1.NetworkTelemetrySpec) {
		spec.Exporters = []v1alpha1.TelemetryExporter{exporter("nowhere", "http://"+net.JoinHostPort(here, "9")), exporter("refuses", server.URL)}
	})
}

// change changes the NetworkTelemetry until the test ends.
func (b *stage) change(t *testing.T, change func(*v1alpha1.NetworkTelemetrySpec)) {
	t.Helper()
	objects := b.stats.NetworkobservabilityV1alpha1().NetworkTelemetries()
	var before v1alpha1.NetworkTelemetrySpec
	update := func(ctx context.Context, set func(*v1alpha1.NetworkTelemetrySpec)) error {
		object, err := objects.Get(ctx, v1alpha1.NetworkTelemetryName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		before = *object.Spec.DeepCopy()
		set(&object.Spec)
		_, err = objects.Update(ctx, object, metav1.UpdateOptions{})
		return err
	}
	eventually(t, podDeadline, "the NetworkTelemetry to be changed", func(ctx context.Context) error { return update(ctx, change) })
	saved := before
	t.Cleanup(func() {
		if err := update(context.Background(), func(spec *v1alpha1.NetworkTelemetrySpec) { *spec = saved }); err != nil {
			t.Errorf("changing the NetworkTelemetry back: %v", err)
		}
	})
}

// limits allows fewer series than the pods of a node have.
func (b *stage) limits(t *testing.T, seen *record) {
	play(t, seen, []expected{{"NetworkSeriesFolded", []string{"node=" + b.nodes[1]}}}, func(t *testing.T) {
		b.change(t, func(spec *v1alpha1.NetworkTelemetrySpec) { limit := int32(200); spec.SeriesLimit = &limit })
	})
}

// silence stops an agent, then a replica of the API server, then all.
func (b *stage) silence(t *testing.T, seen *record) {
	node := b.nodes[1]
	play(t, seen, []expected{
		{"NetworkAgentDown", []string{"node=" + node}},
		{"NetworkAgentUnanswering", []string{"node=" + node}},
		{"NetworkTelemetryNotApplied", []string{"state=unreachable"}},
	}, func(t *testing.T) {
		b.stopAgent(t, b.agents(t)[node])
		// Somebody has to ask, again and again, whichever replica it is that answers.
		b.inBackground(t, exec.CommandContext(t.Context(), "sh", "-c", "while true; do "+
			b.kubectlCommand(t.Context(), "get", "podnetworkstats", "--namespace", b.namespace, "--chunk-size=0").String()+"; sleep 0.2; done"))
	})
	servers := b.servers(t)
	play(t, seen, []expected{{"NetworkObservabilityAPIServerReplicaDown", []string{"instance=" + servers[0].Name}}}, func(t *testing.T) {
		stopServers(t, servers[:1])
	})
	play(t, seen, []expected{{"NetworkObservabilityAPIServerDown", nil}}, func(t *testing.T) { stopServers(t, servers) })
	b.waitHealthy(t)
}

// stopServers freezes API servers until the test ends.
func stopServers(t *testing.T, servers []corev1.Pod) {
	t.Helper()
	for i := range servers {
		pid := process(t, &servers[i], "networkobservability-apiserver")
		signal(t, pid, unix.SIGSTOP)
		t.Cleanup(func() { signal(t, pid, unix.SIGCONT) })
	}
}

// checkAlerts demands that each alert that there is has fired; that no rule has an error; and that what is recorded has
// data.
func checkAlerts(t *testing.T, p prometheus, seen *record) {
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Type, Health, LastError string }
		}
	}
	if err := p.get(t.Context(), "rules", &data); err != nil {
		t.Fatal(err)
	}
	seen.mu.Lock()
	fired := slices.Clone(seen.fired)
	seen.mu.Unlock()
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" {
				t.Errorf("rule %s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
			if rule.Type == "recording" {
				// Agents that have just begun need to be scraped twice.
				eventually(t, alertDeadline, rule.Name+" to have data", func(ctx context.Context) error {
					samples, err := p.query(ctx, rule.Name)
					if err == nil && len(samples) == 0 {
						err = errors.New("there is none")
					}
					return err
				})
				continue
			}
			if !slices.ContainsFunc(fired, func(a alert) bool { return a.matches(rule.Name, nil) }) {
				t.Errorf("%s never fired", rule.Name)
			}
		}
	}
}
