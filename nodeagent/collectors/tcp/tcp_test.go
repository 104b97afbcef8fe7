package tcp

import (
	"errors"
	"net"
	"testing"

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

	for i := range near {
		if err := near[i].(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	fakepod.Eventually(t, "half closing", func() bool {
		c, s := agent.row(client).Connections, agent.row(serverPod).Connections
		return c.FinWait2 == 2*each && c.Established == 0 && s.CloseWait == 2*each && s.Established == 0
	})
	for i := range far {
		far[i].Close()
		defer near[i].Close()
	}
	fakepod.Eventually(t, "closing", func() bool {
		c, s := agent.row(client).Connections, agent.row(serverPod).Connections
		return c.FinWait2 == 0 && c.TimeWait == 2*each && s.LastAck == 0
	})
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

// TestFailed: connects that fail are counted by cause, each once.
func TestFailed(t *testing.T) {
	const n = 20
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
	serverPod.Run("sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=10000",
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
	for _, step := range steps {
		before := agent.counts(client)
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
		want := before
		want.refused += step.want.refused
		want.timeout += step.want.timeout
		want.unreachable += step.want.unreachable
		want.abandoned += step.want.abandoned
		if step.port == "80" {
			want.resetsReceived += 2 * n
		}
		agent.expect(client, step.name, want)
		if state := agent.row(client).Connections; state.SynSent != 0 {
			t.Errorf("%s: %d still connecting", step.name, state.SynSent)
		}
	}
	agent.expect(serverPod, "answering closed ports", counts{resetsSent: 2 * n})
}
