package flows

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A key names a flow of the kernel's tables. IPv4 addresses are mapped.
type key struct {
	local, remote         [16]byte
	pod                   uint32 // the place in pods
	localPort, remotePort [2]byte
	protocol              uint16
	version               uint16 // 4 or 6
}

// families are IPv4 and IPv6, each with a table of its own.
const families = 2

// family is 0 for IPv4 and 1 for IPv6.
func (k *key) family() int {
	if k.version == 6 {
		return 1
	}
	return 0
}

// A record is a flow in the history. It holds no pointers: it lives in a mapping that the garbage collector does not
// see. Times are nanoseconds of CLOCK_MONOTONIC.
type record struct {
	key
	handshake      uint32    // microseconds
	packets, bytes [2]uint64 // received, transmitted
	first, last    uint64    // last counts drops, too
	position       uint64    // 0 in a record that is free
	revision       uint64
	links          [2]links // byPosition, byRevision
	translated     [16]byte
	translatedPort [2]byte
	reason         uint16
	drops          uint32
	name           uint32
	flags          [2]uint8
	state          uint8
	generation     uint8 // of the drain that last saw it in the kernel's table
}

// Bits of record.state. The lowest two are the verdict.
const (
	verdictBits     = 3
	active          = 1 << 2 // it is in the kernel's table
	begunByTransmit = 1 << 3
	asked           = 1 << 4 // conntrack has been asked
	nameTry         = 1 << 5 // times how often its name was asked for, up to nameTries
	nameTries       = 3
)

// links lead to a record's neighbours in a list.
type links struct{ before, after uint32 }

// Kinds of lists. A record is in one of each kind.
const (
	byPosition = iota
	byRevision
)

// nowhere ends lists.
const nowhere = ^uint32(0)

// A list is of records; its links are in them.
type list struct {
	kind        int
	first, last uint32
}

// A departure is of a record that left the history.
type departure struct {
	position, revision uint64
	changed            uint64 // the last revision of the record
	pod                uint64 // the number of its pod
}

// remembered is how many departures followers are told of later.
const remembered = 10_000

// history is the records, in one anonymous mapping of which memory is used only as it fills. It is not safe for
// concurrent use.
type history struct {
	memory  []byte
	records []record
	index   []uint32 // of active records by key: the record's number + 1, or 0; open addressing
	seed    maphash.Seed

	used        uint32 // records from here on were never touched
	free        uint32 // freed records, a list through links[byPosition].after
	all         list   // by position
	live, ended list   // by revision: what is in the kernel's table, and what is not
	count       int
	liveCount   int

	position, revision uint64
	departures         []departure // a ring
	oldest             int         // where it begins
	forgotten          uint64      // the revision of the last departure that is no longer in it
}

// newHistory makes room for so many records. The caller closes it.
func newHistory(records int) (*history, error) {
	index := 1 << bits.Len(uint(records+records/4))
	size := records*int(unsafe.Sizeof(record{})) + index*4
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for the history of flows: %w", size, err)
	}
	start := unsafe.Pointer(unsafe.SliceData(memory))
	return &history{
		memory:  memory,
		records: unsafe.Slice((*record)(start), records),
		index:   unsafe.Slice((*uint32)(unsafe.Add(start, records*int(unsafe.Sizeof(record{})))), index),
		seed:    maphash.MakeSeed(),
		free:    nowhere,
		all:     list{byPosition, nowhere, nowhere},
		live:    list{byRevision, nowhere, nowhere},
		ended:   list{byRevision, nowhere, nowhere},
	}, nil
}

// close gives the memory back. The history must not be used afterwards.
func (h *history) close() {
	_ = unix.Munmap(h.memory)
	h.records, h.index = nil, nil
}

// home is where in the index a key belongs.
func (h *history) home(k *key) int {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k))
	return int(maphash.Bytes(h.seed, bytes)) & (len(h.index) - 1)
}

// find looks for the active record of a key.
func (h *history) find(k *key) (number uint32, ok bool) {
	for i := h.home(k); h.index[i] != 0; i = (i + 1) & (len(h.index) - 1) {
		if number := h.index[i] - 1; h.records[number].key == *k {
			return number, true
		}
	}
	return 0, false
}

// full says that add needs a record to be removed first.
func (h *history) full() bool { return h.free == nowhere && int(h.used) == len(h.records) }

// add makes an active record, the last by position and revision. There must be room.
func (h *history) add(k *key) uint32 {
	number := h.free
	if number == nowhere {
		number = h.used
		h.used++
	} else {
		h.free = h.records[number].links[byPosition].after
	}
	h.position++
	h.revision++
	h.records[number] = record{key: *k, position: h.position, revision: h.revision, state: active}
	h.push(&h.all, number)
	h.push(&h.live, number)
	h.count++
	h.liveCount++
	i := h.home(k)
	for h.index[i] != 0 {
		i = (i + 1) & (len(h.index) - 1)
	}
	h.index[i] = number + 1
	return number
}

// changed gives a record a new revision.
func (h *history) changed(number uint32) {
	of := h.listOf(number)
	h.unlink(of, number)
	h.revision++
	h.records[number].revision = h.revision
	h.push(of, number)
}

// end takes an active record out of the index: nothing will be added to it.
func (h *history) end(number uint32) {
	r := &h.records[number]
	h.unindex(number)
	h.unlink(&h.live, number)
	r.state &^= active
	h.revision++
	r.revision = h.revision
	h.push(&h.ended, number)
	h.liveCount--
}

// remove forgets a record that has ended.
func (h *history) remove(number uint32, pod uint64) {
	r := &h.records[number]
	h.unlink(&h.ended, number)
	h.unlink(&h.all, number)
	h.revision++
	h.depart(departure{position: r.position, revision: h.revision, changed: r.revision, pod: pod})
	*r = record{}
	r.links[byPosition].after = h.free
	h.free = number
	h.count--
}

func (h *history) depart(d departure) {
	if len(h.departures) < remembered {
		h.departures = append(h.departures, d)
		return
	}
	h.forgotten = h.departures[h.oldest].revision
	h.departures[h.oldest] = d
	h.oldest = (h.oldest + 1) % remembered
}

// departure gives one of those that are remembered, by age; 0 is the oldest.
func (h *history) departure(i int) *departure { return &h.departures[(h.oldest+i)%len(h.departures)] }

// unindex takes a record out of the index and closes the gap, so that whatever comes behind it is still found.
func (h *history) unindex(number uint32) {
	mask := len(h.index) - 1
	gap := h.home(&h.records[number].key)
	for h.index[gap] != number+1 {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; h.index[i] != 0; i = (i + 1) & mask {
		home := h.home(&h.records[h.index[i]-1].key)
		if (i-home)&mask >= (i-gap)&mask {
			h.index[gap] = h.index[i]
			gap = i
		}
	}
	h.index[gap] = 0
}

func (h *history) listOf(number uint32) *list {
	if h.records[number].state&active != 0 {
		return &h.live
	}
	return &h.ended
}

func (h *history) push(l *list, number uint32) {
	h.records[number].links[l.kind] = links{before: l.last, after: nowhere}
	if l.last == nowhere {
		l.first = number
	} else {
		h.records[l.last].links[l.kind].after = number
	}
	l.last = number
}

func (h *history) unlink(l *list, number uint32) {
	own := h.records[number].links[l.kind]
	if own.before == nowhere {
		l.first = own.after
	} else {
		h.records[own.before].links[l.kind].after = own.after
	}
	if own.after == nowhere {
		l.last = own.before
	} else {
		h.records[own.after].links[l.kind].before = own.before
	}
}

// A place is where somebody has got to in a list: at a record, as it was then. The zero place is before all.
type place struct {
	number uint32
	stamp  uint64 // the record's position or revision
}

// afterPosition finds the first record with a larger position. at is where the last one was found, and is looked at
// first.
func (h *history) afterPosition(position uint64, at *place) (uint32, bool) {
	next := h.all.first
	switch {
	case at.stamp != 0 && at.stamp <= position && h.records[at.number].position == at.stamp:
		next = at.number
	case next != nowhere && position > h.records[next].position+(h.position-h.records[next].position)/2:
		next = h.all.last // it is nearer to the end
		for h.records[next].position > position && h.records[next].links[byPosition].before != nowhere {
			next = h.records[next].links[byPosition].before
		}
	}
	for next != nowhere && h.records[next].position <= position {
		next = h.records[next].links[byPosition].after
	}
	if next == nowhere {
		return 0, false
	}
	*at = place{next, h.records[next].position}
	return next, true
}

// afterRevision finds the record with the next larger revision, whatever list it is in; at is as for afterPosition, for
// each list.
func (h *history) afterRevision(revision uint64, at *[2]place) (uint32, bool) {
	found := nowhere
	for i, l := range []*list{&h.live, &h.ended} {
		next := h.afterIn(l, revision, &at[i])
		if next != nowhere && (found == nowhere || h.records[next].revision < h.records[found].revision) {
			found = next
		}
	}
	return found, found != nowhere
}

func (h *history) afterIn(l *list, revision uint64, at *place) uint32 {
	r := func(number uint32) *record { return &h.records[number] }
	if at.stamp == 0 || at.stamp > revision || r(at.number).revision != at.stamp || h.listOf(at.number) != l {
		if l.first == nowhere || r(l.first).revision > revision {
			return l.first
		}
		back := l.last
		for r(back).revision > revision {
			back = r(back).links[byRevision].before
		}
		*at = place{back, r(back).revision}
	}
	next := at.number
	for next != nowhere && r(next).revision <= revision {
		*at = place{next, r(next).revision}
		next = r(next).links[byRevision].after
	}
	return next
}
