package captures

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	restclient "k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/networkobservability/networkobservability/apis/generated/openapi"
	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/registrytest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The log is flushed for as long as the program lives.
		goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
	)
}

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
	now    = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
)

func init() { install.Install(scheme) }

// A world is a server of captures in this process, whose users may do everything that is not in denied.
type world struct {
	t       *testing.T
	handler http.Handler
	storage *Storage

	mu        sync.Mutex
	denied    []string
	asked     []string
	matches   []Match
	matchErr  error
	rates     Rates
	ratesErr  error
	freshened func(runtime.Object)
	compiled  []string
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t}
	config := Config{
		Scheme: scheme, Getter: registrytest.NewMemory(codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)),
		Authorizer: authorizer.AuthorizerFunc(w.authorize), Resolve: w.resolve, Compile: w.compile, Matches: w.match, Expect: w.expect, Fresh: w.fresh,
		Clock: testingclock.NewFakePassiveClock(now),
	}
	for _, one := range change {
		one(&config)
	}
	storage, err := NewStorage(config)
	if err != nil {
		t.Fatal(err)
	}
	w.storage = storage
	w.handler = serve(t, storage)
	return w
}

// serve puts the storage behind the real handlers: decoding, defaulting, field management, warnings, tables.
func serve(t *testing.T, storage *Storage) http.Handler {
	t.Helper()
	config := genericapiserver.NewConfig(codecs)
	config.ExternalAddress = "localhost:443"
	config.LoopbackClientConfig = &restclient.Config{}
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString("1.37.0", "", "")
	config.Authentication.Authenticator = authenticator.RequestFunc(func(request *http.Request) (*authenticator.Response, bool, error) {
		name := request.Header.Get("X-User")
		return &authenticator.Response{User: &user.DefaultInfo{Name: name, UID: "uid-" + name, Groups: []string{"staff"}, Extra: map[string][]string{"scope": {"a"}}}}, name != "", nil
	})
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	namer := apiopenapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	server, err := config.Complete(nil).New("captures", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	group := genericapiserver.NewDefaultAPIGroupInfo(v1alpha1.GroupName, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"captures": storage.Captures, "captures/status": storage.CapturesStatus,
		"clustercaptures": storage.ClusterCaptures, "clustercaptures/status": storage.ClusterCapturesStatus,
	}
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	return server.Handler
}

func (w *world) authorize(_ context.Context, right authorizer.Attributes) (authorizer.Decision, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := words(right.(authorizer.AttributesRecord))
	w.asked = append(w.asked, right.GetUser().GetName()+": "+asked)
	if !right.IsResourceRequest() {
		return authorizer.DecisionDeny, "", errors.New("asked for no resource")
	}
	if slices.ContainsFunc(w.denied, func(prefix string) bool { return strings.HasPrefix(asked, prefix) }) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	return authorizer.DecisionAllow, "", nil
}

var addresses = map[string]string{"pod shop/web-0": "10.0.0.7", "service shop/db": "10.96.0.9", "host shop/db": "10.96.0.9"}

func (w *world) resolve(kind filtertext.Kind, namespace, name string) ([]netip.Addr, error) {
	if address, ok := addresses[fmt.Sprintf("%s %s/%s", kind, namespace, name)]; ok {
		return []netip.Addr{netip.MustParseAddr(address)}, nil
	}
	return nil, fmt.Errorf("there is no %s %s in namespace %s", kind, name, namespace)
}

// compile knows enough: that "nonsense" is none, "payload" looks at payload, and "db" is a name.
func (w *world) compile(_ context.Context, namespace, text string, resolve filtertext.Resolve) (v1alpha1.CaptureFilterStatus, error) {
	w.mu.Lock()
	w.compiled = append(w.compiled, text)
	w.mu.Unlock()
	if at := strings.Index(text, "nonsense"); at >= 0 {
		return v1alpha1.CaptureFilterStatus{}, fmt.Errorf("filter, byte %d, at %q: unknown word", at, "nonsense")
	}
	if strings.Contains(text, "host db") {
		if _, err := resolve(filtertext.Host, "", "db"); err != nil {
			return v1alpha1.CaptureFilterStatus{}, err
		}
	}
	return v1alpha1.CaptureFilterStatus{Instructions: int32(len(text)), HeadersOnly: !strings.Contains(text, "payload")}, nil
}

func (w *world) match(runtime.Object) ([]Match, error) { return w.matches, w.matchErr }

func (w *world) expect(context.Context, []Match) (Rates, error) { return w.rates, w.ratesErr }

func (w *world) fresh(_ context.Context, object runtime.Object) {
	if w.freshened != nil {
		w.freshened(object)
	}
}

type answer struct {
	code     int
	body     string
	warnings []string
}

const (
	base  = "/apis/networkobservability.k8s.io/v1alpha1"
	shop  = base + "/namespaces/shop/captures"
	apply = "application/apply-patch+yaml"
	merge = "application/merge-patch+json"
)

// do asks as alice.
func (w *world) do(method, path, contentType, body string) answer {
	w.t.Helper()
	request := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	request.Header.Set("X-User", "alice")
	request.Header.Set("Content-Type", contentType)
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, request)
	content, err := io.ReadAll(recorder.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var warnings []string
	for _, header := range recorder.Header().Values("Warning") {
		_, text, _ := strings.Cut(header, "- ")
		warnings = append(warnings, strings.Trim(text, `"`))
	}
	return answer{recorder.Code, string(content), warnings}
}

// create posts a Capture in namespace shop with a spec in YAML.
func (w *world) create(name, query, spec string) answer {
	w.t.Helper()
	return w.do(http.MethodPost, shop+"?"+query, "application/yaml", manifest("Capture", name, spec))
}

// apply applies a Capture on the server's side.
func (w *world) apply(name, query, spec string) answer {
	w.t.Helper()
	return w.do(http.MethodPatch, shop+"/"+name+"?fieldManager=test&"+query, apply, manifest("Capture", name, spec))
}

func manifest(kind, name, spec string) string {
	return fmt.Sprintf("{apiVersion: networkobservability.k8s.io/v1alpha1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)
}

func (a answer) capture(t *testing.T) *v1alpha1.Capture {
	t.Helper()
	capture := &v1alpha1.Capture{}
	if a.code >= 300 {
		t.Fatalf("answered %d: %s", a.code, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), capture); err != nil {
		t.Fatal(err)
	}
	return capture
}

func escape(selector string) string { return url.QueryEscape(selector) }
