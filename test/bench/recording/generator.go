package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is where frames come in.
const device = "in"

// A generator lets UDP frames in at one end of a pair of interfaces, to an address that nobody has: they are recorded,
// and the stack drops them.
type generator struct {
	pair netlink.Link
	// next is when the next frame is due, in nanoseconds of the monotonic clock.
	next    *ebpf.Map
	frame   []byte
	context []byte // struct xdp_md: data, data_end, data_meta, ingress_ifindex, ...
}

func newGenerator(size int) (*generator, error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device}, PeerName: device + "peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("adding interfaces: %w", err)
	}
	for _, end := range []string{pair.Name, pair.PeerName} {
		dev, err := netlink.LinkByName(end)
		if err != nil {
			return nil, err
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return nil, fmt.Errorf("setting %s up: %w", end, err)
		}
	}
	dev, err := netlink.LinkByName(device)
	if err != nil {
		return nil, err
	}
	g := &generator{pair: dev, frame: make([]byte, size), context: make([]byte, 24)}
	g.next, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("making a map: %w", err)
	}
	copy(g.frame, dev.Attrs().HardwareAddr)
	copy(g.frame[12:], []byte{0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(g.frame[16:], uint16(size-14))
	binary.BigEndian.PutUint16(g.frame[38:], uint16(size-34))
	binary.NativeEndian.PutUint32(g.context[4:], uint32(size))
	binary.NativeEndian.PutUint32(g.context[12:], uint32(dev.Attrs().Index))
	return g, nil
}

func (g *generator) close() {
	g.next.Close()
	_ = netlink.LinkDel(g.pair)
}

// A sending is how frames were let in.
type sending struct {
	rate float64 // a second
	// processor is the time that a frame took of the generator's processor, in nanoseconds, until the stack had dropped
	// it; of interest when the rate was not limited.
	processor float64
}

func (s sending) String() string {
	return fmt.Sprintf("%s are made, %.0f ns of a processor each (%s a processor)", perSecond(s.rate), s.processor, perSecond(1e9/s.processor))
}

// send lets frames in, at a rate a second or, when that is 0, as fast as the machine can.
func (g *generator) send(frames int, rate float64) (sending, error) {
	program, err := g.program(rate)
	if err != nil {
		return sending{}, fmt.Errorf("loading the generator: %w", err)
	}
	defer program.Close()
	const liveFrames = 2 // BPF_F_TEST_XDP_LIVE_FRAMES
	options := ebpf.RunOptions{Data: g.frame, Context: g.context, Repeat: uint32(frames), Flags: liveFrames, BatchSize: 64}
	var now, before, after unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now), unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)); err != nil {
		return sending{}, err
	}
	if err := g.next.Put(uint32(0), uint64(now.Nano())); err != nil {
		return sending{}, fmt.Errorf("setting the beginning: %w", err)
	}
	began := time.Now()
	if _, err := program.Run(&options); err != nil {
		return sending{}, fmt.Errorf("running the generator: %w", err)
	}
	took := time.Since(began)
	err = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
	return sending{float64(frames) / took.Seconds(), float64(after.Nano()-before.Nano()) / float64(frames)}, err
}

// program lets a frame pass when it is due. Where frames come late, they catch up with no more than slack.
func (g *generator) program(rate float64) (*ebpf.Program, error) {
	const (
		pass  = 2      // XDP_PASS
		slack = 50_000 // nanoseconds
		looks = 4_000  // at the clock, at most
	)
	var code asm.Instructions
	if rate > 0 {
		code = asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, g.next.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Imm(asm.R8, looks),
			asm.FnKtimeGetNs.Call().WithSymbol("look"),
			asm.LoadMem(asm.R1, asm.R7, 0, asm.DWord),
			asm.JGE.Reg(asm.R0, asm.R1, "due"),
			asm.Sub.Imm(asm.R8, 1),
			asm.JNE.Imm(asm.R8, 0, "look"),
			asm.Sub.Imm(asm.R0, slack).WithSymbol("due"),
			asm.JGE.Reg(asm.R1, asm.R0, "advance"),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Add.Imm(asm.R1, int32(1e9/rate)).WithSymbol("advance"),
			asm.StoreMem(asm.R7, 0, asm.R1, asm.DWord),
		}
	}
	code = append(code, asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return())
	return ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: code, License: "Apache-2.0"})
}
