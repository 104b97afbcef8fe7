package networkflows

import (
	"context"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// none is the cell of what does not apply to a flow.
const none = "-"

var columns = []metav1.TableColumnDefinition{
	{Name: "Last", Type: "string", Description: "Time since the last packet."},
	{Name: "Pod", Type: "string", Description: "Pod at which the flow was observed."},
	{Name: "Dir", Type: "string", Description: "→ when the pod began the flow, ← when the peer did."},
	{Name: "Peer", Type: "string", Description: "Other end of the flow: a pod (with its namespace if that is another one), svc/NAME, node/NAME, or a DNS name or address outside of the cluster."},
	{Name: "Proto", Type: "string", Description: "Transport protocol."},
	{Name: "Port", Type: "string", Description: "Port of the end that did not begin the flow; of ICMP type/code."},
	{Name: "Verdict", Type: "string", Description: "Forwarded, Dropped or Rejected."},
	{Name: "Rx", Type: "string", Description: "Bytes that came to the pod, IP headers included, with binary prefixes."},
	{Name: "Tx", Type: "string", Description: "Bytes that the pod sent, IP headers included, with binary prefixes."},
	{Name: "RTT", Type: "string", Description: "Time of the TCP handshake, as seen at the pod."},
	{Name: "Node", Type: "string", Priority: 1, Description: "Node that observed the flow."},
	{Name: "Drop-Reason", Type: "string", Priority: 1, Description: "The kernel's reason of the last drop."},
	{Name: "Translated", Type: "string", Priority: 1, Description: "What the node made of the peer by address translation, such as the pod behind a Service."},
	{Name: "Pkts", Type: "string", Priority: 1, Description: "Packets in both directions, with decimal prefixes."},
	{Name: "Start", Type: "string", Priority: 1, Description: "When the first packet was seen."},
	{Name: "Name", Type: "string", Priority: 1, Format: "name", Description: "Name of the object."},
}

// ConvertToTable is part of rest.TableConvertor. A flow that has left the history has no row: the log that kubectl get -w
// writes should not say things twice.
func (r *REST) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table, err := live.Table(object, options, columns, cells)
	if flow, ok := object.(*v1alpha1.NetworkFlow); ok && err == nil && flow.DeletionTimestamp != nil {
		table.Rows = nil
	}
	return table, err
}

func cells(object runtime.Object) []any {
	flow, ok := object.(*v1alpha1.NetworkFlow)
	if !ok {
		return nil
	}
	last, start := live.Unknown, live.Unknown
	if flow.LastTime != nil {
		last = live.AgeCell(metav1.Time{Time: flow.LastTime.Time})
	}
	if flow.StartTime != nil {
		start = flow.StartTime.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	translated := none
	if flow.Translated != nil {
		translated = peerCell(flow, flow.Translated) + ":" + strconv.Itoa(int(flow.Translated.Port))
	}
	return []any{
		last, flow.Pod.Name, directionCell(flow.Direction), peerCell(flow, &flow.Peer), flow.Protocol, portCell(flow),
		live.TextCell(string(flow.Verdict)), live.BytesCell(flow.Receive.Bytes), live.BytesCell(flow.Transmit.Bytes), handshakeCell(flow.Handshake),
		flow.NodeName, orNone(flow.DropReason), translated, live.CountCell(flow.Receive.Packets + flow.Transmit.Packets), start, flow.Name,
	}
}

func directionCell(direction v1alpha1.FlowDirection) string {
	switch direction {
	case v1alpha1.Egress:
		return "→"
	case v1alpha1.Ingress:
		return "←"
	}
	return "?"
}

// peerCell names an end briefly.
func peerCell(flow *v1alpha1.NetworkFlow, peer *v1alpha1.FlowPeer) string {
	name := peer.Name
	if peer.Namespace != "" && peer.Namespace != flow.Namespace {
		name = peer.Namespace + "/" + name
	}
	switch peer.Kind {
	case v1alpha1.PeerPod:
		return name
	case v1alpha1.PeerService:
		return "svc/" + name
	case v1alpha1.PeerNode:
		return "node/" + name
	}
	if peer.DNSName != "" {
		return peer.DNSName
	}
	return peer.Address
}

// portCell is the port that was asked for.
func portCell(flow *v1alpha1.NetworkFlow) string {
	switch flow.Protocol {
	case "ICMP", "ICMPv6":
		return fmt.Sprintf("%d/%d", flow.Peer.Port>>8, flow.Peer.Port&0xff)
	}
	port := flow.Peer.Port
	if flow.Direction == v1alpha1.Ingress {
		port = flow.Pod.Port
	}
	if port == 0 {
		return none
	}
	return strconv.Itoa(int(port))
}

func handshakeCell(handshake *metav1.Duration) string {
	if handshake == nil {
		return none
	}
	if took := handshake.Duration; took < time.Second {
		return strconv.FormatFloat(float64(took)/float64(time.Millisecond), 'g', 3, 64) + "ms"
	}
	return strconv.FormatFloat(handshake.Seconds(), 'f', 2, 64) + "s"
}

func orNone(text string) string {
	if text == "" {
		return none
	}
	return text
}
