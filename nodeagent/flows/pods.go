package flows

import (
	"time"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// linger is how long totals of a pod without a live process are kept: while a sandbox is made anew, a pod has none.
const linger = 2 * time.Minute

// A pod is one that has flows, or had.
type pod struct {
	number uint64
	key    string // empty while no process of it was seen
	// records is how many the history has of it.
	records int
	entry   entry
	// shown is the total as the ledger has it: what answers say.
	shown amount
	// written is what the ledger has.
	written entry

	live bool
	gone time.Time // when it was first found not to be live

	// Of the first drain after a start: what the ledger had, what was found in the tables, and the part of it that came
	// after the ledger was written.
	former entry
	found  amount
	since  amount
}

// pods are known by number, and by their place, which records hold.
type pods struct {
	places   []*pod // nil where one was forgotten
	byNumber map[uint64]uint32
	// The one that was asked for last.
	last  uint32
	known bool
}

// place finds the place of a number, or makes one.
func (p *pods) place(number uint64) uint32 {
	if p.known && p.places[p.last].number == number {
		return p.last
	}
	place, ok := p.byNumber[number]
	if !ok {
		place = p.vacant()
		p.places[place] = &pod{number: number}
		p.byNumber[number] = place
	}
	p.last, p.known = place, true
	return place
}

func (p *pods) vacant() uint32 {
	if len(p.byNumber) < len(p.places) {
		for i, one := range p.places {
			if one == nil {
				return uint32(i)
			}
		}
	}
	p.places = append(p.places, nil)
	return uint32(len(p.places) - 1)
}

func (p *pods) forget(place uint32) {
	delete(p.byNumber, p.places[place].number)
	p.places[place] = nil
	p.known = false
}

// restore takes over what a former agent has written.
func (p *pods) restore(written map[uint64]entry) {
	for number, e := range written {
		one := p.places[p.place(number)]
		one.former, one.written, one.shown = e, e, e.Total
	}
}

// follow learns which pods there are.
func (p *pods) follow(all []*podmap.Pod) {
	for _, one := range p.places {
		if one != nil {
			one.live = false
		}
	}
	for _, each := range all {
		one := p.places[p.place(headers.PodNumber(each.Key))]
		one.live, one.key = true, each.Key
	}
}

// seen adds what a flow has grown by. The first sight of one that was in the table while no agent ran is not told from
// growth here, see settle.
func (o *pod) seen(grown amount, isNew, first bool) {
	o.entry.Present.add(grown)
	if !first {
		o.entry.Total.add(grown)
		return
	}
	o.found.add(grown)
	if isNew {
		o.since.add(grown)
	}
}

// settle reckons the totals after the first drain of an agent: what was there when the former one wrote its ledger,
// plus what present flows have grown by since. Of flows that were pushed out in between only the lower bound is known
// that newer flows give.
func (o *pod) settle() {
	total := o.former.Total
	total.add(o.found)
	total.subtract(o.former.Present)
	least := o.former.Total
	least.add(o.since)
	total.raise(least)
	o.entry.Total = total
}
