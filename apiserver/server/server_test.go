package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	restclient "k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/generated/informers/externalversions"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows/flowtest"
	"github.com/networkobservability/networkobservability/apiserver/registry/nodenetworkstats"
	"github.com/networkobservability/networkobservability/apiserver/registry/podnetworkstats"
)

// patience is how long a test waits for what must come. Client-go's informers pause twice as long after each failure, up to a
// minute.
const patience = 2 * time.Minute

// clientOf is a cluster's client that sees pods through a view, and one node that never changes.
func clientOf(view *livetest.View, nodes ...string) kubernetes.Interface {
	client := fake.NewClientset()
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		list, err := view.List(action.(clienttesting.ListActionImpl).ListOptions)
		return true, list, err
	})
	client.PrependWatchReactor("pods", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := view.Watch(action.(clienttesting.WatchActionImpl).ListOptions)
		return true, w, err
	})
	client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "100"}}
		for _, name := range nodes {
			list.Items = append(list.Items, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), ResourceVersion: "7"}})
		}
		return true, list, nil
	})
	client.PrependWatchReactor("nodes", func(clienttesting.Action) (bool, watch.Interface, error) {
		return true, watch.NewFake(), nil
	})
	return client
}

// start runs a replica on a loopback port and returns how to reach it with every right.
func start(t *testing.T, view *livetest.View, agents *livetest.Agents) *restclient.Config {
	t.Helper()
	return startWithFlows(t, view, agents, nil)
}

// startWithFlows is start with the flow histories of agents.
func startWithFlows(t *testing.T, view *livetest.View, agents *livetest.Agents, histories *flowtest.Agents) *restclient.Config {
	t.Helper()
	config := genericapiserver.NewRecommendedConfig(codecs)
	config.Serializer = textSerializer{codecs}
	if err := setVersion(&config.Config); err != nil {
		t.Fatal(err)
	}
	setLimits(&config.Config, &Options{MaxInFlight: 100, MaxMutatingInFlight: 100, RequestTimeout: time.Minute})
	config.BuildHandlerChainFunc = buildHandlerChain
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := genericoptions.NewSecureServingOptions()
	serving.Listener = listener
	serving.ServerCert.CertDirectory, serving.ServerCert.PairName = "", ""
	if err := serving.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := serving.WithLoopback().ApplyToConfig(&config.Config); err != nil {
		t.Fatal(err)
	}
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()

	nodeNames := []string{"n1"}
	if histories != nil {
		nodeNames = append(nodeNames, "n2")
	}
	client := clientOf(view, nodeNames...)
	pods := podnetworkstats.NewREST(client, agents, 100*time.Millisecond)
	nodes := nodenetworkstats.NewREST(client, agents, 100*time.Millisecond)
	names, flows := flowsOf(t, client, histories)
	pods.Observe(names)
	server, err := newServer(config, pods, nodes, flows, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(ctx, server, pods.Run, nodes.Run, names.Run, flows.Run); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	waitUntilReady(t, config.LoopbackClientConfig)
	return config.LoopbackClientConfig
}

func waitUntilReady(t *testing.T, config *restclient.Config) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if answer := get(t, config, "/readyz?verbose", ""); answer.code == http.StatusOK {
			return
		}
	}
	t.Fatalf("never ready: %s", get(t, config, "/readyz?verbose", "").body)
}

type answer struct {
	code   int
	header http.Header
	body   string
}

func get(t *testing.T, config *restclient.Config, path, accept string) answer {
	t.Helper()
	client, err := restclient.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

const group = "/apis/networkobservability.k8s.io/v1alpha1"

// TestAnswers goes through what clients of all kinds ask for.
func TestAnswers(t *testing.T) {
	cluster, agents := livetest.NewCluster(100), livetest.NewAgents()
	cluster.Put(livetest.Pod("x", "a", "n1", nil))
	cluster.Put(livetest.Pod("x", "b", "n2", nil))
	agents.Silence("n2", "no answer")
	config := start(t, cluster.View(), agents)
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	for _, test := range []struct {
		name, path, accept string
		code               int
		want               []string
	}{
		{"list", group + "/podnetworkstats", "", 200, []string{`"kind":"PodNetworkStatsList"`, `"resourceVersion":"102`, `"state":"NodeSilent"`}},
		{"protobuf preferred", group + "/podnetworkstats", "application/vnd.kubernetes.protobuf,application/json", 200, []string{`"kind":"PodNetworkStatsList"`}},
		{"table", group + "/namespaces/x/podnetworkstats", table, 200, []string{`"kind":"Table"`, `"name":"Retrans"`, `"kind":"PartialObjectMetadata"`, `"cells":["b","\u003cunknown\u003e"`}},
		{"table with objects", group + "/namespaces/x/podnetworkstats?includeObject=Object", table, 200, []string{`"kind":"PodNetworkStats"`}},
		{"table of one", group + "/namespaces/x/podnetworkstats/a", table, 200, []string{`"cells":["a","0","0","0","0","\u003cunknown\u003e","0","0",`}},
		{"metadata", group + "/podnetworkstats", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", 200, []string{`"kind":"PartialObjectMetadataList"`}},
		{"node", group + "/nodenetworkstats/n1", "", 200, []string{`"kernelVersion":"6.18.0"`}},
		{"nodes", group + "/nodenetworkstats", table, 200, []string{`"name":"Uplinks"`}},
		{"missing", group + "/namespaces/x/podnetworkstats/none", "", 404, []string{`podnetworkstats.networkobservability.k8s.io \"none\" not found`}},
		{"unknown field", group + "/podnetworkstats?fieldSelector=status.phase%3DRunning", "", 400, []string{"status.phase", "nodeName", "spec.nodeName", "metadata.name"}},
		{"field by another name", group + "/podnetworkstats?fieldSelector=spec.nodeName%3Dn1", "", 200, []string{`"name":"a"`}},
		{"bad version", group + "/podnetworkstats?resourceVersion=x", "", 400, []string{"invalid resource version"}},
		{"bad token", group + "/podnetworkstats?continue=x", "", 400, []string{"continue key is not valid"}},
		{"list with initial events", group + "/podnetworkstats?sendInitialEvents=true", "", 422, []string{"sendInitialEvents is forbidden for list"}},
		{"openapi v2", "/openapi/v2", "", 200, []string{`"io.k8s.networkobservability.v1alpha1.PodNetworkStats"`}},
		{"openapi v3", "/openapi/v3" + group, "", 200, []string{`"io.k8s.networkobservability.v1alpha1.PodNetworkStats"`}},
		{"discovery", group, "", 200, []string{`"shortNames":["pns"]`, `"shortNames":["nnst"]`, `"shortNames":["nf"]`, `"categories":["networkobservability"]`, `"singularName":"podnetworkstats"`}},
		{"aggregated discovery", "/apis", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList", 200, []string{`"resource":"podnetworkstats"`}},
		{"version", "/version", "", 200, []string{`"gitVersion"`}},
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
	if warnings := get(t, config, group+"/podnetworkstats", "").header["Warning"]; len(warnings) != 1 || warnings[0] != `299 - "1 of 2 nodes did not answer: n2: no answer"` {
		t.Errorf("warned of %q", warnings)
	}
	silent := get(t, config, group+"/namespaces/x/podnetworkstats/b", "")
	if silent.code != http.StatusServiceUnavailable || silent.header.Get("Retry-After") != "" {
		t.Errorf("a pod on a silent node: %d, Retry-After %q", silent.code, silent.header.Get("Retry-After"))
	}
	agents.Down("no agent answers")
	down := get(t, config, group+"/podnetworkstats", "")
	if down.code != http.StatusServiceUnavailable || down.header.Get("Retry-After") != "" {
		t.Errorf("no agent: %d, Retry-After %q", down.code, down.header.Get("Retry-After"))
	}
	if ready := get(t, config, "/readyz", ""); ready.code != http.StatusOK {
		t.Errorf("silent agents make the server unready: %s", ready.body)
	}
}

// TestTableStream: kubectl get -w is sent the columns with the first event only.
func TestTableStream(t *testing.T) {
	cluster := livetest.NewCluster(100)
	cluster.Put(livetest.Pod("x", "a", "n1", nil))
	cluster.Put(livetest.Pod("x", "b", "n1", nil))
	config := start(t, cluster.View(), livetest.NewAgents())
	next := tables(t, config, "/podnetworkstats?watch=1")
	for i := range 2 {
		event := next()
		if columns := len(event.Object.ColumnDefinitions); event.Type != "ADDED" || len(event.Object.Rows) != 1 || (columns > 0) != (i == 0) {
			t.Errorf("event %d is %s with %d columns and %d rows", i, event.Type, columns, len(event.Object.Rows))
		}
	}
}

// A tableEvent is one of a watch by kubectl get -w.
type tableEvent struct {
	Type   string
	Object metav1.Table
}

// tables watches until the test ends. next waits for an event.
func tables(t *testing.T, config *restclient.Config, path string) (next func() tableEvent) {
	t.Helper()
	client, err := restclient.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+group+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	decoder := json.NewDecoder(resp.Body)
	return func() (event tableEvent) {
		t.Helper()
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("reading an event: %v", err)
		}
		return event
	}
}

// A route sends a client's requests to one of several replicas, and can cut what is under way.
type route struct {
	mu      sync.Mutex
	to      *url.URL
	via     http.RoundTripper
	context context.Context
	cut     context.CancelFunc
	// streamed counts lists that were asked for as watches (KEP-3157).
	streamed int
}

// move cuts all requests and sends the next ones to another replica.
func (r *route) move(t *testing.T, config *restclient.Config) {
	t.Helper()
	to, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	via, err := restclient.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut != nil {
		r.cut()
	}
	r.to, r.via = to, via
	r.context, r.cut = context.WithCancel(context.Background())
}

func (r *route) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	to, via, cut := r.to, r.via, r.context
	if req.URL.Query().Get("sendInitialEvents") == "true" {
		r.streamed++
	}
	r.mu.Unlock()
	ctx, cancel := context.WithCancel(req.Context())
	context.AfterFunc(cut, cancel)
	req = req.Clone(ctx)
	req.URL.Scheme, req.URL.Host = to.Scheme, to.Host
	return via.RoundTrip(req)
}

// An informed client is client-go's informer with all its defaults, and what it was told.
type informed struct {
	t      *testing.T
	events chan string
	store  cache.Store
}

func inform(t *testing.T, via *route) *informed {
	t.Helper()
	client, err := versioned.NewForConfig(&restclient.Config{Host: "http://replica", Transport: via})
	if err != nil {
		t.Fatal(err)
	}
	factory := externalversions.NewSharedInformerFactory(client, 0)
	informer := factory.Networkobservability().V1alpha1().PodNetworkStats().Informer()
	i := &informed{t: t, events: make(chan string, 1000), store: informer.GetStore()}
	tell := func(event string, object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		stats := object.(*v1alpha1.PodNetworkStats)
		text := fmt.Sprintf("%s %s/%s", event, stats.Namespace, stats.Name)
		if event == "update" && stats.Traffic != nil {
			text += fmt.Sprintf(" %d", stats.Traffic.Receive.NonIP.Packets)
		}
		i.events <- text
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { tell("add", object) },
		UpdateFunc: func(_, object any) { tell("update", object) },
		DeleteFunc: func(object any) { tell("delete", object) },
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	waiting, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if !cache.WaitForCacheSync(waiting.Done(), informer.HasSynced) {
		t.Fatal("the informer never synced")
	}
	return i
}

// want waits for an event. Others may come before.
func (i *informed) want(event string) {
	i.t.Helper()
	timeout := time.After(patience)
	var seen []string
	for {
		select {
		case got := <-i.events:
			if got == event {
				return
			}
			seen = append(seen, got)
		case <-timeout:
			i.t.Fatalf("%q never came, but %q", event, seen)
		}
	}
}

func TestInformer(t *testing.T) {
	cluster, agents := livetest.NewCluster(100), livetest.NewAgents()
	cluster.Put(livetest.Pod("x", "a", "n1", nil))
	via := &route{}
	via.move(t, start(t, cluster.View(), agents))
	client := inform(t, via)
	client.want("add x/a")
	if via.streamed != 1 {
		t.Errorf("the informer streamed %d lists to begin with", via.streamed)
	}
	cluster.Put(livetest.Pod("x", "b", "n1", nil))
	client.want("add x/b")
	agents.Count(cluster.UID("x", "a"), 5)
	client.want("update x/a 5")
	cluster.Delete("x", "a")
	client.want("delete x/a")
	if keys := client.store.ListKeys(); len(keys) != 1 || keys[0] != "x/b" {
		t.Errorf("the informer holds %v", keys)
	}
}

// TestInformerMoves: an informer is moved between replicas of which one lags, one is young, and one has lost its
// own watch, and never keeps a pod that is gone.
func TestInformerMoves(t *testing.T) {
	cluster, agents := livetest.NewCluster(100), livetest.NewAgents()
	for _, name := range []string{"a", "b", "c", "d"} {
		cluster.Put(livetest.Pod("x", name, "n1", nil))
	}
	ahead, behind := cluster.View(), cluster.View()
	toAhead, toBehind := start(t, ahead, agents), start(t, behind, agents)
	via := &route{}
	via.move(t, toBehind)
	client := inform(t, via)

	// Deleted where the client is not looking.
	behind.Hold()
	cluster.Delete("x", "a")
	via.move(t, toAhead)
	client.want("delete x/a")

	// Back to the replica that does not know of it yet.
	via.move(t, toBehind)
	cluster.Delete("x", "b")
	behind.Release()
	client.want("delete x/b")

	// To one that has just started, after a deletion that it never saw.
	behind.Hold()
	cluster.Delete("x", "c")
	via.move(t, start(t, cluster.View(), agents))
	client.want("delete x/c")

	// To one that knows of a deletion from a list only.
	ahead.Hold()
	cluster.Delete("x", "d")
	cluster.Compact()
	ahead.Release()
	ahead.Break()
	via.move(t, toAhead)
	client.want("delete x/d")
	if keys := client.store.ListKeys(); len(keys) != 0 {
		t.Errorf("the informer holds %v", keys)
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"--watch-interval":               func(o *Options) { o.WatchInterval = time.Millisecond },
		"--agent-timeout":                func(o *Options) { o.AgentTimeout = time.Hour },
		"--read-timeout":                 func(o *Options) { o.ReadTimeout = time.Second },
		"--shutdown-delay-duration":      func(o *Options) { o.ShutdownDelay = -time.Second },
		"--max-requests-inflight":        func(o *Options) { o.MaxInFlight = 0 },
		"--tls-private-key-file":         func(o *Options) { o.SecureServing.ServerCert.CertKey.CertFile = "x" },
		"--secure-port":                  func(o *Options) { o.SecureServing.BindPort = 0 },
		"--max-mutating-requests-inflig": func(o *Options) { o.MaxMutatingInFlight = -1 },
	} {
		options := NewOptions()
		if err := options.Validate(); err != nil {
			t.Fatalf("the defaults are not valid: %v", err)
		}
		change(options)
		if err := options.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestFarewell: connections are asked to move from the moment on at which stopping is set.
func TestFarewell(t *testing.T) {
	stopping := make(chan struct{})
	handler := withFarewell(http.NotFoundHandler(), stopping)
	for _, want := range []string{"", "close"} {
		w := &headers{header: http.Header{}}
		handler.ServeHTTP(w, &http.Request{})
		if got := w.header.Get("Connection"); got != want {
			t.Errorf("Connection is %q, want %q", got, want)
		}
		if want == "" {
			close(stopping)
		}
	}
}

type headers struct{ header http.Header }

func (h *headers) Header() http.Header            { return h.header }
func (h *headers) Write(text []byte) (int, error) { return len(text), nil }
func (h *headers) WriteHeader(int)                {}
