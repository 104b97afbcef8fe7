package captures

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A share is what one node may use of a limit of all nodes together.
//
// lease is what the stored object says, and is written there before the node is told. Three rules keep all that is
// recorded below the limit, whoever leads and whatever is lost on the way:
//
//  1. The leases in the stored object never sum up to more than the limit. It is written on condition that nobody else
//     has written it since, so leaders that overlap cannot both spend the same rest.
//  2. A node is never told more than its lease in the object that this leader wrote last.
//     A write of which it is not known whether it was made makes the leader stop granting until another one succeeded.
//  3. A lease falls only when the node has said, in answer to the last request that it was sent by anybody (which the
//     revision tells), that it holds no more; or that it has ended, and what it used is final.
type share struct {
	lease int64
	// ask is what the node is told: the lease, or less to have some of it back.
	ask int64

	// What follows is filled in for apportion.

	used int64
	// held is what the node says that it holds; it counts when settled, which is when the node has answered to its last
	// request and that one said ask. keeps: it was asked for some of its lease, and still holds all.
	held           int64
	settled, keeps bool
	// live: more can be used, and the node answers. ended: nothing more will be used.
	live, ended bool
	// begun: the node records. starved: packets were dropped for want of more.
	begun, starved bool
}

func (s *share) unused() int64 { return max(s.lease-s.used, 0) }

// lowering says that the node was, or is to be, asked for some of its lease.
func (s *share) lowering() bool { return s.ask < s.lease }

// hungry is a node that will soon need more.
func (s *share) hungry() bool { return s.starved || s.lease > 0 && s.used > s.lease-s.lease/4 }

// beginning is a node that has nothing yet.
func (s *share) beginning() bool { return !s.begun && s.lease == 0 }

// set grants, or notes, a lease.
func (s *share) set(lease int64) { s.lease, s.ask = lease, lease }

// apportion takes back what nodes no longer hold, and shares out what is left of a limit. grain is what is not worth
// dividing. It says whether the limit is used up: exactly with one node, and with several at the latest when a node
// goes without and not even a sixty-fourth is left elsewhere.
func apportion(limit, grain int64, shares []*share) (exhausted bool) {
	var used int64
	rest := limit
	var live []*share
	for _, s := range shares {
		switch {
		case s.ended:
			s.set(s.used)
		case s.lowering() && s.settled:
			s.keeps = s.held >= s.lease
			s.set(max(min(s.lease, s.held), s.used))
		}
		used += s.used
		rest -= s.lease
		if s.live && !s.ended {
			live = append(live, s)
		}
	}
	if used >= limit {
		return true
	}
	rest = grant(max(rest, 0), live, len(live) == countOpen(shares))
	starving := matching(live, func(s *share) bool { return s.starved && !s.lowering() })
	beginning := matching(live, (*share).beginning)
	if rest > 0 || len(starving)+len(beginning) == 0 {
		return false
	}
	if len(starving) > 0 && len(shares) > 1 && limit-used <= limit/64 {
		return true
	}
	return !takeBack(live, grain) && len(starving) > 0 && len(matching(shares, (*share).lowering)) == 0
}

// countOpen is how many may still use something.
func countOpen(shares []*share) int {
	return len(matching(shares, func(s *share) bool { return !s.ended }))
}

// grant shares out what is left, and returns what is left then: all of it to a node that is alone or starves, and half
// of it to those that begin or will soon need more, for there may be others tomorrow.
func grant(rest int64, live []*share, all bool) int64 {
	if rest == 0 {
		return 0
	}
	if starving := matching(live, func(s *share) bool { return s.starved }); len(starving) > 0 {
		rest = divide(rest, rest, starving)
		for _, s := range starving {
			s.starved = false
		}
		return rest
	}
	if all && len(live) == 1 {
		return divide(rest, rest, live)
	}
	return divide(rest, (rest+1)/2, matching(live, func(s *share) bool { return s.beginning() || s.hungry() }))
}

// divide gives equal parts of amount to each, as far as rest goes.
func divide(rest, amount int64, to []*share) int64 {
	for i, s := range to {
		part := min(max(amount/int64(len(to)-i), 1), rest)
		amount -= part
		rest -= part
		s.set(s.lease + part)
	}
	return rest
}

// takeBack asks those that have more than they need for half of it, and says whether there was anything to ask for.
func takeBack(live []*share, grain int64) (asked bool) {
	for _, s := range live {
		if s.starved || s.lowering() || s.keeps || s.unused() == 0 {
			continue
		}
		s.ask = s.used + s.unused()/2
		if s.unused() <= grain {
			s.ask = s.used
		}
		asked = true
	}
	return asked
}

func matching(shares []*share, is func(*share) bool) []*share {
	var found []*share
	for _, s := range shares {
		if is(s) {
			found = append(found, s)
		}
	}
	return found
}

// apportion shares out the limits of all nodes together, and ends the capture when they are used up.
func (m *machine) apportion(now time.Time) {
	if m.ending != "" || !m.shared() || len(m.members) == 0 {
		return
	}
	members := slices.SortedFunc(maps.Values(m.members), func(a, b *member) int { return cmp.Compare(a.node, b.node) })
	packets, bytes := make([]*share, len(members)), make([]*share, len(members))
	for i, mem := range members {
		counts := countsOf(mem.state)
		packets[i] = m.prepare(mem, &mem.packets, counts, counts.Packets, mem.state.GetPacketsLease(), 1)
		bytes[i] = m.prepare(mem, &mem.bytes, counts, counts.Bytes, mem.state.GetBytesLease(), int64(m.packetBytes()))
		if mem.state == nil || mem.state.PacketsLease == nil {
			mem.packets.held = mem.packets.lease // It does not say, and so may hold all.
		}
		if mem.state == nil || mem.state.BytesLease == nil {
			mem.bytes.held = mem.bytes.lease
		}
	}
	used := false
	if limit := m.packets(); limit != none {
		used = apportion(limit, 16, packets)
	}
	if limit := m.bytes(); limit != none {
		used = apportion(limit, 16*int64(m.packetBytes()), bytes) || used
	}
	if used {
		m.ending = endLimit
		m.noteEnd(now)
	}
}

// prepare fills in what is known of a node's share. largest is the largest packet, in the limit's unit.
func (m *machine) prepare(mem *member, s *memberShare, counts v1alpha1.CaptureCounts, used, held, largest int64) *share {
	s.used, s.held = used, held
	s.settled = mem.state != nil && mem.revision != 0 && mem.state.Revision >= mem.revision && s.sent == s.ask
	s.ended = mem.ended()
	s.live = !s.ended && !mem.lost && mem.err == nil && (mem.running() || len(m.targets[mem.node]) > 0)
	s.begun = mem.state != nil
	s.starved = false
	if s.settled && !s.lowering() {
		if s.drops == none {
			s.drops = counts.DroppedByLimit
		}
		s.starved = counts.DroppedByLimit > s.drops && s.lease-s.used < largest
	} else {
		s.drops = none
	}
	return &s.share
}
