package v1alpha1

// DropClass says in a word what a drop reason means.
// +enum
type DropClass string

const (
	// DropPolicy: netfilter, eBPF and other programs that decide about packets, network policies among them.
	DropPolicy DropClass = "Policy"
	// DropBuffer: memory or a queue was full, as a socket's receive buffer, a backlog or a queueing discipline.
	DropBuffer DropClass = "Buffer"
	// DropNoSocket: nobody listens.
	DropNoSocket DropClass = "NoSocket"
	// DropRouting: no route, no neighbour, a wrong address, or reverse-path filtering.
	DropRouting DropClass = "Routing"
	// DropTTL: the TTL or hop limit was exceeded.
	DropTTL DropClass = "TTL"
	// DropMTU: the packet was larger than the MTU.
	DropMTU DropClass = "MTU"
	// DropChecksum: a checksum was wrong.
	DropChecksum DropClass = "Checksum"
	// DropMalformed: a header cannot be parsed, or is not allowed.
	DropMalformed DropClass = "Malformed"
	// DropProtocol: the rules of TCP or another protocol.
	DropProtocol DropClass = "Protocol"
	// DropOther: everything else, reasons of unknown meaning included.
	DropOther DropClass = "Other"
	// DropBenign: what every healthy network has, as duplicates of TCP data and frames for others. Not in the total.
	DropBenign DropClass = "Benign"
)

// Direction is as the pod, or the node, sees it.
// +enum
type Direction string

const (
	// Receive: to the pod, or to the node.
	Receive Direction = "Receive"
	// Transmit: from the pod, or from the node.
	Transmit Direction = "Transmit"
)

// DropAttribution says by what a dropped packet was found to belong to its pod.
// +enum
type DropAttribution string

const (
	// AttributedBySocket: by the socket that sent it or was to receive it.
	AttributedBySocket DropAttribution = "Socket"
	// AttributedByInterface: by the interface on which it was.
	AttributedByInterface DropAttribution = "Interface"
	// AttributedByAddress: by its address, as it was dropped outside of the pod, on its way there or from there.
	AttributedByAddress DropAttribution = "Address"
)

// DropStats counts the packets that the kernel dropped, by its own reasons.
type DropStats struct {
	// packets is the sum of all reasons but the benign ones.
	Packets int64 `json:"packets"`
	// benign is the sum of the benign reasons.
	Benign int64 `json:"benign"`
	// unsorted counts dropped packets for which there was no place in the table of reasons, in the sum too.
	// +optional
	Unsorted int64 `json:"unsorted,omitempty"`
	// byClass sums the packets of each class, benign ones included, the largest first.
	// +optional
	// +listType=map
	// +listMapKey=class
	ByClass []DropClassCount `json:"byClass,omitempty"`
	// reasons are the packets by reason, direction, protocol and port, the largest first, at most 128. What is beyond
	// is folded into one entry for each reason and direction, without a port.
	// +optional
	// +listType=atomic
	Reasons []DropCount `json:"reasons,omitempty"`
}

// DropClassCount counts the dropped packets of a class.
type DropClassCount struct {
	// class of the reasons.
	Class DropClass `json:"class"`
	// packets dropped.
	Packets int64 `json:"packets"`
}

// DropCount counts the packets dropped for one reason.
type DropCount struct {
	// reason is the running kernel's own name, as NETFILTER_DROP (enum skb_drop_reason in
	// include/net/dropreason-core.h).
	Reason string `json:"reason"`
	// class of the reason.
	Class DropClass `json:"class"`
	// direction in which the packet went.
	Direction Direction `json:"direction"`
	// attributedBy says how it was found to belong here.
	AttributedBy DropAttribution `json:"attributedBy"`
	// protocol above IP: TCP, UDP, ICMP, ICMPv6, SCTP, or its number. Empty where it is not known.
	// +optional
	Protocol string `json:"protocol,omitempty"`
	// port to which the packet was sent. Absent where there is none, or several.
	// +optional
	Port int32 `json:"port,omitempty"`
	// packets on the wire.
	Packets int64 `json:"packets"`
}
