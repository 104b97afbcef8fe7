package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// beginAnew are the counters of nodes and pods that docs/metrics.md says begin at 0 with the agent, by how their names begin.
var beginAnew = []string{"node_softnet_", "node_conntrack_events_", "pod_peer_", "pod_dns_name_", "pod_bypassed_"}

// happens are counters that have to have counted something of the busy pod before its agent is replaced.
var happens = []string{
	"pod_bytes_total", "pod_packets_total", "pod_dropped_packets_total", "pod_tcp_connections_opened_total", "pod_tcp_connections_failed_total",
	"pod_tcp_segments_total", "pod_tcp_rtt_seconds", "pod_dns_queries_total", "pod_dns_responses_total", "pod_dns_latency_seconds",
	"pod_apiserver_connections_total", "pod_apiserver_handshake_seconds",
}

// TestMetricsOverReplacement replaces an agent while a pod is busy and no API server of ours answers. The new agent goes on
// with the configuration that the former one was told, and no counter of a pod or of the node falls but those of which it is
// documented. Series of a pod end with the pod.
func TestMetricsOverReplacement(t *testing.T) {
	c := newCluster(t)
	c.withoutTelemetry(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	to := c.start(t, namespace, sink("sink", nodes[0]))[0]
	at, closed := target(t, to, "ipv4"), net.JoinHostPort(address(t, to, "ipv4"), "7009")
	script := fmt.Sprintf(`while true; do traffic tcp %s 100000; traffic udp %s 5 100 1ms;
		traffic connect %s 1 1s; traffic dns kubernetes.default 1 0s; traffic connect kubernetes.default:443 1 1s; sleep 0.2; done`, at, at, closed)
	busy := c.start(t, namespace, toolbox("busy", nodes[1], "/bin/sh", "-c", script))[0]
	// What it gets and nobody takes.
	c.start(t, namespace, toolbox("knocking", nodes[0], "/bin/sh", "-c",
		fmt.Sprintf("while true; do traffic udp %s 3 100 1ms; sleep 0.2; done", net.JoinHostPort(address(t, busy, "ipv4"), "7001"))))
	groups := ""
	for _, group := range []string{"Traffic", "Drops", "TCP", "DNS", "APIServer"} {
		groups += "{group: " + group + ", pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: " + namespace + "}}}}, "
	}
	c.kubectl(t, "apply", "-f", telemetryFile(t, "{podMetrics: ["+groups+"]}"))
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")
	reader := c.newMetricsReader(t, namespace)

	var before map[string]float64
	eventually(t, podDeadline, "everything to be counted of the busy pod", func(ctx context.Context) (err error) {
		if before, err = reader.counters(ctx, t, nodes[1]); err != nil {
			return err
		}
		for _, name := range happens {
			if !hasCounted(before, name, busy) {
				return fmt.Errorf("nothing is counted as %s", name)
			}
		}
		return nil
	})
	t.Run("without API servers", func(t *testing.T) {
		stopServers(t, c.servers(t))
		c.delete(t, c.agents(t)[nodes[1]])
		var after map[string]float64
		eventually(t, podDeadline, "the new agent to offer what the former one did", func(ctx context.Context) (err error) {
			if after, err = reader.counters(ctx, t, nodes[1]); err == nil && !hasCounted(after, "pod_bytes_total", busy) {
				err = fmt.Errorf("there is nothing of the pod among %d counters", len(after))
			}
			return err
		})
		checkNoneFell(t, before, after)
	})
	c.waitHealthy(t)
	c.delete(t, busy)
	// At once when agents are told; another API server may have to become the one that tells them first.
	eventually(t, podDeadline, "the pod's series to end", func(ctx context.Context) error {
		counters, err := reader.counters(ctx, t, nodes[1])
		for name := range counters {
			if strings.Contains(name, ofPod(busy)) {
				err = fmt.Errorf("there is %s", name)
			}
		}
		return err
	})
	if others, err := reader.counters(t.Context(), t, nodes[0]); err != nil || !hasCounted(others, "pod_bytes_total", to) {
		t.Errorf("those of another pod ended, too (%v)", err)
	}
}

// checkNoneFell demands that counters of nodes and pods are there and not less than before.
func checkNoneFell(t *testing.T, before, after map[string]float64) {
	t.Helper()
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if slices.ContainsFunc(beginAnew, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		compared++
		if now, there := after[name]; !there || now < before[name] {
			t.Errorf("%s was %v, and is %v (%v)", name, before[name], now, there)
		}
	}
	t.Logf("%d counters went on", compared)
}

func ofPod(pod *corev1.Pod) string { return fmt.Sprintf("{%s %s", pod.Namespace, pod.Name) }

// hasCounted says whether anything is counted of a pod under a name.
func hasCounted(counters map[string]float64, name string, pod *corev1.Pod) bool {
	for key, value := range counters {
		if strings.HasPrefix(key, name+ofPod(pod)) && value > 0 {
			return true
		}
	}
	return false
}

// A metricsReader scrapes agents with a token that may do nothing else.
type metricsReader struct {
	cluster *cluster
	http    *http.Client
	token   string
}

func (c *cluster) newMetricsReader(t *testing.T, namespace string) *metricsReader {
	t.Helper()
	const account = "scraper"
	accounts := c.kube.CoreV1().ServiceAccounts(namespace)
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.allowEverywhere(t, namespace, account, "networkobservability-metrics-reader")
	token, err := accounts.CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Get(t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle.Data[agentv1.ServingCAKey])) {
		t.Fatal("the bundle has no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: agentv1.MetricsDNSName, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &metricsReader{cluster: c, http: &http.Client{Transport: transport, Timeout: answerDeadline}, token: token.Status.Token}
}

// counters are the counters of nodes and pods that a node's agent offers, and how often histograms counted; by name without the
// prefix, and in braces the values of labels, those of a pod's namespace and name first.
func (r *metricsReader) counters(ctx context.Context, t *testing.T, node string) (map[string]float64, error) {
	t.Helper()
	families, err := r.scrape(ctx, t, node)
	if err != nil {
		return nil, err
	}
	counters := map[string]float64{}
	for name, family := range families {
		short := strings.TrimPrefix(name, "networkobservability_")
		if !strings.HasPrefix(short, "node_") && !strings.HasPrefix(short, "pod_") {
			continue
		}
		for _, metric := range family.Metric {
			values := map[string]string{}
			for _, label := range metric.Label {
				values[label.GetName()] = label.GetValue()
			}
			key := short + "{" + values["namespace"] + " " + values["pod"]
			for _, label := range slices.Sorted(maps.Keys(values)) {
				key += " " + values[label]
			}
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				counters[key+"}"] = metric.Counter.GetValue()
			case dto.MetricType_HISTOGRAM:
				counters[key+"}"] = float64(metric.Histogram.GetSampleCount())
			}
		}
	}
	return counters, nil
}

func (r *metricsReader) scrape(ctx context.Context, t *testing.T, node string) (map[string]*dto.MetricFamily, error) {
	t.Helper()
	agent := r.cluster.agents(t)[node]
	if agent == nil {
		return nil, fmt.Errorf("no agent runs on node %s", node)
	}
	url := "https://" + net.JoinHostPort(agent.Status.HostIP, strconv.Itoa(agentv1.MetricsPort)) + "/metrics"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	response, err := r.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, page)
	}
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(bytes.NewReader(page))
}
