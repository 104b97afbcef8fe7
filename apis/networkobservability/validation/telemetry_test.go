package validation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func telemetryOf(t *testing.T, spec string) *v1alpha1.NetworkTelemetry {
	t.Helper()
	telemetry := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "cluster"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &telemetry.Spec); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return telemetry
}

// check compares what is said with lines that begin as want does, in this order.
func checkSaid(t *testing.T, about string, errs field.ErrorList, want ...string) {
	t.Helper()
	if len(errs) != len(want) {
		t.Errorf("%.200s: says %v, want %q", about, errs, want)
		return
	}
	for i, one := range errs {
		if !strings.HasPrefix(one.Error(), want[i]) {
			t.Errorf("%.200s: says\n%s\nwant\n%s", about, one, want[i])
		}
	}
}

const otlpTo = "exporters: [{name: a, signals: [Metrics], otlp: {endpoint: '%s'%s}}]"

func TestNetworkTelemetry(t *testing.T) {
	for spec, want := range map[string][]string{
		"{}": nil,
		`{seriesLimit: 1000, retinaMetrics: true, podMetrics: [{group: Traffic, labels: [PeerWorkload, Service, Port, DNSName], labelValuesLimit: 50, intervalSeconds: 300,
			pods: {namespaceSelector: {matchLabels: {team: a}}, selector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}}},
			{group: Drops, labels: [Port]}, {group: TCP, pods: {}}, {group: DNS, labels: [DNSName]}, {group: APIServer, intervalSeconds: 0}],
			flowLogs: {verdicts: [Forwarded, Dropped, Rejected], intervalSeconds: 5, sampleOneIn: 1000000},
			exporters: [{name: a, signals: [Metrics, FlowLogs], otlp: {endpoint: "https://[2001:db8::1]:4317", headersSecret: {name: networkobservability-telemetry}, serverName: c.example.com}},
			{name: b, signals: [FlowLogs], file: {maxMebibytes: 1024, maxFiles: 1}}, {name: c, signals: [FlowLogs], stdout: {}},
			{name: d, signals: [Metrics], otlp: {endpoint: "http://127.0.0.1:4318/team/a/", protocol: HTTP, compression: None, intervalSeconds: 3600, timeoutSeconds: 60, queueMebibytes: 64}}]}`: nil,

		"podMetrics: [{group: Traffic}, {group: Traffic}]":                                                              {`spec.podMetrics[1].group: Duplicate value: "Traffic"`},
		"podMetrics: [{group: traffic}]":                                                                                {`spec.podMetrics[0].group: Unsupported value: "traffic": supported values: "Traffic", "Drops", "TCP", "DNS", "APIServer"`},
		"podMetrics: [{}]":                                                                                              {"spec.podMetrics[0].group: Required value: give Traffic, Drops, TCP, DNS or APIServer"},
		"podMetrics: [{group: A}, {group: A}, {}, {}, {}, {}]":                                                          {"spec.podMetrics: Too many: 6: must have at most 5 items"},
		"podMetrics: [{group: TCP, labels: [Port]}]":                                                                    {"spec.podMetrics[0].labels: Forbidden: group TCP has no labels that can be asked for; leave them out"},
		"podMetrics: [{group: APIServer, labels: [Nonsense]}]":                                                          {"spec.podMetrics[0].labels: Forbidden: group APIServer has no labels"},
		"podMetrics: [{group: Drops, labels: [Service]}]":                                                               {`spec.podMetrics[0].labels[0]: Unsupported value: "Service": supported values: "Port"`},
		"podMetrics: [{group: DNS, labels: [DNSName, DNSName]}]":                                                        {"spec.podMetrics[0].labels: Too many: 2: must have at most 1 item"},
		"podMetrics: [{group: Traffic, labels: [Port, Port]}]":                                                          {`spec.podMetrics[0].labels[1]: Duplicate value: "Port"`},
		"podMetrics: [{group: Traffic, labels: [Node]}]":                                                                {`spec.podMetrics[0].labels[0]: Unsupported value: "Node": supported values: "PeerWorkload", "Service", "Port", "DNSName"`},
		"podMetrics: [{group: Traffic, labelValuesLimit: 0}]":                                                           {"spec.podMetrics[0].labelValuesLimit: Invalid value: 0: must be 1 to 10000 combinations of values"},
		"podMetrics: [{group: Traffic, intervalSeconds: 301}]":                                                          {"spec.podMetrics[0].intervalSeconds: Invalid value: 301: must be 0 to 300 seconds"},
		"podMetrics: [{group: TCP, pods: {selector: {matchLabels: {'a b': c}}}}]":                                       {`spec.podMetrics[0].pods.selector.matchLabels: Invalid value: "a b": name part must consist of`},
		"podMetrics: [{group: TCP, pods: {namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}}]":           {`spec.podMetrics[0].pods.namespaceSelector.matchExpressions[0].operator: Invalid value: "Is"`},
		"podMetrics: [{group: TCP, pods: {selector: {matchLabels: {" + many(17, "a%d: b") + "}}}}]":                     {"spec.podMetrics[0].pods.selector: Too many: 17: must have at most 16 items"},
		"flowLogs: {pods: {selector: {matchExpressions: [{key: a, operator: In, values: [" + many(65, "v%d") + "]}]}}}": {"spec.flowLogs.pods.selector.matchExpressions[0].values: Too many: 65"},

		"podMetrics: [{group: TCP, pods: {selector: {matchLabels: {" + strings.Repeat("a", 400) + ": b}}}}]":                                     {"spec.podMetrics[0].pods.selector: Too long: may not be more than 317 bytes"},
		"podMetrics: [{group: TCP, pods: {selector: {matchExpressions: [{key: a, operator: In, values: [" + strings.Repeat("a", 400) + "]}]}}}]": {"spec.podMetrics[0].pods.selector: Too long: may not be more than 317 bytes"},

		"seriesLimit: 99":      {"spec.seriesLimit: Invalid value: 99: must be 100 to 1000000 series"},
		"seriesLimit: 1000001": {"spec.seriesLimit: Invalid value: 1000001"},
		// 1 + 6 + 50*4 + 30 + 100*2 = 437 of a pod, and 300 are kept.
		"{seriesLimit: 736, podMetrics: [{group: Traffic, labels: [Port], labelValuesLimit: 50}, {group: DNS, labels: [DNSName], labelValuesLimit: 100}]}": {
			"spec.seriesLimit: Invalid value: 736: must be at least 737: with these groups and labels one pod has up to 437 series",
		},
		"{seriesLimit: 737, podMetrics: [{group: Traffic, labels: [Port], labelValuesLimit: 50}, {group: DNS, labels: [DNSName], labelValuesLimit: 100}]}": nil,
		"{seriesLimit: 100, podMetrics: [{group: Traffic, labelValuesLimit: 10000}]}":                                                                      nil,
		"{seriesLimit: 197, podMetrics: [{group: Traffic}, {group: Drops}, {group: TCP}, {group: DNS}, {group: APIServer}]}":                               {"spec.seriesLimit: Invalid value: 197: must be at least 198"},

		"flowLogs: {verdicts: [Dropped, Lost]}":                                                                                                       {`spec.flowLogs.verdicts[1]: Unsupported value: "Lost": supported values: "Forwarded", "Dropped", "Rejected"`},
		"flowLogs: {verdicts: [Dropped, Dropped, Dropped, Dropped]}":                                                                                  {"spec.flowLogs.verdicts: Too many: 4"},
		"flowLogs: {intervalSeconds: 4, sampleOneIn: 0}":                                                                                              {"spec.flowLogs.intervalSeconds: Invalid value: 4: must be 5 to 3600 seconds", "spec.flowLogs.sampleOneIn: Invalid value: 0: must be 1 to 1000000 flows"},
		"exporters: [{signals: [Metrics], otlp: {endpoint: 'https://a:1'}}]":                                                                          {"spec.exporters[0].name: Required value: give a name"},
		"exporters: [{name: A/../b, signals: [Metrics], otlp: {endpoint: 'https://a:1'}}]":                                                            {`spec.exporters[0].name: Invalid value: "A/../b"`},
		"exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://a:1'}}, {name: a, signals: [Metrics], otlp: {endpoint: 'https://b:1'}}]": {`spec.exporters[1].name: Duplicate value: "a"`},
		"exporters: [" + many(9, "{name: a%d, signals: [Metrics]}") + "]":                                                                             {"spec.exporters: Too many: 9: must have at most 8 items"},
		"exporters: [{name: a, signals: [Metrics]}]":                                                                                                  {"spec.exporters[0]: Required value: give otlp, file or stdout"},
		"{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], file: {}, stdout: {}}]}":                                                           {"spec.exporters[0]: Forbidden: give one of otlp, file and stdout"},
		"exporters: [{name: a, signals: [], otlp: {endpoint: 'https://a:1'}}]":                                                                        {"spec.exporters[0].signals: Required value: give Metrics, FlowLogs or both"},
		"exporters: [{name: a, signals: [Traces], otlp: {endpoint: 'https://a:1'}}]":                                                                  {`spec.exporters[0].signals[0]: Unsupported value: "Traces": supported values: "Metrics", "FlowLogs"`},
		"exporters: [{name: a, signals: [Metrics], stdout: {}}]":                                                                                      {"spec.exporters[0].signals[0]: Forbidden: metrics are sent by otlp only; leave Metrics out here"},
		"exporters: [{name: a, signals: [Metrics, FlowLogs], otlp: {endpoint: 'https://a:1'}}]": {
			"spec.exporters[0].signals[1]: Forbidden: no flows are logged; say which in spec.flowLogs (flowLogs: {} is all), or leave FlowLogs out",
		},
		"{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], file: {maxMebibytes: 0, maxFiles: 101}}]}": {
			"spec.exporters[0].file.maxMebibytes: Invalid value: 0: must be 1 to 1024 mebibytes", "spec.exporters[0].file.maxFiles: Invalid value: 101: must be 1 to 100 files",
		},
		fmt.Sprintf(otlpTo, "https://a:1", ", protocol: grpc, compression: zstd"): {
			`spec.exporters[0].otlp.protocol: Unsupported value: "grpc": supported values: "GRPC", "HTTP"`, `spec.exporters[0].otlp.compression: Unsupported value: "zstd": supported values: "Gzip", "None"`,
		},
		fmt.Sprintf(otlpTo, "https://a:1", ", intervalSeconds: 1, timeoutSeconds: 61, queueMebibytes: 65"): {
			"spec.exporters[0].otlp.intervalSeconds: Invalid value: 1: must be 5 to 3600 seconds", "spec.exporters[0].otlp.timeoutSeconds: Invalid value: 61: must be 1 to 60 seconds",
			"spec.exporters[0].otlp.queueMebibytes: Invalid value: 65: must be 1 to 64 mebibytes",
		},
		fmt.Sprintf(otlpTo, "http://a:1", ", caBundle: '', serverName: b, headersSecret: {name: c}"): {
			"spec.exporters[0].otlp.serverName: Forbidden: is for an endpoint with https://", "spec.exporters[0].otlp.headersSecret: Forbidden: would be sent in the clear; give an endpoint with https://",
		},
		fmt.Sprintf(otlpTo, "https://a:1", ", serverName: '*.b'"):                                                  {`spec.exporters[0].otlp.serverName: Invalid value: "*.b": must be the name or address in the collector's certificate`},
		fmt.Sprintf(otlpTo, "https://a:1", ", serverName: 192.0.2.1"):                                              nil,
		fmt.Sprintf(otlpTo, "https://a:1", ", headersSecret: {name: ''}"):                                          {"spec.exporters[0].otlp.headersSecret.name: Required value: give the name of a Secret in namespace network-observability"},
		fmt.Sprintf(otlpTo, "https://a:1", ", headersSecret: {name: networkobservability-ca}"):                     {`spec.exporters[0].otlp.headersSecret.name: Forbidden: names that begin with "networkobservability-" are of this program's own Secrets`},
		fmt.Sprintf(otlpTo, "https://a:1", ", headersSecret: {name: networkobservability-telemetry-loki}"):         nil,
		fmt.Sprintf(otlpTo, "https://a:1", ", clientCertificateSecret: {name: pair}, headersSecret: {name: pair}"): nil,
		fmt.Sprintf(otlpTo, "https://a:1", ", clientCertificateSecret: {}"): {
			"spec.exporters[0].otlp.clientCertificateSecret.name: Required value: give the name of a Secret in namespace network-observability, such as networkobservability-telemetry-tls",
		},
		fmt.Sprintf(otlpTo, "https://a:1", ", clientCertificateSecret: {name: networkobservability-ca}"): {
			`spec.exporters[0].otlp.clientCertificateSecret.name: Forbidden: names that begin with "networkobservability-" are of this program's own Secrets; name it networkobservability-telemetry-tls`,
		},
		fmt.Sprintf(otlpTo, "http://a:1", ", clientCertificateSecret: {name: pair}"): {
			"spec.exporters[0].otlp.clientCertificateSecret: Forbidden: is for an endpoint with https://; change the endpoint, or leave it out",
		},
		fmt.Sprintf(otlpTo, "https://a:1", ", headersSecret: {name: ../a}"): {`spec.exporters[0].otlp.headersSecret.name: Invalid value: "../a"`},
	} {
		checkSaid(t, spec, NetworkTelemetry(telemetryOf(t, spec)), want...)
	}
}

// many are n items of a list or a mapping.
func many(n int, format string) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(format, i))
	}
	return strings.Join(items, ", ")
}

func TestNetworkTelemetryName(t *testing.T) {
	telemetry := telemetryOf(t, "{}")
	telemetry.Name = "default"
	checkSaid(t, "name", NetworkTelemetry(telemetry), `metadata.name: Invalid value: "default": must be "cluster": a cluster has one NetworkTelemetry`)
	telemetry.Name = ""
	checkSaid(t, "no name", NetworkTelemetry(telemetry), `metadata.name: Invalid value: ""`)
}

// TestCollector: what is wrong with an endpoint is said, and the endpoint is not, since a password may be in it.
func TestCollector(t *testing.T) {
	const canary = "SECRET"
	for _, test := range []struct{ endpoint, protocol, says string }{
		{"https://collector.example.com:4317", "GRPC", ""},
		{"https://collector.example.com:4317/", "GRPC", ""},
		{"http://Collector:4317", "GRPC", ""},
		{"https://[::1]:4317", "GRPC", ""},
		{"https://collector.example.com:4318/a/b_c", "HTTP", ""},
		{"collector.example.com:4317", "GRPC", "must be https://HOST:PORT, or http://HOST:PORT"},
		{"grpc://collector:4317", "GRPC", "must be https://HOST:PORT"},
		{"HTTPS://collector:4317", "GRPC", "must be https://HOST:PORT"},
		{"https:collector:4317", "GRPC", "must be https://HOST:PORT"},
		{"https://collector", "GRPC", "must have a port; must be https://HOST:PORT"},
		{"https://collector:", "GRPC", "must have a port"},
		{"https://collector:SECRET", "GRPC", "must be https://HOST:PORT"},
		{"https://collector:0", "GRPC", "must have a port from 1 to 65535"},
		{"https://collector:65536", "GRPC", "must have a port from 1 to 65535"},
		{"https://collector:04317", "GRPC", "must have a port from 1 to 65535"},
		{"https://:4317", "GRPC", "must be at the name or address of a host"},
		{"https://a_b:4317", "GRPC", "must be at the name or address of a host"},
		{"https://[fe80::1%25eth0]:4317", "GRPC", "must be at the address of one host, without a zone"},
		{"https://0.0.0.0:4317", "GRPC", "must be at the address of one host"},
		{"https://user:SECRET@collector:4317", "GRPC", "must not have a user or password; put a header"},
		{"https://collector:4317?token=SECRET", "GRPC", "must not have a query or fragment; put credentials"},
		{"https://collector:4317?", "GRPC", "must not have a query"},
		{"https://collector:4317#SECRET", "GRPC", "must not have a query or fragment"},
		{"https://collector:4317#", "GRPC", "must not have a query or fragment"},
		{"https://collector:4317/SECRET", "GRPC", "must have no path; set protocol: HTTP"},
		{"https://collector:4317/SECRET", "", "must have no path; set protocol: HTTP"},
		{"https://collector:4318/v1/metrics", "HTTP", "must end before /v1/metrics, which is added"},
		{"https://collector:4318/SECRET/v1/logs/", "HTTP", "must end before /v1/logs, which is added"},
		{"https://collector:4318/../a", "HTTP", "must have no path, or one of plain names"},
		{"https://collector:4318/%2e%2e/a", "HTTP", "must have no path, or one of plain names"},
		{"https://collector:4318/a b", "HTTP", "must have no path, or one of plain names"},
		{"https://collector\x00:4317", "GRPC", "must be https://HOST:PORT"},
		{"https://collector\r\nSECRET: a:4317", "GRPC", "must be https://HOST:PORT"},
		{"https://" + strings.Repeat("a", 600) + ":1", "GRPC", "must be at most 512 bytes long"},
	} {
		telemetry := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "cluster"}, Spec: v1alpha1.NetworkTelemetrySpec{Exporters: []v1alpha1.TelemetryExporter{
			{Name: "a", Signals: []v1alpha1.TelemetrySignal{v1alpha1.SignalMetrics}, OTLP: &v1alpha1.OTLPExporter{Endpoint: test.endpoint, Protocol: v1alpha1.OTLPProtocol(test.protocol)}},
		}}}
		errs := NetworkTelemetry(telemetry)
		if test.says == "" {
			checkSaid(t, test.endpoint, errs)
			continue
		}
		checkSaid(t, test.endpoint, errs, "spec.exporters[0].otlp.endpoint: Invalid value: "+test.says)
		if strings.Contains(errs.ToAggregate().Error(), canary) {
			t.Errorf("repeats credentials: %v", errs)
		}
	}
	checkSaid(t, "no endpoint", NetworkTelemetry(telemetryOf(t, fmt.Sprintf(otlpTo, "", ""))), "spec.exporters[0].otlp.endpoint: Required value: must be https://HOST:PORT")
}

func certificate(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestCABundle(t *testing.T) {
	good := string(certificate(t))
	for bundle, says := range map[string]string{
		good:                                 "",
		"# the first\n" + good + "\n" + good: "",
		"":                                   "",
		"nonsense":                           "must be certificates in PEM (in YAML and JSON, in base64); it has none",
		strings.Repeat("a", 33<<10):          "must be at most 32768 bytes long",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n":        "must be certificates in PEM (in YAML and JSON, in base64) only; it has something else, perhaps a key",
		good + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": "must be certificates in PEM (in YAML and JSON, in base64); number 2 is none",
		good[:len(good)-30]:        "must be certificates in PEM (in YAML and JSON, in base64); it has none, or one is not whole",
		good + good[:len(good)-30]: "must be certificates in PEM (in YAML and JSON, in base64); it has none, or one is not whole",
	} {
		telemetry := telemetryOf(t, fmt.Sprintf(otlpTo, "https://a:1", ""))
		telemetry.Spec.Exporters[0].OTLP.CABundle = []byte(bundle)
		if says == "" {
			checkSaid(t, bundle, NetworkTelemetry(telemetry))
			continue
		}
		checkSaid(t, bundle, NetworkTelemetry(telemetry), "spec.exporters[0].otlp.caBundle: Invalid value: "+says)
	}
	telemetry := telemetryOf(t, fmt.Sprintf(otlpTo, "http://a:1", ""))
	telemetry.Spec.Exporters[0].OTLP.CABundle = []byte(good)
	checkSaid(t, "without TLS", NetworkTelemetry(telemetry), "spec.exporters[0].otlp.caBundle: Forbidden: is for an endpoint with https://")
}

func TestNetworkTelemetryUpdate(t *testing.T) {
	good, bad := telemetryOf(t, "{}"), telemetryOf(t, "seriesLimit: 1")
	checkSaid(t, "changed", NetworkTelemetryUpdate(bad, good), "spec.seriesLimit: Invalid value: 1")
	checkSaid(t, "wrong before", NetworkTelemetryUpdate(bad, bad))
	checkSaid(t, "mended", NetworkTelemetryUpdate(good, bad))
}

func TestNetworkTelemetryWarnings(t *testing.T) {
	const nowhere = "spec.flowLogs: no exporter has FlowLogs among its signals, so flows are logged nowhere"
	for spec, want := range map[string][]string{
		"{}": nil,
		"{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], stdout: {}}]}": nil,
		"flowLogs: {}": {nowhere},
		"{flowLogs: {}, exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://a:1'}}]}": {nowhere},
		"{podMetrics: [{group: Traffic, labels: [Port], labelValuesLimit: 5}]}":                       nil,
		"{podMetrics: [{group: TCP}, {group: Traffic, labelValuesLimit: 5}], flowLogs: {}}": {
			"spec.podMetrics[1].labelValuesLimit: limits the values of labels, and none are asked for", nowhere,
		},
	} {
		if got := NetworkTelemetryWarnings(telemetryOf(t, spec)); !slices.Equal(got, want) {
			t.Errorf("%s: warns %q", spec, got)
		}
	}
}

func TestNetworkTelemetryStatus(t *testing.T) {
	long := strings.Repeat("a", MaxTelemetryMessageBytes+1)
	for status, want := range map[string][]string{
		"{}": nil,
		`{observedGeneration: 2, nodes: {total: 3, applied: 2, withProblems: 1}, problems: [{node: n1, message: a}], exporters: [{name: a, reaching: 2, failing: 1, sent: 5, dropped: 1, message: b}],
			conditions: [{type: Applied, status: "False", reason: NodesBehind, message: a, lastTransitionTime: "2026-11-23T10:00:00Z"}]}`: nil,
		"observedGeneration: -1":                                                                    {"status.observedGeneration: Invalid value: -1: must not be negative"},
		"nodes: {total: -1, applied: -2, withProblems: -3}":                                         {"status.nodes.total: Invalid value: -1", "status.nodes.applied: Invalid value: -2", "status.nodes.withProblems: Invalid value: -3"},
		"problems: [" + many(51, "{node: n%d, message: a}") + "]":                                   {"status.problems: Too many: 51: must have at most 50 items"},
		"problems: [{node: '', message: a}, {node: n, message: " + long + "}]":                      {"status.problems[0].node: Required value", "status.problems[1].message: Too long: may not be more than 1024 bytes"},
		"exporters: [" + many(9, "{name: a%d, reaching: 0, failing: 0, sent: 0, dropped: 0}") + "]": {"status.exporters: Too many: 9"},
		"exporters: [{name: a, reaching: -1, failing: -1, sent: -1, dropped: -1, message: " + long + "}, {name: a, reaching: 0, failing: 0, sent: 0, dropped: 0}]": {
			"status.exporters[0].reaching", "status.exporters[0].failing", "status.exporters[0].sent", "status.exporters[0].dropped", "status.exporters[0].message: Too long", `status.exporters[1].name: Duplicate value: "a"`,
		},
		"conditions: [{type: Applied, status: Perhaps, reason: A, message: '', lastTransitionTime: '2026-11-23T10:00:00Z'}]": {`status.conditions[0].status: Unsupported value: "Perhaps"`},
	} {
		var got v1alpha1.NetworkTelemetryStatus
		if err := yaml.UnmarshalStrict([]byte(status), &got); err != nil {
			t.Fatalf("%s: %v", status, err)
		}
		checkSaid(t, status, NetworkTelemetryStatus(&got), want...)
	}
}

// FuzzNetworkTelemetry: whatever the spec, errors are few, short and have a path, and nothing panics.
func FuzzNetworkTelemetry(f *testing.F) {
	f.Add("{podMetrics: [{group: Traffic, labels: [Port], labelValuesLimit: 5}], seriesLimit: 100}")
	f.Add("{flowLogs: {}, exporters: [{name: a, signals: [FlowLogs], otlp: {endpoint: 'https://a:1/b', protocol: HTTP, caBundle: LS0tLS1CRUdJTg==}}]}")
	f.Add(fmt.Sprintf(otlpTo, "https://[::1%25a]:65536#", ", headersSecret: {name: networkobservability-ca}"))
	f.Fuzz(func(t *testing.T, spec string) {
		telemetry := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "cluster"}}
		if yaml.Unmarshal([]byte(spec), &telemetry.Spec) != nil {
			return
		}
		NetworkTelemetryWarnings(telemetry)
		for _, one := range NetworkTelemetry(telemetry) {
			if !strings.HasPrefix(one.Field, "spec.") || len(one.Error()) > 4096 {
				t.Errorf("says %d bytes at %q: %.200s", len(one.Error()), one.Field, one.Error())
			}
		}
	})
}
