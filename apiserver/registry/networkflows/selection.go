package networkflows

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	operator "k8s.io/apimachinery/pkg/selection"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// A selection is the part of all flows that a request is about. It does not change.
type selection struct {
	// namespace is empty for all of them.
	namespace string
	labels    labels.Selector
	// ofPod and ofFlow are the requirements that the pod alone decides about, and the others.
	ofPod, ofFlow fields.Requirements
	// since and until are zero when the request has none.
	since, until time.Time
}

// everything selects all flows.
var everything = &selection{labels: labels.Everything()}

// newSelection takes the namespace from the request and the selectors from its options, whose values the scheme's
// conversion has checked (apis/networkobservability/install).
func newSelection(ctx context.Context, options *metainternalversion.ListOptions) (*selection, error) {
	s := &selection{namespace: genericapirequest.NamespaceValue(ctx), labels: labels.Everything()}
	if options.LabelSelector != nil {
		s.labels = options.LabelSelector
	}
	if options.FieldSelector == nil {
		return s, nil
	}
	for _, requirement := range options.FieldSelector.Requirements() {
		if err := s.require(requirement); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *selection) require(requirement fields.Requirement) error {
	equal := requirement.Operator != operator.NotEquals
	switch requirement.Field {
	case install.SinceField, install.UntilField:
		at, err := time.Parse(time.RFC3339Nano, requirement.Value)
		if err != nil || !equal {
			return apierrors.NewBadRequest("field " + requirement.Field + " takes a time or a time ago, with = only")
		}
		if requirement.Field == install.SinceField {
			s.since = at
		} else {
			s.until = at
		}
	case install.NamespaceField:
		if equal && s.namespace == "" {
			s.namespace = requirement.Value
		}
		s.ofPod = append(s.ofPod, requirement)
	case install.NodeNameField, install.PodField, install.WorkloadField:
		s.ofPod = append(s.ofPod, requirement)
	default:
		if fieldsOfFlow[requirement.Field] == nil {
			return apierrors.NewBadRequest("field " + requirement.Field + " cannot be selected by")
		}
		s.ofFlow = append(s.ofFlow, requirement)
	}
	return nil
}

// matchesPod says whether flows of a pod can be in the selection.
func (s *selection) matchesPod(pod *live.Record) bool {
	if s.namespace != "" && pod.Namespace != s.namespace {
		return false
	}
	for _, requirement := range s.ofPod {
		if podHas(pod, requirement) == (requirement.Operator == operator.NotEquals) {
			return false
		}
	}
	return s.labels.Empty() || s.labels.Matches(labels.Set(pod.Labels))
}

// byLabels says that a pod can come into the selection, and leave it: by its labels, or by what it belongs to.
func (s *selection) byLabels() bool {
	return !s.labels.Empty() || slices.ContainsFunc(s.ofPod, func(r fields.Requirement) bool { return r.Field == install.WorkloadField })
}

// leftNodes are those with pods that have left the selection lately.
func (s *selection) leftNodes(names Names) []string {
	left := map[string]bool{}
	lately, _ := names.RelabelledAfter(0)
	for _, pod := range lately {
		left[pod.Node] = left[pod.Node] || s.byLabels() && s.matchesPod(pod)
	}
	return slices.DeleteFunc(names.Nodes(), func(node string) bool { return !left[node] })
}

func podHas(pod *live.Record, requirement fields.Requirement) bool {
	switch requirement.Field {
	case install.NamespaceField:
		return pod.Namespace == requirement.Value
	case install.NodeNameField:
		return pod.Node == requirement.Value
	case install.PodField:
		return pod.Name == requirement.Value
	default:
		return isWorkload(workloadOf(pod), requirement.Value)
	}
}

// isWorkload compares with NAME or KIND/NAME.
func isWorkload(workload *v1alpha1.FlowWorkload, value string) bool {
	if workload == nil {
		return value == ""
	}
	kind, name, ok := strings.Cut(value, "/")
	if !ok {
		return workload.Name == value
	}
	return strings.EqualFold(workload.Kind, kind) && workload.Name == name
}

// matchesFlow says whether a flow of a pod that matches is in the selection.
func (s *selection) matchesFlow(flow *v1alpha1.NetworkFlow) bool {
	if !s.since.IsZero() && flow.LastTime != nil && flow.LastTime.Time.Before(s.since) {
		return false
	}
	if !s.until.IsZero() && flow.StartTime != nil && !flow.StartTime.Time.Before(s.until) {
		return false
	}
	for _, requirement := range s.ofFlow {
		if fieldsOfFlow[requirement.Field](flow, requirement.Value) == (requirement.Operator == operator.NotEquals) {
			return false
		}
	}
	return true
}

// constant are the fields that a flow has from its first packet to its last.
var constant = []string{install.NameField, install.ProtocolField, install.PortField}

// neverMatches says of a flow that is not in the selection that it never was.
func (s *selection) neverMatches(flow *v1alpha1.NetworkFlow) bool {
	if !s.until.IsZero() && flow.StartTime != nil && !flow.StartTime.Time.Before(s.until) {
		return true
	}
	return slices.ContainsFunc(s.ofFlow, func(requirement fields.Requirement) bool {
		return slices.Contains(constant, requirement.Field) &&
			fieldsOfFlow[requirement.Field](flow, requirement.Value) == (requirement.Operator == operator.NotEquals)
	})
}

// fieldsOfFlow say whether a flow's field has a value.
var fieldsOfFlow = map[string]func(*v1alpha1.NetworkFlow, string) bool{
	install.NameField:      func(f *v1alpha1.NetworkFlow, value string) bool { return f.Name == value },
	install.DirectionField: func(f *v1alpha1.NetworkFlow, value string) bool { return string(f.Direction) == value },
	install.ProtocolField:  func(f *v1alpha1.NetworkFlow, value string) bool { return f.Protocol == value },
	install.PortField: func(f *v1alpha1.NetworkFlow, value string) bool {
		return strconv.Itoa(int(f.Pod.Port)) == value || strconv.Itoa(int(f.Peer.Port)) == value
	},
	install.VerdictField:    func(f *v1alpha1.NetworkFlow, value string) bool { return string(f.Verdict) == value },
	install.DropReasonField: func(f *v1alpha1.NetworkFlow, value string) bool { return f.DropReason == value },
	install.DropClassField:  func(f *v1alpha1.NetworkFlow, value string) bool { return string(f.DropClass) == value },
	install.PeerField: ofEither(func(p *v1alpha1.FlowPeer, value string) bool {
		return isNamed(p, value) || isAddress(p, value) || isDNSName(p, value)
	}),
	install.PeerKindField: ofEither(func(p *v1alpha1.FlowPeer, value string) bool { return string(p.Kind) == value }),
	install.PeerPodField:  ofEither(func(p *v1alpha1.FlowPeer, value string) bool { return p.Kind == v1alpha1.PeerPod && isNamed(p, value) }),
	install.PeerServiceField: ofEither(func(p *v1alpha1.FlowPeer, value string) bool {
		return p.Kind == v1alpha1.PeerService && isNamed(p, value)
	}),
	install.PeerNamespaceField: ofEither(func(p *v1alpha1.FlowPeer, value string) bool { return p.Namespace == value }),
	install.PeerWorkloadField: ofEither(func(p *v1alpha1.FlowPeer, value string) bool {
		return p.Workload != nil && isWorkload(p.Workload, value)
	}),
	install.PeerNodeField:    ofEither(func(p *v1alpha1.FlowPeer, value string) bool { return p.Node == value }),
	install.PeerAddressField: ofEither(isAddress),
	install.PeerDNSNameField: func(f *v1alpha1.NetworkFlow, value string) bool { return isDNSName(&f.Peer, value) },
}

// ofEither is for what the peer is, whether as the pod addresses it or behind the translation.
func ofEither(is func(*v1alpha1.FlowPeer, string) bool) func(*v1alpha1.NetworkFlow, string) bool {
	return func(f *v1alpha1.NetworkFlow, value string) bool {
		return is(&f.Peer, value) || f.Translated != nil && is(f.Translated, value)
	}
}

// isNamed compares with NAME or NAMESPACE/NAME.
func isNamed(p *v1alpha1.FlowPeer, value string) bool {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok {
		return p.Name == value && value != ""
	}
	return p.Namespace == namespace && p.Name == name
}

func isAddress(p *v1alpha1.FlowPeer, value string) bool {
	address, err := netip.ParseAddr(value)
	return err == nil && address.Unmap().String() == p.Address
}

// isDNSName compares without regard to case and to a dot at the end.
func isDNSName(p *v1alpha1.FlowPeer, value string) bool {
	return p.DNSName != "" && strings.EqualFold(strings.TrimSuffix(p.DNSName, "."), strings.TrimSuffix(value, "."))
}

// queries are what to ask of each node that can have flows of the selection. Agents leave out what they can tell is not
// asked for; what they send is judged here once more.
func (s *selection) queries(names Names) map[string]*agentv1.ReadFlowsRequest {
	queries := s.ofNodes(names)
	for _, requirement := range s.ofFlow {
		if requirement.Field == install.NameField && requirement.Operator != operator.NotEquals {
			hash, _, _, _ := parseName(requirement.Value)
			maps.DeleteFunc(queries, func(node string, _ *agentv1.ReadFlowsRequest) bool { return nodeHash(node) != hash })
		}
	}
	return queries
}

func (s *selection) ofNodes(names Names) map[string]*agentv1.ReadFlowsRequest {
	there, gone := map[string][]string{}, map[string][]string{}
	for pod, isThere := range names.Pods(s.namespace) {
		switch {
		case pod.Node == "" || !s.matchesPod(pod):
		case isThere:
			there[pod.Node] = append(there[pod.Node], pod.PodKey)
		default:
			gone[pod.Node] = append(gone[pod.Node], pod.PodKey)
		}
	}
	queries := map[string]*agentv1.ReadFlowsRequest{}
	for node := range there {
		queries[node] = s.query(append(there[node], gone[node]...))
	}
	if len(gone) == 0 {
		return queries
	}
	for _, node := range names.Nodes() { // Others have gone with their pods.
		if queries[node] == nil && gone[node] != nil {
			queries[node] = s.query(gone[node])
		}
	}
	return queries
}

// nodes are those that can have flows of the selection, at a cost that a watch can bear every second.
func (s *selection) nodes(names Names) []string {
	if s.namespace == "" && len(s.ofPod) == 0 && s.labels.Empty() {
		return names.Nodes()
	}
	return slices.Collect(maps.Keys(s.queries(names)))
}

// query asks for pods, as many as can be asked for: of the gone ones, which come last, those that are too many are left
// out. No node has had so many pods in half an hour.
func (s *selection) query(keys []string) *agentv1.ReadFlowsRequest {
	keys = keys[:min(len(keys), agentv1.MaxPodKeys)]
	slices.Sort(keys)
	request := &agentv1.ReadFlowsRequest{PodKeys: keys, SinceUnixNano: unixNano(s.since), UntilUnixNano: unixNano(s.until)}
	for _, requirement := range s.ofFlow {
		if requirement.Operator != operator.NotEquals {
			push(request, requirement.Field, requirement.Value)
		}
	}
	return request
}

// push writes a requirement into the request, if agents know of such. A second one of a field is left to matchesFlow.
func push(request *agentv1.ReadFlowsRequest, field, value string) {
	switch field {
	case install.DirectionField:
		request.Direction = keyOf(directions, v1alpha1.FlowDirection(value))
	case install.VerdictField:
		request.Verdicts = []agentv1.Verdict{keyOf(verdicts, v1alpha1.FlowVerdict(value))}
	case install.ProtocolField:
		number, known := v1alpha1.FlowProtocols[value]
		if !known {
			parsed, _ := strconv.Atoi(value) // The conversion has checked it.
			number = int32(parsed)
		}
		request.Protocols = []int32{number}
	case install.PortField:
		number, _ := strconv.Atoi(value) // The conversion has checked it.
		request.Ports = []int32{int32(number)}
	case install.PeerField, install.PeerAddressField:
		if address, err := netip.ParseAddr(value); err == nil {
			request.Peers = [][]byte{address.AsSlice()}
		}
	}
}

func keyOf[K, V comparable](m map[K]V, value V) (key K) {
	for k, v := range m {
		if v == value {
			return k
		}
	}
	return key
}
