package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// exchange sends bytes from one end to the other.
func exchange(t testing.TB, from, to net.Conn, bytes int) {
	t.Helper()
	_, err := from.Write(make([]byte, bytes))
	must(t, err)
	_, err = io.ReadFull(to, make([]byte, bytes))
	must(t, err)
}

// TestEarlierSockets: sockets that were there before are followed with all that they ever carried, and nobody counts
// them as opened.
func TestEarlierSockets(t *testing.T) {
	const n, bytes = 10, 5000
	client, serverPod := pair(t, 6)
	ipv4, ipv6 := addresses(6)
	var near, far []net.Conn
	for _, address := range []string{net.JoinHostPort(ipv4, "80"), net.JoinHostPort(ipv6, "80")} {
		server := listen(t, serverPod.Namespace, address)
		for i := range n {
			near = append(near, mustDial(t, client.Namespace, address))
			far = append(far, server.next())
			exchange(t, near[len(near)-1], far[len(far)-1], bytes+i)
		}
	}
	agent := newMachine(t).start(t, nil, client, serverPod)
	for pod, listening := range map[*fakepod.Pod]int64{client: 0, serverPod: 2} {
		c := agent.row(pod).Connections
		if c.Established != 2*n || c.Listen != listening || count(c.OpenSmoothedRtt) != 2*n {
			t.Errorf("%d established, %d listening", c.Established, c.Listen)
		}
		agent.expect(pod, "following", counts{})
	}
	const carried = 2 * (n*bytes + n*(n-1)/2)
	if c := agent.row(serverPod).Connections; c.BytesReceived != carried {
		t.Errorf("received %d bytes, want %d", c.BytesReceived, carried)
	}
	for i := range near {
		exchange(t, near[i], far[i], 1)
		near[i].Close()
		_, _ = io.Copy(io.Discard, far[i])
		far[i].Close()
	}
	fakepod.Eventually(t, "closing", func() bool {
		return count(agent.row(serverPod).Connections.ClosedSmoothedRtt) == 2*n
	})
	if c := agent.row(serverPod).Connections; c.BytesReceived != carried+2*n*2 { // and a FIN each
		t.Errorf("received %d bytes, want %d", c.BytesReceived, carried+2*n*2)
	}
}

// TestRestart: an agent that starts anew goes on where the former one stopped, with what came meanwhile.
func TestRestart(t *testing.T) {
	const n = 5
	client, serverPod := pair(t, 7)
	machine := newMachine(t)
	ipv4, _ := addresses(7)
	address := net.JoinHostPort(ipv4, "80")
	server := listen(t, serverPod.Namespace, address)
	var near, far []net.Conn
	open := func() {
		for range n {
			near = append(near, mustDial(t, client.Namespace, address))
			far = append(far, server.next())
			exchange(t, near[len(near)-1], far[len(far)-1], 1000)
		}
	}
	first := machine.start(t, nil, client, serverPod)
	open()
	first.expect(serverPod, "opening", counts{passive: n})
	before := first.row(serverPod).Connections
	first.stop()

	open()
	for i := range n {
		exchange(t, near[i], far[i], 1000)
		near[i].Close()
		_, _ = io.Copy(io.Discard, far[i])
		far[i].Close()
	}
	second := machine.start(t, nil, client, serverPod)
	second.expect(serverPod, "opening", counts{passive: 2 * n})
	fakepod.Eventually(t, "closing", func() bool {
		return count(second.row(serverPod).Connections.ClosedSmoothedRtt) == n
	}, func() string { return second.row(serverPod).Connections.String() })
	after := second.row(serverPod).Connections
	if after.StartUnixNano != before.StartUnixNano || after.StartUnixNano == 0 {
		t.Errorf("counting began at %d and then at %d", before.StartUnixNano, after.StartUnixNano)
	}
	if after.BytesReceived != 3*n*1000+n || after.Established != n {
		t.Errorf("%d bytes received and %d established, want %d and %d", after.BytesReceived, after.Established, 3*n*1000+n, n)
	}
}

// TestSample: the totals are brought up to date though nobody asks, but not too often.
func TestSample(t *testing.T) {
	client, serverPod := pair(t, 21)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, _ := addresses(21)
	server := listen(t, serverPod.Namespace, net.JoinHostPort(ipv4, "80"))
	near, far := mustDial(t, client.Namespace, server.address()), server.next()
	agent.row(serverPod)
	exchange(t, near, far, 1000)
	received := func() uint64 {
		var totals bpf.Totals
		must(t, agent.collector.traced.Maps[bpf.MapTotals].Lookup(headers.PodNumber(serverPod.UID), &totals))
		return totals.Sums.BytesReceived
	}
	agent.collector.Sample(time.Now())
	if got := received(); got != 0 {
		t.Errorf("%d bytes soon after an answer", got)
	}
	agent.collector.Sample(time.Now().Add(settleEvery + time.Second))
	if got := received(); got != 1000 {
		t.Errorf("%d bytes later, want 1000", got)
	}
}

// TestOthers: sockets of namespaces that are not this agent's are in nothing that it counts.
func TestOthers(t *testing.T) {
	client, other := pair(t, 8)
	agent := newMachine(t).start(t, nil, client)
	ipv4, _ := addresses(8)
	server := listen(t, other.Namespace, net.JoinHostPort(ipv4, "80"))
	near := mustDial(t, client.Namespace, server.address())
	exchange(t, near, server.next(), 1000)
	agent.expect(client, "connecting", counts{active: 1})

	numbers, err := keys(agent.collector.traced.Maps[bpf.MapTotals])
	must(t, err)
	slices.Sort(numbers)
	if want := []uint64{headers.Node, headers.PodNumber(client.UID)}; !slices.Equal(numbers, want) {
		t.Errorf("totals of %x, want %x", numbers, want)
	}
	taken := agent.collector.Snapshot().(*snapshot)
	for number := range taken.pods {
		if number != headers.Node && number != headers.PodNumber(client.UID) {
			t.Errorf("sockets of %x", number)
		}
	}
}

// TestWithoutHooks: what needs a hook that is missing is missing, says so, and takes nothing else with it.
func TestWithoutHooks(t *testing.T) {
	client, serverPod := pair(t, 9)
	ipv4, _ := addresses(9)
	address := net.JoinHostPort(ipv4, "80")
	server := listen(t, serverPod.Namespace, address)
	// Each step opens a connection and cuts it off, next to one that was there before.
	early := mustDial(t, client.Namespace, address)
	exchange(t, early, server.next(), 1000)
	for hook, want := range map[string]struct {
		client, server counts
		established    int64
	}{
		"inet_sock_set_state": {counts{resetsSent: 1}, counts{resetsReceived: 1}, 1},
		"tcp_send_reset":      {counts{active: 1}, counts{passive: 1, resetsReceived: 1}, 1},
		"tcp_receive_reset":   {counts{active: 1, resetsSent: 1}, counts{passive: 1}, 1},
		"tcp":                 {counts{active: 1, resetsSent: 1}, counts{passive: 1, resetsReceived: 1}, 0},
		"bpf_sk_storage_map":  {counts{active: 1, resetsSent: 1}, counts{passive: 1, resetsReceived: 1}, 0},
	} {
		agent := newMachine(t).start(t, []string{hook}, client, serverPod)
		state, message := agent.collector.State()
		if state != v1alpha1.Collector_STATE_DEGRADED || !strings.Contains(message, hook+": taken for missing") {
			t.Errorf("%s: %v: %s", hook, state, message)
		}
		near := mustDial(t, client.Namespace, address)
		far := server.next()
		must(t, near.(*net.TCPConn).SetLinger(0))
		near.Close()
		_, _ = io.Copy(io.Discard, far)
		far.Close()
		agent.expect(client, hook, want.client)
		agent.expect(serverPod, hook, want.server)
		if got := agent.row(client).Connections.Established; got != want.established {
			t.Errorf("%s: %d established, want %d", hook, got, want.established)
		}
		agent.stop()
	}
}

// TestWithoutMaps: without the maps of pods nothing can be counted, and the collector says so.
func TestWithoutMaps(t *testing.T) {
	c := New(Config{})
	defer c.Close()
	c.Follow(nil)
	c.APIServers([]string{"192.0.2.1:6443"})
	if state, message := c.State(); state != v1alpha1.Collector_STATE_OFF || message != "there are no maps of pods" {
		t.Errorf("%v: %s", state, message)
	}
	if err := c.Snapshot().ReadNode(&v1alpha1.NodeStats{}); err == nil {
		t.Error("the node was read")
	}
}

// TestGone: totals stay for a while after a pod's end, for its sandbox may be made anew, and then go.
func TestGone(t *testing.T) {
	client, _ := pair(t, 10)
	agent := newMachine(t).start(t, nil, client)
	pod, _ := agent.pods.Lookup(client.UID)
	number := headers.PodNumber(client.UID)
	agent.halt()

	c := agent.collector
	there := func() bool {
		numbers, err := keys(c.traced.Maps[bpf.MapTotals])
		must(t, err)
		return slices.Contains(numbers, number)
	}
	c.Follow(nil)
	if !there() {
		t.Error("the totals went with the pod")
	}
	c.gone[number] = time.Now().Add(-linger)
	c.Follow([]*podmap.Pod{pod})
	if !there() {
		t.Error("the totals went, though the pod came back")
	}
	c.Follow(nil)
	c.gone[number] = time.Now().Add(-linger)
	c.Follow(nil)
	if there() {
		t.Error("the totals stayed")
	}
	if err := c.Snapshot().ReadNode(&v1alpha1.NodeStats{}); err != nil {
		t.Errorf("reading the node: %v", err)
	}
}

// TestFull: a pod that the table has no room for is named, and counted as soon as there is room.
func TestFull(t *testing.T) {
	client, _ := pair(t, 11)
	agent := newMachine(t).start(t, nil, client)
	known, _ := agent.pods.Lookup(client.UID)
	agent.halt()

	c := agent.collector
	totals := c.traced.Maps[bpf.MapTotals]
	for number := uint64(1000); ; number++ {
		err := totals.Update(number, &bpf.Totals{}, ebpf.UpdateNoExist)
		if errors.Is(err, unix.E2BIG) {
			break
		}
		must(t, err)
	}
	late := &podmap.Pod{Key: fakepod.UID()}
	c.Follow([]*podmap.Pod{known, late})
	state, message := c.State()
	if state != v1alpha1.Collector_STATE_DEGRADED || !strings.Contains(message, "pod "+late.Key+": making totals: ") {
		t.Errorf("%v: %s", state, message)
	}
	if _, _, err := c.Snapshot().(*snapshot).fill(headers.PodNumber(client.UID)); err != nil {
		t.Errorf("reading another pod: %v", err)
	}
	c.Follow([]*podmap.Pod{known, late}) // which came after others were swept
	if state, message := c.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Errorf("with room again: %v: %s", state, message)
	}
}

// TestHostNetwork: a pod in the node's network is told from it by its cgroup, and is in the node's row as well.
func TestHostNetwork(t *testing.T) {
	const n = 10
	fakepod.NeedRoot(t)
	unified := fakepod.Unified(t)
	key, path := fakepod.UID(), fakepod.Prefix()
	path += "/pod" + key
	process := fakepod.Sleep(t, 0)
	fakepod.Cgroup(t, unified, path+"/container", process.PID)
	m := machine{root: newMachine(t).root, cgroups: unified}
	agent := m.start(t, nil)
	agent.halt()
	c, index := agent.collector, podindex.New(agent.shared, unified)
	pod := &podmap.Pod{Key: key, HostNetwork: true, Cgroup: path}
	read := func() (pod1 *v1alpha1.Connections, node *v1alpha1.Connections) {
		var podRow v1alpha1.PodStats
		var nodeRow v1alpha1.NodeStats
		snapshot := c.Snapshot()
		must(t, errors.Join(snapshot.ReadPod(pod, &podRow), snapshot.ReadNode(&nodeRow)))
		return podRow.Connections, nodeRow.Connections
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	connect := func() {
		near, err := net.Dial("tcp", listener.Addr().String())
		must(t, err)
		t.Cleanup(func() { near.Close() })
		far, err := listener.Accept()
		must(t, err)
		t.Cleanup(func() { far.Close() })
		exchange(t, far, near, 1000)
	}
	inCgroup(t, filepath.Join(unified, path, "container"), func() {
		for range n {
			connect()
		}
	})
	connect()    // which is not the pod's
	c.Snapshot() // so that they are in the node's totals already

	must(t, index.Follow([]*podmap.Pod{pod}))
	inCgroup(t, filepath.Join(unified, path, "container"), connect) // before there are totals
	c.Snapshot()
	c.Follow([]*podmap.Pod{pod})
	must(t, c.seedPod(nil))
	early, before := read()
	if early.Established != n+1 || early.BytesReceived != (n+1)*1000 || early.OpenedActively != 0 {
		t.Errorf("before: %v", early)
	}
	inCgroup(t, filepath.Join(unified, path, "container"), connect)
	connect()
	late, after := read()
	// The process that listens was outside of the pod when it opened its socket.
	if late.Established != n+2 || late.BytesReceived != (n+2)*1000 || late.OpenedActively != 1 || late.OpenedPassively != 0 {
		t.Errorf("after: %v", late)
	}
	if after.OpenedActively < before.OpenedActively+2 || after.BytesReceived < before.BytesReceived+2000 {
		t.Errorf("the node: before %v, after %v", before, after)
	}

	stranger := &podmap.Pod{Key: fakepod.UID(), HostNetwork: true}
	c.Follow([]*podmap.Pod{pod, stranger})
	if err := c.Snapshot().ReadPod(stranger, &v1alpha1.PodStats{}); err == nil {
		t.Error("a pod was read that cannot be told from the node")
	}
}

// inCgroup opens sockets as a process of a cgroup would: a socket belongs to the cgroup that its maker is in.
func inCgroup(t *testing.T, cgroup string, do func()) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	home := "/"
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = path
		}
	}
	move := func(path string) {
		must(t, os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0))
	}
	move(cgroup)
	defer move(filepath.Join(fakepod.Unified(t), home))
	do()
}
