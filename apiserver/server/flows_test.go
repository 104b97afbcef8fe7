package server

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/generated/informers/externalversions"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows/flowtest"
)

// flowsOf serves the flows of agents, which may be nil.
func flowsOf(t *testing.T, client kubernetes.Interface, histories *flowtest.Agents) (*directory.Directory, *networkflows.REST) {
	t.Helper()
	names, err := directory.New(directory.Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	if histories == nil {
		histories = flowtest.New(networkflows.ErrGone)
	}
	flows, err := networkflows.NewREST(networkflows.Config{
		Source: histories, Names: names, Register: metrics.NewKubeRegistry().Register,
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, flows
}

// flowOf is a flow of a pod that began so many seconds ago.
func flowOf(cluster *livetest.Cluster, namespace, name string, ago time.Duration) *agentv1.Flow {
	return &agentv1.Flow{
		PodKey: cluster.UID(namespace, name), PodAddress: netip.MustParseAddr("192.0.2.1").AsSlice(), PeerAddress: netip.MustParseAddr("203.0.113.7").AsSlice(),
		PodPort: 40000, PeerPort: 443, Protocol: 6, Direction: agentv1.Direction_DIRECTION_TRANSMIT, Verdict: agentv1.Verdict_VERDICT_FORWARDED,
		Receive: &agentv1.Counters{Packets: 1, Bytes: 100}, StartUnixNano: time.Now().Add(-ago).UnixNano(), LastUnixNano: time.Now().UnixNano(),
	}
}

// flowCluster is two pods on one node, with two flows of the first and one of the other.
func flowCluster(t *testing.T) (*livetest.Cluster, *flowtest.Agents, *restclient.Config) {
	cluster, histories := livetest.NewCluster(100), flowtest.New(networkflows.ErrGone, "n1", "n2")
	cluster.Put(livetest.Pod("x", "a", "n1", map[string]string{"app": "web"}))
	cluster.Put(livetest.Pod("y", "b", "n1", nil))
	for _, ago := range []time.Duration{9 * time.Second, 5 * time.Second} {
		histories.Record("n1", flowOf(cluster, "x", "a", ago))
	}
	histories.Record("n1", flowOf(cluster, "y", "b", time.Second))
	return cluster, histories, startWithFlows(t, cluster.View(), livetest.NewAgents(), histories)
}

func TestFlowAnswers(t *testing.T) {
	_, histories, config := flowCluster(t)
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	for _, test := range []struct {
		name, path, accept string
		code               int
		want               []string
	}{
		{"list", group + "/namespaces/x/networkflows", "", 200, []string{`"kind":"NetworkFlowList"`, `"verdict":"Forwarded"`, `"kind":"External"`}},
		{"table", group + "/networkflows?labelSelector=app%3Dweb", table, 200, []string{`"name":"Peer"`, `"→","203.0.113.7","TCP","443"`}},
		{"selected", group + "/networkflows?fieldSelector=pod%3Db", "", 200, []string{`"namespace":"y"`}},
		{"unknown field", group + "/networkflows?fieldSelector=status.phase%3DRunning", "", 400, []string{"status.phase", "dropReason", "peer.dnsName", "since"}},
		{"bad value", group + "/networkflows?fieldSelector=verdict%3Dlost", "", 400, []string{"none of", "Rejected"}},
		{"missing", group + "/namespaces/x/networkflows/none", "", 404, []string{`networkflows.networkobservability.k8s.io \"none\" not found`}},
		{"bad token", group + "/networkflows?continue=x", "", 400, []string{"continue key is not valid"}},
		{"bad version", group + "/networkflows?resourceVersion=x", "", 400, []string{"invalid resource version"}},
		{"openapi", "/openapi/v3" + group, "", 200, []string{`"io.k8s.networkobservability.v1alpha1.NetworkFlow"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := get(t, config, test.path, test.accept)
			if got.code != test.code {
				t.Errorf("answered %d, want %d: %.500s", got.code, test.code, got.body)
			}
			for _, want := range test.want {
				if !strings.Contains(got.body, want) {
					t.Errorf("does not contain %s: %.3000s", want, got.body)
				}
			}
		})
	}
	if got := get(t, config, group+"/namespaces/x/networkflows", ""); strings.Contains(got.body, `"namespace":"y"`) {
		t.Errorf("namespace x shows another: %s", got.body)
	}
	histories.Silence("n1", http.ErrServerClosed)
	if got := get(t, config, group+"/networkflows", ""); got.code != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "" {
		t.Errorf("silent nodes: %d", got.code)
	}
}

// TestFlowPages goes through pages with client-go's pager, as kubectl does.
func TestFlowPages(t *testing.T) {
	cluster, histories, config := flowCluster(t)
	for range 40 {
		histories.Record("n1", flowOf(cluster, "x", "a", time.Second))
	}
	client := versioned.NewForConfigOrDie(config).NetworkobservabilityV1alpha1().NetworkFlows("x")
	seen := map[string]bool{}
	for options := (metav1.ListOptions{Limit: 5}); ; {
		list, err := client.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			seen[item.Name] = true
			if one, err := client.Get(t.Context(), item.Name, metav1.GetOptions{}); err != nil || one.UID != item.UID {
				t.Errorf("getting %s: %v", item.Name, err)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if len(seen) != 42 {
		t.Errorf("listed %d flows of 42", len(seen))
	}
}

// TestFlowTableStream: kubectl get -w is sent rows for flows that come and change, and none for one that is forgotten.
func TestFlowTableStream(t *testing.T) {
	cluster, histories, config := flowCluster(t)
	list, err := versioned.NewForConfigOrDie(config).NetworkobservabilityV1alpha1().NetworkFlows("x").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	histories.Remove("n1", 1)
	histories.Record("n1", flowOf(cluster, "x", "a", time.Second))
	next := tables(t, config, "/namespaces/x/networkflows?watch=1&resourceVersion="+list.ResourceVersion)
	var events []string
	for i := range 3 {
		if i == 2 {
			histories.Record("n1", flowOf(cluster, "x", "a", time.Second)) // Nothing else comes before it.
		}
		event := next()
		events = append(events, event.Type+strings.Repeat(" row", len(event.Object.Rows)))
	}
	if text := strings.Join(events, ", "); text != "ADDED row, DELETED, ADDED row" {
		t.Errorf("sent %s", text)
	}
}

// TestFlowInformer is client-go's informer with all its defaults.
func TestFlowInformer(t *testing.T) {
	cluster, histories, config := flowCluster(t)
	via := &route{}
	via.move(t, config)
	client, err := versioned.NewForConfig(&restclient.Config{Host: "http://replica", Transport: via})
	if err != nil {
		t.Fatal(err)
	}
	factory := externalversions.NewSharedInformerFactory(client, 0)
	informer := factory.Networkobservability().V1alpha1().NetworkFlows().Informer()
	changed := make(chan struct{}, 1000)
	tell := func(any) { changed <- struct{}{} }
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	holds := func(what string, is func() bool) {
		t.Helper()
		for timeout := time.After(patience); !is(); {
			select {
			case <-changed:
			case <-timeout:
				t.Fatalf("%s: never so; it holds %d", what, len(informer.GetStore().ListKeys()))
			}
		}
	}
	flows := func(n int) func() bool { return func() bool { return len(informer.GetStore().ListKeys()) == n } }
	holds("all flows", flows(3))
	if via.streamed != 1 {
		t.Errorf("the informer streamed %d lists to begin with", via.streamed)
	}
	histories.Record("n1", flowOf(cluster, "y", "b", time.Second))
	holds("a new flow", flows(4))
	histories.Remove("n1", 1)
	holds("one that has gone", flows(3))

	// The connection breaks, and things happen meanwhile.
	via.move(t, config)
	histories.Remove("n1", 2)
	holds("one that went while nobody looked", flows(2))

	// A pod on another node.
	pod := livetest.Pod("x", "c", "n2", nil)
	pod.Status.Phase = corev1.PodRunning
	cluster.Put(pod)
	histories.Record("n2", flowOf(cluster, "x", "c", time.Second))
	holds("a flow of another node", flows(3))

	// An agent begins a new history: the informer lists again.
	histories.Restart("n1")
	holds("what is left", func() bool {
		items := informer.GetStore().List()
		return len(items) == 1 && items[0].(*v1alpha1.NetworkFlow).Pod.Name == "c"
	})
}
