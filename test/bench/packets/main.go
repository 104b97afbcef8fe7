// Command packets measures what the traffic program adds to each packet: pairs of runs with a program attached and
// with nothing attached, through the kernel's XDP live frames as the generator, which hand frames to the network stack
// as a driver would. It works in network namespaces of its own.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
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
	fmt.Printf("added nanoseconds a packet, %d frames of 64 bytes a run, medians:\n", frames)
	for _, at := range []place{
		{"receive", bench.in, traffic.Receive, ebpf.AttachTCXIngress, false},
		{"transmit", bench.out, traffic.Transmit, ebpf.AttachTCXEgress, true},
	} {
		if err := bench.measureAt(at, pairs); err != nil {
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

// A subject is a program that is compared with nothing.
type subject struct {
	name string
	// flows is how many flows the frames belong to.
	flows int
	load  func() (*ebpf.Program, error)
	// check makes sure that the program saw every frame: a hook that is passed by costs nothing. nil where there is
	// nothing to check.
	check func(frames uint64) error
}

// measureAt compares each subject with nothing attached.
func (b *bench) measureAt(at place, pairs int) error {
	if at.forward {
		forwarder, err := link.AttachTCX(link.TCXOptions{Interface: b.in.Attrs().Index, Program: b.redirect, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attaching the forwarder: %w", err)
		}
		defer forwarder.Close()
	}
	for _, s := range []subject{
		{"empty program", 1, loadEmpty, nil},
		b.counters(at.direction, false, 1),
		b.counters(at.direction, true, 1),
		b.counters(at.direction, true, 5_000),
	} {
		comparison, err := b.measure(at, s, pairs)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("  %-9s %-30s %s\n", at.name, s.name, comparison)
	}
	return nil
}

// counters is the traffic program.
func (b *bench) counters(direction traffic.Direction, withFlows bool, flows int) subject {
	s := subject{name: "counters", flows: flows}
	if withFlows {
		s.name = fmt.Sprintf("counters and flows, %d flows", flows)
	}
	var totals *ebpf.Map
	s.load = func() (program *ebpf.Program, err error) {
		beyond := traffic.Beyond{Pod: headers.PodNumber(s.name), Flows: withFlows}
		if withFlows {
			beyond.Shared = b.shared
		}
		if totals, err = traffic.NewMap(traffic.Notes{}); err != nil {
			return nil, err
		}
		return traffic.NewProgram(totals, traffic.Ether, direction, beyond)
	}
	s.check = func(frames uint64) error {
		defer totals.Close()
		counted, err := traffic.Read(totals)
		if err != nil {
			return err
		}
		if got := counted.Cells[direction][traffic.IPv4Unicast].Packets; got != frames {
			return fmt.Errorf("the program counted %d frames of %d", got, frames)
		}
		// The kernel sends some packets of its own.
		if created := counted.FlowsCreated; withFlows && (created < uint64(flows) || created > uint64(flows)+20) {
			return fmt.Errorf("the program saw %d flows, want %d", created, flows)
		}
		return nil
	}
	return s
}

func loadEmpty() (*ebpf.Program, error) {
	next := asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()} // TCX_NEXT
	return ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: next, License: "Apache-2.0"})
}

func (b *bench) measure(at place, s subject, pairs int) (*paired.Comparison, error) {
	program, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("loading: %w", err)
	}
	defer program.Close()
	if err := b.sendFlows(s.flows); err != nil {
		return nil, err
	}
	if _, err := b.send(); err != nil { // warms caches up
		return nil, err
	}
	comparison, err := paired.Measure(pairs, b.send, func() (float64, error) {
		hook, err := link.AttachTCX(link.TCXOptions{Interface: at.dev.Attrs().Index, Program: program, Attach: at.attach, Anchor: link.Head()})
		if err != nil {
			return 0, fmt.Errorf("attaching: %w", err)
		}
		defer hook.Close()
		return b.send()
	})
	if err == nil && s.check != nil {
		err = s.check(uint64(pairs) * uint64(b.frames))
	}
	return comparison, err
}
