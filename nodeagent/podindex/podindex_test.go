package podindex_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFollow: a pod's namespace and addresses are in the index while it lives, those that it gets later too, and
// nothing of it after its end. The node is always there.
func TestFollow(t *testing.T) {
	shared, err := pins.Shared(pins.Root(fakepod.BPFFS(t), "n"))
	if err != nil {
		t.Fatal(err)
	}
	defer pins.CloseAll(shared)
	index := podindex.New(shared, "")
	pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "peer", 7)
	number := headers.PodNumber(pod.UID)

	var mu sync.Mutex
	var problem error
	m, err := podmap.New(podmap.Config{Changed: func(pods []*podmap.Pod) {
		mu.Lock()
		defer mu.Unlock()
		problem = index.Follow(pods)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- m.Run(ctx, func() { close(ready) }) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	<-ready
	known, ok := m.Lookup(pod.UID)
	if !ok {
		t.Fatal("the pod is not found")
	}
	inKernel := func(name string, key any) (value uint64) {
		_ = shared[name].Lookup(key, &value) // 0 when it is not there
		return value
	}
	if got := inKernel("pods_by_netns", known.NetnsCookie); got != number {
		t.Errorf("the namespace is %x, want %x", got, number)
	}
	own, err := podmap.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	if got := inKernel("pods_by_netns", own); got != headers.Node {
		t.Errorf("the node's namespace is %x", got)
	}
	added := netip.MustParseAddr("198.51.100.77")
	pod.Run("ip", "address", "add", added.String()+"/32", "dev", "eth0")
	fakepod.Eventually(t, "a new address to be known", func() bool {
		return inKernel("pods_by_address", headers.AddressOf(added)) == number
	})
	if got, _ := index.OwnerOf(added); got != number {
		t.Errorf("the owner of the new address is %x", got)
	}
	pod.End()
	fakepod.Eventually(t, "the pod to be forgotten", func() bool {
		return inKernel("pods_by_netns", known.NetnsCookie) == 0 && inKernel("pods_by_address", headers.AddressOf(added)) == 0
	})
	mu.Lock()
	defer mu.Unlock()
	if problem != nil {
		t.Error(problem)
	}
}
