package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/export"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
	"github.com/networkobservability/networkobservability/nodeagent/metrics"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const (
	// asProgram makes this test binary be the collector.
	asProgram = "RUN_AS_COLLECTOR"
	token     = "canary-token-5f1c"
	name      = "collector.monitoring.svc"
	patience  = time.Minute
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// A site is where a collector runs, and can be killed and started again.
type site struct {
	t                *testing.T
	grpc, http       string
	dir              string
	bundle           []byte
	clientCA         string // empty where clients need no certificate
	program          *exec.Cmd
	certificate, key string
}

func newSite(t *testing.T) *site { return newStrictSite(t, "") }

// newStrictSite is one where clients need a certificate of the authorities in a file.
func newStrictSite(t *testing.T, clientCA string) *site {
	s := &site{t: t, grpc: freeAddress(t), http: freeAddress(t), dir: t.TempDir(), clientCA: clientCA}
	s.certificate, s.key, s.bundle = certificate(t, s.dir)
	s.write("token", []byte(token+"\n"))
	t.Cleanup(s.kill)
	s.start()
	return s
}

// freeAddress is one to listen at. Nobody connects from it, so the kernel does not give its port away meanwhile.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (s *site) write(file string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, file)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// certificate makes one for a name, and writes it and its key to files.
func certificate(t *testing.T, dir string) (certificate, key string, bundle []byte) {
	t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, made.Public(), made)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		t.Fatal(err)
	}
	bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, content := range map[string][]byte{certificate: bundle, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key, bundle
}

// start returns when the collector is ready.
func (s *site) start() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.program = exec.Command(self, "--grpc", s.grpc, "--http", s.http, "--cert", s.certificate, "--key", s.key,
		"--client-ca", s.clientCA, "--token-file", filepath.Join(s.dir, "token"), "--output", s.output())
	s.program.Env = append(os.Environ(), asProgram+"=1")
	var problems bytes.Buffer
	s.program.Stderr = &problems
	said, err := s.program.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.program.Start(); err != nil {
		s.t.Fatal(err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "ready\n" {
		s.kill()
		s.t.Fatalf("the collector said %q (%v)\n%s", line, err, problems.String())
	}
}

// kill ends the collector as a power cut does.
func (s *site) kill() {
	if s.program == nil {
		return
	}
	_ = s.program.Process.Kill()
	_ = s.program.Wait() // it was killed
	s.program = nil
}

func (s *site) output() string { return filepath.Join(s.dir, "received.jsonl") }

// flows reads how often each flow arrived, and the last record of one.
func (s *site) flows() (times map[int64]int, last pcommon.Map) {
	s.t.Helper()
	times = map[int64]int{}
	s.lines(`{"resourceLogs"`, func(line []byte) {
		received, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(line)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, resource := range received.ResourceLogs().All() {
			for _, scope := range resource.ScopeLogs().All() {
				for _, record := range scope.LogRecords().All() {
					number, _ := record.Attributes().Get("flow.id")
					times[number.Int()]++
					last = record.Attributes()
				}
			}
		}
	})
	return times, last
}

// points reads metrics: all by name.
func (s *site) points() map[string][]pmetric.Metric {
	s.t.Helper()
	all := map[string][]pmetric.Metric{}
	s.metrics(func(_ pcommon.Resource, m pmetric.Metric) { all[m.Name()] = append(all[m.Name()], m) })
	return all
}

// metrics reads them in the order in which they arrived.
func (s *site) metrics(call func(pcommon.Resource, pmetric.Metric)) {
	s.t.Helper()
	s.lines(`{"resourceMetrics"`, func(line []byte) {
		received, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, resource := range received.ResourceMetrics().All() {
			for _, scope := range resource.ScopeMetrics().All() {
				for _, m := range scope.Metrics().All() {
					call(resource.Resource(), m)
				}
			}
		}
	})
}

func (s *site) lines(prefix string, call func(line []byte)) {
	s.t.Helper()
	content, err := os.ReadFile(s.output())
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		if bytes.HasPrefix(line, []byte(prefix)) && line[len(line)-1] == '\n' {
			call(line)
		}
	}
}

func (s *site) exporter(overHTTP bool) *v1alpha1.TelemetryExporter {
	to := &v1alpha1.OTLPDestination{Endpoint: "https://" + s.grpc, ServerName: name, CaBundle: s.bundle, Gzip: true, NeedsHeaders: true,
		Headers: map[string]string{"authorization": "Bearer " + token}, IntervalNano: int64(100 * time.Millisecond), TimeoutNano: int64(10 * time.Second)}
	if overHTTP {
		to.Endpoint, to.Http = "https://"+s.http, true
	}
	return &v1alpha1.TelemetryExporter{Name: "collector", FlowLogs: true, To: &v1alpha1.TelemetryExporter_Otlp{Otlp: to}}
}

func newExporters(t *testing.T, wanted *v1alpha1.TelemetryExporter) *export.Exporters {
	return exportersOf(t, wanted, gather)
}

func exportersOf(t *testing.T, wanted *v1alpha1.TelemetryExporter, gather func() ([]*dto.MetricFamily, error)) *export.Exporters {
	e := export.New(export.Config{Node: "node-1", Version: "test", Metrics: gather, RetryAfter: 20 * time.Millisecond, RetryAtMost: 200 * time.Millisecond})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.Close(ctx) // what still waits is not this test's business
	})
	e.Apply(&v1alpha1.TelemetryConfig{Exporters: []*v1alpha1.TelemetryExporter{wanted}})
	return e
}

// await looks again whenever some time has passed: the collector's file tells nobody that it grew.
func await(t *testing.T, what string, satisfied func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !satisfied() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func records(from, n int64) []*flowlog.Record {
	made := make([]*flowlog.Record, n)
	for i := range made {
		made[i] = &flowlog.Record{Time: time.Now(), Start: time.Now(), Last: time.Now(), Flow: from + int64(i), Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, Protocol: 6,
			Local:   flowlog.Endpoint{Address: netip.MustParseAddr("10.1.0.7"), Port: 40312, Namespace: "shop", Pod: "web-0", WorkloadKind: "StatefulSet", WorkloadName: "web"},
			Peer:    flowlog.Endpoint{Address: netip.MustParseAddr("10.96.0.20"), Port: 5432, ServiceNamespace: "shop", Service: "db"},
			DNSName: "d\xffb\x1b.", TransmittedPackets: 22, TransmittedBytes: 2200, Verdict: v1alpha1.Verdict_VERDICT_FORWARDED, SampledOneIn: 1}
	}
	return made
}

func gather() ([]*dto.MetricFamily, error) {
	pod := []*dto.LabelPair{{Name: proto.String("namespace"), Value: proto.String("shop")}, {Name: proto.String("pod"), Value: proto.String("web-0")},
		{Name: proto.String("workload"), Value: proto.String("web")}}
	began := timestamppb.New(time.Now().Add(-time.Hour))
	return []*dto.MetricFamily{
		{Name: proto.String("networkobservability_pod_bytes_total"), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{{
			Label: append(pod[:3:3], &dto.LabelPair{Name: proto.String("direction"), Value: proto.String("receive")}), Counter: &dto.Counter{Value: proto.Float64(1234), CreatedTimestamp: began}}}},
		{Name: proto.String("networkobservability_pod_tcp_rtt_seconds"), Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Label: pod, Histogram: &dto.Histogram{
			SampleCount: proto.Uint64(3), SampleSum: proto.Float64(0.3), Schema: proto.Int32(3), CreatedTimestamp: began,
			PositiveSpan: []*dto.BucketSpan{{Offset: proto.Int32(-26), Length: proto.Uint32(2)}}, PositiveDelta: []int64{2, -1}}}}},
	}, nil
}

// both runs a test over gRPC and over HTTP.
func both(t *testing.T, run func(t *testing.T, overHTTP bool)) {
	t.Run("gRPC", func(t *testing.T) { run(t, false) })
	t.Run("HTTP", func(t *testing.T) { run(t, true) })
}

// Metrics and flow logs arrive over TLS with a token, and are what a collector takes them for.
func TestArrives(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSite(t)
		wanted := s.exporter(overHTTP)
		wanted.Metrics = true
		e := newExporters(t, wanted)
		e.Log(records(0, 1000))
		await(t, "flows and metrics", func() bool {
			times, _ := s.flows()
			return len(times) == 1000 && len(s.points()) == 2
		})
		_, last := s.flows()
		for name, want := range map[string]any{"source.address": "10.1.0.7", "source.port": int64(40312), "source.k8s.pod.name": "web-0", "destination.k8s.service.name": "db",
			"network.transport": "tcp", "source.bytes": int64(2200), "flow.verdict": "forwarded", "dns.question.name": `d\255b\027.`} {
			if got, ok := last.Get(name); !ok || got.AsRaw() != want {
				t.Errorf("%s: %v, want %v", name, got.AsRaw(), want)
			}
		}
		all := s.points()
		io := all["k8s.pod.network.io"][0]
		if point := io.Sum().DataPoints().At(0); io.Unit() != "By" || !io.Sum().IsMonotonic() || io.Sum().AggregationTemporality() != pmetric.AggregationTemporalityCumulative ||
			point.IntValue() != 1234 || time.Since(point.StartTimestamp().AsTime()) < 59*time.Minute {
			t.Errorf("%v", io.Sum().DataPoints().At(0).Attributes().AsRaw())
		}
		rtt := all["networkobservability.pod.tcp_rtt"][0].ExponentialHistogram().DataPoints().At(0)
		if rtt.Scale() != 3 || rtt.Count() != 3 || rtt.Positive().Offset() != -27 || fmt.Sprint(rtt.Positive().BucketCounts().AsRaw()) != "[2 1]" {
			t.Errorf("%d %d %d %v", rtt.Scale(), rtt.Count(), rtt.Positive().Offset(), rtt.Positive().BucketCounts().AsRaw())
		}
		if state := e.States()[0]; !state.Reaching || state.Failing || state.Dropped != 0 {
			t.Errorf("%v", state)
		}
	})
}

// fakePods are two pods of a node as the agent's gatherer sees them: one's counters are in the kernel, those by its peer in the
// agent. Nothing is known of the other's beginning.
type fakePods struct {
	bytes atomic.Int64
	began time.Time
	peer  []peers.Counter
}

func (f *fakePods) Config() *v1alpha1.TelemetryConfig {
	return &v1alpha1.TelemetryConfig{Groups: []*v1alpha1.TelemetryGroup{{
		Name: v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC, Labels: []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT}, LabelValuesLimit: 10,
	}}}
}

func (f *fakePods) Pod(key string) *v1alpha1.TelemetryPod {
	return &v1alpha1.TelemetryPod{Key: key, Namespace: "shop", Name: key, Groups: []v1alpha1.TelemetryGroupName{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC}}
}

func (f *fakePods) Node() *v1alpha1.NodeStats { return &v1alpha1.NodeStats{} }

func (f *fakePods) PodOnly(pod *podmap.Pod, _ ...string) *v1alpha1.PodStats {
	row := &v1alpha1.PodStats{Key: pod.Key, Measurement: &v1alpha1.Measurement{}, Traffic: &v1alpha1.Traffic{
		Receive: &v1alpha1.DirectionTraffic{Ipv4Unicast: &v1alpha1.Counters{Bytes: f.bytes.Add(1000), Packets: 1}}}}
	if pod.Key == "known" {
		row.Measurement.StartUnixNano = f.began.UnixNano()
	}
	return row
}

func (f *fakePods) Read(yield func(peers.Counter) bool) {
	for _, one := range f.peer {
		if !yield(one) {
			return
		}
	}
}

func (f *fakePods) Folded() int64 { return 0 }

// agent is a gatherer that has just been started, as after a restart.
func (f *fakePods) agent() *metrics.Metrics {
	return metrics.New(metrics.Config{
		Pods:      func() []*podmap.Pod { return []*podmap.Pod{{Key: "known"}, {Key: "unknown"}} },
		Read:      func() metrics.Reading { return f },
		Telemetry: f, Peers: f,
	})
}

// Sums say since when they count. What is kept in the kernel goes on over a restart of the agent, and its start with it; what the
// agent keeps begins anew; and a start that is not known is not sent.
func TestStartTimes(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSite(t)
		wanted := s.exporter(overHTTP)
		wanted.Metrics, wanted.FlowLogs = true, false
		world := &fakePods{began: time.Now().Add(-3 * time.Hour)}
		var exchanged []time.Time
		for agent := range 2 {
			exchanged = append(exchanged, time.Now().Add(time.Duration(agent-2)*time.Minute))
			world.peer = []peers.Counter{{PodKey: "known", Labels: peers.Labels{Protocol: "TCP", Port: "80"}, Bytes: [2]int64{5, 0}, Began: timestamppb.New(exchanged[agent])}}
			e := exportersOf(t, wanted, world.agent().Gather)
			await(t, "points of two gatherings", func() bool { return len(s.pointsOf("k8s.pod.network.io", "known", "receive")) >= 2*(agent+1) })
			e.Apply(&v1alpha1.TelemetryConfig{})
		}
		known := s.pointsOf("k8s.pod.network.io", "known", "receive")
		for i, point := range known {
			if !point.StartTimestamp().AsTime().Equal(world.began) || i > 0 && point.IntValue() <= known[i-1].IntValue() {
				t.Errorf("point %d: %d bytes since %v, want more than before since %v", i, point.IntValue(), point.StartTimestamp().AsTime(), world.began)
			}
		}
		for _, point := range s.pointsOf("k8s.pod.network.io", "unknown", "receive") {
			if point.StartTimestamp() != 0 {
				t.Errorf("a start that is not known is %v", point.StartTimestamp().AsTime())
			}
		}
		peers := s.pointsOf("networkobservability.pod.peer.io", "known", "receive")
		if len(peers) == 0 || !peers[0].StartTimestamp().AsTime().Equal(exchanged[0]) || !peers[len(peers)-1].StartTimestamp().AsTime().Equal(exchanged[1]) {
			t.Errorf("counters by peer began at %v", peers)
		}
	})
}

// pointsOf are those of a sum of a pod and direction, in the order in which they arrived.
func (s *site) pointsOf(name, pod, direction string) (points []pmetric.NumberDataPoint) {
	s.t.Helper()
	s.metrics(func(of pcommon.Resource, m pmetric.Metric) {
		if is, _ := of.Attributes().Get("k8s.pod.name"); m.Name() != name || is.AsString() != pod {
			return
		}
		for _, point := range m.Sum().DataPoints().All() {
			if way, _ := point.Attributes().Get("network.io.direction"); way.AsString() == direction {
				points = append(points, point)
			}
		}
	})
	return points
}

// A collector that wants client certificates takes what comes with one of its authority, and nothing else.
func TestClientCertificate(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		dir := t.TempDir()
		file, keyFile, certificatePEM := certificate(t, dir)
		key, err := os.ReadFile(keyFile)
		if err != nil {
			t.Fatal(err)
		}
		s := newStrictSite(t, file)
		wanted := s.exporter(overHTTP)
		e := newExporters(t, wanted)
		e.Log(records(0, 10))
		await(t, "the refusal", func() bool { return e.States()[0].Failing })
		if message := e.States()[0].Message; !strings.Contains(message, "it asks for a client certificate: name one in otlp.clientCertificateSecret") {
			t.Errorf("without one: %s", message)
		}
		known := proto.CloneOf(wanted)
		known.GetOtlp().NeedsClientCertificate, known.GetOtlp().ClientCertificate, known.GetOtlp().ClientKey = true, certificatePEM, key
		e.Apply(&v1alpha1.TelemetryConfig{Exporters: []*v1alpha1.TelemetryExporter{known}})
		await(t, "what waited", func() bool { times, _ := s.flows(); return len(times) == 10 })
		await(t, "the exporter's state", func() bool { return e.States()[0].Reaching && e.States()[0].Sent == 10 })
	})
}

// A wrong token is a drop with its reason, and nowhere to be read though the collector echoes it.
func TestWrongToken(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSite(t)
		wanted := s.exporter(overHTTP)
		wanted.GetOtlp().Headers["authorization"] = "Bearer canary-wrong"
		e := newExporters(t, wanted)
		e.Log(records(0, 10))
		await(t, "the drop", func() bool { return e.States()[0].Dropped == 10 && e.States()[0].Failing })
		state := e.States()[0]
		if strings.Contains(state.Message, "canary") {
			t.Errorf("%v", state)
		}
		t.Log(state.Message)
	})
}

// A collector that is killed while flows are made misses none of them: those that it did not answer for are sent again.
func TestKilled(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSite(t)
		e := newExporters(t, s.exporter(overHTTP))
		given := int64(0)
		some := func(n int) {
			for range n {
				e.Log(records(given, 50))
				given += 50
			}
		}
		some(20)
		await(t, "the first flows", func() bool { times, _ := s.flows(); return len(times) > 0 })
		some(20)
		s.kill() // while it is being sent to
		some(60)
		await(t, "a failure", func() bool { return e.States()[0].Failing })
		if state := e.States()[0]; state.Dropped != 0 || state.Sent == given {
			t.Errorf("of %d: %v", given, state)
		}
		s.start()
		await(t, "everything", func() bool { return e.States()[0].Sent == given })
		times, _ := s.flows()
		twice := 0
		for _, n := range times {
			if n > 1 {
				twice++
			}
		}
		if int64(len(times)) != given || e.States()[0].Dropped != 0 {
			t.Errorf("%d of %d arrived, %v", len(times), given, e.States()[0])
		}
		t.Logf("%d flows, %d of which arrived twice, since the collector ended before it answered", given, twice)
	})
}

// What does not fit into the queue while the collector is away is missing, and it is exactly what was counted.
func TestKilledForLong(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSite(t)
		wanted := s.exporter(overHTTP)
		wanted.GetOtlp().QueueBytes = 1 << 20
		e := newExporters(t, wanted)
		e.Log(records(0, 500))
		await(t, "the first flows", func() bool { return e.States()[0].Sent == 500 })
		s.kill()
		const given = 500 + 100*100
		for i := range int64(100) {
			e.Log(records(500+100*i, 100))
		}
		dropped := e.States()[0].Dropped
		s.start()
		await(t, "what waited", func() bool { return e.States()[0].Sent+e.States()[0].Dropped == given })
		times, _ := s.flows()
		state := e.States()[0]
		if int64(len(times)) != state.Sent || given-int64(len(times)) != state.Dropped || state.Dropped != dropped || dropped == 0 {
			t.Errorf("%d arrived of %d, %d were dropped before: %v", len(times), given, dropped, state)
		}
		for i := range int64(500) {
			if times[given-1-i] == 0 {
				t.Fatalf("flow %d is missing: what is newest stays", given-1-i)
			}
		}
		t.Logf("of %d flows %d arrived and %d were counted as dropped", given, len(times), state.Dropped)
	})
}
