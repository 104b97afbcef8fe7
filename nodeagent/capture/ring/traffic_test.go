package ring_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func pid(n *fakepod.Namespace) string { return fmt.Sprint(n.PID) }

// A sender puts frames onto an interface.
type sender struct {
	t      testing.TB
	socket int
}

func (l cable) sender(t testing.TB) sender { return newSender(t, l.far, farName) }

func newSender(t testing.TB, n *fakepod.Namespace, name string) sender {
	t.Helper()
	s := sender{t: t, socket: -1}
	n.Do(func() {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Errorf("opening a packet socket: %v", err)
			return
		}
		t.Cleanup(func() { unix.Close(socket) })
		request, _ := unix.NewIfreq(name)
		if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request); err != nil {
			t.Errorf("looking for %s: %v", name, err)
			return
		}
		if err := unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: int(request.Uint32())}); err != nil {
			t.Errorf("binding to %s: %v", name, err)
			return
		}
		s.socket = socket
	})
	if s.socket < 0 {
		t.FailNow()
	}
	return s
}

func (s sender) send(frame []byte) {
	s.t.Helper()
	if _, err := unix.Write(s.socket, frame); err != nil {
		s.t.Fatalf("sending %d bytes: %v", len(frame), err)
	}
}

// frame is an Ethernet frame of a type for experiments.
func frame(length int, fill byte) []byte {
	f := make([]byte, length)
	for i := range f {
		f[i] = fill
	}
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	return f
}

// sendPaced sends count frames, burst of them at a time, a burst every pause; each carries its number.
func (s sender) sendPaced(count, burst int, pause time.Duration) {
	s.t.Helper()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	f := frame(60, 0)
	for i := range count {
		if i%burst == 0 {
			<-tick.C
		}
		number(f, uint32(i))
		s.send(f)
	}
}

const numberOffset = 14

// number writes a number into a frame.
func number(frame []byte, n uint32) { binary.BigEndian.PutUint32(frame[numberOffset:], n) }

// numberOf reads it.
func numberOf(p taken) int { return int(binary.BigEndian.Uint32(p.data[numberOffset:])) }

// countBuffers has nftables count the buffers of the experimental type on an interface, as they come in and go out.
func countBuffers(t testing.TB, n *fakepod.Namespace, device string) {
	t.Helper()
	const rules = `table netdev against {
		counter in {}
		counter out {}
		chain in { type filter hook ingress device %[1]s priority 0; ether type 0x88b5 counter name in; }
		chain out { type filter hook egress device %[1]s priority 0; ether type 0x88b5 counter name out; }
	}`
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft: counts are compared with nftables")
	}
	n.RunInput(fmt.Sprintf(rules, device), "nft", "-f", "-")
}

var packetsCounted = regexp.MustCompile(`packets (\d+)`)

// buffers is what nftables counted.
func buffers(t testing.TB, n *fakepod.Namespace) (in, out int64) {
	t.Helper()
	count := func(name string) int64 {
		found := packetsCounted.FindStringSubmatch(n.Run("nft", "list", "counter", "netdev", "against", name))
		if found == nil {
			t.Fatalf("nft does not tell of the counter %s", name)
		}
		value, _ := strconv.ParseInt(found[1], 10, 64)
		return value
	}
	return count("in"), count("out")
}

// flood lets at least count frames in at an interface, as fast as the machine can.
func flood(t testing.TB, n *fakepod.Namespace, device string, frame []byte, count int) {
	t.Helper()
	const pass, liveFrames = 2, 2 // XDP_PASS, BPF_F_TEST_XDP_LIVE_FRAMES
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()},
	})
	if err != nil {
		t.Fatalf("loading the generator: %v", err)
	}
	defer program.Close()
	context := make([]byte, 24) // struct xdp_md: data, data_end, data_meta, ingress_ifindex, ...
	binary.NativeEndian.PutUint32(context[4:], uint32(len(frame)))
	n.Do(func() {
		in, err := net.InterfaceByName(device)
		if err != nil {
			t.Errorf("looking for %s: %v", device, err)
			return
		}
		binary.NativeEndian.PutUint32(context[12:], uint32(in.Index))
		options := ebpf.RunOptions{Data: frame, Context: context, Repeat: uint32(count), Flags: liveFrames, BatchSize: 64}
		if _, err := program.Run(&options); err != nil {
			t.Errorf("running the generator: %v", err)
		}
	})
}
