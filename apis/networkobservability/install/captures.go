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

// PhaseField is the label of a field that objects do not have: it sums up their conditions, as the column STATUS does.
const PhaseField = "status.phase"

// The values of PhaseField.
const (
	PhasePending  = "Pending"
	PhaseRunning  = "Running"
	PhaseStopping = "Stopping"
	PhaseStoring  = "Storing"
	PhaseComplete = "Complete"
	PhaseFailed   = "Failed"
)

// addCaptures registers what servers need of captures beside their types.
func addCaptures(scheme *runtime.Scheme) {
	scheme.AddTypeDefaultingFunc(&v1alpha1.Capture{}, func(object any) { defaultCapture(&object.(*v1alpha1.Capture).Spec.CaptureSettings) })
	scheme.AddTypeDefaultingFunc(&v1alpha1.ClusterCapture{}, func(object any) { defaultCapture(&object.(*v1alpha1.ClusterCapture).Spec.CaptureSettings) })
	addCaptureFields(scheme, "Capture", NameField, NamespaceField, PhaseField)
	addCaptureFields(scheme, "ClusterCapture", NameField, PhaseField)
	utilruntime.Must(scheme.AddConversionFunc((*url.Values)(nil), (*v1alpha1.CaptureReadOptions)(nil), func(in, out any, _ conversion.Scope) error {
		return readOptions(*in.(*url.Values), out.(*v1alpha1.CaptureReadOptions))
	}))
}

// defaultCapture writes down what goes without saying, so that it can be seen and stays when a release changes it.
func defaultCapture(settings *v1alpha1.CaptureSettings) {
	settings.PacketBytes = orDefault(settings.PacketBytes, 256<<10)
	settings.DurationSeconds = orDefault(settings.DurationSeconds, 300)
	settings.TTLSecondsAfterFinished = orDefault(settings.TTLSecondsAfterFinished, 24*60*60)
	if settings.VantagePoint == "" {
		settings.VantagePoint = v1alpha1.OncePerFlow
	}
}

func orDefault[T any](value *T, otherwise T) *T {
	if value == nil {
		return &otherwise
	}
	return value
}

func addCaptureFields(scheme *runtime.Scheme, kind string, labels ...string) {
	phase := oneOf(PhasePending, PhaseRunning, PhaseStopping, PhaseStoring, PhaseComplete, PhaseFailed)
	convert := func(label, value string) (string, string, error) {
		if !slices.Contains(labels, label) {
			return "", "", fmt.Errorf("%q is not a field that %s can be selected by; known are %q", label, kind, labels)
		}
		if label != PhaseField || value == "" {
			return label, value, nil
		}
		value, err := phase(value)
		if err != nil {
			return "", "", fmt.Errorf("field %s: %w", label, err)
		}
		return label, value, nil
	}
	utilruntime.Must(scheme.AddFieldLabelConversionFunc(v1alpha1.SchemeGroupVersion.WithKind(kind), convert))
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
