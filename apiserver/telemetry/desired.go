package telemetry

import (
	"cmp"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A desired is what agents shall do. It does not change.
type desired struct {
	point
	// config has everything but supersedes.
	config *agentv1.TelemetryConfig
	chosen *selection
	// problem is why the spec cannot be put in force anywhere; there is no config then.
	problem string
}

// Limits of what one message may hold beside a config.
const configRoom = agentv1.MaxTelemetryBytes - 4<<10

// newDesired makes of a NetworkTelemetry what agents shall do. secrets are those that it names.
func newDesired(at point, secrets map[use]secret) *desired {
	d := &desired{point: at, chosen: &selection{}, config: &agentv1.TelemetryConfig{Revision: at.revision}}
	if at.object == nil {
		return d
	}
	chosen, err := selectionOf(&at.object.Spec)
	if err != nil {
		d.config, d.problem = nil, err.Error()
		return d
	}
	d.chosen = chosen
	d.config = configOf(&at.object.Spec, secrets)
	d.config.Revision, d.config.Generation = at.revision, at.object.Generation
	if size := proto.Size(d.config); size > configRoom {
		d.config, d.problem = nil, fmt.Sprintf("with its certificates and headers the configuration has %d bytes, and agents take %d at most", size, configRoom)
	}
	return d
}

// configOf has the spec's defaults too, for objects that were stored before there were such.
func configOf(spec *v1alpha1.NetworkTelemetrySpec, secrets map[use]secret) *agentv1.TelemetryConfig {
	config := &agentv1.TelemetryConfig{SeriesLimit: number(spec.SeriesLimit, 50_000), RetinaMetrics: spec.RetinaMetrics}
	for i := range spec.PodMetrics {
		of := &spec.PodMetrics[i]
		group := &agentv1.TelemetryGroup{
			Name: groupNames[of.Group], LabelValuesLimit: number(of.LabelValuesLimit, 50), IntervalNano: seconds(of.IntervalSeconds, 0),
		}
		for _, label := range of.Labels {
			group.Labels = append(group.Labels, labelNames[label])
		}
		config.Groups = append(config.Groups, group)
	}
	if logs := spec.FlowLogs; logs != nil {
		config.FlowLogs = &agentv1.TelemetryFlowLogs{IntervalNano: seconds(logs.IntervalSeconds, 60), SampleOneIn: number(logs.SampleOneIn, 1)}
		for _, verdict := range logs.Verdicts {
			config.FlowLogs.Verdicts = append(config.FlowLogs.Verdicts, verdicts[verdict])
		}
	}
	for i := range spec.Exporters {
		config.Exporters = append(config.Exporters, exporterOf(&spec.Exporters[i], secrets))
	}
	return config
}

var groupNames = map[v1alpha1.PodMetricGroup]agentv1.TelemetryGroupName{
	v1alpha1.PodTraffic:   agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC,
	v1alpha1.PodDrops:     agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DROPS,
	v1alpha1.PodTCP:       agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TCP,
	v1alpha1.PodDNS:       agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS,
	v1alpha1.PodAPIServer: agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER,
}

var labelNames = map[v1alpha1.PodMetricLabel]agentv1.TelemetryLabel{
	v1alpha1.LabelPeerWorkload: agentv1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD,
	v1alpha1.LabelService:      agentv1.TelemetryLabel_TELEMETRY_LABEL_SERVICE,
	v1alpha1.LabelPort:         agentv1.TelemetryLabel_TELEMETRY_LABEL_PORT,
	v1alpha1.LabelDNSName:      agentv1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME,
}

var verdicts = map[v1alpha1.FlowVerdict]agentv1.Verdict{
	v1alpha1.Forwarded: agentv1.Verdict_VERDICT_FORWARDED,
	v1alpha1.Dropped:   agentv1.Verdict_VERDICT_DROPPED,
	v1alpha1.Rejected:  agentv1.Verdict_VERDICT_REJECTED,
}

func exporterOf(of *v1alpha1.TelemetryExporter, secrets map[use]secret) *agentv1.TelemetryExporter {
	exporter := &agentv1.TelemetryExporter{Name: of.Name}
	for _, signal := range of.Signals {
		exporter.Metrics = exporter.Metrics || signal == v1alpha1.SignalMetrics
		exporter.FlowLogs = exporter.FlowLogs || signal == v1alpha1.SignalFlowLogs
	}
	switch {
	case of.OTLP != nil:
		exporter.To = &agentv1.TelemetryExporter_Otlp{Otlp: otlpOf(of.OTLP, secrets)}
	case of.File != nil:
		exporter.To = &agentv1.TelemetryExporter_File{File: &agentv1.FileDestination{
			MaxBytes: number(of.File.MaxMebibytes, 100) << 20, MaxFiles: int32(number(of.File.MaxFiles, 5)),
		}}
	case of.Stdout != nil:
		exporter.To = &agentv1.TelemetryExporter_Stdout{Stdout: &agentv1.StdoutDestination{}}
	}
	return exporter
}

func otlpOf(of *v1alpha1.OTLPExporter, secrets map[use]secret) *agentv1.OTLPDestination {
	to := &agentv1.OTLPDestination{
		Endpoint: of.Endpoint, Http: of.Protocol == v1alpha1.OTLPHTTP, CaBundle: of.CABundle, ServerName: of.ServerName,
		Gzip: of.Compression != v1alpha1.CompressionNone, IntervalNano: seconds(of.IntervalSeconds, 30),
		TimeoutNano: seconds(of.TimeoutSeconds, 10), QueueBytes: number(of.QueueMebibytes, 8) << 20,
	}
	if of.HeadersSecret != nil {
		from := secrets[use{name: of.HeadersSecret.Name}]
		to.NeedsHeaders, to.Headers, to.Problem = true, from.headers, from.problem
	}
	if of.ClientCertificateSecret != nil {
		from := secrets[use{name: of.ClientCertificateSecret.Name, certificate: true}]
		to.NeedsClientCertificate, to.ClientCertificate, to.ClientKey = true, from.certificate, from.key
		to.Problem = cmp.Or(to.Problem, from.problem)
	}
	return to
}

func number(of *int32, otherwise int64) int64 {
	if of == nil {
		return otherwise
	}
	return int64(*of)
}

func seconds(of *int32, otherwise int64) int64 { return number(of, otherwise) * int64(time.Second) }

// A selection says which pods have what.
type selection struct {
	groups []chosenGroup
	// logged are the pods whose flows are logged; nil for none.
	logged *chooser
}

type chosenGroup struct {
	name agentv1.TelemetryGroupName
	chooser
}

// A chooser chooses pods by their namespace's and their own labels.
type chooser struct {
	namespaces, pods labels.Selector
}

// A choice is what a pod has: a bit for each group, by its number on the wire, and the last one for flow logs.
type choice uint16

const choosesFlowLogs choice = 1 << 15

func selectionOf(spec *v1alpha1.NetworkTelemetrySpec) (*selection, error) {
	s := &selection{}
	for i := range spec.PodMetrics {
		of := &spec.PodMetrics[i]
		chooser, err := chooserOf(of.Pods)
		if err != nil {
			return nil, fmt.Errorf("spec.podMetrics[%d].pods: %w", i, err)
		}
		s.groups = append(s.groups, chosenGroup{groupNames[of.Group], *chooser})
	}
	if spec.FlowLogs != nil {
		chooser, err := chooserOf(spec.FlowLogs.Pods)
		if err != nil {
			return nil, fmt.Errorf("spec.flowLogs.pods: %w", err)
		}
		s.logged = chooser
	}
	return s, nil
}

func chooserOf(pods *v1alpha1.TelemetryPods) (*chooser, error) {
	if pods == nil {
		pods = &v1alpha1.TelemetryPods{}
	}
	namespaces, err := selectorOf(pods.NamespaceSelector)
	if err != nil {
		return nil, fmt.Errorf("namespaceSelector: %w", err)
	}
	selector, err := selectorOf(pods.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	return &chooser{namespaces, selector}, nil
}

// selectorOf chooses all where nothing is said, unlike metav1.LabelSelectorAsSelector.
func selectorOf(of *metav1.LabelSelector) (labels.Selector, error) {
	if of == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(of)
}

func (c *chooser) chooses(pod, namespace labels.Set) bool {
	return c.namespaces.Matches(namespace) && c.pods.Matches(pod)
}

// choose says what a pod of these labels has.
func (s *selection) choose(pod, namespace labels.Set) (has choice) {
	for i := range s.groups {
		if s.groups[i].chooses(pod, namespace) {
			has |= 1 << s.groups[i].name
		}
	}
	if s.logged != nil && s.logged.chooses(pod, namespace) {
		has |= choosesFlowLogs
	}
	return has
}

// groups are those of a choice, in rising order.
func (c choice) groups() (names []agentv1.TelemetryGroupName) {
	for name := agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC; name <= agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER; name++ {
		if c&(1<<name) != 0 {
			names = append(names, name)
		}
	}
	return names
}
