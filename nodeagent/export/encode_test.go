package export

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	logsservice "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metricsservice "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

var here = about{Node: "node-1", Cluster: "east", Version: "v1.2.3"}

func decodeLogs(t *testing.T, payload []byte) []*logs.LogRecord {
	t.Helper()
	var request logsservice.ExportLogsServiceRequest
	if err := proto.Unmarshal(payload, &request); err != nil {
		t.Fatal(err)
	}
	var records []*logs.LogRecord
	for _, resource := range request.GetResourceLogs() {
		if got := attributesOf(resource.GetResource().GetAttributes()); !maps.Equal(got, map[string]any{"service.name": "networkobservability-nodeagent",
			"service.version": "v1.2.3", "k8s.cluster.name": "east", "k8s.node.name": "node-1", "service.instance.id": "node-1"}) {
			t.Errorf("resource %v", got)
		}
		for _, scope := range resource.GetScopeLogs() {
			records = append(records, scope.GetLogRecords()...)
		}
	}
	return records
}

// What a record becomes, read by the code that is generated from the protocol.
func TestFlowAsOTLP(t *testing.T) {
	payload := otlpEncoder{here}.EncodeLogs([]*flowlog.Record{flow(7)})
	record := decodeLogs(t, payload)[0]
	want := map[string]any{
		"source.address": "10.1.0.7", "source.port": int64(40312), "source.k8s.namespace.name": "shop", "source.k8s.pod.name": "web-0",
		"source.k8s.workload.kind": "StatefulSet", "source.k8s.workload.name": "web",
		"destination.address": "10.96.0.20", "destination.port": int64(5432), "destination.k8s.service.namespace": "shop", "destination.k8s.service.name": "db",
		"destination.translated.address": "10.1.1.9", "destination.translated.port": int64(5432), "destination.translated.k8s.namespace.name": "shop",
		"destination.translated.k8s.pod.name": "db-0", "destination.translated.k8s.workload.kind": "StatefulSet", "destination.translated.k8s.workload.name": "db",
		"network.transport": "tcp", "network.type": "ipv4", "network.io.direction": "transmit", "dns.question.name": "db.shop.svc.cluster.local.",
		"source.packets": int64(22), "source.bytes": int64(2200), "destination.packets": int64(11), "destination.bytes": int64(1100),
		"source.tcp.flags": "FIN,SYN,PSH,ACK", "destination.tcp.flags": "SYN,ACK", "flow.tcp.handshake": 0.00043,
		"flow.id": int64(7), "flow.start": "2026-11-01T11:59:00.000000005Z", "flow.last": "2026-11-01T11:59:59.000000005Z", "flow.ended": true,
		"flow.verdict": "dropped", "flow.dropped_packets": int64(3), "flow.drop_reason": "NETFILTER_DROP", "flow.sampled_one_in": int64(4),
	}
	if got := attributesOf(record.GetAttributes()); !maps.Equal(got, want) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				t.Errorf("%s: %v, want %v", name, got[name], want[name])
			}
			delete(got, name)
		}
		t.Errorf("beyond what was expected: %v", got)
	}
	if record.GetEventName() != flowEvent || record.GetSeverityNumber() != logs.SeverityNumber_SEVERITY_NUMBER_WARN || record.GetSeverityText() != "WARN" ||
		record.GetTimeUnixNano() != uint64(now.UnixNano()) || record.GetObservedTimeUnixNano() != uint64(now.UnixNano()) {
		t.Errorf("%v", record)
	}
	if want := "tcp shop/web-0 -> shop/db:5432 dropped (NETFILTER_DROP)"; record.GetBody().GetStringValue() != want {
		t.Errorf("body %q, want %q", record.GetBody().GetStringValue(), want)
	}
	// Payloads, appended, are a payload.
	if joined := decodeLogs(t, append(payload, otlpEncoder{here}.EncodeLogs(flows(8, 2))...)); len(joined) != 3 {
		t.Errorf("%d records in joined payloads", len(joined))
	}
}

// A flow that the peer opened has the peer as its source.
func TestFlowOpenedByThePeer(t *testing.T) {
	r := flow(1)
	r.Direction, r.Verdict, r.DropReason = v1alpha1.Direction_DIRECTION_RECEIVE, v1alpha1.Verdict_VERDICT_FORWARDED, ""
	r.Translated, r.SampledOneIn = flowlog.Endpoint{}, 0
	record := decodeLogs(t, otlpEncoder{here}.EncodeLogs([]*flowlog.Record{r}))[0]
	got := attributesOf(record.GetAttributes())
	for name, want := range map[string]any{"source.address": "10.96.0.20", "destination.address": "10.1.0.7", "destination.k8s.pod.name": "web-0",
		"network.io.direction": "receive", "source.bytes": int64(1100), "destination.bytes": int64(2200), "source.tcp.flags": "SYN,ACK", "flow.sampled_one_in": int64(1)} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	if record.GetSeverityNumber() != logs.SeverityNumber_SEVERITY_NUMBER_INFO {
		t.Errorf("severity %v", record.GetSeverityNumber())
	}
}

// Lines of JSON have what OTLP has, by the same names.
func TestFlowAsJSON(t *testing.T) {
	encoded := jsonEncoder{here}.EncodeLogs([]*flowlog.Record{flow(7), flow(8)})
	lines := strings.Split(strings.TrimSuffix(string(encoded), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"timestamp": "2026-11-01T12:00:00.000000005Z", "severity": "WARN", "event": flowEvent, "k8s.cluster.name": "east", "k8s.node.name": "node-1"}
	for name, value := range attributesOf(decodeLogs(t, otlpEncoder{here}.EncodeLogs([]*flowlog.Record{flow(7)}))[0].GetAttributes()) {
		if number, is := value.(int64); is {
			value = float64(number)
		}
		want[name] = value
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Whatever a pod made the agent see: one line, valid, without a byte that a terminal would obey.
func checkLine(t *testing.T, dnsName, reason string) {
	t.Helper()
	r := flow(1)
	r.DNSName, r.DropReason = dnsName, reason
	line := jsonEncoder{here}.EncodeLogs([]*flowlog.Record{r})
	var got map[string]any
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if !utf8.Valid(line) || strings.ContainsFunc(strings.TrimSuffix(string(line), "\n"), func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 }) {
		t.Fatalf("%q", line)
	}
	if _, own := got["severity"]; !own || got["flow.verdict"] != "dropped" {
		t.Fatalf("%q", line)
	}
	decodeLogs(t, otlpEncoder{here}.EncodeLogs([]*flowlog.Record{r})) // which fails for text that is not UTF-8
}

func FuzzFlow(f *testing.F) {
	f.Add("db.shop.svc.cluster.local.", "NETFILTER_DROP")
	f.Add("\x1b[2J\x00\n\",\"flow.verdict\":\"forwarded\\", "\xff\xfe\u009b\u2028\u202e")
	f.Add(strings.Repeat("\x00", 3000), "\\\"")
	f.Fuzz(checkLine)
}

func decodeMetrics(t *testing.T, made []Batch) map[string]map[string]*metrics.Metric {
	t.Helper()
	all := map[string]map[string]*metrics.Metric{}
	for _, batch := range made {
		var request metricsservice.ExportMetricsServiceRequest
		if err := proto.Unmarshal(batch.Payload, &request); err != nil {
			t.Fatal(err)
		}
		for _, resource := range request.GetResourceMetrics() {
			attributes := attributesOf(resource.GetResource().GetAttributes())
			instance := fmt.Sprint(attributes["service.instance.id"])
			if all[instance] == nil {
				all[instance] = map[string]*metrics.Metric{}
			}
			if resource.GetSchemaUrl() != schemaURL || attributes["k8s.node.name"] != "node-1" {
				t.Errorf("%v", resource)
			}
			for _, m := range resource.GetScopeMetrics()[0].GetMetrics() {
				if before := all[instance][m.GetName()]; before != nil {
					proto.Merge(before, m)
				} else {
					all[instance][m.GetName()] = m
				}
			}
		}
	}
	return all
}

func TestMetricsAsOTLP(t *testing.T) {
	all := decodeMetrics(t, otlpEncoder{here}.EncodeMetrics(families(3), now))
	if len(all) != 4 {
		t.Fatalf("%d resources", len(all))
	}
	io := all["uid-1"]["k8s.pod.network.io"]
	if io.GetUnit() != "By" || !io.GetSum().GetIsMonotonic() || io.GetSum().GetAggregationTemporality() != metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
		t.Errorf("%v", io)
	}
	point := io.GetSum().GetDataPoints()[0]
	if point.GetAsInt() != 1007 || point.GetStartTimeUnixNano() != uint64(began.AsTime().UnixNano()) || point.GetTimeUnixNano() != uint64(now.UnixNano()) ||
		!maps.Equal(attributesOf(point.GetAttributes()), map[string]any{"network.io.direction": "receive"}) {
		t.Errorf("%v", point)
	}
	failed := all["uid-1"]["k8s.pod.network.errors"].GetSum().GetDataPoints()
	if len(failed) != 1 || failed[0].GetAsInt() != 2*1007 { // both reasons that are not benign
		t.Errorf("%v", failed)
	}
	if drops := all["uid-1"]["networkobservability.pod.dropped_packets"]; drops.GetUnit() != "{packet}" || len(drops.GetSum().GetDataPoints()) != 3 {
		t.Errorf("%v", drops)
	}
	if states := all["uid-2"]["networkobservability.pod.tcp_connections"].GetGauge().GetDataPoints(); len(states) != 5 ||
		attributesOf(states[0].GetAttributes())["network.connection.state"] != "established" || states[0].GetAsDouble() != 3 {
		t.Errorf("%v", states)
	}
	node := all["node-1"]
	if got := node["k8s.node.network.io"].GetSum().GetDataPoints()[0]; got.GetAsInt() != 1e15+1 || attributesOf(got.GetAttributes())["network.interface.name"] != "eth0" {
		t.Errorf("%v", got)
	}
	if got := node["process.cpu"]; got.GetUnit() != "s" || got.GetSum().GetDataPoints()[0].GetAsDouble() != 1.25 {
		t.Errorf("%v", got)
	}
}

// Buckets are the same: OTLP's bucket i is Prometheus's i+1.
func TestHistogramAsOTLP(t *testing.T) {
	all := decodeMetrics(t, otlpEncoder{here}.EncodeMetrics(families(1), now))
	rtt := all["uid-0"]["networkobservability.pod.tcp_rtt"]
	point := rtt.GetExponentialHistogram().GetDataPoints()[0]
	buckets := point.GetPositive()
	if rtt.GetUnit() != "s" || point.GetScale() != 3 || point.GetCount() != 13 || point.GetSum() != 0.5 || buckets.GetOffset() != -81 || len(buckets.GetBucketCounts()) != 41 {
		t.Fatalf("%v", point)
	}
	for i, want := range map[int]uint64{0: 5, 1: 0, 2: 7, 3: 0, 39: 0, 40: 1} {
		if got := buckets.GetBucketCounts()[i]; got != want {
			t.Errorf("bucket %d: %d, want %d", i, got, want)
		}
	}
	classic := histogram()
	classic.Histogram.Schema = nil
	other := decodeMetrics(t, otlpEncoder{here}.EncodeMetrics([]*dto.MetricFamily{family("go_some_seconds", dto.MetricType_HISTOGRAM, classic)}, now))
	got := other["node-1"]["go.some"].GetHistogram().GetDataPoints()[0]
	if !slices.Equal(got.GetBucketCounts(), []uint64{5, 8}) || !slices.Equal(got.GetExplicitBounds(), []float64{0.0009765625}) {
		t.Errorf("%v", got)
	}
	summary := &dto.Metric{Summary: &dto.Summary{SampleCount: proto.Uint64(4), SampleSum: proto.Float64(2), Quantile: []*dto.Quantile{
		{Quantile: proto.Float64(0.5), Value: proto.Float64(1)}, {Quantile: proto.Float64(1), Value: proto.Float64(math.NaN())}}}}
	other = decodeMetrics(t, otlpEncoder{here}.EncodeMetrics([]*dto.MetricFamily{family("go_gc_duration_seconds", dto.MetricType_SUMMARY, summary)}, now))
	if got := other["node-1"]["go.gc_duration"].GetSummary().GetDataPoints()[0]; got.GetCount() != 4 || len(got.GetQuantileValues()) != 1 {
		t.Errorf("%v", got)
	}
}

// A node full of pods makes several batches, each well below what collectors take, and no point is lost between them.
func TestMetricsAreSplit(t *testing.T) {
	made := otlpEncoder{here}.EncodeMetrics(families(250), now)
	var items, points int64
	s := newSink()
	for _, batch := range made {
		if len(batch.Payload) > 1<<20 {
			t.Errorf("a batch has %d bytes", len(batch.Payload))
		}
		items += batch.Items
		var request metricsservice.ExportMetricsServiceRequest
		if err := proto.Unmarshal(batch.Payload, &request); err != nil {
			t.Fatal(err)
		}
		s.takeMetrics(&request)
	}
	points = s.points
	want := int64(3 + 250*(2+2+3+1+5+2+5+2+2+1+4+2+2+1+2)) // 1: errors, which are made of drops
	if len(made) < 3 || items != points || points != want {
		t.Errorf("%d batches say %d items and have %d points, want %d", len(made), items, points, want)
	}
}

// A collector that makes a name for Prometheus of ours comes back to ours: dots become underscores, units and _total come
// behind (the specification's "Prometheus and OpenMetrics compatibility").
func TestNamesComeBack(t *testing.T) {
	suffix := map[string]string{"By": "_bytes", "s": "_seconds"}
	seen := map[string]string{}
	for _, f := range families(1) {
		in := instrumentOf(f)
		if before, twice := seen[in.name]; twice {
			t.Errorf("%s and %s are both %s", before, f.GetName(), in.name)
		}
		seen[in.name] = f.GetName()
		if _, known := conventional[f.GetName()]; known {
			continue
		}
		name := strings.ReplaceAll(in.name, ".", "_") + suffix[in.unit]
		if in.kind == dto.MetricType_COUNTER {
			name += "_total"
		}
		if name != f.GetName() {
			t.Errorf("%s is %s (%s), which comes back as %s", f.GetName(), in.name, in.unit, name)
		}
	}
}

func TestLabelsAsAttributes(t *testing.T) {
	made := otlpEncoder{here}.EncodeMetrics([]*dto.MetricFamily{
		family(ours+"pod_peer_bytes_total", dto.MetricType_COUNTER,
			counter(1, "namespace", "shop", "pod", "web-0", "workload", "web-0", "direction", "receive", "peer_namespace", "data", "peer_workload", "db",
				"service_namespace", "data", "service", "db", "protocol", "TCP", "port", "5432", "dns_name", "\x1b"),
			counter(2, "namespace", "shop", "pod", "web-0", "workload", "web-0", "direction", "receive", "peer_namespace", "other", "peer_workload", "other", "protocol", "other", "port", "other")),
		family(podDrops, dto.MetricType_COUNTER, counter(3, "namespace", "other", "pod", "other", "workload", "other", "class", "policy", "reason", "X", "port", "80"))}, now)
	all := decodeMetrics(t, made)
	points := all["node-1.shop.web-0"]["networkobservability.pod.peer.io"].GetSum().GetDataPoints()
	if got := attributesOf(points[0].GetAttributes()); !maps.Equal(got, map[string]any{"network.io.direction": "receive", "peer.k8s.namespace.name": "data", "peer.k8s.workload.name": "db",
		"peer.k8s.service.namespace": "data", "peer.k8s.service.name": "db", "network.transport": "tcp", "server.port": int64(5432), "dns.question.name": `\027`}) {
		t.Errorf("%v", got)
	}
	if got := attributesOf(points[1].GetAttributes()); !maps.Equal(got, map[string]any{"network.io.direction": "receive", "peer.k8s.namespace.name": "other", "peer.k8s.workload.name": "other", "network.transport": "other"}) {
		t.Errorf("%v", got)
	}
	if got := attributesOf(all["node-1.other.other"]["networkobservability.pod.dropped_packets"].GetSum().GetDataPoints()[0].GetAttributes()); got["destination.port"] != int64(80) {
		t.Errorf("%v", got)
	}
}

func BenchmarkMetricsOf110Pods(b *testing.B) {
	all := families(110)
	b.ReportAllocs()
	var size, points int64
	for b.Loop() {
		size, points = 0, 0
		for _, batch := range (otlpEncoder{here}).EncodeMetrics(all, now) {
			size, points = size+int64(len(batch.Payload)), points+batch.Items
		}
	}
	b.ReportMetric(float64(size), "bytes/gathering")
	b.ReportMetric(float64(points), "points/gathering")
}

func BenchmarkFlows(b *testing.B) {
	records := flows(0, 10_000)
	for name, encoder := range map[string]Encoder{"OTLP": otlpEncoder{here}, "JSON": jsonEncoder{here}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var size int
			for b.Loop() {
				size = len(encoder.EncodeLogs(records))
			}
			b.ReportMetric(float64(size)/10_000, "bytes/record")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/record")
		})
	}
}
