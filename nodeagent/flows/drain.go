package flows

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

const (
	// deletions is how many idle flows a drain takes out at most. The others wait for the next one.
	deletions = 50_000
	// expiries is how many records a drain forgets at most because of their age: fewer than followers can be told of.
	expiries = remembered / 2
	// lookups is how many flows a drain asks conntrack about at most.
	lookups = 2000
	// drainSlack is how much later than its first packet a flow may come into the table.
	drainSlack = uint64(50 * time.Millisecond)
)

// A sweep is one drain under way.
type sweep struct {
	now      uint64 // when it began
	previous uint64 // when the one before began; 0 when this is the first of this agent
	former   uint64 // when the last one of the former agent began, if this is the first
	first    bool
	present  [families]int
	deleted  int
	seen     int // of the records that are active
	ask      []question
}

// A question is a flow of which conntrack is asked.
type question struct {
	key
	number   uint32
	position uint64
}

// drain brings the history up to date with the kernel's tables. An error leaves what was read valid. It is for
// drainUnless to call.
func (c *Collector) drain() error {
	// Before the tables: a flow that begins meanwhile may then be present and not yet created, but never the other way
	// round, which would look like an eviction.
	counts, err := readCounts(c.counts)
	if err != nil {
		return err
	}
	s := &c.sweep
	now := monotonic()
	clock := time.Now().UnixNano() - int64(now)
	*s = sweep{now: now, previous: c.ledgerNode.Drained, first: c.drains == 0, ask: s.ask[:0]}
	if s.first {
		s.former, s.previous = s.previous, 0
	}
	c.mu.Lock()
	c.generation++
	c.hand = c.history.live.first
	c.setClock(clock)
	c.mu.Unlock()
	err = errors.Join(drainTable(c, c.flows4, keyOf4), drainTable(c, c.flows6, keyOf6))
	if err != nil {
		return err
	}
	c.translate(s.ask)
	return c.conclude(s, counts)
}

// drainTable looks at every flow of a table and takes idle ones out.
func drainTable[K comparable](c *Collector, t *table[K], keyOf func(*Collector, *K) key) error {
	return t.scan(func(keys []K, values []headers.Flow) error {
		idle := c.observeAll(len(keys), func(i int) (key, *headers.Flow) { return keyOf(c, &keys[i]), &values[i] })
		for n, i := range idle {
			there, err := t.take(&keys[i], &t.taken[n])
			if err != nil {
				return err
			}
			if !there {
				t.taken[n] = headers.Flow{}
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for n, i := range idle {
			k := keyOf(c, &keys[i])
			c.finish(&k, &t.taken[n])
		}
		return nil
	})
}

// observeAll brings the records of a batch up to date, and says which flows to take out.
func (c *Collector) observeAll(n int, flow func(int) (key, *headers.Flow)) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	idleOnes := c.idle[:0]
	for i := range n {
		k, f := flow(i)
		c.sweep.present[k.family()]++
		c.observe(&k, f)
		if idle(k.protocol, f, c.sweep.now) && c.sweep.deleted < deletions {
			c.sweep.deleted++
			idleOnes = append(idleOnes, i)
		}
	}
	c.idle = idleOnes
	return idleOnes
}

// observe brings the record of a flow up to date, or makes one.
func (c *Collector) observe(k *key, f *headers.Flow) {
	h, s := c.history, &c.sweep
	number, ok := h.find(k)
	if ok {
		r := &h.records[number]
		if r.first == f.First && r.packets[0] <= f.Receive.Packets && r.packets[1] <= f.Transmit.Packets {
			if r.generation != c.generation {
				r.generation = c.generation
				s.seen++
			}
			c.update(number, f)
			return
		}
		// Pushed out, and begun anew.
		if r.generation == c.generation {
			s.seen--
		}
		c.endRecord(number)
	}
	number, ok = c.makeRecord(k)
	p := c.pods.places[k.pod]
	grown := amountOf(f)
	if c.drains <= c.pushed && f.First+drainSlack < s.previous {
		// It was there at the last drain, but its record had to make room meanwhile, and was taken to have ended.
		p.entry.Present.add(grown)
		if ok {
			for _, w := range c.watches {
				w.resumed(number, f)
			}
		}
	} else {
		p.seen(grown, f.First > s.former, s.first)
	}
	if !ok {
		c.unrecorded++
		p.entry.Present.subtract(grown)
		return
	}
	p.records++
	s.seen++
	r := &h.records[number]
	r.generation, r.first = c.generation, f.First
	r.state |= (f.BegunByTransmit & 1) * begunByTransmit
	c.fill(r, f)
	c.askName(r)
	if k.protocol != unix.IPPROTO_TCP && k.protocol != unix.IPPROTO_UDP {
		r.state |= asked
	}
	c.askLater(number)
}

// update brings an active record up to date.
func (c *Collector) update(number uint32, f *headers.Flow) {
	r := &c.history.records[number]
	c.askLater(number)
	if !c.askName(r) && r.same(f) {
		return
	}
	grown := amountOf(f)
	grown.subtract(r.amount())
	c.pods.places[r.pod].seen(grown, false, c.sweep.first)
	c.fill(r, f)
	c.changed(number)
}

// same says that nothing has changed since fill.
func (r *record) same(f *headers.Flow) bool {
	return r.packets[0] == f.Receive.Packets && r.packets[1] == f.Transmit.Packets && r.last == lastOf(f) &&
		r.drops == f.Drops && r.flags == f.Flags && r.handshake == f.HandshakeMicroseconds &&
		(f.Rejected == 0 || r.verdict() == v1alpha1.Verdict_VERDICT_REJECTED)
}

// changed gives a record a new revision.
func (c *Collector) changed(number uint32) {
	c.pass(number)
	c.history.changed(number)
}

// pass keeps the hand of makeRoom on a record that stays where it is.
func (c *Collector) pass(number uint32) {
	if c.hand == number {
		c.hand = c.history.records[number].links[byRevision].after
	}
}

// fill writes the kernel's values to a record.
func (c *Collector) fill(r *record, f *headers.Flow) {
	r.packets = [2]uint64{f.Receive.Packets, f.Transmit.Packets}
	r.bytes = [2]uint64{f.Receive.Bytes, f.Transmit.Bytes}
	r.last, r.drops, r.reason, r.flags, r.handshake = lastOf(f), f.Drops, f.DropReason, f.Flags, f.HandshakeMicroseconds
	class := v1alpha1.Drop_CLASS_UNSPECIFIED
	if f.Drops > 0 {
		_, class = c.reason(f.DropReason)
	}
	r.state = r.state&^verdictBits | uint8(verdict(r.protocol, f, class))
}

// askName asks under which name the pod knows the peer, a few times at most, and says whether it has one now that it
// had not before.
func (c *Collector) askName(r *record) bool {
	if c.config.PeerName == nil || r.name != 0 || r.state/nameTry >= nameTries {
		return false
	}
	r.state += nameTry
	r.name = c.names.take(c.config.PeerName(c.pods.places[r.pod].number, netip.AddrFrom16(r.remote).Unmap()))
	return r.name != 0
}

// askLater remembers that conntrack has to be asked about a flow.
func (c *Collector) askLater(number uint32) {
	r := &c.history.records[number]
	if r.state&asked == 0 && len(c.sweep.ask) < lookups {
		c.sweep.ask = append(c.sweep.ask, question{key: r.key, number: number, position: r.position})
	}
}

// finish ends the record of a flow that was taken out with these last values, none if the kernel was faster.
func (c *Collector) finish(k *key, last *headers.Flow) {
	h := c.history
	number, ok := h.find(k)
	if !ok {
		return
	}
	if r := &h.records[number]; last.First == r.first && last.First != 0 {
		c.update(number, last)
		c.ledgerNode.Deleted++
		c.sweep.present[k.family()]--
	} else if last.First != 0 { // another flow of the same key had come meanwhile
		c.pods.places[k.pod].entry.Total.add(amountOf(last))
		c.ledgerNode.Deleted++
		c.sweep.present[k.family()]--
	}
	c.sweep.seen--
	c.endRecord(number)
}

// endRecord ends a record whose flow is no longer in the kernel's table. Its total stands as last seen.
func (c *Collector) endRecord(number uint32) {
	r := &c.history.records[number]
	c.pass(number)
	c.pods.places[r.pod].entry.Present.subtract(r.amount())
	c.history.end(number)
}

// makeRecord makes a record and room for it.
func (c *Collector) makeRecord(k *key) (uint32, bool) {
	h := c.history
	switch {
	case !h.full():
	case h.ended.first != nowhere:
		c.removeRecord(h.ended.first)
	case !c.makeRoom():
		return 0, false
	}
	number := h.add(k)
	for _, w := range c.watches {
		w.begun(number)
	}
	return number, true
}

// makeRoom ends and removes the active record that changed longest ago of those that this drain has not seen yet. Most
// likely the kernel has pushed it out: there are more records than flows that fit into its tables.
func (c *Collector) makeRoom() bool {
	h := c.history
	for c.hand != nowhere && (h.records[c.hand].generation == c.generation || h.records[c.hand].state&active == 0) {
		c.hand = h.records[c.hand].links[byRevision].after
	}
	if c.hand == nowhere {
		return false
	}
	number := c.hand
	c.endRecord(number)
	c.removeRecord(number)
	c.pushed = c.drains + 1
	return true
}

func (c *Collector) removeRecord(number uint32) {
	r := &c.history.records[number]
	p := c.pods.places[r.pod]
	p.records--
	for _, w := range c.watches {
		w.removed(number, r)
	}
	c.names.release(r.name)
	c.history.remove(number, p.number)
}

// conclude ends a drain: it finds what the kernel has pushed out, forgets what is old, and shows and writes down the
// totals.
func (c *Collector) conclude(s *sweep, counts headers.FlowTable) error {
	present := uint64(s.present[0] + s.present[1])
	c.mu.Lock()
	if s.seen != c.history.liveCount {
		c.endUnseen()
	}
	c.expire()
	if c.ledgerNode.Drained == 0 { // what went before there was a ledger is not known to have been pushed out
		c.ledgerNode.Deleted = counts.Created - min(counts.Created, present)
	}
	evicted := counts.Created - min(counts.Created, c.ledgerNode.Deleted+present)
	c.ledgerNode.Evicted = max(c.ledgerNode.Evicted, evicted)
	c.ledgerNode.Drained = s.now
	c.present, c.created, c.failed, c.evicted = s.present, counts.Created, counts.Failed, c.ledgerNode.Evicted
	if s.first {
		for _, p := range c.pods.places {
			if p != nil {
				p.settle()
			}
		}
	}
	c.mu.Unlock()
	err := errors.Join(c.writeLedger(), c.ledger.writeNode(&c.ledgerNode))

	c.mu.Lock()
	defer c.mu.Unlock()
	c.drains++
	c.drained = time.Now()
	for _, p := range c.pods.places {
		if p != nil {
			p.shown.raise(p.entry.Total)
		}
	}
	close(c.news)
	c.news = make(chan struct{})
	return err
}

// endUnseen ends the records of flows that were in no table.
func (c *Collector) endUnseen() {
	h := c.history
	for number := h.live.first; number != nowhere; {
		next := h.records[number].links[byRevision].after
		if h.records[number].generation != c.generation {
			c.endRecord(number)
		}
		number = next
	}
}

// expire forgets records that ended too long ago, or are too many.
func (c *Collector) expire() {
	h := c.history
	for h.count-h.liveCount > c.config.History {
		c.removeRecord(h.ended.first)
	}
	age := uint64(c.config.MaxAge)
	for n := 0; n < expiries && h.ended.first != nowhere && h.records[h.ended.first].last+age < c.sweep.now; n++ {
		c.removeRecord(h.ended.first)
	}
}

// writeLedger writes the totals that changed, and forgets pods that are gone.
func (c *Collector) writeLedger() error {
	c.mu.Lock()
	now := time.Now()
	type change struct {
		number uint64
		entry  entry
		forget bool
	}
	var changes []change
	for place, p := range c.pods.places {
		switch {
		case p == nil:
		case c.isGone(p, now):
			changes = append(changes, change{number: p.number, forget: true})
			c.pods.forget(uint32(place))
		case p.entry != p.written:
			p.written = p.entry
			changes = append(changes, change{number: p.number, entry: p.entry})
		}
	}
	c.mu.Unlock()
	var problems []error
	for i := range changes {
		if changes[i].forget {
			problems = append(problems, c.ledger.remove(changes[i].number))
		} else {
			problems = append(problems, c.ledger.write(changes[i].number, &changes[i].entry))
		}
	}
	return errors.Join(problems...)
}

// isGone says whether nothing keeps a pod: no process, no record, and that for a while.
func (c *Collector) isGone(p *pod, now time.Time) bool {
	if p.live || p.records > 0 {
		p.gone = time.Time{}
		return false
	}
	if p.gone.IsZero() {
		p.gone = now
	}
	return now.Sub(p.gone) > linger
}

func keyOf4(c *Collector, k *headers.FlowKey4) key {
	return key{
		local: netip.AddrFrom4(k.Local).As16(), remote: netip.AddrFrom4(k.Remote).As16(), pod: c.pods.place(k.Pod),
		localPort: k.LocalPort, remotePort: k.RemotePort, protocol: uint16(k.Protocol), version: 4,
	}
}

func keyOf6(c *Collector, k *headers.FlowKey6) key {
	return key{
		local: k.Local, remote: k.Remote, pod: c.pods.place(k.Pod),
		localPort: k.LocalPort, remotePort: k.RemotePort, protocol: uint16(k.Protocol), version: 6,
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, as programs see it.
func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("reading CLOCK_MONOTONIC: %v", err)) // it is always there
	}
	return uint64(t.Nano())
}
