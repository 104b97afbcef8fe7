package ring_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// tagged puts VLAN tags behind a frame's addresses, the outer first.
func tagged(frame []byte, tags ...[4]byte) []byte {
	all := slices.Clone(frame[:12])
	for _, tag := range tags {
		all = append(all, tag[:]...)
	}
	return append(all, frame[12:]...)
}

var (
	inner = [4]byte{0x81, 0x00, 0xa0, 0x2a} // priority 5, VLAN 42
	outer = [4]byte{0x88, 0xa8, 0x70, 0x07} // priority 3, drop eligible, VLAN 7, of a provider
)

func TestPacketsAreWhole(t *testing.T) {
	l := connect(t)
	for _, test := range []struct {
		name string
		data []byte
		snap int
	}{
		{"shortest", frame(14, 0), ring.MaxSnapLength},
		{"small", frame(60, 1), ring.MaxSnapLength},
		{"full", frame(1514, 2), ring.MaxSnapLength},
		{"jumbo", frame(9014, 3), ring.MaxSnapLength},
		{"cut", frame(1514, 4), 64},
		{"cut by nothing", frame(64, 5), 64},
		{"cut by one", frame(65, 5), 64},
		{"cut to a byte", frame(60, 6), 1},
		{"tagged", tagged(frame(60, 7), inner), ring.MaxSnapLength},
		{"tagged by a provider", tagged(frame(60, 7), outer), ring.MaxSnapLength},
		{"tagged twice", tagged(frame(60, 8), outer, inner), ring.MaxSnapLength},
		{"tagged twice alike", tagged(frame(60, 8), inner, inner), ring.MaxSnapLength},
		{"tagged and cut", tagged(frame(1000, 9), inner), 64},
		{"tagged and cut within the tag", tagged(frame(60, 10), inner), 14},
		{"tagged and cut before the tag", tagged(frame(60, 10), inner), 12},
		{"tagged and cut within the addresses", tagged(frame(60, 10), inner), 11},
		{"tagged and jumbo", tagged(frame(9000, 11), outer, inner), ring.MaxSnapLength},
	} {
		t.Run(test.name, func(t *testing.T) {
			inbound := record(t, l.near, ring.Config{Interface: nearName, SnapLength: test.snap})
			outbound := record(t, l.far, ring.Config{Interface: farName, SnapLength: test.snap})
			before := time.Now().UnixNano()
			l.sender(t).send(test.data)
			for direction, r := range map[pcapng.Direction]*recording{pcapng.Inbound: inbound, pcapng.Outbound: outbound} {
				packets, _, _ := r.stop()
				if len(packets) != 1 {
					t.Fatalf("%d packets, not 1", len(packets))
				}
				p := packets[0]
				if want := test.data[:min(test.snap, len(test.data))]; !bytes.Equal(p.data, want) {
					t.Errorf("direction %d: got %x, want %x", direction, p.data[:min(64, len(p.data))], want[:min(64, len(want))])
				}
				if int(p.original) != len(test.data) || p.direction != direction {
					t.Errorf("original length %d, direction %d; want %d, %d", p.original, p.direction, len(test.data), direction)
				}
				if now := time.Now().UnixNano(); p.time < before || p.time > now {
					t.Errorf("time %d is not between %d and %d", p.time, before, now)
				}
			}
		})
	}
}

// A packet that is sent may have its tag beside the data, not in it.
func TestTagOfWhatIsSent(t *testing.T) {
	l := connect(t)
	const priority, tag = 5 << 13, 42
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, unix.ETH_P_8021Q>>8|unix.ETH_P_8021Q&0xff<<8), asm.Mov.Imm(asm.R3, priority|tag),
			asm.FnSkbVlanPush.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("loading a program that tags: %v", err)
	}
	defer program.Close()
	var attached link.Link
	l.near.Do(func() {
		var near *net.Interface
		if near, err = net.InterfaceByName(nearName); err == nil {
			attached, err = link.AttachTCX(link.TCXOptions{Interface: near.Index, Program: program, Attach: ebpf.AttachTCXEgress})
		}
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("needs tcx, to have packets tagged as they are sent: %v", err)
	}
	if err != nil {
		t.Fatalf("attaching a program that tags: %v", err)
	}
	defer attached.Close()

	r := record(t, l.near, ring.Config{Interface: nearName})
	plain := frame(60, 7)
	newSender(t, l.near, nearName).send(plain)
	packets, _, _ := r.stop()
	want := tagged(plain, inner)
	if len(packets) != 1 || !bytes.Equal(packets[0].data, want) || int(packets[0].original) != len(want) || packets[0].direction != pcapng.Outbound {
		t.Errorf("got %+v, want %x", packets, want)
	}
}

// With segmentation offload the kernel handles packets that are larger than what the interface sends, up to several
// times 64 KiB where it is allowed to.
func TestSuperPackets(t *testing.T) {
	for _, test := range []struct {
		name           string
		allowed, least int
		snap           int
	}{
		{"as by default", 65_536, 1515, ring.MaxSnapLength},
		{"as large as can be", 400_000, 65_536, ring.MaxSnapLength},
		{"cut", 400_000, 65_536, 66},
	} {
		t.Run(test.name, func(t *testing.T) {
			fakepod.NeedRoot(t)
			near, far := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
			fakepod.Connect(near, far, nearName, farName, subnet)
			if err := allowSuperPackets(near, test.allowed); err != nil {
				t.Skipf("the limit of segmentation offload cannot be set here: %v", err)
			}
			r := record(t, near, ring.Config{Interface: nearName, SnapLength: test.snap, Bytes: 64 << 20})
			const sent = 8 << 20
			exchange(t, near, far, sent)
			packets, _, dropped := r.stop()
			if dropped != 0 {
				t.Fatalf("%d packets dropped", dropped)
			}
			largest, payload := sizes(t, packets, test.snap)
			if largest < test.least {
				t.Skipf("the largest packet has %d bytes: no segmentation offload here", largest)
			}
			if payload < sent {
				t.Errorf("%d bytes of payload, sent %d", payload, sent)
			}
			t.Logf("%d packets, the largest of %d bytes", len(packets), largest)
		})
	}
}

func allowSuperPackets(n *fakepod.Namespace, size int) (err error) {
	n.Do(func() {
		var near netlink.Link
		if near, err = netlink.LinkByName(nearName); err == nil {
			err = errors.Join(netlink.LinkSetGSOMaxSize(near, size), netlink.LinkSetGSOIPv4MaxSize(near, size))
		}
	})
	return err
}

// sizes is the size of the largest packet, and what TCP sent in all. It fails the test unless packets are as long as
// they were or, when that is more, as they may be.
func sizes(t *testing.T, packets []taken, snap int) (largest, payload int) {
	t.Helper()
	for _, p := range packets {
		if len(p.data) != min(snap, int(p.original)) {
			t.Fatalf("%d bytes of %d", len(p.data), p.original)
		}
		ip := p.data[14:]
		if p.direction != pcapng.Outbound || ip[0]>>4 != 4 || ip[9] != unix.IPPROTO_TCP {
			continue
		}
		header := int(ip[0]&15) * 4
		largest = max(largest, int(p.original))
		payload += int(p.original) - 14 - header - int(ip[header+12]>>4)*4
	}
	return largest, payload
}

// exchange sends so many bytes by TCP from near to far.
func exchange(t *testing.T, near, far *fakepod.Namespace, size int) {
	t.Helper()
	var listener net.Listener
	var connection net.Conn
	var err error
	far.Do(func() { listener, err = net.Listen("tcp4", fmt.Sprintf("10.99.%d.2:0", subnet)) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	received := make(chan int64, 1)
	go func() {
		peer, err := listener.Accept()
		if err != nil {
			received <- -1
			return
		}
		defer peer.Close()
		n, _ := io.Copy(io.Discard, peer)
		received <- n
	}()
	near.Do(func() { connection, err = dial(listener.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connection.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	connection.Close()
	if n := <-received; n != int64(size) {
		t.Fatalf("%d of %d bytes arrived", n, size)
	}
}

// dial connects on this thread, which net.Dial may not.
func dial(address string) (net.Conn, error) {
	to := netip.MustParseAddrPort(address)
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(socket), "socket")
	defer file.Close()
	if err := unix.Connect(socket, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// A packet on loopback is seen once.
func TestLoopback(t *testing.T) {
	fakepod.NeedRoot(t)
	n := fakepod.NewNamespace(t)
	r := record(t, n, ring.Config{Interface: "lo"})
	const datagrams = 50
	n.Do(func() {
		to, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		for i := range datagrams {
			if _, err := to.WriteTo([]byte{byte(i)}, to.LocalAddr()); err != nil {
				t.Error(err)
			}
		}
	})
	packets, matched, _ := r.stop()
	if !r.HasEthernetHeader() || matched != datagrams {
		t.Fatalf("%d datagrams were sent, %d packets matched; with Ethernet header: %v", datagrams, matched, r.HasEthernetHeader())
	}
	for i, p := range packets {
		const header = 14 + 20 + 8
		if len(p.data) != header+1 || p.data[header] != byte(i) || p.direction != pcapng.Inbound {
			t.Fatalf("packet %d: direction %d, %x", i, p.direction, p.data)
		}
	}
}

// tun makes an interface whose packets begin with IP; kind is its ARPHRD type, or 0 for what it has by itself. What is
// written to socket comes in at the interface.
func tun(t *testing.T, n *fakepod.Namespace, kind int) (socket int) {
	t.Helper()
	socket = -1
	n.Do(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return
		}
		if err != nil {
			t.Errorf("opening /dev/net/tun: %v", err)
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		request, _ := unix.NewIfreq("tun")
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			t.Errorf("making a tun interface: %v", err)
			return
		}
		if kind != 0 {
			if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, kind); err != nil {
				t.Errorf("giving it a kind: %v", err)
				return
			}
		}
		socket = fd
	})
	switch {
	case t.Failed():
		t.FailNow()
	case socket < 0:
		t.Skip("no /dev/net/tun: no interface without Ethernet header can be made")
	}
	n.Run("ip", "link", "set", "dev", "tun", "up")
	return socket
}

var (
	ip4 = append([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, make([]byte, 8)...)
	ip6 = append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, make([]byte, 32+8)...)
)

// Packets without an Ethernet header get one, and are judged by the other filter.
func TestWithoutEthernetHeader(t *testing.T) {
	fakepod.NeedRoot(t)
	for _, kind := range []int{0, unix.ARPHRD_RAWIP, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE, unix.ARPHRD_IP6GRE} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			n := fakepod.NewNamespace(t)
			n.Run("sysctl", "-eqw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
			socket := tun(t, n, kind)
			everything := record(t, n, ring.Config{Interface: "tun", EthernetFilter: refuseAll})
			cut := record(t, n, ring.Config{Interface: "tun", SnapLength: 20, EthernetFilter: refuseAll, RawFilter: onlyIPv6})
			for _, packet := range [][]byte{ip4, ip6} {
				if _, err := unix.Write(socket, packet); err != nil {
					t.Fatalf("writing to the interface: %v", err)
				}
			}
			newSender(t, n, "tun").send(ip6)

			packets, _, _ := everything.stop()
			if everything.HasEthernetHeader() || len(packets) != 3 {
				t.Fatalf("with Ethernet header: %v; %d packets, not 3", everything.HasEthernetHeader(), len(packets))
			}
			zeros := make([]byte, 12)
			for i, want := range []taken{
				{data: slices.Concat(zeros, []byte{0x08, 0x00}, ip4), direction: pcapng.Inbound},
				{data: slices.Concat(zeros, []byte{0x86, 0xdd}, ip6), direction: pcapng.Inbound},
				{data: slices.Concat(zeros, []byte{0x86, 0xdd}, ip6), direction: pcapng.Outbound},
			} {
				if got := packets[i]; !bytes.Equal(got.data, want.data) || int(got.original) != len(want.data) || got.direction != want.direction {
					t.Errorf("packet %d: got %+v, want %+v", i, got, want)
				}
			}
			packets, _, _ = cut.stop()
			if len(packets) != 2 || len(packets[0].data) != 20 || int(packets[0].original) != len(ip6)+14 {
				t.Errorf("filtered and cut: %+v", packets)
			}
		})
	}
}

var (
	refuseAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	onlyIPv6  = []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: 0x60},
		{Code: unix.BPF_RET | unix.BPF_K, K: ring.MaxSnapLength},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
)

func TestOtherLinkTypesAreRefused(t *testing.T) {
	fakepod.NeedRoot(t)
	n := fakepod.NewNamespace(t)
	tun(t, n, unix.ARPHRD_CAN)
	n.Do(func() {
		r, err := ring.Open(ring.Config{Interface: "tun", SnapLength: 64})
		if !errors.Is(err, ring.ErrLinkType) {
			t.Errorf("the answer is %v", err)
		}
		if err == nil {
			r.Close()
		}
	})
}
