package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// TestOpened: what is opened counts on both sides, is there by its states while it is open, and in the sums for ever.
func TestOpened(t *testing.T) {
	const each, bytes = 20, 1000
	client, serverPod := pair(t, 1)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, ipv6 := addresses(1)
	var near, far []net.Conn
	for _, address := range []string{net.JoinHostPort(ipv4, "80"), net.JoinHostPort(ipv6, "80")} {
		server := listen(t, serverPod.Namespace, address)
		for range each {
			near = append(near, mustDial(t, client.Namespace, address))
			far = append(far, server.next())
		}
	}
	for i := range near {
		if _, err := near[i].Write(make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
		if _, err := far[i].Read(make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	agent.expect(client, "opening actively", counts{active: 2 * each})
	agent.expect(serverPod, "opening passively", counts{passive: 2 * each})
	fakepod.Eventually(t, "all being acknowledged", func() bool {
		return agent.row(client).Connections.BytesAcked >= 2*each*(bytes+1)
	})
	for pod, listening := range map[*fakepod.Pod]int64{client: 0, serverPod: 2} {
		c := agent.row(pod).Connections
		if c.Established != 2*each || c.Listen != listening {
			t.Errorf("%d established and %d listen, want %d and %d", c.Established, c.Listen, 2*each, listening)
		}
		if count(c.OpenSmoothedRtt) != 2*each || count(c.OpenMinimumRtt) != 2*each || count(c.ClosedSmoothedRtt) != 0 {
			t.Errorf("round-trip times of %d, %d and %d", count(c.OpenSmoothedRtt), count(c.OpenMinimumRtt), count(c.ClosedSmoothedRtt))
		}
	}

	agent.same(client, serverPod)
	for i := range near {
		if err := near[i].(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	fakepod.Eventually(t, "half closing", func() bool {
		c, s := agent.row(client).Connections, agent.row(serverPod).Connections
		return c.FinWait2 == 2*each && c.Established == 0 && s.CloseWait == 2*each && s.Established == 0
	})
	agent.same(client, serverPod)
	for i := range far {
		far[i].Close()
		defer near[i].Close()
	}
	fakepod.Eventually(t, "closing", func() bool {
		c, s := agent.row(client).Connections, agent.row(serverPod).Connections
		return c.FinWait2 == 0 && c.TimeWait == 2*each && s.LastAck == 0
	})
	agent.same(client, serverPod)
	if c := agent.briefRow(client).Connections; c.TimeWait != 2*each {
		t.Errorf("%d wait", c.TimeWait)
	}
	c, s := agent.row(client).Connections, agent.row(serverPod).Connections
	// SYN and FIN take a number in the sequence each, of which the SYN's is counted and the last FIN's may be.
	if extra := c.BytesAcked - 2*each*bytes; extra < 2*each || extra > 4*each {
		t.Errorf("the client's acknowledged bytes are %d more than its data", extra)
	}
	if c.BytesReceived > 2*each || s.BytesReceived < 2*each*bytes || s.BytesReceived > 2*each*(bytes+1) {
		t.Errorf("received %d and %d bytes", c.BytesReceived, s.BytesReceived)
	}
	if sent := snmp(t, client.Namespace, "OutSegs"); c.SegmentsSent > sent || c.SegmentsSent < sent-4*each {
		t.Errorf("sent %d segments, and the namespace %d", c.SegmentsSent, sent)
	}
	for _, c := range []*struct{ smoothed, minimum, open int64 }{
		{count(c.ClosedSmoothedRtt), count(c.ClosedMinimumRtt), count(c.OpenSmoothedRtt)},
		{count(s.ClosedSmoothedRtt), count(s.ClosedMinimumRtt), count(s.OpenSmoothedRtt)},
	} {
		if c.smoothed != 2*each || c.minimum != 2*each || c.open != 0 {
			t.Errorf("round-trip times of closed connections: %+v", c)
		}
	}
	if state, message := agent.collector.State(); state.String() != "STATE_RUNNING" {
		t.Errorf("%v: %s", state, message)
	}
}

// TestFailed: connects that fail are counted by cause, each once. Many fail by a timer, in whatever softirq comes: where
// events were missed, or the kernel keeps programs from some softirqs, what lacks for that reason is tried again.
func TestFailed(t *testing.T) {
	const n, attempts = 20, 5
	client, serverPod := pair(t, 2)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, ipv6 := addresses(2)
	serverPod.RunInput(`table inet t { chain c { type filter hook input priority 0;
		tcp dport 81 drop
		meta nfproto ipv4 tcp dport 82 reject with icmp type host-unreachable
		meta nfproto ipv6 tcp dport 82 reject with icmpv6 type addr-unreachable
		tcp dport 83 reject with icmpx type admin-prohibited
		tcp dport 84 reject with icmpx type port-unreachable
	}
	}`, "nft", "-f", "-")
	// By default the kernel says "unreachable" a few times a second only.
	serverPod.Run("sysctl", "-q", "-e", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=10000",
		"net.ipv4.icmp_msgs_burst=10000")
	impatient := func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500)
	}
	steps := []struct {
		name, port string
		flags      int
		err        error
		want       counts
	}{
		{"refused", "80", 0, unix.ECONNREFUSED, counts{refused: 2 * n}},
		{"timeout", "81", 0, unix.ETIMEDOUT, counts{timeout: 2 * n}},
		{"unreachable", "82", 0, unix.EHOSTUNREACH, counts{unreachable: 2 * n}},
		{"prohibited", "83", 0, nil, counts{unreachable: 2 * n}},
		{"refused by ICMP", "84", 0, unix.ECONNREFUSED, counts{refused: 2 * n}},
		{"abandoned", "81", unix.SOCK_NONBLOCK, unix.EINPROGRESS, counts{abandoned: 2 * n}},
		{"abandoned, known to be unreachable", "82", unix.SOCK_NONBLOCK, unix.EINPROGRESS, counts{unreachable: 2 * n}},
	}
	unseen := watchSoftirqs(t)
	var refused int64 // connects to closed ports
	for _, step := range steps {
		for attempt := 1; ; attempt++ {
			want := agent.counts(client)
			want.refused += step.want.refused
			want.timeout += step.want.timeout
			want.unreachable += step.want.unreachable
			want.abandoned += step.want.abandoned
			if step.port == "80" {
				want.resetsReceived += 2 * n
				refused += 2 * n
			}
			results := make(chan error, 2*n)
			for _, address := range []string{ipv4, ipv6} {
				for range n {
					go func() {
						fd, err := connect(t, client.Namespace, net.JoinHostPort(address, step.port), step.flags, impatient)
						unix.Close(fd)
						results <- err
					}()
				}
			}
			for range 2 * n {
				if err := <-results; err == nil || step.err != nil && !errors.Is(err, step.err) {
					t.Errorf("%s: %v", step.name, err)
				}
			}
			if agent.reaches(client, want) {
				break
			}
			got, missed, unseen := agent.counts(client), agent.collector.missed(), unseen()
			problem := fmt.Sprintf("%s: got %+v, want %+v; %d events were missed, and no program saw %d softirqs", step.name, got, want, missed, unseen)
			if want.less(got) == 0 || missed == 0 && unseen == 0 || attempt == attempts {
				t.Fatal(problem)
			}
			t.Log(problem)
		}
		if state := agent.row(client).Connections; state.SynSent != 0 {
			t.Errorf("%s: %d still connecting", step.name, state.SynSent)
		}
	}
	agent.expect(serverPod, "answering closed ports", counts{resetsSent: refused})
}

// TestCountedOrMissed: of many connects at a time, on all CPUs, each that fails is counted, or counted as missed.
func TestCountedOrMissed(t *testing.T) {
	const workers, each = 4, 5000
	client, serverPod := pair(t, 22)
	agent := newMachine(t).start(t, nil, client, serverPod)
	unseen := watchSoftirqs(t)
	ipv4, _ := addresses(22)
	address := net.JoinHostPort(ipv4, "80")
	missedBefore := agent.collector.missed()
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			client.Do(func() {
				for range each {
					fd := blank(t, address, 0)
					if err := unix.Connect(fd, sockaddr(address)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("connecting: %v", err)
					}
					unix.Close(fd)
				}
			})
		})
	}
	working.Wait()
	counted, missed := agent.counts(client).refused, int64(agent.collector.missed()-missedBefore)
	t.Logf("%d counted, %d missed", counted, missed)
	lacking := workers*each - counted - missed
	if hidden := unseen(); lacking > 0 && hidden > 0 {
		t.Skipf("%d connects were not counted, and no program saw %d softirqs", lacking, hidden)
	}
	if counted > workers*each || lacking > 0 {
		t.Errorf("%d connects failed", workers*each)
	}
}

// TestResets: every RST is counted once on each side, whatever made it: a socket that is cut off, data that nobody
// reads, and data for one that is gone.
func TestResets(t *testing.T) {
	const n = 20
	client, serverPod := pair(t, 3)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, ipv6 := addresses(3)
	ways := map[string]func(near, far net.Conn){
		"cut off": func(near, far net.Conn) {
			must(t, near.(*net.TCPConn).SetLinger(0))
			near.Close()
			_, _ = io.Copy(io.Discard, far)
			far.Close()
		},
		"unread": func(near, far net.Conn) {
			_, err := far.Write(make([]byte, 10))
			must(t, err)
			waitReadable(t, near)
			near.Close()
			_, _ = io.Copy(io.Discard, far)
			far.Close()
		},
		"too late": func(near, far net.Conn) {
			near.Close()
			_, err := io.Copy(io.Discard, far)
			must(t, err)
			_, err = far.Write(make([]byte, 10))
			must(t, err)
			_, _ = io.Copy(io.Discard, far)
			far.Close()
		},
	}
	var opened int64
	for name, way := range ways {
		for _, address := range []string{net.JoinHostPort(ipv4, "80"), net.JoinHostPort(ipv6, "80")} {
			server := listen(t, serverPod.Namespace, address)
			for range n {
				near := mustDial(t, client.Namespace, address)
				way(near, server.next())
				opened++
			}
			server.listener.Close()
		}
		agent.expect(client, name, counts{active: opened, resetsSent: opened})
		agent.expect(serverPod, name, counts{passive: opened, resetsReceived: opened})
	}
	for _, pod := range []*fakepod.Pod{client, serverPod} {
		if want, got := snmp(t, pod.Namespace, "OutRsts"), agent.counts(pod).resetsSent; got != want {
			t.Errorf("%d resets sent, and the namespace says %d", got, want)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// waitReadable waits until there is something to read, and leaves it.
func waitReadable(t testing.TB, connection net.Conn) {
	t.Helper()
	raw, err := connection.(*net.TCPConn).SyscallConn()
	must(t, err)
	must(t, raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err == nil && n > 0
	}))
}

// TestHalfOpen: connections that wait for a packet of their handshake are shown on both sides.
func TestHalfOpen(t *testing.T) {
	const n = 7
	client, serverPod := pair(t, 19)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, ipv6 := addresses(19)
	client.RunInput(`table inet t { chain c { type filter hook input priority 0;
		tcp sport 80 drop
	}
	}`, "nft", "-f", "-")
	for _, address := range []string{net.JoinHostPort(ipv4, "80"), net.JoinHostPort(ipv6, "80")} {
		listen(t, serverPod.Namespace, address)
		for range n {
			fd, err := connect(t, client.Namespace, address, unix.SOCK_NONBLOCK)
			defer unix.Close(fd)
			if !errors.Is(err, unix.EINPROGRESS) {
				t.Fatal(err)
			}
		}
	}
	fakepod.Eventually(t, "waiting on both sides", func() bool {
		return agent.row(client).Connections.SynSent == 2*n && agent.row(serverPod).Connections.SynReceived == 2*n
	})
	agent.expect(client, "waiting", counts{})
	agent.expect(serverPod, "waiting", counts{})
	agent.same(client, serverPod)
	if waiting := agent.briefRow(serverPod).Connections.SynReceived; waiting != 2*n {
		t.Errorf("%d wait for the last packet", waiting)
	}
}

// TestNoMemory: a socket that the kernel has no memory to follow is counted, but for what it carries.
func TestNoMemory(t *testing.T) {
	client, serverPod := pair(t, 20)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, _ := addresses(20)
	server := listen(t, serverPod.Namespace, net.JoinHostPort(ipv4, "80"))
	if client.Command("sysctl", "-q", "-w", "net.core.optmem_max=0").Run() != nil {
		t.Skip("this kernel has one limit of socket memory for all namespaces, which shall not be disturbed")
	}
	near, far := mustDial(t, client.Namespace, server.address()), server.next()
	exchange(t, near, far, 1000)
	near.Close()
	_, _ = io.Copy(io.Discard, far)
	far.Close()
	agent.expect(client, "connecting", counts{active: 1})
	fakepod.Eventually(t, "closing", func() bool {
		lost := agent.row(client).Additional
		return len(lost) == 1 && lost[0].Name == "sockets_not_followed" && lost[0].Value == 1
	})
	if c := agent.row(client).Connections; c.BytesAcked != 0 || count(c.ClosedSmoothedRtt) != 1 {
		t.Errorf("got %v", c)
	}
}

// An unusual test has two pods, of which the second listens.
type unusual struct {
	*testing.T
	agent             *agent
	client, serverPod *fakepod.Pod
	ip, address       string
	server            *server
}

// TestUnusual: what is rare is counted as what it is.
func TestUnusual(t *testing.T) {
	client, serverPod := pair(t, 4)
	ipv4, _ := addresses(4)
	u := unusual{
		T: t, agent: newMachine(t).start(t, nil, client, serverPod), client: client, serverPod: serverPod,
		ip: ipv4, address: net.JoinHostPort(ipv4, "80"),
	}
	u.server = listen(t, serverPod.Namespace, u.address)
	u.disconnectAndConnect()
	u.failAndConnect()
	u.noFreePort()
	u.bothAtOnce()
	u.fastOpen()
	u.multipath()
}

func (t unusual) disconnectAndConnect() {
	fd, err := connect(t, t.client.Namespace, t.address, 0)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, make([]byte, 3000))
	must(t, err)
	_, err = io.ReadFull(t.server.next(), make([]byte, 3000))
	must(t, err)
	t.agent.expect(t.client, "connecting", counts{active: 1})
	before := t.agent.row(t.client).Connections
	must(t, disconnect(fd))
	fakepod.Eventually(t, "disconnecting", func() bool { return t.agent.row(t.client).Connections.Established == 0 })
	t.client.Do(func() { err = unix.Connect(fd, sockaddr(t.address)) })
	must(t, err)
	t.agent.expect(t.client, "connecting again", counts{active: 2, resetsSent: 1})
	after := t.agent.row(t.client).Connections
	// SYN and ACK again.
	if after.BytesAcked != before.BytesAcked+1 || after.SegmentsSent != before.SegmentsSent+2 || after.Established != 1 {
		t.Errorf("before %v, after %v", before, after)
	}
	if count(after.ClosedSmoothedRtt) != 1 {
		t.Errorf("%d round-trip times of closed connections", count(after.ClosedSmoothedRtt))
	}
}

func (t unusual) failAndConnect() {
	before := t.agent.counts(t.client)
	fd, err := connect(t, t.client.Namespace, net.JoinHostPort(t.ip, "9"), 0)
	defer unix.Close(fd)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatal(err)
	}
	t.client.Do(func() { err = unix.Connect(fd, sockaddr(t.address)) })
	must(t, err)
	before.active++
	before.refused++
	before.resetsReceived++
	t.agent.expect(t.client, "connecting after a failure", before)
}

func (t unusual) noFreePort() {
	before := t.agent.counts(t.client)
	ports := t.client.Run("sysctl", "-n", "net.ipv4.ip_local_port_range")
	t.client.Run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=20000 20000")
	defer t.client.Run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range="+ports)
	first, err := connect(t, t.client.Namespace, t.address, 0)
	must(t, err)
	defer unix.Close(first)
	second, err := connect(t, t.client.Namespace, t.address, 0)
	defer unix.Close(second)
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatal(err)
	}
	before.active++
	before.other++
	t.agent.expect(t.client, "connecting without a port", before)
}

// bothAtOnce makes a connection of one socket, whose SYN is answered by itself: what two sockets do that connect to each
// other at once.
func (t unusual) bothAtOnce() {
	const self = "127.0.0.1:20001"
	before := t.agent.counts(t.client)
	fd, err := connect(t, t.client.Namespace, self, 0, func(fd int) { must(t, unix.Bind(fd, sockaddr(self))) })
	must(t, err)
	defer unix.Close(fd)
	before.active++
	t.agent.expect(t.client, "connecting to itself", before)
}

// fastOpen sends data with the SYN, once the first connection has brought the cookie for that.
func (t unusual) fastOpen() {
	for _, pod := range []*fakepod.Pod{t.client, t.serverPod} {
		pod.Run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=3")
	}
	address := net.JoinHostPort(t.ip, "81")
	server := listen(t, t.serverPod.Namespace, address, func(fd int) {
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16))
	})
	near, far := t.agent.counts(t.client), t.agent.counts(t.serverPod)
	bytes := t.agent.row(t.client).Connections.BytesAcked
	for range 2 {
		var fd int
		var err error
		t.client.Do(func() {
			fd = blank(t, address, 0)
			err = unix.Sendto(fd, make([]byte, 100), unix.MSG_FASTOPEN, sockaddr(address))
		})
		must(t, err)
		_, err = io.ReadFull(server.next(), make([]byte, 100))
		must(t, err)
		defer unix.Close(fd)
	}
	near.active += 2
	far.passive += 2
	t.agent.expect(t.client, "opening fast", near)
	t.agent.expect(t.serverPod, "opening fast", far)
	fakepod.Eventually(t, "all being acknowledged", func() bool {
		return t.agent.row(t.client).Connections.BytesAcked == bytes+2*101
	})
	if fast := netstat(t, t.client.Namespace, "TCPFastOpenActive"); fast != 1 {
		t.Errorf("%d connections were opened with data in the SYN, want 1", fast)
	}
}

// multipath: each path of a connection is one of TCP, and the socket above them is none.
func (t unusual) multipath() {
	near, far := t.agent.counts(t.client), t.agent.counts(t.serverPod)
	before := t.agent.row(t.serverPod).Connections
	var listener net.Listener
	var connection net.Conn
	var err error
	address := net.JoinHostPort(t.ip, "83")
	t.serverPod.Do(func() {
		config := net.ListenConfig{}
		config.SetMultipathTCP(true)
		listener, err = config.Listen(t.Context(), "tcp", address)
	})
	must(t, err)
	defer listener.Close()
	t.client.Do(func() {
		dialer := net.Dialer{}
		dialer.SetMultipathTCP(true)
		connection, err = dialer.Dial("tcp", address)
	})
	must(t, err)
	defer connection.Close()
	accepted, err := listener.Accept()
	must(t, err)
	defer accepted.Close()
	exchange(t, connection, accepted, 1000)
	if multiple, err := connection.(*net.TCPConn).MultipathTCP(); err != nil || !multiple {
		t.Logf("without multipath TCP: %v", err)
	}
	near.active++
	far.passive++
	t.agent.expect(t.client, "opening paths", near)
	t.agent.expect(t.serverPod, "opening paths", far)
	after := t.agent.row(t.serverPod).Connections
	if after.BytesReceived != before.BytesReceived+1000 || after.Listen != before.Listen+1 {
		t.Errorf("before %v, after %v", before, after)
	}
}

// disconnect lets go of the peer, so that the socket may be connected anew.
func disconnect(fd int) error {
	var unspecified unix.RawSockaddrInet4 // AF_UNSPEC
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestSumsOnlyRise: while connections come, carry something and go, nothing that is read is ever smaller than before,
// and in the end everything is in the sums, once.
func TestSumsOnlyRise(t *testing.T) {
	const workers, each, bytes = 8, 100, 20000
	client, serverPod := pair(t, 5)
	agent := newMachine(t).start(t, nil, client, serverPod)
	ipv4, _ := addresses(5)
	address := net.JoinHostPort(ipv4, "80")
	server := listen(t, serverPod.Namespace, address)
	done := make(chan struct{})
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for range each {
				near, err := dial(client.Namespace, address, time.Minute)
				if err != nil {
					t.Errorf("connecting: %v", err)
					return
				}
				_, _ = near.Write(make([]byte, bytes))
				near.Close()
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			for range each {
				far := server.next()
				_, _ = io.Copy(io.Discard, far)
				far.Close()
			}
		}()
	}
	readings := 0
	last := map[*fakepod.Pod][]int64{}
	read := func() {
		readings++
		for _, pod := range []*fakepod.Pod{client, serverPod} {
			now := rising(agent.row(pod))
			for i := range last[pod] {
				if now[i] < last[pod][i] {
					t.Fatalf("reading %d: counter %d fell from %d to %d", readings, i, last[pod][i], now[i])
				}
			}
			last[pod] = now
		}
	}
	for ended := 0; ended < 2*workers; {
		select {
		case <-done:
			ended++
		default:
			read()
		}
	}
	t.Logf("%d readings", readings)
	const all = workers * each
	fakepod.Eventually(t, "closing", func() bool {
		read()
		c := agent.row(client).Connections
		return c.Established+c.FinWait1+c.FinWait2+c.CloseWait+c.LastAck+c.Closing == 0 && count(c.ClosedSmoothedRtt) == all
	})
	// A FIN takes a number in the sequence.
	if c := agent.row(serverPod).Connections; c.BytesReceived != all*(bytes+1) || c.OpenedPassively != all {
		t.Errorf("%d opened and %d bytes received, want %d and %d", c.OpenedPassively, c.BytesReceived, all, all*(bytes+1))
	}
	if opened := snmp(t, client.Namespace, "ActiveOpens"); agent.counts(client).active != opened || opened != all {
		t.Errorf("%d opened, and the namespace says %d, want %d", agent.counts(client).active, opened, all)
	}
	if c := agent.row(client).Connections; c.SegmentsRetransmitted != snmp(t, client.Namespace, "RetransSegs") {
		t.Errorf("%d retransmitted, and the namespace says %d", c.SegmentsRetransmitted, snmp(t, client.Namespace, "RetransSegs"))
	}
}
