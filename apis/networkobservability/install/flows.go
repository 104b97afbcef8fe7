package install

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// The labels of field selectors of networkflows.
const (
	PodField           = "pod"
	WorkloadField      = "workload"
	PeerField          = "peer"
	PeerKindField      = "peer.kind"
	PeerPodField       = "peer.pod"
	PeerNamespaceField = "peer.namespace"
	PeerWorkloadField  = "peer.workload"
	PeerServiceField   = "peer.service"
	PeerNodeField      = "peer.node"
	PeerAddressField   = "peer.address"
	PeerDNSNameField   = "peer.dnsName"
	DirectionField     = "direction"
	ProtocolField      = "protocol"
	PortField          = "port"
	VerdictField       = "verdict"
	DropReasonField    = "dropReason"
	DropClassField     = "dropClass"
	SinceField         = "since"
	UntilField         = "until"
)

// anything is the check of fields with values of any form.
func anything(value string) (string, error) { return value, nil }

// flowFields say what values a field takes, in the form in which objects have them: enums in any case, addresses in
// any spelling, times ago as times.
var flowFields = map[string]func(string) (string, error){
	NameField: anything, NamespaceField: anything, NodeNameField: anything,
	PodField: anything, WorkloadField: anything,
	PeerField: anything, PeerPodField: anything, PeerNamespaceField: anything, PeerWorkloadField: anything,
	PeerServiceField: anything, PeerNodeField: anything, PeerAddressField: address, PeerDNSNameField: anything,
	PeerKindField:  oneOf(v1alpha1.PeerPod, v1alpha1.PeerService, v1alpha1.PeerNode, v1alpha1.PeerExternal),
	DirectionField: oneOf(v1alpha1.Egress, v1alpha1.Ingress),
	VerdictField:   oneOf(v1alpha1.Forwarded, v1alpha1.Dropped, v1alpha1.Rejected),
	DropClassField: oneOf(v1alpha1.DropPolicy, v1alpha1.DropBuffer, v1alpha1.DropNoSocket, v1alpha1.DropRouting, v1alpha1.DropTTL, v1alpha1.DropMTU,
		v1alpha1.DropChecksum, v1alpha1.DropMalformed, v1alpha1.DropProtocol, v1alpha1.DropOther, v1alpha1.DropBenign),
	DropReasonField: func(value string) (string, error) { return strings.ToUpper(value), nil },
	ProtocolField:   protocol,
	PortField:       port,
	SinceField:      timeAgo, UntilField: timeAgo,
}

func addFlowFields(scheme *runtime.Scheme) {
	known := append(slices.Sorted(func(yield func(string) bool) {
		for label := range flowFields {
			if !yield(label) {
				return
			}
		}
	}), SpecNodeNameField)
	convert := func(label, value string) (string, string, error) {
		if label == SpecNodeNameField {
			label = NodeNameField
		}
		check, ok := flowFields[label]
		if !ok {
			return "", "", fmt.Errorf("%q is not a field that NetworkFlow can be selected by; known are %q", label, known)
		}
		value, err := check(value)
		if err != nil {
			return "", "", fmt.Errorf("field %s: %w", label, err)
		}
		return label, value, nil
	}
	utilruntime.Must(scheme.AddFieldLabelConversionFunc(v1alpha1.SchemeGroupVersion.WithKind("NetworkFlow"), convert))
}

func oneOf[T ~string](values ...T) func(string) (string, error) {
	return func(value string) (string, error) {
		for _, one := range values {
			if strings.EqualFold(value, string(one)) {
				return string(one), nil
			}
		}
		return "", fmt.Errorf("%q is none of %q", value, values)
	}
}

func address(value string) (string, error) {
	parsed, err := netip.ParseAddr(value)
	if err != nil {
		return "", fmt.Errorf("%q is not an IP address", value)
	}
	return parsed.Unmap().String(), nil
}

// protocol takes the names and numbers of IP protocols. Those with a name are always written with it.
func protocol(value string) (string, error) {
	for name, number := range v1alpha1.FlowProtocols {
		if strings.EqualFold(value, name) || value == strconv.Itoa(int(number)) {
			return name, nil
		}
	}
	number, err := strconv.ParseUint(value, 10, 8)
	if err != nil {
		return "", fmt.Errorf("%q is neither TCP, UDP, ICMP, ICMPv6 or SCTP nor the number of an IP protocol", value)
	}
	return strconv.FormatUint(number, 10), nil
}

func port(value string) (string, error) {
	number, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return "", fmt.Errorf("%q is not a port", value)
	}
	return strconv.FormatUint(number, 10), nil
}

// timeAgo takes a time, or how long ago it was, and makes it a time.
func timeAgo(value string) (string, error) {
	if ago, err := time.ParseDuration(value); err == nil && ago >= 0 {
		return time.Now().Add(-ago).UTC().Format(time.RFC3339Nano), nil
	}
	at, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return "", fmt.Errorf("%q is neither how long ago (10m, 90s) nor a time (2006-01-02T15:04:05Z)", value)
	}
	return at.UTC().Format(time.RFC3339Nano), nil
}
