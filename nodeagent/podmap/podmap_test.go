package podmap_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a map until the test ends.
func start(t *testing.T, config podmap.Config) *podmap.Map {
	t.Helper()
	return startIn(t, config, func() {})
}

// startIn is start on a thread that prepare has changed.
func startIn(t *testing.T, config podmap.Config, prepare func()) *podmap.Map {
	t.Helper()
	fakepod.NeedRoot(t)
	if config.Changed == nil {
		config.Changed = func([]*podmap.Pod) {}
	}
	m, err := podmap.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for ever: Run does not give the thread back either
		prepare()
		ended <- m.Run(ctx, func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("Run ended with %v", err)
	}
	return m
}

func find(t *testing.T, m *podmap.Map, key string) (pod *podmap.Pod) {
	t.Helper()
	fakepod.Eventually(t, "finding pod "+key, func() (ok bool) {
		pod, ok = m.Lookup(key)
		return ok
	})
	return pod
}

func TestPodComesAndGoes(t *testing.T) {
	m := start(t, podmap.Config{})
	fake := fakepod.New(t, fakepod.Prefix())
	pod := find(t, m, fake.UID)
	if pod.HostNetwork || pod.NetnsCookie == 0 {
		t.Errorf("pod = %+v, want a namespace of its own", pod)
	}
	if !slices.ContainsFunc(m.Pods(), func(p *podmap.Pod) bool { return p.Key == fake.UID }) {
		t.Error("the pod is not among all pods")
	}
	var inside, outside unix.Stat_t
	if err := pod.Enter(func() error { return unix.Stat("/proc/thread-self/ns/net", &inside) }); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/proc/self/ns/net", &outside); err != nil {
		t.Fatal(err)
	}
	if inside.Ino == outside.Ino {
		t.Error("Enter ran in the test's own namespace")
	}
	fake.End()
	fakepod.Eventually(t, "forgetting the pod", func() bool {
		_, ok := m.Lookup(fake.UID)
		return !ok
	})
	if _, err := pod.ReadFile("net/snmp", nil); !errors.Is(err, podmap.ErrGone) {
		t.Errorf("reading a file of a dead process: %v, want ErrGone", err)
	}
}

// The kernel announces a pod's interface before the pod has a process. The next look that nothing has led to is 5 s later.
func TestInterfaceBeforeProcess(t *testing.T) {
	m := start(t, podmap.Config{})
	// A busy machine may take that long to make a pod, though not each time.
	fakepod.Eventually(t, "finding a pod that followed an interface before the next look", func() bool {
		fakepod.Connect(fakepod.NewNamespace(t), fakepod.NewNamespace(t), "a", "b", 1)
		begun := time.Now()
		find(t, m, fakepod.New(t, fakepod.Prefix()).UID)
		return time.Since(begun) < 5*time.Second
	})
}

func TestInterfaceThatComesLater(t *testing.T) {
	m := start(t, podmap.Config{})
	fake := fakepod.New(t, fakepod.Prefix())
	before := find(t, m, fake.UID).Revision
	fakepod.Connect(fake.Namespace, fakepod.NewNamespace(t), "net1", "b", 1)
	fakepod.Eventually(t, "hearing of the interface", func() bool {
		pod, ok := m.Lookup(fake.UID)
		return ok && pod.Revision != before
	})
}

// Without CAP_NET_BROADCAST nothing is announced, and pods are looked at again nevertheless.
func TestWithoutAnnouncements(t *testing.T) {
	m := startIn(t, podmap.Config{}, func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			t.Error(err)
		}
		data[0].Effective &^= 1 << unix.CAP_NET_BROADCAST
		if err := unix.Capset(&header, &data[0]); err != nil { // of this thread
			t.Error(err)
		}
	})
	fake := fakepod.New(t, fakepod.Prefix())
	before := find(t, m, fake.UID).Revision
	fake.Run("ip", "link", "set", "dev", "lo", "mtu", "1400")
	fakepod.Eventually(t, "taking the pod for changed", func() bool {
		pod, ok := m.Lookup(fake.UID)
		return ok && pod.Revision != before
	})
}

// While pods are attached to, the kernel can announce more than the socket holds, as when one pod changes an interface
// again and again. What happened to others is not forgotten.
func TestLostAnnouncements(t *testing.T) {
	busy, fake := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix())
	var attaching atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	m := start(t, podmap.Config{Changed: func([]*podmap.Pod) {
		if attaching.CompareAndSwap(true, false) {
			close(entered)
			<-release
		}
	}})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	before := find(t, m, fake.UID).Revision
	attaching.Store(true)
	<-entered
	busy.RunInput(strings.Repeat("link set lo mtu 1500\nlink set lo mtu 1400\n", 3000), "ip", "-batch", "-")
	fake.Run("ip", "link", "set", "dev", "lo", "mtu", "1400")
	goOn()
	fakepod.Eventually(t, "taking the pod for changed", func() bool {
		pod, ok := m.Lookup(fake.UID)
		return ok && pod.Revision != before
	})
}

// A pod of another node of the same kernel has another prefix.
func TestOtherNodesPodsAreLeftAlone(t *testing.T) {
	prefix, other := fakepod.Prefix(), fakepod.Prefix()
	own := fakepod.UID()
	fakepod.NeedRoot(t)
	moveSelf(t, prefix+"/pod"+own+"/agent")
	theirs, ours := fakepod.New(t, other), fakepod.New(t, prefix)
	m := start(t, podmap.Config{OwnKey: own})
	find(t, m, ours.UID)
	if _, ok := m.Lookup(theirs.UID); ok {
		t.Error("a pod of another prefix was taken for one of this node")
	}
	if pod := find(t, m, own); !pod.HostNetwork {
		t.Error("the agent's own pod is not taken to be in the node's network")
	}
}

// moveSelf puts the test itself into a cgroup, and back at its end.
func moveSelf(t *testing.T, path string) {
	hierarchy := fakepod.Hierarchy(t)
	fakepod.Cgroup(t, hierarchy, path, os.Getpid())
	t.Cleanup(func() {
		if err := os.WriteFile(hierarchy+"/cgroup.procs", []byte("0"), 0); err != nil {
			t.Errorf("moving back: %v", err)
		}
	})
}

// A process is in its pod's cgroup before it is in its namespace: only one that stays in the node's network makes a
// pod of the node's network.
func TestHostNetwork(t *testing.T) {
	m := start(t, podmap.Config{})
	uid := fakepod.UID()
	process := fakepod.Sleep(t, 0)
	// That of version 2 first: the pod may be found as soon as it is in one.
	fakepod.Cgroup(t, fakepod.Unified(t), fakepod.Prefix()+"/pod"+uid+"/c", process.PID)
	fakepod.Cgroup(t, fakepod.Hierarchy(t), fakepod.Prefix()+"/pod"+uid+"/c", process.PID)
	fakepod.NewNamespace(t) // its loopback interface triggers the look
	pod := find(t, m, uid)
	if !pod.HostNetwork || pod.Cgroup == "" {
		t.Errorf("pod = %+v, want the node's network and a cgroup of version 2", pod)
	}
}
