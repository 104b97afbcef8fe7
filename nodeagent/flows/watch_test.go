package flows

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// watch begins to watch.
func watch(t testing.TB, c *Collector) *Watch {
	t.Helper()
	drain(t, c)
	w, err := c.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// looked gives the changes of a look, by the pod's port, all of which are taken.
func looked(t testing.TB, w *Watch, now time.Time) map[uint16]Change {
	t.Helper()
	all := map[uint16]Change{}
	err := w.Look(now, func(c *Change) time.Time {
		if _, twice := all[c.Local.Port()]; twice {
			t.Errorf("told twice of port %d in one look", c.Local.Port())
		}
		all[c.Local.Port()] = *c
		return time.Time{}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestWatch: what passed before is not told of, what passes then is, once, with everything that is known of the flow.
func TestWatch(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{
		PeerName: func(uint64, netip.Addr) string { return "db.example" },
		Reason:   func(uint16) (string, v1alpha1.Drop_Class) { return "NO_ROOM", v1alpha1.Drop_CLASS_BUFFER },
	})
	put(w, key4(0, 1), w.flow(5, 6))
	put(w, key4(0, 2), w.flow(5, 6))
	watching := watch(t, c)
	now := time.Now()
	if all := looked(t, watching, now); len(all) != 0 {
		t.Errorf("told of what passed before: %v", all)
	}
	put(w, key4(0, 1), w.flow(7, 6))
	f := w.flow(3, 4)
	f.Drops, f.LastDrop, f.Flags, f.HandshakeMicroseconds, f.BegunByTransmit = 2, w.now+1, [2]uint8{1, 2}, 250, 1
	put(w, key4(1, 8080), f)
	drain(t, c)
	watching.Wait(t.Context(), nil, 0)
	all := looked(t, watching, now)
	if len(all) != 2 || all[1].Packets != [2]int64{2, 0} || all[1].Bytes != [2]int64{200, 0} || all[1].Ended {
		t.Errorf("told of %v", all)
	}
	want := Change{
		Flow: 3, PodKey: podKeys[1], Local: netip.MustParseAddrPort("10.0.0.1:8080"), Peer: netip.MustParseAddrPort("192.0.2.0:53"),
		Protocol: 17, Direction: v1alpha1.Direction_DIRECTION_TRANSMIT, Start: time.Unix(0, c.wall(f.First)), Last: time.Unix(0, c.wall(f.LastDrop)),
		Verdict: v1alpha1.Verdict_VERDICT_DROPPED, DropReason: "NO_ROOM", Flags: [2]uint8{1, 2}, Handshake: 250 * time.Microsecond,
		PeerName: "db.example", Packets: [2]int64{3, 4}, Bytes: [2]int64{300, 400}, Dropped: 2, Since: now,
	}
	if all[8080] != want {
		t.Errorf("told\n%+v, want\n%+v", all[8080], want)
	}
	drain(t, c)
	if all := looked(t, watching, now); len(all) != 0 {
		t.Errorf("told again of %v", all)
	}
	if !watching.Live(podKeys[0]) || watching.Live("x") {
		t.Error("the pod is not live, or another one is")
	}
}

// TestWatchLeaves: what is left is told of again when it is time to, or when the flow has ended, with what came
// meanwhile, and not before.
func TestWatchLeaves(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{})
	watching := watch(t, c)
	begun := time.Now()
	var told []Change
	look := func(after time.Duration, again time.Duration) {
		t.Helper()
		told = nil
		drain(t, c)
		err := watching.Look(begun.Add(after), func(c *Change) time.Time {
			told = append(told, *c)
			if again == 0 {
				return time.Time{}
			}
			return begun.Add(again)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(w, key4(0, 1), w.flow(1, 0))
	look(0, 20*time.Second)
	if len(told) != 1 {
		t.Fatalf("told of %v", told)
	}
	put(w, key4(0, 1), w.flow(2, 0))
	if look(10*time.Second, 0); len(told) != 0 {
		t.Errorf("told too early of %v", told)
	}
	if look(21*time.Second, time.Hour); len(told) != 1 || told[0].Packets[0] != 2 || told[0].Since.UnixNano() != begun.UnixNano() {
		t.Errorf("told of %v", told)
	}
	if look(50*time.Second, 0); len(told) != 0 {
		t.Errorf("told too early of %v", told)
	}
	if look(52*time.Second, time.Hour); len(told) != 1 { // nothing is left longer than half a minute
		t.Errorf("told of %v", told)
	}
	ended := w.flow(3, 0)
	ended.Last -= uint64(2 * time.Minute)
	put(w, key4(0, 1), ended)
	if look(53*time.Second, 0); len(told) != 1 || !told[0].Ended || told[0].Packets[0] != 3 {
		t.Errorf("told of %v when the flow ended", told)
	}
	if look(time.Hour, 0); len(told) != 0 || len(watching.later) != 0 {
		t.Errorf("told of %v in the end; %d seconds remembered", told, len(watching.later))
	}
	if flows, ends := watching.Lost(); flows != 0 || ends != 0 {
		t.Errorf("lost %d flows and %d ends", flows, ends)
	}
}

// TestWatchClock: what is left is told of again in time, whatever the node's clock is set to meanwhile.
func TestWatchClock(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{})
	watching := watch(t, c)
	begun := time.Now()
	put(w, key4(0, 1), w.flow(1, 0))
	drain(t, c)
	leave := func(*Change) time.Time { return begun }
	if err := watching.Look(begun, leave); err != nil {
		t.Fatal(err)
	}
	for i, by := range []time.Duration{-time.Hour, time.Hour} {
		after := time.Duration(i+1) * 5 * time.Second
		now := set(begun.Add(after), by)
		if now.Sub(begun) != after || now.Unix() == begun.Add(after).Unix() {
			t.Fatal("setting the clock does not do here what it does to a node's")
		}
		var waited []time.Duration
		err := watching.Look(now, func(c *Change) time.Time {
			waited = append(waited, now.Sub(c.Since))
			return now
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(waited) != 1 || waited[0] != after {
			t.Errorf("clock set by %v, %v later: what was told of had waited %v", by, after, waited)
		}
	}
}

// set is a time as it is read when the clock was set by so much: what passes on the monotonic clock stays.
func set(now time.Time, by time.Duration) time.Time {
	seconds := (*uint64)(unsafe.Pointer(&now)) // since 1885, above 30 bits of nanoseconds and below the bit for the monotonic clock
	*seconds += uint64(by/time.Second) << 30
	return now
}

// TestWatchLosesNothing: whatever is left and taken in whatever order, what was taken of a flow is all that passed in it.
func TestWatchLosesNothing(t *testing.T) {
	w := newWorld(t, 3000)
	c := w.agent(Config{})
	both := [2]*Watch{watch(t, c), watch(t, c)}
	random := rand.New(rand.NewPCG(1, 2))
	var taken [2]map[int64]int64
	var ends [2]map[int64]int
	for i := range both {
		taken[i], ends[i] = map[int64]int64{}, map[int64]int{}
	}
	begun := time.Now()
	for round := range 60 {
		for i := range 200 {
			f := w.flow(uint64(round+1), 0)
			if (i+round)%3 == 0 {
				f.Last -= uint64(2 * time.Minute) // it ends
			}
			put(w, key4(i%2, (round*37+i)%2000), f)
		}
		drain(t, c)
		now := begun.Add(time.Duration(round) * 5 * time.Second)
		for i, one := range both {
			visit := func(c *Change) time.Time {
				if round < 59 && random.IntN(3) > 0 {
					return now.Add(time.Duration(random.IntN(40)) * time.Second)
				}
				taken[i][c.Flow] += c.Packets[0]
				if c.Ended {
					ends[i][c.Flow]++
				}
				return time.Time{}
			}
			var err error
			if round == 59 {
				err = one.LookAtAll(now, visit)
			} else {
				err = one.Look(now, visit)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[int64]int64{}
	for _, flow := range read(t, c, request()) {
		want[flow.Position] = flow.Receive.Packets
		for i := range both {
			if flow.Ended != (ends[i][flow.Position] == 1) {
				t.Errorf("flow %d: ended is %v, told %d times", flow.Position, flow.Ended, ends[i][flow.Position])
			}
		}
	}
	for i := range both {
		if !maps.Equal(taken[i], want) {
			t.Errorf("watch %d has taken\n%v, want\n%v", i, taken[i], want)
		}
	}
}

// TestWatchLost: what leaves the history before it was taken is counted.
func TestWatchLost(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{History: 100})
	watching := watch(t, c)
	old := func(i int) {
		f := w.flow(1, 0)
		f.Last -= uint64(2 * time.Minute)
		put(w, key4(0, i), f)
	}
	put(w, key4(0, 0), w.flow(1, 0))
	drain(t, c)
	looked(t, watching, time.Now())
	old(0) // of this, only the end
	drain(t, c)
	for i := range 300 {
		old(1 + i)
	}
	drain(t, c)
	if all := looked(t, watching, time.Now()); len(all) != 100 {
		t.Errorf("told of %d flows", len(all))
	}
	if flows, ends := watching.Lost(); flows != 200 || ends != 1 {
		t.Errorf("lost %d flows and %d ends, want 200 and 1", flows, ends)
	}
	for i := range 100 { // these make others leave that were taken
		old(1000 + i)
	}
	drain(t, c)
	if flows, ends := watching.Lost(); flows != 200 || ends != 1 {
		t.Errorf("lost %d flows and %d ends though all was taken", flows, ends)
	}
}

// TestWatchLostMeanwhile: a record that leaves while it is being looked at, and is not taken, is lost.
func TestWatchLostMeanwhile(t *testing.T) {
	w := newWorld(t, 1000)
	c := w.agent(Config{})
	watching := watch(t, c)
	f := w.flow(1, 0)
	f.Last -= uint64(2 * time.Minute)
	put(w, key4(0, 1), f)
	drain(t, c)
	err := watching.Look(time.Now(), func(*Change) time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.removeRecord(c.history.ended.first)
		return time.Now().Add(time.Second)
	})
	if flows, ends := watching.Lost(); err != nil || flows != 1 || ends != 0 {
		t.Errorf("lost %d flows and %d ends (%v), want 1", flows, ends, err)
	}
}

// TestWatchWithoutRoom: when records make room while their flows are still in the kernel's table, what was told of them
// is not told again.
func TestWatchWithoutRoom(t *testing.T) {
	w := newWorld(t, 256)
	c := w.agent(Config{History: 100})
	watching := watch(t, c)
	sum, sent := int64(0), int64(0)
	for round := range 20 {
		w.now = monotonic()
		for i := range 400 {
			put(w, key4(0, round*400+i), w.flow(1, 0))
			put(w, key6(1, round*400+i), w.flow(1, 0))
			sent += 2
		}
		drain(t, c)
		if err := watching.Look(time.Now(), func(c *Change) time.Time { sum += c.Packets[0]; return time.Time{} }); err != nil {
			t.Fatal(err)
		}
		if sum > sent {
			t.Fatalf("round %d: told of %d packets, sent were %d", round, sum, sent)
		}
	}
	if sum == 0 {
		t.Error("told of nothing")
	}
}

func TestWatchEnds(t *testing.T) {
	w := newWorld(t, 100)
	c := New(Config{Root: w.root, Shared: w.shared})
	watching, err := c.Watch()
	if err != nil {
		t.Fatal(err)
	}
	watching.Close()
	watching.Close()
	if len(c.watches) != 0 {
		t.Error("it is still fed")
	}
	if watching, err = c.Watch(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := watching.Look(time.Now(), nil); err == nil {
		t.Error("looking at a closed history gave no error")
	}
	watching.Close()
	if _, err := c.Watch(); err == nil {
		t.Error("watching a closed history gave no error")
	}
	if _, err := New(Config{}).Watch(); err == nil {
		t.Error("watching without maps gave no error")
	}
}

// TestWatchMemory: watching the largest history takes at most 16 MB, of which memory is used only for flows that
// there are.
func TestWatchMemory(t *testing.T) {
	w := newWorld(t, 131_072)
	watching := watch(t, w.agent(Config{}))
	t.Logf("%d bytes a flow, %d in all", unsafe.Sizeof(told{}), len(watching.memory))
	if len(watching.memory) > 16_000_000 {
		t.Errorf("it takes %d bytes", len(watching.memory))
	}
}

func TestHasPorts(t *testing.T) {
	for protocol, want := range map[uint8]bool{unix.IPPROTO_TCP: true, unix.IPPROTO_SCTP: true, unix.IPPROTO_ICMP: false, unix.IPPROTO_GRE: false} {
		if HasPorts(protocol) != want {
			t.Errorf("protocol %d has ports: %v", protocol, !want)
		}
	}
}

// BenchmarkWatch is a look at so many flows of a history, of which all have changed.
func BenchmarkWatch(b *testing.B) {
	for _, n := range []int{5_000, 10_000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			w := newWorld(b, 131_072)
			c := w.agent(Config{})
			watching := watch(b, c)
			b.ReportAllocs()
			spent := time.Duration(0)
			for round := uint64(1); b.Loop(); round++ {
				b.StopTimer()
				w.fill(n, round)
				drainOnly(b, c)
				b.StartTimer()
				begun := cpu(b)
				seen := 0
				if err := watching.Look(time.Now(), func(*Change) time.Time { seen++; return time.Time{} }); err != nil || seen != n {
					b.Fatal(seen, err)
				}
				spent += cpu(b) - begun
			}
			b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
		})
	}
}

func drainOnly(b *testing.B, c *Collector) {
	b.Helper()
	if err := c.drainUnless(0); err != nil {
		b.Fatal(err)
	}
}

// TestWatchWaits: until there is something new, or the user has something else to do.
func TestWatchWaits(t *testing.T) {
	w := newWorld(t, 100)
	c := w.agent(Config{})
	watching := watch(t, c)
	looked(t, watching, time.Now())
	over, end := context.WithCancel(t.Context())
	end()
	watching.Wait(over, nil, time.Hour)
	changed := make(chan struct{})
	close(changed)
	watching.Wait(t.Context(), changed, time.Hour)
	drain(t, c)
	watching.Wait(t.Context(), nil, 0)
	looked(t, watching, time.Now())
	select {
	case <-watching.news:
		t.Error("there is something new at once")
	default:
	}
}
