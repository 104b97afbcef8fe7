package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestHostNetworkPod demands that the traffic of a pod in the node's network is its own, to the packet, or said not
// to be known.
func TestHostNetworkPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	host := toolbox("host", nodes[0], "/bin/sleep", "3600")
	host.Spec.HostNetwork = true
	pods := c.start(t, namespace, host, sink("sink", nodes[1]))
	from := map[string]string{
		"from_host_ipv4": "ip saddr " + address(t, pods[0], "ipv4"),
		"from_host_ipv6": "ip6 saddr " + address(t, pods[0], "ipv6") + " ip6 nexthdr != icmpv6",
	}
	receiver := c.count(t, pods[1], from)
	c.segmentBefore(t, receiver)
	state := c.hostState(t, pods[0])
	t.Logf("a pod in the node's network is %s", state)
	if state == v1alpha1.NotAttributed {
		return
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, args := range [][]string{{"udp", "1000", "500"}, {"tcp", "2000000"}} {
			t.Run(args[0]+" over "+family, func(t *testing.T) {
				command := append([]string{"/bin/traffic", args[0], target(t, pods[1], family)}, args[1:]...)
				for range 5 {
					repeated := retransmitted(t, receiver.netns)
					before, counted := c.freshStats(t, pods[0]), receiver.counters(t)
					c.exec(t, pods[0], command...)
					after, arrived := c.freshStats(t, pods[0]), receiver.counters(t)
					// What a peer sends again after the connection's end is acknowledged by the kernel itself, in nobody's cgroup.
					if retransmitted(t, receiver.netns) != repeated {
						continue
					}
					sent := changeOf("host", before, after).stats["transmit"+family[3:]]
					name := "from_host_" + family
					if want := arrived[name].minus(counted[name]); sent.Packets != want.Packets || sent.Bytes != want.Bytes {
						t.Errorf("the pod sent %+v by its statistics, and %+v arrived by nftables", sent, want)
					}
					return
				}
				t.Skip("the machine lost segments five times in a row")
			})
		}
	}
}

// hostState waits for the state of a pod in the node's network.
func (c *cluster) hostState(t *testing.T, pod *corev1.Pod) (state v1alpha1.MeasurementState) {
	t.Helper()
	eventually(t, podDeadline, "the state of a pod in the node's network", func(ctx context.Context) error {
		stats, err := c.get(ctx, pod)
		if err != nil {
			return err
		}
		state = stats.State
		switch {
		case !stats.HostNetwork || stats.Protocols != nil:
			return fmt.Errorf("hostNetwork %v, protocols %v", stats.HostNetwork, stats.Protocols)
		case state == v1alpha1.NotAttributed && stats.Message != "" && stats.Traffic == nil:
			return nil
		case state == v1alpha1.Measured && stats.Traffic != nil:
			return nil
		}
		return fmt.Errorf("%s: %s", state, stats.Message)
	})
	return state
}

// freshStats reads the statistics of a pod from this moment on.
func (c *cluster) freshStats(t *testing.T, pod *corev1.Pod) snapshot {
	t.Helper()
	now, s := time.Now(), snapshot{}
	eventually(t, podDeadline, "a reading of now", func(ctx context.Context) (err error) {
		s.stats, err = c.statsSince(ctx, now, []counted{{Pod: pod}})
		return err
	})
	return s
}

// TestHostNetworkOverReplacement replaces the agent while a pod in the node's network sends.
func TestHostNetworkOverReplacement(t *testing.T) {
	c := newCluster(t)
	namespace, nodes := c.namespace(t), c.nodes(t)
	receiver := c.start(t, namespace, sink("sink", nodes[1]))[0]
	host := toolbox("host", nodes[0], "/bin/traffic", "udp", target(t, receiver, "ipv4"), "0", "300", "2ms")
	host.Spec.HostNetwork = true
	sender := c.start(t, namespace, host)[0]
	if c.hostState(t, sender) == v1alpha1.NotAttributed {
		t.Skip("the nodes cannot tell the traffic of pods in their network")
	}
	there := c.count(t, receiver, map[string]string{"from_host": "ip saddr " + address(t, sender, "ipv4")})
	pid := process(t, sender, "traffic")
	signal(t, pid, unix.SIGSTOP)
	before, counted := c.freshStats(t, sender), there.counters(t)
	signal(t, pid, unix.SIGCONT)
	c.deleteAgent(t)
	c.waitHealthy(t)
	c.waitMeasured(t, podDeadline, sender)
	signal(t, pid, unix.SIGSTOP)
	after, arrived := c.freshStats(t, sender), there.counters(t)
	signal(t, pid, unix.SIGCONT)
	sent, want := changeOf("host", before, after).stats["transmit4"], arrived["from_host"].minus(counted["from_host"])
	if sent.Packets != want.Packets || sent.Bytes != want.Bytes || want.Packets == 0 {
		t.Errorf("the pod sent %+v by its statistics, and %+v arrived by nftables", sent, want)
	}
	checkRisen(t, *before.stats["host"], *after.stats["host"])
}

// retransmitted is how many segments of TCP a namespace has sent again.
func retransmitted(t *testing.T, ns netns) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(ns.run(t, "", "cat", "/proc/net/snmp")) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			return fields[slices.Index(names, "RetransSegs")]
		}
	}
	t.Fatal("the kernel has no counters of TCP")
	return ""
}
