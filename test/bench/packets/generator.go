package main

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// A bench has two pairs of interfaces: frames come in at in; where a run forwards, they leave by out.
type bench struct {
	in, out   netlink.Link
	generator *ebpf.Program
	redirect  *ebpf.Program
	shared    map[string]*ebpf.Map
	frame     []byte
	context   []byte
	frames    uint32
}

func newBench(frames uint32) (*bench, error) {
	b := &bench{frames: frames, shared: map[string]*ebpf.Map{}}
	var err error
	if b.in, err = addPair("in"); err != nil {
		return nil, err
	}
	if b.out, err = addPair("out"); err != nil {
		return nil, err
	}
	for name, spec := range headers.MapSpecs() {
		if b.shared[name], err = ebpf.NewMap(spec); err != nil {
			return nil, fmt.Errorf("making the map %s: %w", name, err)
		}
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
	if b.generator != nil {
		b.generator.Close()
	}
	b.redirect.Close()
	for _, m := range b.shared {
		m.Close()
	}
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

// Where things are in the frame, and the lowest of the ports that the generator sends from.
const (
	networkOffset   = 14
	transportOffset = networkOffset + 20
	lowestPort      = 10_000
)

// udpFrame is an Ethernet frame of 64 bytes with IPv4 and UDP headers, to an address that nobody has: the stack
// judges it and drops it, at the same cost in both runs of a pair.
func udpFrame(to net.HardwareAddr) []byte {
	frame := make([]byte, 64)
	copy(frame, to)
	copy(frame[12:], []byte{0x08, 0x00, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(frame[transportOffset:], lowestPort)
	binary.BigEndian.PutUint16(frame[transportOffset+2:], 7000)
	binary.BigEndian.PutUint16(frame[transportOffset+4:], 30)
	return frame
}

// sendFlows makes a generator whose frames come from as many ports, chosen at random, as there are to be flows.
func (b *bench) sendFlows(flows int) error {
	const pass = 2 // XDP_PASS
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetPrandomU32.Call(),
		asm.Mod.Imm32(asm.R0, int32(flows)),
		asm.Add.Imm(asm.R0, lowestPort),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.LoadMem(asm.R1, asm.R6, 0, asm.Word), // data
		asm.LoadMem(asm.R2, asm.R6, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, transportOffset+2),
		asm.JGT.Reg(asm.R3, asm.R2, "pass"),
		asm.StoreMem(asm.R1, transportOffset, asm.R0, asm.Half),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	}
	generator, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: code, License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("loading the generator: %w", err)
	}
	if b.generator != nil {
		b.generator.Close()
	}
	b.generator = generator
	return nil
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
