package podindex_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
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

	m, stop := follow(t, index, pod)
	defer stop()
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
}

// follow keeps the index of the test's own pods until stop, which fails the test if that did not work in the end. Other tests
// have pods with the same addresses.
func follow(t *testing.T, index *podindex.Index, fakes ...*fakepod.Pod) (m *podmap.Map, stop func()) {
	t.Helper()
	var mu sync.Mutex
	var problem error
	m, err := podmap.New(podmap.Config{Changed: func(pods []*podmap.Pod) {
		pods = slices.DeleteFunc(pods, func(pod *podmap.Pod) bool {
			return !slices.ContainsFunc(fakes, func(fake *fakepod.Pod) bool { return fake.UID == pod.Key })
		})
		mu.Lock()
		defer mu.Unlock()
		problem = index.Follow(pods)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- m.Run(ctx, func() { close(ready) }) }()
	<-ready
	return m, func() {
		cancel()
		if err := errors.Join(<-ended, problem); err != nil {
			t.Error(err)
		}
	}
}

// TestForeignAddresses: a pod that gives itself addresses of the node and of another pod gets neither, not after the
// agent's restart either, and none beyond its share of the table, which it could fill otherwise.
func TestForeignAddresses(t *testing.T) {
	shared, err := pins.Shared(pins.Root(fakepod.BPFFS(t), "n"))
	if err != nil {
		t.Fatal(err)
	}
	defer pins.CloseAll(shared)
	victim, thief, peer := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(victim.Namespace, peer, "eth0", "peer", 7)
	node := nodeAddress(t)
	theirs := netip.MustParseAddr("10.99.7.1")
	index := podindex.New(shared, "")
	_, stop := follow(t, index, victim, thief)
	if got, _ := index.OwnerOf(theirs); got != headers.PodNumber(victim.UID) {
		t.Fatalf("the owner of the pod's address is %x", got)
	}

	var commands strings.Builder
	fmt.Fprintf(&commands, "link add taken type veth peer name other\n")
	fmt.Fprintf(&commands, "address add %s/32 dev taken\naddress add %s/32 dev taken\n", node, theirs)
	for i := range 200 {
		fmt.Fprintf(&commands, "address add 198.51.100.%d/32 dev taken\n", i)
	}
	thief.RunInput(commands.String(), "ip", "-batch", "-")
	number := headers.PodNumber(thief.UID)
	for range 2 { // the second time of a new agent
		fakepod.Eventually(t, "the pod's own addresses to be known", func() bool {
			got, _ := index.OwnerOf(netip.MustParseAddr("198.51.100.0"))
			return got == number
		})
		if got, _ := index.OwnerOf(node); got != headers.Node {
			t.Errorf("the owner of the node's address is %x", got)
		}
		if got, _ := index.OwnerOf(theirs); got != headers.PodNumber(victim.UID) {
			t.Errorf("the owner of the other pod's address is %x", got)
		}
		stop()
		var address headers.Address
		var owner uint64
		count := 0
		for entries := shared["pods_by_address"].Iterate(); entries.Next(&address, &owner); {
			if owner == number {
				count++
			}
		}
		if count > 64 {
			t.Errorf("%d addresses of one pod are in the table", count)
		}
		index = podindex.New(shared, "")
		_, stop = follow(t, index, victim, thief)
	}
	stop()
}

// nodeAddress is one that this machine has.
func nodeAddress(t *testing.T) netip.Addr {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range addresses {
		prefix, err := netip.ParsePrefix(one.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr()
		}
	}
	t.Skip("this machine has no address of its own")
	return netip.Addr{}
}
