package pcapfilter

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attach gives a socket a filter.
func attach(fd int, program []bpf.RawInstruction) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len:    uint16(len(program)),
		Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0])),
	})
}

// checkKernel fails if the kernel does not take a program. Long ones may be more than a socket may allocate.
func checkKernel(t testing.TB, text string, program []bpf.RawInstruction) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := attach(fd, program); err != nil && !(errors.Is(err, unix.ENOMEM) && len(program) > 500) {
		t.Errorf("%s: attaching its %d instructions: %v", text, len(program), err)
	}
}

// TestKernelTakesPrograms attaches every program of the corpus, for both kinds of link.
func TestKernelTakesPrograms(t *testing.T) {
	attached := 0
	for _, text := range lines(t, "testdata/expressions.txt") {
		for _, link := range []Link{Ethernet, RawIP} {
			p, err := Compile(text, Options{Link: link})
			if err != nil {
				continue // not every filter is for raw IP
			}
			checkKernel(t, text, p.Instructions)
			attached++
		}
	}
	if attached < 800 {
		t.Errorf("only %d programs compiled", attached)
	}
}

// wire is a veth between two packet sockets, in a network namespace of its own.
type wire struct {
	send     int
	all, one int // receive everything, and what a filter lets through
	peer     unix.SockaddrLinklayer
}

// newWire makes a wire on the thread that calls it, which has to be locked and is not to be used again.
func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("packet sockets in a network namespace need root")
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("packet sockets need a network namespace: %v", err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "near"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "far"}); err != nil {
		t.Skipf("a wire needs a veth: %v", err)
	}
	indices := map[string]int{}
	for _, name := range []string{"near", "far"} {
		// Without addresses the kernel says nothing of its own on the wire.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			t.Fatal(err)
		}
		indices[name] = link.Attrs().Index
	}
	w := &wire{peer: unix.SockaddrLinklayer{Ifindex: indices["near"]}}
	w.send = w.socket(t, 0, 0)
	w.all = w.socket(t, unix.ETH_P_ALL, indices["far"])
	w.one = w.socket(t, unix.ETH_P_ALL, indices["far"])
	return w
}

func (w *wire) socket(t *testing.T, protocol uint16, index int) int {
	t.Helper()
	order := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	timeout := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)); err != nil {
		t.Fatal(err)
	}
	if index != 0 {
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: order, Ifindex: index}); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// receive returns the next packet as a socket gets it: the outermost VLAN tag is beside it. It is nil if
// there is none and it may not wait.
func (w *wire) receive(t *testing.T, fd, flags int) *packet {
	t.Helper()
	data, control := make([]byte, 2048), make([]byte, 256)
	n, controls, _, _, err := unix.Recvmsg(fd, data, control, flags)
	if errors.Is(err, unix.EAGAIN) && flags&unix.MSG_DONTWAIT != 0 {
		return nil
	}
	if err != nil {
		t.Fatalf("receiving a packet: %v", err)
	}
	p := &packet{data: data[:n], ifindex: 1}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA {
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			p.tagged = aux.Status&unix.TP_STATUS_VLAN_VALID != 0
			p.tag = aux.Vlan_tci
		}
	}
	return p
}

// TestKernelAgrees sends packets over a veth to two sockets, one of which has a filter, and compares what that gets
// with what the programs let through here. The kernel has taken the outermost VLAN tag out of the frames by then.
func TestKernelAgrees(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	w := newWire(t)
	var frames []*packet
	tagged := 0
	for _, p := range makePackets(800, 5) {
		if len(p.data) >= 18 && len(p.data) < 1400 && len(frames) < 300 {
			frames = append(frames, p)
		}
	}
	texts := lines(t, "testdata/expressions.txt")
	r := rand.New(rand.NewPCG(6, 6))
	judged, accepted := 0, 0
	for _, text := range append(vlanExpressions, pick(r, texts, 60)...) {
		program, err := Compile(text, Options{})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := attach(w.one, program.Instructions); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for w.receive(t, w.one, unix.MSG_DONTWAIT) != nil { // from before the filter was there
		}
		for _, p := range append(frames, frames[0]) { // the last only says that those before have arrived
			if err := unix.Sendto(w.send, p.data, 0, &w.peer); err != nil {
				t.Fatalf("sending a frame of %d bytes: %v", len(p.data), err)
			}
		}
		for i := range append(frames, frames[0]) {
			p := w.receive(t, w.all, 0)
			if i == len(frames) {
				break
			}
			judged++
			if p.tagged {
				tagged++
			}
			if run(program.Instructions, p) == 0 {
				continue
			}
			accepted++
			got := w.receive(t, w.one, unix.MSG_DONTWAIT)
			if got == nil || string(got.data) != string(p.data) || got.tag != p.tag {
				t.Fatalf("%s: the kernel does not let through frame %d (%s, tag beside it %v)\n% x", text, i, frames[i].kind, p.tagged, p.data)
			}
		}
		extra := 0
		for w.receive(t, w.one, unix.MSG_DONTWAIT) != nil {
			extra++
		}
		if extra > 1 {
			t.Fatalf("%s: the kernel lets through %d frames more", text, extra)
		}
	}
	if tagged == 0 || accepted == 0 {
		t.Fatalf("of %d verdicts %d were of frames with a tag taken out, %d to accept: nothing was tested", judged, tagged, accepted)
	}
	t.Logf("the kernel agreed on %d verdicts, %d of frames whose tag it had taken out, %d to accept", judged, tagged, accepted)
}

var vlanExpressions = []string{
	"vlan", "vlan 5", "vlan 3 and ip", "vlan and vlan", "vlan and vlan 5", "vlan 5 and vlan 3 and ip6", "vlan and tcp port 80", "not vlan",
	"vlan or ip", "not vlan 5 and udp", "vlan and icmp6", "vlan and arp", "vlan and mpls", "vlan 100 and host 10.1.2.3", "vlan and pppoes and ip",
	"ip", "tcp port 80 or udp port 53", "inbound", "outbound", "vlan and geneve",
}

func pick(r *rand.Rand, from []string, n int) []string {
	var some []string
	for _, i := range r.Perm(len(from))[:n] {
		some = append(some, from[i])
	}
	return some
}
