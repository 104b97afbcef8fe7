package flows

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// A Watch tells somebody in this process what passes in the flows of all pods. Its methods are for one goroutine. It
// does not make drains more frequent, as followers do: what it tells of is up to five seconds old.
//
// For each record it remembers, off the Go heap, how much its user has taken: what is told of is the rest. What is left
// stays, and is told of again together with what came meanwhile.
type Watch struct {
	collector *Collector
	memory    []byte

	// What follows is guarded by the collector's lock.
	told []told // by number of record
	// lost is how many records left the history before all of them was taken, and endless how many of which only the end
	// was not.
	lost, endless int64

	// What follows belongs to the goroutine.
	began    time.Time // when it first looked; other times are kept as what has passed since, whatever the clock is set to
	revision uint64    // up to which changes have been looked at
	news     <-chan struct{}
	at       [2]place
	later    map[int64][]reference // by second
	found    []glimpse
	change   Change
}

// told is what was taken of a record.
type told struct {
	packets, bytes [2]uint64
	since          int64 // when something was first left, in nanoseconds since 1 ns before the first look; 0 when nothing is
	again          int64 // the second in which it is to be told of again; 0 when it is not
	drops          uint32
	ended          bool
}

// A reference is to a record, as long as its number still has this position.
type reference struct {
	position uint64
	number   uint32
}

// A glimpse is a record as it was, with what the history knew of it and what had been taken of it before.
type glimpse struct {
	record
	number uint32
	before told
	key    string
	name   string
}

// maxWait is for how long something may be left before it is told of again: it bounds how many references there are to
// flows that have ended meanwhile.
const maxWait = 30 * time.Second

// A Change is a flow as it is now, and what passed in it that was not taken yet. It must not be kept.
type Change struct {
	// Flow is unique in this process; flows seen later have larger ones.
	Flow int64
	// PodKey is empty for a pod of which no process was ever seen here.
	PodKey string
	// Local is the pod's end; Translated is what the node made of Peer, not valid when there was no translation. Ports are
	// as in v1alpha1.Flow.
	Local, Peer, Translated netip.AddrPort
	Protocol                uint8
	Direction               v1alpha1.Direction
	Start, Last             time.Time
	Ended                   bool
	Verdict                 v1alpha1.Verdict
	DropReason              string
	// Flags of TCP, by direction, since the flow began.
	Flags     [2]uint8
	Handshake time.Duration
	// PeerName is the name under which the pod looked up the peer; empty when it did not.
	PeerName string

	// What was not taken yet: received and transmitted, and dropped.
	Packets, Bytes [2]int64
	Dropped        int64
	// Since is when the first of it was seen, by the clock of the looks.
	Since time.Time
}

// Watch begins to watch: all that has passed in flows that are there already is taken. The caller closes it.
func (c *Collector) Watch() (*Watch, error) {
	if err := c.refresh(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.history == nil {
		return nil, errClosed
	}
	records := len(c.history.records)
	size := records * int(unsafe.Sizeof(told{}))
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes to watch flows: %w", size, err)
	}
	w := &Watch{
		collector: c, memory: memory, told: unsafe.Slice((*told)(unsafe.Pointer(unsafe.SliceData(memory))), records),
		revision: c.history.revision, news: c.news, later: map[int64][]reference{},
	}
	for number := c.history.all.first; number != nowhere; number = c.history.records[number].links[byPosition].after {
		w.told[number].take(&c.history.records[number])
	}
	c.watches = append(c.watches, w)
	return w, nil
}

// Close ends it.
func (w *Watch) Close() {
	w.collector.mu.Lock()
	defer w.collector.mu.Unlock()
	for i, other := range w.collector.watches {
		if other == w {
			w.collector.watches = append(w.collector.watches[:i:i], w.collector.watches[i+1:]...)
			_ = unix.Munmap(w.memory)
			w.memory, w.told = nil, nil
			return
		}
	}
}

// Wait returns when there may be more than the last look has told of, but not before the pause: while others follow
// flows there is something new every moment. It returns at once when changed is closed or the context ends.
func (w *Watch) Wait(ctx context.Context, changed <-chan struct{}, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	news, paused := w.news, timer.C
	for news != nil || paused != nil {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			return
		case <-news:
			news = nil
		case <-paused:
			paused = nil
		}
	}
}

// Refresh brings the history up to date, if that was not done within the last second.
func (w *Watch) Refresh() error { return w.collector.refresh() }

// Lost counts flows that left the history before everything of them was taken, of whatever pod, and those of which
// only the end was not.
func (w *Watch) Lost() (flows, ends int64) {
	w.collector.mu.Lock()
	defer w.collector.mu.Unlock()
	return w.lost, w.endless
}

// Live says whether a pod has a live process on this node.
func (w *Watch) Live(key string) bool {
	w.collector.mu.Lock()
	defer w.collector.mu.Unlock()
	place, ok := w.collector.pods.byNumber[headers.PodNumber(key)]
	return ok && w.collector.pods.places[place].live
}

// Look tells of flows in which something has passed, or that have ended, since that was last taken. visit takes it by
// the zero time. With another one it leaves it, and is told again in the first look after that time, after half a
// minute, or when the flow has ended, whichever is first. Nothing is locked while visit runs.
func (w *Watch) Look(now time.Time, visit func(*Change) (again time.Time)) error {
	return w.look(now, w.second(now), visit)
}

// LookAtAll is Look for everything that was left, too, whatever time visit gave.
func (w *Watch) LookAtAll(now time.Time, visit func(*Change) (again time.Time)) error {
	return w.look(now, 1<<62, visit)
}

// passed is how long ago the first look was.
func (w *Watch) passed(now time.Time) time.Duration {
	if w.began.IsZero() {
		w.began = now
	}
	return max(0, now.Sub(w.began))
}

func (w *Watch) second(now time.Time) int64 { return int64(w.passed(now) / time.Second) }

// look tells what has changed and what was to be told of again up to the second until.
func (w *Watch) look(now time.Time, until int64, visit func(*Change) time.Time) error {
	var due []reference
	for second, references := range w.later {
		if second <= until {
			due = append(due, references...)
			delete(w.later, second)
		}
	}
	target := uint64(0)
	for more := true; more; {
		clock, err := w.collect(func(h *history) {
			if target == 0 {
				target, w.news = h.revision, w.collector.news
			}
			more = w.nextChanged(h, target, until)
		})
		if err != nil {
			return err
		}
		w.tell(now, clock, visit)
	}
	for len(due) > 0 {
		clock, err := w.collect(func(h *history) { due = w.nextDue(h, due, until) })
		if err != nil {
			return err
		}
		w.tell(now, clock, visit)
	}
	return nil
}

// collect runs gather while the history is locked.
func (w *Watch) collect(gather func(*history)) (clock int64, err error) {
	w.found = w.found[:0]
	w.collector.mu.Lock()
	defer w.collector.mu.Unlock()
	if w.collector.history == nil {
		return 0, errClosed
	}
	gather(w.collector.history)
	return w.collector.clock, nil
}

// nextChanged takes along some records that changed up to the revision target, and says whether there are more.
func (w *Watch) nextChanged(h *history, target uint64, until int64) bool {
	for range lookAt {
		number, ok := h.afterRevision(w.revision, &w.at)
		if !ok || h.records[number].revision > target {
			w.revision = target
			return false
		}
		w.revision = h.records[number].revision
		if w.told[number].again <= until || h.records[number].state&active == 0 {
			w.glimpse(number)
		}
		if len(w.found) == find {
			break
		}
	}
	return true
}

// nextDue takes along some of the records that are due, and gives back the rest of them.
func (w *Watch) nextDue(h *history, due []reference, until int64) []reference {
	n := min(len(due), find)
	for _, r := range due[:n] {
		if h.records[r.number].position == r.position && w.told[r.number].again <= until {
			w.glimpse(r.number)
		}
	}
	return due[n:]
}

// glimpse takes a record along, if there is something to tell of it, and notes all of it as taken.
func (w *Watch) glimpse(number uint32) {
	r, t := &w.collector.history.records[number], &w.told[number]
	if !t.behind(r) {
		return
	}
	pod := w.collector.pods.places[r.pod]
	w.found = append(w.found, glimpse{record: *r, number: number, before: *t, key: pod.key, name: w.collector.names.texts[r.name]})
	t.take(r)
}

// take notes all of a record as taken.
func (t *told) take(r *record) {
	*t = told{packets: r.packets, bytes: r.bytes, drops: r.drops, ended: r.state&active == 0}
}

// behind says whether not all of a record was taken.
func (t *told) behind(r *record) bool {
	return t.differs(r) || !t.ended && r.state&active == 0
}

func (t *told) differs(r *record) bool {
	return t.packets != r.packets || t.bytes != r.bytes || t.drops != r.drops
}

// tell shows what was taken along to visit, and puts back what it leaves.
func (w *Watch) tell(now time.Time, clock int64, visit func(*Change) time.Time) {
	left := w.found[:0]
	for i := range w.found {
		g := &w.found[i]
		if g.before.since == 0 {
			g.before.since = int64(w.passed(now)) + 1
		}
		w.describe(g, clock)
		again := visit(&w.change)
		if again.IsZero() {
			continue
		}
		wait := min(max(again.Sub(now), 0), maxWait)
		g.before.again = w.second(now.Add(wait)) + 1
		left = append(left, *g)
	}
	w.putBack(left)
}

func (w *Watch) putBack(left []glimpse) {
	w.collector.mu.Lock()
	defer w.collector.mu.Unlock()
	for i := range left {
		g := &left[i]
		if w.collector.history == nil || w.collector.history.records[g.number].position != g.position {
			w.lost++ // it was taken for granted that it would be taken
			continue
		}
		w.told[g.number] = g.before
		w.later[g.before.again] = append(w.later[g.before.again], reference{g.position, g.number})
	}
}

// describe fills in the change.
func (w *Watch) describe(g *glimpse, clock int64) {
	r := &g.record
	end := func(address [16]byte, port [2]byte) netip.AddrPort {
		return netip.AddrPortFrom(r.address(address), binary.BigEndian.Uint16(port[:]))
	}
	c := &w.change
	*c = Change{
		Flow: int64(r.position), PodKey: g.key, Local: end(r.local, r.localPort), Peer: end(r.remote, r.remotePort),
		Protocol: uint8(r.protocol), Direction: r.direction(), Start: time.Unix(0, int64(r.first)+clock), Last: time.Unix(0, int64(r.last)+clock),
		Ended: r.state&active == 0, Verdict: r.verdict(), Flags: r.flags, Handshake: time.Duration(r.handshake) * time.Microsecond,
		PeerName: g.name, Dropped: int64(r.drops - g.before.drops), Since: w.began.Add(time.Duration(g.before.since - 1)),
	}
	for i := range c.Packets {
		c.Packets[i], c.Bytes[i] = int64(r.packets[i]-g.before.packets[i]), int64(r.bytes[i]-g.before.bytes[i])
	}
	if r.translated != [16]byte{} {
		c.Translated = end(r.translated, r.translatedPort)
	}
	if r.drops > 0 {
		c.DropReason, _ = w.collector.reason(r.reason)
	}
}

// begun is for a new record, of which nothing was taken yet.
func (w *Watch) begun(number uint32) { w.told[number] = told{} }

// resumed is for a new record of a flow of which there was one at the last drain: most likely it was taken.
func (w *Watch) resumed(number uint32, f *headers.Flow) {
	w.told[number] = told{
		packets: [2]uint64{f.Receive.Packets, f.Transmit.Packets}, bytes: [2]uint64{f.Receive.Bytes, f.Transmit.Bytes}, drops: f.Drops,
	}
}

// removed is for a record that leaves the history.
func (w *Watch) removed(number uint32, r *record) {
	t := &w.told[number]
	if t.differs(r) {
		w.lost++
	} else if !t.ended {
		w.endless++
	}
}

// HasPorts says whether flows of a protocol have ports. Those of ICMP and ICMPv6 have other numbers in their place.
func HasPorts(protocol uint8) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		return true
	}
	return false
}
