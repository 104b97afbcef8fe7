package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Capture records packets of pods in its namespace, on every node that hosts one. It begins when it is created, or at
// spec.startTime, and ends at the first of its limits or when it is stopped. The packets stay on the nodes and are read
// through the subresources: pcap (whole, when it has ended), attach (live) and headers (without payload).
type Capture struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object's metadata, such as its name, namespace and labels.
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to record.
	Spec CaptureSpec `json:"spec"`
	// status is written by the server only.
	Status CaptureStatus `json:"status,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// CaptureList is a list of Capture.
type CaptureList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard list's metadata.
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the captures.
	Items []Capture `json:"items"`
}

// +genclient
// +genclient:nonNamespaced
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ClusterCapture records packets of nodes, and of pods in any namespace. It is to Capture what ClusterRole is to Role.
type ClusterCapture struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object's metadata, such as its name, namespace and labels.
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to record.
	Spec ClusterCaptureSpec `json:"spec"`
	// status is written by the server only.
	Status CaptureStatus `json:"status,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ClusterCaptureList is a list of ClusterCapture.
type ClusterCaptureList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard list's metadata.
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the captures.
	Items []ClusterCapture `json:"items"`
}

// CaptureSpec says what to record. It cannot be changed once the capture is there, but for stop, which can be set.
type CaptureSpec struct {
	// pods are the pods of this namespace to record.
	Pods CapturePods `json:"pods"`

	CaptureSettings `json:",inline"`
}

// ClusterCaptureSpec says what to record: nodes, pods or both. It cannot be changed once the capture is there, but for stop,
// which can be set.
type ClusterCaptureSpec struct {
	// nodes are the nodes to record, in their own network namespace.
	// +optional
	Nodes *CaptureNodes `json:"nodes,omitempty"`
	// pods are the pods to record, in any namespace.
	// +optional
	Pods *ClusterCapturePods `json:"pods,omitempty"`

	CaptureSettings `json:",inline"`
}

// CapturePods chooses pods by exactly one of selector and names. Pods that match later join.
type CapturePods struct {
	// selector chooses by labels. The empty selector chooses every pod of the namespace.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// names chooses by name.
	// +optional
	// +listType=set
	Names []string `json:"names,omitempty"`
	// interfaces are the names of the pods' interfaces to record. By default all but the loopback interface, which
	// has to be named ("lo").
	// +optional
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`
}

// ClusterCapturePods chooses pods of any namespace: those that match both selectors, or those that are named.
type ClusterCapturePods struct {
	// namespaceSelector chooses namespaces by their labels. By default all.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// selector chooses pods by labels. The empty selector chooses every pod.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// names chooses by namespace and name.
	// +optional
	// +listType=atomic
	Names []CapturePodName `json:"names,omitempty"`
	// interfaces are the names of the pods' interfaces to record. By default all but the loopback interface, which
	// has to be named ("lo").
	// +optional
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`
}

// CapturePodName names a pod.
type CapturePodName struct {
	// namespace of the pod.
	Namespace string `json:"namespace"`
	// name of the pod.
	Name string `json:"name"`
}

// CaptureNodes chooses nodes by exactly one of selector and names.
type CaptureNodes struct {
	// selector chooses by labels. The empty selector chooses every node.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// names chooses by name.
	// +optional
	// +listType=set
	Names []string `json:"names,omitempty"`
	// interfaces are the names of the nodes' interfaces to record. By default the uplinks: those that carry an address
	// of the node or a default route. A packet that crosses several interfaces is recorded at each.
	// +optional
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`
}

// CaptureVantagePoint says where a flow between two recorded pods is recorded.
// +enum
type CaptureVantagePoint string

const (
	// OncePerFlow records a flow between two recorded pods at one of them: at the client, which is the end with the
	// higher port, or, of ICMP echo, the end that asks; a packet of a flow without ports at its sender.
	OncePerFlow CaptureVantagePoint = "OncePerFlow"
	// BothEnds records such a flow at both. Each packet is then there twice, which analysers take for retransmissions.
	BothEnds CaptureVantagePoint = "BothEnds"
)

// CaptureSettings is what both kinds of capture have.
type CaptureSettings struct {
	// filter chooses packets in the grammar of tcpdump (pcap-filter(7)), such as "tcp port 443 and not host 192.0.2.1".
	// Where tcpdump takes the name of a host, it takes names of pods and Services that the requester may get. By default
	// every packet. A filter that may look at payload takes the right to get the subresource pcap.
	// +optional
	Filter string `json:"filter,omitempty"`
	// match chooses packets that match at least one of its items, of which there are at most 64, beside the filter.
	// +optional
	// +listType=atomic
	Match []CaptureMatch `json:"match,omitempty"`

	// packetBytes is how many bytes of each packet are kept, from the link-layer header on: 64 to 262144, which is the
	// default.
	// +optional
	// +default=262144
	PacketBytes *int32 `json:"packetBytes,omitempty"`
	// vantagePoint says where a flow between two recorded pods is recorded. Default OncePerFlow.
	// +optional
	// +default="OncePerFlow"
	VantagePoint CaptureVantagePoint `json:"vantagePoint,omitempty"`

	// startTime is when to begin, at most 30 days ahead. By default at once.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// durationSeconds is for how long packets are recorded: 1 to 86400. Default 300.
	// +optional
	// +default=300
	DurationSeconds *int64 `json:"durationSeconds,omitempty"`
	// limits end the capture early.
	// +optional
	Limits CaptureLimits `json:"limits,omitempty"`
	// ring keeps only the newest packets of each interface, in files of a fixed size. By default everything is kept.
	// +optional
	Ring *CaptureRing `json:"ring,omitempty"`

	// outputs are where the recorded packets are copied to when the capture has ended, at most 8. They stay on the nodes as
	// well. The requester must be allowed to get the subresource pcap.
	// +optional
	// +listType=map
	// +listMapKey=name
	Outputs []CaptureOutput `json:"outputs,omitempty"`
	// networkSnapshot also records the state of the network of each pod at the start, and for a ClusterCapture that of each
	// node: addresses, neighbours, routes, rules, nftables, sockets and sysctls. It is copied to the outputs beside the
	// packets, and needs one.
	// +optional
	NetworkSnapshot bool `json:"networkSnapshot,omitempty"`

	// ttlSecondsAfterFinished is how long the capture and its packets are kept after it ended, at most 2592000 (30 days).
	// Default 86400; 0 deletes it at once.
	// +optional
	// +default=86400
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// stop ends the capture. It can be set, and not unset.
	// +optional
	Stop bool `json:"stop,omitempty"`

	// requester is who created the capture. It is set by the server; what is sent is ignored.
	// +optional
	Requester *CaptureRequester `json:"requester,omitempty"`
}

// CaptureRequester is who created a capture, as the server authenticated it. Rights that the capture needs while it
// runs are asked for in this name.
type CaptureRequester struct {
	// username is the name that the server authenticated.
	Username string `json:"username"`
	// uid tells users of the same name apart, where the authenticator gives one.
	// +optional
	UID string `json:"uid,omitempty"`
	// groups are those that the user was in when the capture was created.
	// +optional
	// +listType=atomic
	Groups []string `json:"groups,omitempty"`
	// extra is what else the authenticator told, by key.
	// +optional
	Extra map[string][]string `json:"extra,omitempty"`
}

// CaptureProtocol is a protocol above IP.
// +enum
type CaptureProtocol string

// The protocols that a match may name.
const (
	CaptureTCP    CaptureProtocol = "TCP"
	CaptureUDP    CaptureProtocol = "UDP"
	CaptureSCTP   CaptureProtocol = "SCTP"
	CaptureICMP   CaptureProtocol = "ICMP"
	CaptureICMPv6 CaptureProtocol = "ICMPv6"
)

// CaptureDirection is a direction as the recorded pod or node sees it.
// +enum
type CaptureDirection string

const (
	// CaptureIngress: to the recorded pod or node.
	CaptureIngress CaptureDirection = "Ingress"
	// CaptureEgress: from the recorded pod or node.
	CaptureEgress CaptureDirection = "Egress"
)

// CaptureMatch matches packets that match all of its fields. A field that is empty matches every packet.
type CaptureMatch struct {
	// direction is Ingress or Egress.
	// +optional
	Direction CaptureDirection `json:"direction,omitempty"`
	// protocols are TCP, UDP, SCTP, ICMP and ICMPv6; one of them has to match.
	// +optional
	// +listType=set
	Protocols []CaptureProtocol `json:"protocols,omitempty"`
	// peers are the other ends; one of them has to match.
	// +optional
	// +listType=atomic
	Peers []CapturePeer `json:"peers,omitempty"`
	// ports are ports of either end; one of them has to match.
	// +optional
	// +listType=atomic
	Ports []CapturePort `json:"ports,omitempty"`
}

// CapturePeer is the other end of a flow: exactly one of its fields is set.
type CapturePeer struct {
	// cidr is an address or a range of them, such as 192.0.2.0/24 or 2001:db8::1.
	// +optional
	CIDR string `json:"cidr,omitempty"`
	// pod is a pod, by its addresses when the capture starts. The requester must be allowed to get it.
	// +optional
	Pod *CapturePeerName `json:"pod,omitempty"`
	// service is a Service, by its cluster addresses and those of the pods that it selects when the capture starts. The requester must be allowed to get it.
	// +optional
	Service *CapturePeerName `json:"service,omitempty"`
}

// CapturePeerName names a pod or Service.
type CapturePeerName struct {
	// namespace is by default that of the Capture. A ClusterCapture has to give it.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// name of the pod or Service.
	Name string `json:"name"`
}

// CapturePort is a port or a range of ports.
type CapturePort struct {
	// port is the port, or the first one of a range: 1 to 65535.
	Port int32 `json:"port"`
	// endPort is the last port of a range.
	// +optional
	EndPort *int32 `json:"endPort,omitempty"`
}

// CaptureLimits end a capture. Each is kept exactly: no more is ever recorded. Limits of all nodes together are shared
// out while it runs, so that the capture may end a little below them.
type CaptureLimits struct {
	// packets is the largest number of packets, of all nodes together.
	// +optional
	Packets *int64 `json:"packets,omitempty"`
	// bytes is the largest size of the recorded packets, of all nodes together, without the file's own headers.
	// +optional
	Bytes *resource.Quantity `json:"bytes,omitempty"`
	// packetsPerNode ends a node's part of the capture.
	// +optional
	PacketsPerNode *int64 `json:"packetsPerNode,omitempty"`
	// bytesPerNode ends a node's part of the capture.
	// +optional
	BytesPerNode *resource.Quantity `json:"bytesPerNode,omitempty"`
}

// CaptureRing keeps the newest packets of each interface.
type CaptureRing struct {
	// files is how many files are kept, 2 to 1000.
	Files int32 `json:"files"`
	// fileBytes is the size at which a file is ended and the next begun, at least 1Mi.
	FileBytes resource.Quantity `json:"fileBytes"`
}

// CaptureOutput is a place that recorded packets are copied to: exactly one of its fields beside name is set. The
// operator of the cluster decides which places are allowed.
type CaptureOutput struct {
	// name tells the outputs of a capture apart.
	Name string `json:"name"`
	// s3 is a bucket of Amazon S3, or of a store that speaks its protocol.
	// +optional
	S3 *CaptureOutputS3 `json:"s3,omitempty"`
	// azureBlob is a container of Azure Blob Storage.
	// +optional
	AzureBlob *CaptureOutputAzureBlob `json:"azureBlob,omitempty"`
	// googleCloudStorage is a bucket of Google Cloud Storage.
	// +optional
	GoogleCloudStorage *CaptureOutputGoogleCloudStorage `json:"googleCloudStorage,omitempty"`
	// volume is a volume that the operator has mounted into the node agents.
	// +optional
	Volume *CaptureOutputVolume `json:"volume,omitempty"`
}

// CaptureOutputS3 is a bucket that is reached by the protocol of Amazon S3.
type CaptureOutputS3 struct {
	// bucket is the name of the bucket.
	Bucket string `json:"bucket"`
	// endpoint is the URL of the service, such as https://s3.example.com. By default that of Amazon for the region.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// region of the bucket. It is needed where there is no endpoint.
	// +optional
	Region string `json:"region,omitempty"`
	// prefix of the names of the objects: names of letters, digits, "-", "_", "." and "=", joined by single slashes.
	// +optional
	Prefix string `json:"prefix,omitempty"`
	// secretName is a Secret of the Capture's namespace, or for a ClusterCapture of network-observability, with the keys
	// accessKeyID, secretAccessKey and, if need be, sessionToken. The requester must be allowed to get it. By default the
	// identity of the node agents is used, if the operator allows it.
	// +optional
	SecretName string `json:"secretName,omitempty"`
}

// CaptureOutputAzureBlob is a container of Azure Blob Storage.
type CaptureOutputAzureBlob struct {
	// account is the name of the storage account.
	Account string `json:"account"`
	// container is the name of the container.
	Container string `json:"container"`
	// endpoint is the URL of the service. By default https://ACCOUNT.blob.core.windows.net.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// prefix of the names of the objects: names of letters, digits, "-", "_", "." and "=", joined by single slashes.
	// +optional
	Prefix string `json:"prefix,omitempty"`
	// secretName is a Secret of the Capture's namespace, or for a ClusterCapture of network-observability, with the key
	// accountKey or sasToken. The requester must be allowed to get it. By default the identity of the node agents is used,
	// if the operator allows it.
	// +optional
	SecretName string `json:"secretName,omitempty"`
}

// CaptureOutputGoogleCloudStorage is a bucket of Google Cloud Storage.
type CaptureOutputGoogleCloudStorage struct {
	// bucket is the name of the bucket.
	Bucket string `json:"bucket"`
	// endpoint is the URL of the service. By default that of Google.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// prefix of the names of the objects: names of letters, digits, "-", "_", "." and "=", joined by single slashes.
	// +optional
	Prefix string `json:"prefix,omitempty"`
	// secretName is a Secret of the Capture's namespace, or for a ClusterCapture of network-observability, with the key
	// serviceAccountKey (JSON). The requester must be allowed to get it. By default the identity of the node agents is used,
	// if the operator allows it.
	// +optional
	SecretName string `json:"secretName,omitempty"`
}

// CaptureOutputVolume is a volume that the operator has mounted into the node agents and given a name.
type CaptureOutputVolume struct {
	// volume is the name that the operator gave it.
	Volume string `json:"volume"`
	// path is a folder in it, written as a prefix is.
	// +optional
	Path string `json:"path,omitempty"`
}

// The types of conditions of captures.
const (
	// CaptureStarted: packets are, or were, recorded on at least one node.
	CaptureStarted = "Started"
	// CaptureComplete: it ended as it was meant to, and everything that was recorded can be read.
	CaptureComplete = "Complete"
	// CaptureFailed: it ended otherwise. What was recorded can be read as far as the message says.
	CaptureFailed = "Failed"
	// CaptureStored: everything was copied to all outputs; False while it is not, or when it cannot be.
	CaptureStored = "Stored"
)

// CaptureTargetPhase says how far a row is.
// +enum
type CaptureTargetPhase string

const (
	// CapturePending: not begun yet; reason says what for it waits.
	CapturePending CaptureTargetPhase = "Pending"
	// CaptureRunning: packets are recorded.
	CaptureRunning CaptureTargetPhase = "Running"
	// CaptureEnded: no more packets are recorded; reason says why.
	CaptureEnded CaptureTargetPhase = "Ended"
	// CaptureTargetFailed: nothing more can be recorded; reason says why.
	CaptureTargetFailed CaptureTargetPhase = "Failed"
)

// CaptureStatus says how far a capture is.
type CaptureStatus struct {
	// observedGeneration is the generation of the spec that status tells about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are Started, Complete, Failed and, with outputs, Stored.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// startTime is when the first node began to record.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// completionTime is when the last node ended.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// nodes is how many nodes take, or took, part.
	// +optional
	Nodes int32 `json:"nodes,omitempty"`
	// pods is how many pods are, or were, recorded.
	// +optional
	Pods int32 `json:"pods,omitempty"`
	// totals are exact, over all rows and those that were left out.
	// +optional
	Totals CaptureCounts `json:"totals,omitempty"`
	// targets has a row for each pod, and for each node that is recorded itself. They are at most 500; rows that are
	// left out are counted in omittedTargets.
	// +optional
	// +listType=atomic
	Targets []CaptureTarget `json:"targets,omitempty"`
	// omittedTargets is how many rows targets does not have. Their counts are in totals.
	// +optional
	OmittedTargets int32 `json:"omittedTargets,omitempty"`
	// outputs has a row for each output and node, with the same bounds.
	// +optional
	// +listType=atomic
	Outputs []CaptureOutputStatus `json:"outputs,omitempty"`

	// filter is what became of filter and match.
	// +optional
	Filter *CaptureFilterStatus `json:"filter,omitempty"`
	// expected is what live statistics say of the targets, in the answer to a dry run only.
	// +optional
	Expected *CaptureExpectation `json:"expected,omitempty"`
	// file is the merged file, once the capture has ended.
	// +optional
	File *CaptureFile `json:"file,omitempty"`
	// control is what a replica of the server has to know to go on where another left off.
	// +optional
	Control *CaptureControl `json:"control,omitempty"`
}

// CaptureControl is what the controller of captures keeps of one.
type CaptureControl struct {
	// revision is below those of all requests that the controller sends to agents. It rises when another replica leads.
	Revision int64 `json:"revision"`
	// ending is why all nodes are told to end, once that is so.
	// +optional
	Ending string `json:"ending,omitempty"`
	// nodes are all those that record, or did, or may have been told to.
	// +optional
	// +listType=map
	// +listMapKey=node
	Nodes []CaptureControlNode `json:"nodes,omitempty"`
	// names are what names in filter and match stood for when the capture started.
	// +optional
	// +listType=atomic
	Names []CaptureControlName `json:"names,omitempty"`
}

// CaptureControlNode is a node that takes part in a capture.
type CaptureControlNode struct {
	// node is the name of the node.
	Node string `json:"node"`
	// recorded says that the node was seen to record. Packets may be there.
	// +optional
	Recorded bool `json:"recorded,omitempty"`
	// packets and bytes are the node's shares of limits.packets and limits.bytes, in all since the beginning. They are
	// written here before the node is told, so that all shares together are never more than the limit.
	// +optional
	Packets int64 `json:"packets,omitempty"`
	// bytes: see packets.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
}

// CaptureControlName is a name and its addresses.
type CaptureControlName struct {
	// kind is pod, service or, in a filter, host.
	Kind string `json:"kind"`
	// namespace of the pod or Service.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// name of the pod, Service or host.
	Name string `json:"name"`
	// addresses are what it stood for.
	// +listType=atomic
	Addresses []string `json:"addresses"`
}

// CaptureFile is the merged file that the subresource pcap answers with.
type CaptureFile struct {
	// digest changes when the file does. Resuming a download asks for it.
	Digest string `json:"digest"`
	// bytes is its size.
	Bytes int64 `json:"bytes"`
}

// CaptureFilterStatus tells of the compiled filter.
type CaptureFilterStatus struct {
	// instructions is its size; the kernel allows 4096.
	Instructions int32 `json:"instructions"`
	// headersOnly: it can depend on headers only, as proven when it was compiled.
	HeadersOnly bool `json:"headersOnly"`
}

// CaptureExpectation is what targets send and receive now, before any filter.
type CaptureExpectation struct {
	// packetsPerSecond is how many packets, both directions together.
	PacketsPerSecond resource.Quantity `json:"packetsPerSecond"`
	// bytesPerSecond is how many bytes, both directions together.
	BytesPerSecond resource.Quantity `json:"bytesPerSecond"`
}

// CaptureCounts count packets as the kernel carries them: socket buffers, which with segmentation offload are larger
// than what is on the wire. matched = packets + droppedByRing + droppedByDisk + droppedByLimit + atOtherVantagePoint.
type CaptureCounts struct {
	// packets were recorded and can be read, or were until a ring let them go.
	Packets int64 `json:"packets"`
	// bytes of these packets that were kept.
	Bytes int64 `json:"bytes"`
	// matched the filter.
	Matched int64 `json:"matched"`
	// droppedByRing: more came than could be taken out of the kernel's ring.
	DroppedByRing int64 `json:"droppedByRing"`
	// droppedByDisk: there was no place on disk, or it was too slow.
	DroppedByDisk int64 `json:"droppedByDisk"`
	// droppedByLimit: beyond a limit, or beyond the share of one that the node had at that moment.
	DroppedByLimit int64 `json:"droppedByLimit"`
	// atOtherVantagePoint: recorded at the other end of the flow.
	AtOtherVantagePoint int64 `json:"atOtherVantagePoint"`
}

// CaptureTarget is one pod on its node, or one node.
type CaptureTarget struct {
	// node is the name of the node.
	Node string `json:"node"`
	// namespace and pod are empty for a node that is recorded itself.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// pod is the name of the pod.
	// +optional
	Pod string `json:"pod,omitempty"`
	// podUID tells pods of the same name apart.
	// +optional
	PodUID types.UID `json:"podUID,omitempty"`

	// phase is Pending, Running, Ended or Failed.
	Phase CaptureTargetPhase `json:"phase"`
	// reason is why, in one word for programs.
	// +optional
	Reason string `json:"reason,omitempty"`
	// message is why, for people.
	// +optional
	Message string `json:"message,omitempty"`

	CaptureCounts `json:",inline"`
}

// CaptureOutputPhase says how far copying is.
// +enum
type CaptureOutputPhase string

// The phases of copying.
const (
	CaptureOutputPending   CaptureOutputPhase = "Pending"
	CaptureOutputUploading CaptureOutputPhase = "Uploading"
	CaptureOutputStored    CaptureOutputPhase = "Stored"
	CaptureOutputFailed    CaptureOutputPhase = "Failed"
)

// CaptureOutputStatus is one node's part at one output.
type CaptureOutputStatus struct {
	// name of the output.
	Name string `json:"name"`
	// node is the name of the node.
	Node string `json:"node"`

	// phase is Pending, Uploading, Stored or Failed.
	Phase CaptureOutputPhase `json:"phase"`
	// message is why, for people.
	// +optional
	Message string `json:"message,omitempty"`
	// objects are what was written, or is being written.
	// +optional
	// +listType=atomic
	Objects []CaptureObject `json:"objects,omitempty"`
}

// CaptureObject is an object in a store, or a file on a volume.
type CaptureObject struct {
	// key is its name, with the prefix.
	Key string `json:"key"`
	// bytes is its size.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// sha256 of its content, in hexadecimal digits.
	// +optional
	SHA256 string `json:"sha256,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// CaptureReadOptions are the parameters of the subresources pcap, headers and attach.
type CaptureReadOptions struct {
	metav1.TypeMeta `json:",inline"`

	// offset is the byte of the file to begin with (pcap and headers only).
	// +optional
	Offset int64 `json:"offset,omitempty"`
	// digest is what the file was when its beginning was read. If it is another by now, the answer is 412.
	// +optional
	Digest string `json:"digest,omitempty"`
	// node narrows the answer to one node.
	// +optional
	Node string `json:"node,omitempty"`
	// namespace of the pod that the answer is narrowed to.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// pod narrows the answer to one pod.
	// +optional
	Pod string `json:"pod,omitempty"`
	// headersOnly leaves the payload out (attach only): every packet ends behind its transport header.
	// +optional
	HeadersOnly bool `json:"headersOnly,omitempty"`
}
