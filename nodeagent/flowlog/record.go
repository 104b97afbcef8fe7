// Package flowlog makes records of flows, for exporters.
//
//	record.go   what a record is
//	flowlog.go  following flows while the configuration asks for it
//	session.go  when a flow is logged, and with which names
//	sample.go   which flows are, when only some are
//
// A flow has a record at its end, and before that one every interval in which packets passed. Each has what passed since
// the one before, so that all records of a flow together are what passed in it, packet for packet. Logging begins with
// what passes after it was asked for, in flows that are there already, too; when it begins anew, with another agent or
// because it is asked for again, nothing is logged twice. An agent that ends logs what it has not logged yet; what passes
// until the next one starts is in no record. A flow whose verdict is not asked for when a record is due has none, and what
// had passed until then is in no later one.
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
