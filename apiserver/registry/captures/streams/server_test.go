package streams

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	fakeaudit "k8s.io/apiserver/plugin/pkg/audit/fake"
	restclient "k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/bulk"
	"github.com/networkobservability/networkobservability/apis/generated/openapi"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A parent is the resource whose subresources are served.
type parent struct {
	*fakeStore
	namespaced bool
	singular   string
}

func (p parent) New() runtime.Object {
	if p.namespaced {
		return &v1alpha1.Capture{}
	}
	return &v1alpha1.ClusterCapture{}
}
func (p parent) Destroy()                {}
func (p parent) NamespaceScoped() bool   { return p.namespaced }
func (p parent) GetSingularName() string { return p.singular }

// everything audits everything.
type everything struct{}

func (everything) EvaluatePolicyRule(authorizer.Attributes) audit.RequestAuditConfig {
	return audit.RequestAuditConfig{Level: auditinternal.LevelMetadata}
}

// A served world is behind the generic server's whole chain, with a timeout that every test outlives.
type served struct {
	*world
	url    string
	client *http.Client

	mu     sync.Mutex
	events []auditinternal.Event
}

const requestTimeout = 100 * time.Millisecond

func serve(t *testing.T, w *world, http2 bool) *served {
	t.Helper()
	s := &served{world: w}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme)
	config := genericapiserver.NewConfig(codecs)
	config.ExternalAddress, config.LoopbackClientConfig = "127.0.0.1:443", &restclient.Config{}
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", "")
	config.FeatureGate = utilfeature.DefaultFeatureGate
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, apiopenapi.NewDefinitionNamer(scheme))
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, apiopenapi.NewDefinitionNamer(scheme))
	config.RequestTimeout = requestTimeout
	config.Authentication.Authenticator = authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: "alice", Groups: []string{user.AllAuthenticated}}}, true, nil
	})
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	config.AuditPolicyRuleEvaluator = everything{}
	config.AuditBackend = &fakeaudit.Backend{OnRequest: func(events []*auditinternal.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, event := range events {
			s.events = append(s.events, *event.DeepCopy())
		}
	}}
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString(LongRunning...))
	server, err := config.Complete(nil).New("test", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	group := genericapiserver.NewDefaultAPIGroupInfo(v1alpha1.GroupName, scheme, runtime.NewParameterCodec(scheme), codecs)
	resources := w.streams.Storage()
	resources["captures"] = parent{w.store, true, "capture"}
	resources["clustercaptures"] = parent{w.store, false, "clustercapture"}
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = map[string]rest.Storage(resources)
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewUnstartedServer(server.Handler)
	listener.EnableHTTP2 = http2
	listener.Listener = bulk.Listener{Listener: listener.Listener}
	listener.StartTLS()
	t.Cleanup(listener.Close)
	s.url, s.client = listener.URL, listener.Client()
	if !http2 {
		s.client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// start makes a request and returns when the headers are there.
func (s *served) start(ctx context.Context, path string) *http.Response {
	s.t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.of(path), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { response.Body.Close() })
	return response
}

// of is the address of a subresource.
func (s *served) of(path string) string {
	return s.url + "/apis/" + v1alpha1.SchemeGroupVersion.String() + "/namespaces/shop/captures/c/" + path
}

// stages are the audited ones of the requests for a path, in order.
func (s *served) stages(stage auditinternal.Stage) (events []auditinternal.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.events {
		if event.Stage == stage {
			events = append(events, event)
		}
	}
	return events
}

// protocols runs a test over HTTP/1.1 and HTTP/2.
func protocols(t *testing.T, run func(t *testing.T, http2 bool)) {
	t.Run("http1", func(t *testing.T) { run(t, false) })
	t.Run("http2", func(t *testing.T) { run(t, true) })
}

func TestServedFile(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, randomAgents(t, 2, 2, 3000))
		want := w.wantFile()
		s := serve(t, w, http2)
		response := s.start(t.Context(), "pcap")
		if (response.ProtoMajor == 2) != http2 {
			t.Fatalf("the protocol is %s", response.Proto)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || !bytes.Equal(body, want) {
			t.Errorf("%d of %d bytes: %v", len(body), len(want), err)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/vnd.tcpdump.pcap", "Content-Encoding": "", "Content-Length": strconv.Itoa(len(want)),
			"Etag": strconv.Quote(w.store.object.(*v1alpha1.Capture).Status.File.Digest),
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("header %s is %q, want %q", name, got, want)
			}
		}
		eventually(t, "the end is audited", func() bool { return len(s.stages(auditinternal.StageResponseComplete)) == 1 })
		if started := s.stages(auditinternal.StageResponseStarted); len(started) != 1 || started[0].User.Username != "alice" || started[0].ObjectRef.Subresource != "pcap" {
			t.Errorf("audited beginnings: %+v", started)
		}
		end := s.stages(auditinternal.StageResponseComplete)[0]
		if end.Annotations[auditBytes] != strconv.Itoa(len(want)) || end.Annotations[auditEnd] != "complete" || end.Annotations[auditPayload] != "true" {
			t.Errorf("annotations at the end: %v", end.Annotations)
		}
	})
}

func TestServedRefusals(t *testing.T) {
	w := newWorld(t, randomAgents(t, 2, 2, 10))
	s := serve(t, w, true)
	w.streams.limits.byUser["alice"] = 10
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"pcap?offset=-1", 400, "offset"},
		{"pcap?pods=x", 400, `unknown parameter \"pods\"`},
		{"pcap?pod=x&pod=y", 400, "2 times"},
		{"attach?headersOnly=perhaps", 400, "headersOnly"},
		{"attach?digest=0123", 400, "digest"},
		{"pcap", 429, `"retryAfterSeconds":5`},
	} {
		response := s.start(t.Context(), test.path)
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != test.code || !strings.Contains(string(body), test.want) || !strings.Contains(string(body), `"kind":"Status"`) {
			t.Errorf("%s is answered %d, want %d with %s: %s", test.path, response.StatusCode, test.code, test.want, body)
		}
		if retry := response.Header.Get("Retry-After"); (test.code == 429) != (retry == "5") {
			t.Errorf("%s: Retry-After is %q", test.path, retry)
		}
	}
}

// TestServedLive wants a live stream to outlive the server's timeout, packets to come when they are recorded, and a clean end.
func TestServedLive(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		agents := runningAgents()
		w := newWorld(t, agents)
		s := serve(t, w, http2)
		response := s.start(t.Context(), "attach")
		r := blockReader{t, bufio.NewReader(response.Body)}
		r.next(pcapng.TypeSection)
		began := time.Now()
		for i := range 10 {
			agents["a"].record(0, int64(1000+i), frame(1, 2, 3, 60))
			if packet := r.packet(); packet.Time() != int64(1000+i) {
				t.Fatalf("packet %d is of %d", i, packet.Time())
			}
		}
		for time.Since(began) < 2*requestTimeout {
			agents["a"].record(0, 5000, frame(1, 2, 3, 60))
			r.packet()
		}
		agents["a"].end()
		agents["b"].end()
		w.finish()
		r.next(pcapng.TypeStatistics)
		r.next(pcapng.TypeStatistics)
		if rest, err := io.ReadAll(r.r); err != nil || len(rest) != 0 {
			t.Errorf("%d bytes behind the end: %v", len(rest), err)
		}
	})
}

// TestServedTruncation wants every client to see that an answer is not whole.
func TestServedTruncation(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		for _, path := range []string{"pcap", "headers", "attach"} {
			t.Run(path, func(t *testing.T) {
				agents := randomAgents(t, 2, 2, 3000)
				w := newWorld(t, agents)
				agents["a"].breakAfter = len(agents["a"].packets) - 1
				if path == "attach" {
					agents["a"].spoil = func(r *agentv1.ReadCaptureResponse) {
						if len(r.Blocks) > 0 && agents["a"].reads > 1 {
							hostile["a size of 0"](r)
						}
					}
				}
				s := serve(t, w, http2)
				response := s.start(t.Context(), path)
				body, err := io.ReadAll(response.Body)
				if err == nil {
					t.Errorf("a clean end behind %d bytes", len(body))
				}
				if len(body) == 0 {
					t.Error("nothing came before the agent failed")
				}
				eventually(t, "the end is audited", func() bool { return len(s.stages(auditinternal.StagePanic)) == 1 })
				end := s.stages(auditinternal.StagePanic)[0]
				sent, err := strconv.Atoi(end.Annotations[auditBytes])
				if err != nil || sent < len(body) || !strings.HasPrefix(end.Annotations[auditEnd], "a: ") {
					t.Errorf("client got %d bytes; annotations at the end: %v", len(body), end.Annotations)
				}
			})
		}
	})
}

// TestServedStall wants a stream whose client does not read to be ended all the same when the right to it is gone.
func TestServedStall(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		t.Parallel()
		node := largeNode()
		w := newWorld(t, fakeAgents{"a": node})
		s := serve(t, w, http2)
		response := s.start(t.Context(), "pcap")
		if _, err := io.ReadFull(response.Body, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		w.rights.set(func() { w.rights.denied["pcap"] = true })
		eventually(t, "the agent is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
		if _, err := io.Copy(io.Discard, response.Body); err == nil {
			t.Error("a clean end")
		}
	})
}

// TestServedClientGone wants the agents to be left at once.
func TestServedClientGone(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		agents := runningAgents()
		w := newWorld(t, agents)
		s := serve(t, w, http2)
		ctx, leave := context.WithCancel(t.Context())
		response := s.start(ctx, "attach")
		blockReader{t, bufio.NewReader(response.Body)}.next(pcapng.TypeSection)
		open := func() bool {
			return !slices.ContainsFunc([]string{"a", "b"}, func(name string) bool {
				agents[name].mu.Lock()
				defer agents[name].mu.Unlock()
				return agents[name].open == 0
			})
		}
		eventually(t, "the agents are read", open)
		leave()
		for name, node := range agents {
			eventually(t, name+" is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
		}
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("a clean end")
		}
	})
}

// TestServedClusterCapture reads one of a kind without a namespace.
func TestServedClusterCapture(t *testing.T) {
	agents := fakeAgents{"a": newNode(partOf(0, "", "", "eth0"), partOf(1, "shop", "web", "eth0"))}
	agents["a"].record(0, 1000, frame(1, 2, 3, 60))
	agents["a"].end()
	w := newWorld(t, agents)
	capture := &v1alpha1.ClusterCapture{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: uid}}
	capture.Spec.Nodes, capture.Spec.Pods = &v1alpha1.CaptureNodes{Names: []string{"a"}}, &v1alpha1.ClusterCapturePods{}
	capture.Status = w.store.object.(*v1alpha1.Capture).Status
	capture.Status.File = nil
	w.store.object = capture
	s := serve(t, w, true)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/apis/"+v1alpha1.SchemeGroupVersion.String()+"/clustercaptures/c/pcap", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Contains(body, []byte("a/eth0")) || !bytes.Contains(body, []byte("a/shop/web/eth0")) {
		t.Errorf("%v: %q", err, body)
	}
}
