package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FlowDirection says who began a flow.
// +enum
type FlowDirection string

const (
	// Egress: the pod sent the first packet.
	Egress FlowDirection = "Egress"
	// Ingress: the peer sent the first packet.
	Ingress FlowDirection = "Ingress"
)

// FlowVerdict says what became of a flow's packets.
// +enum
type FlowVerdict string

const (
	// Forwarded: packets come through.
	Forwarded FlowVerdict = "Forwarded"
	// Dropped: packets were dropped, and none came through since.
	Dropped FlowVerdict = "Dropped"
	// Rejected: the peer, or something on the way, answered the first packet with a reset or with ICMP unreachable.
	Rejected FlowVerdict = "Rejected"
)

// FlowPeerKind says what a peer is.
// +enum
type FlowPeerKind string

const (
	// PeerPod: a pod of this cluster with an address of its own.
	PeerPod FlowPeerKind = "Pod"
	// PeerService: an address of a Service, as clients see it before it is translated.
	PeerService FlowPeerKind = "Service"
	// PeerNode: a node of this cluster, or a pod that uses its node's network.
	PeerNode FlowPeerKind = "Node"
	// PeerExternal: an address that was no pod's, Service's or node's when the flow began, as far as the
	// server knows. A server knows pods that were deleted up to 35 minutes ago, but not from before it started.
	PeerExternal FlowPeerKind = "External"
)

// FlowTCPFlag is a flag in the header of TCP.
// +enum
type FlowTCPFlag string

// The flags of RFC 9293 and RFC 3168.
const (
	// FlagFIN: no more data from the sender.
	FlagFIN FlowTCPFlag = "FIN"
	// FlagSYN: synchronize sequence numbers.
	FlagSYN FlowTCPFlag = "SYN"
	// FlagRST: reset the connection.
	FlagRST FlowTCPFlag = "RST"
	// FlagPSH: push.
	FlagPSH FlowTCPFlag = "PSH"
	// FlagACK: the acknowledgment is significant.
	FlagACK FlowTCPFlag = "ACK"
	// FlagURG: the urgent pointer is significant.
	FlagURG FlowTCPFlag = "URG"
	// FlagECE: ECN echo.
	FlagECE FlowTCPFlag = "ECE"
	// FlagCWR: congestion window reduced.
	FlagCWR FlowTCPFlag = "CWR"
)

// +genclient
// +genclient:onlyVerbs=get,list,watch
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NetworkFlow is what passed between one pod and one peer under one pair of ports, both directions together, as
// the pod's node saw it at the pod. It is in the pod's namespace. When both ends are pods there are two records,
// one at each end and in its namespace, and direction tells them apart.
//
// Flows are read from a bounded history on the nodes (by default the last 30 minutes or 200,000 flows of a node,
// whichever is less) at the moment of the request; nothing is stored in the cluster. The name tells node, instance
// of the agent's history and position in it. Labels are the pod's, so that -l app=web selects the flows of
// those pods; creationTimestamp is startTime to the second.
type NetworkFlow struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. Namespace and labels are those of the pod.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// pod is the end of the flow at which it was observed.
	// Selectable: pod=NAME, workload=NAME or workload=KIND/NAME.
	Pod FlowPod `json:"pod"`
	// peer is the other end, as the pod addresses it: behind a Service it is the Service.
	// Selectable: peer=NAME, NAMESPACE/NAME, ADDRESS or DNSNAME (of the peer or of what it was translated to), and
	// peer.kind, peer.pod, peer.namespace, peer.workload, peer.service, peer.node, peer.address, peer.dnsName.
	Peer FlowPeer `json:"peer"`
	// translated is what the node made of the peer by address translation: the pod behind a Service's address, or the
	// client behind a node's. Absent when there was no translation.
	// +optional
	Translated *FlowPeer `json:"translated,omitempty"`

	// protocol is TCP, UDP, ICMP, ICMPv6, SCTP, or the number of another IP protocol.
	// Selectable: protocol=TCP.
	Protocol string `json:"protocol"`
	// direction is Egress when the pod sent the first packet, and Ingress when the peer did.
	// Selectable: direction=Egress.
	Direction FlowDirection `json:"direction,omitempty"`
	// verdict is Forwarded, Dropped (packets were dropped and none came through since) or Rejected (the first packet
	// was answered with a reset or with ICMP unreachable).
	// Selectable: verdict=Dropped.
	Verdict FlowVerdict `json:"verdict,omitempty"`
	// droppedPackets is how many packets of the flow were dropped on this node.
	// +optional
	DroppedPackets int64 `json:"droppedPackets,omitempty"`
	// dropReason is the kernel's name of the reason of the last drop, such as NETFILTER_DROP.
	// Selectable: dropReason=NETFILTER_DROP.
	// +optional
	DropReason string `json:"dropReason,omitempty"`
	// dropClass sorts dropReason.
	// Selectable: dropClass=Policy.
	// +optional
	DropClass DropClass `json:"dropClass,omitempty"`

	// receive counts what came to the pod.
	Receive FlowCounters `json:"receive"`
	// transmit counts what the pod sent.
	Transmit FlowCounters `json:"transmit"`

	// startTime is when the first packet was seen, by the node's clock.
	// Selectable: until=10m or until=2006-01-02T15:04:05Z, flows that began before.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// lastTime is when the last packet was seen, by the node's clock.
	// Selectable: since=10m or since=2006-01-02T15:04:05Z, flows with packets at or after that time.
	// +optional
	LastTime *metav1.MicroTime `json:"lastTime,omitempty"`
	// ended is true when nothing will be added: the connection was closed or the flow was idle, and it is in the
	// history only.
	// +optional
	Ended bool `json:"ended,omitempty"`
	// handshake is the time from SYN to its answer, as seen at the pod. Absent when it was not seen.
	// +optional
	Handshake *metav1.Duration `json:"handshake,omitempty"`

	// nodeName is the node that observed the flow.
	// Selectable: nodeName=NODE.
	NodeName string `json:"nodeName"`
}

// FlowPod is the end of a flow at which it was observed.
type FlowPod struct {
	// namespace of the pod.
	Namespace string `json:"namespace"`
	// name of the pod.
	Name string `json:"name"`
	// uid of the pod.
	// +optional
	UID string `json:"uid,omitempty"`
	// workload is what the pod belongs to. Absent for a pod of its own.
	// +optional
	Workload *FlowWorkload `json:"workload,omitempty"`
	// address is the pod's address in the flow.
	Address string `json:"address"`
	// port is the pod's port. For ICMP and ICMPv6 it is the identifier; absent for protocols without ports.
	// Selectable: port=443, the port of either end.
	// +optional
	Port int32 `json:"port,omitempty"`
}

// FlowWorkload names what a pod belongs to: its controller, and for a ReplicaSet of a Deployment the Deployment.
// The controller of a Job (a CronJob) is not looked up.
type FlowWorkload struct {
	// kind of the workload, such as Deployment.
	Kind string `json:"kind"`
	// name of the workload, which is in the pod's namespace.
	Name string `json:"name"`
}

// FlowPeer is the other end of a flow. What the address was when the flow began is named, whatever it is now.
type FlowPeer struct {
	// kind says what the peer is: Pod, Service, Node or External.
	Kind FlowPeerKind `json:"kind"`
	// namespace of the pod or Service.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// name of the pod, Service or node. Absent for an external peer.
	// +optional
	Name string `json:"name,omitempty"`
	// workload is what the pod belongs to.
	// +optional
	Workload *FlowWorkload `json:"workload,omitempty"`
	// node is the node on which the pod runs, or the node itself.
	// +optional
	Node string `json:"node,omitempty"`
	// portName is the name of the Service's port.
	// +optional
	PortName string `json:"portName,omitempty"`
	// dnsName is the name under which the pod looked the address up. Absent when it did not. Unprintable bytes are
	// escaped as in zone files (RFC 1035, \DDD).
	// +optional
	DNSName string `json:"dnsName,omitempty"`
	// address of the peer.
	Address string `json:"address"`
	// port of the peer. For ICMP and ICMPv6 it is type * 256 + code of the first message; absent for protocols
	// without ports.
	// Selectable: port=443, the port of either end.
	// +optional
	Port int32 `json:"port,omitempty"`
}

// FlowCounters counts one direction of a flow.
type FlowCounters struct {
	// packets on the wire: a buffer with several segments counts as its segments.
	Packets int64 `json:"packets"`
	// bytes at IP level on the wire, the headers of each segment included.
	Bytes int64 `json:"bytes"`
	// tcpFlags are the TCP flags that were seen in this direction.
	// +optional
	// +listType=set
	TCPFlags []FlowTCPFlag `json:"tcpFlags,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NetworkFlowList is a page of NetworkFlows. A page holds at most 10,000, whatever limit was asked for: go on with
// metadata.continue.
type NetworkFlowList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are in the order in which each node recorded them, the nodes merged by startTime: in order of time
	// but for what a node noticed late.
	Items []NetworkFlow `json:"items"`
}

// FlowProtocols are the numbers of the IP protocols that flows name.
var FlowProtocols = map[string]int32{"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132}
