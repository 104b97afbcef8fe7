package install

import (
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

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
