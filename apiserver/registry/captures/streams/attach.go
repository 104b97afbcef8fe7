package streams

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// lookEvery is how often a live stream looks for nodes that join and for the end of the capture.
	lookEvery = time.Second
	// targetPatience is how long a part may be of a target that nobody knows: its pod may have just come.
	targetPatience, targetRetry = 10 * time.Second, 200 * time.Millisecond
)

// serveLive answers with packets as they come, from the beginning of the capture until its end.
func (s *session) serveLive(ctx context.Context, out *output) error {
	if s.capture.ended() {
		if err := s.recorded(); err != nil {
			return err
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	ended, done := make(chan struct{}), make(chan struct{})
	m := &merge{clock: s.streams.Clock, window: s.streams.Window, events: make(chan event), done: done, maxCaptured: s.capture.header.SnapLength}
	f := s.feeder(m.events)
	f.request.Follow, f.ended = true, ended
	d := &director{session: s, feeder: f, ended: ended, end: end, known: map[target]bool{}, followed: map[string]bool{}}
	f.holds = d.holds
	to := &liveSink{session: s, ctx: ctx, out: out, director: d, named: map[netip.Addr]bool{}}
	m.sink = to

	out.begin = setHeaders
	if err := errors.Join(out.write(pcapfile.AppendSection(nil, s.header())), out.flush()); err != nil {
		end(nil)
		return err
	}
	var directing sync.WaitGroup
	defer directing.Wait()
	defer end(nil)
	directing.Go(func() { defer close(done); d.run(ctx) })

	failure := m.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[clientError](failure); ok {
		return failure
	}
	// What there is of statistics is told also when a node has failed.
	return errors.Join(failure, to.finish(m.inputs, failure))
}

// recorded fails when the capture, which has ended, is known to have nothing of what the request is narrowed to. A file of nothing
// would have no interface, which tcpdump refuses.
func (s *session) recorded() error {
	if s.options.Node != "" {
		if _, ok := s.capture.nodes()[s.options.Node]; !ok {
			return s.noPart()
		}
	}
	if targets, all := s.capture.targets(); s.options.Pod != "" && all {
		for t := range targets {
			if t.namespace == s.capture.podNamespace(s.options) && t.pod == s.options.Pod {
				return nil
			}
		}
		return s.nothingOfPod()
	}
	return nil
}

// header is that of a live file.
func (s *session) header() pcapfile.Header {
	return s.capture.narrowed(s.options, s.options.HeadersOnly)
}

// A director finds the nodes that are to be followed, and the end.
type director struct {
	*session
	feeder *feeder
	ended  chan struct{}
	end    context.CancelCauseFunc

	// followed and following belong to run. open counts the nodes that have not ended.
	followed  map[string]bool
	following sync.WaitGroup
	open      atomic.Int64

	mu sync.Mutex
	// latest is the capture as it was last seen, known are all targets that it ever had.
	latest *capture
	known  map[target]bool
}

// run returns when every node that was followed has ended, after the capture has.
func (d *director) run(ctx context.Context) {
	defer d.following.Wait()
	for {
		c, err := d.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errDeleted) && len(d.followed) > 0 && d.open.Load() == 0:
			// It had ended, and went before that was seen: everything has been read.
			close(d.ended)
			return
		case errors.Is(err, errDeleted):
			d.end(err)
			return
		}
		if c != nil && c.startsIn(d.streams.Clock.Now()) <= 0 {
			if err := d.follow(ctx, c); err != nil {
				d.end(err)
				return
			}
		}
		if c != nil && c.ended() {
			close(d.ended)
			return
		}
		d.rest(ctx, c)
	}
}

// rest waits until it is time to look again.
func (d *director) rest(ctx context.Context, c *capture) {
	pause := lookEvery
	if c != nil {
		if starts := c.startsIn(d.streams.Clock.Now()); starts > 0 {
			pause = min(starts, pause)
		}
	}
	timer := d.streams.Clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
	}
}

// look gets the capture and notes its targets.
func (d *director) look(ctx context.Context) (*capture, error) {
	c, err := d.load(ctx)
	if err != nil {
		return nil, err
	}
	targets, _ := c.targets()
	matches, _ := d.matches(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latest = c
	for t := range targets {
		d.known[t] = true
	}
	for _, t := range matches {
		d.known[t] = true
	}
	return c, nil
}

func (d *director) matches(c *capture) ([]target, error) {
	if c.ended() {
		return nil, nil
	}
	matches, err := d.streams.Matches(c.object)
	if err != nil {
		return nil, err
	}
	targets := make([]target, len(matches))
	for i, match := range matches {
		targets[i] = target{match.Node, match.Namespace, match.Pod}
	}
	return targets, nil
}

// follow begins to follow nodes that are not yet followed.
func (d *director) follow(ctx context.Context, c *capture) error {
	for _, node := range d.wanted(c) {
		if d.followed[node] {
			continue
		}
		giveBack, err := d.streams.limits.take(1, 1)
		if err != nil {
			return fmt.Errorf("following another node: %w", err)
		}
		d.followed[node] = true
		d.open.Add(1)
		d.following.Go(func() {
			defer giveBack()
			defer d.open.Add(-1)
			d.feeder.follow(ctx, newInput(node, 1))
		})
	}
	return nil
}

// wanted are the nodes that may have packets, now or soon.
func (d *director) wanted(c *capture) []string {
	if d.options.Node != "" {
		return []string{d.options.Node}
	}
	nodes := c.nodes()
	matches, _ := d.matches(c)
	for _, t := range matches {
		nodes[t.node] = true
	}
	wanted := make([]string, 0, len(nodes))
	for node := range nodes {
		wanted = append(wanted, node)
	}
	slices.Sort(wanted)
	return wanted
}

// holds is whether a node was seen to record.
func (d *director) holds(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.latest != nil && d.latest.nodes()[node]
}

// await is whether a target belongs to the capture. It waits for one that is not known yet.
func (d *director) await(ctx context.Context, t target) bool {
	if !d.capture.mayHave(t) {
		return false
	}
	for waited := time.Duration(0); ; waited += targetRetry {
		if d.knows(t) {
			return true
		}
		if _, err := d.look(ctx); err == nil && d.knows(t) {
			return true
		}
		if waited >= targetPatience {
			return false
		}
		timer := d.streams.Clock.NewTimer(targetRetry)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

func (d *director) knows(t target) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.latest != nil && d.latest.status.OmittedTargets > 0 && d.latest.ended() {
		return true // Rows do not name all of them, and what matches now says nothing of then.
	}
	return d.known[t]
}

// A liveSink writes a file whose interfaces, names and end are not known before.
type liveSink struct {
	*session
	ctx      context.Context
	out      *output
	director *director

	interfaces []liveInterface
	// named are the addresses that occurred. No more are named than pcapfile.MaxAddresses.
	named map[netip.Addr]bool
}

type liveInterface struct {
	node string
	part *agentv1.CapturePart
}

var _ sink = &liveSink{}

// parts implements sink.
func (l *liveSink) parts(from *input, parts []*agentv1.CapturePart) error {
	for _, part := range parts {
		if !l.shows(part) {
			continue
		}
		if number, ok := from.numberOf(part.Number); ok {
			if was := &l.interfaces[number]; targetOf(from.node, was.part) != targetOf(from.node, part) || was.part.Interface != part.Interface {
				return from.violates("part %d is another than before", part.Number)
			}
			l.interfaces[number].part = part
			continue
		}
		if err := l.join(from, part); err != nil {
			return err
		}
	}
	return nil
}

// join gives a part an interface in the file.
func (l *liveSink) join(from *input, part *agentv1.CapturePart) error {
	t := targetOf(from.node, part)
	switch {
	case part.Number >= pcapfile.MaxInterfaces || len(l.interfaces) >= pcapfile.MaxInterfaces:
		return from.violates("part %d is one too many", part.Number)
	case !l.director.await(l.ctx, t):
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		return from.violates("packets of %v, which is no target of the capture", t)
	}
	from.number(part.Number, uint32(len(l.interfaces)))
	l.interfaces = append(l.interfaces, liveInterface{from.node, part})
	return l.out.write(pcapfile.AppendInterface(nil, l.header(), from.node, part))
}

// packets implements sink.
func (l *liveSink) packets(run []byte) error { return l.out.write(run) }

// before implements sink: names come before the first packet of their address.
func (l *liveSink) before(packet pcapng.Packet) []byte {
	source, destination, ok := addressesOf(packet.Data())
	if !ok || l.named[source] && l.named[destination] || len(l.named) >= pcapfile.MaxAddresses {
		return nil
	}
	var names pcapfile.Names
	for _, address := range []netip.Addr{source, destination} {
		if !l.named[address] {
			l.named[address] = true
			names.Add([]*agentv1.CaptureName{{Address: address.AsSlice(), Names: l.streams.Names(address)}})
		}
	}
	return pcapfile.AppendNames(nil, names.Sorted())
}

// idle implements sink.
func (l *liveSink) idle() error { return l.out.flush() }

// finish writes the statistics, and fails where a node sent less than it recorded.
func (l *liveSink) finish(inputs []*input, failure error) error {
	var missing error
	for _, in := range inputs {
		if in.final == nil || failure != nil {
			continue
		}
		if want := l.packetsOf(in.final); l.capture.settings.Ring == nil && in.received != want {
			missing = in.violates("%d packets came, where %d were recorded", in.received, want)
		}
	}
	final := map[string]bool{}
	for _, in := range inputs {
		final[in.node] = in.final != nil
	}
	for number, i := range l.interfaces {
		block := pcapfile.AppendStatistics(nil, uint32(number), i.part)
		if !final[i.node] {
			block = pcapng.AppendStatistics(nil, uint32(number), pcapng.Statistics{
				Time: l.streams.Clock.Now().UnixNano(), Start: i.part.StartUnixNano,
				Received: -1, Dropped: -1, FilterAccepted: -1, DroppedByOS: -1, Delivered: -1,
				Comment: "incomplete: the node stopped answering",
			})
		}
		if err := l.out.write(block); err != nil {
			return err
		}
	}
	return errors.Join(missing, l.out.drain())
}
