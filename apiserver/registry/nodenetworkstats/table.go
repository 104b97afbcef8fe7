package nodenetworkstats

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
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the node."},
	{Name: "Rx", Type: "string", Description: "Link-layer bytes that arrived at the node's uplinks, with binary prefixes."},
	{Name: "Tx", Type: "string", Description: "Link-layer bytes that the node's uplinks sent, with binary prefixes."},
	{Name: "Rx/s", Type: "string", Description: "Bytes a second that arrived at the uplinks over the last window, with binary prefixes."},
	{Name: "Tx/s", Type: "string", Description: "Bytes a second that the uplinks sent over the last window, with binary prefixes."},
	{Name: "Drops", Type: "string", Description: "Packets that the kernel dropped in the node's network namespace, benign reasons aside, with decimal prefixes."},
	{Name: "Retrans", Type: "string", Description: "TCP segments of the node itself sent again, with decimal prefixes."},
	{Name: "Conns", Type: "string", Description: "TCP connections of the node itself that are established now."},
	{Name: "RTT", Type: "string", Description: "Median of the smoothed round-trip times of the node's own TCP connections."},
	{Name: "Pods", Type: "string", Description: "Pods whose traffic the node's agent counts."},
	{Name: "Age", Type: "string", Description: "Time since the node was created."},
	{Name: "IP", Type: "string", Priority: 1, Description: "Internal addresses of the node."},
	{Name: "Uplinks", Type: "string", Priority: 1, Description: "Interfaces whose counters are in the node's total."},
	{Name: "Errors", Type: "string", Priority: 1, Description: "Errors of the uplinks in both directions, with decimal prefixes."},
	{Name: "Dropped", Type: "string", Priority: 1, Description: "Packets that the kernel or a driver dropped at the uplinks in both directions, with decimal prefixes."},
	{Name: "Conntrack", Type: "string", Priority: 1, Description: "Entries of connection tracking, and their limit."},
	{Name: "Flows", Type: "string", Priority: 1, Description: "Flows in the node's history, with decimal prefixes."},
	{Name: "API-P99", Type: "string", Priority: 1, Description: "Smoothed round-trip time to the Kubernetes API that 99 of 100 of the node's own connections do not exceed."},
	{Name: "Kernel", Type: "string", Priority: 1, Description: "Version of the node's kernel."},
	{Name: "Agent", Type: "string", Priority: 1, Description: "Version of the node's agent."},
	{Name: "State", Type: "string", Priority: 1, Description: "Whether the counters are there: Measured, Degraded or NodeSilent."},
}

// ConvertToTable is part of live.Kind.
func (kind) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return live.Table(object, options, columns, cells)
}

func cells(object runtime.Object) []any {
	stats, ok := object.(*v1alpha1.NodeNetworkStats)
	if !ok {
		return nil
	}
	traffic := trafficCells(stats.Traffic)
	retransmitted, established := live.Unknown, live.Unknown
	if stats.Protocols != nil {
		retransmitted = live.CountCell(stats.Protocols.TCP.RetransmittedSegments)
		established = fmt.Sprint(stats.Protocols.TCP.CurrentlyEstablished)
	}
	pods, kernel, version := live.Unknown, live.Unknown, live.Unknown
	if stats.Agent != nil {
		pods, kernel, version = fmt.Sprint(stats.Agent.Pods), live.TextCell(stats.Agent.KernelVersion), live.TextCell(stats.Agent.Version)
	}
	return []any{
		stats.Name,
		traffic.rx, traffic.tx, traffic.rxRate, traffic.txRate,
		live.DropsCell(stats.Drops), retransmitted, established, live.RoundTripCell(stats.Connections), pods,
		live.AgeCell(stats.CreationTimestamp),
		live.ListCell(stats.NodeIPs), live.ListCell(uplinkNames(stats.Interfaces)),
		traffic.errors, traffic.dropped,
		conntrackCell(stats.Conntrack), flowsCell(stats.Flows), live.APILatencyCell(stats.APIServer),
		kernel, version,
		live.TextCell(string(stats.State)),
	}
}

func conntrackCell(c *v1alpha1.ConntrackStats) string {
	if c == nil {
		return live.Unknown
	}
	return fmt.Sprintf("%d/%d", c.Entries, c.Limit)
}

func flowsCell(f *v1alpha1.FlowTableStats) string {
	if f == nil {
		return live.Unknown
	}
	return live.CountCell(f.Recorded)
}

func uplinkNames(interfaces []v1alpha1.InterfaceStats) []string {
	var names []string
	for i := range interfaces {
		if interfaces[i].Uplink {
			names = append(names, interfaces[i].Name)
		}
	}
	return names
}

type trafficRow struct{ rx, tx, rxRate, txRate, errors, dropped string }

func trafficCells(traffic *v1alpha1.InterfaceTraffic) trafficRow {
	if traffic == nil {
		u := live.Unknown
		return trafficRow{u, u, u, u, u, u}
	}
	rx, tx := &traffic.Receive, &traffic.Transmit
	return trafficRow{
		rx: live.BytesCell(rx.Bytes), tx: live.BytesCell(tx.Bytes),
		rxRate: live.RateCell(rx.BytesPerSecond), txRate: live.RateCell(tx.BytesPerSecond),
		errors: live.CountCell(rx.Errors + tx.Errors), dropped: live.CountCell(rx.Dropped + tx.Dropped),
	}
}
