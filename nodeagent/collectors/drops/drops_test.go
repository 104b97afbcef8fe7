package drops

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/drops"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A node is the part of an agent that these tests need: the index of the test's own pods and a collector. Its network
// namespace is that of the test, or another one.
type node struct {
	t         testing.TB
	config    Config
	collector *Collector
	index     *podindex.Index
	pods      *podmap.Map
	stop      func()
}

type options struct {
	bpffs     string
	without   []string
	flows     bool
	noSockets bool // as kernels before 6.11
	// Where cgroup version 2 is, and the pods that use the node's network.
	unified string
	guests  []*podmap.Pod
	// first is true when the test's own namespace is the node's, too.
	first bool
}

// startNode starts an agent's part for pods. own is the node's network namespace; nil for the test's.
func startNode(t testing.TB, o options, own *fakepod.Namespace, fakes ...*fakepod.Pod) *node {
	t.Helper()
	root := pins.Root(cmp.Or(o.bpffs, fakepod.BPFFS(t)), "n")
	shared, err := pins.Shared(root)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, config: Config{Root: root, Shared: shared, Without: o.without, Flows: o.flows}}
	kernel, err := bpf.Look()
	if o.noSockets {
		kernel.Receivers = false
	}
	n.collector = start(n.config, kernel, err)
	n.index = podindex.New(shared, o.unified)

	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	seen := make(chan int, 1)
	mine := map[string]bool{}
	for _, fake := range fakes {
		mine[fake.UID] = true
	}
	changed := func(all []*podmap.Pod) {
		pods := slices.Clone(o.guests)
		for _, pod := range all {
			if mine[pod.Key] {
				pods = append(pods, pod)
			}
		}
		follow := func() {
			if err := n.index.Follow(pods); err != nil {
				t.Errorf("following: %v", err)
			}
		}
		if own == nil {
			follow()
		} else {
			own.Do(follow)
		}
		if o.first {
			cookie, err := podmap.Cookie()
			if err == nil {
				err = shared["pods_by_netns"].Put(cookie, headers.Node)
			}
			if err != nil {
				t.Error(err)
			}
		}
		n.collector.Follow(pods)
		select {
		case <-seen:
		default:
		}
		seen <- len(pods)
	}
	if n.pods, err = podmap.New(podmap.Config{Changed: changed}); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- n.pods.Run(ctx, func() { close(ready) }) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("following pods: %v", err)
		}
		n.collector.Close()
		pins.CloseAll(shared)
	})
	t.Cleanup(n.stop)
	<-ready
	found := 0
	fakepod.Eventually(t, "all pods", func() bool {
		select {
		case found = <-seen:
		default:
		}
		return found == len(fakes)+len(o.guests)
	})
	return n
}

func (n *node) pod(fake *fakepod.Pod) *v1alpha1.Drops {
	n.t.Helper()
	pod, ok := n.pods.Lookup(fake.UID)
	if !ok {
		n.t.Fatalf("pod %s is not known", fake.UID)
	}
	return n.read(pod)
}

func (n *node) read(pod *podmap.Pod) *v1alpha1.Drops {
	n.t.Helper()
	row := &v1alpha1.PodStats{}
	if err := n.collector.Snapshot().ReadPod(pod, row); err != nil {
		n.t.Fatal(err)
	}
	return row.Drops
}

func (n *node) self() *v1alpha1.Drops {
	n.t.Helper()
	row := &v1alpha1.NodeStats{}
	if err := n.collector.Snapshot().ReadNode(row); err != nil {
		n.t.Fatal(err)
	}
	return row.Drops
}

// A kind of drop, whose packets are looked for; what is zero is not compared.
type kind struct {
	reason      string
	class       v1alpha1.Drop_Class
	direction   v1alpha1.Direction
	attribution v1alpha1.Drop_Attribution
	protocol    int32
	port        int32
}

func (k kind) matches(d *v1alpha1.Drop) bool {
	return (k.reason == "" || k.reason == d.Reason) && (k.class == 0 || k.class == d.Class) &&
		(k.direction == 0 || k.direction == d.Direction) && (k.attribution == 0 || k.attribution == d.Attribution) &&
		(k.protocol == 0 || k.protocol == d.Protocol) && (k.port == 0 || k.port == d.Port)
}

func sum(drops *v1alpha1.Drops, k kind) (packets int64) {
	for _, d := range drops.Drops {
		if k.matches(d) {
			packets += d.Packets
		}
	}
	return packets
}

func text(drops *v1alpha1.Drops) string {
	var lines string
	for _, d := range drops.Drops {
		lines += fmt.Sprintf("\n  %v", d)
	}
	return lines
}

// expect compares what is counted of a kind with what should be. Some drops come a moment after the call that leads to them.
func expect(t testing.TB, read func() *v1alpha1.Drops, k kind, want int64) {
	t.Helper()
	fakepod.Eventually(t, fmt.Sprintf("%d drops like %+v", want, k), func() bool { return sum(read(), k) >= want },
		func() string { return "there are" + text(read()) })
	if got := sum(read(), k); got != want {
		t.Errorf("%d packets like %+v, want %d; all:%s", got, k, want, text(read()))
	}
}

func (n *node) of(fake *fakepod.Pod) func() *v1alpha1.Drops {
	return func() *v1alpha1.Drops { return n.pod(fake) }
}

const (
	receive, transmit                = v1alpha1.Direction_DIRECTION_RECEIVE, v1alpha1.Direction_DIRECTION_TRANSMIT
	bySocket, byInterface, byAddress = v1alpha1.Drop_ATTRIBUTION_SOCKET, v1alpha1.Drop_ATTRIBUTION_INTERFACE, v1alpha1.Drop_ATTRIBUTION_ADDRESS
	icmp, tcp, udp, icmp6            = 1, 6, 17, 58
)

// A kernel without the hook, or one that is taken for such, leaves the collector off; it says why.
func TestWithoutHook(t *testing.T) {
	n := startNode(t, options{without: []string{bpf.Hook}}, nil)
	if state, message := n.collector.State(); state != v1alpha1.Collector_STATE_OFF || message == "" {
		t.Errorf("state %v: %q", state, message)
	}
	if err := n.collector.Snapshot().ReadNode(&v1alpha1.NodeStats{}); err == nil {
		t.Error("the node's drops could be read")
	}
	n.collector.Follow(nil)
	if links, _ := filepath.Glob(filepath.Join(n.config.Root, layout, "drop")); len(links) != 0 {
		t.Errorf("attached: %v", links)
	}

	old := start(Config{}, bpf.Kernel{}, bpf.ErrNoReasons)
	if state, message := old.State(); state != v1alpha1.Collector_STATE_OFF || message != bpf.ErrNoReasons.Error() {
		t.Errorf("state %v: %q", state, message)
	}
	old.Close()
	none := start(Config{}, bpf.Kernel{}, nil)
	if state, _ := none.State(); state != v1alpha1.Collector_STATE_OFF {
		t.Errorf("state %v without shared maps", state)
	}
	none.Close()
}
