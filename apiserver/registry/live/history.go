package live

import "k8s.io/apimachinery/pkg/watch"

// A change is one event about one object: it came, changed or went, or its numbers changed.
type change struct {
	kind watch.EventType
	// record is the object after the change, or as it last was when it went.
	record *Record
	// before is the object before a change of the record itself; nil otherwise.
	before *Record
	// reading is what its node last said; the zero Reading when nothing was read yet.
	reading Reading
	// version is what the event carries.
	version version
	// host is the first version of the host that includes the change. It is above version.host for what a new
	// list showed: version says what a watcher has seen for certain when it has the event, host when the event
	// is no news any more.
	host uint64
	// unchanged marks a reading that brought no other numbers: news only to a watcher that missed the last ones.
	unchanged bool
}

// historyLength is how many changes of records are kept for watches that begin in the past: at 50 new and gone
// pods a second, a minute and a half of four changes each. They hold the readings of what was deleted, about 2 KiB
// each, and records of the others: at most some 15 MiB where pods come and go.
const historyLength = 16 << 10

// A history answers what happened since a version: exactly, or not at all. Changes of numbers are not in it,
// since the next reading brings them again.
type history struct {
	// changes are in the order in which they were sent.
	changes []change
	// start is the version of the host from which on changes are known.
	start uint64
	// gaps are spans of the host's versions that nobody here has seen one by one: a list followed on a broken
	// watch. States at either end are known; those within are not.
	gaps  []gap
	limit int
}

type gap struct{ after, before uint64 }

func (h *history) reset(start uint64) {
	*h = history{start: start, limit: h.limit}
}

func (h *history) add(c change) {
	if len(h.changes) >= h.limit {
		h.evict(h.limit / 4)
	}
	if c.kind != watch.Deleted {
		c.reading = Reading{} // A watch that begins in the past reads anew what is still there.
	}
	h.changes = append(h.changes, c)
}

// evict forgets the oldest changes, and at least n of them: what a list showed at once goes at once.
func (h *history) evict(n int) {
	last := h.changes[n-1].host
	for n < len(h.changes) && h.changes[n].host <= last {
		n++
	}
	h.start = max(h.start, last)
	h.changes = append(h.changes[:0:0], h.changes[n:]...)
	for len(h.gaps) > 0 && h.gaps[0].before <= h.start {
		h.gaps = h.gaps[1:]
	}
}

func (h *history) addGap(after, before uint64) {
	if before > after+1 {
		h.gaps = append(h.gaps, gap{after, before})
	}
}

// since returns the changes that a client with the state at a version of the host does not know; ok is false when
// that cannot be told. The slice is the caller's.
func (h *history) since(host uint64) (changes []change, ok bool) {
	if host < h.start {
		return nil, false
	}
	for _, gap := range h.gaps {
		if gap.after < host && host < gap.before {
			return nil, false
		}
	}
	for _, c := range h.changes {
		if c.host > host {
			changes = append(changes, c)
		}
	}
	return changes, true
}
