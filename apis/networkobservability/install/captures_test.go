package install

import (
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	Install(scheme)
	return scheme
}

func TestCaptureReadOptions(t *testing.T) {
	codec := runtime.NewParameterCodec(newScheme())
	for _, test := range []struct {
		query string
		want  v1alpha1.CaptureReadOptions
		err   string
	}{
		{query: ""},
		{query: "offset=0&digest=ab12", want: v1alpha1.CaptureReadOptions{Digest: "ab12"}},
		{query: "offset=9223372036854775807", want: v1alpha1.CaptureReadOptions{Offset: 1<<63 - 1}},
		{query: "node=a&namespace=b&pod=c&headersOnly=true", want: v1alpha1.CaptureReadOptions{Node: "a", Namespace: "b", Pod: "c", HeadersOnly: true}},
		{query: "headersOnly=false"},
		{query: "timeout=30s&pretty=true"},
		{query: "offset=-1", err: `parameter offset is "-1"`},
		{query: "offset=", err: `parameter offset is ""`},
		{query: "offset=1e3", err: `parameter offset is "1e3"`},
		{query: "offset=9223372036854775808", err: `parameter offset is`},
		{query: "offset=1&offset=2", err: "parameter offset is given 2 times"},
		{query: "headersOnly=maybe", err: `parameter headersOnly is "maybe"`},
		{query: "Pod=web", err: `unknown parameter "Pod"; known are digest, headersOnly`},
	} {
		values, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		var got v1alpha1.CaptureReadOptions
		err = codec.DecodeParameters(values, v1alpha1.SchemeGroupVersion, &got)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %q", test.query, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%q: %+v, %v, want %+v", test.query, got, err, test.want)
		}
	}
}

// TestCaptureDefaults: objects that are decoded have them, whichever kind, and what was given stays.
func TestCaptureDefaults(t *testing.T) {
	codec := serializer.NewCodecFactory(newScheme()).UniversalDecoder(v1alpha1.SchemeGroupVersion)
	decode := func(kind, spec string) v1alpha1.CaptureSettings {
		object, err := runtime.Decode(codec, []byte("apiVersion: networkobservability.k8s.io/v1alpha1\nkind: "+kind+"\nspec: "+spec))
		if err != nil {
			t.Fatal(err)
		}
		if capture, ok := object.(*v1alpha1.Capture); ok {
			return capture.Spec.CaptureSettings
		}
		return object.(*v1alpha1.ClusterCapture).Spec.CaptureSettings
	}
	for _, kind := range []string{"Capture", "ClusterCapture"} {
		got := decode(kind, "{}")
		if *got.PacketBytes != 262144 || *got.DurationSeconds != 300 || *got.TTLSecondsAfterFinished != 86400 || got.VantagePoint != v1alpha1.OncePerFlow {
			t.Errorf("%s: %+v", kind, got)
		}
		got = decode(kind, "{packetBytes: 0, durationSeconds: 0, ttlSecondsAfterFinished: 0, vantagePoint: BothEnds}")
		if *got.PacketBytes != 0 || *got.DurationSeconds != 0 || *got.TTLSecondsAfterFinished != 0 || got.VantagePoint != v1alpha1.BothEnds {
			t.Errorf("%s: what was given became %+v", kind, got)
		}
	}
}

func TestCaptureFields(t *testing.T) {
	scheme := newScheme()
	for _, test := range []struct{ kind, label, value, want, err string }{
		{kind: "Capture", label: "metadata.name", value: "a", want: "a"},
		{kind: "Capture", label: "metadata.namespace", value: "a", want: "a"},
		{kind: "Capture", label: "status.phase", value: "rUNNING", want: "Running"},
		{kind: "ClusterCapture", label: "status.phase", value: "Failed", want: "Failed"},
		{kind: "Capture", label: "status.phase", value: "Lost", err: `field status.phase: "Lost" is none of`},
		{kind: "ClusterCapture", label: "metadata.namespace", value: "a", err: `"metadata.namespace" is not a field that ClusterCapture can be selected by; known are ["metadata.name" "status.phase"]`},
		{kind: "Capture", label: "spec.filter", value: "a", err: "is not a field that Capture can be selected by"},
	} {
		_, value, err := scheme.ConvertFieldLabel(v1alpha1.SchemeGroupVersion.WithKind(test.kind), test.label, test.value)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		}
		if err != nil || value != test.want {
			t.Errorf("%+v: %q, %v", test, value, err)
		}
	}
}
