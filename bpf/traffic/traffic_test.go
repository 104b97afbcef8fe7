package traffic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Packets are put together from pieces. Every piece is written as on the wire.

func joined(pieces ...[]byte) []byte { return slices.Concat(pieces...) }

func zeros(n int) []byte { return make([]byte, n) }

var (
	host      = []byte{2, 0, 0, 0, 0, 1}
	broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func ethernet(to []byte, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(joined(to, []byte{2, 0, 0, 0, 0, 2}), protocol)
}

// tag is a VLAN tag in the payload: it stands behind the EtherType that announces it.
func tag(protocol uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, 42}, protocol) }

// ipv4 is a header that declares a total length, with 4-byte words of options.
func ipv4(length int, protocol byte, to [4]byte, options int) []byte {
	h := zeros(20 + 4*options)
	h[0] = 0x45 + byte(options)
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	h[8], h[9] = 64, protocol
	copy(h[12:], []byte{10, 0, 0, 2})
	copy(h[16:], to[:])
	return h
}

func ipv6(payload int, next byte, firstOfDestination byte) []byte {
	h := zeros(40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	h[6], h[7] = next, 64
	h[8], h[24] = 0xfd, firstOfDestination
	return h
}

// tcp is a header with 4-byte words of options.
func tcp(options int) []byte {
	h := zeros(20 + 4*options)
	h[12] = byte(5+options) << 4
	return h
}

// extension is an IPv6 extension header of 8 bytes.
func extension(next, option byte) []byte { return []byte{next, 0, option, 4, 0, 0, 0, 0} }

const (
	protoTCP, protoUDP, protoHopByHop, protoDestination, protoRouting = 6, 17, 0, 60, 43
	typeIPv4, typeIPv6, typeARP, typeVLAN, typeQinQ                   = 0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8
)

var unicast = [4]byte{10, 0, 0, 1}

// The super-packets here are smaller than real ones: PROG_TEST_RUN takes no more than a few pages, so one beyond
// 64 KiB cannot be made, but what marks it can be (a declared length of 0, the option that says jumbo).
var packets = []struct {
	name   string
	packet []byte
	// What the socket buffer says beside the packet.
	segments, size, wire uint32
	cell                 Cell
	want                 Counters
	// onlyEther is for what has no meaning without a link header.
	onlyEther bool
}{
	{name: "IPv4", packet: joined(ethernet(host, typeIPv4), ipv4(128, protoUDP, unicast, 0), zeros(108)),
		cell: IPv4Unicast, want: Counters{1, 128, 1}},
	{name: "IPv4 with options", packet: joined(ethernet(host, typeIPv4), ipv4(140, protoUDP, unicast, 10), zeros(80)),
		cell: IPv4Unicast, want: Counters{1, 140, 1}},
	{name: "IPv4 padded to the least frame", packet: joined(ethernet(host, typeIPv4), ipv4(29, protoUDP, unicast, 0), zeros(26)),
		cell: IPv4Unicast, want: Counters{1, 29, 1}},
	{name: "IPv4 that declares more than there is", packet: joined(ethernet(host, typeIPv4), ipv4(1500, protoUDP, unicast, 0), zeros(30)),
		cell: IPv4Unicast, want: Counters{1, 50, 1}},
	{name: "IPv4 that declares less than a header", packet: joined(ethernet(host, typeIPv4), ipv4(3, protoUDP, unicast, 0), zeros(30)),
		cell: IPv4Unicast, want: Counters{1, 50, 1}},
	{name: "IPv4 multicast", packet: joined(ethernet([]byte{1, 0, 0x5e, 0, 0, 1}, typeIPv4), ipv4(60, protoUDP, [4]byte{224, 0, 0, 1}, 0), zeros(40)),
		cell: IPv4NonUnicast, want: Counters{1, 60, 1}},
	{name: "IPv4 to the last multicast address", packet: joined(ethernet(host, typeIPv4), ipv4(60, protoUDP, [4]byte{239, 255, 255, 255}, 0), zeros(40)),
		cell: IPv4NonUnicast, want: Counters{1, 60, 1}},
	{name: "IPv4 beyond multicast", packet: joined(ethernet(host, typeIPv4), ipv4(60, protoUDP, [4]byte{240, 0, 0, 1}, 0), zeros(40)),
		cell: IPv4Unicast, want: Counters{1, 60, 1}},
	{name: "IPv4 broadcast", packet: joined(ethernet(broadcast, typeIPv4), ipv4(60, protoUDP, [4]byte{255, 255, 255, 255}, 0), zeros(40)),
		cell: IPv4NonUnicast, want: Counters{1, 60, 1}},
	{name: "IPv4 broadcast of a subnet", packet: joined(ethernet(broadcast, typeIPv4), ipv4(60, protoUDP, [4]byte{10, 0, 0, 255}, 0), zeros(40)),
		cell: IPv4NonUnicast, want: Counters{1, 60, 1}, onlyEther: true},
	{name: "IPv6", packet: joined(ethernet(host, typeIPv6), ipv6(88, protoUDP, 0xfd), zeros(88)),
		cell: IPv6Unicast, want: Counters{1, 128, 1}},
	{name: "IPv6 padded", packet: joined(ethernet(host, typeIPv6), ipv6(8, protoUDP, 0xfd), zeros(20)),
		cell: IPv6Unicast, want: Counters{1, 48, 1}},
	{name: "IPv6 multicast", packet: joined(ethernet([]byte{0x33, 0x33, 0, 0, 0, 1}, typeIPv6), ipv6(32, 58, 0xff), zeros(32)),
		cell: IPv6NonUnicast, want: Counters{1, 72, 1}},
	{name: "IPv6 with extension headers", packet: joined(ethernet(host, typeIPv6), ipv6(48, protoHopByHop, 0xfd), extension(protoRouting, 1), extension(protoUDP, 1), zeros(32)),
		cell: IPv6Unicast, want: Counters{1, 88, 1}},
	{name: "ARP", packet: joined(ethernet(broadcast, typeARP), zeros(28)), cell: NonIP, want: Counters{1, 28, 1}},
	{name: "unknown EtherType", packet: joined(ethernet(host, 0x88cc), zeros(100)), cell: NonIP, want: Counters{1, 100, 1}},

	{name: "VLAN", packet: joined(ethernet(host, typeVLAN), tag(typeIPv4), ipv4(60, protoUDP, unicast, 0), zeros(40)),
		cell: IPv4Unicast, want: Counters{1, 60, 1}, onlyEther: true},
	{name: "QinQ", packet: joined(ethernet(host, typeQinQ), tag(typeVLAN), tag(typeIPv6), ipv6(32, protoUDP, 0xfd), zeros(32)),
		cell: IPv6Unicast, want: Counters{1, 72, 1}, onlyEther: true},
	{name: "four tags, one more than is looked behind", packet: joined(ethernet(host, typeQinQ), tag(typeVLAN), tag(typeVLAN), tag(typeVLAN), tag(typeIPv4), ipv4(60, protoUDP, unicast, 0), zeros(40)),
		cell: NonIP, want: Counters{1, 64, 1}, onlyEther: true},
	{name: "VLAN cut in its tag", packet: joined(ethernet(host, typeVLAN), []byte{0}), cell: NonIP, want: Counters{1, 1, 1}, onlyEther: true},
	// Without a tag before it, PROG_TEST_RUN itself refuses what is shorter than an IP header.
	{name: "VLAN with IPv4 cut in its header", packet: joined(ethernet(host, typeVLAN), tag(typeIPv4), ipv4(60, protoUDP, unicast, 0)[:10]),
		cell: IPv4Unicast, want: Counters{1, 10, 1}, onlyEther: true},
	{name: "VLAN with IPv6 cut in its header", packet: joined(ethernet(host, typeVLAN), tag(typeIPv6), ipv6(60, protoUDP, 0xfd)[:39]),
		cell: IPv6Unicast, want: Counters{1, 39, 1}, onlyEther: true},
	{name: "VLAN with ARP", packet: joined(ethernet(broadcast, typeVLAN), tag(typeARP), zeros(28)), cell: NonIP, want: Counters{1, 28, 1}, onlyEther: true},

	{name: "IPv4 TCP, 3 segments", packet: joined(ethernet(host, typeIPv4), ipv4(2552, protoTCP, unicast, 0), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv4Unicast, want: Counters{3, 2552 + 2*52, 1}},
	{name: "IPv4 TCP with IP options, 2 segments", packet: joined(ethernet(host, typeIPv4), ipv4(1064, protoTCP, unicast, 1), tcp(5), zeros(1000)),
		segments: 2, size: 500, cell: IPv4Unicast, want: Counters{2, 1064 + 64, 1}},
	{name: "IPv4 TCP of one segment", packet: joined(ethernet(host, typeIPv4), ipv4(552, protoTCP, unicast, 0), tcp(3), zeros(500)),
		segments: 1, size: 1000, cell: IPv4Unicast, want: Counters{1, 552, 1}},
	{name: "IPv4 TCP of a virtual machine, which does not count segments", packet: joined(ethernet(host, typeIPv4), ipv4(2552, protoTCP, unicast, 0), tcp(3), zeros(2500)),
		size: 1000, cell: IPv4Unicast, want: Counters{3, 2552 + 2*52, 1}},
	{name: "IPv4 TCP as beyond 64 KiB", packet: joined(ethernet(host, typeIPv4), ipv4(0, protoTCP, unicast, 0), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv4Unicast, want: Counters{3, 2552 + 2*52, 1}},
	{name: "IPv4 UDP, 3 segments", packet: joined(ethernet(host, typeIPv4), ipv4(2528, protoUDP, unicast, 0), zeros(8+2500)),
		segments: 3, size: 1000, cell: IPv4Unicast, want: Counters{3, 2528 + 2*28, 1}},
	{name: "IPv4 tunnel in UDP, 3 segments, as the kernel reckons", packet: joined(ethernet(host, typeIPv4), ipv4(2602, protoUDP, unicast, 0), zeros(8+8+14+20+32+2500)),
		segments: 3, size: 1000, wire: 14 + 2602 + 2*(14+102), cell: IPv4Unicast, want: Counters{3, 2602 + 2*102, 1}, onlyEther: true},
	{name: "IPv6 TCP, 3 segments", packet: joined(ethernet(host, typeIPv6), ipv6(2532, protoTCP, 0xfd), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv6Unicast, want: Counters{3, 2572 + 2*72, 1}},
	{name: "IPv6 TCP behind extension headers, 2 segments", packet: joined(ethernet(host, typeIPv6), ipv6(1048, protoHopByHop, 0xfd), extension(protoDestination, 1), extension(protoRouting, 1), extension(protoTCP, 1), tcp(1), zeros(1000)),
		segments: 2, size: 500, cell: IPv6Unicast, want: Counters{2, 40 + 24 + 24 + 1000 + 88, 1}},
	{name: "IPv6 TCP as beyond 64 KiB", packet: joined(ethernet(host, typeIPv6), ipv6(0, protoHopByHop, 0xfd), extension(protoTCP, 0xc2), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv6Unicast, want: Counters{3, 2572 + 2*72, 1}},
	{name: "IPv6 TCP as beyond 64 KiB, without the option, as of 6.19", packet: joined(ethernet(host, typeIPv6), ipv6(0, protoTCP, 0xfd), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv6Unicast, want: Counters{3, 2572 + 2*72, 1}},
	{name: "VLAN with TCP, 3 segments", packet: joined(ethernet(host, typeVLAN), tag(typeIPv4), ipv4(2552, protoTCP, unicast, 0), tcp(3), zeros(2500)),
		segments: 3, size: 1000, cell: IPv4Unicast, want: Counters{3, 2552 + 2*52, 1}, onlyEther: true},
}

// buffer is struct __sk_buff as far as PROG_TEST_RUN takes it.
type buffer struct {
	_        [40]byte
	IfIndex  uint32
	_        [116]byte
	WireLen  uint32
	Segments uint32
	_        [8]byte
	Size     uint32
	_        [12]byte
}

func TestPackets(t *testing.T) {
	needRoot(t)
	inside := ownNamespace(t)
	for hook, name := range map[Hook]string{EtherAny: "ether", Cgroup: "cgroup"} {
		for _, direction := range []Direction{Receive, Transmit} {
			counting, program := load(t, hook, direction)
			for _, p := range packets {
				if hook == Cgroup && p.onlyEther {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, direction, p.name), func(t *testing.T) {
					before := read(t, counting)
					var verdict uint32
					inside(func() {
						verdict = run(t, program, p.packet, buffer{IfIndex: 2, WireLen: p.wire, Segments: p.segments, Size: p.size})
					})
					if want := map[Hook]uint32{EtherAny: ^uint32(0), Cgroup: 1}[hook]; verdict != want {
						t.Errorf("the program answers %d, want %d", verdict, want)
					}
					want := before
					want.Cells[direction][p.cell].add(p.want)
					if after := read(t, counting); after != want {
						t.Errorf("counted %v, want %v in %d", difference(after, before), p.want, p.cell)
					}
				})
			}
		}
	}
}

func (c *Counters) add(other Counters) {
	c.Packets += other.Packets
	c.Bytes += other.Bytes
	c.Buffers += other.Buffers
}

func difference(after, before Totals) (different []string) {
	for d := range after.Cells {
		for c := range after.Cells[d] {
			if a, b := after.Cells[d][c], before.Cells[d][c]; a != b {
				different = append(different, fmt.Sprintf("%v cell %d: %d packets, %d bytes, %d buffers",
					Direction(d), c, a.Packets-b.Packets, a.Bytes-b.Bytes, a.Buffers-b.Buffers))
			}
		}
	}
	return different
}

// PROG_TEST_RUN gives every frame to the loopback interface, whose address is all zeros.
func TestFramesForOthers(t *testing.T) {
	needRoot(t)
	toLoopback := joined(ethernet(zeros(6), typeIPv4), packets[0].packet[14:])
	for _, test := range []struct {
		name   string
		hook   Hook
		packet []byte
		want   Counters
	}{
		{"for the interface", Ether, toLoopback, Counters{1, 128, 1}},
		{"for another", Ether, packets[0].packet, Counters{}},
		{"for another, handed on", EtherAny, packets[0].packet, Counters{1, 128, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			counting, program := load(t, test.hook, Receive)
			run(t, program, test.packet, buffer{})
			if got := read(t, counting).Cells[Receive][IPv4Unicast]; got != test.want {
				t.Errorf("counted %v, want %v", got, test.want)
			}
		})
	}
}

func TestLoopbackOfNodeIsNotCounted(t *testing.T) {
	needRoot(t)
	counting, program := load(t, Cgroup, Transmit)
	run(t, program, packets[0].packet, buffer{IfIndex: 1})
	if totals := read(t, counting); totals != (Totals{}) {
		t.Errorf("counted %v", totals)
	}
}

func TestNotesOutliveCounting(t *testing.T) {
	needRoot(t)
	counting, program := load(t, EtherAny, Receive)
	notes := Notes{StartUnixNano: 1_800_000_000_000_000_000, TransmitBase: -7}
	if err := WriteNotes(counting, notes); err != nil {
		t.Fatal(err)
	}
	run(t, program, packets[0].packet, buffer{})
	if got, err := ReadNotes(counting); err != nil || got != notes {
		t.Errorf("notes %v (%v), want %v", got, err, notes)
	}
	if got := read(t, counting).Cells[Receive][IPv4Unicast]; got != packets[0].want {
		t.Errorf("counted %v, want %v", got, packets[0].want)
	}
}

// The object must be the same wherever it is made.
func TestObjectNamesNoPath(t *testing.T) {
	directory, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{directory, "/usr/include", "/home/"} {
		if bytes.Contains(_ObjectBytes, []byte(path)) {
			t.Errorf("the object holds the path %s", path)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
}

// ownNamespace makes a network namespace with interfaces 1, loopback, and 2, and gives a way to run something in it.
func ownNamespace(t testing.TB) (inside func(do func())) {
	t.Helper()
	work, done := make(chan func()), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and the namespace with it
		for do := range work {
			do()
			done <- struct{}{}
		}
	}()
	t.Cleanup(func() { close(work) })
	inside = func(do func()) {
		work <- do
		<-done
	}
	inside(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if output, err := exec.Command("ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b").CombinedOutput(); err != nil {
			t.Errorf("adding an interface: %v\n%s", err, output)
		}
	})
	return inside
}

func load(t testing.TB, hook Hook, direction Direction) (*ebpf.Map, *ebpf.Program) {
	t.Helper()
	counting, err := NewMap(Notes{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counting.Close() })
	program, err := NewProgram(counting, hook, direction, Beyond{})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { program.Close() })
	return counting, program
}

func run(t testing.TB, program *ebpf.Program, packet []byte, context buffer) uint32 {
	t.Helper()
	verdict, err := program.Run(&ebpf.RunOptions{Data: packet, Context: context})
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

func read(t testing.TB, counting *ebpf.Map) Totals {
	t.Helper()
	totals, err := Read(counting)
	if err != nil {
		t.Fatal(err)
	}
	return totals
}

// BenchmarkProgram is the cost of the program, and of PROG_TEST_RUN around it: 29 to 50 ns for an empty program.
func BenchmarkProgram(b *testing.B) {
	needRoot(b)
	for _, p := range packets {
		switch p.name {
		case "IPv4", "IPv6", "QinQ", "IPv4 TCP, 3 segments", "IPv6 TCP, 3 segments":
		default:
			continue
		}
		for name, beyond := range map[string]Beyond{"counters": {}, "flows": {Pod: testPod, Shared: newShared(b, 4096), Flows: true}} {
			b.Run(p.name+"/"+name, func(b *testing.B) {
				c := loadWith(b, EtherAny, Receive, beyond)
				b.ResetTimer()
				repeat(b, c.program, p.packet, buffer{Segments: p.segments, Size: p.size}, uint32(b.N))
			})
		}
	}
}

// BenchmarkLoad is what the kernel takes to verify and translate a program: two are loaded for every pod.
func BenchmarkLoad(b *testing.B) {
	needRoot(b)
	m, err := NewMap(Notes{})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for name, beyond := range map[string]Beyond{"counters": {}, "flows": {Pod: testPod, Shared: newShared(b, 4096), Flows: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				program, err := NewProgram(m, Ether, Receive, beyond)
				if err != nil {
					b.Fatal(err)
				}
				program.Close()
			}
		})
	}
}

// BenchmarkRead110 is what one read of a full node costs in the kernel's half.
func BenchmarkRead110(b *testing.B) {
	needRoot(b)
	var counting []*ebpf.Map
	for range 110 {
		m, err := NewMap(Notes{})
		if err != nil {
			b.Fatal(err)
		}
		defer m.Close()
		counting = append(counting, m)
	}
	for b.Loop() {
		for _, m := range counting {
			if _, err := Read(m); err != nil {
				b.Fatal(err)
			}
		}
	}
}
