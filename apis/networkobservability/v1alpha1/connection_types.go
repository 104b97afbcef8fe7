package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ConnectionStats is about TCP connections, loopback included, as their sockets say: those that were open when
// counting began too.
type ConnectionStats struct {
	// startTime is when counting began. Connections that were open by then are in the sums with all that they had done.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// states counts the sockets of now.
	States ConnectionStates `json:"states"`
	// openedActively counts connections that were established from here.
	OpenedActively int64 `json:"openedActively"`
	// openedPassively counts connections that were accepted here.
	OpenedPassively int64 `json:"openedPassively"`
	// failed counts attempts to connect from here that failed, by their causes.
	Failed ConnectionFailures `json:"failed"`
	// resetsSent counts segments with the RST flag that were sent.
	ResetsSent int64 `json:"resetsSent"`
	// resetsReceived counts connections that a reset from the peer ended.
	ResetsReceived int64 `json:"resetsReceived"`
	// bytesAcked counts payload that was sent and acknowledged.
	BytesAcked int64 `json:"bytesAcked"`
	// bytesReceived counts payload that arrived in order.
	BytesReceived int64 `json:"bytesReceived"`
	// segmentsSent counts segments sent, retransmitted ones included.
	SegmentsSent int64 `json:"segmentsSent"`
	// segmentsReceived counts segments received.
	SegmentsReceived int64 `json:"segmentsReceived"`
	// segmentsRetransmitted counts segments sent again.
	SegmentsRetransmitted int64 `json:"segmentsRetransmitted"`
	// open is the round-trip time of the connections that are open now.
	Open RoundTrips `json:"open"`
	// closed is the round-trip time of the connections that were closed since counting began.
	Closed RoundTrips `json:"closed"`
}

// ConnectionStates counts sockets by state (RFC 9293).
type ConnectionStates struct {
	// synSent: begun from here, unanswered.
	SynSent int64 `json:"synSent"`
	// synReceived: begun by a peer, answered, not yet confirmed.
	SynReceived int64 `json:"synReceived"`
	// established: data may flow both ways.
	Established int64 `json:"established"`
	// finWait1: closed here, not yet acknowledged.
	FinWait1 int64 `json:"finWait1"`
	// finWait2: closed here and acknowledged; the peer may still send.
	FinWait2 int64 `json:"finWait2"`
	// timeWait: closed, waiting for stray segments.
	TimeWait int64 `json:"timeWait"`
	// closeWait: closed by the peer, not yet here. Many of them are a program that forgets to close.
	CloseWait int64 `json:"closeWait"`
	// lastAck: closed by the peer and then here, not yet acknowledged.
	LastAck int64 `json:"lastAck"`
	// closing: closed by both at the same time.
	Closing int64 `json:"closing"`
	// listen: sockets that wait for connections.
	Listen int64 `json:"listen"`
}

// ConnectionFailures counts attempts to connect that failed, each under one cause.
type ConnectionFailures struct {
	// refused: the peer, or something on the way, answered with a reset.
	Refused int64 `json:"refused"`
	// timeout: nobody answered.
	Timeout int64 `json:"timeout"`
	// unreachable: the answer was ICMP unreachable, or there is no route.
	Unreachable int64 `json:"unreachable"`
	// abandoned: closed from here before there was an answer.
	Abandoned int64 `json:"abandoned"`
	// other causes.
	Other int64 `json:"other"`
}

// RoundTrips are round-trip times of connections, one value each.
type RoundTrips struct {
	// smoothed round-trip times (RFC 6298).
	Smoothed LatencyHistogram `json:"smoothed"`
	// minimum is the least round-trip time of late, as the kernel keeps it.
	Minimum LatencyHistogram `json:"minimum"`
}

// APIServerStats is about the connections to where the Kubernetes API is served: the Service kubernetes and its
// endpoints.
type APIServerStats struct {
	// handshake is the time from the first SYN to the established connection.
	Handshake LatencyHistogram `json:"handshake"`
	// rtt is the smoothed round-trip time: the present one of connections that are open, the last one of those that
	// are closed.
	RTT LatencyHistogram `json:"rtt"`
	// connected counts connections that were established.
	Connected int64 `json:"connected"`
	// failed counts attempts to connect that failed.
	Failed int64 `json:"failed"`
	// open is the number of connections of now.
	Open int64 `json:"open"`
}
