// Package flowlog makes records of flows, for exporters.
package flowlog

import (
	"net/netip"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A Record is what passed in a flow since the last record of it. Both ends are as the pod sees them: Local is the pod.
type Record struct {
	// Time is when the record was made, Start when the flow began, Last when its last packet passed.
	Time, Start, Last time.Time
	// Flow is the same in all records of a flow on this node, until the agent ends.
	Flow int64
	// Ended says that it is the flow's last record.
	Ended bool
	// Direction is that of the flow's first packet.
	Direction v1alpha1.Direction
	// Protocol is the IP protocol number.
	Protocol int32

	Local, Peer Endpoint
	// Translated is what the node made of the peer by address translation; its address is not valid when there was none.
	Translated Endpoint
	// DNSName is the name under which the pod looked up the peer; empty when it did not.
	DNSName string

	// Received and transmitted by the pod, and dropped packets, since the last record.
	ReceivedPackets, ReceivedBytes       int64
	TransmittedPackets, TransmittedBytes int64
	DroppedPackets                       int64

	Verdict v1alpha1.Verdict
	// DropReason is that of the last dropped packet.
	DropReason string
	// ReceivedFlags and TransmittedFlags are the TCP flags seen since the flow began.
	ReceivedFlags, TransmittedFlags int32
	// Handshake is from SYN to its answer; 0 when it was not seen.
	Handshake time.Duration
	// SampledOneIn is how many flows this one stands for; 1 when all are logged.
	SampledOneIn int64
}

// An Endpoint is one end of a flow. Names are empty where they are not known.
type Endpoint struct {
	Address netip.Addr
	// Port is 0 where the protocol has none.
	Port                       int32
	Namespace, Pod             string
	WorkloadKind, WorkloadName string
	// Service is the Service that has the address.
	ServiceNamespace, Service string
	// Node is the node that has the address.
	Node string
}
