package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestClsact has all agents attach as they do on kernels without tcx, and back. Counts are exact with either, while
// an agent is replaced too, and nothing is counted twice after a change.
func TestClsact(t *testing.T) {
	c := newCluster(t)
	b := newBed(t, c)
	for _, pod := range []counted{b.sink, b.near, b.far} {
		pod.netns.run(t, "", "ip", "link", "set", "eth0", "gso_max_segs", "1")
	}
	restore := c.useConfig(t, "clsact", "traffic: {hook: clsact}")
	c.checkHook(t, v1alpha1.CollectorDegraded)
	t.Run("exact", func(t *testing.T) { b.checkExact(t, c) })
	t.Run("agent replaced", func(t *testing.T) {
		before := c.snapshot(t, b.sink, b.far)
		stop := b.keepSending(t)
		c.deleteAgent(t)
		c.waitHealthy(t)
		c.waitMeasured(t, podDeadline, b.sink.Pod, b.far.Pod)
		stop()
		after := c.snapshot(t, b.sink, b.far)
		for _, pod := range []counted{b.sink, b.far} {
			changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
		}
	})
	restore()
	c.checkHook(t, v1alpha1.CollectorRunning)
	t.Run("exact after the way back", func(t *testing.T) { b.checkExact(t, c) })
}

// checkExact sends a little of everything.
func (b bed) checkExact(t *testing.T, c *cluster) {
	t.Helper()
	before := c.snapshot(t, b.sink, b.near, b.far)
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, near := range []bool{true, false} {
			c.exec(t, b.sender(near).Pod, "/bin/traffic", "udp", target(t, b.sink.Pod, family), "500", "300")
			c.exec(t, b.sender(near).Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, family), "300000")
		}
	}
	after := c.snapshot(t, b.sink, b.near, b.far)
	for _, pod := range []counted{b.sink, b.near, b.far} {
		changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
	}
}

// useConfig rolls out agents with another configuration, until the returned function is called.
func (c *cluster) useConfig(t *testing.T, name, config string) (restore func()) {
	t.Helper()
	const daemonset = "daemonset/networkobservability-nodeagent"
	wait := func(t *testing.T) {
		c.kubectl(t, "rollout", "status", daemonset, "--namespace", agentv1.Namespace, "--timeout="+podDeadline.String())
		c.waitHealthy(t)
	}
	c.kubectl(t, "create", "configmap", name, "--namespace", agentv1.Namespace, "--from-literal=config.yaml="+config)
	patch := `{"spec":{"template":{"spec":{"volumes":[{"name":"config","configMap":{"name":"` + name + `"}}]}}}}`
	c.kubectl(t, "patch", daemonset, "--namespace", agentv1.Namespace, "--patch="+patch)
	undo := sync.OnceFunc(func() {
		// In a cleanup the test's context is over.
		for _, arguments := range [][]string{{"rollout", "undo", daemonset}, {"delete", "configmap", name}} {
			if out, err := c.kubectlCommand(context.Background(), append(arguments, "--namespace", agentv1.Namespace)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", arguments, err, out)
			}
		}
	})
	t.Cleanup(undo)
	wait(t)
	return func() { undo(); wait(t) }
}

// checkHook demands that every agent says how well it counts.
func (c *cluster) checkHook(t *testing.T, want v1alpha1.CollectorState) {
	t.Helper()
	list, err := c.stats.NetworkobservabilityV1alpha1().NodeNetworkStats().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, stats := range list.Items {
		if stats.Agent == nil {
			t.Errorf("node %s is %s: %s", stats.Name, stats.State, stats.Message)
			continue
		}
		i := slices.IndexFunc(stats.Agent.Collectors, func(s v1alpha1.CollectorStatus) bool { return s.Name == "traffic" })
		if i < 0 || stats.Agent.Collectors[i].State != want {
			t.Errorf("node %s has collectors %+v, want traffic to be %s", stats.Name, stats.Agent.Collectors, want)
		}
	}
}
