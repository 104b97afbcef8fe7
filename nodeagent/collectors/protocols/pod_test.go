package protocols

import (
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each pod has the counters of its own namespace, and one in the node's network has none.
func TestPods(t *testing.T) {
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	one, two := fakepod.New(t, prefix), fakepod.New(t, prefix)
	for pod, count := range map[*fakepod.Pod]int{one: 3, two: 5} {
		pod.Do(func() { send(t, count) })
	}
	pods := follow(t)
	for pod, count := range map[*fakepod.Pod]int64{one: 3, two: 5} {
		var found *podmap.Pod
		fakepod.Eventually(t, "finding the pod", func() (ok bool) {
			found, ok = pods.Lookup(pod.UID)
			return ok
		})
		row := &v1alpha1.PodStats{}
		if err := New().ReadPod(found, row); err != nil {
			t.Fatal(err)
		}
		equal(t, "without a port", row.Protocols.Udp.NoPorts, count)
		if row.Protocols.Ipv6 == nil || row.Protocols.Icmpv6 == nil {
			t.Error("no IPv6")
		}
	}
	row := &v1alpha1.PodStats{}
	if err := New().ReadPod(&podmap.Pod{HostNetwork: true}, row); err != nil || row.Protocols != nil {
		t.Errorf("in the node's network: %v (%v)", row.Protocols, err)
	}
}

// send sends datagrams to a port where nobody listens, and is told so each time.
func send(t *testing.T, count int) {
	for range count {
		socket, err := net.Dial("udp", "127.0.0.1:7000")
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := socket.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		socket.Close()
	}
}

func follow(t *testing.T) *podmap.Map {
	t.Helper()
	pods, err := podmap.New(podmap.Config{Changed: func([]*podmap.Pod) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- pods.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	return pods
}
