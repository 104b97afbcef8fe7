package tcp

import (
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A relay carries IP packets between tun devices of two namespaces, each after a delay. It measures how long it really
// kept them.
type relay struct {
	mu      sync.Mutex
	packets int64
	kept    time.Duration
}

type delayed struct {
	packet []byte
	came   time.Time
}

func newRelay(t testing.TB, a, b *fakepod.Namespace, addressA, addressB string, delay time.Duration) *relay {
	t.Helper()
	r := &relay{}
	first, second := tun(t, a, addressA, addressB), tun(t, b, addressB, addressA)
	var running sync.WaitGroup
	for from, to := range map[*os.File]*os.File{first: second, second: first} {
		waiting := make(chan delayed, 10000)
		running.Go(func() { receive(from, waiting) })
		running.Go(func() { r.send(to, waiting, delay) })
	}
	t.Cleanup(func() {
		first.Close()
		second.Close()
		running.Wait()
	})
	return r
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

func (r *relay) send(to *os.File, waiting <-chan delayed, delay time.Duration) {
	for next := range waiting {
		time.Sleep(time.Until(next.came.Add(delay))) // the relay's work, and nobody waits for it
		kept := time.Since(next.came)
		if _, err := to.Write(next.packet); err != nil {
			continue // to the end, so that receive can end
		}
		r.mu.Lock()
		r.packets++
		r.kept += kept
		r.mu.Unlock()
	}
}

// roundTrip is twice what the relay really took on average.
func (r *relay) roundTrip() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return 2 * r.kept / time.Duration(r.packets)
}

func mean(t testing.TB, h *v1alpha1.Histogram) time.Duration {
	t.Helper()
	if count(h) == 0 {
		t.Fatal("an empty histogram")
	}
	return time.Duration(h.SumNano / count(h))
}

// median is the geometric middle of the bucket that holds it.
func median(t testing.TB, h *v1alpha1.Histogram) time.Duration {
	t.Helper()
	seen, all := int64(0), count(h)
	for i, bucket := range h.Indexes {
		if seen += h.Counts[i]; 2*seen >= all {
			return time.Duration(1e9 * math.Exp2((float64(bucket)-0.5)/8))
		}
	}
	t.Fatal("an empty histogram")
	return 0
}

// within says whether two durations differ by at most a part, given in percent.
func within(got, want time.Duration, percent float64) bool {
	return math.Abs(float64(got-want)) <= float64(want)*percent/100
}

// TestRTT: round-trip times, and the handshakes with API servers, are what a relay makes them.
func TestRTT(t *testing.T) {
	const n, delay = 10, 40 * time.Millisecond
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	client, serverPod := fakepod.New(t, prefix), fakepod.New(t, prefix)
	relay := newRelay(t, client.Namespace, serverPod.Namespace, "10.98.1.1", "10.98.1.2", delay)
	agent := newMachine(t).start(t, nil, client, serverPod)
	agent.collector.APIServers([]string{"10.98.1.2:80"})
	server := listen(t, serverPod.Namespace, "10.98.1.2:80")
	var echoing sync.WaitGroup
	near, far := make([]net.Conn, n), make([]net.Conn, n)
	for i := range near {
		near[i], far[i] = mustDial(t, client.Namespace, server.address()), server.next()
		echoing.Go(func() { _, _ = io.Copy(far[i], far[i]) })
	}
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
	check := func(what string, h *v1alpha1.Histogram) {
		t.Helper()
		want := relay.roundTrip()
		t.Logf("%s: mean %v, median %v, the relay's %v", what, mean(t, h), median(t, h), want)
		if count(h) != n || !within(mean(t, h), want, 10) || !within(median(t, h), want, 10) {
			t.Errorf("%s: mean %v and median %v of %d, want %v of %d", what, mean(t, h), median(t, h), count(h), want, n)
		}
	}
	row := agent.row(client)
	check("smoothed", row.Connections.OpenSmoothedRtt)
	check("minimum", row.Connections.OpenMinimumRtt)
	check("at the server", agent.row(serverPod).Connections.OpenSmoothedRtt)
	check("API server, handshake", row.ApiServer.Handshake)
	check("API server, open", row.ApiServer.Rtt)
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
	check("API server, closed", row.ApiServer.Rtt)
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
