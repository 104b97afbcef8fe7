package export

import (
	"slices"
	"sync"

	dto "github.com/prometheus/client_model/go"
)

// errorSums keep the sums over dropped packets from falling. With the label Port a port that was idle may give its place to
// another, and what it had counted goes with its series: the sum over all would be lower, and whoever computes a rate would take
// what is left for what was counted since a restart. In place of that, a sum misses what others counted since the gathering before. The
// zero value knows nothing.
type errorSums struct {
	mu   sync.Mutex
	pods map[podKey]*errorSum
}

type podKey struct{ namespace, name string }

// An errorSum is of one pod: by direction, what its series had last, and what is missing in them.
type errorSum struct {
	uid        string
	last, lost map[string]float64
}

// steady adds to sums what is missing in them. Pods that are gone are forgotten.
func (e *errorSums) steady(resources []*resource) {
	e.mu.Lock()
	defer e.mu.Unlock()
	present := make(map[podKey]*errorSum, len(resources))
	for _, r := range resources {
		key := podKey{r.namespace, r.name}
		s := e.pods[key]
		if s == nil || s.uid != r.uid || !r.byPort() {
			s = &errorSum{uid: r.uid, last: map[string]float64{}, lost: map[string]float64{}}
		}
		present[key] = s
		for i := range r.series {
			if r.series[i].family == podErrors.name {
				s.take(r.series[i].metrics)
			}
		}
	}
	e.pods = present
}

func (s *errorSum) take(sums []*dto.Metric) {
	for _, sum := range sums {
		direction, value := labelOf(sum, "direction"), sum.Counter.GetValue()
		s.lost[direction] += max(0, s.last[direction]-value)
		s.last[direction] = value
		*sum.Counter.Value += s.lost[direction]
	}
}

// byPort says whether drops have the label port. Nothing is missing in those that have not, nor in none.
func (r *resource) byPort() bool {
	i := slices.IndexFunc(r.series, func(s series) bool { return s.family == podDrops })
	return i < 0 || slices.ContainsFunc(r.series[i].metrics[0].GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "port" })
}
