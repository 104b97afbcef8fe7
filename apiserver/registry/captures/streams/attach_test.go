package streams

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A pipeWriter is a connection to a client that reads when it likes.
type pipeWriter struct {
	*io.PipeWriter
	header http.Header
}

func (p pipeWriter) Header() http.Header { return p.header }
func (p pipeWriter) WriteHeader(int)     {}
func (p pipeWriter) Flush()              {}
func (p pipeWriter) SetWriteDeadline(time.Time) error {
	return p.CloseWithError(errors.New("deadline"))
}
func (p pipeWriter) Write(b []byte) (n int, err error) { return p.PipeWriter.Write(b) }

// A client reads one stream.
type client struct {
	blockReader
	// leave goes away, ended gives what the server says of the end.
	leave context.CancelFunc
	ended <-chan error
}

// open opens a stream.
func (w *world) open(subresource string, options v1alpha1.CaptureReadOptions) *client {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	s, err := w.session(ctx, subresource, options)
	if err != nil {
		w.t.Fatal(err)
	}
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := s.stream(ctx, &output{response: pipeWriter{writer, http.Header{}}})
		if err == nil {
			writer.Close()
		} else {
			writer.CloseWithError(http.ErrAbortHandler)
		}
		ended <- err
	}()
	w.t.Cleanup(func() {
		leave()
		reader.Close()
		<-done
	})
	return &client{blockReader{w.t, bufio.NewReader(reader)}, leave, ended}
}

// end waits for the end of the stream, reading what comes.
func (c *client) end() error {
	c.t.Helper()
	go io.Copy(io.Discard, c.r)
	return c.wait()
}

func (c *client) wait() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(patience):
		c.t.Fatal("the stream does not end")
		return nil
	}
}

// eventually waits for something that happens in the background.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

// readOptions ask for everything.
var readOptions = v1alpha1.CaptureReadOptions{}

func runningAgents() fakeAgents {
	return fakeAgents{
		"a": newNode(partOf(0, "shop", "web-a", "eth0")),
		"b": newNode(partOf(0, "shop", "web-b", "eth0")),
	}
}

// TestAttach is the life of a live stream: packets come at once, nodes and interfaces join, names come before their
// addresses, and statistics at the end.
func TestAttach(t *testing.T) {
	agents := runningAgents()
	late := newNode(partOf(0, "shop", "late", "eth0"))
	late.missing = true
	agents["c"] = late
	w := newWorld(t, agents)
	w.store.change(func(c *v1alpha1.Capture) {
		c.Status.Control.Nodes = nil
		for _, row := range c.Status.Targets {
			if row.Node != "c" {
				c.Status.Control.Nodes = append(c.Status.Control.Nodes, v1alpha1.CaptureControlNode{Node: row.Node, Recorded: true})
			}
		}
		c.Status.Targets = nil
	})
	w.match(Match{"a", "shop", "web-a"}, Match{"b", "shop", "web-b"})
	c := w.open("attach", v1alpha1.CaptureReadOptions{})
	c.next(pcapng.TypeSection)
	interfaces := map[string]bool{}
	for range 2 {
		interfaces[c.next(pcapng.TypeInterface).name()] = true
	}
	if !interfaces["a/shop/web-a/eth0"] || !interfaces["b/shop/web-b/eth0"] {
		t.Errorf("interfaces are %v", interfaces)
	}

	agents["a"].record(0, 1000, frame(1, 2, 7, 60))
	if names := c.next(pcapng.TypeNames); !strings.Contains(string(names.raw), "shop/pod-192.0.2.1\x00") || !strings.Contains(string(names.raw), "shop/pod-192.0.2.2\x00") {
		t.Errorf("names are %q", names.raw)
	}
	if packet := c.next(pcapng.TypePacket); pcapng.Packet(packet.raw).Time() != 1000 {
		t.Errorf("the first packet is %q", packet.raw)
	}
	agents["b"].record(0, 2000, frame(2, 1, 8, 60))
	if packet := c.next(pcapng.TypePacket); pcapng.Packet(packet.raw).Time() != 2000 {
		t.Errorf("the second packet is %q", packet.raw)
	}

	w.match(Match{"a", "shop", "web-a"}, Match{"b", "shop", "web-b"}, Match{"c", "shop", "late"})
	late.change(func() { late.missing = false })
	if name := c.next(pcapng.TypeInterface).name(); name != "c/shop/late/eth0" {
		t.Errorf("the interface that joins is %s", name)
	}
	late.record(0, 3000, frame(3, 1, 9, 60))
	if packet := c.packet(); packet.Number() != 2 || packet.Time() != 3000 {
		t.Errorf("the packet of the interface that joined is %q", packet)
	}
	for _, node := range agents {
		node.end()
	}
	w.finish()
	for number := range uint32(3) {
		statistics := c.next(pcapng.TypeStatistics)
		if delivered, _ := statistics.option(12, 8); statistics.raw[8] != byte(number) || delivered[0] != 1 {
			t.Errorf("statistics %d are %q", number, statistics.raw)
		}
	}
	if b, err := readBlock(c.r); err != io.EOF {
		t.Errorf("behind the statistics there is %v, %v", b, err)
	}
	if err := c.wait(); err != nil {
		t.Error(err)
	}
}

// TestAttachGoesOn breaks the streams of agents again and again: no packet is lost, none comes twice.
func TestAttachGoesOn(t *testing.T) {
	for _, headersOnly := range []bool{false, true} {
		t.Run(fmt.Sprint("headersOnly=", headersOnly), func(t *testing.T) {
			for seed := range uint64(6) {
				agents := randomAgents(t, 20+seed, 2, 25)
				w := newWorld(t, agents)
				want := 0
				for _, node := range agents {
					node.batch, node.breakAfter = 1+int(seed), len(node.packets)/2
					want += len(node.packets)
				}
				c := w.open("attach", v1alpha1.CaptureReadOptions{HeadersOnly: headersOnly})
				got := 0
				for {
					b, err := readBlock(c.r)
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatalf("seed %d: %v: %v", seed, err, c.wait())
					}
					if b.kind == pcapng.TypePacket {
						got++
					}
				}
				if err := c.wait(); err != nil || got != want {
					t.Errorf("seed %d: %d packets, want %d: %v", seed, got, want, err)
				}
			}
		})
	}
}

// TestAttachFails wants the others' packets, statistics that say so, and no clean end.
func TestAttachFails(t *testing.T) {
	agents := runningAgents()
	clock := clocktesting.NewFakeClock(time.Unix(100, 0))
	w := newWorld(t, agents, func(c *Config) { c.Clock = clock })
	c := w.open("attach", v1alpha1.CaptureReadOptions{})
	agents["a"].record(0, 1000, frame(1, 2, 7, 60))
	agents["b"].record(0, 2000, frame(1, 2, 7, 60))
	stop := runClock(t, clock)
	c.next(pcapng.TypeSection)
	c.packet()
	c.packet()
	agents["a"].change(func() { agents["a"].err = errors.New("a: the agent at 192.0.2.1:10250 did not answer in time") })
	agents["b"].record(0, 3000, frame(1, 2, 7, 60))
	if packet := c.packet(); packet.Time() != 3000 {
		t.Errorf("packet of %d", packet.Time())
	}
	agents["b"].end()
	w.store.change(func(c *v1alpha1.Capture) {
		c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.CaptureFailed, Status: metav1.ConditionTrue}}
	})
	incomplete := 0
	for range 2 {
		if statistics := c.next(pcapng.TypeStatistics); strings.Contains(string(statistics.raw), "incomplete") {
			incomplete++
		}
	}
	if err := c.end(); err == nil || !strings.Contains(err.Error(), "a: the agent") || incomplete != 1 {
		t.Errorf("%d incomplete statistics, and the end is %v", incomplete, err)
	}
	stop()
}

// runClock lets a fake clock run, as fast as things wait for it.
func runClock(t testing.TB, clock *clocktesting.FakeClock) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				clock.Step(50 * time.Millisecond)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// TestAttachOutlivesTheCapture wants a clean end when the capture was deleted as soon as it had ended.
func TestAttachOutlivesTheCapture(t *testing.T) {
	agents := randomAgents(t, 6, 2, 20)
	w := newWorld(t, agents)
	w.store.change(func(c *v1alpha1.Capture) { c.Status.File, c.Status.Conditions = nil, nil })
	c := w.open("attach", readOptions)
	c.next(pcapng.TypeSection)
	for range len(agents["a"].packets) + len(agents["b"].packets) {
		c.packet()
	}
	// Their last packets are here, and what says that they were the last may not be yet.
	eventually(t, "the nodes have ended", func() bool {
		w.streams.limits.mu.Lock()
		defer w.streams.limits.mu.Unlock()
		return w.streams.limits.used == 0
	})
	w.store.change(nil)
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

func TestAttachWaitsForTheStart(t *testing.T) {
	agents := runningAgents()
	clock := clocktesting.NewFakeClock(time.Unix(100, 0))
	w := newWorld(t, agents, func(c *Config) { c.Clock = clock })
	w.store.change(func(c *v1alpha1.Capture) { c.Spec.StartTime = &metav1.Time{Time: time.Unix(160, 0)} })
	c := w.open("attach", v1alpha1.CaptureReadOptions{})
	c.next(pcapng.TypeSection)
	// The guard's ticker and the director's timer.
	eventually(t, "waiters", func() bool { return clock.Waiters() == 2 })
	if reads := agents["a"].reads; reads != 0 {
		t.Errorf("%d reads of a capture that has not begun", reads)
	}
	stop := runClock(t, clock)
	defer stop()
	c.next(pcapng.TypeInterface)
}

// TestGuard ends streams from outside.
func TestGuard(t *testing.T) {
	stopping := make(chan struct{})
	for _, test := range []struct {
		name   string
		change func(*world)
		// steps of 3 s are survived, and one more is not.
		steps int
		want  string
	}{
		{"right revoked", func(w *world) { w.rights.set(func() { w.rights.denied["pcap"] = true }) }, 0, "the right to read it is gone"},
		{"right to attach revoked", func(w *world) { w.rights.set(func() { w.rights.denied["attach"] = true }) }, 0, "the right to read it is gone"},
		{"no answer", func(w *world) { w.rights.set(func() { w.rights.err = errors.New("timeout") }) }, 3, "timeout"},
		{"deleted", func(w *world) { w.store.change(nil) }, 0, "deleted"},
		{"another of that name", func(w *world) { w.store.change(func(c *v1alpha1.Capture) { c.UID = "another" }) }, 0, "deleted"},
		{"stopping", func(*world) { close(stopping) }, 3, "stops"},
	} {
		t.Run(test.name, func(t *testing.T) {
			agents := runningAgents()
			clock := clocktesting.NewFakeClock(time.Unix(100, 0))
			w := newWorld(t, agents, func(c *Config) {
				c.Clock = clock
				if test.name == "stopping" {
					c.Stopping = stopping
				}
			})
			c := w.open("attach", v1alpha1.CaptureReadOptions{})
			c.next(pcapng.TypeSection)
			c.next(pcapng.TypeInterface)
			c.next(pcapng.TypeInterface)
			waiters := 2
			eventually(t, "guard and director wait", func() bool { return clock.Waiters() == waiters })
			test.change(w)
			if test.name == "stopping" {
				waiters = 3
			}
			for range test.steps {
				eventually(t, "guard and director wait", func() bool { return clock.Waiters() >= waiters })
				before := w.rights.count()
				clock.Step(recheck)
				eventually(t, "the right is asked for", func() bool { return w.rights.count() > before })
				select {
				case err := <-c.ended:
					t.Fatalf("ended too early: %v", err)
				default:
				}
			}
			eventually(t, "guard and director wait", func() bool { return clock.Waiters() >= waiters })
			clock.Step(recheck)
			if err := c.end(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ended with %v, want %q", err, test.want)
			}
			for name, node := range agents {
				eventually(t, name+" is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
			}
		})
	}
}

func (r *rights) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// TestClientGone wants agents to be left, by clients that read and by such that do not.
func TestClientGone(t *testing.T) {
	for _, subresource := range []string{"attach", "pcap"} {
		t.Run(subresource, func(t *testing.T) {
			agents := randomAgents(t, 1, 2, 3000)
			w := newWorld(t, agents)
			c := w.open(subresource, v1alpha1.CaptureReadOptions{})
			c.next(pcapng.TypeSection)
			eventually(t, "the agents are read", func() bool {
				agents["a"].mu.Lock()
				defer agents["a"].mu.Unlock()
				return agents["a"].open == 1
			})
			c.leave()
			if err := c.wait(); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			for name, node := range agents {
				eventually(t, name+" is left", func() bool { node.mu.Lock(); defer node.mu.Unlock(); return node.open == 0 })
			}
		})
	}
}

// TestStalledClient wants agents not to send ahead of a client that does not read.
func TestStalledClient(t *testing.T) {
	for _, subresource := range []string{"attach", "pcap"} {
		t.Run(subresource, func(t *testing.T) {
			agents := fakeAgents{}
			for _, name := range []string{"a", "b"} {
				node := newNode(partOf(0, "shop", "web-"+name, "eth0"))
				for i := range 2000 {
					node.record(0, int64(1000+i), frame(1, 2, 3, 1500))
				}
				node.batch = 100
				node.end()
				agents[name] = node
			}
			var sent [2]int64
			for i, name := range []string{"a", "b"} {
				agents[name].spoil = func(batch *agentv1.ReadCaptureResponse) { sent[i] += int64(len(batch.Blocks)) }
			}
			w := newWorld(t, agents)
			c := w.open(subresource, v1alpha1.CaptureReadOptions{})
			c.next(pcapng.TypeSection)
			// The agents stand when nothing has moved for a while: there is no signal for what does not happen.
			last, same := int64(-1), 0
			eventually(t, "the agents stand", func() bool {
				agents["a"].mu.Lock()
				defer agents["a"].mu.Unlock()
				if same++; sent[0] != last {
					last, same = sent[0], 0
				}
				return same > 100 && sent[0] > 0
			})
			if limit := int64(3 * 100 * 1600); last > limit {
				t.Errorf("an agent sent %d bytes to a client that does not read, want %d at most", last, limit)
			}
		})
	}
}
