package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestPendingPod demands that a pod that no node can take is listed, and says so.
func TestPendingPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace := c.namespace(t)
	pod, err := c.kube.CoreV1().Pods(namespace).Create(t.Context(), toolbox("nowhere", "no-such-node", "/bin/true"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, podDeadline, "the pod's object", func(ctx context.Context) error {
		stats, err := c.get(ctx, pod)
		if err != nil {
			return err
		}
		if stats.State != v1alpha1.Pending || stats.Message == "" || stats.NodeName != "" || stats.Traffic != nil {
			return fmt.Errorf("%s: %s", stats.State, stats.Message)
		}
		return nil
	})
}

// TestFirstSecondsAreCounted lets a pod send at once: what it sent before anybody asked is in its counters. The
// agent has five seconds to see a new pod, and how much of what was sent earlier was counted is only logged.
func TestFirstSecondsAreCounted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	receiver := c.start(t, namespace, sink("receiver", nodes[0]))[0]
	to := target(t, receiver, "ipv4")
	const early, late = 100, 500
	script := fmt.Sprintf("/bin/traffic udp %s %d 100; sleep 5; /bin/traffic udp %s %d 100; exec sleep 3600", to, early, to, late)
	pod := c.start(t, namespace, toolbox("early", nodes[1], "/bin/sh", "-c", script))[0]
	var sent int64
	eventually(t, podDeadline, "the first datagrams to be counted", func(ctx context.Context) error {
		stats, err := c.get(ctx, pod)
		if err != nil {
			return err
		}
		if stats.Traffic == nil {
			return fmt.Errorf("%s: %s", stats.State, stats.Message)
		}
		if sent = stats.Traffic.Transmit.IPv4.Unicast.Packets; sent < late {
			return fmt.Errorf("%d of %d datagrams", sent, late)
		}
		return nil
	})
	t.Logf("%d of the %d datagrams that it sent as it started were counted", sent-late, early)
}

// TestContainerRestart ends a pod's only container: the pod stays, and so do its counters.
func TestContainerRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.start(t, c.namespace(t), sink("restarted", c.nodes(t)[0]))[0]
	before := c.pinged(t, pod)
	signal(t, process(t, pod, "traffic"), unix.SIGKILL)
	eventually(t, podDeadline, "the container to start again", func(ctx context.Context) error {
		return c.restarted(ctx, pod)
	})
	c.waitMeasured(t, podDeadline, pod)
	c.outwaitShared(t, pod)
	after, err := c.get(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	checkRisen(t, *before, *after)
}

// TestSandboxRestart ends the process that holds a pod's network namespace: the kubelet makes another, and the
// counters of the same pod go on.
func TestSandboxRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.start(t, c.namespace(t), sink("moved", c.nodes(t)[0]))[0]
	before := c.pinged(t, pod)
	old := podNetns(t, pod)
	signal(t, process(t, pod, "pause"), unix.SIGKILL)
	eventually(t, podDeadline, "another network namespace", func(ctx context.Context) error {
		if err := c.restarted(ctx, pod); err != nil {
			return err
		}
		if old.exists() {
			return errors.New("the old one is there")
		}
		return nil
	})
	c.waitMeasured(t, podDeadline, pod)
	c.outwaitShared(t, pod)
	after, err := c.get(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	checkRisen(t, *before, *after)
}

// pinged sends from a pod, so that it has counters, and returns them.
func (c *cluster) pinged(t *testing.T, pod *corev1.Pod) *v1alpha1.PodNetworkStats {
	t.Helper()
	c.waitMeasured(t, podDeadline, pod)
	gateway := net.ParseIP(address(t, pod, "ipv4")).To4()
	gateway[3] = 1
	c.exec(t, pod, "/bin/traffic", "udp", net.JoinHostPort(gateway.String(), "9"), "1", "100")
	var stats *v1alpha1.PodNetworkStats
	eventually(t, podDeadline, "the pod's traffic", func(ctx context.Context) (err error) {
		if stats, err = c.get(ctx, pod); err != nil {
			return err
		}
		if stats.Traffic == nil || stats.Traffic.Transmit.Packets == 0 {
			return fmt.Errorf("%s %+v", stats.State, stats.Traffic)
		}
		return nil
	})
	return stats
}

// restarted is nil when a container of the pod was started again, and is ready.
func (c *cluster) restarted(ctx context.Context, pod *corev1.Pod) error {
	now, err := c.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if now.Status.ContainerStatuses[0].RestartCount == 0 || !isReady(now) {
		return fmt.Errorf("%d restarts, ready: %v", now.Status.ContainerStatuses[0].RestartCount, isReady(now))
	}
	return nil
}

// TestSecondInterface gives two running pods a link of their own: what crosses it is counted too, in the same
// totals.
func TestSecondInterface(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, node := c.namespace(t), c.nodes(t)[0]
	pods := c.start(t, namespace, sink("left", node), sink("right", node))
	left, right := c.count(t, pods[0], nil), c.count(t, pods[1], nil)
	c.snapshot(t, left, right) // both are counted by now
	left.netns.run(t, "", "ip", "link", "add", "extra", "type", "veth", "peer", "name", "extra", "netns", right.netns.pid())
	for i, pod := range []counted{left, right} {
		pod.netns.run(t, "", "ip", "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "extra")
		pod.netns.run(t, "", "ip", "link", "set", "extra", "up")
	}
	eventually(t, podDeadline, "the new interface to be counted", func(context.Context) error {
		before := c.snapshot(t, left)
		c.exec(t, left.Pod, "/bin/traffic", "udp", "192.0.2.2:"+sinkPort, "1", "100")
		if moved := changeOf("left", before, c.snapshot(t, left)).stats["transmit4"]; moved.Packets == 0 {
			return errors.New("a datagram was not counted")
		}
		return nil
	})
	before := c.snapshot(t, left, right)
	c.exec(t, left.Pod, "/bin/traffic", "udp", "192.0.2.2:"+sinkPort, "1000", "500")
	after := c.snapshot(t, left, right)
	for _, pod := range []counted{left, right} {
		changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
	}
	if got := changeOf("right", before, after).stats["receive4"]; got != (v1alpha1.TrafficCounters{Packets: 1000, Bytes: 528000, Buffers: 1000}) {
		t.Errorf("1000 datagrams crossed the new link, and the statistics rose by %+v", got)
	}
}

// TestRates sends at a known pace and demands a rate that is near it, over a window of at most 10 s.
func TestRates(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.nodes(t)
	receiver := c.start(t, c.namespace(t), sink("receiver", nodes[0]))[0]
	sender := c.start(t, receiver.Namespace, toolbox("sender", nodes[1], "/bin/traffic", "udp", target(t, receiver, "ipv4"), "0", "972", "10ms"))[0]
	var first *v1alpha1.PodNetworkStats
	eventually(t, podDeadline, "a rate over a window in which it always sent", func(ctx context.Context) error {
		now, err := c.get(ctx, sender)
		if err != nil {
			return err
		}
		if now.Window == nil || now.Traffic == nil || now.Traffic.Transmit.BytesPerSecond == nil {
			return fmt.Errorf("%s, window %v", now.State, now.Window)
		}
		if now.Window.Duration <= 0 || now.Window.Duration > 10*time.Second {
			t.Fatalf("the window is %v", now.Window.Duration)
		}
		if first == nil {
			first = now
		}
		if now.Timestamp.Sub(first.Timestamp.Time) < now.Window.Duration {
			return fmt.Errorf("the window of %v began before the sender", now.Window.Duration)
		}
		return checkRate(first, now)
	})
}

// checkRate compares a rate with what the counters of two answers say, and leaves room for the edges.
func checkRate(first, now *v1alpha1.PodNetworkStats) error {
	seconds := now.Timestamp.Sub(first.Timestamp.Time).Seconds()
	want := float64(now.Traffic.Transmit.Bytes-first.Traffic.Transmit.Bytes) / seconds
	got := now.Traffic.Transmit.BytesPerSecond.AsApproximateFloat64()
	if got < want/2 || got > want*2 {
		return fmt.Errorf("the rate is %.0f bytes a second, and the counters rose by %.0f a second", got, want)
	}
	return nil
}
