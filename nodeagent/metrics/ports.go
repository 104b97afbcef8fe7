package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A port is where dropped packets were going to.
type port struct{ protocol, port string }

var otherPort = port{other, other}

// ports are a pod's drops by port. The first ports that are met, up to the limit, have series, until they are idle and others
// want one; other ports have one together for each reason, class and direction. So have benign drops, whatever their port:
// connections that end leave some at as many ports as there are clients, which would fill all places in a network where nothing
// is wrong.
//
// A row tells of 128 drops, the largest; the rest is one number for each reason, and which drops are in the rest changes.
// So what is shown is how much drops have grown while they had a row of their own, and the rest of the growth is other's.
type ports struct {
	known places[port]
	drops map[drop]*dropsByPort
	// beyond is how many combinations, but for benign ones, have no series of their own and have counted something lately.
	beyond int
	takes  uint64
	// ended says that a port has lost its place since that was last asked.
	ended bool
}

// dropsByPort are those for one reason.
type dropsByPort struct {
	total, other int64
	ports        map[port]*portDrops
	// rest is in which take there were drops without a row of their own.
	rest uint64
}

// portDrops are what is shown, what the last row had, and which take that was. Those that are folded are not shown; they are
// kept while rows tell of them.
type portDrops struct {
	shown, last int64
	take        uint64
	folded      bool
	used        time.Time // when they last grew
}

func newPorts(limit int) *ports {
	return &ports{known: newPlaces[port](limit), drops: map[drop]*dropsByPort{}}
}

// A told is what a row tells of the drops for one reason.
type told struct {
	before *dropsByPort // nil when there were none
	total  int64
	ports  map[port]int64
}

// grows says whether there are more drops at a port than the last row had.
func (t *told) grows(at port) bool {
	return t.before == nil || t.before.ports[at] == nil || t.ports[at] > t.before.ports[at].last
}

// A wish is of a port that a row tells of.
type wish struct {
	*told
	at port
}

// take takes over a row.
func (p *ports) take(rows []*v1alpha1.Drop, now time.Time) {
	p.takes++
	p.beyond = 0
	all, wishes := map[drop]*told{}, make([]wish, 0, len(rows))
	for _, row := range rows { // the largest first
		of := dropOf(row)
		t := all[of]
		if t == nil {
			t = &told{before: p.drops[of], ports: map[port]int64{}}
			all[of] = t
		}
		t.total += row.Packets
		if row.Attribution == v1alpha1.Drop_ATTRIBUTION_UNSPECIFIED { // it is the rest
			continue
		}
		at := portOf(row)
		t.ports[at] += row.Packets
		if row.Class != v1alpha1.Drop_CLASS_BENIGN {
			wishes = append(wishes, wish{t, at})
		}
	}
	p.places(wishes, now)
	for of, t := range all {
		p.grow(of, t, now)
	}
}

func portOf(row *v1alpha1.Drop) port {
	p := port{protocol: protocolName(row.Protocol)}
	if row.Port != 0 {
		p.port = strconv.Itoa(int(row.Port))
	}
	return p
}

// places gives ports places, the first of them first. Those that count something keep theirs.
func (p *ports) places(wishes []wish, now time.Time) {
	for _, w := range wishes {
		if p.known.has(w.at) && w.grows(w.at) {
			p.known.used[w.at] = now
		}
	}
	for _, w := range wishes {
		if p.known.has(w.at) {
			continue
		}
		if lost, lose := p.known.give(w.at, w.grows(w.at), now); lose {
			p.fold(lost)
		}
	}
}

// fold takes away the series of a port.
func (p *ports) fold(at port) {
	p.ended = true
	for _, d := range p.drops {
		if shown := d.ports[at]; shown != nil {
			shown.folded, shown.shown = true, 0
		}
	}
}

// grow takes over the drops for one reason.
func (p *ports) grow(of drop, t *told, now time.Time) {
	d := t.before
	if d == nil {
		d = &dropsByPort{ports: map[port]*portDrops{}}
		if p.takes == 1 {
			d.total = t.total // what is in no series by now is in none later
		}
		p.drops[of] = d
	}
	grown := max(0, t.total-d.total)
	listed := int64(0)
	for at, packets := range t.ports {
		listed += packets
		if of.class != benign {
			grown -= p.growAt(d, at, packets, now)
		}
	}
	for at, shown := range d.ports {
		if shown.folded && shown.take != p.takes {
			delete(d.ports, at)
		}
	}
	if p.takes > 1 {
		d.other += max(0, grown)
	}
	d.total = max(d.total, t.total)
	if listed < t.total {
		d.rest = p.takes
	}
}

// growAt takes over the drops at one port, and returns how much of their growth is shown there.
func (p *ports) growAt(d *dropsByPort, at port, packets int64, now time.Time) (shownGrowth int64) {
	known, shown := p.known.has(at), d.ports[at]
	switch {
	case shown == nil:
		shown = &portDrops{folded: !known, used: now}
		d.ports[at] = shown
		if known {
			shown.shown = packets
			if d.rest < p.takes-1 { // it was not among the rest before
				shownGrowth = packets
			}
		}
	case shown.take == p.takes-1:
		growth := max(0, packets-shown.last)
		if growth > 0 {
			shown.used = now
		}
		if known { // and, when it was folded, begins at 0 with what it grows by now
			shown.folded = false
			shown.shown += growth
			shownGrowth = growth
		}
	}
	shown.last, shown.take = max(shown.last, packets), p.takes
	if !known && now.Sub(shown.used) < idleFor {
		p.beyond++
	}
	return shownGrowth
}

// each gives what is shown in the order of labels: class, direction, port, protocol, reason.
func (p *ports) each(yield func(drop, port, int64)) {
	type line struct {
		drop
		at      port
		packets int64
	}
	var lines []line
	for of, d := range p.drops {
		for at, shown := range d.ports {
			if !shown.folded {
				lines = append(lines, line{of, at, shown.shown})
			}
		}
		if d.other > 0 {
			lines = append(lines, line{of, otherPort, d.other})
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(
			cmp.Compare(a.class, b.class), cmp.Compare(a.direction, b.direction), cmp.Compare(a.at.port, b.at.port),
			cmp.Compare(a.at.protocol, b.at.protocol), cmp.Compare(a.reason, b.reason),
		)
	})
	for _, l := range lines {
		yield(l.drop, l.at, l.packets)
	}
}
