package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// names are a pod's DNS by name. The first names that are met, up to the limit, have series, until they are idle and others want
// one; all others have one together.
//
// Rows tell of the names most asked for, and count each from when it became one of them, at the earliest since the agent
// began. A name that was pushed out and comes back begins anew there, but goes on here. What is asked under names of which
// rows do not tell is the rest: all questions that were answered or given up, without those of known names.
type names struct {
	known  places[string]
	counts map[string]*nameCount // of known ones, and of those of the last row that are not
	takes  uint64
	// Of the first row, and by how much known names have grown since.
	began                       bool
	firstQueries, firstFailures int64
	grownQueries, grownFailures int64
	restQueries, restFailures   int64
	// beyond is how many names have no series of their own and were asked for lately.
	beyond int
	// ended says that a name has lost its place since that was last asked.
	ended bool
}

// A nameCount is what is shown of a name, what the last row had, which take that was, and when it was last asked for.
type nameCount struct {
	queries, failures         int64
	lastQueries, lastFailures int64
	take                      uint64
	used                      time.Time
}

func newNames(limit int) *names {
	return &names{known: newPlaces[string](limit), counts: map[string]*nameCount{}}
}

// take takes over a row.
func (n *names) take(row *v1alpha1.DNS, now time.Time) {
	n.takes++
	queries, failures := asked(row)
	if !n.began {
		n.firstQueries, n.firstFailures = queries, failures
	}
	n.beyond = 0
	for _, one := range row.Names { // those that were asked for keep their places
		if count := n.counts[one.Name]; count != nil && n.known.has(one.Name) && since(count.lastQueries, max(0, one.Count-one.Error)) > 0 {
			n.known.used[one.Name] = now
		}
	}
	for _, one := range row.Names {
		// A count is too large by its error at most; what is left is certain.
		n.grow(one.Name, max(0, one.Count-one.Error), one.Failed, now)
	}
	for name, count := range n.counts {
		if count.take != n.takes && !n.known.has(name) {
			delete(n.counts, name)
		}
	}
	n.began = true
	n.restQueries = max(n.restQueries, queries-n.firstQueries-n.grownQueries)
	n.restFailures = max(n.restFailures, failures-n.firstFailures-n.grownFailures)
}

// asked is how many questions were answered or given up, and how many of them failed.
func asked(row *v1alpha1.DNS) (queries, failures int64) {
	for _, count := range row.Latency.GetCounts() {
		queries += count
	}
	for _, r := range row.Responses {
		if r.Code != 0 {
			failures += r.Count
		}
	}
	return queries + row.Unanswered, failures + row.Unanswered
}

func (n *names) grow(name string, queries, failures int64, now time.Time) {
	count := n.counts[name]
	if count == nil {
		count = &nameCount{used: now}
		n.counts[name] = count
	} else if since(count.lastQueries, queries) > 0 {
		count.used = now
	}
	if !n.known.has(name) && name != other {
		if lost, lose := n.known.give(name, count.used.Equal(now), now); lose {
			n.counts[lost].queries, n.counts[lost].failures, n.ended = 0, 0, true
		}
	}
	if n.known.has(name) {
		grownQueries, grownFailures := since(count.lastQueries, queries), since(count.lastFailures, failures)
		count.queries += grownQueries
		count.failures += grownFailures
		if n.began { // otherwise it is in the first row, too
			n.grownQueries += grownQueries
			n.grownFailures += grownFailures
		}
	} else if now.Sub(count.used) < idleFor {
		n.beyond++
	}
	count.lastQueries, count.lastFailures, count.take = queries, failures, n.takes
}

// since is what a counter has counted that may have begun anew.
func since(before, now int64) int64 {
	if now < before {
		return now
	}
	return now - before
}

// each gives what is shown in the order of names, that of all others last.
func (n *names) each(yield func(name string, queries, failures int64)) {
	for _, name := range slices.Sorted(maps.Keys(n.known.used)) {
		known := n.counts[name]
		yield(name, known.queries, known.failures)
	}
	if n.restQueries > 0 || n.restFailures > 0 {
		yield(other, n.restQueries, n.restFailures)
	}
}
