package podnetworkstats

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// columns are what kubectl prints; those of priority 1 only with -o wide.
var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the pod."},
	{Name: "Rx", Type: "string", Description: "Bytes that arrived at the pod, IP headers included, with binary prefixes."},
	{Name: "Tx", Type: "string", Description: "Bytes that the pod sent, IP headers included, with binary prefixes."},
	{Name: "Rx/s", Type: "string", Description: "Bytes a second that arrived over the last window, with binary prefixes."},
	{Name: "Tx/s", Type: "string", Description: "Bytes a second that the pod sent over the last window, with binary prefixes."},
	{Name: "Drops", Type: "string", Description: "Packets that the kernel dropped, benign reasons aside, with decimal prefixes."},
	{Name: "Retrans", Type: "string", Description: "TCP segments sent again, with decimal prefixes."},
	{Name: "Conns", Type: "string", Description: "TCP connections that are established now."},
	{Name: "RTT", Type: "string", Description: "Median of the smoothed round-trip times of the TCP connections that are open now; when there is none, of those that were closed."},
	{Name: "DNS-Err", Type: "string", Description: "DNS queries answered with an error code or not at all, with decimal prefixes."},
	{Name: "Age", Type: "string", Description: "Time since the pod was created."},
	{Name: "Node", Type: "string", Priority: 1, Description: "Node on which the pod runs."},
	{Name: "IP", Type: "string", Priority: 1, Description: "Primary address of the pod."},
	{Name: "Rx-Pkts", Type: "string", Priority: 1, Description: "Packets on the wire that arrived at the pod, with decimal prefixes."},
	{Name: "Tx-Pkts", Type: "string", Priority: 1, Description: "Packets on the wire that the pod sent, with decimal prefixes."},
	{Name: "Resets", Type: "string", Priority: 1, Description: "TCP resets sent and received, with decimal prefixes."},
	{Name: "Conn-Fail", Type: "string", Priority: 1, Description: "Attempts to connect that failed, with decimal prefixes."},
	{Name: "DNS-P99", Type: "string", Priority: 1, Description: "Time within which 99 of 100 DNS responses came."},
	{Name: "API-P99", Type: "string", Priority: 1, Description: "Smoothed round-trip time to the Kubernetes API that 99 of 100 connections do not exceed."},
	{Name: "State", Type: "string", Priority: 1, Description: "Whether the counters are there: Measured, Degraded, Pending, Ended, NotAttributed or NodeSilent."},
}

// ConvertToTable is part of live.Kind.
func (kind) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return live.Table(object, options, columns, cells)
}

func cells(object runtime.Object) []any {
	stats, ok := object.(*v1alpha1.PodNetworkStats)
	if !ok {
		return nil
	}
	traffic := trafficCells(stats.Traffic)
	tcp := tcpCells(stats)
	ip := ""
	if len(stats.PodIPs) > 0 {
		ip = stats.PodIPs[0]
	}
	return []any{
		stats.Name,
		traffic.rx, traffic.tx, traffic.rxRate, traffic.txRate,
		live.DropsCell(stats.Drops), tcp.retransmitted, tcp.established, live.RoundTripCell(stats.Connections), dnsErrors(stats.DNS),
		live.AgeCell(stats.CreationTimestamp),
		live.TextCell(stats.NodeName), live.TextCell(ip),
		traffic.rxPackets, traffic.txPackets,
		tcp.resets, tcp.fails, dnsLatency(stats.DNS), live.APILatencyCell(stats.APIServer),
		live.TextCell(string(stats.State)),
	}
}

type trafficRow struct{ rx, tx, rxRate, txRate, rxPackets, txPackets string }

func trafficCells(traffic *v1alpha1.TrafficStats) trafficRow {
	if traffic == nil {
		u := live.Unknown
		return trafficRow{u, u, u, u, u, u}
	}
	return trafficRow{
		rx: live.BytesCell(traffic.Receive.Bytes), tx: live.BytesCell(traffic.Transmit.Bytes),
		rxRate: live.RateCell(traffic.Receive.BytesPerSecond), txRate: live.RateCell(traffic.Transmit.BytesPerSecond),
		rxPackets: live.CountCell(traffic.Receive.Packets), txPackets: live.CountCell(traffic.Transmit.Packets),
	}
}

type tcpRow struct{ retransmitted, established, resets, fails string }

// tcpCells prefers what the sockets say, which leaves nothing out; else the namespace's own counters must do.
func tcpCells(stats *v1alpha1.PodNetworkStats) tcpRow {
	if c := stats.Connections; c != nil {
		return tcpRow{
			retransmitted: live.CountCell(c.SegmentsRetransmitted),
			established:   fmt.Sprint(c.States.Established + c.States.CloseWait),
			resets:        live.CountCell(c.ResetsSent + c.ResetsReceived),
			fails:         live.CountCell(live.ConnectionFailures(&c.Failed)),
		}
	}
	if stats.Protocols == nil {
		u := live.Unknown
		return tcpRow{u, u, u, u}
	}
	tcp := &stats.Protocols.TCP
	return tcpRow{
		retransmitted: live.CountCell(tcp.RetransmittedSegments),
		established:   fmt.Sprint(tcp.CurrentlyEstablished),
		resets:        live.CountCell(tcp.EstablishedResets),
		fails:         live.CountCell(tcp.AttemptFails),
	}
}

func dnsErrors(dns *v1alpha1.DNSStats) string {
	if dns == nil {
		return live.Unknown
	}
	return live.CountCell(dns.Errors + dns.Unanswered)
}

func dnsLatency(dns *v1alpha1.DNSStats) string {
	if dns == nil {
		return live.Unknown
	}
	return live.LatencyCell(dns.Latency.P99)
}
