package podnetworkstats

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
)

func TestTable(t *testing.T) {
	record := &live.Record{Namespace: "x", Name: "web-0", HostUID: "u", Node: "n1", PodKey: "u", IPs: []string{"192.0.2.7", "2001:db8::7"}}
	measured := live.Reading{Pod: livetest.PodStats("u", agentv1.State_STATE_MEASURED, 300_000)}
	full := live.Reading{Pod: livetest.PodStats("u", agentv1.State_STATE_MEASURED, 300_000)}
	full.Pod.Drops = &agentv1.Drops{Unsorted: 1, Drops: []*agentv1.Drop{
		{Reason: "NETFILTER_DROP", Class: agentv1.Drop_CLASS_POLICY, Packets: 20}, {Reason: "TCP_OLD_DATA", Class: agentv1.Drop_CLASS_BENIGN, Packets: 5000},
	}}
	full.Pod.Connections = &agentv1.Connections{
		Established: 3, CloseWait: 1, SegmentsRetransmitted: 7, ResetsSent: 1, ResetsReceived: 2, FailedRefused: 3, FailedTimeout: 4,
		OpenSmoothedRtt: &agentv1.Histogram{Indexes: []int32{-80}, Counts: []int64{3}},
	}
	full.Pod.Dns = &agentv1.DNS{
		Unanswered: 2, Responses: []*agentv1.DNSResponses{{Type: 1, Count: 90}, {Type: 28, Code: 3, Count: 9}},
		Latency: &agentv1.Histogram{Indexes: []int32{-60, 0}, Counts: []int64{98, 1}},
	}
	full.Pod.ApiServer = &agentv1.APIServer{Connected: 1}
	list := kind{}.List(metav1.ListMeta{ResourceVersion: "7", Continue: "more"}, []*live.Record{record, record, record}, []live.Reading{measured, full, {Err: fmt.Errorf("n1: gone")}})
	table, err := kind{}.ConvertToTable(context.Background(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wide []string
	for _, column := range table.ColumnDefinitions {
		if column.Description == "" {
			t.Errorf("column %s is not described", column.Name)
		}
		wide = append(wide, strings.ToUpper(column.Name))
	}
	got := strings.Join(wide, " ")
	for _, row := range table.Rows {
		got += "\n" + strings.Trim(fmt.Sprint(row.Cells), "[]")
	}
	const u = " <unknown>"
	want := `NAME RX TX RX/S TX/S DROPS RETRANS CONNS RTT DNS-ERR AGE NODE IP RX-PKTS TX-PKTS RESETS CONN-FAIL DNS-P99 API-P99 STATE
web-0 1.14Mi 1.14Mi 300 300 <unknown> 300k 300000 <unknown> <unknown> <unknown> n1 192.0.2.7 1.20M 1.20M 300k 300k <unknown> <unknown> Measured
web-0 1.14Mi 1.14Mi 300 300 21 7 4 935µs 11 <unknown> n1 192.0.2.7 1.20M 1.20M 3 7 958ms - Measured
web-0` + strings.Repeat(u, 10) + ` n1 192.0.2.7` + strings.Repeat(u, 6) + ` NodeSilent`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if table.ResourceVersion != "7" || table.Continue != "more" {
		t.Errorf("list metadata is %+v", table.ListMeta)
	}
	one, err := kind{}.ConvertToTable(context.Background(), kind{}.New(), &metav1.TableOptions{NoHeaders: true})
	if err != nil || len(one.ColumnDefinitions) != 0 || len(one.Rows) != 1 || len(one.Rows[0].Cells) != len(columns) {
		t.Errorf("a table without headers is %+v, %v", one, err)
	}
}
