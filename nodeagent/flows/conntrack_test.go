package flows

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A natted node has a pod with addresses .0.1, a server behind a Service with addresses .1.1, and a client with
// addresses .2.1; the node itself has .2 on each link. The Service's address is 10.99.9.9 and fd99:9::9, port 80, and
// leads to the server's port 8080. What comes from the client is masqueraded.
type nattedNode struct{ node, pod, server, client *fakepod.Namespace }

func newNattedNode(t *testing.T) nattedNode {
	fakepod.NeedRoot(t)
	n := nattedNode{fakepod.NewNamespace(t), fakepod.NewNamespace(t), fakepod.NewNamespace(t), fakepod.NewNamespace(t)}
	for i, end := range []*fakepod.Namespace{n.pod, n.server, n.client} {
		fakepod.Connect(end, n.node, "eth0", fmt.Sprint("link", i), i)
		end.Run("ip", "route", "add", "default", "via", fmt.Sprintf("10.99.%d.2", i))
		end.Run("ip", "-6", "route", "add", "default", "via", fmt.Sprintf("fd99:%d::2", i))
	}
	n.node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	rules := `table inet nat {
		chain prerouting { type nat hook prerouting priority dstnat;
			ip daddr 10.99.9.9 meta l4proto {tcp, udp} th dport 80 dnat ip to 10.99.1.1:8080
			ip6 daddr fd99:9::9 meta l4proto {tcp, udp} th dport 80 dnat ip6 to [fd99:1::1]:8080
		}
		chain postrouting { type nat hook postrouting priority srcnat;
			ip saddr 10.99.2.1 masquerade
			ip6 saddr fd99:2::1 masquerade
		}
	}`
	command := n.node.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if output, err := command.CombinedOutput(); err != nil {
		t.Skipf("this kernel translates no addresses: %v\n%s", err, output)
	}
	return n
}

// connect connects over TCP or UDP, exchanges a byte and gives both ends' view: local and remote address of each.
func connect(t *testing.T, from, to *fakepod.Namespace, network, target, listenAt string) (client, server tuple) {
	t.Helper()
	if strings.HasPrefix(network, "udp") {
		return connectUDP(t, from, to, network, target, listenAt)
	}
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen(network, listenAt) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	from.Do(func() { c, err = net.DialTimeout(network, target, 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ends := func(c net.Conn) tuple {
		return tuple{netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())}
	}
	return ends(c), ends(s)
}

func connectUDP(t *testing.T, from, to *fakepod.Namespace, network, target, listenAt string) (client, server tuple) {
	t.Helper()
	var l net.PacketConn
	var c net.Conn
	var err error
	to.Do(func() { l, err = net.ListenPacket(network, listenAt) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	from.Do(func() { c, err = net.Dial(network, target) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	buffer := make([]byte, 1)
	_ = l.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(buffer); err != nil {
		t.Fatal(err)
	}
	_, peer, err := l.ReadFrom(buffer)
	if err != nil {
		t.Fatal(err)
	}
	client = tuple{netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())}
	return client, tuple{netip.MustParseAddrPort(l.LocalAddr().String()), netip.MustParseAddrPort(peer.String())}
}

// putTuple makes a flow of TCP or UDP as a pod sees it.
func putTuple(w *world, pod int, ends tuple, protocol uint8, begunByTransmit uint8) {
	f := w.flow(1, 1)
	f.BegunByTransmit = begunByTransmit
	if ends.source.Addr().Is4() {
		k := headers.FlowKey4{Pod: headers.PodNumber(podKeys[pod]), Local: ends.source.Addr().As4(), Remote: ends.destination.Addr().As4(), Protocol: protocol}
		binary.BigEndian.PutUint16(k.LocalPort[:], ends.source.Port())
		binary.BigEndian.PutUint16(k.RemotePort[:], ends.destination.Port())
		put(w, k, f)
		return
	}
	k := headers.FlowKey6{Pod: headers.PodNumber(podKeys[pod]), Local: ends.source.Addr().As16(), Remote: ends.destination.Addr().As16(), Protocol: protocol}
	binary.BigEndian.PutUint16(k.LocalPort[:], ends.source.Port())
	binary.BigEndian.PutUint16(k.RemotePort[:], ends.destination.Port())
	put(w, k, f)
}

// TestTranslation: the pod behind a Service's address is shown, and the client behind the node's, with the kernel's own
// address translation, over TCP and UDP, IPv4 and IPv6.
func TestTranslation(t *testing.T) {
	n := newNattedNode(t)
	for _, test := range []struct {
		network, service, server, pod string
		protocol                      uint8
	}{
		{"tcp4", "10.99.9.9:80", "10.99.1.1:8080", "10.99.0.1:7070", unix.IPPROTO_TCP},
		{"tcp6", "[fd99:9::9]:80", "[fd99:1::1]:8080", "[fd99::1]:7070", unix.IPPROTO_TCP},
		{"udp4", "10.99.9.9:80", "10.99.1.1:8080", "10.99.0.1:7070", unix.IPPROTO_UDP},
		{"udp6", "[fd99:9::9]:80", "[fd99:1::1]:8080", "[fd99::1]:7070", unix.IPPROTO_UDP},
	} {
		t.Run(test.network, func(t *testing.T) {
			w := newWorld(t, 100)
			c := w.agent(Config{})
			var err error
			n.node.Do(func() { err = c.conntrack.open() })
			if err != nil {
				t.Fatal(err)
			}
			podEnd, _ := connect(t, n.pod, n.server, test.network, test.service, test.server)
			client, masqueraded := connect(t, n.client, n.pod, test.network, test.pod, test.pod)
			putTuple(w, 0, podEnd, test.protocol, 1)
			putTuple(w, 0, masqueraded, test.protocol, 0)
			putTuple(w, 1, tuple{netip.MustParseAddrPort("198.51.100.1:1"), netip.MustParseAddrPort("198.51.100.2:2")}, test.protocol, 1)
			drain(t, c)
			if c.untracked != nil {
				t.Fatal(c.untracked)
			}
			var got []string
			for _, flow := range read(t, c, request()) {
				if len(flow.TranslatedAddress) > 0 {
					address, _ := netip.AddrFromSlice(flow.TranslatedAddress)
					got = append(got, netip.AddrPortFrom(address, uint16(flow.TranslatedPort)).String())
				}
			}
			slices.Sort(got)
			want := []string{test.server, client.source.String()}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("translated are %v, want %v", got, want)
			}
		})
	}
}

// TestNoConntrack: in a namespace where nothing is known, nothing is translated, and each flow is asked about once.
func TestNoConntrack(t *testing.T) {
	w := newWorld(t, 5000)
	c := w.agent(Config{})
	for i := range 3000 {
		put(w, key4(0, i), w.flow(1, 0))
	}
	fakepod.NewNamespace(t).Do(func() { _ = c.conntrack.open() })
	drain(t, c)
	if c.untracked == nil && len(c.sweep.ask) != lookups {
		t.Errorf("asked about %d flows", len(c.sweep.ask))
	}
	drain(t, c)
	drain(t, c)
	if c.untracked == nil && len(c.sweep.ask) != 0 {
		t.Errorf("asked about %d flows again", len(c.sweep.ask))
	}
	if state, message := c.State(); state != 1 {
		t.Errorf("state %v: %s", state, message)
	}
}

// FuzzConntrackAnswer: whatever arrives on the socket, decoding ends, and does not panic.
func FuzzConntrackAnswer(f *testing.F) {
	for _, name := range []string{"testdata/dnat.bin", "testdata/refused.bin"} {
		seed, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	question := appendQuestion(nil, tuple{netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")}, unix.IPPROTO_TCP, 1)
	f.Add(question)
	f.Add(append(slices.Clone(question), question...))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		total := 0
		for header, body := range messages(datagram) {
			total += unix.SizeofNlMsghdr + len(body)
			err := readAnswer(header.Type, body, func(original, reply tuple) {
				if !original.source.Addr().IsValid() || !reply.destination.Addr().IsValid() {
					t.Error("an answer has no addresses")
				}
				realPeer(original, original, reply)
			})
			if err != nil && header.Type != unix.NLMSG_ERROR {
				t.Errorf("an error of a message of type %d: %v", header.Type, err)
			}
		}
		if total > len(datagram) {
			t.Errorf("%d bytes of messages in %d", total, len(datagram))
		}
	})
}

// TestRecordedAnswer decodes an answer as a kernel gave it: pod 10.99.0.1 to Service 10.99.9.9:80, behind which is
// 10.99.1.1:8080.
func TestRecordedAnswer(t *testing.T) {
	datagram, err := os.ReadFile("testdata/dnat.bin")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for header, body := range messages(datagram) {
		err := readAnswer(header.Type, body, func(original, reply tuple) {
			found = true
			if peer, ok := realPeer(original, original, reply); !ok || peer.String() != "10.99.1.1:8080" {
				t.Errorf("the peer is %v (%v)", peer, ok)
			}
			back := tuple{reply.source, reply.destination}
			if peer, ok := realPeer(back, original, reply); ok {
				t.Errorf("seen from behind the Service the peer is %v", peer)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	if !found {
		t.Error("no answer was found")
	}
}
