package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// collectorToken must be in nothing that we log or show.
	collectorToken  = "canary-of-header-93b1f0"
	collectorName   = "collector.monitoring.svc"
	telemetrySecret = "networkobservability-telemetry"
	// exportDeadline is for what was counted to have been sent: pauses between tries are half a minute at most.
	exportDeadline = 90 * time.Second
	// missedConnections are made while no collector runs.
	missedConnections = 20
)

// A collector is a real OpenTelemetry Collector that runs beside the cluster and writes what it is sent to a file. It
// serves TLS, and takes requests with the token only.
type collector struct {
	program, output, cert, key, token string
	grpc, http                        string
	bundle                            []byte
	running                           *exec.Cmd
	said                              bytes.Buffer
}

// newCollector builds one that does not run yet.
func newCollector(t *testing.T, c *cluster) *collector {
	t.Helper()
	dir := t.TempDir()
	o := &collector{
		program: filepath.Join(dir, "collector"), output: filepath.Join(dir, "arrived"), token: filepath.Join(dir, "token"),
		grpc: freeAddress(t, c), http: freeAddress(t, c),
	}
	// The module's tests are the program, too, and were built for the module's own run.
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-race", "-o", o.program, ".")
	build.Dir = "../collector"
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the collector: %v: %s", err, out)
	}
	if err := os.WriteFile(o.token, []byte(collectorToken), 0o600); err != nil {
		t.Fatal(err)
	}
	o.makeCertificate(t, dir)
	t.Cleanup(func() {
		o.stop()
		if t.Failed() {
			t.Logf("the collector said: %.2000s", o.said.String())
		}
	})
	return o
}

func (o *collector) makeCertificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: collectorName}, DNSNames: []string{collectorName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	o.bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	o.cert, o.key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(o.cert, o.bundle, 0o600),
		os.WriteFile(o.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// start runs the collector, and returns when it takes connections.
func (o *collector) start(t *testing.T) {
	t.Helper()
	o.running = exec.Command(o.program, "--grpc", o.grpc, "--http", o.http, "--cert", o.cert, "--key", o.key,
		"--token-file", o.token, "--output", o.output)
	o.running.Env = append(os.Environ(), "RUN_AS_COLLECTOR=1")
	o.running.Stdout, o.running.Stderr = &o.said, &o.said
	if err := o.running.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, exportDeadline, "the collector to listen", func(context.Context) error {
		for _, address := range []string{o.grpc, o.http} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	})
}

// stop kills the collector, if it runs.
func (o *collector) stop() {
	if o.running != nil {
		_ = o.running.Process.Kill()
		_ = o.running.Wait() // It was killed.
		o.running = nil
	}
}

// An attribute is one of OTLP/JSON.
type attribute struct {
	Key   string
	Value struct{ StringValue, IntValue string }
}

func textOf(attributes []attribute, key string) string {
	for _, one := range attributes {
		if one.Key == key {
			return one.Value.StringValue + one.Value.IntValue
		}
	}
	return ""
}

// An exportRequest is a line that the collector wrote, as far as it is looked at.
type exportRequest struct {
	ResourceMetrics []struct {
		Resource     struct{ Attributes []attribute }
		ScopeMetrics []struct {
			Metrics []struct{ Name string }
		}
	}
	ResourceLogs []struct {
		ScopeLogs []struct {
			LogRecords []struct{ Attributes []attribute }
		}
	}
}

// arrived reads what the collector was sent: metrics by the pod and the name, and the ports from which records of flows of a
// pod were made. A line that is not whole yet is left out.
func (o *collector) arrived(client string) (metrics map[string]bool, ports map[string]bool, err error) {
	content, err := os.ReadFile(o.output)
	if err != nil {
		return nil, nil, err
	}
	metrics, ports = map[string]bool{}, map[string]bool{}
	for line := range bytes.Lines(content) {
		var one exportRequest
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &one) != nil {
			continue
		}
		for _, resource := range one.ResourceMetrics {
			pod := textOf(resource.Resource.Attributes, "k8s.pod.name")
			for _, scope := range resource.ScopeMetrics {
				for _, metric := range scope.Metrics {
					metrics[pod+" "+metric.Name] = true
				}
			}
		}
		for _, resource := range one.ResourceLogs {
			for _, scope := range resource.ScopeLogs {
				for _, record := range scope.LogRecords {
					if textOf(record.Attributes, "source.k8s.pod.name") == client && textOf(record.Attributes, "network.transport") == "tcp" {
						ports[textOf(record.Attributes, "source.port")] = true
					}
				}
			}
		}
	}
	return metrics, ports, nil
}

// TestExporters sends metrics and flow logs to a real OpenTelemetry Collector, kills it while connections are made, and
// demands that none is missing once it runs again.
func TestExporters(t *testing.T) {
	c := newCluster(t)
	c.withoutTelemetry(t)
	o := newCollector(t, c)
	o.start(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: telemetrySecret}, Data: map[string][]byte{"authorization": []byte("Bearer " + collectorToken)}}
	if _, err := c.kube.CoreV1().Secrets(agentv1.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.kube.CoreV1().Secrets(agentv1.Namespace).Delete(context.Background(), telemetrySecret, metav1.DeleteOptions{})
	})
	nodes := c.nodes(t)
	namespace := c.namespace(t)
	pods := c.start(t, namespace, sink("server", nodes[0]), sink("client", nodes[1]))
	to := target(t, pods[0], "ipv4")

	otlp := func(scheme, protocol, address string) string {
		return fmt.Sprintf(`{endpoint: "%s://%s", protocol: %s, serverName: %s, caBundle: %s, headersSecret: {name: %s}, intervalSeconds: 5}`,
			scheme, address, protocol, collectorName, base64.StdEncoding.EncodeToString(o.bundle), telemetrySecret)
	}
	c.kubectl(t, "apply", "-f", telemetryFile(t, `{podMetrics: [{group: Traffic}, {group: TCP}],
  flowLogs: {intervalSeconds: 5, pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: `+namespace+`}}}},
  exporters: [
    {name: grpc, signals: [Metrics, FlowLogs], otlp: `+otlp("https", "GRPC", o.grpc)+`},
    {name: http, signals: [Metrics], otlp: `+otlp("https", "HTTP", o.http)+`},
    {name: e2e, signals: [FlowLogs], file: {}}]}`))
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")

	ports := c.connectFromPorts(t, pods[1], to, 1)
	c.exported(t, o, ports)
	c.kubectl(t, "wait", "--for=condition=Exporting", "networktelemetry/cluster", "--timeout=60s")
	metrics, _, err := o.arrived("client")
	if err != nil || !metrics["client k8s.pod.network.io"] || !metrics[" k8s.node.network.io"] {
		t.Errorf("metrics that arrived: %v, %v", metrics, err)
	}

	o.stop()
	ports = append(ports, c.connectFromPorts(t, pods[1], to, missedConnections)...)
	eventually(t, exportDeadline, "the status to say that the collector is away", func(ctx context.Context) error {
		object, err := c.telemetry(ctx)
		if err != nil {
			return err
		}
		if exporting := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.TelemetryExporting); exporting == nil || exporting.Status != metav1.ConditionFalse {
			return fmt.Errorf("the condition is %+v", exporting)
		}
		return nil
	})
	o.start(t)
	c.exported(t, o, ports)
	c.kubectl(t, "wait", "--for=condition=Exporting", "networktelemetry/cluster", "--timeout=90s")
	object, err := c.telemetry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, exporter := range object.Status.Exporters {
		if exporter.Name == "grpc" && exporter.Sent == 0 {
			t.Errorf("the status says of the exporter %+v", exporter)
		}
	}
	c.checkLogFiles(t, "client", ports)
	c.checkNoToken(t)
}

// connectFromPorts makes connections from a pod, one after the other, and returns the ports that it had.
func (c *cluster) connectFromPorts(t *testing.T, pod *corev1.Pod, to string, count int) (ports []string) {
	t.Helper()
	for range count {
		c.exec(t, pod, "/bin/traffic", "tcp", to, "1000")
	}
	eventually(t, exportDeadline, "the flows to be known", func(ctx context.Context) error {
		list, err := c.stats.NetworkobservabilityV1alpha1().NetworkFlows(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "pod=" + pod.Name + ",protocol=TCP,port=" + sinkPort})
		if err != nil {
			return err
		}
		ports = ports[:0]
		for _, flow := range list.Items {
			ports = append(ports, fmt.Sprint(flow.Pod.Port))
		}
		if slices.Sort(ports); len(slices.Compact(ports)) < count {
			return fmt.Errorf("%d of %d", len(ports), count)
		}
		return nil
	})
	return ports
}

// exported waits until records of flows from all ports have arrived.
func (c *cluster) exported(t *testing.T, o *collector, ports []string) {
	t.Helper()
	eventually(t, exportDeadline, "records of all flows to arrive", func(context.Context) error {
		_, arrived, err := o.arrived("client")
		if err != nil {
			return err
		}
		for _, port := range ports {
			if !arrived[port] {
				return fmt.Errorf("none of port %s of %v; arrived are %v", port, ports, arrived)
			}
		}
		return nil
	})
}

// checkLogFiles demands that records of flows from all ports are in the files of the nodes, each a line of JSON.
func (c *cluster) checkLogFiles(t *testing.T, pod string, ports []string) {
	t.Helper()
	found := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(c.output, "log", "*", "networkobservability", "e2e.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of flow logs: %v", err)
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var record map[string]any
			if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
				t.Errorf("%s: %v: %.300s", name, err, lines.Text())
			}
			if record["source.k8s.pod.name"] == pod {
				found[fmt.Sprint(record["source.port"])] = true
			}
		}
		file.Close()
		if err := os.RemoveAll(name); err != nil {
			t.Error(err)
		}
	}
	for _, port := range ports {
		if !found[port] {
			t.Errorf("no line of port %s in %v", port, files)
		}
	}
}

// checkNoToken looks for the token in everything that we log and show.
func (c *cluster) checkNoToken(t *testing.T) {
	t.Helper()
	shown := c.kubectl(t, "get", "networktelemetry", "cluster", "-o", "yaml") +
		c.kubectl(t, "get", "events", "-A", "-o", "yaml") +
		c.kubectl(t, "-n", agentv1.Namespace, "logs", "-l", "app.kubernetes.io/component in (apiserver, nodeagent)", "--tail=-1", "--max-log-requests=20")
	if strings.Contains(shown, collectorToken) {
		t.Error("the token of the collector is shown")
	}
	kept, err := filepath.Glob("/proc/[0-9]*/root/var/lib/networkobservability/telemetry.json")
	if err != nil || len(kept) == 0 {
		t.Fatalf("no agent keeps its configuration: %v", err)
	}
	for _, name := range kept {
		if content, err := os.ReadFile(name); err == nil && bytes.Contains(content, []byte(collectorToken)) {
			t.Errorf("the token of the collector is in %s", name)
		}
	}
}
