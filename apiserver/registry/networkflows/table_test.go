package networkflows

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestTable reads as kubectl prints it.
func TestTable(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "shop", "n1", nil), w.pod("b", "db-0", "n2", nil)
	add := func(flow *agentv1.Flow, change func(*agentv1.Flow)) {
		flow.LastUnixNano = time.Now().Add(-90 * time.Minute).UnixNano()
		change(flow)
		w.agents.Record("n1", flow)
	}
	add(w.flow(a, "10.96.0.9", 1), func(f *agentv1.Flow) {
		f.TranslatedAddress, f.TranslatedPort = w.flow(b, "::1", 0).PodAddress, 8080
	})
	add(w.flow(a, b.IPs[0], 2), func(f *agentv1.Flow) {
		f.Direction, f.PodPort, f.PeerPort, f.HandshakeNano = agentv1.Direction_DIRECTION_RECEIVE, 443, 5000, 2_500_000_000
	})
	add(w.flow(a, "203.0.113.7", 3), func(f *agentv1.Flow) {
		f.PeerName, f.Verdict, f.HandshakeNano = `evil\027.example.com`, agentv1.Verdict_VERDICT_DROPPED, 0
		f.Dropped, f.DropReason, f.DropClass, f.Receive = 5, "NETFILTER_DROP", agentv1.Drop_CLASS_POLICY, nil
	})
	add(w.flow(a, "2001:db8::1", 4), func(f *agentv1.Flow) {
		f.Protocol, f.PodPort, f.PeerPort, f.HandshakeNano = 58, 7, 128<<8, 0
	})
	add(w.flow(a, "192.0.2.2", 5), func(f *agentv1.Flow) {
		f.Protocol, f.PodPort, f.PeerPort, f.HandshakeNano, f.Verdict = 47, 0, 0, 0, agentv1.Verdict_VERDICT_UNSPECIFIED
	})
	table, err := w.rest.ConvertToTable(t.Context(), w.list("a", nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, 0, len(table.Rows))
	for _, row := range table.Rows {
		var cells []string
		for _, cell := range row.Cells[:14] {
			cells = append(cells, fmt.Sprint(cell))
		}
		texts = append(texts, strings.Join(cells, " "))
	}
	want := []string{
		"90m shop → svc/web TCP 80 Forwarded 300 3.91Ki 0.43ms n1 - b/db-0:8080 7",
		"90m shop ← b/db-0 TCP 443 Forwarded 300 3.91Ki 2.50s n1 - - 7",
		`90m shop → evil\027.example.com TCP 80 Dropped 0 3.91Ki - n1 NETFILTER_DROP - 4`,
		"90m shop → 2001:db8::1 ICMPv6 128/0 Forwarded 300 3.91Ki - n1 - - 7",
		"90m shop → node/n2 47 - <unknown> 300 3.91Ki - n1 - - 7",
	}
	if text := strings.Join(texts, "\n"); text != strings.Join(want, "\n") {
		t.Errorf("printed\n%s\nwant\n%s", text, strings.Join(want, "\n"))
	}
	gone := &v1alpha1.NetworkFlow{ObjectMeta: metav1.ObjectMeta{Name: "x", DeletionTimestamp: &metav1.Time{}}}
	if table, err := w.rest.ConvertToTable(t.Context(), gone, nil); err != nil || len(table.Rows) != 0 {
		t.Errorf("a flow that has gone has the rows %v, %v", table.Rows, err)
	}
}

// TestObject: every field of a row is somewhere in the object.
func TestObject(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "shop-5d9-x", "n1", map[string]string{"app": "shop", "pod-template-hash": "5d9"})
	a.OwnerKind, a.OwnerName = "ReplicaSet", "shop-5d9"
	flow := w.flow(a, "203.0.113.7", 1.5)
	flow.Ended, flow.PeerName = true, "example.com"
	w.agents.Record("n1", flow)
	got := w.list("a", nil).Items[0]
	if got.CreationTimestamp.Sub(start) != time.Second || got.StartTime.Sub(start) != 1500*time.Millisecond || got.LastTime.Sub(start) != 2500*time.Millisecond {
		t.Errorf("times are %v, %v, %v", got.CreationTimestamp, got.StartTime, got.LastTime)
	}
	if text := fmt.Sprint(got.Transmit, got.Receive); text != "{4 4000 [FIN SYN PSH ACK]} {3 300 [SYN ACK]}" {
		t.Errorf("counted %s", text)
	}
	if got.Pod.Workload == nil || *got.Pod.Workload != (v1alpha1.FlowWorkload{Kind: "Deployment", Name: "shop"}) || got.Pod.UID != "uid-shop-5d9-x" {
		t.Errorf("the pod is %+v", got.Pod)
	}
	if want := (v1alpha1.FlowPeer{Kind: v1alpha1.PeerExternal, Address: "203.0.113.7", Port: 80, DNSName: "example.com"}); got.Peer != want {
		t.Errorf("the peer is %+v", got.Peer)
	}
	if !got.Ended || got.Handshake.Duration != 430*time.Microsecond || got.NodeName != "n1" || got.Labels["app"] != "shop" || got.DropClass != "" {
		t.Errorf("got %+v", got)
	}
}
