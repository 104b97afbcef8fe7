package networktelemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

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

	"github.com/networkobservability/networkobservability/apis/generated/openapi"
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
)

func init() { install.Install(scheme) }

// A world is a server of the resource in this process, whose users may do everything but get the Secrets in denied.
type world struct {
	t       *testing.T
	handler http.Handler
	storage *Storage

	mu     sync.Mutex
	denied []string
	asked  []string
	broken bool // nobody knows what is allowed
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	storage, err := NewStorage(Config{
		Scheme: scheme, Getter: registrytest.NewMemory(codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)),
		Authorizer: authorizer.AuthorizerFunc(w.authorize),
	})
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
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, name != "", nil
	})
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	namer := apiopenapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	server, err := config.Complete(nil).New("networktelemetry", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	group := genericapiserver.NewDefaultAPIGroupInfo(v1alpha1.GroupName, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"networktelemetries": storage.NetworkTelemetries, "networktelemetries/status": storage.Status,
	}
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	return server.Handler
}

func (w *world) authorize(_ context.Context, right authorizer.Attributes) (authorizer.Decision, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprintf("%s: %s %s %s/%s", right.GetUser().GetName(), right.GetVerb(), right.GetResource(), right.GetNamespace(), right.GetName()))
	switch {
	case w.broken:
		return authorizer.DecisionNoOpinion, "", errors.New("nobody answers")
	case slices.Contains(w.denied, right.GetName()) || !right.IsResourceRequest():
		return authorizer.DecisionNoOpinion, "", nil
	}
	return authorizer.DecisionAllow, "", nil
}

// deny denies these Secrets and forgets what was asked.
func (w *world) deny(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied, w.asked = secrets, nil
}

type answer struct {
	code     int
	body     string
	warnings []string
}

const (
	all     = "/apis/networkobservability.k8s.io/v1alpha1/networktelemetries"
	one     = all + "/cluster"
	applied = "application/apply-patch+yaml"
	merged  = "application/merge-patch+json"
	text    = "application/yaml"
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

func (w *world) create(query, spec string) answer {
	w.t.Helper()
	return w.do(http.MethodPost, all+"?"+query, text, manifest("cluster", spec))
}

// apply applies on the server's side.
func (w *world) apply(query, spec string) answer {
	w.t.Helper()
	return w.do(http.MethodPatch, one+"?fieldManager=test&"+query, applied, manifest("cluster", spec))
}

func (w *world) patch(body string) answer {
	w.t.Helper()
	return w.do(http.MethodPatch, one, merged, body)
}

func manifest(name, spec string) string {
	return fmt.Sprintf("{apiVersion: networkobservability.k8s.io/v1alpha1, kind: NetworkTelemetry, metadata: {name: %s}, spec: %s}", name, spec)
}

func (a answer) telemetry(t *testing.T) *v1alpha1.NetworkTelemetry {
	t.Helper()
	if a.code >= 300 {
		t.Fatalf("answered %d: %s", a.code, a.body)
	}
	telemetry := &v1alpha1.NetworkTelemetry{}
	if err := json.Unmarshal([]byte(a.body), telemetry); err != nil {
		t.Fatal(err)
	}
	return telemetry
}

// refused checks the code and that all texts are said.
func (a answer) refused(t *testing.T, about string, code int, says ...string) {
	t.Helper()
	var status struct{ Message string }
	if err := json.Unmarshal([]byte(a.body), &status); err != nil {
		t.Fatalf("%s: answered %d: %s", about, a.code, a.body)
	}
	if a.code != code {
		t.Errorf("%s: answered %d, want %d: %s", about, a.code, code, status.Message)
	}
	for _, text := range says {
		if !strings.Contains(status.Message, text) {
			t.Errorf("%s: says %q, not %q", about, status.Message, text)
		}
	}
}
