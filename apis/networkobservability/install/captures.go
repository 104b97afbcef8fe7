package install

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// readParameters are the parameters of the subresources pcap, headers and attach.
var readParameters = []string{"digest", "headersOnly", "namespace", "node", "offset", "pod"}

// genericParameters are those that clients and the generic server know for every request.
var genericParameters = []string{"pretty", "timeout"}

// addCaptures registers what servers need of captures beside their types.
func addCaptures(scheme *runtime.Scheme) {
	utilruntime.Must(scheme.AddConversionFunc((*url.Values)(nil), (*v1alpha1.CaptureReadOptions)(nil), func(in, out any, _ conversion.Scope) error {
		return readOptions(*in.(*url.Values), out.(*v1alpha1.CaptureReadOptions))
	}))
}

// readOptions reads the parameters of a request. Unknown ones are an error: a misspelt pod= would answer with everything.
func readOptions(in url.Values, out *v1alpha1.CaptureReadOptions) error {
	for name, values := range in {
		if slices.Contains(genericParameters, name) {
			continue
		}
		if !slices.Contains(readParameters, name) {
			return fmt.Errorf("unknown parameter %q; known are %s", name, strings.Join(readParameters, ", "))
		}
		if len(values) != 1 {
			return fmt.Errorf("parameter %s is given %d times", name, len(values))
		}
	}
	options := v1alpha1.CaptureReadOptions{
		Digest: in.Get("digest"), Node: in.Get("node"), Namespace: in.Get("namespace"), Pod: in.Get("pod"),
	}
	if in.Has("offset") {
		offset, err := strconv.ParseInt(in.Get("offset"), 10, 64)
		if err != nil || offset < 0 {
			return fmt.Errorf("parameter offset is %q, must be a number of bytes, 0 or more", in.Get("offset"))
		}
		options.Offset = offset
	}
	if in.Has("headersOnly") {
		only, err := strconv.ParseBool(in.Get("headersOnly"))
		if err != nil {
			return fmt.Errorf("parameter headersOnly is %q, must be true or false", in.Get("headersOnly"))
		}
		options.HeadersOnly = only
	}
	*out = options
	return nil
}
