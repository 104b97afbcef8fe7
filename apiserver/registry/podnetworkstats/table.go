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
	{Name: "Retrans", Type: "string", Description: "TCP segments sent again, with decimal prefixes."},
	{Name: "Conns", Type: "string", Description: "TCP connections that are established now."},
	{Name: "Age", Type: "string", Description: "Time since the pod was created."},
	{Name: "Node", Type: "string", Priority: 1, Description: "Node on which the pod runs."},
	{Name: "IP", Type: "string", Priority: 1, Description: "Primary address of the pod."},
	{Name: "Rx-Pkts", Type: "string", Priority: 1, Description: "Packets on the wire that arrived at the pod, with decimal prefixes."},
	{Name: "Tx-Pkts", Type: "string", Priority: 1, Description: "Packets on the wire that the pod sent, with decimal prefixes."},
	{Name: "Resets", Type: "string", Priority: 1, Description: "Established TCP connections that ended by a reset, with decimal prefixes."},
	{Name: "Conn-Fail", Type: "string", Priority: 1, Description: "TCP connections that failed before they were established, with decimal prefixes."},
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
	tcp := tcpCells(stats.Protocols)
	ip := ""
	if len(stats.PodIPs) > 0 {
		ip = stats.PodIPs[0]
	}
	return []any{
		stats.Name,
		traffic.rx, traffic.tx, traffic.rxRate, traffic.txRate,
		tcp.retransmitted, tcp.established,
		live.AgeCell(stats.CreationTimestamp),
		live.TextCell(stats.NodeName), live.TextCell(ip),
		traffic.rxPackets, traffic.txPackets,
		tcp.resets, tcp.fails,
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

func tcpCells(protocols *v1alpha1.ProtocolStats) tcpRow {
	if protocols == nil {
		u := live.Unknown
		return tcpRow{u, u, u, u}
	}
	return tcpRow{
		retransmitted: live.CountCell(protocols.TCP.RetransmittedSegments),
		established:   fmt.Sprint(protocols.TCP.CurrentlyEstablished),
		resets:        live.CountCell(protocols.TCP.EstablishedResets),
		fails:         live.CountCell(protocols.TCP.AttemptFails),
	}
}
