package metrics

import (
	"maps"
	"slices"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// names are a pod's DNS by name. The first names that are met, up to the limit, have series; all others have one together.
//
// Rows tell of the names most asked for, and count each from when it became one of them, at the earliest since the agent
// began. A name that was pushed out and comes back begins anew there, but goes on here. What is asked under names of which
// rows do not tell is the rest: all questions that were answered or given up, without those of known names.
type names struct {
	limit int
	known map[string]*nameCount
	// Of the first row, and by how much known names have grown since.
	began                       bool
	firstQueries, firstFailures int64
	grownQueries, grownFailures int64
	restQueries, restFailures   int64
	// beyond is how many names of the last row have no series of their own.
	beyond int
}

// A nameCount is what is shown of a name, and what the last row had.
type nameCount struct {
	queries, failures         int64
	lastQueries, lastFailures int64
}

func newNames(limit int) *names { return &names{limit: limit, known: map[string]*nameCount{}} }

// take takes over a row.
func (n *names) take(row *v1alpha1.DNS) {
	queries, failures := asked(row)
	if !n.began {
		n.firstQueries, n.firstFailures = queries, failures
	}
	n.beyond = 0
	for _, one := range row.Names {
		// A count is too large by its error at most; what is left is certain.
		n.grow(one.Name, max(0, one.Count-one.Error), one.Failed)
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

func (n *names) grow(name string, queries, failures int64) {
	known := n.known[name]
	if known == nil {
		if len(n.known) >= n.limit || name == other {
			n.beyond++
			return
		}
		known = &nameCount{}
		n.known[name] = known
	}
	grownQueries, grownFailures := since(known.lastQueries, queries), since(known.lastFailures, failures)
	known.queries += grownQueries
	known.failures += grownFailures
	known.lastQueries, known.lastFailures = queries, failures
	if n.began { // otherwise it is in the first row, too
		n.grownQueries += grownQueries
		n.grownFailures += grownFailures
	}
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
	for _, name := range slices.Sorted(maps.Keys(n.known)) {
		known := n.known[name]
		yield(name, known.queries, known.failures)
	}
	if n.restQueries > 0 || n.restFailures > 0 {
		yield(other, n.restQueries, n.restFailures)
	}
}
