package captures

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A Match is a pod on its node, or a node, that a capture is to record.
type Match struct {
	Node string
	// Namespace, Pod and UID are empty for a node.
	Namespace, Pod string
	UID            types.UID
	// HostNetwork: the pod is in its node's network, or it may be. To record it takes the right to record nodes.
	HostNetwork bool
}

// A target is a Match with what recording it takes. It is not changed.
type target struct {
	Match
	// key is the agent's name for the pod, empty for a node.
	key        string
	interfaces []string
	addresses  []netip.Addr
	// running: Kubernetes says that containers of it run.
	running bool
}

func (t *target) compare(other *target) int {
	return cmp.Or(cmp.Compare(t.Node, other.Node), cmp.Compare(t.Namespace, other.Namespace),
		cmp.Compare(t.Pod, other.Pod), cmp.Compare(t.UID, other.UID))
}

// pod is what is kept of one. It is not changed.
type pod struct {
	namespace, name, node string
	uid                   types.UID
	key                   string
	labels                labels.Set
	addresses             []netip.Addr
	hostNetwork           bool
	running, ended        bool
}

// A selection is whom a capture chooses, ready to be asked.
type selection struct {
	// namespace is that of a Capture.
	namespace string
	// podsOf are pods by name; else those that pods matches, in namespaces that namespaces matches. nil chooses none.
	podsOf           map[types.NamespacedName]bool
	pods, namespaces labels.Selector
	podInterfaces    []string
	// nodesOf are nodes by name; else those that nodes matches.
	nodesOf        map[string]bool
	nodes          labels.Selector
	nodeInterfaces []string
}

// selectionOf reads whom a capture chooses.
func selectionOf(object runtime.Object) (*selection, error) {
	switch c := object.(type) {
	case *v1alpha1.Capture:
		return namespacedSelection(c.Namespace, &c.Spec.Pods)
	case *v1alpha1.ClusterCapture:
		return clusterSelection(&c.Spec)
	}
	return nil, fmt.Errorf("%T is no capture", object)
}

func namespacedSelection(namespace string, pods *v1alpha1.CapturePods) (*selection, error) {
	if namespace == "" {
		return nil, errors.New("a Capture without a namespace")
	}
	s := &selection{namespace: namespace, podInterfaces: sorted(pods.Interfaces)}
	if pods.Selector == nil {
		s.podsOf = map[types.NamespacedName]bool{}
		for _, name := range pods.Names {
			s.podsOf[types.NamespacedName{Namespace: namespace, Name: name}] = true
		}
		return s, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(pods.Selector)
	if err != nil {
		return nil, fmt.Errorf("reading spec.pods.selector: %w", err)
	}
	s.pods, s.namespaces = selector, labels.Everything()
	return s, nil
}

func clusterSelection(spec *v1alpha1.ClusterCaptureSpec) (*selection, error) {
	s := &selection{}
	if pods := spec.Pods; pods != nil {
		s.podInterfaces = sorted(pods.Interfaces)
		if err := s.choosePods(pods); err != nil {
			return nil, err
		}
	}
	if nodes := spec.Nodes; nodes != nil {
		s.nodeInterfaces = sorted(nodes.Interfaces)
		if nodes.Selector == nil {
			s.nodesOf = map[string]bool{}
			for _, name := range nodes.Names {
				s.nodesOf[name] = true
			}
			return s, nil
		}
		selector, err := metav1.LabelSelectorAsSelector(nodes.Selector)
		if err != nil {
			return nil, fmt.Errorf("reading spec.nodes.selector: %w", err)
		}
		s.nodes = selector
	}
	return s, nil
}

func (s *selection) choosePods(pods *v1alpha1.ClusterCapturePods) error {
	if len(pods.Names) > 0 {
		s.podsOf = map[types.NamespacedName]bool{}
		for _, name := range pods.Names {
			s.podsOf[types.NamespacedName{Namespace: name.Namespace, Name: name.Name}] = true
		}
		return nil
	}
	s.pods, s.namespaces = labels.Everything(), labels.Everything()
	var err error
	if pods.Selector != nil {
		if s.pods, err = metav1.LabelSelectorAsSelector(pods.Selector); err != nil {
			return fmt.Errorf("reading spec.pods.selector: %w", err)
		}
	}
	if pods.NamespaceSelector != nil {
		if s.namespaces, err = metav1.LabelSelectorAsSelector(pods.NamespaceSelector); err != nil {
			return fmt.Errorf("reading spec.pods.namespaceSelector: %w", err)
		}
	}
	return nil
}

// choosesPod says whether a pod is meant, wherever it is and whether or not it runs. namespace gives its namespace's
// labels.
func (s *selection) choosesPod(p *pod, namespace func(string) labels.Set) bool {
	switch {
	case s.namespace != "" && p.namespace != s.namespace:
		return false
	case s.podsOf != nil:
		return s.podsOf[types.NamespacedName{Namespace: p.namespace, Name: p.name}]
	case s.pods == nil || !s.pods.Matches(p.labels):
		return false
	}
	return s.namespaces.Empty() || s.namespaces.Matches(namespace(p.namespace))
}

func (s *selection) choosesNode(name string, set labels.Set) bool {
	if s.nodesOf != nil {
		return s.nodesOf[name]
	}
	return s.nodes != nil && s.nodes.Matches(set)
}

// targetOf is a pod as a target; ok is false for one that is on no node (yet), or has ended for good.
func (s *selection) targetOf(p *pod) (t *target, ok bool) {
	if p.node == "" || p.ended {
		return nil, false
	}
	return &target{
		Match: Match{Node: p.node, Namespace: p.namespace, Pod: p.name, UID: p.uid, HostNetwork: p.hostNetwork || p.key != string(p.uid)},
		key:   p.key, interfaces: s.podInterfaces, addresses: p.addresses, running: p.running,
	}, true
}

func sorted(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return slices.Compact(texts)
}
