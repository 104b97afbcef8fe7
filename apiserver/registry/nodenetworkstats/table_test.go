package nodenetworkstats

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

func node() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", Labels: map[string]string{"zone": "a"}}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
	}
	return node
}

func networkInterface(name string, uplink bool, rates *agentv1.Rates) *agentv1.Interface {
	counters := func() *agentv1.InterfaceCounters {
		return &agentv1.InterfaceCounters{Bytes: 3 << 20, Packets: 2000, Errors: 1, Dropped: 2, Rates: rates}
	}
	return &agentv1.Interface{Name: name, Uplink: uplink, Receive: counters(), Transmit: counters()}
}

// TestUplinks: the total is that of the uplinks, and of nothing that sees their packets again.
func TestUplinks(t *testing.T) {
	record, err := kind{}.Record(node())
	if err != nil {
		t.Fatal(err)
	}
	stats := &agentv1.NodeStats{
		Conntrack: &agentv1.Conntrack{Entries: 70, Limit: 100}, Flows: &agentv1.FlowTable{Recorded: 1200},
		Measurement: &agentv1.Measurement{State: agentv1.State_STATE_MEASURED},
		Interfaces: []*agentv1.Interface{
			networkInterface("eth0", true, &agentv1.Rates{MilliBytes: 1500}),
			networkInterface("eth1", true, nil),
			networkInterface("cni0", false, &agentv1.Rates{MilliBytes: 99}),
		},
		Agent: &agentv1.AgentInfo{
			Version: "v0.1.0", KernelVersion: "6.18.0", Pods: 12,
			Collectors: []*agentv1.Collector{{Name: "traffic", State: agentv1.Collector_STATE_OFF}, {Name: "new", State: 9}},
		},
	}
	object := kind{}.Object(record, live.Reading{Node: stats}).(*v1alpha1.NodeNetworkStats)
	if got := object.Traffic.Receive; got.Bytes != 6<<20 || got.Packets != 4000 || got.BytesPerSecond.String() != "1500m" {
		t.Errorf("the uplinks received %+v", got)
	}
	if len(object.Interfaces) != 3 || object.Labels["zone"] != "a" || object.UID == "u" || object.Namespace != "" {
		t.Errorf("got %+v", object)
	}
	if got := object.Agent.Collectors; got[0].State != v1alpha1.CollectorOff || got[1].State != v1alpha1.CollectorDegraded {
		t.Errorf("collectors are %+v", got)
	}
	table, err := kind{}.ConvertToTable(context.Background(), object, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "n1 6.00Mi 6.00Mi 2 2 <unknown> <unknown> <unknown> <unknown> 12 <unknown> 192.0.2.1,2001:db8::1 eth0,eth1 4 8 70/100 1.20k <unknown> 6.18.0 v0.1.0 Measured"
	if got := strings.Trim(fmt.Sprint(table.Rows[0].Cells), "[]"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSilentNode(t *testing.T) {
	record, err := kind{}.Record(node())
	if err != nil {
		t.Fatal(err)
	}
	list := kind{}.List(metav1.ListMeta{}, []*live.Record{record}, []live.Reading{{Err: fmt.Errorf("n1: no answer")}})
	table, err := kind{}.ConvertToTable(context.Background(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "n1" + strings.Repeat(" <unknown>", 10) + " 192.0.2.1,2001:db8::1" + strings.Repeat(" <unknown>", 8) + " NodeSilent"
	if got := strings.Trim(fmt.Sprint(table.Rows[0].Cells), "[]"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
