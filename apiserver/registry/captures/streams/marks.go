package streams

import (
	"cmp"
	"math"
	"slices"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// marksPerNode is how many marks of a node are kept; of more, every second one is.
const marksPerNode = 4096

// marks say about how many bytes of packets come before a time.
type marks struct {
	// steps are sorted by time when sorted is set. first is what all parts together have before their first mark.
	steps  []step
	first  int64
	sorted bool
}

// A step: behind its time, so many bytes more come before.
type step struct{ time, more int64 }

// add adds the marks of one node, of the parts that are shown, which have so many bytes in all.
func (m *marks) add(given []*agentv1.CaptureMark, all int64, shows func(part uint32) bool) {
	byPart := map[uint32][]*agentv1.CaptureMark{}
	for _, mark := range given {
		if shows(mark.Part) {
			byPart[mark.Part] = append(byPart[mark.Part], mark)
		}
	}
	// tail is what comes behind the last marks of all parts, counted behind the first of these.
	tail, tailFrom := all, int64(math.MaxInt64)
	for _, part := range byPart {
		slices.SortFunc(part, func(a, b *agentv1.CaptureMark) int { return cmp.Compare(a.TimeUnixNano, b.TimeUnixNano) })
		m.first += part[0].BlockBytes
		for i, mark := range part[:len(part)-1] {
			m.steps = append(m.steps, step{mark.TimeUnixNano, max(0, part[i+1].BlockBytes-mark.BlockBytes)})
		}
		last := part[len(part)-1]
		tail, tailFrom = tail-last.BlockBytes, min(tailFrom, last.TimeUnixNano)
		m.steps = append(m.steps, step{last.TimeUnixNano, 0})
	}
	if len(byPart) > 0 && tail > 0 {
		m.steps = append(m.steps, step{tailFrom, tail})
	}
	m.sorted = false
}

// A sample is evenly taken of a node's marks, as many as there may come.
type sample struct {
	kept       []*agentv1.CaptureMark
	seen, step int
}

func (s *sample) take(marks []*agentv1.CaptureMark) {
	s.step = max(s.step, 1)
	for _, mark := range marks {
		if s.seen%s.step == 0 {
			s.kept = append(s.kept, mark)
		}
		s.seen++
		if len(s.kept) > marksPerNode {
			s.kept, s.step = everySecond(s.kept), 2*s.step
		}
	}
}

func everySecond(given []*agentv1.CaptureMark) []*agentv1.CaptureMark {
	kept := given[:0]
	for i := 0; i < len(given); i += 2 {
		kept = append(kept, given[i])
	}
	clear(given[len(kept):])
	return kept
}

// before is the latest time before which there are, as far as marks tell, at most so many bytes; 0 when there is none.
func (m *marks) before(bytes int64) (time int64) {
	if !m.sorted {
		slices.SortFunc(m.steps, func(a, b step) int { return cmp.Compare(a.time, b.time) })
		m.sorted = true
	}
	for come, i := m.first, 0; i < len(m.steps) && come <= bytes; i++ {
		time = m.steps[i].time
		come += m.steps[i].more
	}
	return max(time, 0)
}
