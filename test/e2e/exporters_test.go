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
	// missedConnections are made while no collector runs, which is for an outage.
	missedConnections = 20
	outage            = time.Minute
	// missedDatagrams, each a flow, are sent meanwhile. Each node has one or two records of each, of more than a kilobyte: more
	// than the smallest queue holds, and less than half of what one of the default size does.
	missedDatagrams = 1200
	certificateName = "networkobservability-telemetry-tls"
)

// A collector is a real OpenTelemetry Collector that runs beside the cluster and writes what it is sent to a file. It
// serves TLS, and takes requests with the token only; a strict one of clients with a certificate only.
type collector struct {
	program, output, cert, key, token string
	clientCA                          string // empty where clients need no certificate
	grpc, http                        string
	bundle                            []byte
	running                           *exec.Cmd
	said                              bytes.Buffer
}

// buildCollector builds the program, and returns where it is.
func buildCollector(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "collector")
	// The module's tests are the program, too, and were built for the module's own run.
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-race", "-o", program, ".")
	build.Dir = "../collector"
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the collector: %v: %s", err, out)
	}
	return program
}

// newCollector is one that does not run yet. With a file of authorities it is strict.
func newCollector(t *testing.T, c *cluster, program, clientCA string) *collector {
	t.Helper()
	dir := t.TempDir()
	o := &collector{
		program: program, output: filepath.Join(dir, "arrived"), token: filepath.Join(dir, "token"), clientCA: clientCA,
		grpc: freeAddress(t, c), http: freeAddress(t, c),
	}
	if err := os.WriteFile(o.token, []byte(collectorToken), 0o600); err != nil {
		t.Fatal(err)
	}
	o.cert, o.key, o.bundle, _ = makeCertificate(t, dir, collectorName)
	t.Cleanup(func() {
		o.stop()
		if t.Failed() {
			t.Logf("the collector said: %.2000s", o.said.String())
		}
	})
	return o
}

// makeCertificate makes one for a name that is its own authority, and writes it and its key to files.
func makeCertificate(t *testing.T, dir, name string) (certFile, keyFile string, cert, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
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
	cert, private = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, private, 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, cert, private
}

// start runs the collector, and returns when it takes connections.
func (o *collector) start(t *testing.T) {
	t.Helper()
	o.running = exec.Command(o.program, "--grpc", o.grpc, "--http", o.http, "--cert", o.cert, "--key", o.key,
		"--client-ca", o.clientCA, "--token-file", o.token, "--output", o.output)
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
		Resource  struct{ Attributes []attribute }
		ScopeLogs []struct {
			LogRecords []struct {
				TimeUnixNano string
				Attributes   []attribute
			}
		}
	}
}

// arrived reads what the collector was sent: metrics by the pod and the name, the ports from which records of flows of the
// client were made, and how many different records there are. A line that is not whole yet is left out.
func (o *collector) arrived() (a arrivals, err error) {
	content, err := os.ReadFile(o.output)
	if err != nil {
		return a, err
	}
	a = arrivals{metrics: map[string]bool{}, ports: map[string]bool{}, records: map[string]bool{}}
	for line := range bytes.Lines(content) {
		var one exportRequest
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &one) != nil {
			continue
		}
		a.take(&one)
	}
	return a, nil
}

type arrivals struct{ metrics, ports, records map[string]bool }

func (a arrivals) take(one *exportRequest) {
	for _, resource := range one.ResourceMetrics {
		pod := textOf(resource.Resource.Attributes, "k8s.pod.name")
		for _, scope := range resource.ScopeMetrics {
			for _, metric := range scope.Metrics {
				a.metrics[pod+" "+metric.Name] = true
			}
		}
	}
	for _, resource := range one.ResourceLogs {
		node := textOf(resource.Resource.Attributes, "k8s.node.name")
		for _, scope := range resource.ScopeLogs {
			for _, record := range scope.LogRecords {
				a.records[node+" "+textOf(record.Attributes, "flow.id")+" "+record.TimeUnixNano] = true
				if textOf(record.Attributes, "source.k8s.pod.name") == "client" && textOf(record.Attributes, "network.transport") == "tcp" {
					a.ports[textOf(record.Attributes, "source.port")] = true
				}
			}
		}
	}
}

// TestExporters sends metrics and flow logs to two real OpenTelemetry Collectors, one of which wants a certificate of its
// clients. It kills both for a minute while there are connections and a flood of flows, and demands that nothing is missing
// where it fits into the queue, and that all that is missing where it does not is counted.
func TestExporters(t *testing.T) {
	c := newCluster(t)
	c.withoutTelemetry(t)
	program := buildCollector(t)
	identityFile, _, identity, key := makeCertificate(t, t.TempDir(), "agents")
	o, strict := newCollector(t, c, program, ""), newCollector(t, c, program, identityFile)
	o.start(t)
	strict.start(t)
	c.secret(t, telemetrySecret, map[string][]byte{"authorization": []byte("Bearer " + collectorToken)})
	c.secret(t, certificateName, map[string][]byte{"tls.crt": identity, "tls.key": key})
	nodes := c.nodes(t)
	namespace := c.namespace(t)
	pods := c.start(t, namespace, sink("server", nodes[0]), sink("client", nodes[1]))
	to := target(t, pods[0], "ipv4")

	otlp := func(to *collector, protocol, address, more string) string {
		return fmt.Sprintf(`{endpoint: "https://%s", protocol: %s, serverName: %s, caBundle: %s, headersSecret: {name: %s}, intervalSeconds: 5%s}`,
			address, protocol, collectorName, base64.StdEncoding.EncodeToString(to.bundle), telemetrySecret, more)
	}
	const known = ", clientCertificateSecret: {name: " + certificateName + "}"
	c.kubectl(t, "apply", "-f", telemetryFile(t, `{podMetrics: [{group: Traffic}, {group: TCP}],
  flowLogs: {intervalSeconds: 5, pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: `+namespace+`}}}},
  exporters: [
    {name: logs, signals: [FlowLogs], otlp: `+otlp(o, "GRPC", o.grpc, "")+`},
    {name: metrics, signals: [Metrics], otlp: `+otlp(o, "HTTP", o.http, "")+`},
    {name: known, signals: [Metrics], otlp: `+otlp(strict, "GRPC", strict.grpc, known)+`},
    {name: small, signals: [FlowLogs], otlp: `+otlp(strict, "HTTP", strict.http, known+", queueMebibytes: 1")+`},
    {name: e2e, signals: [FlowLogs], file: {}},
    {name: lines, signals: [FlowLogs], stdout: {}}]}`))
	c.kubectl(t, "wait", "--for=condition=Applied", "networktelemetry/cluster", "--timeout=60s")

	ports := c.connectFromPorts(t, pods[1], to, 1)
	c.exported(t, o, ports)
	c.exported(t, strict, ports)
	c.checkStandardOutput(t, c.agents(t)[nodes[1]], ports)
	c.kubectl(t, "wait", "--for=condition=Exporting", "networktelemetry/cluster", "--timeout=60s")
	for _, one := range []*collector{o, strict} {
		if a, err := one.arrived(); err != nil || !a.metrics["client k8s.pod.network.io"] || !a.metrics[" k8s.node.network.io"] {
			t.Errorf("metrics that arrived: %v, %v", a.metrics, err)
		}
	}

	o.stop()
	strict.stop()
	over := time.After(outage)
	ports = append(ports, c.connectFromPorts(t, pods[1], to, missedConnections)...)
	c.exec(t, pods[1], "/bin/traffic", "ports", address(t, pods[0], "ipv4"), fmt.Sprint(missedDatagrams))
	eventually(t, exportDeadline, "the status to say that the collectors are away", func(ctx context.Context) error {
		object, err := c.telemetry(ctx)
		if err != nil {
			return err
		}
		if exporting := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.TelemetryExporting); exporting == nil || exporting.Status != metav1.ConditionFalse {
			return fmt.Errorf("the condition is %+v", exporting)
		}
		return nil
	})
	<-over
	o.start(t)
	strict.start(t)
	c.exported(t, o, ports)
	c.kubectl(t, "wait", "--for=condition=Exporting", "networktelemetry/cluster", "--timeout=90s")
	c.checkBooks(t, o, strict)
	c.checkLogFiles(t, ports)
	c.checkNotShown(t, collectorToken, strings.Split(string(key), "\n")[1])
}

// checkBooks waits until all records of flows that there were have arrived or are counted as dropped: none is where the queue
// was large enough, and where it was not, no more and no less are missing than were counted.
func (c *cluster) checkBooks(t *testing.T, whole, part *collector) {
	t.Helper()
	eventually(t, 2*exportDeadline, "the books of the exporters to be right", func(ctx context.Context) error {
		object, err := c.telemetry(ctx)
		if err != nil {
			return err
		}
		counts := map[string]v1alpha1.TelemetryExporterStatus{}
		for _, one := range object.Status.Exporters {
			counts[one.Name] = one
		}
		all, err := whole.arrived()
		if err != nil {
			return err
		}
		some, err := part.arrived()
		if err != nil {
			return err
		}
		logs, small := counts["logs"], counts["small"]
		says := fmt.Errorf("of all, %d have arrived, %d are sent and %d dropped; with a small queue %d have arrived, %d are sent and %d dropped",
			len(all.records), logs.Sent, logs.Dropped, len(some.records), small.Sent, small.Dropped)
		if len(all.records) < missedDatagrams || logs.Dropped != 0 || int64(len(all.records)) != logs.Sent ||
			small.Dropped == 0 || int64(len(some.records)) != small.Sent || small.Sent+small.Dropped != logs.Sent {
			return says
		}
		t.Log(says)
		return nil
	})
}

// secret makes a Secret in our own namespace for as long as the test runs.
func (c *cluster) secret(t *testing.T, name string, data map[string][]byte) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	if _, err := c.kube.CoreV1().Secrets(agentv1.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.kube.CoreV1().Secrets(agentv1.Namespace).Delete(context.Background(), name, metav1.DeleteOptions{}) // it may be gone
	})
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
		a, err := o.arrived()
		if err != nil {
			return err
		}
		for _, port := range ports {
			if !a.ports[port] {
				return fmt.Errorf("none of port %s of %v; arrived are %v", port, ports, a.ports)
			}
		}
		return nil
	})
}

// checkStandardOutput waits until records of flows from all ports are among the lines of an agent's output.
func (c *cluster) checkStandardOutput(t *testing.T, agent *corev1.Pod, ports []string) {
	t.Helper()
	eventually(t, exportDeadline, "lines on the agent's standard output", func(context.Context) error {
		found := map[string]bool{}
		for line := range strings.Lines(c.kubectl(t, "-n", agent.Namespace, "logs", agent.Name, "--since=2m")) {
			if strings.HasPrefix(line, "{") { // others are the agent's own
				noteRecord(t, []byte(line), found)
			}
		}
		for _, port := range ports {
			if !found[port] {
				return fmt.Errorf("none of port %s, but of %v", port, found)
			}
		}
		return nil
	})
}

// noteRecord notes the port of a record of the client's, which has to be a line of JSON.
func noteRecord(t *testing.T, line []byte, ports map[string]bool) {
	t.Helper()
	var record map[string]any
	if err := json.Unmarshal(line, &record); err != nil {
		t.Errorf("%v: %.300s", err, line)
	}
	if record["source.k8s.pod.name"] == "client" {
		ports[fmt.Sprint(record["source.port"])] = true
	}
}

// checkLogFiles demands that records of flows from all ports are in the files of the nodes, each a line of JSON.
func (c *cluster) checkLogFiles(t *testing.T, ports []string) {
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
			noteRecord(t, lines.Bytes(), found)
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

// checkNotShown looks for secrets in everything that we log, show and keep.
func (c *cluster) checkNotShown(t *testing.T, secrets ...string) {
	t.Helper()
	places := map[string]string{
		"the status or an event": c.kubectl(t, "get", "networktelemetry", "cluster", "-o", "yaml") + c.kubectl(t, "get", "events", "-A", "-o", "yaml"),
		"a log":                  c.kubectl(t, "-n", agentv1.Namespace, "logs", "-l", "app.kubernetes.io/component in (apiserver, nodeagent)", "--tail=-1", "--max-log-requests=20"),
	}
	kept, err := filepath.Glob("/proc/[0-9]*/root/var/lib/networkobservability/telemetry.json")
	if err != nil || len(kept) == 0 {
		t.Fatalf("no agent keeps its configuration: %v", err)
	}
	for _, name := range kept {
		if content, err := os.ReadFile(name); err == nil { // otherwise its agent has gone
			places[name] = string(content)
		}
	}
	for place, text := range places {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%.10s... of a Secret is in %s", secret, place)
			}
		}
	}
}
