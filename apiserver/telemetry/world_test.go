package telemetry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	versionedfake "github.com/networkobservability/networkobservability/apis/generated/clientset/versioned/fake"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
)

func TestMain(m *testing.M) {
	watch.DefaultChanSize = 100_000 // Client-go's fake panics when a watcher is that far behind.
	goleak.VerifyTestMain(m)
}

// soon is how long to wait for what happens in the background, on a machine that is busy and slow.
const soon = 2 * time.Minute

// A hurried clock is so many times faster than the real one.
type hurriedClock struct {
	clock.RealClock
	began time.Time
}

const hurry = 20

func (c hurriedClock) Now() time.Time { return c.began.Add(hurry * time.Since(c.began)) }

func (c hurriedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c hurriedClock) NewTimer(d time.Duration) clock.Timer { return c.RealClock.NewTimer(d / hurry) }

func (c hurriedClock) NewTicker(d time.Duration) clock.Ticker {
	return c.RealClock.NewTicker(d / hurry)
}

// A liveAgent is an agent that keeps the protocol and serves gRPC in this process.
type liveAgent struct {
	agentv1.UnimplementedAgentServer
	conn *grpc.ClientConn

	mu sync.Mutex
	modelAgent
	names   map[netip.Addr]string
	streams int
	replace context.CancelCauseFunc
	// ask sends a report; wanted are addresses to be in it.
	ask    chan struct{}
	wanted [][]byte
	// down agents end streams, old ones do not know them.
	down, old bool
	exporters []*agentv1.TelemetryExporterState
	folded    int64
	updates   int
}

var (
	errReplaced = status.Error(codes.Aborted, "another stream has begun")
	errDown     = status.Error(codes.Unavailable, "the agent is ending")
)

func (a *liveAgent) ConfigureTelemetry(stream grpc.BidiStreamingServer[agentv1.TelemetryUpdate, agentv1.TelemetryReport]) error {
	ended, ask, err := a.begin()
	if err != nil {
		return err
	}
	updates := make(chan *agentv1.TelemetryUpdate)
	go func() {
		defer close(updates)
		for {
			update, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case updates <- update:
			case <-ended.Done():
				return
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		told := true
		select {
		case <-ended.Done():
			return context.Cause(ended)
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case update, ok := <-updates:
			if !ok {
				return nil
			}
			told = a.takes(update)
		case <-ask:
		}
		if told {
			if err := stream.Send(a.reports()); err != nil {
				return err
			}
		}
	}
}

func (a *liveAgent) begin() (ended context.Context, ask <-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.old:
		return nil, nil, status.Error(codes.Unimplemented, "unknown method ConfigureTelemetry")
	case a.down:
		return nil, nil, errDown
	}
	if a.replace != nil {
		a.replace(errReplaced)
	}
	a.streams++
	a.named = map[string]bool{}
	a.ask = make(chan struct{}, 1)
	ended, a.replace = context.WithCancelCause(context.Background())
	return ended, a.ask, nil
}

func (a *liveAgent) takes(update *agentv1.TelemetryUpdate) (config bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.updates++
	a.take(update)
	for _, name := range update.Names {
		address, _ := netip.AddrFromSlice(name.Address)
		a.names[address] = ownerText(name)
	}
	return update.Config != nil
}

func (a *liveAgent) reports() *agentv1.TelemetryReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	report := a.report()
	report.WantedAddresses, a.wanted = a.wanted, nil
	report.Exporters, report.Folded = a.exporters, a.folded
	return report
}

// with does something to the agent and has it report.
func (a *liveAgent) with(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	select {
	case a.ask <- struct{}{}:
	default:
	}
}

// is says whether something is so.
func (a *liveAgent) is(what func() bool) func() bool {
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return what()
	}
}

// stop ends the agent: what it was told of Secrets and addresses is forgotten.
func (a *liveAgent) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = true
	if a.replace != nil {
		a.replace(errDown)
	}
	a.names = map[netip.Addr]string{}
	a.config = proto.CloneOf(a.config)
	for _, exporter := range a.config.GetExporters() {
		exporter.GetOtlp().Headers = nil
	}
}

func (a *liveAgent) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = false
}

// world is a cluster, and as many replicas as a test wants.
type world struct {
	t        *testing.T
	clock    hurriedClock
	kube     *fake.Clientset
	own      *versionedfake.Clientset
	registry metrics.KubeRegistry

	mu     sync.Mutex
	store  store
	agents map[string]*liveAgent
	pods   map[string]map[string]Pod
	owners map[netip.Addr]Owner
}

var resource = v1alpha1.SchemeGroupVersion.WithResource("networktelemetries")

func newWorld(t *testing.T, nodes ...string) *world {
	t.Helper()
	w := &world{
		t: t, clock: hurriedClock{began: time.Now()}, kube: fake.NewClientset(), own: versionedfake.NewSimpleClientset(),
		registry: metrics.NewKubeRegistry(), store: store{version: 1000},
		agents: map[string]*liveAgent{}, pods: map[string]map[string]Pod{}, owners: map[netip.Addr]Owner{},
	}
	w.own.PrependReactor("list", "networktelemetries", w.list)
	w.own.PrependReactor("update", "networktelemetries", w.update)
	for _, node := range nodes {
		w.agent(node)
	}
	return w
}

// agent starts an agent on a node.
func (w *world) agent(node string) *liveAgent {
	w.t.Helper()
	a := &liveAgent{names: map[netip.Addr]string{}, ask: make(chan struct{}, 1)}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	agentv1.RegisterAgentServer(server, a)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///"+node, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	must(w.t, err)
	a.conn = conn
	w.t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents[node] = a
	return a
}

// Nodes implements Agents.
func (w *world) Nodes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.agents))
}

// Configure implements Agents.
func (w *world) Configure(ctx context.Context, node string) (Stream, error) {
	w.mu.Lock()
	a := w.agents[node]
	w.mu.Unlock()
	if a == nil {
		return nil, fmt.Errorf("%s: no agent runs on this node", node)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := agentv1.NewAgentClient(a.conn).ConfigureTelemetry(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return grpcStream{stream, node, cancel}, nil
}

type grpcStream struct {
	grpc.BidiStreamingClient[agentv1.TelemetryUpdate, agentv1.TelemetryReport]
	node  string
	close func()
}

func (s grpcStream) Close() { s.close() }

func (s grpcStream) Recv() (*agentv1.TelemetryReport, error) {
	report, err := s.BidiStreamingClient.Recv()
	switch status.Code(err) {
	case codes.OK:
		return report, nil
	case codes.Aborted:
		err = ErrReplaced
	case codes.Unimplemented:
		err = fmt.Errorf("%w, version v0.4.0", ErrUnknown)
	}
	return nil, fmt.Errorf("%s: %w", s.node, err)
}

// list is what the store holds, at its resourceVersion, which the fake does not tell.
func (w *world) list(clienttesting.Action) (bool, runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := &v1alpha1.NetworkTelemetryList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(w.store.version, 10)}}
	if w.store.object != nil {
		list.Items = append(list.Items, *w.store.object.DeepCopy())
	}
	return true, list, nil
}

// update takes of an update of the status nothing else, and refuses one of an old version. One without news is a failure.
func (w *world) update(action clienttesting.Action) (bool, runtime.Object, error) {
	sent := action.(clienttesting.UpdateAction).GetObject().(*v1alpha1.NetworkTelemetry)
	if errs := validation.NetworkTelemetryStatus(&sent.Status); len(errs) > 0 {
		w.t.Errorf("the status is refused: %v", errs)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store.object == nil {
		return true, nil, apierrors.NewNotFound(v1alpha1.Resource("networktelemetries"), sent.Name)
	}
	if w.store.object.ResourceVersion != sent.ResourceVersion || w.store.object.UID != sent.UID {
		return true, nil, apierrors.NewConflict(v1alpha1.Resource("networktelemetries"), sent.Name, errors.New("it was changed"))
	}
	if equality.Semantic.DeepEqual(w.store.object.Status, sent.Status) {
		w.t.Error("the status is written, and says what it said")
	}
	stored := w.store.object.DeepCopy()
	stored.Status = *sent.Status.DeepCopy()
	w.store.write(stored)
	return true, stored.DeepCopy(), w.own.Tracker().Update(resource, stored.DeepCopy(), "")
}

// apply changes the spec, of a new object when there is none.
func (w *world) apply(spec v1alpha1.NetworkTelemetrySpec) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	is := w.store.object != nil
	w.store.apply(spec)
	if is {
		must(w.t, w.own.Tracker().Update(resource, w.store.object.DeepCopy(), ""))
	} else {
		must(w.t, w.own.Tracker().Create(resource, w.store.object.DeepCopy(), ""))
	}
}

func (w *world) delete() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.write(nil)
	must(w.t, w.own.Tracker().Delete(resource, "", v1alpha1.NetworkTelemetryName))
}

func (w *world) status() *v1alpha1.NetworkTelemetryStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store.object == nil {
		return &v1alpha1.NetworkTelemetryStatus{}
	}
	return w.store.object.Status.DeepCopy()
}

// condition is the status and reason of a condition of the present generation, empty when there is none.
func (w *world) condition(of string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store.object == nil {
		return ""
	}
	for _, c := range w.store.object.Status.Conditions {
		if c.Type == of && c.ObservedGeneration == w.store.object.Generation {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func (w *world) pod(node, name string, labels map[string]string, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pods[node] == nil {
		w.pods[node] = map[string]Pod{}
	}
	w.pods[node][name] = Pod{Key: "key-" + name, Namespace: "shop", Name: name, UID: "uid-" + name, Labels: labels, Record: new(int)}
	if address != "" {
		w.owners[netip.MustParseAddr(address)] = Owner{Kind: PodOwner, Namespace: "shop", Name: name, WorkloadKind: "Deployment", WorkloadName: "web"}
	}
}

func (w *world) gone(node, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods[node], name)
	maps.DeleteFunc(w.owners, func(_ netip.Addr, o Owner) bool { return o.Name == name })
}

func (w *world) podsOn(node string) iter.Seq[Pod] {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Values(slices.Collect(maps.Values(w.pods[node])))
}

func (w *world) owner(address netip.Addr, _ time.Time) Owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owners[address]
}

func (w *world) namespace(name string, labels map[string]string) {
	w.t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if _, err := w.kube.CoreV1().Namespaces().Update(w.t.Context(), namespace, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
		_, err = w.kube.CoreV1().Namespaces().Create(w.t.Context(), namespace, metav1.CreateOptions{})
		must(w.t, err)
	}
}

func (w *world) secret(name string, data map[string]string) {
	w.t.Helper()
	object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: agentv1.Namespace, Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		object.Data[key] = []byte(value)
	}
	secrets := w.kube.CoreV1().Secrets(agentv1.Namespace)
	if _, err := secrets.Update(w.t.Context(), object, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
		_, err = secrets.Create(w.t.Context(), object, metav1.CreateOptions{})
		must(w.t, err)
	}
}

func (w *world) new(identity string, change ...func(*Config)) *Controller {
	w.t.Helper()
	cfg := Config{
		Own: w.own, Client: w.kube, Identity: identity, Agents: w, Pods: w.podsOn, Owner: w.owner,
		Synced: func() error { return nil }, Clock: w.clock, Register: metrics.NewKubeRegistry().Register,
	}
	for _, one := range change {
		one(&cfg)
	}
	c, err := New(cfg)
	must(w.t, err)
	return c
}

// controller runs a replica until the test ends, or until stop is called.
func (w *world) controller(identity string, change ...func(*Config)) (stop func()) {
	w.t.Helper()
	return w.run(w.new(identity, change...).Run)
}

func (w *world) run(do func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { do(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

// eventually waits for something that happens in the background.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("%s did not happen within %v; the status is %+v", what, soon, w.status())
		}
	}
}
