package capture

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine is a manager that runs, for a test.
type engine struct {
	*Manager
	t    testing.TB
	dir  string
	stop func() // as an agent that is told to end
}

// pods runs a map of pods until the test ends.
func pods(t testing.TB, changed func([]*podmap.Pod)) *podmap.Map {
	t.Helper()
	fakepod.NeedRoot(t)
	m, err := podmap.New(podmap.Config{Changed: changed})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- m.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("looking for pods ended with %v", err)
		}
	})
	<-ready
	return m
}

// start makes a manager with real pods and rings.
func start(t testing.TB, dir string, change ...func(*Config)) *engine {
	t.Helper()
	fakepod.NeedRoot(t)
	var mu sync.Mutex
	var manager *Manager
	found := pods(t, func(all []*podmap.Pod) {
		mu.Lock()
		defer mu.Unlock()
		if manager != nil {
			manager.Follow(all)
		}
	})
	e := launch(t, dir, nil, append([]func(*Config){func(c *Config) { c.Pods = found }}, change...)...)
	mu.Lock()
	manager = e.Manager
	mu.Unlock()
	return e
}

// noPods has none.
type noPods struct{}

func (noPods) Lookup(string) (*podmap.Pod, bool) { return nil, false }

// launch makes a manager that runs until the test ends, with fakes unless they are nil.
func launch(t testing.TB, dir string, f *fakes, change ...func(*Config)) *engine {
	t.Helper()
	options := DefaultOptions()
	config := Config{
		Options: options, Node: "node-1", Dir: dir, Pods: noPods{},
		Uplinks: func() ([]string, error) { return nil, nil },
		Failed:  func(err error) { t.Errorf("told as failed: %v", err) },
	}
	for _, c := range change {
		c(&config)
	}
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	m.durable = false // to sync a disk that others use takes seconds
	if f != nil {
		f.serve(m)
	}
	e := &engine{Manager: m, t: t, dir: dir}
	e.stop = run(t, m)
	t.Cleanup(e.stop)
	return e
}

// run runs a manager until what it returns is called.
func run(t testing.TB, m *Manager) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.Run(ctx); close(ended) }()
	fakepod.Eventually(t, "the manager to run", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ctx != nil
	})
	return sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := m.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
}

// request asks for a capture of pods.
func request(pods ...*fakepod.Pod) *v1alpha1.EnsureCaptureRequest {
	r := &v1alpha1.EnsureCaptureRequest{
		Uid: fakepod.UID(), Namespace: "shop", Name: "web", Revision: 1, SnapLength: ring.MaxSnapLength,
		DurationNano: int64(time.Minute), RenewWithinNano: int64(time.Minute), FilterText: "udp",
	}
	for _, p := range pods {
		r.Targets = append(r.Targets, &v1alpha1.CaptureTarget{Key: p.UID, Namespace: "shop", Pod: "pod-" + p.UID[:4], PodUid: p.UID})
	}
	return r
}

func (e *engine) ensure(r *v1alpha1.EnsureCaptureRequest) *v1alpha1.CaptureState {
	e.t.Helper()
	state, err := e.Ensure(context.Background(), r)
	if err != nil {
		e.t.Fatal(err)
	}
	return state
}

// recording has a capture recorded with so many parts.
func (e *engine) recording(r *v1alpha1.EnsureCaptureRequest, parts int) *v1alpha1.CaptureState {
	e.t.Helper()
	var state *v1alpha1.CaptureState
	fakepod.Eventually(e.t, "parts to record", func() bool {
		state = e.ensure(r)
		return len(state.Parts) == parts && len(state.Missing) == 0
	}, func() string { return state.String() })
	return state
}

func (e *engine) state(uid string) *v1alpha1.CaptureState {
	e.t.Helper()
	var state *v1alpha1.CaptureState
	if err := e.List(&v1alpha1.ListCapturesRequest{Uids: []string{uid}}, func(s *v1alpha1.CaptureState) error {
		state = s
		return nil
	}); err != nil {
		e.t.Fatal(err)
	}
	return state
}

func (e *engine) end(uid string) *v1alpha1.CaptureState {
	e.t.Helper()
	state, err := e.Stop(context.Background(), &v1alpha1.StopCaptureRequest{Uid: uid, Revision: 1 << 60})
	if err != nil {
		e.t.Fatal(err)
	}
	return state
}

func (e *engine) delete(uid string) {
	e.t.Helper()
	if err := e.Delete(context.Background(), &v1alpha1.DeleteCaptureRequest{Uid: uid}); err != nil {
		e.t.Fatal(err)
	}
}

// A stream is what was read.
type stream struct {
	parts     map[uint32]*v1alpha1.CapturePart
	blocks    []byte
	skipped   int64
	end       *v1alpha1.CaptureState
	watermark int64
	behind    int // packets that came after a watermark beyond them
}

func (s *stream) take(response *v1alpha1.ReadCaptureResponse) {
	if s.parts == nil {
		s.parts = map[uint32]*v1alpha1.CapturePart{}
	}
	for _, part := range response.Parts {
		s.parts[part.Number] = part
	}
	for rest := response.Blocks; len(rest) > 0; {
		packet, next, err := pcapng.Next(rest)
		if err != nil {
			panic(err)
		}
		if packet.Time() <= s.watermark {
			s.behind++
		}
		rest = next
	}
	s.skipped += response.SkippedBytes
	s.blocks = append(s.blocks, response.Blocks...)
	s.watermark = max(s.watermark, response.WatermarkUnixNano)
	if response.End != nil {
		s.end = response.End
	}
}

func (s *stream) packets(t testing.TB) (packets []pcapng.Packet) {
	t.Helper()
	for rest := s.blocks; len(rest) > 0; {
		packet, next, err := pcapng.Next(rest)
		if err != nil {
			t.Fatal(err)
		}
		packets, rest = append(packets, packet), next
	}
	return packets
}

func (e *engine) read(r *v1alpha1.ReadCaptureRequest) *stream {
	e.t.Helper()
	s := &stream{}
	if err := e.Read(context.Background(), r, func(response *v1alpha1.ReadCaptureResponse) error {
		if size := proto.Size(response); size > 640<<10 && response.End == nil {
			e.t.Errorf("a batch of %d bytes", size)
		}
		s.take(response)
		return nil
	}); err != nil {
		e.t.Fatal(err)
	}
	return s
}

func matched(c *v1alpha1.CaptureCounts) int64 {
	return c.Packets + c.RingDrops + c.DiskDrops + c.LimitDrops + c.OtherVantage
}

// consistent checks what holds for every capture.
func consistent(t testing.TB, state *v1alpha1.CaptureState, s *stream) {
	t.Helper()
	packets, bytes := map[uint32]int64{}, map[uint32]int64{}
	last := int64(0)
	for _, packet := range s.packets(t) {
		packets[packet.Number()]++
		bytes[packet.Number()] += int64(len(packet.Data()))
		last = max(last, packet.Time())
	}
	for _, part := range state.Parts {
		c := part.Counts
		if c.Matched != matched(c) {
			t.Errorf("part %d: %v does not add up", part.Number, c)
		}
		if packets[part.Number] != c.Packets || bytes[part.Number] != c.Bytes {
			t.Errorf("part %d: %d packets and %d bytes were read, %v were counted", part.Number, packets[part.Number], bytes[part.Number], c)
		}
	}
}

// A cable joins a pod with a peer.
type cable struct {
	pod  *fakepod.Pod
	peer *fakepod.Namespace
}

func connect(t testing.TB, subnet int) cable {
	t.Helper()
	fakepod.NeedRoot(t)
	c := cable{fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)}
	fakepod.Connect(c.pod.Namespace, c.peer, "eth0", "peer0", subnet)
	return c
}

// send sends UDP datagrams to the pod, each beginning with text.
func (c cable) send(t testing.TB, subnet, count, size int, text string) {
	t.Helper()
	c.peer.Do(func() {
		conn, err := net.Dial("udp", net.JoinHostPort("10.99."+itoa(subnet)+".1", "9"))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		payload := []byte(text + strings.Repeat("x", max(0, size-len(text))))
		for range count {
			// Nobody listens: ICMP may have answered the one before.
			if _, err := conn.Write(payload); err != nil {
				_, _ = conn.Write(payload)
			}
		}
	})
}

func itoa(n int) string {
	if n >= 10 {
		return itoa(n/10) + string(rune('0'+n%10))
	}
	return string(rune('0' + n))
}

// udp accepts datagrams of IPv4 to port 9.
var udp = []uint64{
	word(0x28, 0, 0, 12), word(0x15, 0, 5, 0x800),
	word(0x30, 0, 0, 23), word(0x15, 0, 3, 17),
	word(0x28, 0, 0, 36), word(0x15, 0, 1, 9),
	word(0x06, 0, 0, 0x40000), word(0x06, 0, 0, 0),
}

func word(op, jt, jf, k uint64) uint64 { return op<<48 | jt<<40 | jf<<32 | k }

func TestRecordReadStopSealDelete(t *testing.T) {
	e := start(t, t.TempDir())
	c := connect(t, 1)
	r := request(c.pod)
	r.EthernetFilter = udp
	e.recording(r, 1)
	follower, followed := &stream{}, make(chan error, 1)
	go func() {
		followed <- e.Read(context.Background(), &v1alpha1.ReadCaptureRequest{Uid: r.Uid, Follow: true}, func(b *v1alpha1.ReadCaptureResponse) error {
			follower.take(proto.CloneOf(b))
			return nil
		})
	}()
	c.send(t, 1, 500, 100, "hello")
	fakepod.Eventually(t, "packets to be counted", func() bool { return e.state(r.Uid).Parts[0].Counts.Packets == 500 })
	state := e.end(r.Uid)
	if state.Phase != v1alpha1.CaptureState_PHASE_ENDED || state.Reason != v1alpha1.CaptureState_REASON_STOPPED || state.Parts[0].Counts.Matched != 500 {
		t.Errorf("ended as %v", state)
	}
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	got := e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid})
	consistent(t, state, got)
	if string(got.blocks) != string(follower.blocks) || follower.end == nil || got.end == nil || follower.behind > 0 {
		t.Errorf("a follower read %d bytes (%d packets behind), later there were %d", len(follower.blocks), follower.behind, len(got.blocks))
	}
	sealed, err := e.Seal(context.Background(), &v1alpha1.SealCaptureRequest{Uid: r.Uid})
	if err != nil || !sealed.Sealed || sealed.BlockBytes != int64(len(got.blocks)) || len(sealed.Digest) != 32 {
		t.Errorf("sealed as %v (%v)", sealed, err)
	}
	e.delete(r.Uid)
	if _, err := os.Stat(filepath.Join(e.dir, r.Uid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was deleted is there: %v", err)
	}
	if e.disk.used.Load() != 0 || e.ringMemory != e.config.Options.RingMemory.Value() {
		t.Errorf("%d bytes on disk and %d of rings are left", e.disk.used.Load(), e.ringMemory)
	}
}
