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
	list := kind{}.List(metav1.ListMeta{ResourceVersion: "7", Continue: "more"}, []*live.Record{record, record}, []live.Reading{measured, {Err: fmt.Errorf("n1: gone")}})
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
	want := `NAME RX TX RX/S TX/S RETRANS CONNS AGE NODE IP RX-PKTS TX-PKTS RESETS CONN-FAIL STATE
web-0 1.14Mi 1.14Mi 300 300 300k 300000 <unknown> n1 192.0.2.7 1.20M 1.20M 300k 300k Measured
web-0` + strings.Repeat(u, 7) + ` n1 192.0.2.7` + strings.Repeat(u, 4) + ` NodeSilent`
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
