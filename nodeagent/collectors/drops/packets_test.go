package drops

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// frames sends frames past the pod's own stack, as they are.
func frames(t testing.TB, from *fakepod.Namespace, protocol uint16, each [][]byte) {
	t.Helper()
	from.Do(func() {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(socket)
		to := &unix.SockaddrLinklayer{
			Protocol: protocol<<8 | protocol>>8, Ifindex: iface.Index, Halen: 6,
			Addr: [8]byte{0x02, 0x99, 0, 0, 1, 2},
		}
		for _, frame := range each {
			if err := unix.Sendto(socket, frame, 0, to); err != nil {
				t.Error(err)
				return
			}
		}
	})
}

// newGate is a world whose node drops every frame of pod a before it is looked at.
func newGate(t *testing.T) *world {
	w := newWorld(t, options{})
	w.router.RunInput(`table netdev gate {
		chain c { type filter hook ingress device "veth1" priority 0; policy drop; }
	}`, "nft", "-f", "-")
	return w
}

const (
	etherIPv4, etherIPv6 = 0x0800, 0x86dd
)

func TestHeaders(t *testing.T) {
	w := newGate(t)
	fragment := func(packet []byte, offset uint16) []byte {
		binary.BigEndian.PutUint16(packet[6:], offset)
		return packet
	}
	// chain is an IPv6 packet with extension headers of 8 bytes, each of which names the next.
	chain := func(payload []byte, kinds ...byte) []byte {
		var headers []byte
		for i, kind := range kinds[:len(kinds)-1] {
			header := []byte{kinds[i+1], 0, 1, 4, 0, 0, 0, 0}
			if kind == unix.IPPROTO_FRAGMENT {
				header[2], header[3] = 0, 1 // the first one, and there are more
			}
			headers = append(headers, header...)
		}
		return datagram(6, kinds[0], 1, 2, 64, slices.Concat(headers, payload))
	}
	later := chain(udpTo(8014, 0), unix.IPPROTO_FRAGMENT, udp)
	later[40+3] = 8 // not the first fragment
	ipOptions := datagram(4, udp, 1, 2, 64, append(make([]byte, 8), udpTo(8001, 0)...))
	ipOptions[0] = 0x47
	hops := slices.Repeat([]byte{unix.IPPROTO_DSTOPTS}, 8)

	for i, test := range []struct {
		name     string
		ether    uint16
		packet   []byte
		protocol int32
		port     int32
	}{
		{"UDP over IPv4", etherIPv4, datagram(4, udp, 1, 2, 64, udpTo(8000, 0)), udp, 8000},
		{"with IP options", etherIPv4, ipOptions, udp, 8001},
		{"TCP over IPv4", etherIPv4, datagram(4, tcp, 1, 2, 64, tcpTo(8002, 0)), tcp, 8002},
		{"the first fragment", etherIPv4, fragment(datagram(4, udp, 1, 2, 64, udpTo(8003, 0)), 0x2000), udp, 8003},
		{"a later fragment", etherIPv4, fragment(datagram(4, udp, 1, 2, 64, udpTo(8004, 0)), 0x2001), udp, 0},
		{"ICMP", etherIPv4, datagram(4, icmp, 1, 2, 64, []byte{8, 0, 0, 0, 0, 0, 0, 0}), icmp, 0},
		{"without a transport header", etherIPv4, datagram(4, udp, 1, 2, 64, []byte{1, 2}), udp, 0},
		{"cut", etherIPv4, datagram(4, udp, 1, 2, 64, nil)[:15], 0, 0},
		{"IPv6 that says it were IPv4", etherIPv4, datagram(6, udp, 1, 2, 64, udpTo(8007, 0)), 0, 0},
		{"UDP over IPv6", etherIPv6, datagram(6, udp, 1, 2, 64, udpTo(8010, 0)), udp, 8010},
		{"TCP over IPv6", etherIPv6, datagram(6, tcp, 1, 2, 64, tcpTo(8011, 0)), tcp, 8011},
		{"behind options", etherIPv6, chain(udpTo(8012, 0), unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS, udp), udp, 8012},
		{"the first fragment", etherIPv6, chain(udpTo(8013, 0), unix.IPPROTO_FRAGMENT, udp), udp, 8013},
		{"a later fragment", etherIPv6, later, udp, 0},
		{"more options than are walked", etherIPv6, chain(udpTo(8015, 0), append(hops, udp)...), unix.IPPROTO_DSTOPTS, 0},
		{"options that are cut", etherIPv6, chain(nil, unix.IPPROTO_HOPOPTS, unix.IPPROTO_NONE)[:42], unix.IPPROTO_HOPOPTS, 0},
		{"ICMP version 6", etherIPv6, datagram(6, icmp6, 1, 2, 64, []byte{128, 0, 0, 0, 0, 0, 0, 0}), icmp6, 0},
		{"no IP", 0x88b5, datagram(4, udp, 1, 2, 64, udpTo(8018, 0)), 0, 0},
	} {
		t.Run(fmt.Sprint(i, " ", test.name), func(t *testing.T) {
			before := w.pod(w.a)
			exact := func(row kind) (count int64) {
				for _, d := range w.pod(w.a).Drops {
					if d.Reason == "NETFILTER_DROP" && d.Protocol == row.protocol && d.Port == row.port {
						count += d.Packets
					}
				}
				for _, d := range before.Drops {
					if d.Reason == "NETFILTER_DROP" && d.Protocol == row.protocol && d.Port == row.port {
						count -= d.Packets
					}
				}
				return count
			}
			frames(t, w.a.Namespace, test.ether, slices.Repeat([][]byte{test.packet}, 10))
			got := exact(kind{protocol: test.protocol, port: test.port})
			// The pod's own neighbour discovery may come between.
			if got != 10 && (test.protocol != icmp6 || got < 10) {
				t.Errorf("%d packets with protocol %d and port %d, want 10; all:%s", got, test.protocol, test.port, text(w.pod(w.a)))
			}
		})
	}
}

// Whatever the bytes are, each packet is counted once.
func TestRandomPackets(t *testing.T) {
	w := newGate(t)
	const count = 20_000
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for _, ether := range []uint16{etherIPv4, etherIPv6} {
		total := func() (packets int64) {
			drops := w.pod(w.a)
			for _, d := range drops.Drops {
				if d.Reason == "NETFILTER_DROP" {
					packets += d.Packets
				}
			}
			return packets + drops.Unsorted
		}
		packets := make([][]byte, count)
		for i := range packets {
			packets[i] = make([]byte, random.IntN(120))
			for j := range packets[i] {
				packets[i][j] = byte(random.Uint32())
			}
			if len(packets[i]) > 0 && i%2 == 0 {
				packets[i][0] = map[uint16]byte{etherIPv4: 0x40 | packets[i][0]&15, etherIPv6: 0x60}[ether]
			}
		}
		before := total()
		frames(t, w.a.Namespace, ether, packets)
		// The kernel sends neighbour discovery for itself, a packet now and then.
		if got := total() - before; got < count || got > count+20 {
			t.Errorf("EtherType %#x, seed %d: %d packets counted, %d sent", ether, seed, got, count)
		}
	}
}
