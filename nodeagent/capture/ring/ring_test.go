package ring_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A cable is two namespaces that are joined by veth: packets are sent at its far end and taken at its near end.
type cable struct {
	near, far *fakepod.Namespace
}

const (
	nearName, farName = "near", "far"
	subnet            = 7
)

func connect(t testing.TB) cable {
	t.Helper()
	fakepod.NeedRoot(t)
	l := cable{near: fakepod.NewNamespace(t), far: fakepod.NewNamespace(t)}
	for _, n := range []*fakepod.Namespace{l.near, l.far} {
		// Nothing is sent but by the tests.
		n.Run("sysctl", "-eqw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	l.near.Run("ip", "link", "add", "name", nearName, "type", "veth", "peer", "name", farName, "netns", pid(l.far))
	l.near.Run("ip", "link", "set", "dev", nearName, "up", "mtu", "9000")
	l.far.Run("ip", "link", "set", "dev", farName, "up", "mtu", "9000")
	return l
}

// A taken packet is a copy.
type taken struct {
	time      int64
	data      []byte
	original  uint32
	direction pcapng.Direction
}

// A recording is a ring and what it has delivered.
type recording struct {
	*ring.Ring
	t       testing.TB
	packets []taken
	ended   chan error
}

// record opens a ring in a namespace and runs it until end.
func record(t testing.TB, n *fakepod.Namespace, config ring.Config) *recording {
	t.Helper()
	r := &recording{t: t, Ring: opened(t, n, config), ended: make(chan error, 1)}
	go func() { r.ended <- r.Run(r.take) }()
	return r
}

func opened(t testing.TB, n *fakepod.Namespace, config ring.Config) (r *ring.Ring) {
	t.Helper()
	if config.SnapLength == 0 {
		config.SnapLength = ring.MaxSnapLength
	}
	n.Do(func() {
		var err error
		if r, err = ring.Open(config); err != nil {
			t.Errorf("opening: %v", err)
		}
	})
	if r == nil {
		t.FailNow()
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *recording) take(block *ring.Block) error {
	for packet, ok := block.Next(); ok; packet, ok = block.Next() {
		r.packets = append(r.packets, taken{packet.Time, append([]byte(nil), packet.Data...), packet.Original, packet.Direction})
	}
	return nil
}

// stop stops the ring, and fails the test unless every packet is accounted for.
func (r *recording) stop() (packets []taken, matched, dropped int64) {
	r.t.Helper()
	if err := r.Stop(); err != nil {
		r.t.Fatal(err)
	}
	if err := <-r.ended; err != nil {
		r.t.Fatalf("running: %v", err)
	}
	matched, dropped, err := r.Statistics()
	if err != nil {
		r.t.Fatal(err)
	}
	if got := int64(len(r.packets)); matched != got+dropped || r.Delivered() != got {
		r.t.Fatalf("matched %d, delivered %d (it says %d), dropped %d", matched, got, r.Delivered(), dropped)
	}
	return r.packets, matched, dropped
}

func TestDeliversWhatComes(t *testing.T) {
	l := connect(t)
	r := record(t, l.near, ring.Config{Interface: nearName})
	sender := l.sender(t)
	for i := range 100 {
		sender.send(frame(60+i, byte(i)))
	}
	packets, matched, dropped := r.stop()
	if matched != 100 || dropped != 0 {
		t.Fatalf("matched %d, dropped %d", matched, dropped)
	}
	for i, p := range packets {
		if want := frame(60+i, byte(i)); string(p.data) != string(want) || int(p.original) != len(want) || p.direction != pcapng.Inbound {
			t.Fatalf("packet %d: %d of %d bytes, direction %d: %x", i, len(p.data), p.original, p.direction, p.data)
		}
	}
}

// neighbours are senders that are all around a cable: on another interface of its namespace, on loopback, at another cable.
func (l cable) neighbours(t testing.TB) []sender {
	t.Helper()
	other := connect(t)
	l.near.Run("ip", "link", "add", "name", "other", "type", "veth", "peer", "name", "otherfar", "netns", pid(l.far))
	l.near.Run("ip", "link", "set", "dev", "other", "up")
	l.far.Run("ip", "link", "set", "dev", "otherfar", "up")
	return []sender{
		newSender(t, l.near, "other"), newSender(t, l.far, "otherfar"), newSender(t, l.near, "lo"),
		other.sender(t), newSender(t, other.near, nearName),
	}
}

// A ring takes from its own interface and namespace only, whatever its neighbours do.
func TestScope(t *testing.T) {
	l := connect(t)
	others := l.neighbours(t)
	r := record(t, l.near, ring.Config{Interface: nearName})
	own := l.sender(t)
	for range 10 {
		for _, s := range others {
			s.send(frame(60, 0xee))
		}
		own.send(frame(60, 1))
	}
	packets, _, _ := r.stop()
	if len(packets) != 10 {
		t.Errorf("%d packets, 10 were sent to it", len(packets))
	}
	for _, p := range packets {
		if p.data[20] != 1 {
			t.Errorf("a neighbour's packet: %x", p.data)
		}
	}
}

// The same with filters of every kind that the kernel takes, sensible or not: no filter widens what a ring takes from.
func TestScopeWhateverTheFilter(t *testing.T) {
	l := connect(t)
	others := l.neighbours(t)
	r := record(t, l.near, ring.Config{Interface: nearName, EthernetFilter: experimental})
	own, seed := l.sender(t), uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	const ownSize, foreignSize = 70, 80 // of any packet, whatever a filter has cut off it, this is known
	in, refused := 0, 0
	for in < 300 && refused < 100_000 {
		if err := r.SetFilter(randomFilter(random)); err != nil {
			refused++
			continue
		}
		in++
		for _, s := range others {
			s.send(frame(foreignSize, 1))
		}
		own.send(frame(ownSize, 1))
	}
	if err := r.SetFilter(nil); err != nil {
		t.Fatal(err)
	}
	own.send(frame(ownSize, 1))
	packets, _, dropped := r.stop()
	t.Logf("%d filters, %d that the kernel did not take: %d packets, %d dropped; seed %d", in, refused, len(packets), dropped, seed)
	if in < 300 || len(packets) < 2 {
		t.Errorf("too little was tried")
	}
	for _, p := range packets {
		if p.original != ownSize {
			t.Errorf("a neighbour's packet of %d bytes: %x", p.original, p.data)
		}
	}
}

// randomFilter is a program of up to ten instructions, most of which the kernel takes: loads from everywhere, also from what
// the kernel knows of a packet, arithmetic, jumps and returns.
func randomFilter(random *rand.Rand) []unix.SockFilter {
	places := []uint32{0, 12, 14, 60, 4095, 0xfffff000, 0xfffff000 + 4, 0xfffff000 + 8, 0xfffff000 + 20, 0xfffff000 + 44, 0xfffff000 + 48, 0xffe00000, 0xfff00000, 0xfff00006}
	codes := []uint16{
		unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_LD | unix.BPF_B | unix.BPF_IND,
		unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, unix.BPF_LD | unix.BPF_IMM, unix.BPF_LD | unix.BPF_LEN, unix.BPF_MISC | unix.BPF_TAX, unix.BPF_MISC | unix.BPF_TXA,
		unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_ALU | unix.BPF_XOR | unix.BPF_X, unix.BPF_ST, unix.BPF_STX,
		unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_X, unix.BPF_RET | unix.BPF_A,
	}
	filter := make([]unix.SockFilter, 1+random.IntN(10))
	for i := range filter {
		one := unix.SockFilter{Code: codes[random.IntN(len(codes))], K: places[random.IntN(len(places))]}
		switch left := len(filter) - 1 - i; {
		case left == 0:
			one = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(random.IntN(2)) * random.Uint32()}
		case one.Code == unix.BPF_ST || one.Code == unix.BPF_STX:
			one.K = uint32(random.IntN(16))
		case one.Code&7 == unix.BPF_JMP:
			one.K, one.Jt, one.Jf = random.Uint32N(2000), uint8(random.IntN(left)), uint8(random.IntN(left))
		}
		filter[i] = one
	}
	return filter
}
