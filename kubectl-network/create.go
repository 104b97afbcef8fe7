package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A recipe is what the flags of create say.
type recipe struct {
	selector, namespaceSelector, nodeSelector string
	pods, nodes, interfaces, to               []string
	filter                                    string
	duration                                  time.Duration
	packets, packetsPerNode                   int64
	bytes, bytesPerNode, ringFileSize         string
	ringFiles, snapLength                     int32
	bothEnds, snapshot                        bool
	ttl                                       time.Duration
	allNamespaces                             bool

	file, dryRun           string
	follow, remove, header bool
}

// longestTTL is what the server takes, and what its field holds by far.
const longestTTL = 30 * 24 * time.Hour

// shortestTTL is what leaves the time to read what was recorded.
const shortestTTL = time.Minute

func (r *recipe) addTo(c *cobra.Command, k kind) {
	f := c.Flags()
	f.StringVarP(&r.selector, "selector", "l", "", "Labels of the pods to record, such as app=web")
	if k.namespaced {
		f.StringSliceVar(&r.pods, "pod", nil, "Name of a pod to record; can be given several times")
		f.StringSliceVar(&r.interfaces, "interface", nil, "Interface of the pods to record (default: all but lo)")
	} else {
		f.BoolVarP(&r.allNamespaces, "all-namespaces", "A", false, "Record the pods of all namespaces")
		f.StringVar(&r.namespaceSelector, "namespace-selector", "", "Labels of the namespaces whose pods are recorded (default: all namespaces)")
		f.StringSliceVar(&r.pods, "pod", nil, "NAMESPACE/NAME of a pod to record; can be given several times")
		f.StringSliceVar(&r.nodes, "node", nil, "Name of a node to record itself; can be given several times")
		f.StringVar(&r.nodeSelector, "node-selector", "", "Labels of the nodes to record themselves")
		f.StringSliceVar(&r.interfaces, "interface", nil, "Interface to record (default: a node's uplinks, all of a pod but lo)")
	}
	f.StringVar(&r.filter, "filter", "", `Packets to record, in tcpdump's grammar: "tcp port 443 and host 192.0.2.1"; pods and Services can be named`)
	f.DurationVar(&r.duration, "duration", 0, "For how long to record (default 5m)")
	f.Int64Var(&r.packets, "packets", 0, "End after so many packets, of all nodes together")
	f.StringVar(&r.bytes, "bytes", "", "End after so many bytes, of all nodes together, such as 100Mi")
	f.Int64Var(&r.packetsPerNode, "packets-per-node", 0, "End a node's part after so many packets")
	f.StringVar(&r.bytesPerNode, "bytes-per-node", "", "End a node's part after so many bytes")
	f.Int32Var(&r.snapLength, "snaplen", 0, "Keep so many bytes of each packet (default 262144)")
	f.Int32Var(&r.ringFiles, "ring-files", 0, "Keep only the newest packets of each interface, in so many files")
	f.StringVar(&r.ringFileSize, "ring-file-size", "16Mi", "Size of a file of the ring")
	f.BoolVar(&r.bothEnds, "both-ends", false, "Record a flow between two recorded pods at both of them")
	f.BoolVar(&r.snapshot, "snapshot", false, "With --to: also copy addresses, routes, rules and sockets of the pods, and for a clustercapture of the nodes")
	f.StringArrayVar(&r.to, "to", nil, destinationHelp)
	f.DurationVar(&r.ttl, "ttl", 0, "For how long to keep the packets (default 24h)")
	f.StringVarP(&r.file, "output", "o", "", "File to write the packets to when the capture has ended; - for stdout. With --dry-run: yaml, json or name")
	f.BoolVarP(&r.follow, "follow", "f", false, "Write packets as they come, to stdout or the file of -o")
	f.BoolVar(&r.header, "headers-only", false, "With --follow or -o: without payload")
	f.BoolVar(&r.remove, "rm", false, "With --follow or -o: delete the capture afterwards")
	f.StringVar(&r.dryRun, "dry-run", "none", "none, server (says what would be recorded) or client (prints the object)")
}

// create makes the command that creates a capture of a kind.
func (p *program) create(k kind) *cobra.Command {
	var r recipe
	example := `  # Record pods by label for 30 seconds into one file
  kubectl create capture web -l app=web --duration 30s -o web.pcapng

  # Look at DNS live
  kubectl create capture dns -l app=web --filter "port 53" --follow | tcpdump -nr -`
	if !k.namespaced {
		example = `  # Record two nodes' uplinks
  kubectl create clustercapture uplinks --node node-1 --node node-2 -o uplinks.pcapng

  # Record the pods of all namespaces of a team
  kubectl create clustercapture team --namespace-selector team=blue -l app=web --follow | tcpdump -nr -`
	}
	c := &cobra.Command{
		Use:     "create NAME [flags]",
		Short:   "Record packets",
		Long:    "Record packets on every node that hosts a target, and read them as one pcapng file.\n\nThe first Ctrl-C ends the capture and finishes the file, the second gives up.",
		Example: example,
		Args:    exactlyOneName(k),
		RunE: func(c *cobra.Command, args []string) error {
			object, err := r.object(k, args[0], c)
			if err != nil {
				return err
			}
			api, err := p.connect(k)
			if err != nil {
				return err
			}
			return p.begin(c.Context(), api, &r, object)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	r.addTo(c, k)
	p.config.AddFlags(c.Flags())
	p.completeFlags(c, k)
	return c
}

func exactlyOneName(k kind) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("give one name: %s NAME (see %s --help)", c.CommandPath(), c.CommandPath())
		}
		return nil
	}
}

// object makes what is sent to the server, which checks it; only what the flags themselves have wrong is said here.
func (r *recipe) object(k kind, name string, c *cobra.Command) (runtime.Object, error) {
	if err := r.validate(c); err != nil {
		return nil, err
	}
	settings, err := r.settings(c)
	if err != nil {
		return nil, err
	}
	typeMeta := metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: k.name}
	if k.namespaced {
		pods, err := r.capturePods()
		return &v1alpha1.Capture{TypeMeta: typeMeta, ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.CaptureSpec{Pods: pods, CaptureSettings: settings}}, err
	}
	capture := &v1alpha1.ClusterCapture{TypeMeta: typeMeta, ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ClusterCaptureSpec{CaptureSettings: settings}}
	if capture.Spec.Pods, err = r.clusterPods(); err != nil {
		return nil, err
	}
	capture.Spec.Nodes, err = r.captureNodes()
	if err == nil && capture.Spec.Pods == nil && capture.Spec.Nodes == nil {
		err = errors.New("say what to record: --node or --node-selector for nodes, -l, --pod or -A for pods")
	}
	return capture, err
}

func (r *recipe) validate(c *cobra.Command) error {
	switch {
	case r.dryRun != "none" && r.dryRun != "client" && r.dryRun != "server":
		return fmt.Errorf("--dry-run: %q is none of none, client and server", r.dryRun)
	case r.dryRun != "none" && (r.follow || r.file != "" && !isFormat(r.file)):
		return errors.New("--dry-run records nothing, so there is nothing for --follow, and -o can only be yaml, json or name")
	case r.dryRun == "none" && (isFormat(r.file) || r.file == "wide"):
		return fmt.Errorf("-o %s: is no form of output here but the file for the packets; write -o ./%[1]s for a file of that name, or add --dry-run=client to see the object", r.file)
	case (r.remove || r.header) && !r.follow && r.file == "":
		return errors.New("--rm and --headers-only go with --follow or -o")
	case c.Flags().Changed("ring-file-size") && r.ringFiles == 0:
		return errors.New("--ring-file-size goes with --ring-files")
	case c.Flags().Changed("duration") && r.duration < time.Second:
		return fmt.Errorf("--duration: %v is less than a second", r.duration)
	case r.duration%time.Second != 0:
		return fmt.Errorf("--duration: %v is not a whole number of seconds", r.duration)
	case c.Flags().Changed("ttl") && r.ttl < shortestTTL && (r.follow || r.file != "" && !isFormat(r.file)):
		return fmt.Errorf("--ttl: %v may delete the packets before they are read; leave it out, and give --rm to have the capture deleted then", r.ttl)
	case r.ttl%time.Second != 0 || r.ttl < 0 || r.ttl > longestTTL:
		return fmt.Errorf("--ttl: %v is not a whole number of seconds, or not from 0 to %v", r.ttl, longestTTL)
	}
	return nil
}

func (r *recipe) settings(c *cobra.Command) (s v1alpha1.CaptureSettings, err error) {
	s.Filter, s.NetworkSnapshot = r.filter, r.snapshot
	if c.Flags().Changed("snaplen") {
		s.PacketBytes = &r.snapLength
	}
	if c.Flags().Changed("duration") {
		seconds := int64(r.duration / time.Second)
		s.DurationSeconds = &seconds
	}
	if r.bothEnds {
		s.VantagePoint = v1alpha1.BothEnds
	}
	if c.Flags().Changed("packets") {
		s.Limits.Packets = &r.packets
	}
	if c.Flags().Changed("packets-per-node") {
		s.Limits.PacketsPerNode = &r.packetsPerNode
	}
	if s.Limits.Bytes, err = quantity("--bytes", r.bytes); err != nil {
		return s, err
	}
	if s.Limits.BytesPerNode, err = quantity("--bytes-per-node", r.bytesPerNode); err != nil {
		return s, err
	}
	if c.Flags().Changed("ring-files") {
		fileSize, err := quantity("--ring-file-size", r.ringFileSize)
		if err != nil {
			return s, err
		}
		if fileSize == nil {
			return s, errors.New("--ring-file-size: is empty; give a size such as 16Mi")
		}
		s.Ring = &v1alpha1.CaptureRing{Files: r.ringFiles, FileBytes: *fileSize}
	}
	if c.Flags().Changed("ttl") {
		seconds := int32(r.ttl / time.Second)
		s.TTLSecondsAfterFinished = &seconds
	}
	s.Outputs, err = parseDestinations(r.to)
	return s, err
}

func quantity(flag, value string) (*resource.Quantity, error) {
	if value == "" {
		return nil, nil
	}
	parsed, err := resource.ParseQuantity(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is no size such as 100Mi", flag, value)
	}
	return &parsed, nil
}

// selector reads labels as kubectl's -l does; metav1.ParseToLabelSelector does not know "!=".
func selector(flag, text string) (*metav1.LabelSelector, error) {
	requirements, err := labels.ParseToRequirements(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	parsed := &metav1.LabelSelector{}
	operators := map[selection.Operator]metav1.LabelSelectorOperator{
		selection.In: metav1.LabelSelectorOpIn, selection.NotIn: metav1.LabelSelectorOpNotIn, selection.NotEquals: metav1.LabelSelectorOpNotIn,
		selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
	}
	for _, r := range requirements {
		if r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals {
			metav1.AddLabelToSelector(parsed, r.Key(), r.ValuesUnsorted()[0])
			continue
		}
		operator, ok := operators[r.Operator()]
		if !ok {
			return nil, fmt.Errorf("%s: %q cannot be used here: use =, !=, in, notin, KEY or !KEY", flag, r.String())
		}
		values := r.ValuesUnsorted()
		slices.Sort(values)
		parsed.MatchExpressions = append(parsed.MatchExpressions, metav1.LabelSelectorRequirement{Key: r.Key(), Operator: operator, Values: values})
	}
	return parsed, nil
}

func (r *recipe) capturePods() (pods v1alpha1.CapturePods, err error) {
	pods.Names, pods.Interfaces = r.pods, r.interfaces
	if r.selector == "" && len(r.pods) == 0 {
		return pods, errors.New("say which pods to record: -l LABELS or --pod NAME")
	}
	if r.selector != "" {
		pods.Selector, err = selector("--selector", r.selector)
	}
	return pods, err
}

func (r *recipe) clusterPods() (*v1alpha1.ClusterCapturePods, error) {
	if r.selector == "" && r.namespaceSelector == "" && len(r.pods) == 0 && !r.allNamespaces {
		return nil, nil
	}
	pods, err := &v1alpha1.ClusterCapturePods{Interfaces: r.interfaces}, error(nil)
	for _, pod := range r.pods {
		namespace, name, ok := strings.Cut(pod, "/")
		if !ok {
			return nil, fmt.Errorf("--pod %s: give NAMESPACE/NAME", pod)
		}
		pods.Names = append(pods.Names, v1alpha1.CapturePodName{Namespace: namespace, Name: name})
	}
	if r.namespaceSelector != "" {
		if pods.NamespaceSelector, err = selector("--namespace-selector", r.namespaceSelector); err != nil {
			return nil, err
		}
	}
	if r.selector != "" || len(r.pods) == 0 {
		pods.Selector, err = selector("--selector", r.selector)
	}
	return pods, err
}

func (r *recipe) captureNodes() (*v1alpha1.CaptureNodes, error) {
	if len(r.nodes) == 0 && r.nodeSelector == "" {
		return nil, nil
	}
	nodes, err := &v1alpha1.CaptureNodes{Names: r.nodes, Interfaces: r.interfaces}, error(nil)
	if r.nodeSelector != "" {
		nodes.Selector, err = selector("--node-selector", r.nodeSelector)
	}
	return nodes, err
}
