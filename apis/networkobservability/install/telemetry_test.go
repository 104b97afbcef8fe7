package install

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestTelemetryDefaults: what was not given is written down, what was given stays, and what nobody asked for stays away.
func TestTelemetryDefaults(t *testing.T) {
	codec := serializer.NewCodecFactory(newScheme()).UniversalDecoder(v1alpha1.SchemeGroupVersion)
	for _, test := range []struct{ spec, want string }{
		{"{}", "{seriesLimit: 50000}"},
		{
			"{podMetrics: [{group: Traffic, labels: [Port]}, {group: TCP}], flowLogs: {}}",
			"{podMetrics: [{group: Traffic, labels: [Port], labelValuesLimit: 50}, {group: TCP}], flowLogs: {intervalSeconds: 60, sampleOneIn: 1}, seriesLimit: 50000}",
		},
		{
			"{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://b:1'}}, {name: c, signals: [FlowLogs], file: {}}, {name: d, signals: [FlowLogs], stdout: {}}]}",
			`{exporters: [{name: a, signals: [Metrics], otlp: {endpoint: 'https://b:1', protocol: GRPC, compression: Gzip, intervalSeconds: 30, timeoutSeconds: 10, queueMebibytes: 8}},
			{name: c, signals: [FlowLogs], file: {maxMebibytes: 100, maxFiles: 5}}, {name: d, signals: [FlowLogs], stdout: {}}], seriesLimit: 50000}`,
		},
		{
			`{podMetrics: [{group: DNS, labels: [DNSName], labelValuesLimit: 0, intervalSeconds: 0}], seriesLimit: 0, flowLogs: {intervalSeconds: 0, sampleOneIn: 0},
			exporters: [{name: a, signals: [Metrics], otlp: {endpoint: '', protocol: HTTP, compression: None, intervalSeconds: 0, timeoutSeconds: 0, queueMebibytes: 0}}, {name: c, signals: [], file: {maxMebibytes: 0, maxFiles: 0}}]}`,
			"",
		},
	} {
		object, err := runtime.Decode(codec, []byte("apiVersion: networkobservability.k8s.io/v1alpha1\nkind: NetworkTelemetry\nspec: "+test.spec))
		if err != nil {
			t.Fatal(err)
		}
		if test.want == "" {
			test.want = test.spec
		}
		var want v1alpha1.NetworkTelemetrySpec
		if err := yaml.UnmarshalStrict([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		if got := text(t, object.(*v1alpha1.NetworkTelemetry).Spec); got != text(t, want) {
			t.Errorf("%s became\n%s", test.spec, got)
		}
	}
}

func text(t *testing.T, object any) string {
	t.Helper()
	written, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(written)
}

func TestTelemetryFields(t *testing.T) {
	scheme := newScheme()
	kind := v1alpha1.SchemeGroupVersion.WithKind("NetworkTelemetry")
	if label, value, err := scheme.ConvertFieldLabel(kind, "metadata.name", "cluster"); label != "metadata.name" || value != "cluster" || err != nil {
		t.Errorf("%q %q %v", label, value, err)
	}
	if _, _, err := scheme.ConvertFieldLabel(kind, "metadata.namespace", "a"); err == nil || !strings.Contains(err.Error(), `known are ["metadata.name"]`) {
		t.Errorf("%v", err)
	}
}
