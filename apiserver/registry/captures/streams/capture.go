package streams

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/capturefile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A capture is what both kinds of captures have for those who read packets. The object is not changed.
type capture struct {
	object   runtime.Object
	meta     *metav1.ObjectMeta
	status   *v1alpha1.CaptureStatus
	settings *v1alpha1.CaptureSettings
	header   pcapfile.Header
}

func view(object runtime.Object) (*capture, error) {
	header, err := capturefile.HeaderOf(object)
	if err != nil {
		return nil, err
	}
	c := &capture{object: object, header: header}
	switch o := object.(type) {
	case *v1alpha1.Capture:
		c.meta, c.status, c.settings = &o.ObjectMeta, &o.Status, &o.Spec.CaptureSettings
	case *v1alpha1.ClusterCapture:
		c.meta, c.status, c.settings = &o.ObjectMeta, &o.Status, &o.Spec.CaptureSettings
	}
	return c, nil
}

// ended is whether no more packets come.
func (c *capture) ended() bool {
	return c.status.File != nil || meta.IsStatusConditionTrue(c.status.Conditions, v1alpha1.CaptureComplete) ||
		meta.IsStatusConditionTrue(c.status.Conditions, v1alpha1.CaptureFailed)
}

// startsIn is how long it is until the capture begins.
func (c *capture) startsIn(now time.Time) time.Duration {
	if c.settings.StartTime == nil {
		return 0
	}
	return c.settings.StartTime.Sub(now)
}

// nodes are those that may have packets; true for those that were seen to record.
func (c *capture) nodes() map[string]bool {
	nodes := map[string]bool{}
	if c.status.Control != nil {
		for _, node := range c.status.Control.Nodes {
			nodes[node.Node] = nodes[node.Node] || node.Recorded
		}
	}
	for _, row := range c.status.Targets {
		nodes[row.Node] = nodes[row.Node] || row.Packets > 0
	}
	return nodes
}

// A target is a pod on its node, or a node when there is no pod.
type target struct{ node, namespace, pod string }

func (t target) String() string {
	if t.pod == "" {
		return "node " + t.node
	}
	return fmt.Sprintf("pod %s/%s on node %s", t.namespace, t.pod, t.node)
}

// targets are those with a row, and whether all have one.
func (c *capture) targets() (targets map[target]bool, all bool) {
	targets = make(map[target]bool, len(c.status.Targets))
	for _, row := range c.status.Targets {
		targets[target{row.Node, row.Namespace, row.Pod}] = true
	}
	return targets, c.status.OmittedTargets == 0
}

// targetOf is what a part says that it is of.
func targetOf(node string, part *agentv1.CapturePart) target {
	return target{node, part.Namespace, part.Pod}
}

// mayHave is whether the spec can choose a target, as far as names tell.
func (c *capture) mayHave(t target) bool {
	switch o := c.object.(type) {
	case *v1alpha1.Capture:
		return t.namespace == o.Namespace && t.pod != "" && (len(o.Spec.Pods.Names) == 0 || slices.Contains(o.Spec.Pods.Names, t.pod))
	case *v1alpha1.ClusterCapture:
		if t.pod == "" {
			nodes := o.Spec.Nodes
			return nodes != nil && t.namespace == "" && (len(nodes.Names) == 0 || slices.Contains(nodes.Names, t.node))
		}
		pods := o.Spec.Pods
		name := v1alpha1.CapturePodName{Namespace: t.namespace, Name: t.pod}
		return pods != nil && t.namespace != "" && (len(pods.Names) == 0 || slices.Contains(pods.Names, name))
	}
	return false
}

// narrowed is the header of a file with less than everything.
func (c *capture) narrowed(options *v1alpha1.CaptureReadOptions, headersOnly bool) pcapfile.Header {
	header := c.header
	header.HeadersOnly = headersOnly
	if options.Pod != "" {
		header.PodNamespace, header.Pod = c.podNamespace(options), options.Pod
	}
	return header
}

func (c *capture) podNamespace(options *v1alpha1.CaptureReadOptions) string {
	if options.Namespace != "" {
		return options.Namespace
	}
	return c.meta.Namespace
}

// checkNarrowing says what is wrong with the parameters that narrow an answer.
func checkNarrowing(options *v1alpha1.CaptureReadOptions, captureNamespace string) error {
	switch {
	case options.Namespace != "" && options.Pod == "":
		return errors.New("parameter namespace needs parameter pod")
	case options.Pod != "" && options.Namespace == "" && captureNamespace == "":
		return errors.New("parameter pod needs parameter namespace, since a ClusterCapture has none of its own")
	case options.Namespace != "" && captureNamespace != "" && options.Namespace != captureNamespace:
		return fmt.Errorf("parameter namespace is %q, but a Capture has pods of its own namespace only, which is %q", options.Namespace, captureNamespace)
	}
	return nil
}
