package drops

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// Every cause is brought about so many times, and counted by something else too.
const times = 300

// A world is a node with two pods behind it, and a peer outside: the packets of the pods pass the node's namespace.
type world struct {
	*node
	a, b   *fakepod.Pod
	router *fakepod.Namespace
}

// newWorld gives pod a 10.99.1.1, pod b 10.99.2.1, and the node .2 in both networks, the same in fd99:1:: and fd99:2::.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	fakepod.NeedRoot(t)
	prefix := fakepod.Prefix()
	w := &world{a: fakepod.New(t, prefix), b: fakepod.New(t, prefix), router: fakepod.NewNamespace(t)}
	fakepod.Connect(w.a.Namespace, w.router, "eth0", "veth1", 1)
	fakepod.Connect(w.b.Namespace, w.router, "eth0", "veth2", 2)
	w.router.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for i, pod := range []*fakepod.Pod{w.a, w.b} {
		pod.Run("ip", "route", "add", "default", "via", fmt.Sprintf("10.99.%d.2", i+1))
		pod.Run("ip", "-6", "route", "add", "default", "via", fmt.Sprintf("fd99:%d::2", i+1))
	}
	w.node = startNode(t, o, w.router, w.a, w.b)
	if state, message := w.collector.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Fatalf("state %v: %s", state, message)
	}
	return w
}

// drop makes nftables drop UDP packets to a port in a chain of its own, and count them; it returns how many it dropped.
func drop(n *fakepod.Namespace, hook string, port int) func() int64 {
	name := fmt.Sprintf("%s_%d", hook, port)
	n.RunInput(fmt.Sprintf(`table inet %[1]s {
		counter dropped { }
		chain c { type filter hook %[2]s priority 0; udp dport %[3]d counter name dropped drop; }
	}`, name, hook, port), "nft", "-f", "-")
	return func() int64 {
		var listing struct {
			Nftables []struct {
				Counter struct {
					Table   string
					Packets int64
				}
			}
		}
		if err := json.Unmarshal([]byte(n.Run("nft", "-j", "list", "counters", "table", "inet", name)), &listing); err != nil {
			panic(err)
		}
		for _, entry := range listing.Nftables {
			if entry.Counter.Table == name {
				return entry.Counter.Packets
			}
		}
		return -1
	}
}

// send sends so many UDP packets of so many bytes. It is safe for concurrent use.
func send(t testing.TB, from *fakepod.Namespace, to string, count, size int) {
	t.Helper()
	var socket net.Conn
	var err error
	from.Do(func() { socket, err = net.Dial("udp", to) })
	if err != nil {
		t.Error(err)
		return
	}
	defer socket.Close()
	payload := make([]byte, size)
	for range count {
		_, err := socket.Write(payload)
		for errors.Is(err, unix.ECONNREFUSED) { // by an earlier packet: this one was not sent
			_, err = socket.Write(payload)
		}
		if err != nil && !errors.Is(err, unix.EPERM) { // dropped on its way out
			t.Error(err)
			return
		}
	}
}

// versions runs a test with the addresses of both versions of IP.
func versions(t *testing.T, test func(t *testing.T, address func(subnet, end, port int) string, offset int)) {
	t.Run("IPv4", func(t *testing.T) {
		test(t, func(subnet, end, port int) string { return fmt.Sprintf("10.99.%d.%d:%d", subnet, end, port) }, 0)
	})
	t.Run("IPv6", func(t *testing.T) {
		test(t, func(subnet, end, port int) string { return fmt.Sprintf("[fd99:%d::%d]:%d", subnet, end, port) }, 1)
	})
}

// kernels runs a test with the program for kernels that tell the receiving socket, and with the one for those before.
func kernels(t *testing.T, test func(t *testing.T, o options)) {
	t.Run("with receivers", func(t *testing.T) { test(t, options{}) })
	t.Run("without receivers", func(t *testing.T) { test(t, options{noSockets: true}) })
}

func TestPolicy(t *testing.T) {
	kernels(t, func(t *testing.T, o options) {
		w := newWorld(t, o)
		versions(t, func(t *testing.T, address func(subnet, end, port int) string, offset int) {
			for _, test := range []struct {
				name   string
				in     *fakepod.Namespace
				hook   string
				port   int
				target string
				from   *fakepod.Namespace
				// Whose drops they are.
				want map[*fakepod.Pod]kind
			}{
				{"output of the pod", w.a.Namespace, "output", 7100 + offset, address(2, 1, 7100+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {direction: transmit, attribution: bySocket}, w.b: {}}},
				{"input of the pod", w.b.Namespace, "input", 7110 + offset, address(2, 1, 7110+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {}, w.b: {direction: receive, attribution: byInterface}}},
				{"prerouting of the pod", w.b.Namespace, "prerouting", 7120 + offset, address(2, 1, 7120+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {}, w.b: {direction: receive, attribution: byInterface}}},
				{"between two pods", w.router, "forward", 7130 + offset, address(2, 1, 7130+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {direction: transmit, attribution: byAddress}, w.b: {direction: receive, attribution: byAddress}}},
				{"before routing between two pods", w.router, "prerouting", 7140 + offset, address(2, 1, 7140+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {direction: transmit, attribution: byAddress}, w.b: {direction: receive, attribution: byAddress}}},
				{"after routing between two pods", w.router, "postrouting", 7150 + offset, address(2, 1, 7150+offset), w.a.Namespace,
					map[*fakepod.Pod]kind{w.a: {direction: transmit, attribution: byAddress}, w.b: {direction: receive, attribution: byAddress}}},
			} {
				t.Run(test.name, func(t *testing.T) {
					dropped := drop(test.in, test.hook, test.port)
					send(t, test.from, test.target, times, 100)
					if got := dropped(); got != times {
						t.Fatalf("nftables dropped %d packets, want %d", got, times)
					}
					for pod, k := range test.want {
						port := kind{protocol: udp, port: int32(test.port)}
						if k == (kind{}) {
							expect(t, w.of(pod), port, 0)
							continue
						}
						expect(t, w.of(pod), port, times)
						k.reason, k.class, k.protocol, k.port = "NETFILTER_DROP", v1alpha1.Drop_CLASS_POLICY, udp, int32(test.port)
						expect(t, w.of(pod), k, times)
					}
					expect(t, w.self, kind{protocol: udp, port: int32(test.port)}, 0)
				})
			}
			t.Run("input of the node", func(t *testing.T) {
				port := 7160 + offset
				drop(w.router, "input", port)
				send(t, w.a.Namespace, address(1, 2, port), times, 100)
				expect(t, w.of(w.a), kind{direction: transmit, attribution: byAddress, port: int32(port)}, times)
				expect(t, w.self, kind{direction: receive, attribution: byAddress, port: int32(port)}, times)
			})
			t.Run("output of the node", func(t *testing.T) {
				port := 7170 + offset
				drop(w.router, "output", port)
				send(t, w.router, address(2, 1, port), times, 100)
				expect(t, w.of(w.b), kind{direction: receive, attribution: byAddress, port: int32(port)}, times)
				expect(t, w.self, kind{direction: transmit, attribution: bySocket, port: int32(port)}, times)
			})
		})
	})
}

// raw sends IP packets as they are, so many times.
func raw(t testing.TB, from *fakepod.Namespace, packet []byte, count int) {
	t.Helper()
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if packet[0]>>4 == 4 {
		to = &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	}
	var socket int
	var err error
	from.Do(func() { socket, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	for range count {
		if err := unix.Sendto(socket, packet, 0, to); err != nil {
			t.Fatal(err)
		}
	}
}

// datagram is an IP packet of a protocol, from a pod's first address to another's, with a TTL. The kernel sets the
// header's checksum.
func datagram(version int, protocol byte, fromSubnet, toSubnet, ttl byte, payload []byte) []byte {
	if version == 4 {
		h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0, 10, 99, fromSubnet, 1, 10, 99, toSubnet, 1}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		return append(h, payload...)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, ttl
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], []byte{0xfd, 0x99, 0, fromSubnet})
	copy(h[24:], []byte{0xfd, 0x99, 0, toSubnet})
	h[23], h[39] = 1, 1
	return append(h, payload...)
}

// udpTo and tcpTo are headers with a checksum as given.
func udpTo(port int, checksum uint16) []byte {
	h := make([]byte, 8+12)
	binary.BigEndian.PutUint16(h, 4000)
	binary.BigEndian.PutUint16(h[2:], uint16(port))
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)))
	binary.BigEndian.PutUint16(h[6:], checksum)
	return h
}

func tcpTo(port int, checksum uint16) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h, 4000)
	binary.BigEndian.PutUint16(h[2:], uint16(port))
	h[12], h[13], h[14] = 5<<4, 2, 0x10 // SYN
	binary.BigEndian.PutUint16(h[16:], checksum)
	return h
}

// statistic reads the kernel's own counter of a namespace, as nstat names it.
func statistic(n *fakepod.Namespace, name string) int64 {
	var listing struct{ Kernel map[string]int64 }
	if err := json.Unmarshal([]byte(n.Run("nstat", "-jzas", name)), &listing); err != nil {
		panic(err)
	}
	return listing.Kernel[name]
}

func TestNoSocketUDP(t *testing.T) {
	kernels(t, func(t *testing.T, o options) {
		w := newWorld(t, o)
		versions(t, func(t *testing.T, address func(subnet, end, port int) string, offset int) {
			counter := []string{"UdpNoPorts", "Udp6NoPorts"}[offset]
			before := statistic(w.b.Namespace, counter)
			send(t, w.a.Namespace, address(2, 1, 7200+offset), times, 100)
			if got := statistic(w.b.Namespace, counter) - before; got != times {
				t.Fatalf("%s rose by %d", counter, got)
			}
			expect(t, w.of(w.b), kind{reason: "NO_SOCKET", class: noSocket, direction: receive, attribution: byInterface, protocol: udp, port: int32(7200 + offset)}, times)
			expect(t, w.of(w.a), kind{port: int32(7200 + offset)}, 0)
		})
	})
}

func TestClosedPortTCP(t *testing.T) {
	w := newWorld(t, options{})
	versions(t, func(t *testing.T, address func(subnet, end, port int) string, offset int) {
		before := statistic(w.b.Namespace, "TcpOutRsts")
		for range times {
			w.a.Do(func() {
				if connection, err := net.Dial("tcp", address(2, 1, 7210+offset)); err == nil {
					connection.Close()
					t.Error("connected to a closed port")
				}
			})
		}
		if got := statistic(w.b.Namespace, "TcpOutRsts") - before; got != times {
			t.Fatalf("TcpOutRsts rose by %d", got)
		}
		expect(t, w.of(w.b), kind{reason: "NO_SOCKET", class: noSocket, direction: receive, attribution: byInterface, protocol: tcp, port: int32(7210 + offset)}, times)
	})
	// The resets did what they should.
	for _, d := range w.pod(w.a).Drops {
		if d.Protocol == tcp && d.Class != benign {
			t.Errorf("who was refused has %v", d)
		}
	}
}

// The socket's own count of what it lost comes with the next packet that it receives.
func TestFullReceiveBuffer(t *testing.T) {
	kernels(t, func(t *testing.T, o options) {
		w := newWorld(t, o)
		by := bySocket
		if o.noSockets {
			by = byInterface
		}
		versions(t, func(t *testing.T, address func(subnet, end, port int) string, offset int) {
			port := 7220 + offset
			counter := []string{"UdpRcvbufErrors", "Udp6RcvbufErrors"}[offset]
			before := statistic(w.b.Namespace, counter)
			var socket net.PacketConn
			var err error
			w.b.Do(func() { socket, err = net.ListenPacket("udp", address(2, 1, port)) })
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			if err := socket.(*net.UDPConn).SetReadBuffer(4096); err != nil {
				t.Fatal(err)
			}
			send(t, w.a.Namespace, address(2, 1, port), 2*times, 1000)
			lost := statistic(w.b.Namespace, counter) - before
			if lost < times {
				t.Fatalf("%s rose by %d", counter, lost)
			}
			expect(t, w.of(w.b), kind{reason: "SOCKET_RCVBUFF", class: buffer, direction: receive, attribution: by, protocol: udp, port: int32(port)}, lost)
			expect(t, w.of(w.b), kind{port: int32(port)}, lost)
		})
	})
}

func TestTTL(t *testing.T) {
	w := newWorld(t, options{})
	for version, port := range map[int]int{4: 7230, 6: 7231} {
		counter := map[int]string{4: "IpInHdrErrors", 6: "Ip6InHdrErrors"}[version]
		before := statistic(w.router, counter)
		raw(t, w.a.Namespace, datagram(version, udp, 1, 2, 1, udpTo(port, 0)), times)
		if got := statistic(w.router, counter) - before; got != times {
			t.Fatalf("%s rose by %d", counter, got)
		}
		for pod, direction := range map[*fakepod.Pod]v1alpha1.Direction{w.a: transmit, w.b: receive} {
			expect(t, w.of(pod), kind{reason: "IP_INHDR", class: ttl, direction: direction, attribution: byAddress, protocol: udp, port: int32(port)}, times)
			expect(t, w.of(pod), kind{port: int32(port)}, times)
		}
	}
}

func TestTooBig(t *testing.T) {
	w := newWorld(t, options{})
	w.router.Run("ip", "link", "set", "dev", "veth2", "mtu", "1300")
	for version, port := range map[int]int{4: 7240, 6: 7241} {
		packet := datagram(version, udp, 1, 2, 64, append(udpTo(port, 0), make([]byte, 1400)...))
		packet[6] |= map[int]byte{4: 0x40}[version] // do not fragment
		counter := map[int]string{4: "IpFragFails", 6: "Ip6InTooBigErrors"}[version]
		before := statistic(w.router, counter)
		raw(t, w.a.Namespace, packet, times)
		if got := statistic(w.router, counter) - before; got != times {
			t.Fatalf("%s rose by %d", counter, got)
		}
		for pod, direction := range map[*fakepod.Pod]v1alpha1.Direction{w.a: transmit, w.b: receive} {
			expect(t, w.of(pod), kind{reason: "PKT_TOO_BIG", class: mtu, direction: direction, attribution: byAddress, protocol: udp, port: int32(port)}, times)
		}
	}
}

func TestNoRoute(t *testing.T) {
	w := newWorld(t, options{})
	for version, port := range map[int]int{4: 7250, 6: 7251} {
		counter := map[int]string{4: "IpExtInNoRoutes", 6: "Ip6InNoRoutes"}[version]
		before := statistic(w.router, counter)
		raw(t, w.a.Namespace, datagram(version, udp, 1, 77, 64, udpTo(port, 0)), times)
		if got := statistic(w.router, counter) - before; got != times {
			t.Errorf("%s rose by %d", counter, got)
		}
		expect(t, w.of(w.a), kind{reason: "IP_INNOROUTES", class: routing, direction: transmit, attribution: byAddress, protocol: udp, port: int32(port)}, times)
		expect(t, w.self, kind{port: int32(port)}, 0)
	}
}

// The checksum of a short packet of UDP is looked at when it comes, that of a long one when it is read: by then the queue
// has written over its interface, and the kernel does not tell the socket.
func TestChecksums(t *testing.T) {
	kernels(t, func(t *testing.T, o options) {
		w := newWorld(t, o)
		for version, port := range map[int]int{4: 7260, 6: 7262} {
			before := statistic(w.b.Namespace, "TcpInCsumErrors")
			raw(t, w.a.Namespace, datagram(version, tcp, 1, 2, 64, tcpTo(port, 0xbad)), times)
			if got := statistic(w.b.Namespace, "TcpInCsumErrors") - before; got != times {
				t.Errorf("TcpInCsumErrors rose by %d", got)
			}
			expect(t, w.of(w.b), kind{reason: "TCP_CSUM", class: checksum, direction: receive, attribution: byInterface, protocol: tcp, port: int32(port)}, times)
			badUDP(t, w, version, port, 0, byInterface)
			badUDP(t, w, version, port+1, 200, byAddress)
			expect(t, w.of(w.a), kind{port: int32(port)}, 0)
			expect(t, w.of(w.a), kind{port: int32(port + 1)}, 0)
		}
	})
}

// badUDP sends packets with a wrong checksum and then one with the right one, and reads until it comes.
func badUDP(t *testing.T, w *world, version, port, size int, by v1alpha1.Drop_Attribution) {
	t.Helper()
	address := net.JoinHostPort(map[int]string{4: "10.99.2.1", 6: "fd99:2::1"}[version], fmt.Sprint(port))
	counter := map[int]string{4: "UdpInCsumErrors", 6: "Udp6InCsumErrors"}[version]
	before := statistic(w.b.Namespace, counter)
	var socket net.PacketConn
	var err error
	w.b.Do(func() { socket, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	payload := append(udpTo(port, 0xbad), make([]byte, size)...)
	binary.BigEndian.PutUint16(payload[4:], uint16(len(payload)))
	const few = 100 // all of them have space in the socket's buffer
	raw(t, w.a.Namespace, datagram(version, udp, 1, 2, 64, payload), few)
	send(t, w.a.Namespace, address, 1, 10)
	if _, _, err := socket.ReadFrom(make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	if got := statistic(w.b.Namespace, counter) - before; got != few {
		t.Errorf("%s rose by %d", counter, got)
	}
	expect(t, w.of(w.b), kind{reason: "UDP_CSUM", class: checksum, direction: receive, attribution: by, protocol: udp, port: int32(port)}, few)
}

// A rule that rejects gives the reason of one that drops. Its answer is on its way when the packet is dropped.
func TestReject(t *testing.T) {
	w := newWorld(t, options{})
	w.router.RunInput("table inet r { chain c {\ntype filter hook forward priority 0; udp dport 7270 reject\n}\n}", "nft", "-f", "-")
	for range times {
		raw(t, w.a.Namespace, datagram(4, udp, 1, 2, 64, udpTo(7270, 0)), 1)
	}
	for pod, direction := range map[*fakepod.Pod]v1alpha1.Direction{w.a: transmit, w.b: receive} {
		expect(t, w.of(pod), kind{reason: "NETFILTER_DROP", class: policy, direction: direction, attribution: byAddress, protocol: udp, port: 7270}, times)
	}
}

// The kernel answers by sockets that it lends to the pod's namespace. When the answer is dropped on the node, they are
// back in the first namespace, which is the node's: still it is the pod's answer.
func TestAnswersOfTheKernel(t *testing.T) {
	w := newWorld(t, options{first: true})
	w.router.RunInput("table netdev gate { chain c {\ntype filter hook ingress device veth1 priority 0; meta l4proto tcp drop\n}\n}", "nft", "-f", "-")
	const resets = 20
	before := statistic(w.a.Namespace, "TcpOutRsts")
	connect := func() {
		if connection, err := net.DialTimeout("tcp", "10.99.1.1:7280", 10*time.Millisecond); err == nil {
			connection.Close()
			t.Error("connected to a closed port")
		}
	}
	w.b.Do(func() {
		for range resets {
			connect()
		}
	})
	sent := int64(0)
	fakepod.Eventually(t, "resets", func() bool {
		if sent = statistic(w.a.Namespace, "TcpOutRsts") - before; sent < resets {
			w.b.Do(connect) // on a busy machine the time of some was over before their first packet was sent
		}
		return sent >= resets
	})
	expect(t, w.of(w.a), kind{reason: "NETFILTER_DROP", direction: transmit, attribution: byAddress, protocol: tcp}, sent)
	expect(t, w.of(w.b), kind{reason: "NETFILTER_DROP", direction: receive, attribution: byAddress, protocol: tcp}, sent)
	expect(t, w.self, kind{reason: "NETFILTER_DROP", protocol: tcp}, 0)
}
