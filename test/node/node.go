// Package node runs what an agent does for a few fake pods, in the process of a test: it finds the pods, follows them,
// and counts with all collectors. Tests and benchmarks of the whole use it.
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

const name = "node"

// A Node counts the traffic of pods until Stop, or until the test ends.
type Node struct {
	t     testing.TB
	bpffs string
	set   *collectors.Set
	pods  *podmap.Map
	fakes []*fakepod.Pod
	end   func() error
}

// Start starts counting, with the BPF file system at bpffs. All pods are counted when it returns.
func Start(t testing.TB, bpffs string, fakes ...*fakepod.Pod) *Node {
	t.Helper()
	n := &Node{
		t: t, bpffs: bpffs, fakes: fakes,
		set: collectors.New(collectors.Environment{BPFFS: bpffs, Node: name}, collectors.Defaults()),
	}
	followed := make(chan struct{}, 1)
	var err error
	n.pods, err = podmap.New(podmap.Config{Changed: func(all []*podmap.Pod) {
		// Other tests have pods, too.
		own := slices.DeleteFunc(all, func(pod *podmap.Pod) bool { return !n.has(pod) })
		n.set.Follow(own)
		if len(own) == len(fakes) {
			select {
			case followed <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		n.set.Close()
		t.Fatal(err)
	}
	n.run()
	t.Cleanup(n.Stop)
	select {
	case <-followed:
	case <-time.After(20 * time.Second):
		t.Fatal("not all pods were found within 20 seconds")
	}
	return n
}

func (n *Node) has(pod *podmap.Pod) bool {
	return slices.ContainsFunc(n.fakes, func(fake *fakepod.Pod) bool { return fake.UID == pod.Key })
}

func (n *Node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- n.pods.Run(ctx, func() {}) }()
	go func() {
		n.set.Run(ctx)
		ended <- nil
	}()
	n.end = func() error {
		cancel()
		err := errors.Join(<-ended, <-ended)
		n.set.Close()
		return err
	}
}

// Stop ends the agent. What it has attached stays.
func (n *Node) Stop() {
	n.t.Helper()
	if n.end == nil {
		return
	}
	if err := n.end(); err != nil {
		n.t.Errorf("the agent ended with %v", err)
	}
	n.end = nil
}

// Remove ends the agent and detaches all that it had attached. It returns when nothing is left on the pods' interfaces.
func (n *Node) Remove() {
	n.t.Helper()
	n.Stop()
	if _, err := traffic.Cleanup(n.bpffs, name, nil); err != nil {
		n.t.Fatalf("removing what was attached: %v", err)
	}
	fakepod.Eventually(n.t, "detaching", func() bool {
		attached, err := n.attached()
		if err != nil {
			n.t.Fatal(err)
		}
		return attached == 0
	})
}

// attached is how many programs are on the pods' interfaces.
func (n *Node) attached() (count int, err error) {
	for _, pod := range n.fakes {
		pod.Do(func() {
			var links []netlink.Link
			if links, err = netlink.LinkList(); err != nil {
				return
			}
			for _, one := range links {
				for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
					result, queryErr := link.QueryPrograms(link.QueryOptions{Target: one.Attrs().Index, Attach: where})
					if queryErr != nil {
						err = fmt.Errorf("asking what is attached to %s: %w", one.Attrs().Name, queryErr)
						return
					}
					count += len(result.Programs)
				}
			}
		})
	}
	return count, err
}

// Rows reads some pods at one moment.
func (n *Node) Rows(fakes ...*fakepod.Pod) []*v1alpha1.PodStats {
	n.t.Helper()
	reading := n.set.Read()
	var rows []*v1alpha1.PodStats
	for _, fake := range fakes {
		pod, ok := n.pods.Lookup(fake.UID)
		if !ok {
			n.t.Fatalf("pod %s is not known", fake.UID)
		}
		rows = append(rows, reading.Pod(pod))
	}
	return rows
}

// Row reads one pod.
func (n *Node) Row(fake *fakepod.Pod) *v1alpha1.PodStats {
	n.t.Helper()
	return n.Rows(fake)[0]
}

// Own reads the node.
func (n *Node) Own() *v1alpha1.NodeStats { return n.set.Read().Node() }

// States says which collectors do not run, and why; empty when all do.
func (n *Node) States() string {
	var problems string
	for _, c := range n.set.States() {
		if c.State != v1alpha1.Collector_STATE_RUNNING {
			problems += fmt.Sprintf("%s: %v %s\n", c.Name, c.State, c.Message)
		}
	}
	return problems
}
