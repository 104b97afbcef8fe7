// Command packets measures what the traffic program adds to each packet: pairs of runs with the program
// attached and with nothing attached, through the kernel's XDP live frames as the generator, which hand
// frames to the network stack as a driver would. It works in network namespaces of its own.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/test/bench/paired"
)

func main() {
	pairs := flag.Int("pairs", 100, "pairs of runs, with and without the program")
	frames := flag.Int("frames", 64_000, "frames in a run, a multiple of 64")
	flag.Parse()
	// The namespace below is this thread's, and so is the mask: the scheduler's signal would end a run of
	// the generator early, and begin it anew.
	runtime.LockOSThread()
	var mask unix.Sigset_t
	mask.Val[0] = 1 << (uint(unix.SIGURG) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		fmt.Fprintln(os.Stderr, "packets: masking a signal:", err)
		os.Exit(1)
	}
	if err := run(*pairs, uint32(*frames)); err != nil {
		fmt.Fprintln(os.Stderr, "packets:", err)
		os.Exit(1)
	}
}

func run(pairs int, frames uint32) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	bench, err := newBench(frames)
	if err != nil {
		return err
	}
	defer bench.close()
	fmt.Printf("added nanoseconds a packet, %d frames of 64 bytes a run, one flow, medians:\n", frames)
	for _, at := range []place{
		{"receive", bench.in, traffic.Receive, ebpf.AttachTCXIngress, false},
		{"transmit", bench.out, traffic.Transmit, ebpf.AttachTCXEgress, true},
	} {
		if err := bench.measure(pairs, at); err != nil {
			return fmt.Errorf("measuring %s: %w", at.name, err)
		}
	}
	return nil
}

// A place is where a program is attached, and whether frames are forwarded so that they come by.
type place struct {
	name      string
	dev       netlink.Link
	direction traffic.Direction
	attach    ebpf.AttachType
	forward   bool
}

// A bench has two pairs of interfaces: frames come in at in; where a run forwards, they leave by out.
type bench struct {
	in, out   netlink.Link
	generator *ebpf.Program
	redirect  *ebpf.Program
	frame     []byte
	context   []byte
	frames    uint32
}

func newBench(frames uint32) (*bench, error) {
	b := &bench{frames: frames}
	var err error
	if b.in, err = addPair("in"); err != nil {
		return nil, err
	}
	if b.out, err = addPair("out"); err != nil {
		return nil, err
	}
	pass := asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()} // XDP_PASS
	if b.generator, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: pass, License: "Apache-2.0"}); err != nil {
		return nil, fmt.Errorf("loading the generator: %w", err)
	}
	redirect := asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(b.out.Attrs().Index)), asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(), asm.Return(),
	}
	if b.redirect, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: redirect, License: "Apache-2.0"}); err != nil {
		return nil, fmt.Errorf("loading the forwarder: %w", err)
	}
	b.frame = udpFrame(b.in.Attrs().HardwareAddr)
	b.context = make([]byte, 24) // struct xdp_md: data, data_end, data_meta, ingress_ifindex, ...
	b.context[4] = byte(len(b.frame))
	b.context[12] = byte(b.in.Attrs().Index)
	return b, nil
}

func (b *bench) close() {
	b.generator.Close()
	b.redirect.Close()
}

func addPair(name string) (netlink.Link, error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("adding %s: %w", name, err)
	}
	for _, end := range []string{name, name + "peer"} {
		dev, err := netlink.LinkByName(end)
		if err != nil {
			return nil, err
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return nil, fmt.Errorf("setting %s up: %w", end, err)
		}
	}
	return netlink.LinkByName(name)
}

// udpFrame is an Ethernet frame of 64 bytes with an IPv4 header, to an address that nobody has: the stack
// judges it and drops it, at the same cost in both runs of a pair.
func udpFrame(to net.HardwareAddr) []byte {
	frame := make([]byte, 64)
	copy(frame, to)
	copy(frame[12:], []byte{0x08, 0x00, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	return frame
}

// measure compares the traffic program, and for the share of the hook itself an empty one, with nothing attached.
func (b *bench) measure(pairs int, at place) error {
	totals, err := traffic.NewMap(traffic.Notes{})
	if err != nil {
		return err
	}
	defer totals.Close()
	program, err := traffic.NewProgram(totals, traffic.Ether, at.direction)
	if err != nil {
		return err
	}
	defer program.Close()
	next := asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()} // TCX_NEXT
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: next, License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("loading the empty program: %w", err)
	}
	defer empty.Close()
	if at.forward {
		forwarder, err := link.AttachTCX(link.TCXOptions{Interface: b.in.Attrs().Index, Program: b.redirect, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attaching the forwarder: %w", err)
		}
		defer forwarder.Close()
	}
	if _, err := b.send(); err != nil { // warms caches up
		return err
	}
	counting, err := b.compare(pairs, at, program)
	if err != nil {
		return err
	}
	if err := b.check(totals, at.direction, pairs); err != nil {
		return err
	}
	hook, err := b.compare(pairs, at, empty)
	if err != nil {
		return err
	}
	fmt.Printf("  %-9s %s\n  %-9s %s\n", at.name, counting, "  (empty)", hook)
	return nil
}

func (b *bench) compare(pairs int, at place, program *ebpf.Program) (*paired.Comparison, error) {
	return paired.Measure(pairs, b.send, func() (float64, error) {
		hook, err := link.AttachTCX(link.TCXOptions{Interface: at.dev.Attrs().Index, Program: program, Attach: at.attach, Anchor: link.Head()})
		if err != nil {
			return 0, fmt.Errorf("attaching: %w", err)
		}
		defer hook.Close()
		return b.send()
	})
}

// send lets one run's frames in and returns nanoseconds a frame: of this thread's processor time, in which the
// generator and the hooks run, so that other programs' turns do not count.
func (b *bench) send() (float64, error) {
	const liveFrames = 2 // BPF_F_TEST_XDP_LIVE_FRAMES
	started, err := threadTime()
	if err != nil {
		return 0, err
	}
	_, err = b.generator.Run(&ebpf.RunOptions{Data: b.frame, Context: b.context, Repeat: b.frames, Flags: liveFrames, BatchSize: 64})
	if err != nil {
		return 0, fmt.Errorf("running the generator: %w", err)
	}
	ended, err := threadTime()
	return float64(ended-started) / float64(b.frames), err
}

// threadTime is the processor time that this thread has used, in nanoseconds.
func threadTime() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		return 0, fmt.Errorf("reading the thread's time: %w", err)
	}
	return now.Nano(), nil
}

// check makes sure that the program really saw every frame: a hook that is passed by costs nothing.
func (b *bench) check(totals *ebpf.Map, direction traffic.Direction, pairs int) error {
	counted, err := traffic.Read(totals)
	if err != nil {
		return err
	}
	if got, want := counted[direction][traffic.IPv4Unicast].Packets, uint64(pairs)*uint64(b.frames); got != want {
		return fmt.Errorf("the program counted %d frames of %d", got, want)
	}
	return nil
}
