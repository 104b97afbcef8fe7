package flows

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// TestAgainstCounters: a real pod sends and receives, and what passed in its flows is what its counters say, packet for
// packet and byte for byte, as long as the table is not full; two processes of the agent see it one after the other.
func TestAgainstCounters(t *testing.T) {
	bpffs := fakepod.BPFFS(t)
	fake, peer := fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(fake.Namespace, peer, "eth0", "peer0", 7)
	root := pins.Root(bpffs, "n")
	shared, err := pins.Shared(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pins.CloseAll(shared) }) // not deferred: followOne's end must come first
	counters := traffic.New(traffic.Config{BPFFS: bpffs, Node: "n", Hook: traffic.Auto, Shared: shared, Flows: true})
	t.Cleanup(counters.Close)
	history := New(Config{Root: root, Shared: shared})
	t.Cleanup(func() { history.Close() })
	pod := followOne(t, counters.Follow, fake)
	history.Follow([]*podmap.Pod{pod})

	const flows, rounds = 20_000, 4
	sent := int64(0)
	for round := range rounds {
		sent += scatter(t, fake.Namespace, flows, 40_000)
		if round == 1 { // a new process
			history.Close()
			history = New(Config{Root: root, Shared: shared})
			history.Follow([]*podmap.Pod{pod})
		}
		var row *v1alpha1.PodStats
		fakepod.Eventually(t, "flows that are equal to the counters", func() bool {
			if err := history.drainUnless(0); err != nil {
				t.Fatal(err)
			}
			row = &v1alpha1.PodStats{Measurement: &v1alpha1.Measurement{}}
			if err := counters.ReadPod(pod, row); err != nil {
				t.Fatal(err)
			}
			if err := (snapshot{history, nil}).ReadPod(pod, row); err != nil {
				t.Fatal(err)
			}
			packets, bytes := counted(row.Traffic)
			return row.Flows.Packets+row.Flows.Unparsed == packets && (row.Flows.Unparsed > 0 || row.Flows.Bytes == bytes) && packets >= sent
		}, func() string { return fmt.Sprintf("%d packets sent, row %v", sent, row) })
	}
	node := &v1alpha1.NodeStats{}
	if err := (snapshot{history, nil}).ReadNode(node); err != nil {
		t.Fatal(err)
	}
	if node.Flows.Evicted != 0 || node.Flows.Present < flows {
		t.Errorf("the node's table is %v", node.Flows)
	}
}

// followOne waits until the pod is followed, and gives what is known of it. Follow is called until the test's cleanup.
func followOne(t *testing.T, follow func([]*podmap.Pod), fake *fakepod.Pod) *podmap.Pod {
	t.Helper()
	found := make(chan *podmap.Pod, 1)
	pods, err := podmap.New(podmap.Config{Changed: func(all []*podmap.Pod) {
		for _, pod := range all {
			if pod.Key == fake.UID {
				follow([]*podmap.Pod{pod})
				select {
				case found <- pod:
				default:
				}
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- pods.Run(ctx, func() {}) }()
	t.Cleanup(sync.OnceFunc(func() { cancel(); <-ended }))
	return <-found
}

// scatter sends packets over UDP to as many ports of the peer, over and over, and says how many.
func scatter(t *testing.T, from *fakepod.Namespace, ports, packets int) (sent int64) {
	t.Helper()
	from.Do(func() {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 99, 7, 1), Port: 9999})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for i := range packets {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, 7, 2}), uint16(1+i%ports))
			if _, err := c.WriteToUDPAddrPort(make([]byte, i%100), to); err == nil { // it may hear of a closed port instead
				sent++
			}
		}
	})
	return sent
}

func counted(traffic *v1alpha1.Traffic) (packets, bytes int64) {
	for _, d := range []*v1alpha1.DirectionTraffic{traffic.Receive, traffic.Transmit} {
		for _, c := range []*v1alpha1.Counters{d.Ipv4Unicast, d.Ipv4NonUnicast, d.Ipv6Unicast, d.Ipv6NonUnicast} {
			packets += c.Packets
			bytes += c.Bytes
		}
	}
	return packets, bytes
}
