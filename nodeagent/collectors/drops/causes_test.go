package drops

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

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

// send sends UDP packets of so many bytes; the kernel may say no to some.
func send(t testing.TB, from *fakepod.Namespace, to string, count, size int) {
	t.Helper()
	var socket net.Conn
	var err error
	from.Do(func() { socket, err = net.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	payload := make([]byte, size)
	for range count {
		_, err := socket.Write(payload)
		if err != nil && !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "not permitted") &&
			!strings.Contains(err.Error(), "unreachable") {
			t.Fatal(err)
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

var _ = unix.AF_INET
