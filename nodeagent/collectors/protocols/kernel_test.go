package protocols

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// pair are two namespaces that are connected: a is 10.99.1.1, b is 10.99.1.2.
func pair(t *testing.T) (a, b *fakepod.Namespace) {
	fakepod.NeedRoot(t)
	a, b = fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(a, b, "eth0", "eth0", 1)
	for _, n := range []*fakepod.Namespace{a, b} { // what is sent before is dropped
		fakepod.Eventually(t, "eth0 going up", func() bool { return strings.Contains(n.Run("ip", "link", "show", "eth0"), "state UP") })
	}
	return a, b
}

// of reads the counters of a namespace.
func of(t *testing.T, n *fakepod.Namespace) *v1alpha1.Protocols {
	t.Helper()
	node := &v1alpha1.NodeStats{}
	n.Do(func() {
		if err := New().ReadNode(node); err != nil {
			t.Error(err)
		}
	})
	if node.Protocols == nil {
		t.FailNow()
	}
	return node.Protocols
}

func equal(t *testing.T, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// The kernel shows each type of ICMP that it ever met, and anybody can send all of them.
func TestAllTypesOfICMP(t *testing.T) {
	a, b := pair(t)
	addresses := map[*fakepod.Namespace]byte{a: 2, b: 1} // of the other end
	for n, other := range addresses {
		n.Do(func() {
			socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(socket)
			for kind := range 256 {
				message := []byte{byte(kind), 0, 0, 0, 0, 0, 0, 0}
				if err := unix.Sendto(socket, message, 0, &unix.SockaddrInet6{Addr: [16]byte{0xfd, 0x99, 0, 1, 15: other}}); err != nil {
					t.Errorf("type %d: %v", kind, err)
				}
			}
		})
	}
	if length := len(a.Run("cat", "/proc/net/snmp6")); length <= roomy {
		t.Errorf("snmp6 has %d bytes, want more than %d", length, roomy)
	}
	if got := of(t, a); got.Icmpv6.GetInMessages() < 256 {
		t.Errorf("%d messages were received", got.Icmpv6.GetInMessages())
	}
}

// A socket of protocol ICMP sends echo requests, and the kernel on the other side answers.
func TestEchosOfBothVersions(t *testing.T) {
	a, b := pair(t)
	for _, n := range []*fakepod.Namespace{a, b} {
		n.Run("sysctl", "-qw", "net.ipv4.ping_group_range=0 0")
	}
	const count = 7
	a.Do(func() {
		echo(t, unix.AF_INET, unix.IPPROTO_ICMP, 8, &unix.SockaddrInet4{Addr: [4]byte{10, 99, 1, 2}}, count)
		echo(t, unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, &unix.SockaddrInet6{Addr: [16]byte{0xfd, 0x99, 0, 1, 15: 2}}, count)
	})
	from, to := of(t, a), of(t, b)
	for version, of := range map[string][2]*v1alpha1.ICMP{"4": {from.Icmpv4, to.Icmpv4}, "6": {from.Icmpv6, to.Icmpv6}} {
		equal(t, "echos sent, version "+version, of[0].OutEchos, count)
		equal(t, "replies received, version "+version, of[0].InEchoReplies, count)
		equal(t, "echos received, version "+version, of[1].InEchos, count)
		equal(t, "replies sent, version "+version, of[1].OutEchoReplies, count)
	}
	equal(t, "messages sent", from.Icmpv4.OutMessages, count)
	equal(t, "messages received", to.Icmpv4.InMessages, count)
}

// echo sends requests and reads their replies.
func echo(t *testing.T, family, protocol int, kind byte, to unix.Sockaddr, count int) {
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(socket)
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Error(err)
	}
	for range count {
		if err := unix.Sendto(socket, []byte{kind, 0, 0, 0, 0, 0, 0, 1}, 0, to); err != nil {
			t.Error(err)
			return
		}
		if _, _, err := unix.Recvfrom(socket, make([]byte, 64), 0); err != nil {
			t.Errorf("waiting for a reply: %v", err)
			return
		}
	}
}

// The kernel limits the rate of these messages unless it is told not to.
func TestUnreachablePorts(t *testing.T) {
	a, b := pair(t)
	b.Run("sysctl", "-qw", "net.ipv4.icmp_ratemask=0")
	const count = 4
	a.Do(func() {
		for port := range count {
			socket, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 99, 1, 2), Port: 7000 + port})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := socket.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Error(err)
			}
			// The error is the message's that nobody listens.
			if _, err := socket.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("reading gave %v", err)
			}
			socket.Close()
		}
	})
	equal(t, "received", of(t, a).Icmpv4.InDestinationUnreachable, count)
	equal(t, "sent", of(t, b).Icmpv4.OutDestinationUnreachable, count)
	equal(t, "without a port", of(t, b).Udp.NoPorts, count)
}

// listen makes a listener of a namespace, whose accept queue is as long as said.
func listen(t *testing.T, n *fakepod.Namespace, backlog int) {
	n.Do(func() {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { unix.Close(socket) })
		if err := errors.Join(unix.Bind(socket, &unix.SockaddrInet4{Port: 7000}), unix.Listen(socket, backlog)); err != nil {
			t.Error(err)
		}
	})
}

// connect begins a connection to the listener, and waits for it if asked.
func connect(t *testing.T, wait bool) (socket int) {
	flags := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if !wait {
		flags |= unix.SOCK_NONBLOCK
	}
	socket, err := unix.Socket(unix.AF_INET, flags, 0)
	if err != nil {
		t.Error(err)
		return -1
	}
	t.Cleanup(func() { unix.Close(socket) })
	err = unix.Connect(socket, &unix.SockaddrInet4{Addr: [4]byte{10, 99, 1, 2}, Port: 7000})
	if err != nil && !(errors.Is(err, unix.EINPROGRESS) && !wait) {
		t.Errorf("connecting: %v", err)
	}
	return socket
}

// Told to always send them, the kernel answers each SYN with a cookie.
func TestSYNCookies(t *testing.T) {
	a, b := pair(t)
	b.Run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
	listen(t, b, 64)
	const count = 9
	a.Do(func() {
		for range count {
			connect(t, true)
		}
	})
	equal(t, "cookies", of(t, b).Tcp.SynCookiesSent, count)
	equal(t, "opened passively", of(t, b).Tcp.PassiveOpens, count)
}

// The answers to SYNs get lost, so that requests stay in the listener's queue, which holds one.
func TestFullRequestQueue(t *testing.T) {
	a, b := pair(t)
	b.Run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
	a.RunInput("table ip t { chain c { type filter hook input priority 0; tcp sport 7000 drop; }; }\n", "nft", "-f", "-")
	listen(t, b, 1)
	const count = 6
	a.Do(func() {
		for range count {
			connect(t, false)
		}
	})
	fakepod.Eventually(t, "five SYNs, or more that were repeated", func() bool { return of(t, b).Tcp.RequestQueueDrops >= count-1 })
}

// Nobody reads what is sent, until the window is closed.
func TestZeroWindow(t *testing.T) {
	a, b := pair(t)
	listen(t, b, 4)
	before := of(t, b).Tcp.ZeroWindowsSent
	a.Do(func() {
		socket := connect(t, true)
		if err := unix.SetNonblock(socket, true); err != nil {
			t.Error(err)
		}
		fakepod.Eventually(t, "the window being closed", func() bool {
			_, err := unix.Write(socket, make([]byte, 64<<10))
			return errors.Is(err, unix.EAGAIN) && of(t, b).Tcp.ZeroWindowsSent > before
		})
	})
}
