package flows

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHistoryAgainstModel does at random what drains do, and compares with plain slices.
func TestHistoryAgainstModel(t *testing.T) {
	const size = 300
	h, err := newHistory(size)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	random := rand.New(rand.NewPCG(1, 2))
	type entry struct {
		key      key
		number   uint32
		position uint64
		revision uint64
		live     bool
	}
	var model []*entry // by position
	pick := func(live bool) *entry {
		var some []*entry
		for _, e := range model {
			if e.live == live {
				some = append(some, e)
			}
		}
		if len(some) == 0 {
			return nil
		}
		return some[random.IntN(len(some))]
	}
	revision := uint64(0)
	for step := range 20_000 {
		switch random.IntN(4) {
		case 0, 1:
			k := key{pod: uint32(step), protocol: 6}
			if h.full() != (len(model) == size) {
				t.Fatalf("full is %v with %d records", h.full(), len(model))
			}
			if h.full() {
				continue
			}
			revision++
			model = append(model, &entry{k, h.add(&k), h.position, revision, true})
		case 2:
			if e := pick(true); e != nil {
				revision++
				e.revision = revision
				if random.IntN(2) == 0 {
					h.changed(e.number)
				} else {
					h.end(e.number)
					e.live = false
				}
			}
		case 3:
			if e := pick(false); e != nil {
				revision++
				h.remove(e.number, 7)
				model = slices.DeleteFunc(model, func(other *entry) bool { return other == e })
				if d := h.departure(len(h.departures) - 1); *d != (departure{e.position, revision, e.revision, 7}) {
					t.Fatalf("departure %v of %v", d, e)
				}
			}
		}
		if step%50 != 0 {
			continue
		}
		var at place
		position := uint64(0)
		for _, e := range model {
			number, ok := h.afterPosition(position, &at)
			if !ok || number != e.number {
				t.Fatalf("step %d: behind position %d is %d (%v), want %d", step, position, number, ok, e.number)
			}
			position = e.position
			if number, ok := h.find(&e.key); ok != e.live || ok && number != e.number {
				t.Fatalf("step %d: found %d (%v), want %d (%v)", step, number, ok, e.number, e.live)
			}
		}
		if len(model) > 0 {
			from := random.IntN(len(model))
			number, ok := h.afterPosition(model[from].position-uint64(random.IntN(2)), &place{})
			exact := ok && number == model[from].number
			behind := from+1 < len(model) && ok && number == model[from+1].number || from+1 == len(model) && !ok
			if !exact && !behind {
				t.Fatalf("step %d: from position %d came %d (%v)", step, model[from].position, number, ok)
			}
		}
		byChange := slices.SortedFunc(slices.Values(model), func(a, b *entry) int { return int(a.revision) - int(b.revision) })
		since, places := uint64(0), [2]place{}
		if len(byChange) > 0 && random.IntN(2) == 0 {
			from := random.IntN(len(byChange))
			since, byChange = byChange[from].revision, byChange[from+1:]
		}
		for _, e := range byChange {
			number, ok := h.afterRevision(since, &places)
			if !ok || number != e.number {
				t.Fatalf("step %d: behind revision %d is %d (%v), want %d", step, since, number, ok, e.number)
			}
			since = e.revision
		}
		if _, ok := h.afterRevision(since, &places); ok {
			t.Fatalf("step %d: there is more", step)
		}
	}
	if len(model) < 50 {
		t.Errorf("only %d records in the end", len(model))
	}
}

func TestDepartures(t *testing.T) {
	h := &history{}
	for i := range uint64(remembered + 5) {
		h.depart(departure{revision: i + 1})
	}
	if h.forgotten != 5 || h.departure(0).revision != 6 || h.departure(remembered-1).revision != remembered+5 {
		t.Errorf("forgotten up to %d, remembered %d to %d", h.forgotten, h.departure(0).revision, h.departure(remembered-1).revision)
	}
}
