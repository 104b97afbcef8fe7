package capture

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func TestAdmit(t *testing.T) {
	const (
		none    = v1alpha1.CaptureState_REASON_UNSPECIFIED
		packets = v1alpha1.CaptureState_REASON_PACKETS
		bytes   = v1alpha1.CaptureState_REASON_BYTES
	)
	type step struct {
		sizes  []int
		n      int
		reason v1alpha1.CaptureState_Reason
	}
	free := limits{packetsLimit: -1, bytesLimit: -1, packetsLease: -1, bytesLease: -1}
	with := func(change func(*limits)) limits { l := free; change(&l); return l }
	for _, test := range []struct {
		name   string
		limits limits
		steps  []step
	}{
		{"none", free, []step{{[]int{1, 2, 3}, 3, none}}},
		{"nothing to admit", with(func(l *limits) { l.packetsLimit = 1 }), []step{{nil, 0, none}}},
		{"packets", with(func(l *limits) { l.packetsLimit = 3 }), []step{{[]int{9, 9}, 2, none}, {[]int{9, 9}, 1, packets}, {[]int{9}, 0, packets}}},
		{"the packet that reaches a limit ends it", with(func(l *limits) { l.packetsLimit = 2 }), []step{{[]int{9, 9}, 2, packets}}},
		{"bytes", with(func(l *limits) { l.bytesLimit = 20 }), []step{{[]int{9, 11}, 2, bytes}}},
		{"the first packet that does not fit ends it", with(func(l *limits) { l.bytesLimit = 20 }), []step{{[]int{9, 12, 1}, 1, bytes}}},
		{"a lease", with(func(l *limits) { l.packetsLease = 1 }), []step{{[]int{9, 9}, 1, none}, {[]int{9}, 0, none}}},
		{"a lease of nothing", with(func(l *limits) { l.bytesLease = 0 }), []step{{[]int{9}, 0, none}}},
		{"a lease within a limit", with(func(l *limits) { l.bytesLease, l.packetsLimit = 10, 2 }), []step{{[]int{9, 9}, 1, none}, {[]int{1}, 1, packets}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := test.limits
			for i, s := range test.steps {
				if n, reason := l.admit(s.sizes); n != s.n || reason != s.reason {
					t.Errorf("step %d: %d admitted (%v), want %d (%v)", i, n, reason, s.n, s.reason)
				}
			}
		})
	}
}

// TestLeases: they rise and fall, but never below what was used.
func TestLeases(t *testing.T) {
	l := limits{packets: 7, packetsLimit: -1, bytesLimit: -1, packetsLease: -1, bytesLease: -1}
	for _, step := range []struct {
		lease *int64
		want  int64
	}{{nil, -1}, {proto.Int64(8), 8}, {proto.Int64(10), 10}, {proto.Int64(9), 9}, {proto.Int64(5), 7}, {nil, 7}} {
		if l.grant(step.lease, nil); l.packetsLease != step.want || l.bytesLease != -1 {
			t.Errorf("%v: leases %d and %d, want %d and none", step.lease, l.packetsLease, l.bytesLease, step.want)
		}
	}
}

// flood pushes packets into all sources at once.
func flood(f *fakes, sources, blocks, packets, size int) {
	var all sync.WaitGroup
	for i := range sources {
		all.Go(func() {
			for n := range blocks {
				var block []ring.Packet
				for m := range packets {
					block = append(block, packetAt(int64(1+n*packets+m), size))
				}
				f.source(i).push(block...)
			}
		})
	}
	all.Wait()
}

// However many parts record at once, not one packet or byte more is kept.
func TestLimitsAreExact(t *testing.T) {
	const parts, blocks, packets, size = 8, 10, 600, 100
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.EnsureCaptureRequest)
		packets int64
		reason  v1alpha1.CaptureState_Reason
	}{
		{"packets", func(r *v1alpha1.EnsureCaptureRequest) { r.PacketsLimit = 10001 }, 10001, v1alpha1.CaptureState_REASON_PACKETS},
		{"bytes", func(r *v1alpha1.EnsureCaptureRequest) { r.BytesLimit = 1000050 }, 10000, v1alpha1.CaptureState_REASON_BYTES},
		{"lease of packets", func(r *v1alpha1.EnsureCaptureRequest) { r.PacketsLease = proto.Int64(10001) }, 10001, v1alpha1.CaptureState_REASON_STOPPED},
		{"lease of bytes", func(r *v1alpha1.EnsureCaptureRequest) { r.BytesLease = proto.Int64(1000050) }, 10000, v1alpha1.CaptureState_REASON_STOPPED},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, f := fake(t, t.TempDir(), parts)
			r := fakeRequest(fakepod.UID(), "a")
			test.change(r)
			e.ensure(r)
			flood(f, parts, blocks, packets, size)
			if test.reason != v1alpha1.CaptureState_REASON_STOPPED {
				fakepod.Eventually(t, "the limit to end it", func() bool { return e.state(r.Uid).Phase == v1alpha1.CaptureState_PHASE_ENDED })
			}
			state := e.end(r.Uid)
			consistent(t, state, e.read(&v1alpha1.ReadCaptureRequest{Uid: r.Uid}))
			var kept, dropped int64
			for _, part := range state.Parts {
				kept += part.Counts.Packets
				dropped += part.Counts.LimitDrops
			}
			if kept != test.packets || dropped == 0 || state.Reason != test.reason {
				t.Errorf("%d packets kept and %d not, %v; want %d, %v", kept, dropped, state.Reason, test.packets, test.reason)
			}
		})
	}
}

func TestLeaseRises(t *testing.T) {
	e, f := fake(t, t.TempDir(), 1)
	r := fakeRequest(fakepod.UID(), "a")
	kept := func(want, dropped int64) {
		t.Helper()
		fakepod.Eventually(t, fmt.Sprintf("%d packets to be kept", want), func() bool {
			c := e.state(r.Uid).Parts[0].Counts
			return c.Packets == want && c.LimitDrops == dropped
		}, func() string { return e.state(r.Uid).String() })
	}
	r.PacketsLease = proto.Int64(0)
	e.ensure(r)
	flood(f, 1, 1, 5, 100)
	kept(0, 5)
	r.Revision, r.PacketsLease = 2, proto.Int64(8)
	e.ensure(r)
	flood(f, 1, 1, 10, 100)
	kept(8, 7)
	r.Revision, r.PacketsLease = 3, proto.Int64(4) // from a controller that knows less
	e.ensure(r)
	r.Revision, r.PacketsLease = 4, proto.Int64(9)
	e.ensure(r)
	flood(f, 1, 1, 10, 100)
	kept(9, 16)
	if state := e.state(r.Uid); state.Phase != v1alpha1.CaptureState_PHASE_RUNNING {
		t.Errorf("a lease ended it: %v", state)
	}
}

func TestDurationAndAbandonment(t *testing.T) {
	e, _ := fake(t, t.TempDir(), 1)
	short := fakeRequest(fakepod.UID(), "a")
	for short.DurationNano = int64(50 * time.Millisecond); len(e.ensure(short).Parts) == 0; short.DurationNano *= 2 {
		short.Uid = fakepod.UID() // on a busy machine its time was over before it was recorded
	}
	left := fakeRequest(fakepod.UID(), "a")
	e.ensure(left)
	c, err := e.known(left.Uid)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.renewed = c.renewed.Add(-2 * time.Minute)
	c.mu.Unlock()
	for uid, reason := range map[string]v1alpha1.CaptureState_Reason{
		short.Uid: v1alpha1.CaptureState_REASON_DURATION, left.Uid: v1alpha1.CaptureState_REASON_ABANDONED,
	} {
		fakepod.Eventually(t, "the end", func() bool { return e.state(uid).Phase == v1alpha1.CaptureState_PHASE_ENDED })
		if state := e.state(uid); state.Reason != reason || state.Parts[0].Reason != reason {
			t.Errorf("ended as %v, want %v", state, reason)
		}
	}
	short.DurationNano, short.Revision = int64(time.Hour), 2
	if state := e.ensure(short); state.Phase != v1alpha1.CaptureState_PHASE_ENDED {
		t.Errorf("a capture that had ended is %v", state)
	}
}
