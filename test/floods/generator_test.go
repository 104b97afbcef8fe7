package floods

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A flood is packets of one kind, all from addresses of 10.77.0.0/16 to 10.99.1.2.
type flood struct {
	protocol byte
	// transport is the header and what it carries.
	transport []byte
	// Each packet belongs to the next of so many flows. They differ in the port at offset varies of the transport header,
	// and beyond 50,000 in the source address, too.
	flows, varies int
	// The complements of port and address go to this offset of the transport header, and keep the checksum right.
	balance int
}

const (
	networkOffset   = 14
	transportOffset = networkOffset + 20

	sourcePort      = 0
	destinationPort = 2

	lowestPort   = 10_000
	portsPerHost = 50_000
)

// synFlood is connections that are never completed.
func synFlood(port uint16) flood {
	const flags, syn, sequence = 13, 2, 4
	header := make([]byte, 20)
	binary.BigEndian.PutUint16(header[destinationPort:], port)
	header[12], header[flags] = 5<<4, syn
	binary.BigEndian.PutUint16(header[14:], 65_535) // the window
	binary.BigEndian.PutUint16(header[16:], checksum(header, unix.IPPROTO_TCP))
	return flood{unix.IPPROTO_TCP, header, portsPerHost, sourcePort, sequence}
}

// udpFlood is datagrams without a checksum, whose ports differ at the offset varies. The other port is as given.
func udpFlood(varies int, port uint16, payload []byte) flood {
	const header, nameInMessage = 8, 12 + 1
	datagram := make([]byte, header, header+len(payload))
	binary.BigEndian.PutUint16(datagram[destinationPort-varies:], port)
	binary.BigEndian.PutUint16(datagram[4:], uint16(header+len(payload)))
	return flood{unix.IPPROTO_UDP, append(datagram, payload...), portsPerHost, varies, header + nameInMessage}
}

// dnsMessage asks for a name that differs from packet to packet, or answers so.
func dnsMessage(response bool) []byte {
	question := dnsmessage.Question{
		Name: dnsmessage.MustNewName("abcdefgh.flood.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: response}, Questions: []dnsmessage.Question{question}}
	if response {
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
		}}
	}
	packed, err := message.Pack()
	if err != nil {
		panic(err) // it is always the same
	}
	return packed
}

var source, destination = [4]byte{10, 77, 0, 0}, [4]byte{10, 99, 1, 2}

// checksum is that of TCP, with its own field being 0.
func checksum(segment []byte, protocol byte) uint16 {
	pseudo := append(append(append([]byte{}, source[:]...), destination[:]...), 0, protocol, 0, byte(len(segment)))
	return ^sum(append(pseudo, segment...))
}

// sum is the ones' complement sum of 16-bit words.
func sum(words []byte) uint16 {
	var total uint32
	for ; len(words) > 1; words = words[2:] {
		total += uint32(binary.BigEndian.Uint16(words))
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}

// frame is the flood's, with all that varies being 0. Complements make each sum one of zeros, or of ones, which is the
// same.
func (f flood) frame(to net.HardwareAddr) []byte {
	frame := append(make([]byte, transportOffset), f.transport...)
	copy(frame, to)
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	ip := frame[networkOffset:transportOffset]
	ip[0], ip[8], ip[9] = 0x45, 64, f.protocol
	binary.BigEndian.PutUint16(ip[2:], uint16(len(frame)-networkOffset))
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	return frame
}

// bytes is the length of each packet.
func (f flood) bytes() uint64 { return uint64(transportOffset - networkOffset + len(f.transport)) }

// A generator makes a flood faster than sockets can: from the kernel's XDP live frames, which arrive at an interface as
// if a driver had received them.
type generator struct {
	t       testing.TB
	pod     *fakepod.Pod
	program *ebpf.Program
	frame   []byte
	// context is struct xdp_md, which names the interface; nil for loopback.
	context []byte
	closers []func() error

	sent atomic.Uint64
	// spent is the processor time that sending took, in nanoseconds.
	spent atomic.Int64
}

// newSender makes a generator whose frames leave by the pod's eth0, and are for its only neighbour: they arrive at its
// loopback interface, where a program sends them on. It ends with the test.
func newSender(t testing.TB, pod *fakepod.Pod, f flood) *generator {
	t.Helper()
	return newGenerator(t, pod, f, func(g *generator, eth0 netlink.Link) (net.HardwareAddr, error) {
		neighbours, err := netlink.NeighList(eth0.Attrs().Index, netlink.FAMILY_V4)
		if err != nil {
			return nil, fmt.Errorf("asking for the neighbour's address: %w", err)
		}
		if len(neighbours) != 1 {
			return nil, fmt.Errorf("there are %d neighbours", len(neighbours))
		}
		return neighbours[0].HardwareAddr, g.forward(eth0.Attrs().Index)
	})
}

// newArriving makes a generator whose frames arrive at the pod's eth0. It ends with the test.
func newArriving(t testing.TB, pod *fakepod.Pod, f flood) *generator {
	t.Helper()
	return newGenerator(t, pod, f, func(g *generator, eth0 netlink.Link) (net.HardwareAddr, error) {
		const dataEnd, ingressInterface = 4, 12
		g.context = make([]byte, 24)
		binary.NativeEndian.PutUint32(g.context[dataEnd:], uint32(transportOffset+len(f.transport)))
		binary.NativeEndian.PutUint32(g.context[ingressInterface:], uint32(eth0.Attrs().Index))
		return eth0.Attrs().HardwareAddr, nil
	})
}

func newGenerator(t testing.TB, pod *fakepod.Pod, f flood, aim func(*generator, netlink.Link) (net.HardwareAddr, error)) *generator {
	t.Helper()
	g := &generator{t: t, pod: pod}
	t.Cleanup(func() {
		for _, closer := range g.closers {
			_ = closer()
		}
	})
	var err error
	pod.Do(func() {
		var eth0 netlink.Link
		var to net.HardwareAddr
		if eth0, err = netlink.LinkByName("eth0"); err != nil {
			return
		}
		if to, err = aim(g, eth0); err != nil {
			return
		}
		g.frame = f.frame(to)
		err = g.load(f)
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *generator) load(f flood) error {
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("making a map: %w", err)
	}
	defer count.Close() // the program keeps it
	g.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: f.vary(count, len(g.frame)), License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("loading the generator: %w", err)
	}
	g.closers = append(g.closers, g.program.Close)
	return nil
}

// forward sends what arrives at the loopback interface out of another one.
func (g *generator) forward(out int) error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	forwarder, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(out)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
	}})
	if err != nil {
		return fmt.Errorf("loading the forwarder: %w", err)
	}
	defer forwarder.Close()
	hook, err := link.AttachTCX(link.TCXOptions{Interface: loopback.Attrs().Index, Program: forwarder, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attaching the forwarder: %w", err)
	}
	g.closers = append(g.closers, hook.Close)
	return nil
}

// vary is a program that makes each frame one of the next flow.
func (f flood) vary(count *ebpf.Map, length int) asm.Instructions {
	const pass = 2 // XDP_PASS
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, count.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R3, asm.R0, 0, asm.DWord), // frames are made one after the other
		asm.Mov.Reg(asm.R4, asm.R3),
		asm.Add.Imm(asm.R4, 1),
		asm.StoreMem(asm.R0, 0, asm.R4, asm.DWord),
		asm.Mod.Imm(asm.R3, int32(f.flows)),
		asm.Mov.Reg(asm.R4, asm.R3),
		asm.Mod.Imm(asm.R3, portsPerHost),
		asm.Add.Imm(asm.R3, lowestPort),
		asm.HostTo(asm.BE, asm.R3, asm.Half),
		asm.Div.Imm(asm.R4, portsPerHost),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		asm.LoadMem(asm.R1, asm.R6, 0, asm.Word), // data
		asm.LoadMem(asm.R2, asm.R6, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R5, asm.R1),
		asm.Add.Imm(asm.R5, int32(length)),
		asm.JGT.Reg(asm.R5, asm.R2, "pass"),
	}
	store := func(offset int, value asm.Register) {
		code = append(code, asm.StoreMem(asm.R1, int16(offset), value, asm.Half))
	}
	const identifier, lowerSource = networkOffset + 4, networkOffset + 14
	store(transportOffset+f.varies, asm.R3)
	store(lowerSource, asm.R4)
	code = append(code, asm.Xor.Imm(asm.R3, 0xffff), asm.Xor.Imm(asm.R4, 0xffff))
	store(transportOffset+f.balance, asm.R3)
	store(transportOffset+f.balance+2, asm.R4)
	store(identifier, asm.R4)
	return append(code, asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return())
}

// send sends so many frames.
func (g *generator) send(frames uint32) {
	g.t.Helper()
	g.sendUntil(func() bool { return true }, frames)
}

// sendUntil sends so many frames, again and again until it is done.
func (g *generator) sendUntil(done func() bool, frames uint32) {
	g.t.Helper()
	var err error
	g.pod.Do(func() {
		// The scheduler's signal would end a run of the generator early, and begin it anew.
		var mask, before unix.Sigset_t
		mask.Val[0] = 1 << (uint(unix.SIGURG) - 1)
		if err = unix.PthreadSigmask(unix.SIG_BLOCK, &mask, &before); err != nil {
			return
		}
		defer func() { err = errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)) }()
		for {
			if err = g.run(frames); err != nil || done() {
				return
			}
		}
	})
	if err != nil {
		g.t.Errorf("sending a flood: %v", err)
	}
}

func (g *generator) run(frames uint32) error {
	const liveFrames, atATime = 2, 50_000 // BPF_F_TEST_XDP_LIVE_FRAMES
	for frames > 0 {
		n := min(frames, atATime)
		begun, err := threadTime()
		if err != nil {
			return err
		}
		options := &ebpf.RunOptions{Data: g.frame, Repeat: n, Flags: liveFrames, BatchSize: 64}
		if g.context != nil {
			options.Context = g.context
		}
		if _, err := g.program.Run(options); err != nil {
			return fmt.Errorf("running the generator: %w", err)
		}
		ended, err := threadTime()
		if err != nil {
			return err
		}
		g.sent.Add(uint64(n))
		g.spent.Add(int64(ended - begun))
		frames -= n
	}
	return nil
}

// threadTime is the processor time that this thread has used.
func threadTime() (time.Duration, error) { return processorTime(unix.CLOCK_THREAD_CPUTIME_ID) }

// ownTime is the processor time that the test has used, but for what generators have.
func ownTime() (time.Duration, error) { return processorTime(unix.CLOCK_PROCESS_CPUTIME_ID) }

func processorTime(clock int32) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("reading the processor time: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// heap is what is on the heap of the test, the agent's part of it included, in bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
