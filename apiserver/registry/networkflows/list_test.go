package networkflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestPagesModel lists random histories in random pages, while flows come, change and go: nothing that was there all
// the time is lost, nothing comes twice, and each node's flows come in the order in which it recorded them.
func TestPagesModel(t *testing.T) {
	random := seeded(t)
	for round := range 30 {
		nodes := []string{"n1", "n2", "n3", "n4", "n5"}[:1+random.IntN(5)]
		w := newWorld(t, nodes...)
		all := map[string]bool{}
		var places []place
		record := func() {
			node := nodes[random.IntN(len(nodes))]
			pod := w.pods["x/"+node]
			if pod == nil {
				pod = w.pod("x", node, node, nil)
			}
			// Starts are out of order by far more than agents notice flows late.
			flow := w.flow(pod, "198.51.100.1", float64(len(places))+100*random.Float64())
			places = append(places, place{node, w.agents.Instance(node), w.agents.Record(node, flow)})
		}
		for range random.IntN(300) {
			record()
		}
		for _, p := range places {
			all[p.name()] = true
		}
		options := w.options("", "")
		options.Limit = int64(1 + random.IntN(60))
		items, _ := w.pages("x", options, func() {
			if len(places) == 0 {
				return
			}
			one := places[random.IntN(len(places))]
			switch random.IntN(3) {
			case 0:
				record()
			case 1:
				if slices.Contains(w.agents.Positions(one.node), one.position) {
					w.agents.Change(one.node, one.position, func(f *agentv1.Flow) { f.LastUnixNano++ })
				}
			case 2:
				if slices.Contains(w.agents.Positions(one.node), one.position) {
					w.agents.Remove(one.node, one.position)
					delete(all, one.name())
				}
			}
		})
		listed := map[string]bool{}
		last := map[string]int64{}
		for _, item := range items {
			if listed[item.Name] {
				t.Fatalf("round %d: %s came twice", round, item.Name)
			}
			listed[item.Name] = true
			_, _, position, _ := parseName(item.Name)
			if position <= last[item.NodeName] {
				t.Errorf("round %d: %s came behind position %d", round, item.Name, last[item.NodeName])
			}
			last[item.NodeName] = position
		}
		for name := range all {
			if !listed[name] {
				t.Fatalf("round %d: %s is lost of %d", round, name, len(all))
			}
		}
	}
}

// TestOrder: nodes are merged by time, and a flow that its node noticed late stays where the node has it.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("x", "a", "n1", nil), w.pod("x", "b", "n2", nil)
	for _, seconds := range []float64{1, 5, 2, 9} {
		w.agents.Record("n1", w.flow(a, "198.51.100.1", seconds))
	}
	for _, seconds := range []float64{3, 4, 8} {
		w.agents.Record("n2", w.flow(b, "198.51.100.1", seconds))
	}
	var got []string
	for _, item := range w.list("x", w.options("", "")).Items {
		got = append(got, fmt.Sprintf("%s%.0f", item.Pod.Name, item.StartTime.Sub(start).Seconds()))
	}
	if want := "a1 b3 b4 a5 a2 b8 a9"; strings.Join(got, " ") != want {
		t.Errorf("listed %v, want %s", got, want)
	}
}

func TestSelectors(t *testing.T) {
	w := newWorld(t)
	web := w.pod("a", "web-6f7-x1", "n1", map[string]string{"app": "web", "pod-template-hash": "6f7"})
	web.OwnerKind, web.OwnerName = "ReplicaSet", "web-6f7"
	db := w.pod("b", "db-0", "n2", map[string]string{"app": "db"})
	db.OwnerKind, db.OwnerName = "StatefulSet", "db"
	record := func(node string, flow *agentv1.Flow, change func(*agentv1.Flow)) {
		change(flow)
		w.agents.Record(node, flow)
	}
	record("n1", w.flow(web, db.IPs[0], 1), func(f *agentv1.Flow) { f.PeerPort = 5432 })
	record("n2", w.flow(db, web.IPs[0], 1), func(f *agentv1.Flow) {
		f.Direction, f.PodPort, f.PeerPort = agentv1.Direction_DIRECTION_RECEIVE, 5432, 40000
	})
	record("n2", w.flow(db, "10.96.0.9", 2), func(f *agentv1.Flow) {
		f.TranslatedAddress, f.TranslatedPort = w.flow(web, "::1", 0).PodAddress, 8080
	})
	record("n1", w.flow(web, "203.0.113.7", 1800), func(f *agentv1.Flow) {
		f.PeerName, f.Verdict, f.PeerPort = "Example.COM", agentv1.Verdict_VERDICT_DROPPED, 443
		f.Dropped, f.DropReason, f.DropClass = 3, "NETFILTER_DROP", agentv1.Drop_CLASS_POLICY
	})
	record("n1", w.flow(web, "192.0.2.2", 3590), func(f *agentv1.Flow) { f.Protocol, f.PodPort, f.PeerPort = 1, 7, 8<<8 })
	// The flows by what tells them apart.
	const egress, ingress, service, dropped, ping = "web>db", "db<web", "db>svc", "web>com", "web>node"
	names := map[string]string{"5432Egress": egress, "5432Ingress": ingress, "80Egress": service, "443Egress": dropped, "8/0Egress": ping}
	for selector, want := range map[string]string{
		"":                              "db<web db>svc web>com web>db web>node",
		"pod=db-0":                      "db<web db>svc",
		"pod!=db-0":                     "web>com web>db web>node",
		"workload=web":                  "web>com web>db web>node",
		"workload=statefulset/db":       "db<web db>svc",
		"workload=Deployment/db":        "",
		"metadata.namespace=b":          "db<web db>svc",
		"metadata.namespace!=b":         "web>com web>db web>node",
		"nodeName=n2":                   "db<web db>svc",
		"spec.nodeName=n1":              "web>com web>db web>node",
		"peer=db-0":                     "web>db",
		"peer=b/db-0":                   "web>db",
		"peer=a/db-0":                   "",
		"peer=web":                      "db>svc",
		"peer=web-6f7-x1":               "db<web db>svc",
		"peer=example.com":              "web>com",
		"peer=203.0.113.7":              "web>com",
		"peer=" + web.IPs[0]:            "db<web db>svc",
		"peer=n2":                       "web>node",
		"peer.address=::ffff:cb00:7107": "web>com",
		"peer.dnsName=example.com.":     "web>com",
		"peer.kind=external":            "web>com",
		"peer.kind=Service":             "db>svc",
		"peer.service=a/web":            "db>svc",
		"peer.pod=a/web-6f7-x1":         "db<web db>svc",
		"peer.namespace=a":              "db<web db>svc",
		"peer.workload=deployment/web":  "db<web db>svc",
		"peer.node=n2":                  "web>db web>node",
		"direction=ingress":             "db<web",
		"direction!=Ingress":            "db>svc web>com web>db web>node",
		"protocol=icmp":                 "web>node",
		"protocol=6,port=5432":          "db<web web>db",
		"port=443":                      "web>com",
		"port!=443":                     "db<web db>svc web>db web>node",
		"verdict=dropped":               "web>com",
		"verdict!=dropped,nodeName=n1":  "web>db web>node",
		"dropReason=netfilter_drop":     "web>com",
		"dropClass=policy":              "web>com",
		"since=45m":                     "web>com web>node",
		"since=45m,until=10m":           "web>com",
		"until=" + start.Add(1500*time.Millisecond).Format(time.RFC3339Nano): "db<web web>db",
	} {
		var got []string
		for _, item := range w.list("", w.options("", selector)).Items {
			got = append(got, names[portCell(&item)+string(item.Direction)])
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q selects %q, want %q", selector, text, want)
		}
	}
	if items := w.list("", w.options("app=db", "")).Items; len(items) != 2 || items[0].Namespace != "b" || items[0].Labels["app"] != "db" {
		t.Errorf("the label selects %v", items)
	}
	if items := w.list("a", w.options("", "metadata.namespace=b")).Items; len(items) != 0 {
		t.Errorf("namespace a shows %v", items)
	}
}

func TestBadSelectors(t *testing.T) {
	for selector, want := range map[string]string{
		"status.phase=Running": `known are ["direction" "dropClass" "dropReason" "metadata.name"`,
		"verdict=lost":         `field verdict: "lost" is none of ["Forwarded" "Dropped" "Rejected"]`,
		"port=http":            `field port: "http" is not a port`,
		"port=65536":           "not a port",
		"protocol=tpc":         "neither TCP, UDP, ICMP, ICMPv6 or SCTP nor the number",
		"protocol=256":         "nor the number",
		"peer.address=web":     "not an IP address",
		"since=soon":           "neither how long ago (10m, 90s) nor a time",
		"since=-5m":            "neither how long ago",
	} {
		if _, err := optionsOf("", selector); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", selector, err, want)
		}
	}
	w := newWorld(t)
	if _, err := w.rest.List(w.request(""), w.options("", "since!=5m")); !apierrors.IsBadRequest(err) {
		t.Errorf("since!=5m: %v", err)
	}
}

// TestPushed: agents are asked only for what can be in the answer.
func TestPushed(t *testing.T) {
	w := newWorld(t)
	w.pod("x", "a", "n1", nil)
	w.pod("y", "b", "n2", nil)
	w.pods["x/gone"] = w.pod("x", "gone", "n1", nil)
	w.names.Changed(w.pods["x/gone"], nil)
	w.list("x", w.options("", "protocol=UDP,port=53,verdict=Dropped,direction=Egress,peer.address=198.51.100.1,since=10m"))
	asked := w.agents.Asked()
	if len(asked) != 1 || asked[0].Node != "n1" {
		t.Fatalf("asked %v", asked)
	}
	r := asked[0].Request
	if !slices.Equal(r.PodKeys, []string{"x/a", "x/gone"}) || !slices.Equal(r.Protocols, []int32{17}) || !slices.Equal(r.Ports, []int32{53}) ||
		!slices.Equal(r.Verdicts, []agentv1.Verdict{agentv1.Verdict_VERDICT_DROPPED}) || r.Direction != agentv1.Direction_DIRECTION_TRANSMIT ||
		len(r.Peers) != 1 || len(r.Peers[0]) != 4 || time.Since(time.Unix(0, r.SinceUnixNano)) < 10*time.Minute {
		t.Errorf("asked for %v", r)
	}
}

// TestNodesThatWent: nobody is told that a node is silent that is no more.
func TestNodesThatWent(t *testing.T) {
	w := newWorld(t)
	w.pod("x", "a", "n1", nil)
	w.names.Changed(w.pod("x", "b", "removed", nil), nil)
	if w.list("x", nil); len(w.warnings.take()) != 0 {
		t.Error("a node that is no more was asked")
	}
}

// A liar answers every read with its rows.
type liar struct {
	Source
	rows []*agentv1.Flow
}

func (l liar) Read(_ context.Context, _ string, _ *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	for i, row := range l.rows {
		row.Position = int64(i + 1)
	}
	return take(&agentv1.ReadFlowsResponse{Flows: l.rows, Instance: 1, Revision: 9})
}

// TestSecurity: an agent can say things only about pods of its own node.
func TestSecurity(t *testing.T) {
	w := newWorld(t)
	mine, other := w.pod("x", "a", "n1", nil), w.pod("x", "b", "n2", nil)
	w.pod("y", "c", "n1", nil)
	lie, unknownPod, short := w.flow(other, "198.51.100.1", 1), w.flow(mine, "198.51.100.1", 2), w.flow(mine, "198.51.100.1", 3)
	unknownPod.PodKey, short.PeerAddress = "nobody", []byte{1}
	foreign := w.flow(w.pods["y/c"], "198.51.100.1", 4)
	w.rest.source = liar{w.agents, []*agentv1.Flow{lie, unknownPod, short, foreign, w.flow(mine, "198.51.100.1", 5)}}
	items := w.list("x", w.options("", "nodeName=n1")).Items
	if len(items) != 1 || items[0].Pod.Name != "a" {
		t.Errorf("listed %v", items)
	}
	if got := w.warnings.take(); len(got) != 1 || got[0] != "1 flows of pods that this server does not know are left out" {
		t.Errorf("warned of %q", got)
	}
	for reason, want := range map[string]float64{rowOfOtherNode: 1, rowUnknown: 1, rowInvalid: 1} {
		if got := w.rejected(reason); got != want {
			t.Errorf("%s: %v rows were rejected, want %v", reason, got, want)
		}
	}
}

func TestSilentNodes(t *testing.T) {
	w := newWorld(t)
	w.agents.Record("n1", w.flow(w.pod("x", "a", "n1", nil), "198.51.100.1", 1))
	w.pod("x", "b", "n2", nil)
	w.agents.Silence("n2", errors.New("no answer"))
	if items := w.list("x", w.options("", "")).Items; len(items) != 1 {
		t.Errorf("listed %v", items)
	}
	if got := w.warnings.take(); len(got) != 1 || got[0] != "1 of 2 nodes did not answer: n2: no answer" {
		t.Errorf("warned of %q", got)
	}
	w.agents.Silence("n1", errors.New("no answer"))
	if _, err := w.rest.List(w.request("x"), nil); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("all are silent: %v", err)
	}
	if list := w.list("empty", nil); len(list.Items) != 0 || list.Continue != "" {
		t.Errorf("an empty namespace has %v", list)
	}
}

// TestTokenOfFormerInstance: what was listed of a history that is no more cannot be told from what was not.
func TestTokenOfFormerInstance(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	for i := range 5 {
		w.agents.Record("n1", w.flow(a, "198.51.100.1", float64(i)))
	}
	first := w.list("x", &metainternalversion.ListOptions{Limit: 2})
	w.agents.Restart("n1")
	if _, err := w.rest.List(w.request("x"), &metainternalversion.ListOptions{Limit: 2, Continue: first.Continue}); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %v, want 410", err)
	}
}

func TestGet(t *testing.T) {
	w := newWorld(t)
	a := w.pod("x", "a", "n1", nil)
	w.agents.Record("n1", w.flow(a, "198.51.100.1", 1))
	at := place{"n1", w.agents.Instance("n1"), w.agents.Record("n1", w.flow(a, "10.96.0.9", 2))}
	object, err := w.rest.Get(w.request("x"), at.name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	flow := object.(*v1alpha1.NetworkFlow)
	if flow.Name != at.name() || flow.Peer.Name != "web" || flow.Peer.PortName != "http" || flow.ResourceVersion == "" || flow.UID == "" {
		t.Errorf("got %+v", flow)
	}
	for _, name := range []string{"a", place{"n1", at.instance, 99}.name(), place{"n1", 5, 1}.name(), place{"n3", at.instance, 1}.name(), at.name() + "0", "-1-1"} {
		if _, err := w.rest.Get(w.request("x"), name, nil); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.rest.Get(w.request("y"), at.name(), nil); !apierrors.IsNotFound(err) {
		t.Errorf("in another namespace: %v", err)
	}
	w.agents.Silence("n1", errors.New("no answer"))
	if _, err := w.rest.Get(w.request("x"), at.name(), nil); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("of a silent node: %v", err)
	}
}

// TestListRoom: a list waits for the memory of one that is being sent, and is refused when that takes long.
func TestListRoom(t *testing.T) {
	w := newWorld(t)
	w.agents.Record("n1", w.flow(w.pod("x", "a", "n1", nil), "198.51.100.1", 1))
	sending, sent := context.WithCancel(t.Context())
	defer sent()
	for w.rest.room.TryAcquire(1000) {
		context.AfterFunc(sending, func() { w.rest.room.Release(1000) })
	}
	if _, err := w.rest.List(w.request("x"), nil); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a list without room gives %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.rest.List(w.request("x"), nil)
		done <- err
	}()
	sent()
	if err := <-done; err != nil {
		t.Errorf("a list that room is made for gives %v", err)
	}
}
