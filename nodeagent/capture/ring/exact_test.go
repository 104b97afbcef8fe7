package ring_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// experimental is the filter that nftables' rules are the counterpart of.
var experimental = ofType(0x88b5)

// ofType accepts frames of an Ethernet type.
func ofType(protocol uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: protocol},
		{Code: unix.BPF_RET | unix.BPF_K, K: ring.MaxSnapLength},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Whatever the rate, and whether or not the ring is large enough: what nftables counts is what was delivered and what
// was dropped.
func TestExact(t *testing.T) {
	const paced = 20_000
	for _, test := range []struct {
		name  string
		bytes int
		// busy keeps the ring's packets waiting until all were sent.
		busy bool
		send func(l cable)
		// least is how many packets there are to be, in each direction that has any.
		in, out int64
	}{
		{"1,000 a second", 0, false, func(l cable) { l.sender(t).sendPaced(1000, 1, time.Millisecond) }, 1000, 0},
		{"1,000 a second outbound", 0, false, func(l cable) { newSender(t, l.near, nearName).sendPaced(1000, 1, time.Millisecond) }, 0, 1000},
		{"100,000 a second", 0, false, func(l cable) { l.sender(t).sendPaced(paced, 200, 2*time.Millisecond) }, paced, 0},
		{"100,000 a second outbound", 0, false, func(l cable) { newSender(t, l.near, nearName).sendPaced(paced, 200, 2*time.Millisecond) }, 0, paced},
		{"highest rate", 64 << 20, false, func(l cable) { flood(t, l.near, nearName, frame(64, 1), 1_000_000) }, 1_000_000, 0},
		{"highest rate, ring too small", 1, false, func(l cable) { flood(t, l.near, nearName, frame(64, 1), 1_000_000) }, 1_000_000, 0},
		{"ring too small and busy", 1, true, func(l cable) { l.sender(t).sendPaced(paced, 200, 2*time.Millisecond) }, paced, 0},
		{"highest rate, ring too small and busy", 1, true, func(l cable) { flood(t, l.near, nearName, frame(1400, 1), 200_000) }, 200_000, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := connect(t)
			countBuffers(t, l.near, nearName)
			c := count(t, l.near, ring.Config{Interface: nearName, SnapLength: 128, EthernetFilter: experimental, Bytes: test.bytes}, test.busy)
			test.send(l)
			var in, out int64
			fakepod.Eventually(t, "all that was sent to arrive", func() bool {
				in, out = buffers(t, l.near)
				return in >= test.in && out >= test.out
			}, func() string { return fmt.Sprintf("%d came in and %d went out", in, out) })
			c.stop(in, out)
			t.Logf("%d in, %d out: %d delivered, %d dropped", in, out, c.in+c.out, c.dropped)
			if test.busy && c.dropped == 0 {
				t.Error("the ring was too small, and nothing was dropped")
			}
		})
	}
}

// A tally is a ring whose packets are only counted.
type tally struct {
	*ring.Ring
	t                testing.TB
	in, out, dropped int64
	ended            chan error
	release          func()
}

// count opens a ring and counts its packets until stop; a busy one only then.
func count(t testing.TB, n *fakepod.Namespace, config ring.Config, busy bool) *tally {
	t.Helper()
	c := &tally{t: t, Ring: opened(t, n, config), ended: make(chan error, 1)}
	idle := make(chan struct{})
	c.release = sync.OnceFunc(func() { close(idle) })
	t.Cleanup(c.release)
	if !busy {
		c.release()
	}
	go func() {
		c.ended <- c.Run(func(block *ring.Block) error {
			<-idle
			for packet, ok := block.Next(); ok; packet, ok = block.Next() {
				if packet.Direction == pcapng.Outbound {
					c.out++
				} else {
					c.in++
				}
			}
			return nil
		})
	}()
	return c
}

// stop stops the ring and compares with what came by.
func (c *tally) stop(in, out int64) {
	c.t.Helper()
	if err := c.Stop(); err != nil {
		c.t.Fatal(err)
	}
	c.release()
	if err := <-c.ended; err != nil {
		c.t.Fatalf("running: %v", err)
	}
	matched, dropped, err := c.Statistics()
	if err != nil {
		c.t.Fatal(err)
	}
	c.dropped = dropped
	if matched != in+out || c.in+c.out+dropped != matched || c.Delivered() != c.in+c.out {
		c.t.Errorf("nftables counted %d in and %d out; matched %d, delivered %d in and %d out, dropped %d", in, out, matched, c.in, c.out, dropped)
	}
	if dropped == 0 && (c.in != in || c.out != out) {
		c.t.Errorf("nftables counted %d in and %d out; delivered %d and %d", in, out, c.in, c.out)
	}
}
