package networkflows

import (
	"maps"
	"slices"
	"time"

	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// keepFor is how long versions, and what has gone since, are remembered for watches that begin in the past.
	keepFor = 5 * time.Minute
	// keepMarks is the same for the versions of lists, from which a watch is expected at once.
	keepMarks = time.Minute
	// maxBooked bounds the flows in all books; one takes about 40 bytes.
	maxBooked = 1_000_000
	// maxLeft bounds the flows in all books that went while somebody was reading.
	maxLeft = 100_000
	// maxMarks bounds the lists from which a watch can begin exactly.
	maxMarks = 1000
)

// A book says of one instance of a node's history which flows clients have been told of, and of which pods they are: a
// flow that has gone is only a position.
type book struct {
	instance int64
	pods     map[int64]*live.Record
	// gone are those of pods that have left the history, oldest first.
	gone []departed
	// left are flows that went while nobody had been told of them, but somebody was reading, who may yet tell.
	left map[int64]time.Time
	// touched is when it was last written by a list; a feed needs it whatever its age.
	touched time.Time
}

type departed struct {
	position int64
	at       time.Time
}

// A checkpoint says that at a version all changes of a node's history up to a revision had been sent, and what so many changes of
// pods' labels (Names.Relabelled) made of selections.
type checkpoint struct {
	version            uint64
	instance, revision int64
	relabelled         uint64
	at                 time.Time
}

// A mark is what a list knew of its nodes at its version.
type mark struct {
	nodes map[string]checkpoint
	at    time.Time
}

// tell notes that clients know of a flow. It returns false when there is no room.
func (h *hub) tell(node string, instance, position int64, pod *live.Record) bool {
	b := h.bookOf(node, instance)
	if _, known := b.pods[position]; !known {
		if h.booked >= maxBooked {
			return false
		}
		h.booked++
	}
	b.pods[position] = pod
	if _, left := b.left[position]; left {
		b.gone = append(b.gone, departed{position, h.clock.Now()})
	}
	return true
}

// reads notes that somebody reads flows, to tell of them when he has them: until done is called it is remembered which
// have gone meanwhile.
func (h *hub) reads() (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reading++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.reading--
	}
}

// hasLeft says whether a flow went while somebody was reading.
func (h *hub) hasLeft(node string, instance, position int64) bool {
	b := h.books[node]
	if b == nil || b.instance != instance {
		return false
	}
	_, left := b.left[position]
	return left
}

// bookOf is the book of an instance, which takes the place of a former one's.
func (h *hub) bookOf(node string, instance int64) *book {
	b := h.books[node]
	if b == nil || b.instance != instance {
		h.closeBook(node)
		b = &book{instance: instance, pods: map[int64]*live.Record{}, left: map[int64]time.Time{}}
		h.books[node] = b
	}
	b.touched = h.clock.Now()
	return b
}

func (h *hub) closeBook(node string) {
	if b := h.books[node]; b != nil {
		h.booked -= len(b.pods)
		h.left -= len(b.left)
		delete(h.books, node)
	}
}

// of are flows of a node's pods of which clients have been told, as events that they have gone. Those that have, and before a time, are
// left out.
func (h *hub) of(node string, keys map[string]bool, since time.Time) (events []event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.books[node]
	if b == nil {
		return nil
	}
	before := map[int64]bool{}
	for _, d := range b.gone {
		before[d.position] = d.at.Before(since)
	}
	for position, pod := range b.pods {
		if keys[pod.PodKey] && !before[position] {
			events = append(events, event{place: place{node, b.instance, position}, pod: pod, gone: true})
		}
	}
	return events
}

// sweep forgets what is too old to begin a watch with. Under the lock.
func (h *hub) sweep() {
	now := h.clock.Now()
	for node, b := range h.books {
		for len(b.gone) > 0 && now.Sub(b.gone[0].at) > keepFor {
			if _, known := b.pods[b.gone[0].position]; known {
				delete(b.pods, b.gone[0].position)
				h.booked--
			}
			b.gone = b.gone[1:]
		}
		h.left -= len(b.left)
		maps.DeleteFunc(b.left, func(_ int64, at time.Time) bool { return h.reading == 0 || now.Sub(at) > keepFor })
		h.left += len(b.left)
		if h.feeds[node] == nil && now.Sub(b.touched) > keepMarks {
			h.closeBook(node)
		}
	}
	for version, m := range h.marks {
		if now.Sub(m.at) > keepMarks {
			delete(h.marks, version)
		}
	}
}

// listed notes what a page of a list told, so that a watch can begin at the list's version.
func (h *hub) listed(p *page, first bool, m *merge, rows []place, pods []*live.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	version := p.version
	known := h.marks[version]
	if known == nil {
		if !first || len(h.marks) >= maxMarks {
			return // Its first page is not known here.
		}
		known = &mark{nodes: map[string]checkpoint{}}
		h.marks[version] = known
		for _, l := range m.nodes {
			if l.err == nil && l.started {
				known.nodes[l.node] = checkpoint{version: version, instance: l.instance, revision: l.revision, relabelled: p.relabelled}
			}
		}
	}
	known.at = h.clock.Now()
	for i, at := range rows {
		if !h.tell(at.node, at.instance, at.position, pods[i]) {
			delete(h.marks, version)
			return
		}
	}
}

// since is up to where a client with a version knows a node's history. known is false when that is not known here, and
// elsewhere true when the version can be another replica's: the node was not followed here at its time.
func (h *hub) since(node string, version uint64) (c checkpoint, known, elsewhere bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.marks[version]; m != nil {
		if c, ok := m.nodes[node]; ok {
			return c, true, false
		}
	}
	f := h.feeds[node]
	if f == nil {
		return checkpoint{}, false, true
	}
	for _, c := range slices.Backward(f.checkpoints) {
		if c.version <= version {
			return c, true, false
		}
	}
	return checkpoint{}, false, f.created > version
}
