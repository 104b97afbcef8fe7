package networkflows

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	serverwarning "k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows/flowtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// start is when the tests' cluster began.
var start = time.Now().Add(-time.Hour).Truncate(time.Second)

// world is a cluster of nodes n1 and n2 and a Service web in namespace a, with agents.
type world struct {
	t        testing.TB
	agents   *flowtest.Agents
	names    *directory.Directory
	rest     *REST
	registry metrics.KubeRegistry
	pods     map[string]*live.Record
	number   byte
	warnings *warnings
}

func newWorld(t testing.TB, nodes ...string) *world {
	t.Helper()
	if len(nodes) == 0 {
		nodes = []string{"n1", "n2"}
	}
	objects := []runtime.Object{&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", CreationTimestamp: metav1.NewTime(start)},
		Spec:       corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.9"}, Ports: []corev1.ServicePort{{Name: "http", Protocol: "TCP", Port: 80}}},
	}}
	for i, node := range nodes {
		objects = append(objects, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)}}},
		})
	}
	w := &world{t: t, agents: flowtest.New(ErrGone, nodes...), registry: metrics.NewKubeRegistry(), pods: map[string]*live.Record{}, warnings: &warnings{}}
	var err error
	if w.names, err = directory.New(directory.Config{Client: fake.NewClientset(objects...)}); err != nil {
		t.Fatal(err)
	}
	if w.rest, err = NewREST(Config{Source: w.agents, Names: w.names, Register: w.registry.Register}); err != nil {
		t.Fatal(err)
	}
	w.names.Replaced(nil)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.names.Run(ctx) })
	running.Go(func() { w.rest.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	if !cache.WaitForCacheSync(ctx.Done(), func() bool { return w.names.Synced() == nil }) {
		t.Fatal("never synced")
	}
	return w
}

// pod makes a pod with an address of its own. Its key is "NAMESPACE/NAME".
func (w *world) pod(namespace, name, node string, labels map[string]string) *live.Record {
	w.number++
	record := &live.Record{
		Namespace: namespace, Name: name, Node: node, Labels: labels, PodKey: namespace + "/" + name,
		HostUID: types.UID("uid-" + name), Created: metav1.NewTime(start), IPs: []string{fmt.Sprintf("10.0.0.%d", w.number)},
	}
	before := w.pods[record.PodKey]
	w.pods[record.PodKey] = record
	w.names.Changed(before, record)
	return record
}

// relabel gives a pod other labels.
func (w *world) relabel(pod *live.Record, labels map[string]string) {
	w.t.Helper()
	after := *w.pods[pod.PodKey]
	after.Labels = labels
	w.names.Changed(w.pods[pod.PodKey], &after)
	w.pods[pod.PodKey] = &after
}

// flow is one of a pod to a peer, that began so many seconds after start.
func (w *world) flow(pod *live.Record, peer string, seconds float64) *agentv1.Flow {
	began := start.Add(time.Duration(seconds * float64(time.Second)))
	own := netip.MustParseAddr(pod.IPs[0])
	return &agentv1.Flow{
		PodKey: pod.PodKey, PodAddress: own.AsSlice(), PeerAddress: netip.MustParseAddr(peer).AsSlice(), PodPort: 40000, PeerPort: 80,
		Protocol: 6, Direction: agentv1.Direction_DIRECTION_TRANSMIT, Verdict: agentv1.Verdict_VERDICT_FORWARDED,
		Receive: &agentv1.Counters{Packets: 3, Bytes: 300}, Transmit: &agentv1.Counters{Packets: 4, Bytes: 4000},
		StartUnixNano: began.UnixNano(), LastUnixNano: began.Add(time.Second).UnixNano(),
		ReceiveFlags: 0x12, TransmitFlags: 0x1b, HandshakeNano: 430_000,
	}
}

func (w *world) rejected(reason string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "networkobservability_apiserver_flow_rows_rejected_total" && testutil.LabelsMatch(m, map[string]string{"reason": reason}) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// warnings are those of a request.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) AddWarning(_, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

// request is the context of a request, which ends with the test.
func (w *world) request(namespace string) context.Context {
	ctx := genericapirequest.WithNamespace(w.t.Context(), namespace)
	return serverwarning.WithWarningRecorder(ctx, w.warnings)
}

// options select by labels and by fields, which go through the scheme's conversion.
func (w *world) options(labelSelector, fieldSelector string) *metainternalversion.ListOptions {
	w.t.Helper()
	options, err := optionsOf(labelSelector, fieldSelector)
	if err != nil {
		w.t.Fatal(err)
	}
	return options
}

func optionsOf(labelSelector, fieldSelector string) (*metainternalversion.ListOptions, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	byLabel, err := labels.Parse(labelSelector)
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(fieldSelector)
	if err != nil {
		return nil, err
	}
	byField, err = byField.Transform(func(field, value string) (string, string, error) {
		return scheme.ConvertFieldLabel(v1alpha1.SchemeGroupVersion.WithKind("NetworkFlow"), field, value)
	})
	return &metainternalversion.ListOptions{LabelSelector: byLabel, FieldSelector: byField}, err
}

func (w *world) list(namespace string, options *metainternalversion.ListOptions) *v1alpha1.NetworkFlowList {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.request(namespace))
	defer cancel()
	list, err := w.rest.List(ctx, options)
	if err != nil {
		w.t.Fatal(err)
	}
	return list.(*v1alpha1.NetworkFlowList)
}

func (w *world) pages(namespace string, options *metainternalversion.ListOptions, between func()) (items []v1alpha1.NetworkFlow, pages int) {
	w.t.Helper()
	for {
		list := w.list(namespace, options)
		items = append(items, list.Items...)
		pages++
		if list.Continue == "" {
			return items, pages
		}
		options.Continue = list.Continue
		between()
	}
}

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
