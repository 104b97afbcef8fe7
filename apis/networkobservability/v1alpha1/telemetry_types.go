package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkTelemetryName is the name of the one NetworkTelemetry that a cluster may have.
const NetworkTelemetryName = "cluster"

// +genclient
// +genclient:nonNamespaced
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NetworkTelemetry says what leaves the cluster's agents beside answers to kubectl: which metrics of pods they offer to
// Prometheus, which flows they log, and where they send them. A cluster has one, named "cluster". Without it agents offer
// metrics of their nodes and of themselves, and send nothing.
type NetworkTelemetry struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object's metadata. The name is "cluster".
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what shall be.
	Spec NetworkTelemetrySpec `json:"spec,omitempty"`
	// status is what is, on how many nodes.
	// +optional
	Status NetworkTelemetryStatus `json:"status,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NetworkTelemetryList is a list of NetworkTelemetry.
type NetworkTelemetryList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard list's metadata.
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are the one NetworkTelemetry, or none.
	Items []NetworkTelemetry `json:"items"`
}

// NetworkTelemetrySpec says what leaves the agents.
type NetworkTelemetrySpec struct {
	// podMetrics are the groups of metrics that agents offer of pods. A group that is not named is not offered.
	// +optional
	// +listType=map
	// +listMapKey=group
	PodMetrics []PodMetrics `json:"podMetrics,omitempty"`
	// seriesLimit is how many series of pods a node's agent offers at most, 100 to 1,000,000. Pods beyond it are added up
	// in series whose namespace, pod and workload are "other". By default 50,000.
	// +optional
	SeriesLimit *int32 `json:"seriesLimit,omitempty"`
	// retinaMetrics offers the same numbers at /metrics/retina too, under the names that Microsoft Retina has for them.
	// +optional
	RetinaMetrics bool `json:"retinaMetrics,omitempty"`
	// flowLogs says which flows are logged, for exporters that send them. By default none.
	// +optional
	FlowLogs *FlowLogs `json:"flowLogs,omitempty"`
	// exporters are where agents send metrics and flow logs to. At most 8.
	// +optional
	// +listType=map
	// +listMapKey=name
	Exporters []TelemetryExporter `json:"exporters,omitempty"`
}

// PodMetricGroup is a group of metrics of pods.
// +enum
type PodMetricGroup string

const (
	// PodTraffic is bytes and packets by direction.
	PodTraffic PodMetricGroup = "Traffic"
	// PodDrops is dropped packets by reason.
	PodDrops PodMetricGroup = "Drops"
	// PodTCP is connections, failures to connect, resets, retransmissions and round-trip times.
	PodTCP PodMetricGroup = "TCP"
	// PodDNS is queries, responses by code, and latency.
	PodDNS PodMetricGroup = "DNS"
	// PodAPIServer is connections to the Kubernetes API and their latency.
	PodAPIServer PodMetricGroup = "APIServer"
)

// PodMetricLabel is a label that metrics have only when it is asked for, since its values are many.
// +enum
type PodMetricLabel string

const (
	// LabelPeerWorkload is the namespace and workload of the peer. Group Traffic.
	LabelPeerWorkload PodMetricLabel = "PeerWorkload"
	// LabelService is the namespace and name of the Service that the pod addressed. Group Traffic.
	LabelService PodMetricLabel = "Service"
	// LabelPort is the port of the server's end and its protocol, or of a drop the destination's. Groups Traffic and Drops.
	LabelPort PodMetricLabel = "Port"
	// LabelDNSName is the name under which the pod looked up the peer, or that it asked for. Groups Traffic and DNS.
	LabelDNSName PodMetricLabel = "DNSName"
)

// PodMetrics is a group of metrics, and of which pods agents offer it.
type PodMetrics struct {
	// group is Traffic, Drops, TCP, DNS or APIServer.
	Group PodMetricGroup `json:"group"`
	// pods chooses the pods. By default all.
	// +optional
	Pods *TelemetryPods `json:"pods,omitempty"`
	// labels are added when they are asked for: PeerWorkload, Service, Port and DNSName. Not every group has every one.
	// +optional
	// +listType=set
	Labels []PodMetricLabel `json:"labels,omitempty"`
	// labelValuesLimit is how many combinations of values of these labels a pod has at most, 1 to 10,000. What is beyond
	// has "other" for each. By default 50.
	// +optional
	LabelValuesLimit *int32 `json:"labelValuesLimit,omitempty"`
	// intervalSeconds is how old values of this group may be, 0 to 300: they are read again only after that. By default 0:
	// every scrape reads.
	// +optional
	IntervalSeconds *int32 `json:"intervalSeconds,omitempty"`
}

// TelemetryPods chooses pods. A pod has to match both selectors.
type TelemetryPods struct {
	// namespaceSelector chooses namespaces by their labels. By default all.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// selector chooses pods by labels. By default all.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// FlowLogs says which flows are logged, and how often.
type FlowLogs struct {
	// pods chooses the pods whose flows are logged. By default all.
	// +optional
	Pods *TelemetryPods `json:"pods,omitempty"`
	// verdicts are those of which flows are logged: Forwarded, Dropped and Rejected. By default all.
	// +optional
	// +listType=set
	Verdicts []FlowVerdict `json:"verdicts,omitempty"`
	// intervalSeconds is how often a flow that goes on is logged, with what passed since its last record: 5 to 3,600. By
	// default 60. A flow's end is always logged.
	// +optional
	IntervalSeconds *int32 `json:"intervalSeconds,omitempty"`
	// sampleOneIn logs one flow out of so many, 1 to 1,000,000, chosen by addresses, ports and protocol: both ends of a flow
	// are logged, or neither. Records say it. By default 1.
	// +optional
	SampleOneIn *int32 `json:"sampleOneIn,omitempty"`
}

// TelemetrySignal is what an exporter sends.
// +enum
type TelemetrySignal string

const (
	// SignalMetrics is the metrics that agents offer, those of nodes and of the agents included.
	SignalMetrics TelemetrySignal = "Metrics"
	// SignalFlowLogs is the flows that flowLogs chooses.
	SignalFlowLogs TelemetrySignal = "FlowLogs"
)

// TelemetryExporter is a place that every agent sends to. Exactly one of otlp, file and stdout is set.
type TelemetryExporter struct {
	// name is a DNS label, by which status and metrics name the exporter.
	Name string `json:"name"`
	// signals are what is sent: Metrics (otlp only) and FlowLogs.
	// +listType=set
	Signals []TelemetrySignal `json:"signals"`
	// otlp sends to a collector by the OpenTelemetry protocol.
	// +optional
	OTLP *OTLPExporter `json:"otlp,omitempty"`
	// file writes lines of JSON to files on the node, /var/log/networkobservability/NAME.log and its predecessors.
	// +optional
	File *FileExporter `json:"file,omitempty"`
	// stdout writes lines of JSON to the agent's standard output, among its own log on standard error.
	// +optional
	Stdout *StdoutExporter `json:"stdout,omitempty"`
}

// OTLPProtocol is how OTLP is carried.
// +enum
type OTLPProtocol string

const (
	// OTLPGRPC is OTLP/gRPC.
	OTLPGRPC OTLPProtocol = "GRPC"
	// OTLPHTTP is OTLP/HTTP with binary protobuf.
	OTLPHTTP OTLPProtocol = "HTTP"
)

// OTLPExporter is a collector of OpenTelemetry.
type OTLPExporter struct {
	// endpoint is the collector's URL: https://HOST:PORT, or http://HOST:PORT for a connection without TLS; over HTTP with a
	// path, if there is one before /v1/metrics and /v1/logs. HOST is resolved as in pods.
	Endpoint string `json:"endpoint"`
	// protocol is GRPC or HTTP. By default GRPC.
	// +optional
	Protocol OTLPProtocol `json:"protocol,omitempty"`
	// caBundle is the PEM of the certificates by which the collector is checked. By default those of the agent's image.
	// +optional
	CABundle []byte `json:"caBundle,omitempty"`
	// serverName is the name that the collector's certificate has to have. By default the endpoint's host.
	// +optional
	ServerName string `json:"serverName,omitempty"`
	// headersSecret is a Secret in namespace network-observability each of whose keys is the name of a header that is sent
	// along, as "authorization". Whoever sets it has to have the right to get that Secret.
	// +optional
	HeadersSecret *TelemetrySecretReference `json:"headersSecret,omitempty"`
	// clientCertificateSecret is a Secret in namespace network-observability with the certificate and the key by which the
	// collector knows agents, as PEM under "tls.crt" and "tls.key" (type kubernetes.io/tls). Whoever sets it has to have the
	// right to get that Secret.
	// +optional
	ClientCertificateSecret *TelemetrySecretReference `json:"clientCertificateSecret,omitempty"`
	// compression is Gzip or None. By default Gzip.
	// +optional
	Compression OTLPCompression `json:"compression,omitempty"`
	// intervalSeconds is how often metrics are sent, 5 to 3,600. By default 30.
	// +optional
	IntervalSeconds *int32 `json:"intervalSeconds,omitempty"`
	// timeoutSeconds is how long a request may take, 1 to 60. By default 10.
	// +optional
	TimeoutSeconds *int32 `json:"timeoutSeconds,omitempty"`
	// queueMebibytes is how much waits on each node while the collector does not answer, 1 to 64. What does not fit
	// replaces the oldest, and is counted. By default 8.
	// +optional
	QueueMebibytes *int32 `json:"queueMebibytes,omitempty"`
}

// OTLPCompression is how requests are compressed.
// +enum
type OTLPCompression string

const (
	// CompressionGzip compresses requests.
	CompressionGzip OTLPCompression = "Gzip"
	// CompressionNone does not.
	CompressionNone OTLPCompression = "None"
)

// TelemetrySecretReference names a Secret in namespace network-observability.
type TelemetrySecretReference struct {
	// name of the Secret.
	Name string `json:"name"`
}

// FileExporter writes lines of JSON to rotating files.
type FileExporter struct {
	// maxMebibytes is the size at which a file is replaced by a new one, 1 to 1,024. By default 100.
	// +optional
	MaxMebibytes *int32 `json:"maxMebibytes,omitempty"`
	// maxFiles is how many files there are at most, the current one included: 1 to 100. By default 5.
	// +optional
	MaxFiles *int32 `json:"maxFiles,omitempty"`
}

// StdoutExporter writes lines of JSON to standard output.
type StdoutExporter struct{}

// Conditions of NetworkTelemetry.
const (
	// TelemetryApplied is True when the spec is in force on every node that has an agent, all of it. The message names what
	// some nodes cannot give, since a collector is switched off there or their kernel lacks what it needs.
	TelemetryApplied = "Applied"
	// TelemetryExporting is True when every exporter reaches its destination from every node. There is none without
	// exporters.
	TelemetryExporting = "Exporting"
	// TelemetryWithinLimits is False while series are folded into others on some node.
	TelemetryWithinLimits = "WithinLimits"
)

// NetworkTelemetryStatus is what is in force.
type NetworkTelemetryStatus struct {
	// observedGeneration is the generation of the spec that this is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are Applied, Exporting and WithinLimits.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// nodes counts nodes.
	// +optional
	Nodes TelemetryNodes `json:"nodes,omitempty"`
	// problems are of nodes, at most 50, by name.
	// +optional
	// +listType=atomic
	Problems []TelemetryNodeProblem `json:"problems,omitempty"`
	// exporters says what became of each, on all nodes together.
	// +optional
	// +listType=map
	// +listMapKey=name
	Exporters []TelemetryExporterStatus `json:"exporters,omitempty"`
}

// TelemetryNodes counts nodes that have agents.
type TelemetryNodes struct {
	// total is how many there are.
	Total int32 `json:"total"`
	// applied is on how many the observed generation is in force, all of it.
	Applied int32 `json:"applied"`
	// withProblems is how many have one.
	WithProblems int32 `json:"withProblems"`
}

// TelemetryNodeProblem says what is wrong on a node.
type TelemetryNodeProblem struct {
	// node is the name of the node.
	Node string `json:"node"`
	// message is what is wrong.
	Message string `json:"message"`
}

// TelemetryExporterStatus is of an exporter. Counts are of records of flows and of points of metrics, since the agents
// began.
type TelemetryExporterStatus struct {
	// name of the exporter.
	Name string `json:"name"`
	// reaching is from how many nodes the last request was answered well.
	Reaching int32 `json:"reaching"`
	// failing is from how many it was not.
	Failing int32 `json:"failing"`
	// sent is what arrived.
	Sent int64 `json:"sent"`
	// dropped is what was given up.
	Dropped int64 `json:"dropped"`
	// message is the last error of some node, without credentials.
	// +optional
	Message string `json:"message,omitempty"`
}
