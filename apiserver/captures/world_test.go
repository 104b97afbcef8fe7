package captures

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/metrics"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	versionedfake "github.com/networkobservability/networkobservability/apis/generated/clientset/versioned/fake"
	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func TestMain(m *testing.M) {
	watch.DefaultChanSize = 100_000 // Client-go's fake panics when a watcher is that far behind.
	goleak.VerifyTestMain(m)
}

// soon is how long to wait for what happens in the background, on a machine that is busy and slow.
const soon = 2 * time.Minute

// A fleet is agents that keep the protocol, in memory.
type fleet struct {
	mu    sync.Mutex
	nodes map[string]*fleetNode
	// deleted are nodes and UIDs.
	deleted map[string]bool
	stored  []*agentv1.StoreCaptureRequest
	lists   int
	// refusedOutput is one that agents do not take.
	refusedOutput string
}

type fleetNode struct {
	silent   bool
	captures map[string]*storyAgent
}

func newFleet(nodes ...string) *fleet {
	f := &fleet{nodes: map[string]*fleetNode{}, deleted: map[string]bool{}}
	for _, node := range nodes {
		f.nodes[node] = &fleetNode{captures: map[string]*storyAgent{}}
	}
	return f
}

// on does something to a node that answers.
func (f *fleet) on(node string, do func(*fleetNode) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node]
	switch {
	case n == nil:
		return fmt.Errorf("%s: %w", node, ErrNoAgent)
	case n.silent:
		return fmt.Errorf("%s: the agent did not answer in time", node)
	}
	return do(n)
}

// with does something to a capture that a node knows, and gives its state.
func (f *fleet) with(node, uid string, do func(*storyAgent) error) (state *agentv1.CaptureState, err error) {
	err = f.on(node, func(n *fleetNode) error {
		a := n.captures[uid]
		if a == nil {
			return fmt.Errorf("%s: %w", node, ErrNotFound)
		}
		if err := do(a); err != nil {
			return err
		}
		state = copied(a.state)
		return nil
	})
	return state, err
}

func (f *fleet) Ensure(_ context.Context, node string, r *agentv1.EnsureCaptureRequest) (state *agentv1.CaptureState, err error) {
	err = f.on(node, func(n *fleetNode) error {
		a := n.captures[r.Uid]
		if a == nil {
			a = &storyAgent{}
			n.captures[r.Uid] = a
		}
		if r.Revision < a.state.GetRevision() || f.deleted[node+"/"+r.Uid] {
			return fmt.Errorf("%s: %w", node, ErrPrecondition)
		}
		a.ensure(r, time.Now())
		a.state.Namespace, a.state.Name = r.Namespace, r.Name
		state = copied(a.state)
		return nil
	})
	return state, err
}

func (f *fleet) Stop(_ context.Context, node string, r *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error) {
	return f.with(node, r.Uid, func(a *storyAgent) error {
		if r.Revision < a.state.Revision {
			return fmt.Errorf("%s: %w", node, ErrPrecondition)
		}
		a.state.Revision = r.Revision
		a.end(agentv1.CaptureState_REASON_STOPPED, time.Now())
		return nil
	})
}

func (f *fleet) Seal(_ context.Context, node string, r *agentv1.SealCaptureRequest) (*agentv1.CaptureState, error) {
	return f.with(node, r.Uid, func(a *storyAgent) error {
		if !ended(a.state) {
			return fmt.Errorf("%s: %w", node, ErrPrecondition)
		}
		a.state.Sealed, a.state.Digest, a.state.BlockBytes = true, make([]byte, 32), 100
		a.names = r.Names
		return nil
	})
}

func (f *fleet) Store(_ context.Context, node string, r *agentv1.StoreCaptureRequest) (*agentv1.CaptureState, error) {
	return f.with(node, r.Uid, func(a *storyAgent) error {
		if slices.ContainsFunc(r.Outputs, func(o *agentv1.CaptureOutput) bool { return o.Name == f.refusedOutput }) {
			return fmt.Errorf("%s: %w: outputs[0].s3.access_key_id: holds blanks", node, ErrInvalid)
		}
		f.stored = append(f.stored, r)
		for _, output := range r.Outputs {
			a.state.Outputs = append(a.state.Outputs, &agentv1.CaptureOutputState{Name: output.Name, Phase: agentv1.CaptureOutputState_PHASE_STORED})
		}
		return nil
	})
}

func (f *fleet) Delete(_ context.Context, node, uid string) error {
	return f.on(node, func(n *fleetNode) error {
		delete(n.captures, uid)
		f.deleted[node+"/"+uid] = true
		return nil
	})
}

func (f *fleet) List(_ context.Context, node string, uids []string) (states map[string]*agentv1.CaptureState, err error) {
	err = f.on(node, func(n *fleetNode) error {
		f.lists++
		states = map[string]*agentv1.CaptureState{}
		if uids == nil {
			uids = slices.Collect(maps.Keys(n.captures))
		}
		for _, uid := range uids {
			if a := n.captures[uid]; a != nil && a.state != nil {
				states[uid] = copied(a.state)
			}
		}
		return nil
	})
	return states, err
}

func (f *fleet) Describe(_ context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error {
	var names []*agentv1.CaptureName
	state, err := f.with(node, uid, func(a *storyAgent) error { names = a.names; return nil })
	if err != nil {
		return err
	}
	return take(&agentv1.DescribeCaptureResponse{State: state, Names: names, Addresses: [][]byte{{10, 0, 0, 1}, {192, 0, 2, 7}}})
}

func (f *fleet) Nodes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.nodes))
}

// capturesOn are the UIDs that a node knows.
func (f *fleet) capturesOn(node string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.nodes[node].captures))
}

// world is a cluster with agents, and as many replicas of the controller as a test wants.
type world struct {
	t        *testing.T
	kube     *fake.Clientset
	captures *versionedfake.Clientset
	fleet    *fleet
	allow    func(*v1alpha1.CaptureOutput) ([]string, error)

	mu      sync.Mutex
	version int
}

func newWorld(t *testing.T, nodes ...string) *world {
	t.Helper()
	w := &world{t: t, kube: fake.NewClientset(), captures: versionedfake.NewSimpleClientset(), fleet: newFleet(nodes...)}
	w.allow = func(*v1alpha1.CaptureOutput) ([]string, error) { return []string{"192.0.2.0/24"}, nil }
	w.mayDo(func(*authorizationv1.SubjectAccessReviewSpec) bool { return true })
	w.captures.PrependReactor("*", "captures", w.change)
	for _, node := range nodes {
		must(t, w.kube.Tracker().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}))
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// change does what a server does and the fake does not: it numbers versions, refuses what was written on an old one, and takes
// of an update of the status nothing else.
func (w *world) change(action clienttesting.Action) (handled bool, result runtime.Object, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	update, isUpdate := action.(clienttesting.UpdateAction)
	create, isCreate := action.(clienttesting.CreateAction)
	switch {
	case isUpdate && action.GetVerb() == "update" && action.GetSubresource() == "status":
		sent := update.GetObject().(*v1alpha1.Capture)
		stored, err := w.stored(sent.Name)
		if err != nil {
			return true, nil, err
		}
		if stored.ResourceVersion != sent.ResourceVersion {
			return true, nil, apierrors.NewConflict(v1alpha1.Resource("captures"), sent.Name, errors.New("it was changed"))
		}
		stored.Status = *sent.Status.DeepCopy()
		return true, stored, w.replace(stored)
	case isCreate && action.GetVerb() == "create":
		w.version++
		create.GetObject().(*v1alpha1.Capture).ResourceVersion = strconv.Itoa(w.version)
	}
	return false, nil, nil
}

func (w *world) stored(name string) (*v1alpha1.Capture, error) {
	object, err := w.captures.Tracker().Get(v1alpha1.SchemeGroupVersion.WithResource("captures"), "shop", name)
	if err != nil {
		return nil, err
	}
	return object.(*v1alpha1.Capture).DeepCopy(), nil
}

func (w *world) replace(c *v1alpha1.Capture) error {
	w.version++
	c.ResourceVersion = strconv.Itoa(w.version)
	return w.captures.Tracker().Update(v1alpha1.SchemeGroupVersion.WithResource("captures"), c, c.Namespace)
}

// mayDo decides reviews.
func (w *world) mayDo(allowed func(*authorizationv1.SubjectAccessReviewSpec) bool) {
	w.kube.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		review.Status.Allowed = allowed(&review.Spec)
		return true, review, nil
	})
}

// controller runs a replica until the test ends, or until stop is called.
func (w *world) controller(identity string) (c *Controller, stop func()) {
	w.t.Helper()
	c, err := New(Config{
		Captures: w.captures, Client: w.kube, Identity: identity, Agents: w.fleet,
		Compile: func(namespace, text string, resolve filtertext.Resolve) (*Program, error) {
			if _, name, named := strings.Cut(text, "host "); named {
				if _, err := resolve(filtertext.Host, namespace, name); err != nil {
					return nil, fmt.Errorf("filter, byte 5: %v", err) // As pcapfilter does, it keeps the text alone.
				}
			}
			return &Program{Text: text, Ethernet: []uint64{6 << 48, 6 << 48}, HeadersOnly: true}, nil
		},
		Names: func(address netip.Addr) []string { return []string{"name-of-" + address.String()} },
		Allow: w.allow, Register: metrics.NewKubeRegistry().Register,
	})
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	w.t.Cleanup(stop)
	return c, stop
}

func (w *world) pod(node, name string, labels map[string]string) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
	created, err := w.kube.CoreV1().Pods("shop").Create(w.t.Context(), pod, metav1.CreateOptions{})
	must(w.t, err)
	return created
}

var web = map[string]string{"app": "web"}

// capture creates a Capture of the pods with the label app=web.
func (w *world) capture(name string, change ...func(*v1alpha1.CaptureSpec)) *v1alpha1.Capture {
	w.t.Helper()
	c := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: types.UID("uid-of-" + name), CreationTimestamp: metav1.Now(), Generation: 1,
	}}
	c.Spec.Pods.Selector = &metav1.LabelSelector{MatchLabels: web}
	c.Spec.Requester = &v1alpha1.CaptureRequester{Username: "alice"}
	for _, one := range change {
		one(&c.Spec)
	}
	created, err := w.captures.NetworkobservabilityV1alpha1().Captures("shop").Create(w.t.Context(), c, metav1.CreateOptions{})
	must(w.t, err)
	return created
}

func (w *world) get(name string) *v1alpha1.Capture {
	w.t.Helper()
	c, err := w.captures.NetworkobservabilityV1alpha1().Captures("shop").Get(w.t.Context(), name, metav1.GetOptions{})
	must(w.t, err)
	return c
}

func (w *world) stop(name string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.stored(name)
	must(w.t, err)
	c.Spec.Stop = true
	must(w.t, w.replace(c))
}

func (w *world) delete(name string) {
	w.t.Helper()
	must(w.t, w.captures.NetworkobservabilityV1alpha1().Captures("shop").Delete(w.t.Context(), name, metav1.DeleteOptions{}))
}

// condition is the status and reason of a condition, empty when there is none.
func (w *world) condition(name, of string) string {
	w.t.Helper()
	for _, c := range w.get(name).Status.Conditions {
		if c.Type == of {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

// message is that of a condition, empty when there is none.
func (w *world) message(name, of string) string {
	w.t.Helper()
	if condition := meta.FindStatusCondition(w.get(name).Status.Conditions, of); condition != nil {
		return condition.Message
	}
	return ""
}

// eventually waits for something that happens in the background.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	w.within(soon, 5*time.Millisecond, what, is)
}

func (w *world) within(soon, every time.Duration, what string, is func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("%s did not happen within %v", what, soon)
		}
	}
}
