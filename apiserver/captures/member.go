package captures

import (
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A member is a node that takes part in a capture, or may.
type member struct {
	node string
	// recorded says that the node was seen to record.
	recorded bool
	// state is what it said last, nil when it said nothing to this leader. It is shared and not changed.
	state *agentv1.CaptureState
	// absences are answers, one after the other, that did not know of the capture.
	absences int
	// lost: what was recorded is gone. absent: nothing was. gaveUp: it did not answer for too long.
	lost, absent, gaveUp bool

	// reached says that a call may have got through, refused that the agent does not take the capture; trouble is why it was
	// not seen to record.
	reached, refused bool
	trouble          error

	// busy says that a call is under way.
	busy bool
	// err is why the last call failed, since when calls do, how often, and when to try again.
	err      error
	kind     failure
	errSince time.Time
	failures int
	retryAt  time.Time

	// What the node was told last: the revision, whether it answered, when, and what (all of it, and without peers).
	told             bool
	revision         int64
	answered         time.Time
	whole, withPeers uint64
	peersAt          time.Time

	packets, bytes memberShare
	// storeAt is when to try again to have the node copy what it recorded, storing why it could not be told to. uncopied is why it is
	// no longer waited for.
	storeAt  time.Time
	storing  trouble
	uncopied error
	// sealAt is when to try again to seal what it recorded, sealing why that failed. Lists are answered all the same.
	sealAt  time.Time
	sealing trouble
	// missing are targets that are missed there, by their keys.
	missing map[string]missed
}

// missed is what an agent could not record of a target, as one of its interfaces, or all of it.
type missed struct {
	*agentv1.CaptureMissing
	since time.Time
	// partly: other interfaces of the target were recorded when the agent said so.
	partly bool
}

// A trouble is an error of calls of one kind, the last of them, and since when there are no others.
type trouble struct {
	err   error
	since time.Time
}

// note takes over how a call ended.
func (t *trouble) note(err error, now time.Time) {
	if t.err == nil || err == nil {
		t.since = now
	}
	t.err = err
}

// A memberShare is a node's share of one limit.
type memberShare struct {
	share
	// written is the lease in the object that was written last, sent what the node was last told.
	written, sent int64
	// drops is how many packets had been dropped by limits when the node first had its present share; -1 before.
	drops int64
}

// failure is the kind of an error of a call, as far as it matters here.
type failure int

const (
	failedSilent       failure = iota // no answer, or none that says more
	failedNoAgent                     // no agent on this node
	failedPrecondition                // told something later, deleted, or switched off
	failedInvalid                     // will never be taken
	failedUnknown                     // the agent does not know the capture
)

func (s *memberShare) adopt(lease int64) {
	s.set(lease)
	s.written, s.sent, s.drops = 0, none, none
}

func (m *machine) member(node string) *member {
	mem := m.members[node]
	if mem == nil {
		mem = &member{node: node, missing: map[string]missed{}}
		mem.packets.adopt(0)
		mem.bytes.adopt(0)
		m.members[node] = mem
	}
	return mem
}

// unknown notes that the node does not know of the capture. A list may be older than the call that began it, so it takes
// two.
func (mem *member) unknown() {
	if mem.absences++; mem.absences < 2 {
		return
	}
	if mem.recorded {
		mem.lost = true
	} else {
		mem.absent = true
	}
}

// noteMissing takes over what an agent misses while it records. When it has ended it misses nothing, and what it missed last stays.
func (mem *member) noteMissing(now time.Time) {
	if mem.ended() {
		return
	}
	missing := make(map[string]missed, len(mem.state.Missing))
	recorded := map[string]bool{}
	if len(mem.state.Missing) > 0 {
		for _, part := range mem.state.Parts {
			recorded[part.Key] = true
		}
	}
	for _, one := range mem.state.Missing {
		since := now
		if before, ok := mem.missing[one.Target.GetKey()]; ok {
			since = before.since
		}
		missing[one.Target.GetKey()] = missed{one, since, recorded[one.Target.GetKey()]}
	}
	mem.missing = missing
}

func ended(state *agentv1.CaptureState) bool {
	return state != nil && state.Phase == agentv1.CaptureState_PHASE_ENDED
}

func (mem *member) ended() bool   { return ended(mem.state) }
func (mem *member) running() bool { return mem.state != nil && !ended(mem.state) }
func (mem *member) sealed() bool  { return mem.state != nil && mem.state.Sealed }

// settled: nothing about its recording will change, whatever is done.
func (mem *member) settled() bool { return mem.sealed() || mem.lost || mem.absent || mem.gaveUp }
