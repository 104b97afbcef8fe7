package export

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"compress/gzip"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	logsservice "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metricsservice "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long to wait for what happens in the background, on a machine that is busy and slow.
const patience = 2 * time.Minute

// aside is where a test listens that gives up its port and takes it again later: nobody connects from this address, so the kernel
// has not given that port to somebody else meanwhile.
const aside = "127.0.0.2:0"

// A sink is a collector as its own makers' types have it: it receives by the generated services, over gRPC and HTTP.
type sink struct {
	logsservice.UnimplementedLogsServiceServer
	metricsService
	url     string
	bundle  []byte
	mu      sync.Mutex
	answer  func(attempt int) error // nil for taking everything
	http    func(attempt int, w http.ResponseWriter) bool
	rejects int64
	seen    int
	headers []map[string][]string
	records []string // flow.id of each log record, in order
	points  int64
	changed chan struct{}
}

type metricsService struct {
	metricsservice.UnimplementedMetricsServiceServer
	sink *sink
}

func newSink() *sink {
	s := &sink{changed: make(chan struct{})}
	s.metricsService.sink = s
	return s
}

// serveGRPC serves at an address until the returned function is called.
func (s *sink) serveGRPC(t *testing.T, address string, transport credentials.TransportCredentials) (stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	s.url = "http://" + listener.Addr().String()
	if transport != nil {
		options = append(options, grpc.Creds(transport))
		s.url = "https://" + listener.Addr().String()
	}
	server := grpc.NewServer(options...)
	logsservice.RegisterLogsServiceServer(server, s)
	metricsservice.RegisterMetricsServiceServer(server, &s.metricsService)
	go func() { _ = server.Serve(listener) }()
	stop = sync.OnceFunc(server.Stop)
	t.Cleanup(stop)
	return stop
}

func (s *sink) Export(ctx context.Context, r *logsservice.ExportLogsServiceRequest) (*logsservice.ExportLogsServiceResponse, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	if err := s.attempt(headers); err != nil {
		return nil, err
	}
	return s.takeLogs(r), nil
}

func (m *metricsService) Export(ctx context.Context, r *metricsservice.ExportMetricsServiceRequest) (*metricsservice.ExportMetricsServiceResponse, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	if err := m.sink.attempt(headers); err != nil {
		return nil, err
	}
	return m.sink.takeMetrics(r), nil
}

func (s *sink) attempt(headers map[string][]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	s.headers = append(s.headers, headers)
	s.tell()
	if s.answer != nil {
		return s.answer(s.seen)
	}
	return nil
}

func (s *sink) takeLogs(r *logsservice.ExportLogsServiceRequest) *logsservice.ExportLogsServiceResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.GetResourceLogs() {
		for _, scope := range resource.GetScopeLogs() {
			for _, record := range scope.GetLogRecords() {
				s.records = append(s.records, fmt.Sprint(attributesOf(record.GetAttributes())["flow.id"]))
			}
		}
	}
	s.tell()
	answer := &logsservice.ExportLogsServiceResponse{}
	if s.rejects > 0 {
		answer.PartialSuccess = &logsservice.ExportLogsPartialSuccess{RejectedLogRecords: s.rejects, ErrorMessage: "too old"}
	}
	return answer
}

func (s *sink) takeMetrics(r *metricsservice.ExportMetricsServiceRequest) *metricsservice.ExportMetricsServiceResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.GetResourceMetrics() {
		for _, scope := range resource.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				s.points += int64(len(m.GetGauge().GetDataPoints()) + len(m.GetSum().GetDataPoints()) + len(m.GetHistogram().GetDataPoints()) +
					len(m.GetExponentialHistogram().GetDataPoints()) + len(m.GetSummary().GetDataPoints()))
			}
		}
	}
	s.tell()
	return &metricsservice.ExportMetricsServiceResponse{}
}

// tell says that something changed. mu is held.
func (s *sink) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until what was received satisfies.
func (s *sink) await(t *testing.T, what string, satisfied func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		ok, changed := satisfied(), s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// serveHTTP serves OTLP/HTTP below a path.
func (s *sink) serveHTTP(t *testing.T, path string, config *tls.Config) (stop func()) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.overHTTP(path, w, r); err != nil {
			t.Error(err)
		}
	}))
	if config != nil {
		server.TLS = config
		server.StartTLS()
	} else {
		server.Start()
	}
	s.url = server.URL + path
	stop = sync.OnceFunc(server.Close)
	t.Cleanup(stop)
	return stop
}

func (s *sink) overHTTP(path string, w http.ResponseWriter, r *http.Request) error {
	_ = s.attempt(r.Header)
	s.mu.Lock()
	refuse, attempt := s.http, s.seen
	s.mu.Unlock()
	if refuse != nil && refuse(attempt, w) {
		return nil
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		body = unzipped
	}
	payload, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("content type %q", r.Header.Get("Content-Type"))
	}
	var answer proto.Message
	switch strings.TrimPrefix(r.URL.Path, path) {
	case "/v1/logs":
		var request logsservice.ExportLogsServiceRequest
		if err := proto.Unmarshal(payload, &request); err != nil {
			return err
		}
		answer = s.takeLogs(&request)
	case "/v1/metrics":
		var request metricsservice.ExportMetricsServiceRequest
		if err := proto.Unmarshal(payload, &request); err != nil {
			return err
		}
		answer = s.takeMetrics(&request)
	default:
		return fmt.Errorf("path %q", r.URL.Path)
	}
	encoded, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = w.Write(encoded)
	return err
}

// attributesOf are attributes as Go's values.
func attributesOf(pairs []*common.KeyValue) map[string]any {
	all := map[string]any{}
	for _, pair := range pairs {
		switch v := pair.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			all[pair.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			all[pair.GetKey()] = v.IntValue
		case *common.AnyValue_DoubleValue:
			all[pair.GetKey()] = v.DoubleValue
		case *common.AnyValue_BoolValue:
			all[pair.GetKey()] = v.BoolValue
		default:
			all[pair.GetKey()] = fmt.Sprintf("unexpected %T", v)
		}
	}
	return all
}

// authority makes a certificate for 127.0.0.1 under a name, and the bundle to check it by.
func authority(t *testing.T, name string) (certificate tls.Certificate, bundle []byte) {
	t.Helper()
	certificate = signed(t, name, time.Now().Add(time.Hour))
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
}

// signed makes a certificate that is its own authority.
func signed(t *testing.T, name string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

var now = time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC)

// flow is a record whose number is in flow.id.
func flow(number int64) *flowlog.Record {
	return &flowlog.Record{
		Time: now, Start: now.Add(-time.Minute), Last: now.Add(-time.Second), Flow: number, Ended: true,
		Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, Protocol: tcpProtocol,
		Local:      flowlog.Endpoint{Address: netip.MustParseAddr("10.1.0.7"), Port: 40312, Namespace: "shop", Pod: "web-0", WorkloadKind: "StatefulSet", WorkloadName: "web", Node: ""},
		Peer:       flowlog.Endpoint{Address: netip.MustParseAddr("10.96.0.20"), Port: 5432, ServiceNamespace: "shop", Service: "db"},
		Translated: flowlog.Endpoint{Address: netip.MustParseAddr("10.1.1.9"), Port: 5432, Namespace: "shop", Pod: "db-0", WorkloadKind: "StatefulSet", WorkloadName: "db"},
		DNSName:    "db.shop.svc.cluster.local.", ReceivedPackets: 11, ReceivedBytes: 1100, TransmittedPackets: 22, TransmittedBytes: 2200,
		DroppedPackets: 3, Verdict: v1alpha1.Verdict_VERDICT_DROPPED, DropReason: "NETFILTER_DROP", ReceivedFlags: 0x12, TransmittedFlags: 0x1b,
		Handshake: 430 * time.Microsecond, SampledOneIn: 4,
	}
}

func flows(from, n int64) []*flowlog.Record {
	made := make([]*flowlog.Record, n)
	for i := range made {
		made[i] = flow(from + int64(i))
	}
	return made
}

// exporters are quick to try again, and closed with the test.
func exporters(t *testing.T, change func(*Config)) *Exporters {
	config := Config{Node: "node-1", Cluster: "east", Version: "v1.2.3", LogsDir: t.TempDir(), Stdout: io.Discard,
		RetryAfter: time.Millisecond, RetryAtMost: 20 * time.Millisecond,
		Metrics: func() ([]*dto.MetricFamily, error) { return families(2), nil }}
	if change != nil {
		change(&config)
	}
	e := New(config)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.Close(ctx) // what still waits is not this test's business
	})
	return e
}

func configOf(exporters ...*v1alpha1.TelemetryExporter) *v1alpha1.TelemetryConfig {
	return &v1alpha1.TelemetryConfig{Exporters: exporters}
}

// toSink is an exporter of flow logs. No request is given up, and so sent twice, because the machine is slow.
func toSink(s *sink, overHTTP bool) *v1alpha1.TelemetryExporter {
	return &v1alpha1.TelemetryExporter{Name: "collector", FlowLogs: true, To: &v1alpha1.TelemetryExporter_Otlp{Otlp: &v1alpha1.OTLPDestination{
		Endpoint: s.url, Http: overHTTP, Gzip: true, CaBundle: s.bundle, IntervalNano: int64(50 * time.Millisecond), TimeoutNano: int64(patience)}}}
}

// tally is what a destination counts of a signal.
func (e *Exporters) tally(name string, s Signal) (c counts, waiting int64) {
	for _, d := range e.all() {
		if d.name == name {
			c, waiting, _ = d.queue.snapshot(s)
		}
	}
	return c, waiting
}

func (c counts) droppedInAll() (n int64) {
	for _, dropped := range c.dropped {
		n += dropped
	}
	return n
}
