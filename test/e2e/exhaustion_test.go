package e2e

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// Incidents in which something is used up, or agents are not as they should be.

// agentDaemons is the DaemonSet of the agents.
const agentDaemons = "networkobservability-nodeagent"

// manyConnections has a pod of the first node send datagrams to its node until 85% of what the node's connection tracking
// may hold is used. The kernel compares the limit with the entries of each network namespace, so other nodes and this
// machine do not notice; and what is left is enough for the node's own connections.
func (b *stage) manyConnections(t *testing.T) {
	t.Helper()
	agent := b.agents(t)[b.nodes[0]]
	number := func(name string) int {
		text := podNetns(t, agent).run(t, "", "cat", "/proc/sys/net/netfilter/nf_conntrack_"+name)
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			t.Fatalf("reading nf_conntrack_%s: %v", name, err)
		}
		return n
	}
	want := number("max") * 85 / 100
	// Entries of datagrams that nobody answers live for 30 s. On a busy machine the first may have gone when the last come.
	eventually(t, alertDeadline, fmt.Sprintf("%d tracked connections", want), func(context.Context) error {
		there := number("count")
		if there >= want {
			return nil
		}
		b.flood(t, agent.Status.HostIP, want-there)
		return fmt.Errorf("there were %d", there)
	})
}

// manyFlows has the same pod begin more flows over IPv4 than an agent's table has room for. Its node lets none of them in,
// and so does not track them.
func (b *stage) manyFlows(t *testing.T) {
	t.Helper()
	agent := b.agents(t)[b.nodes[0]]
	filter(t, podNetns(t, agent), "netobs_flood", "prerouting", "ip saddr "+address(t, b.pods["flooding"], "ipv4")+" drop")
	b.flood(t, agent.Status.HostIP, 140_000)
}

// flood sends so many datagrams, each from another port or to another one.
func (b *stage) flood(t *testing.T, to string, count int) {
	t.Helper()
	workers := runtime.NumCPU()
	b.exec(t, b.pods["flooding"], "/bin/sh", "-c",
		fmt.Sprintf("for i in $(seq %d); do traffic ports %s %d & done; wait", workers, to, count/workers+1))
}

// manyNames has one pod ask for more names in a second than are told of one pod.
func (b *stage) manyNames(t *testing.T) {
	t.Helper()
	b.exec(t, b.pods["asking"], "/bin/sh", "-c",
		"for i in 1 2 3 4; do traffic dns kubernetes.default.svc.cluster.local. 500 0s & done; wait")
}

// tunnel is an interface of the second node while there is an incident.
const tunnel = "netobs_tunnel"

// tunnelToNowhere makes a tunnel to where no route leads, as a network of pods has one to each other node, and has the
// node send into it. The kernel counts each packet as an error of the interface.
func (b *stage) tunnelToNowhere(t *testing.T) {
	t.Helper()
	const far, local, peer = "203.0.113.1", "192.0.2.1", "192.0.2.2" // addresses for documentation
	node := podNetns(t, b.agents(t)[b.nodes[1]])
	node.run(t, "", "ip", "route", "add", "unreachable", far)
	t.Cleanup(func() { b.inNode(t, node, "ip", "route", "delete", "unreachable", far) })
	node.run(t, "", "ip", "link", "add", tunnel, "type", "vxlan", "id", "5", "remote", far, "dstport", "4789")
	t.Cleanup(func() { b.inNode(t, node, "ip", "link", "delete", tunnel) })
	node.run(t, "", "ip", "address", "add", local+"/30", "dev", tunnel)
	node.run(t, "", "ip", "link", "set", tunnel, "up")
	node.run(t, "", "ip", "neighbour", "add", peer, "lladdr", "02:00:00:00:00:01", "dev", tunnel)
	b.inBackground(t, node.command(t.Context(), b.traffic(), "udp", net.JoinHostPort(peer, "9"), "0", "100", "10ms"))
}

// inNode runs a program in a node's network when a test is over.
func (b *stage) inNode(t *testing.T, node netns, program string, args ...string) {
	t.Helper()
	if out, err := node.command(context.Background(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v: %s", program, args, err, out)
	}
}

// slowRecorder has an agent that records a pod do nothing while the pod gets more than the kernel keeps for it.
func (b *stage) slowRecorder(t *testing.T) {
	t.Helper()
	b.recordOne(t, "missed", "recorded")
	resume := b.stopAgent(t, b.agents(t)[b.nodes[1]])
	b.send(t, "recorded", 200_000_000)
	resume()
}

// recordOne captures one pod's packets until the test ends.
func (b *stage) recordOne(t *testing.T, name, pod string) {
	t.Helper()
	capture := newCapture(name, "")
	capture.Spec.Pods = v1alpha1.CapturePods{Names: []string{pod}}
	t.Cleanup(func() { b.deleteCapture(t, name) })
	b.capture(t, b.namespace, capture, 1)
}

// deleteCapture deletes a capture when a test is over.
func (b *stage) deleteCapture(t *testing.T, name string) {
	t.Helper()
	if err := b.stats.NetworkobservabilityV1alpha1().Captures(b.namespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting capture %s: %v", name, err)
	}
}

// send sends so many bytes to a pod.
func (b *stage) send(t *testing.T, pod string, bytes int) {
	t.Helper()
	b.exec(t, b.sink, "/bin/traffic", "tcp", target(t, b.pods[pod], "ipv4"), strconv.Itoa(bytes))
}

// replaceAgents takes all agents away, brings them back with a hook less and little room for captures, and has them be as
// they were in the end.
func (b *stage) replaceAgents(t *testing.T, seen *record) {
	const config = "incidents"
	b.kubectl(t, "create", "configmap", config, "--namespace", agentv1.Namespace,
		"--from-literal=config.yaml=withoutHooks: [kfree_skb]\ncaptures:\n  quota: 16Mi")
	t.Cleanup(func() {
		if err := b.kube.CoreV1().ConfigMaps(agentv1.Namespace).Delete(context.Background(), config, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting the configuration: %v", err)
		}
	})
	set, err := b.kube.AppsV1().DaemonSets(agentv1.Namespace).Get(t.Context(), agentDaemons, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shipped := set.Spec.Template.Spec
	play(t, seen, []expected{
		{"NetworkAgentsAbsent", nil},
		{"NetworkAgentCollectorDegraded", []string{"node=" + b.nodes[1], "collector=drops"}},
		{"NetworkCaptureStorageFull", []string{"node=" + b.nodes[1]}},
		{"NetworkCapturesFailing", nil},
	}, func(t *testing.T) {
		t.Cleanup(func() { b.changeAgents(t, func(spec *corev1.PodSpec) { *spec = *shipped.DeepCopy() }) })
		b.changeAgents(t, func(spec *corev1.PodSpec) { spec.NodeSelector = map[string]string{"example.com/nowhere": "true"} })
		seen.awaitFiring(t, "NetworkAgentsAbsent")
		b.changeAgents(t, func(spec *corev1.PodSpec) {
			spec.NodeSelector = shipped.NodeSelector
			i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == "config" })
			spec.Volumes[i].ConfigMap.Name = config
		})
		b.waitHealthy(t)
		b.recordOne(t, "full", "recorded")
		b.send(t, "recorded", 50_000_000)
	})
	b.waitHealthy(t)
}

// changeAgents changes the DaemonSet of the agents, also when a test is over.
func (b *stage) changeAgents(t *testing.T, change func(*corev1.PodSpec)) {
	t.Helper()
	daemons := b.kube.AppsV1().DaemonSets(agentv1.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		set, err := daemons.Get(context.Background(), agentDaemons, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&set.Spec.Template.Spec)
		_, err = daemons.Update(context.Background(), set, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Errorf("changing the agents: %v", err)
	}
}
