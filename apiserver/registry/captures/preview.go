package captures

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// expectTime is for how long a dry run waits for live statistics.
	expectTime = 3 * time.Second
	// maxAskedPods is of how many pods it is asked one by one whether the requester may get them.
	maxAskedPods = 50
	// shownPods is how many pods the warning names.
	shownPods = 5
)

// preview fills the status of a dry run and sums it up in a line. It tells of pods that the requester may get, and of
// no others that they are there.
func (r *request) preview(ctx context.Context, matches []Match) string {
	seen := r.visible(ctx, matches)
	status := r.capture.status
	nodes := map[string]bool{}
	for _, m := range seen.matches {
		if m.Pod != "" {
			status.Pods++
		}
		nodes[m.Node] = true
		if len(status.Targets) == validation.MaxStatusRows {
			status.OmittedTargets++
			continue
		}
		status.Targets = append(status.Targets, v1alpha1.CaptureTarget{
			Node: m.Node, Namespace: m.Namespace, Pod: m.Pod, Phase: v1alpha1.CapturePending, Reason: "DryRun",
		})
	}
	status.Nodes = int32(len(nodes))
	line := "dry run: " + r.summary(seen)
	if status.Filter != nil {
		line += "; the filter has " + count(int(status.Filter.Instructions), "instruction")
	}
	return line + "; " + r.expectation(ctx, seen)
}

// summary is such as "2 pods on 1 node match: web-0, web-1".
func (r *request) summary(seen visible) string {
	var pods, own []string
	nodes := map[string]bool{}
	for _, m := range seen.matches {
		switch {
		case m.Pod == "":
			own = append(own, m.Node)
		case r.kind.namespaced:
			pods = append(pods, m.Pod)
		default:
			pods = append(pods, m.Namespace+"/"+m.Pod)
		}
		nodes[m.Node] = true
	}
	var texts []string
	if len(own) > 0 {
		texts = append(texts, count(len(own), "node")+" ("+shorten(own)+")")
	}
	if len(pods) > 0 {
		texts = append(texts, count(len(pods), "pod")+" ("+shorten(pods)+")")
	}
	text := "nothing matches now"
	if len(texts) > 0 {
		text = strings.Join(texts, " and ") + " on " + count(len(nodes), "node") + " would be recorded"
	}
	if seen.partial {
		text += ", of those that you may get"
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func shorten(names []string) string {
	if len(names) > shownPods {
		return strings.Join(names[:shownPods], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// expectation asks live statistics, for who may read them.
func (r *request) expectation(ctx context.Context, seen visible) string {
	const unknown = "how much they send and receive is not known"
	if len(seen.matches) == 0 || !r.mayReadStatistics(ctx, seen.matches) {
		return unknown
	}
	ctx, cancel := context.WithTimeout(ctx, expectTime)
	defer cancel()
	rates, err := r.Expect(ctx, seen.matches)
	if err != nil {
		return unknown + ": " + err.Error()
	}
	packets, bytes := whole(rates.Packets), whole(rates.Bytes)
	r.capture.status.Expected = &v1alpha1.CaptureExpectation{
		PacketsPerSecond: *resource.NewQuantity(packets, resource.DecimalSI), BytesPerSecond: *resource.NewQuantity(bytes, resource.BinarySI),
	}
	return fmt.Sprintf("they send and receive %s packets/s, %sB/s before the filter", live.CountCell(packets), live.BytesCell(bytes))
}

func whole(rate float64) int64 {
	if !(rate > 0) {
		return 0
	}
	return int64(math.Min(rate+0.5, math.MaxInt64/2))
}

// visible is what a requester may know of.
type visible struct {
	matches []Match
	// partial: there may be more.
	partial bool
}

func (r *request) visible(ctx context.Context, matches []Match) visible {
	cluster, ok := r.object.(*v1alpha1.ClusterCapture)
	nodes := ok && cluster.Spec.Nodes != nil
	s := sight{request: r, everyPod: r.allowed(ctx, "pods", r.namespace, ""), namespaces: map[string]bool{}}
	s.everyNode = nodes && r.allowed(ctx, "nodes", "", "")
	seen := visible{partial: !s.everyPod || nodes && !s.everyNode}
	for _, m := range matches {
		if s.of(ctx, m) {
			seen.matches = append(seen.matches, m)
		}
	}
	return seen
}

// A sight asks once for all of a capture's scope, else once a namespace, else for a few pods by name.
type sight struct {
	*request
	everyPod, everyNode bool
	namespaces          map[string]bool
	asked               int
}

func (s *sight) of(ctx context.Context, m Match) bool {
	if m.Pod == "" {
		return s.everyNode
	}
	if s.everyPod {
		return true
	}
	whole, known := s.namespaces[m.Namespace]
	if !known {
		whole = s.allowed(ctx, "pods", m.Namespace, "")
		s.namespaces[m.Namespace] = whole
	}
	if whole || s.asked == maxAskedPods {
		return whole
	}
	s.asked++
	return s.allowed(ctx, "pods", m.Namespace, m.Pod)
}

// mayReadStatistics of all that is seen.
func (r *request) mayReadStatistics(ctx context.Context, matches []Match) bool {
	asked := map[string]bool{}
	for _, m := range matches {
		right := authorizer.AttributesRecord{Verb: "get", APIGroup: v1alpha1.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version, Resource: "podnetworkstats", Namespace: m.Namespace}
		if m.Pod == "" || m.HostNetwork {
			right.Resource, right.Namespace = "nodenetworkstats", ""
		}
		if asked[words(right)] {
			continue
		}
		if len(asked) == maxAskedPods {
			return false
		}
		asked[words(right)] = true
		if may, err := r.may(ctx, right); err != nil || !may {
			return false
		}
	}
	return true
}

// allowed asks for the right to get things of the core group. Not knowing is not being allowed.
func (r *request) allowed(ctx context.Context, resource, namespace, name string) bool {
	may, err := r.may(ctx, authorizer.AttributesRecord{Verb: "get", APIVersion: "v1", Resource: resource, Namespace: namespace, Name: name})
	return err == nil && may
}
