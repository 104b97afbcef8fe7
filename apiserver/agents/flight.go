package agents

import (
	"context"
	"slices"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// shareFor is how long after it began a flight still answers reads.
	shareFor = time.Second
	// flightsPerNode bounds the calls under way at one agent. An agent allows 8, from all replicas together.
	flightsPerNode = 2
)

// asked is a Query as a set, with unusable and repeated keys left out.
type asked struct {
	keys map[string]struct{}
	node bool
	// ahead are keys to read with the others if a call has to be made, as far as they fit into it.
	ahead []string
	// apiServers are told to the agent with the question; they are no part of it.
	apiServers []string
}

// covers says that an answer to a answers b too.
func (a asked) covers(b asked) bool {
	if b.node && !a.node || len(b.keys) > len(a.keys) {
		return false
	}
	for key := range b.keys {
		if _, ok := a.keys[key]; !ok {
			return false
		}
	}
	return true
}

// add makes a cover b, and what b wants to be read ahead.
func (a *asked) add(b asked) {
	a.node = a.node || b.node
	for key := range b.keys {
		a.keys[key] = struct{}{}
	}
	for _, key := range b.ahead {
		if len(a.keys) >= agentv1.MaxPodKeys {
			return
		}
		if usableKey(key) {
			a.keys[key] = struct{}{}
		}
	}
}

// flight is one call for one or more readers.
type flight struct {
	asked   asked
	readers int
	began   time.Time
	// width does not change once the flight has begun.
	width width

	// done is closed when reply is set; reply is not written after.
	done  chan struct{}
	reply Reply

	// cancel ends the call; nil before it begins.
	cancel context.CancelFunc
}

// flights decides which reads of one node share a call. It does no I/O and takes the time as an argument; the
// caller makes the calls. Zero value ready; not safe for concurrent use.
type flights struct {
	// waiting has not begun, and takes more keys.
	waiting *flight
	// running are under way.
	running []*flight
	// kept is the latest answer, for as long as it is young enough to be shared.
	kept *flight
}

// join gives the flight that will answer a read, and whether one that exists already does.
func (s *flights) join(now time.Time, want asked) (f *flight, shared bool) {
	s.expire(now)
	if s.kept != nil && s.kept.asked.covers(want) {
		s.kept.readers++
		return s.kept, true
	}
	for _, f := range s.running {
		// What a slow agent read may be as old as its flight.
		if now.Sub(f.began) <= shareFor && f.asked.covers(want) {
			f.readers++
			return f, true
		}
	}
	if s.waiting != nil {
		s.waiting.asked.add(want)
		s.waiting.readers++
		return s.waiting, true
	}
	own := asked{keys: make(map[string]struct{}, len(want.keys))}
	own.add(want)
	s.waiting = &flight{asked: own, readers: 1, done: make(chan struct{})}
	return s.waiting, false
}

// leave notes that a reader no longer waits. It says whether the flight should now be cancelled; a flight that
// has not begun is forgotten.
func (s *flights) leave(f *flight) (cancel bool) {
	f.readers--
	if f.readers > 0 {
		return false
	}
	if s.waiting == f {
		s.waiting = nil
	}
	// No one may join a flight that is being cancelled.
	before := len(s.running)
	s.drop(f)
	return len(s.running) < before
}

// begin takes the waiting flight, if there is one and it may begin.
func (s *flights) begin(now time.Time) *flight {
	if s.waiting == nil || len(s.running) >= flightsPerNode {
		return nil
	}
	f := s.waiting
	s.waiting = nil
	f.began = now
	s.running = append(s.running, f)
	return f
}

// end notes the answer of a flight.
func (s *flights) end(f *flight, reply Reply) {
	s.drop(f)
	f.reply = reply
	if reply.Err == nil && (s.kept == nil || !f.began.Before(s.kept.began)) {
		s.kept = f
	}
}

// expire forgets an answer that is too old to be shared.
func (s *flights) expire(now time.Time) {
	if s.kept == nil {
		return
	}
	// A clock that stepped back must not keep an answer for long.
	if age := now.Sub(s.kept.began); age < 0 || age > shareFor {
		s.kept = nil
	}
}

func (s *flights) drop(f *flight) {
	s.running = slices.DeleteFunc(s.running, func(g *flight) bool { return g == f })
}

// part is what of a reply belongs to a reader that asked for want. Rows are shared, the map is the reader's
// own where it differs.
func part(reply Reply, of, want asked) Reply {
	if reply.Err != nil {
		return Reply{Err: reply.Err}
	}
	if !want.node {
		reply.Node = nil
	}
	if len(of.keys) == len(want.keys) {
		return reply
	}
	pods := make(map[string]*agentv1.PodStats, len(want.keys))
	for key := range want.keys {
		if row, ok := reply.Pods[key]; ok {
			pods[key] = row
		}
	}
	reply.Pods = pods
	return reply
}
