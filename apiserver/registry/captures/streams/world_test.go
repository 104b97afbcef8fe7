package streams

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-base/metrics"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/capturefile"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// A fakeStore has one capture of each kind, and may lose it.
type fakeStore struct {
	mu     sync.Mutex
	object runtime.Object
}

func (s *fakeStore) Get(context.Context, string, *metav1.GetOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.object == nil {
		return nil, apierrors.NewNotFound(v1alpha1.SchemeGroupVersion.WithResource("captures").GroupResource(), "c")
	}
	return s.object.DeepCopyObject(), nil
}

func (s *fakeStore) change(do func(*v1alpha1.Capture)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if do == nil {
		s.object = nil
		return
	}
	object := s.object.DeepCopyObject().(*v1alpha1.Capture)
	do(object)
	s.object = object
}

// rights allow everything that is not denied, and fail when told to.
type rights struct {
	mu     sync.Mutex
	denied map[string]bool
	err    error
	asked  int
}

func (r *rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	switch {
	case r.err != nil:
		return authorizer.DecisionNoOpinion, "", r.err
	case r.denied[a.GetSubresource()]:
		return authorizer.DecisionDeny, "no binding", nil
	}
	return authorizer.DecisionAllow, "", nil
}

func (r *rights) set(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// A world is everything that streams need.
type world struct {
	t       testing.TB
	agents  fakeAgents
	store   *fakeStore
	rights  *rights
	streams *Streams

	mu      sync.Mutex
	matches []Match
}

func (w *world) match(matches ...Match) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.matches = matches
}

// newWorld has a Capture "c" in namespace shop of these agents. It has ended if they have.
func newWorld(t testing.TB, agents fakeAgents, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, agents: agents, rights: &rights{denied: map[string]bool{}}}
	capture := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c", UID: uid}}
	capture.Spec.Filter, capture.Spec.PacketBytes = "udp", new(int32(2000))
	capture.Status.Control = &v1alpha1.CaptureControl{}
	ended := true
	for name, node := range agents {
		capture.Status.Control.Nodes = append(capture.Status.Control.Nodes, v1alpha1.CaptureControlNode{Node: name, Recorded: true})
		for _, part := range node.state.Parts {
			capture.Status.Targets = append(capture.Status.Targets, v1alpha1.CaptureTarget{Node: name, Namespace: part.Namespace, Pod: part.Pod})
		}
		ended = ended && node.state.Sealed
	}
	w.store = &fakeStore{object: capture}
	if ended {
		w.finish()
	}
	config := Config{
		Captures: w.store, ClusterCaptures: w.store, Source: agents, Authorizer: w.rights,
		Matches: func(runtime.Object) ([]Match, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.matches, nil
		},
		Names:    func(a netip.Addr) []string { return []string{"shop/pod-" + a.String()} },
		Register: metrics.NewKubeRegistry().Register,
	}
	for _, c := range change {
		c(&config)
	}
	var err error
	if w.streams, err = New(config); err != nil {
		t.Fatal(err)
	}
	return w
}

// finish makes the capture Complete, with the file that the nodes have.
func (w *world) finish() {
	w.t.Helper()
	file := w.layout()
	size, known := file.Size()
	if !known {
		w.t.Fatal("the size of the whole file is not known")
	}
	w.store.change(func(c *v1alpha1.Capture) {
		c.Status.File = &v1alpha1.CaptureFile{Digest: file.Digest(), Bytes: size}
		c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.CaptureComplete, Status: metav1.ConditionTrue}}
	})
}

// layout is the file as the controller sees it.
func (w *world) layout() *pcapfile.File {
	w.t.Helper()
	header, err := capturefile.HeaderOf(w.store.object)
	if err != nil {
		w.t.Fatal(err)
	}
	var nodes []pcapfile.Node
	var names pcapfile.Names
	for name, node := range w.agents {
		nodes = append(nodes, pcapfile.Node{Name: name, State: node.state})
		names.Add(node.names)
	}
	file, err := pcapfile.New(header, nodes, &names)
	if err != nil {
		w.t.Fatal(err)
	}
	return file
}

// A reply is what a client got.
type reply struct {
	*httptest.ResponseRecorder
	// err is what the server says of the stream; an answer that began is then broken off.
	err error
}

// errorResponder answers as the generic server does.
type errorResponder struct{ to http.ResponseWriter }

func (r errorResponder) Object(int, runtime.Object) {}

func (r errorResponder) Error(err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		http.Error(r.to, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Error(r.to, status.Status().Message, int(status.Status().Code))
}

// session makes a request of a user.
func (w *world) session(ctx context.Context, subresource string, options v1alpha1.CaptureReadOptions) (*session, error) {
	ctx = genericrequest.WithNamespace(genericrequest.WithUser(ctx, &user.DefaultInfo{Name: "alice"}), "shop")
	handler, err := w.streams.Storage()["captures/"+subresource].(*REST).Connect(ctx, "c", &options, nil)
	if err != nil {
		return nil, err
	}
	return handler.(*session), nil
}

// get reads an answer to its end.
func (w *world) get(subresource string, options v1alpha1.CaptureReadOptions) reply {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	recorder := httptest.NewRecorder()
	s, err := w.session(ctx, subresource, options)
	if err != nil {
		errorResponder{recorder}.Error(err)
		return reply{recorder, err}
	}
	out := &output{response: recorder}
	if err = s.stream(ctx, out); err != nil && !out.began {
		errorResponder{recorder}.Error(apiError(err))
	}
	return reply{recorder, err}
}

// file reads the whole file.
func (w *world) file() []byte {
	w.t.Helper()
	got := w.get("pcap", v1alpha1.CaptureReadOptions{})
	if got.err != nil || got.Code != http.StatusOK {
		w.t.Fatalf("reading the file: %d, %v: %s", got.Code, got.err, got.Body)
	}
	return got.Body.Bytes()
}
