package capture

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A place in the order, and what takes it.
type place3 struct {
	time   int64
	part   uint32
	number uint32 // original length, by which packets are told apart
	size   int
}

// pushed makes parts of packets whose times step back now and then, and answers with the order that they have.
func pushed(e *engine, f *fakes, r *v1alpha1.EnsureCaptureRequest, parts, packets int) (order []place3) {
	random := rand.New(rand.NewPCG(1, uint64(parts)))
	e.ensure(r)
	for i := range parts {
		now, most := int64(1000), int64(0)
		var block []ring.Packet
		for n := range packets {
			now += random.Int64N(100) - 20
			size := 42 + random.IntN(1500)
			if random.IntN(500) == 0 {
				size = 200_000 // more than a window
			}
			p := packetAt(now, size)
			p.Original = uint32(n)
			most = max(most, now)
			order = append(order, place3{most, uint32(i), uint32(n), pcapng.PacketSize(size)})
			if block = append(block, p); len(block) == 700 || n == packets-1 {
				f.source(i).push(block...)
				block = nil
			}
		}
	}
	slices.SortStableFunc(order, func(a, b place3) int {
		if a.time != b.time {
			return int(a.time - b.time)
		}
		return int(a.part) - int(b.part)
	})
	e.end(r.Uid)
	return order
}

func same(t *testing.T, s *stream, want []place3) {
	t.Helper()
	got := s.packets(t)
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	most := int64(0)
	for i, packet := range got {
		most = max(most, packet.Time())
		if packet.Number() != want[i].part || packet.Original() != want[i].number || most != want[i].time {
			t.Fatalf("packet %d is %d of part %d at %d, want %+v", i, packet.Original(), packet.Number(), most, want[i])
		}
	}
}

func TestOneOrder(t *testing.T) {
	for _, parts := range []int{1, 2, 9, 130} {
		e, f := fake(t, t.TempDir(), parts, func(c *Config) { c.Options.RingMemory = parseBytes("8Gi") })
		r := fakeRequest(fakepod.UID(), "a")
		order := pushed(e, f, r, parts, 5_000/parts)
		same(t, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}), order)
		for _, at := range []int{1, len(order) / 3, len(order) - 1} {
			from := order[at].time
			skipped, first := int64(0), slices.IndexFunc(order, func(p place3) bool { return p.time >= from })
			for _, p := range order[:first] {
				skipped += int64(p.size)
			}
			s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, FromUnixNano: from})
			same(t, s, order[first:])
			if s.skipped != skipped {
				t.Errorf("from %d: %d bytes were skipped, want %d", from, s.skipped, skipped)
			}
		}
		if s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, FromUnixNano: forever}); len(s.blocks) > 0 {
			t.Errorf("%d bytes from the end of time", len(s.blocks))
		}
	}
}

// Marks say where to begin, exactly.
func TestMarks(t *testing.T) {
	e, f := fake(t, t.TempDir(), 2)
	r := fakeRequest(fakepod.UID(), "a")
	r.RingFiles, r.RingFileBytes = 1000, 1<<20 // so large that nothing is let go, in small segments
	pushed(e, f, r, 2, 4_000)
	whole := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
	var marks []*v1alpha1.CaptureMark
	if err := e.Describe(context.Background(), &v1alpha1.DescribeCaptureRequest{Uid: r.Uid}, func(d *v1alpha1.DescribeCaptureResponse) error {
		marks = append(marks, d.Marks...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(marks) < 4 {
		t.Fatalf("%d marks for %d bytes", len(marks), len(whole.blocks))
	}
	for _, mark := range marks {
		s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, FromUnixNano: mark.TimeUnixNano})
		if s.skipped < mark.BlockBytes || int(s.skipped)+len(s.blocks) != len(whole.blocks) || string(whole.blocks[s.skipped:]) != string(s.blocks) {
			t.Errorf("%v: skipped %d, then %d of %d bytes", mark, s.skipped, len(s.blocks), len(whole.blocks))
		}
	}
}

func TestOnePodOfMany(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a", "b")
	e.ensure(r)
	f.source(0).push(packetAt(1, 100))
	f.source(1).push(packetAt(2, 100), packetAt(3, 100))
	e.end(r.Uid)
	s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, Namespace: "shop", Pod: "b"})
	if got := s.packets(t); len(got) != 2 || got[0].Number() != 1 || len(s.parts) != 1 {
		t.Errorf("%d packets of %d parts", len(got), len(s.parts))
	}
	if s := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid, Namespace: "shop", Pod: "c"}); len(s.blocks) > 0 || len(s.parts) > 0 || s.end == nil {
		t.Errorf("a pod that nobody recorded: %v", s)
	}
}

// A follower gets every packet, in the order of the file, while parts come and go.
func TestFollowWhileRecording(t *testing.T) {
	e, f := fake(t, t.TempDir(), 3)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	live, followed := &stream{}, make(chan error, 1)
	got := make(chan int, 1000)
	go func() {
		followed <- e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid, Follow: true}, func(b *v1alpha1.ReadCaptureResponse) error {
			live.take(proto.CloneOf(b))
			if len(b.Blocks) > 0 {
				got <- len(b.Blocks)
			}
			return nil
		})
	}()
	time := int64(1000)
	for round := range 50 {
		if round == 25 {
			r.Revision, r.Targets = 2, append(r.Targets, fakeRequest("", "b").Targets...)
			e.ensure(r)
		}
		for i := range len(e.state(r.Uid).Parts) {
			time += 10
			f.source(i).push(packetAt(time, 100), packetAt(time-5, 90))
		}
		if round%10 == 9 {
			<-got // it keeps up
		}
	}
	e.end(r.Uid)
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	whole := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
	if len(live.packets(t)) != len(whole.packets(t)) || len(live.parts) != 6 || live.end == nil {
		t.Errorf("a follower got %d packets of %d parts, want %d of 6", len(live.packets(t)), len(live.parts), len(whole.packets(t)))
	}
}

// A ring of files keeps the newest, counts everything, and says when it overtakes a reader.
func TestRingOfFiles(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	r.RingFiles, r.RingFileBytes = 3, 1<<20
	e.ensure(r)
	overtaken := make(chan error, 1)
	begun, goOn := make(chan struct{}), make(chan struct{})
	f.source(0).push(packetAt(1, 1000))
	go func() {
		once := false
		overtaken <- e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid, Follow: true}, func(b *v1alpha1.ReadCaptureResponse) error {
			if len(b.Blocks) > 0 && !once {
				once = true
				close(begun)
				<-goOn
			}
			return nil
		})
	}()
	<-begun
	const packets = 10_000
	for i := range packets / 100 {
		var block []ring.Packet
		for n := range 100 {
			block = append(block, packetAt(int64(2+i*100+n), 1000))
		}
		f.source(0).push(block...)
	}
	fakepod.Eventually(t, "all to be recorded", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets == packets+1 })
	close(goOn)
	if err := <-overtaken; !errors.Is(err, ErrLost) {
		t.Errorf("a follower that was overtaken: %v", err)
	}
	if used := e.disk.used.Load(); used > 3<<20 || used < 2<<20 {
		t.Errorf("a ring of 3 MiB takes %d bytes", used)
	}
	state := e.end(r.Uid)
	kept := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}).packets(t)
	if counts := state.Parts[0].Counts; counts.Packets != packets+1 || counts.Bytes != 1000*(packets+1) || len(kept) < 1900 {
		t.Errorf("%v, %d can be read", counts, len(kept))
	}
	for i, packet := range kept {
		if want := int64(packets + 2 - len(kept) + i); packet.Time() != want {
			t.Fatalf("packet %d of the newest is of %d, want %d", i, packet.Time(), want)
		}
	}
	sealed, err := e.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid})
	if err != nil || sealed.BlockBytes != int64(len(kept)*pcapng.PacketSize(1000)) {
		t.Errorf("sealed as %v (%v)", sealed, err)
	}
}

func TestTooManyReaders(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	for range maxReaders {
		e.readers <- struct{}{}
	}
	err := e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid}, func(*v1alpha1.ReadCaptureResponse) error { return nil })
	if !errors.Is(err, ErrExhausted) {
		t.Errorf("one more reader: %v", err)
	}
}

// Deleting ends streams, whatever they wait for.
func TestDeleteWhileFollowed(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	e.ensure(r)
	followed, begun := make(chan error, 1), make(chan struct{}, 1000)
	go func() {
		followed <- e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid, Follow: true}, func(*v1alpha1.ReadCaptureResponse) error {
			begun <- struct{}{}
			return nil
		})
	}()
	<-begun
	e.delete(r.Uid)
	if err := <-followed; !errors.Is(err, ErrNotFound) {
		t.Errorf("a follower was told %v", err)
	}
	if _, err := e.Ensure(context.Background(), r); !errors.Is(err, ErrPrecondition) {
		t.Errorf("a late request for a deleted capture: %v", err)
	}
	e.delete(r.Uid)
}
