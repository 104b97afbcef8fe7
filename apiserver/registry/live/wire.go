package live

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// MeasurementOf says how an object was measured. measurement is nil when the node was not asked or did not answer.
func MeasurementOf(record *Record, reading Reading, measurement *agentv1.Measurement) v1alpha1.Measurement {
	switch {
	case record.Node == "":
		return v1alpha1.Measurement{State: v1alpha1.Pending, Message: "The pod is not scheduled to a node yet."}
	case reading.Err != nil:
		return v1alpha1.Measurement{State: v1alpha1.NodeSilent, Message: fmt.Sprintf("The node's counters could not be read: %v.", reading.Err)}
	case measurement == nil:
		return v1alpha1.Measurement{State: v1alpha1.Pending, Message: "The node has not been asked yet."}
	}
	m := v1alpha1.Measurement{
		Message:   measurement.GetMessage(),
		Timestamp: MicroTime(measurement.GetTimeUnixNano()),
		StartTime: MicroTime(measurement.GetStartUnixNano()),
	}
	if window := measurement.GetWindowNano(); window > 0 {
		m.Window = &metav1.Duration{Duration: time.Duration(window)}
	}
	m.State, m.Message = stateOf(record, measurement)
	return m
}

func stateOf(record *Record, measurement *agentv1.Measurement) (v1alpha1.MeasurementState, string) {
	message := measurement.GetMessage()
	switch measurement.GetState() {
	case agentv1.State_STATE_MEASURED:
		return v1alpha1.Measured, message
	case agentv1.State_STATE_DEGRADED:
		return v1alpha1.Degraded, message
	case agentv1.State_STATE_NOT_ATTRIBUTED:
		return v1alpha1.NotAttributed, orElse(message, "The pod uses the node's network, and the node has no cgroup v2 by which to tell its traffic.")
	case agentv1.State_STATE_NOT_FOUND:
		if record.Ended {
			return v1alpha1.Ended, "Every container of the pod has ended."
		}
		return v1alpha1.Pending, orElse(message, "The agent of node "+record.Node+" finds no process of the pod yet.")
	default:
		return v1alpha1.Degraded, orElse(message, fmt.Sprintf("The agent reports the state %v, which this server does not know.", measurement.GetState()))
	}
}

func orElse(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}

// HasCounters says whether objects in a state carry counters.
func HasCounters(state v1alpha1.MeasurementState) bool {
	return state == v1alpha1.Measured || state == v1alpha1.Degraded
}

// MicroTime is nil for 0, which stands for no time.
func MicroTime(unixNano int64) *metav1.MicroTime {
	if unixNano == 0 {
		return nil
	}
	return &metav1.MicroTime{Time: time.Unix(0, unixNano).UTC()}
}

// RatesOf turns thousandths a second into quantities; both are nil when there are no rates.
func RatesOf(rates *agentv1.Rates) (bytes, packets *resource.Quantity) {
	if rates == nil {
		return nil, nil
	}
	return resource.NewMilliQuantity(rates.GetMilliBytes(), resource.DecimalSI),
		resource.NewMilliQuantity(rates.GetMilliPackets(), resource.DecimalSI)
}

// ProtocolsOf is nil when the agent could not read the protocol statistics.
func ProtocolsOf(protocols *agentv1.Protocols) *v1alpha1.ProtocolStats {
	if protocols == nil {
		return nil
	}
	stats := &v1alpha1.ProtocolStats{
		TCP:  tcpOf(protocols.GetTcp()),
		UDP:  udpOf(protocols.GetUdp()),
		IPv4: ipOf(protocols.GetIpv4()),

		ICMPv4: icmpOf(protocols.GetIcmpv4()),
	}
	if protocols.GetIpv6() != nil {
		ipv6 := ipOf(protocols.GetIpv6())
		stats.IPv6 = &ipv6
	}
	if protocols.GetIcmpv6() != nil {
		icmpv6 := icmpOf(protocols.GetIcmpv6())
		stats.ICMPv6 = &icmpv6
	}
	return stats
}

func tcpOf(tcp *agentv1.TCP) v1alpha1.TCPStats {
	return v1alpha1.TCPStats{
		ActiveOpens:           tcp.GetActiveOpens(),
		PassiveOpens:          tcp.GetPassiveOpens(),
		AttemptFails:          tcp.GetAttemptFails(),
		EstablishedResets:     tcp.GetEstablishedResets(),
		CurrentlyEstablished:  tcp.GetCurrentlyEstablished(),
		InSegments:            tcp.GetInSegments(),
		OutSegments:           tcp.GetOutSegments(),
		RetransmittedSegments: tcp.GetRetransmittedSegments(),
		InErrors:              tcp.GetInErrors(),
		OutResets:             tcp.GetOutResets(),
		ListenOverflows:       tcp.GetListenOverflows(),
		ListenDrops:           tcp.GetListenDrops(),
		ZeroWindowsSent:       tcp.GetZeroWindowsSent(),
		ZeroWindowDrops:       tcp.GetZeroWindowDrops(),
		SynCookiesSent:        tcp.GetSynCookiesSent(),
		RequestQueueDrops:     tcp.GetRequestQueueDrops(),
	}
}

func udpOf(udp *agentv1.UDP) v1alpha1.UDPStats {
	return v1alpha1.UDPStats{
		InDatagrams:         udp.GetInDatagrams(),
		OutDatagrams:        udp.GetOutDatagrams(),
		NoPorts:             udp.GetNoPorts(),
		InErrors:            udp.GetInErrors(),
		ReceiveBufferErrors: udp.GetReceiveBufferErrors(),
		SendBufferErrors:    udp.GetSendBufferErrors(),
		ChecksumErrors:      udp.GetChecksumErrors(),
	}
}

func icmpOf(icmp *agentv1.ICMP) v1alpha1.ICMPStats {
	return v1alpha1.ICMPStats{
		InMessages: icmp.GetInMessages(), OutMessages: icmp.GetOutMessages(), InErrors: icmp.GetInErrors(),
		InDestinationUnreachable: icmp.GetInDestinationUnreachable(), OutDestinationUnreachable: icmp.GetOutDestinationUnreachable(),
		InTimeExceeded: icmp.GetInTimeExceeded(), OutTimeExceeded: icmp.GetOutTimeExceeded(),
		InPacketTooBig: icmp.GetInPacketTooBig(), OutPacketTooBig: icmp.GetOutPacketTooBig(),
		InEchos: icmp.GetInEchos(), OutEchos: icmp.GetOutEchos(),
		InEchoReplies: icmp.GetInEchoReplies(), OutEchoReplies: icmp.GetOutEchoReplies(),
		InRedirects: icmp.GetInRedirects(), OutRedirects: icmp.GetOutRedirects(),
	}
}

func ipOf(ip *agentv1.IP) v1alpha1.IPStats {
	return v1alpha1.IPStats{
		InReceives:      ip.GetInReceives(),
		InDelivers:      ip.GetInDelivers(),
		OutRequests:     ip.GetOutRequests(),
		Forwarded:       ip.GetForwarded(),
		InDiscards:      ip.GetInDiscards(),
		OutDiscards:     ip.GetOutDiscards(),
		InHeaderErrors:  ip.GetInHeaderErrors(),
		InAddressErrors: ip.GetInAddressErrors(),
		NoRoutes:        ip.GetNoRoutes(),
		ReassemblyFails: ip.GetReassemblyFails(),
	}
}

// AddRates sums two rates, of which nil is none.
func AddRates(a, b *resource.Quantity) *resource.Quantity {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		sum := b.DeepCopy()
		return &sum
	case b == nil:
		return a
	}
	sum := a.DeepCopy()
	sum.Add(*b)
	return &sum
}
