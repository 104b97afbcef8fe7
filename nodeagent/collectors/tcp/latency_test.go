package tcp

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

type delayed struct {
	packet []byte
	came   time.Time
}

// relay carries IP packets between tun devices of two namespaces, each after a delay or, on a busy machine, later.
func relay(t testing.TB, a, b *fakepod.Namespace, addressA, addressB string, delay time.Duration) {
	t.Helper()
	first, second := tun(t, a, addressA, addressB), tun(t, b, addressB, addressA)
	var running sync.WaitGroup
	for from, to := range map[*os.File]*os.File{first: second, second: first} {
		waiting := make(chan delayed, 10000)
		running.Go(func() { receive(from, waiting) })
		running.Go(func() { send(to, waiting, delay) })
	}
	t.Cleanup(func() {
		first.Close()
		second.Close()
		running.Wait()
	})
}

func tun(t testing.TB, n *fakepod.Namespace, own, other string) *os.File {
	t.Helper()
	var file *os.File
	n.Do(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return
		}
		request, err := unix.NewIfreq("tun0")
		must(t, err)
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
		file = os.NewFile(uintptr(fd), "tun0")
	})
	if file == nil {
		t.Skip("there are no tun devices")
	}
	n.Run("ip", "addr", "add", own, "peer", other, "dev", "tun0")
	n.Run("ip", "link", "set", "tun0", "up")
	return file
}

func receive(from *os.File, waiting chan<- delayed) {
	defer close(waiting)
	for {
		packet := make([]byte, 2000)
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		waiting <- delayed{packet[:n], time.Now()}
	}
}

func send(to *os.File, waiting <-chan delayed, delay time.Duration) {
	for next := range waiting {
		time.Sleep(time.Until(next.came.Add(delay))) // the relay's work, and nobody waits for it
		_, _ = to.Write(next.packet)                 // to the end, so that receive can end
	}
}

// known are the round-trip times that the kernel tells of sockets, smoothed and the least.
func known(t testing.TB, connections []net.Conn) (smoothed, minimum []time.Duration) {
	t.Helper()
	for _, connection := range connections {
		raw, err := connection.(*net.TCPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			must(t, err)
			smoothed = append(smoothed, time.Duration(info.Rtt)*time.Microsecond)
			minimum = append(minimum, time.Duration(info.Min_rtt)*time.Microsecond)
		}))
	}
	return smoothed, minimum
}

// histogramOf is what durations make: bucket i has those above 2^((i-1)/8) and up to 2^(i/8) seconds.
func histogramOf(durations []time.Duration) *v1alpha1.Histogram {
	counts, sum := map[int32]int64{}, time.Duration(0)
	for _, one := range durations {
		counts[int32(math.Ceil(8*math.Log2(one.Seconds())))]++
		sum += one
	}
	h := &v1alpha1.Histogram{SumNano: int64(sum)}
	for _, index := range slices.Sorted(maps.Keys(counts)) {
		h.Indexes, h.Counts = append(h.Indexes, index), append(h.Counts, counts[index])
	}
	return h
}

// between says whether a histogram is of n durations, on average and in each bucket within bounds.
func between(h *v1alpha1.Histogram, n int64, least, most time.Duration) bool {
	bound := func(index int32) time.Duration { return time.Duration(1e9 * math.Exp2(float64(index)/8)) }
	return count(h) == n && h.SumNano >= n*int64(least) && h.SumNano <= n*int64(most) &&
		bound(h.Indexes[0]) >= least && bound(h.Indexes[len(h.Indexes)-1]-1) <= most
}

// TestRTT: round-trip times are those that the kernel knows of each socket, and they and the handshakes with API servers are not
// shorter than a relay makes them, nor longer than it took.
func TestRTT(t *testing.T) {
	const n, delay = 10, 40 * time.Millisecond
	const least = 2*delay - time.Millisecond // the kernel rounds
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	client, serverPod := fakepod.New(t, prefix), fakepod.New(t, prefix)
	relay(t, client.Namespace, serverPod.Namespace, "10.98.1.1", "10.98.1.2", delay)
	agent := newMachine(t).start(t, nil, client, serverPod)
	agent.collector.APIServers([]string{"10.98.1.2:80"})
	server := listen(t, serverPod.Namespace, "10.98.1.2:80")
	var echoing sync.WaitGroup
	near, far := make([]net.Conn, n), make([]net.Conn, n)
	begun := time.Now()
	for i := range near {
		near[i], far[i] = mustDial(t, client.Namespace, server.address()), server.next()
		echoing.Go(func() { _, _ = io.Copy(far[i], far[i]) })
	}
	check := func(what string, h *v1alpha1.Histogram) {
		t.Helper()
		if most := time.Since(begun); !between(h, n, least, most) {
			t.Errorf("%s: %v, want %d of %v to %v", what, h, n, least, most)
		}
	}
	check("API server, handshake", agent.row(client).ApiServer.Handshake)
	for range 10 {
		for _, connection := range near {
			_, err := connection.Write(make([]byte, 100))
			must(t, err)
		}
		for _, connection := range near {
			_, err := io.ReadFull(connection, make([]byte, 100))
			must(t, err)
		}
	}
	for pod, sockets := range map[*fakepod.Pod][]net.Conn{client: near, serverPod: far} {
		var row *v1alpha1.PodStats
		var smoothed, minimum []time.Duration
		fakepod.Eventually(t, "the round-trip times that the kernel knows", func() bool { // the last one is acknowledged later
			smoothed, minimum = known(t, sockets)
			row = agent.row(pod)
			return proto.Equal(row.Connections.OpenSmoothedRtt, histogramOf(smoothed)) &&
				proto.Equal(row.Connections.OpenMinimumRtt, histogramOf(minimum))
		}, func() string {
			return fmt.Sprintf("smoothed %v: %v; minimum %v: %v", smoothed, row.Connections.OpenSmoothedRtt, minimum, row.Connections.OpenMinimumRtt)
		})
		check("smoothed", row.Connections.OpenSmoothedRtt)
		check("minimum", row.Connections.OpenMinimumRtt)
	}
	row := agent.row(client)
	if !proto.Equal(row.ApiServer.Rtt, row.Connections.OpenSmoothedRtt) {
		t.Errorf("API server, open: %v, want %v", row.ApiServer.Rtt, row.Connections.OpenSmoothedRtt)
	}
	for i := range near {
		near[i].Close()
	}
	echoing.Wait()
	for i := range far {
		far[i].Close()
	}
	fakepod.Eventually(t, "closing", func() bool { return count(agent.row(client).Connections.ClosedSmoothedRtt) == n })
	row = agent.row(client)
	check("smoothed, closed", row.Connections.ClosedSmoothedRtt)
	check("minimum, closed", row.Connections.ClosedMinimumRtt)
	if !proto.Equal(row.ApiServer.Rtt, row.Connections.ClosedSmoothedRtt) {
		t.Errorf("API server, closed: %v, want %v", row.ApiServer.Rtt, row.Connections.ClosedSmoothedRtt)
	}
}

// TestAPIServer: connections to where the Kubernetes API is served are counted apart, whatever family the socket is
// of, and those that were open before it was known.
func TestAPIServer(t *testing.T) {
	const n = 5
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd99:12::2")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	client, serverPod := pair(t, 12)
	ipv4, ipv6 := addresses(12)
	agent := newMachine(t).start(t, nil, client, serverPod)
	fromEnvironment, early := listen(t, serverPod.Namespace, net.JoinHostPort(ipv6, "443")), listen(t, serverPod.Namespace, net.JoinHostPort(ipv4, "6443"))
	connected := func(connected, failed, open, handshakes int64) {
		t.Helper()
		explain := func() string { return agent.row(client).ApiServer.String() }
		fakepod.Eventually(t, fmt.Sprintf("%d connected, %d failed, %d open", connected, failed, open), func() bool {
			a := agent.row(client).ApiServer
			return a.Connected == connected && a.Failed == failed && a.Open == open && count(a.Handshake) == handshakes
		}, explain)
	}
	for range n {
		mustDial(t, client.Namespace, fromEnvironment.address())
		mustDial(t, client.Namespace, early.address())
	}
	connected(n, 0, n, n)

	// 10.99.12.2:6444 has no listener; a socket of IPv6 reaches the same endpoint by its mapped address.
	agent.collector.APIServers([]string{net.JoinHostPort(ipv4, "6443"), net.JoinHostPort(ipv4, "6444")})
	connected(n, 0, 2*n, n)
	mapped, err := connect(t, client.Namespace, "[::ffff:"+ipv4+"]:6443", 0)
	must(t, err)
	connected(n+1, 0, 2*n+1, n+1)
	fd, err := connect(t, client.Namespace, net.JoinHostPort(ipv4, "6444"), 0)
	if err == nil {
		t.Error("somebody listens")
	}
	unix.Close(fd)
	connected(n+1, 1, 2*n+1, n+1)
	unix.Close(mapped)
	early.next().Close()
	connected(n+1, 1, 2*n, n+1)
	if got := count(agent.row(client).ApiServer.Rtt); got != 2*n+1 {
		t.Errorf("%d round-trip times, want %d", got, 2*n+1)
	}
	// Who serves is not who asks.
	if a := agent.row(serverPod).ApiServer; a.Connected != 0 || a.Open != 0 {
		t.Errorf("the server's own: %v", a)
	}

	agent.collector.APIServers([]string{"no address"})
	if state, message := agent.collector.State(); state != v1alpha1.Collector_STATE_DEGRADED {
		t.Errorf("%v: %s", state, message)
	}
}

// TestNoAPIServer: while it is not known where the API is served, nothing is said of it.
func TestNoAPIServer(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	client, _ := pair(t, 13)
	if a := newMachine(t).start(t, nil, client).row(client).ApiServer; a != nil {
		t.Errorf("got %v", a)
	}
}
