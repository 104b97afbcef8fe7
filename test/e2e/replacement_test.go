package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestAgentReplaced kills and replaces agents while pods send, and demands that not one packet was lost to the
// counters or counted twice.
func TestAgentReplaced(t *testing.T) {
	c := newCluster(t)
	b := newBed(t, c)
	for _, pod := range []counted{b.sink, b.near, b.far} {
		pod.netns.run(t, "", "ip", "link", "set", "eth0", "gso_max_segs", "1")
	}
	for _, test := range []struct {
		name    string
		replace func(*cluster, *testing.T)
	}{
		{"killed", (*cluster).killAgent},
		{"deleted", (*cluster).deleteAgent},
		{"rolled out", (*cluster).rollOutAgents},
	} {
		t.Run(test.name, func(t *testing.T) {
			programs := c.programs(t, b.sink.Pod)
			before := c.snapshot(t, b.sink, b.far)
			stop := b.keepSending(t)
			watched := c.watchCounters(t, b.sink.Pod, b.far.Pod)
			test.replace(c, t)
			c.waitHealthy(t)
			t.Logf("measured again within %v", c.waitMeasured(t, answerDeadline, b.sink.Pod, b.far.Pod).Round(time.Millisecond))
			watched()
			stop()
			after := c.snapshot(t, b.sink, b.far)
			for _, pod := range []counted{b.sink, b.far} {
				moved := changeOf(pod.Name, before, after)
				moved.checkEqual(t, pod.Name, wireCells()...)
				t.Logf("%s moved %+v and %+v", pod.Name, moved.stats["receive4"], moved.stats["transmit4"])
				checkRisen(t, *before.stats[pod.Name], *after.stats[pod.Name])
			}
			if now := c.programs(t, b.sink.Pod); len(now) != len(programs) {
				t.Errorf("%d programs count for the sink, and there were %d", len(now), len(programs))
			}
		})
	}
	c.checkNothingLeft(t, b.near.Pod)
}

// killAgent kills the agent on the first node, and the kubelet starts it again. An agent that was killed
// before is replaced first: the kubelet would make it wait.
func (c *cluster) killAgent(t *testing.T) {
	t.Helper()
	node := c.nodes(t)[0]
	if c.agents(t)[node].Status.ContainerStatuses[0].RestartCount > 0 {
		c.deleteAgent(t)
		c.waitHealthy(t)
	}
	agent := c.agents(t)[node]
	signal(t, process(t, agent, agentProgram), unix.SIGKILL)
	started := time.Now()
	list := c.list(t, "")
	t.Logf("just after the kill a list took %v and warned: %q", list.took.Round(time.Millisecond), list.warnings)
	if list.took > answerDeadline {
		t.Errorf("a list took %v", list.took)
	}
	eventually(t, podDeadline, "the kubelet to start the agent again", func(context.Context) error {
		if now := c.agents(t)[node]; now == nil || now.Status.ContainerStatuses[0].RestartCount == agent.Status.ContainerStatuses[0].RestartCount {
			return fmt.Errorf("it has not")
		}
		return nil
	})
	t.Logf("the kubelet started it again within %v", time.Since(started).Round(time.Millisecond))
}

func (c *cluster) deleteAgent(t *testing.T) {
	t.Helper()
	c.delete(t, c.agents(t)[c.nodes(t)[0]])
}

func (c *cluster) rollOutAgents(t *testing.T) {
	t.Helper()
	c.kubectl(t, "rollout", "restart", "daemonset/networkobservability-nodeagent", "--namespace", agentv1.Namespace)
	c.kubectl(t, "rollout", "status", "daemonset/networkobservability-nodeagent", "--namespace", agentv1.Namespace, "--timeout="+podDeadline.String())
}

// keepSending has the far pod send datagrams, and ask for pages, of both families, until the returned function
// is called.
func (b bed) keepSending(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	program := fmt.Sprintf("/proc/%d/root/bin/traffic", process(t, b.far.Pod, "traffic"))
	var running []*exec.Cmd
	for _, family := range []string{"ipv4", "ipv6"} {
		page := "http://" + net.JoinHostPort(address(t, b.sink.Pod, family), "8080")
		for _, args := range [][]string{{"udp", target(t, b.sink.Pod, family), "0", "300", "200us"}, {"http", page, "0", "20ms"}} {
			cmd := b.far.netns.command(ctx, program, args...)
			if err := cmd.Start(); err != nil {
				t.Fatalf("starting to send: %v", err)
			}
			running = append(running, cmd)
		}
	}
	stop = sync.OnceFunc(func() {
		cancel()
		for _, cmd := range running {
			_ = cmd.Wait() // it was told to end
		}
	})
	t.Cleanup(stop)
	return stop
}

// watchCounters reads pods again and again, and demands that no answer shows less than one that was read on the
// node before it. The returned function ends that.
func (c *cluster) watchCounters(t *testing.T, pods ...*corev1.Pod) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, pod := range pods {
		group.Go(func() { c.watchPod(ctx, t, pod) })
	}
	end = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(end)
	return end
}

func (c *cluster) watchPod(ctx context.Context, t *testing.T, pod *corev1.Pod) {
	var last *v1alpha1.PodNetworkStats
	answers := 0
	for ticker := time.Tick(200 * time.Millisecond); ; answers++ {
		if now, err := c.get(ctx, pod); err == nil && now.Traffic != nil {
			// Each of the API's replicas may share an answer for a second, so answers come out of order.
			if last == nil || now.Timestamp.After(last.Timestamp.Time) {
				last, now = now, last
			}
			if now != nil {
				checkRisen(t, *now, *last)
			}
		}
		select {
		case <-ctx.Done():
			t.Logf("%s was read %d times meanwhile", pod.Name, answers)
			return
		case <-ticker:
		}
	}
}

// programs are the BPF programs of this machine that add to a pod's own counters.
func (c *cluster) programs(t *testing.T, pod *corev1.Pod) []ebpf.ProgramID {
	t.Helper()
	id := c.countersID(t, pod)
	var found []ebpf.ProgramID
	for next := ebpf.ProgramID(0); ; {
		var err error
		if next, err = ebpf.ProgramGetNextID(next); err != nil {
			return found // there is no next one
		}
		if maps := mapsOf(next); slices.Contains(maps, id) {
			found = append(found, next)
		}
	}
}

// mapsOf are the maps that a program uses; none when it is gone by now.
func mapsOf(id ebpf.ProgramID) []ebpf.MapID {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return nil
	}
	maps, _ := info.MapIDs()
	return maps
}

// countersID identifies the map that an agent keeps for a pod, by its pin on the pod's node.
func (c *cluster) countersID(t *testing.T, pod *corev1.Pod) ebpf.MapID {
	t.Helper()
	agent := process(t, c.agents(t)[pod.Spec.NodeName], agentProgram)
	pattern := fmt.Sprintf("/proc/%d/root/sys/fs/bpf/networkobservability/%s/totals-*/%s", agent, pod.Spec.NodeName, pod.UID)
	pins, err := filepath.Glob(pattern)
	if err != nil || len(pins) != 1 {
		t.Fatalf("%d pins match %s: %v", len(pins), pattern, err)
	}
	pinned, err := ebpf.LoadPinnedMap(pins[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatalf("opening the pinned counters: %v", err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, ok := info.ID()
	if !ok {
		t.Fatal("the kernel does not number maps")
	}
	return id
}

// checkNothingLeft deletes a pod and demands that no program of its stays.
func (c *cluster) checkNothingLeft(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	programs := c.programs(t, pod)
	if len(programs) != 2 {
		t.Errorf("%d programs count for a pod with one interface, want one a direction", len(programs))
	}
	c.delete(t, pod)
	eventually(t, podDeadline, "the pod's programs to go", func(context.Context) error {
		for _, id := range programs {
			program, err := ebpf.NewProgramFromID(id)
			if err == nil {
				program.Close()
				return fmt.Errorf("program %d is there", id)
			}
		}
		return nil
	})
}
