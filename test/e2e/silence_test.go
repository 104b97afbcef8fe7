package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const agentProgram = "networkobservability-nodeagent"

// breakerDeadline is for a list of a replica that knows that a node is silent.
const breakerDeadline = 2 * time.Second

// stopAgent freezes an agent until the returned function is called.
func (c *cluster) stopAgent(t *testing.T, agent *corev1.Pod) (resume func()) {
	t.Helper()
	pid := process(t, agent, agentProgram)
	signal(t, pid, unix.SIGSTOP)
	resume = func() { signal(t, pid, unix.SIGCONT) }
	t.Cleanup(resume)
	return resume
}

// cutOffAgent drops everything that is sent to an agent until the returned function is called.
func (c *cluster) cutOffAgent(t *testing.T, agent *corev1.Pod) (heal func()) {
	t.Helper()
	return c.dropAt(t, agent, "")
}

// dropAt drops what is sent to an agent and matches, in the node, without telling anybody.
func (c *cluster) dropAt(t *testing.T, agent *corev1.Pod, match string) (heal func()) {
	t.Helper()
	node := podNetns(t, agent)
	node.run(t, fmt.Sprintf(`table inet netobs_e2e_cut {
		chain input { type filter hook input priority -300; tcp dport %d %s drop; }
	}`, agentv1.Port, match), "nft", "-f", "-")
	heal = sync.OnceFunc(func() {
		if out, err := node.command(context.Background(), "nft", "delete", "table", "inet", "netobs_e2e_cut").CombinedOutput(); err != nil {
			t.Errorf("ending the loss: %v: %s", err, out)
		}
	})
	t.Cleanup(heal)
	return heal
}

// TestSilentNode makes the agent of one node silent, in two ways, and reads while it is. It disturbs the whole
// cluster, so it runs alone.
func TestSilentNode(t *testing.T) {
	c := newCluster(t)
	nodes := c.nodes(t)
	namespace := c.namespace(t)
	pods := c.start(t, namespace, sink("here", nodes[0]), sink("there", nodes[1]))
	c.waitMeasured(t, podDeadline, pods...)
	for _, test := range []struct {
		name    string
		silence func(*cluster, *testing.T, *corev1.Pod) func()
	}{
		{"agent stopped", (*cluster).stopAgent},
		{"node cut off", (*cluster).cutOffAgent},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := c.follow(t, namespace)
			before := c.list(t, namespace).of(t, pods[1])
			restore := test.silence(c, t, c.agents(t)[nodes[1]])
			c.checkSilence(t, pods[0], pods[1])
			if gone := f.deletions(); len(gone) != 0 {
				t.Errorf("the informer was told that %v are gone, and every pod is there", gone)
			}
			f.waitFor(t, "there", "that the node is silent", func(s *v1alpha1.PodNetworkStats) bool { return s.State == v1alpha1.NodeSilent })
			restore()
			t.Logf("recovered within %v", c.waitMeasured(t, answerDeadline, pods[1]).Round(time.Millisecond))
			checkRisen(t, before, c.list(t, namespace).of(t, pods[1]))
			f.waitFor(t, "there", "the node's answer", func(s *v1alpha1.PodNetworkStats) bool { return s.State == v1alpha1.Measured })
			if gone := f.deletions(); len(gone) != 0 {
				t.Errorf("the informer was told that %v are gone, and every pod is there", gone)
			}
			f.checkFaults(t)
		})
	}
}

// TestAllSilent stops every agent: then there is an error and no list of empty objects, and still nobody is told
// that a pod is gone.
func TestAllSilent(t *testing.T) {
	c := newCluster(t)
	namespace := c.namespace(t)
	pod := c.start(t, namespace, sink("any", c.nodes(t)[0]))[0]
	c.waitMeasured(t, podDeadline, pod)
	f := c.follow(t, namespace)
	var resume []func()
	for _, agent := range c.agents(t) {
		resume = append(resume, c.stopAgent(t, agent))
	}
	start := time.Now()
	response := c.raw(t, fmt.Sprintf("/apis/%s/podnetworkstats", v1alpha1.SchemeGroupVersion))
	took := time.Since(start)
	if _, retry := response.Header["Retry-After"]; response.StatusCode != http.StatusServiceUnavailable || retry || took > answerDeadline {
		t.Errorf("with all agents stopped a list gives %s after %v, Retry-After: %v", response.Status, took, retry)
	}
	if r := c.kubectlFails(t, "get", "podnetworkstats", "--all-namespaces"); !strings.Contains(r.stderr, "(ServiceUnavailable)") || r.took > answerDeadline {
		t.Errorf("kubectl took %v and says %s", r.took, r.stderr)
	}
	for _, undo := range resume {
		undo()
	}
	t.Logf("recovered within %v", c.waitMeasured(t, answerDeadline, pod).Round(time.Millisecond))
	if gone := f.deletions(); len(gone) != 0 {
		t.Errorf("the informer was told that %v are gone, and every pod is there", gone)
	}
	f.checkFaults(t)
}

// TestSlowAgent stops an agent for two seconds: a read that falls into them waits, and its answer is whole.
func TestSlowAgent(t *testing.T) {
	c := newCluster(t)
	node := c.nodes(t)[1]
	pod := c.start(t, c.namespace(t), sink("slow", node))[0]
	c.waitMeasured(t, podDeadline, pod)
	stopped := time.Now()
	resume := c.stopAgent(t, c.agents(t)[node])
	timer := time.AfterFunc(2*time.Second, resume)
	defer timer.Stop()
	eventually(t, podDeadline, "an answer of the slow agent", func(context.Context) error {
		list := c.list(t, "")
		stats := list.of(t, pod)
		if stats.State != v1alpha1.Measured || len(list.warnings) != 0 {
			t.Fatalf("after %v the pod of a slow agent is %s (%s), warnings %q", list.took, stats.State, stats.Message, list.warnings)
		}
		if stats.Timestamp.Time.Before(stopped) {
			return errors.New("it is one from before, which is shared for a second")
		}
		t.Logf("the list took %v", list.took.Round(time.Millisecond))
		return nil
	})
}

// checkSilence reads in every way while the node of silent does not answer.
func (c *cluster) checkSilence(t *testing.T, measured, silent *corev1.Pod) {
	t.Helper()
	first := c.list(t, "")
	t.Logf("the first list took %v and warned: %q", first.took.Round(time.Millisecond), first.warnings)
	c.checkPartial(t, first, measured, silent)
	if first.took > answerDeadline {
		t.Errorf("the first list took %v", first.took)
	}
	c.checkBreaker(t, measured, silent)
	c.checkUnavailable(t, silent)
	c.checkSilentInKubectl(t, silent)
	c.checkSilentNodeStats(t, silent.Spec.NodeName)
}

// checkBreaker lists again and again: a replica waits for a silent node once, and from then on knows.
func (c *cluster) checkBreaker(t *testing.T, measured, silent *corev1.Pod) {
	t.Helper()
	slow := 1 // the first list, before
	var fastest time.Duration
	for range readsOfAll {
		next := c.list(t, "")
		c.checkPartial(t, next, measured, silent)
		if fastest == 0 || next.took < fastest {
			fastest = next.took
		}
		if next.took > breakerDeadline {
			slow++
		}
		if next.took > answerDeadline {
			t.Errorf("a list took %v", next.took)
		}
	}
	replicas := len(c.servers(t))
	t.Logf("%d of %d lists had to wait, with %d replicas; the fastest took %v", slow, readsOfAll+1, replicas, fastest.Round(time.Millisecond))
	if slow > replicas {
		t.Errorf("%d lists waited for the silent node, and each of %d replicas should once", slow, replicas)
	}
}

// checkPartial demands an answer that holds everything of the nodes that answer, and names the one that does not.
func (c *cluster) checkPartial(t *testing.T, a answer, measured, silent *corev1.Pod) {
	t.Helper()
	if warned := strings.Join(a.warnings, "\n"); !strings.Contains(warned, silent.Spec.NodeName) || strings.Contains(warned, measured.Spec.NodeName) {
		t.Errorf("the warnings should name %s and no other node: %q", silent.Spec.NodeName, a.warnings)
	}
	if stats := a.of(t, measured); stats.State != v1alpha1.Measured || stats.Traffic == nil {
		t.Errorf("a pod of a node that answers is %s: %s", stats.State, stats.Message)
	}
	stats := a.of(t, silent)
	if stats.State != v1alpha1.NodeSilent || stats.Message == "" || stats.Traffic != nil || stats.Protocols != nil || stats.Timestamp != nil {
		t.Errorf("a pod of the silent node is %s (%s), traffic %v", stats.State, stats.Message, stats.Traffic)
	}
	if stats.NodeName != silent.Spec.NodeName || len(stats.PodIPs) != len(silent.Status.PodIPs) {
		t.Errorf("what the control plane knows of the pod should be there: node %q, addresses %v", stats.NodeName, stats.PodIPs)
	}
}

// checkUnavailable demands 503 for a single object, and nothing that makes clients wait.
func (c *cluster) checkUnavailable(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	start := time.Now()
	response := c.raw(t, fmt.Sprintf("/apis/%s/namespaces/%s/podnetworkstats/%s", v1alpha1.SchemeGroupVersion, pod.Namespace, pod.Name))
	var status metav1.Status
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	if response.StatusCode != http.StatusServiceUnavailable || status.Reason != metav1.StatusReasonServiceUnavailable || !strings.Contains(status.Message, pod.Spec.NodeName) {
		t.Errorf("a single object gives %s: %s", response.Status, status.Message)
	}
	if retry, there := response.Header["Retry-After"]; there || status.Details != nil && status.Details.RetryAfterSeconds != 0 {
		t.Errorf("the answer asks to try again: %v, %+v", retry, status.Details)
	}
	if took := time.Since(start); took > answerDeadline {
		t.Errorf("a single object took %v", took)
	}
}

func (c *cluster) checkSilentInKubectl(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	r := c.kubectlFails(t, "get", "podnetworkstats", pod.Name, "--namespace", pod.Namespace)
	if !strings.Contains(r.stderr, "(ServiceUnavailable)") || !strings.Contains(r.stderr, pod.Spec.NodeName) || r.took > answerDeadline {
		t.Errorf("kubectl get of one pod took %v and says %s", r.took, r.stderr)
	}
	r = c.kubectlRun(t, "get", "podnetworkstats", "--namespace", pod.Namespace, "--output=wide")
	if r.err != nil || !strings.Contains(r.stderr, "Warning: ") || !strings.Contains(r.stderr, pod.Spec.NodeName) || r.took > answerDeadline {
		t.Errorf("kubectl get of all took %v (%v) and says %s", r.took, r.err, r.stderr)
	}
	if !strings.Contains(r.stdout, string(v1alpha1.NodeSilent)) || !strings.Contains(r.stdout, "<unknown>") {
		t.Errorf("the table does not show that the node is silent:\n%s", r.stdout)
	}
}

func (c *cluster) checkSilentNodeStats(t *testing.T, node string) {
	t.Helper()
	list, err := c.stats.NetworkobservabilityV1alpha1().NodeNetworkStats().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("listing the statistics of nodes: %v", err)
	}
	for _, stats := range list.Items {
		if silent := stats.Name == node; silent != (stats.State == v1alpha1.NodeSilent) || silent != (stats.Traffic == nil) {
			t.Errorf("node %s is %s: %s", stats.Name, stats.State, stats.Message)
		}
	}
	if len(list.Items) != len(c.nodes(t)) {
		t.Errorf("%d nodes are listed", len(list.Items))
	}
}

// checkRisen demands that no counter is lower than before, and that counting has not begun anew.
func checkRisen(t *testing.T, before, after v1alpha1.PodNetworkStats) {
	t.Helper()
	if before.Traffic == nil || after.Traffic == nil {
		t.Errorf("no traffic to compare: %s, then %s", before.State, after.State)
		return
	}
	if !before.StartTime.Equal(after.StartTime) {
		t.Errorf("counting of %s began at %v, and later at %v", after.Name, before.StartTime, after.StartTime)
	}
	old := cells(&before)
	for name, now := range cells(&after) {
		if now.Packets < old[name].Packets || now.Bytes < old[name].Bytes || now.Buffers < old[name].Buffers {
			t.Errorf("%s of %s went back from %+v to %+v", name, after.Name, old[name], now)
		}
	}
}

// lossyReadings is from how many readings TestLossyNode judges.
const lossyReadings = 6

// TestLossyNode drops a third of what is sent to an agent: every list comes in time and with every pod, and all is
// well when the loss ends.
func TestLossyNode(t *testing.T) {
	c := newCluster(t)
	node := c.nodes(t)[1]
	pod := c.start(t, c.namespace(t), sink("lossy", node))[0]
	c.waitMeasured(t, podDeadline, pod)
	heal := c.dropAt(t, c.agents(t)[node], "numgen random mod 100 < 30 ")
	answers := map[string]int{} // by the moment of the reading; shared ones count once
	eventually(t, podDeadline, "enough answers", func(context.Context) error {
		list := c.list(t, "")
		stats := list.of(t, pod)
		if list.took > answerDeadline || stats.State != v1alpha1.Measured && stats.State != v1alpha1.NodeSilent {
			t.Errorf("after %v the pod is %s: %s", list.took, stats.State, stats.Message)
		}
		if answers[fmt.Sprint(stats.Timestamp)]++; len(answers) < lossyReadings {
			return fmt.Errorf("%d readings", len(answers))
		}
		return nil
	})
	t.Logf("readings, and how often each was shown (nil: the node was silent): %v", answers)
	heal()
	t.Logf("recovered within %v", c.waitMeasured(t, answerDeadline, pod).Round(time.Millisecond))
}
