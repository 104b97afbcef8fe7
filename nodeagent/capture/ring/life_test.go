package ring_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// sendAlways sends numbered frames, of one type and another in turn, until the test ends or end is called.
func sendAlways(t testing.TB, l cable) (end func()) {
	t.Helper()
	s := l.sender(t)
	done := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		f := frame(60, 0)
		for n := uint32(0); ; n++ {
			select {
			case <-done:
				ended <- nil
				return
			default:
			}
			number(f, n/2)
			f[13] = 0xb5 + byte(n%2) // the two types for experiments
			if _, err := unix.Write(s.socket, f); err != nil {
				ended <- err
				return
			}
		}
	}()
	end = sync.OnceFunc(func() {
		close(done)
		if err := <-ended; err != nil {
			t.Errorf("sending: %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

// contiguous fails the test unless the packets of a type have each number between their first and their last.
func contiguous(t testing.TB, packets []taken, kind byte) (seen int) {
	t.Helper()
	next := -1
	for _, p := range packets {
		if p.data[13] != kind {
			continue
		}
		if n := numberOf(p); next >= 0 && n != next {
			t.Fatalf("after packet %d of type %x comes %d", next-1, kind, n)
		}
		next = numberOf(p) + 1
		seen++
	}
	return seen
}

func TestStopUnderTraffic(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	for range 5 {
		r := record(t, l.near, ring.Config{Interface: nearName, EthernetFilter: experimental, Bytes: 64 << 20})
		awaitPackets(t, r.Ring, 2000)
		packets, matched, dropped := r.stop()
		if dropped > 0 {
			t.Skipf("%d packets were dropped: the machine is too busy to tell more", dropped)
		}
		if seen := contiguous(t, packets, 0xb5); int64(seen) != matched {
			t.Errorf("%d of %d packets are of the type", seen, matched)
		}
		if after, _, err := r.Statistics(); after != matched || err != nil {
			t.Errorf("after it was stopped, %d more packets matched (%v)", after-matched, err)
		}
		if err := r.SetFilter(nil); !errors.Is(err, ring.ErrStopped) {
			t.Errorf("a filter after the end: %v", err)
		}
		if err := r.Stop(); err != nil {
			t.Errorf("stopping again: %v", err)
		}
		r.Close()
	}
}

func awaitPackets(t testing.TB, r *ring.Ring, count int64) {
	t.Helper()
	fakepod.Eventually(t, "packets to come", func() bool { return r.Delivered() >= count })
}

// awaitMatches waits until so many more packets have passed the filter.
func awaitMatches(t testing.TB, r *ring.Ring, count int64) {
	t.Helper()
	before, _, err := r.Statistics()
	fakepod.Eventually(t, "packets to match", func() bool {
		var now int64
		now, _, err = r.Statistics()
		return err != nil || now >= before+count
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStopBeforeRun(t *testing.T) {
	l := connect(t)
	r := opened(t, l.near, ring.Config{Interface: nearName})
	l.sender(t).sendPaced(10, 10, 1)
	fakepod.Eventually(t, "packets to arrive", func() bool {
		matched, _, err := r.Statistics()
		return err == nil && matched == 10
	})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := r.Run(func(block *ring.Block) error { seen += block.Len(); return nil })
	if err != nil || seen != 10 {
		t.Errorf("%d packets of 10, %v", seen, err)
	}
}

func TestStopInTake(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	r := opened(t, l.near, ring.Config{Interface: nearName, Bytes: 1})
	var seen int64
	err := r.Run(func(block *ring.Block) error {
		for _, ok := block.Next(); ok; _, ok = block.Next() {
			seen++
		}
		return r.Stop()
	})
	matched, dropped, _ := r.Statistics()
	if err != nil || seen == 0 || matched != seen+dropped {
		t.Errorf("matched %d, taken %d, dropped %d: %v", matched, seen, dropped, err)
	}
}

func TestTakeFails(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	r := opened(t, l.near, ring.Config{Interface: nearName})
	full := errors.New("the disk is full")
	if err := r.Run(func(*ring.Block) error { return full }); !errors.Is(err, full) {
		t.Errorf("the answer is %v", err)
	}
}

func TestCloseUnderTraffic(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	r := opened(t, l.near, ring.Config{Interface: nearName})
	inside, leave, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- r.Run(func(block *ring.Block) error {
			once.Do(func() { close(inside) })
			<-leave
			for packet, ok := block.Next(); ok; packet, ok = block.Next() {
				_ = packet.Data[0] // the memory is there
			}
			return nil
		})
	}()
	<-inside
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.SetFilter(nil); !errors.Is(err, ring.ErrClosed) {
		t.Errorf("setting a filter: %v", err)
	}
	close(leave)
	if err := <-ended; !errors.Is(err, ring.ErrClosed) {
		t.Errorf("running ended with %v", err)
	}
	if err := r.Run(nil); !errors.Is(err, ring.ErrClosed) {
		t.Errorf("running again: %v", err)
	}
	if err := errors.Join(r.Close(), r.Stop()); err != nil {
		t.Errorf("closing and stopping again: %v", err)
	}
	if matched, _, err := r.Statistics(); matched == 0 || err != nil {
		t.Errorf("after the end: %d packets, %v", matched, err)
	}
}

func TestCloseInTake(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	r := opened(t, l.near, ring.Config{Interface: nearName})
	err := r.Run(func(block *ring.Block) error {
		err := r.Close()
		for packet, ok := block.Next(); ok; packet, ok = block.Next() {
			_ = packet.Data[0]
		}
		return err
	})
	if !errors.Is(err, ring.ErrClosed) {
		t.Errorf("running ended with %v", err)
	}
	if sockets := l.near.Run("cat", "/proc/net/packet"); strings.Count(sockets, "\n") > 1 {
		t.Errorf("sockets are left:\n%s", sockets)
	}
}

func TestCloseIdle(t *testing.T) {
	l := connect(t)
	r := record(t, l.near, ring.Config{Interface: nearName})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-r.ended; !errors.Is(err, ring.ErrClosed) {
		t.Errorf("running ended with %v", err)
	}
}

// A filter is replaced without a gap: what old and new one both accept comes whole.
func TestSetFilterUnderTraffic(t *testing.T) {
	l := connect(t)
	sendAlways(t, l)
	r := record(t, l.near, ring.Config{Interface: nearName, EthernetFilter: experimental, Bytes: 64 << 20})
	for i := range 200 {
		filter := experimental
		if i%2 == 0 {
			filter = nil
		}
		if err := r.SetFilter(filter); err != nil {
			t.Fatal(err)
		}
		if i%19 == 0 { // with each of the two in turn
			awaitMatches(t, r.Ring, 100)
		}
	}
	packets, _, dropped := r.stop()
	if dropped > 0 {
		t.Skipf("%d packets were dropped: the machine is too busy to tell more", dropped)
	}
	first := contiguous(t, packets, 0xb5)
	if second := len(packets) - first; second == 0 || second >= first {
		t.Errorf("%d packets of the one type, %d of the other, which was let through at times", first, second)
	}
}

// loads is a filter of so many instructions.
func loads(count int) []unix.SockFilter {
	filter := make([]unix.SockFilter, count)
	for i := range filter {
		filter[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: uint32(i)}
	}
	filter[count-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ring.MaxSnapLength}
	return filter
}

func TestFilterTooLarge(t *testing.T) {
	l := connect(t)
	const limit, most = 20_480, 1000
	if _, err := l.near.Command("sysctl", "-w", fmt.Sprintf("net.core.optmem_max=%d", limit)).CombinedOutput(); err != nil {
		t.Skip("net.core.optmem_max is not of a namespace here (before Linux 6.8)")
	}
	open := func(filter []unix.SockFilter) (r *ring.Ring, err error) {
		l.near.Do(func() {
			r, err = ring.Open(ring.Config{Interface: nearName, SnapLength: 64, EthernetFilter: filter})
		})
		return r, err
	}
	_, err := open(loads(most))
	var size *ring.FilterSizeError
	if !errors.As(err, &size) || size.Instructions != most || size.Limit != limit {
		t.Fatalf("the answer is %v", err)
	}
	if _, err := open(loads(ring.MaxInstructions + 1)); err == nil || errors.As(err, &size) {
		t.Errorf("more instructions than the kernel takes: %v", err)
	}

	// The longest that fits leaves no room for another, and the ring stops nevertheless.
	fits, r := 1, (*ring.Ring)(nil)
	for step := 512; step > 0; step /= 2 {
		candidate, err := open(loads(fits + step))
		if err != nil {
			continue
		}
		fits += step
		if r != nil {
			r.Close()
		}
		r = candidate
	}
	defer r.Close()
	if err := r.SetFilter(loads(fits)); !errors.As(err, &size) || size.Limit != limit {
		t.Errorf("two filters of %d instructions: %v", fits, err)
	}
	l.sender(t).send(frame(2000, 1))
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	l.sender(t).send(frame(2000, 1))
	seen := 0
	if err := r.Run(func(block *ring.Block) error { seen += block.Len(); return nil }); err != nil || seen != 1 {
		t.Errorf("%d packets, not 1: %v", seen, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	l := connect(t)
	for name, test := range map[string]struct {
		config ring.Config
		says   string
	}{
		"no interface":       {ring.Config{Interface: "missing", SnapLength: 64}, "no such device"},
		"no name":            {ring.Config{SnapLength: 64}, "no such device"},
		"long name":          {ring.Config{Interface: strings.Repeat("x", 16), SnapLength: 64}, "invalid argument"},
		"nothing of packets": {ring.Config{Interface: nearName}, "snap length 0"},
		"too much of them":   {ring.Config{Interface: nearName, SnapLength: ring.MaxSnapLength + 1}, "snap length 262145"},
		"negative memory":    {ring.Config{Interface: nearName, SnapLength: 64, Bytes: -1}, "ring of -1 bytes"},
		"a broken filter":    {ring.Config{Interface: nearName, SnapLength: 64, EthernetFilter: loads(5)[:4]}, "attaching a filter of 4 instructions"},
	} {
		l.near.Do(func() {
			r, err := ring.Open(test.config)
			if err == nil {
				r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: the answer is %v", name, err)
			}
		})
	}
}

// What was in the ring is delivered before the loss of the interface is told.
func TestInterfaceEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(l cable)
		want error
	}{
		{"down", func(l cable) { l.near.Run("ip", "link", "set", "dev", nearName, "down") }, ring.ErrDown},
		{"deleted", func(l cable) { l.near.Run("ip", "link", "del", "dev", nearName) }, ring.ErrGone},
		{"deleted at the other end", func(l cable) { l.far.Run("ip", "link", "del", "dev", farName) }, ring.ErrGone},
		{"moved", func(l cable) { l.near.Run("ip", "link", "set", "dev", nearName, "netns", pid(l.far)) }, ring.ErrGone},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := connect(t)
			countBuffers(t, l.near, nearName)
			r := record(t, l.near, ring.Config{Interface: nearName, EthernetFilter: experimental})
			l.sender(t).sendPaced(1000, 1000, 1)
			fakepod.Eventually(t, "what was sent to arrive", func() bool {
				in, _ := buffers(t, l.near)
				return in == 1000
			})
			test.end(l)
			if err := <-r.ended; !errors.Is(err, test.want) {
				t.Errorf("running ended with %v", err)
			}
			matched, dropped, err := r.Statistics()
			if matched != 1000 || dropped != 0 || len(r.packets) != 1000 || err != nil {
				t.Errorf("matched %d, delivered %d, dropped %d, %v", matched, len(r.packets), dropped, err)
			}
			if err := errors.Join(r.Stop(), r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A ring can be opened on an interface that is down, and says so at once.
func TestInterfaceIsDown(t *testing.T) {
	l := connect(t)
	l.near.Run("ip", "link", "set", "dev", nearName, "down")
	r := record(t, l.near, ring.Config{Interface: nearName})
	if err := <-r.ended; !errors.Is(err, ring.ErrDown) {
		t.Errorf("running ended with %v", err)
	}
}

func TestInterfaceEndsUnderTraffic(t *testing.T) {
	l := connect(t)
	s := l.sender(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for f := frame(60, 1); ; {
			if _, err := unix.Write(s.socket, f); err != nil {
				return // the other end has gone, too
			}
		}
	}()
	c := count(t, l.near, ring.Config{Interface: nearName}, false)
	awaitPackets(t, c.Ring, 1000)
	l.near.Run("ip", "link", "del", "dev", nearName)
	if err := <-c.ended; !errors.Is(err, ring.ErrGone) {
		t.Errorf("running ended with %v", err)
	}
	<-ended
	matched, dropped, err := c.Statistics()
	if matched != c.in+c.out+dropped || err != nil {
		t.Errorf("matched %d, delivered %d, dropped %d, %v", matched, c.in+c.out, dropped, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	l := connect(t)
	end := sendAlways(t, l)
	count := func(path string) int {
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := -1
	for i := range 50 {
		r := record(t, l.near, ring.Config{Interface: nearName, Bytes: 1})
		if i%2 == 0 {
			awaitPackets(t, r.Ring, 1)
		}
		if i%3 == 0 {
			if err := r.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
		<-r.ended
		if before < 0 {
			before = count("/proc/self/fd")
		}
	}
	end()
	if after := count("/proc/self/fd"); after > before {
		t.Errorf("%d open files, %d before", after, before)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "socket:") {
		t.Error("a ring is still mapped")
	}
	if sockets := l.near.Run("cat", "/proc/net/packet"); strings.Count(sockets, "\n") > 1 {
		t.Errorf("sockets are left:\n%s", sockets)
	}
}

// An open ring keeps the namespace of a pod that has ended; a closed one does not.
func TestCloseFreesNamespace(t *testing.T) {
	l := connect(t)
	r := record(t, l.near, ring.Config{Interface: nearName})
	l.near.End()
	l.sender(t).send(frame(60, 1))
	awaitPackets(t, r.Ring, 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	// The kernel removes a veth with the namespace of its other end.
	fakepod.Eventually(t, "the namespace to go", func() bool {
		return l.far.Command("ip", "link", "show", "dev", farName).Run() != nil
	})
}

// Packets that come long after the last ones are delivered, without anything else that wakes the ring.
func TestWakesFromIdle(t *testing.T) {
	l := connect(t)
	r := record(t, l.near, ring.Config{Interface: nearName})
	s := l.sender(t)
	for i := range 10 {
		s.send(frame(60, byte(i)))
		awaitPackets(t, r.Ring, int64(i+1))
	}
	r.stop()
}
