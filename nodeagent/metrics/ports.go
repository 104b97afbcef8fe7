package metrics

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A port is where dropped packets were going to.
type port struct{ protocol, port string }

var otherPort = port{other, other}

// ports are a pod's drops by port. The first ports that are met, up to the limit, have series; other ports have one
// together for each reason, class and direction. So have benign drops, whatever their port: connections that end leave
// some at as many ports as there are clients, which would fill all places in a network where nothing is wrong.
//
// A row tells of 128 drops, the largest; the rest is one number for each reason, and which drops are in the rest changes.
// So what is shown is how much drops have grown while they had a row of their own, and the rest of the growth is other's.
type ports struct {
	limit int
	known map[port]bool
	drops map[drop]*dropsByPort
	// beyond is how many combinations of the last row, but for benign ones, have no series of their own.
	beyond int
	takes  uint64
}

// dropsByPort are those for one reason.
type dropsByPort struct {
	total, other int64
	ports        map[port]*portDrops
	// rest is in which take there were drops without a row of their own.
	rest uint64
}

// portDrops are what is shown, what the last row had, and which take that was.
type portDrops struct {
	shown, last int64
	take        uint64
}

func newPorts(limit int) *ports {
	return &ports{limit: limit, known: map[port]bool{}, drops: map[drop]*dropsByPort{}}
}

// take takes over a row.
func (p *ports) take(rows []*v1alpha1.Drop) {
	p.takes++
	p.beyond = 0
	totals, byPort := map[drop]int64{}, map[drop]map[port]int64{}
	for _, row := range rows {
		of := dropOf(row)
		totals[of] += row.Packets
		if byPort[of] == nil {
			byPort[of] = map[port]int64{}
		}
		if row.Attribution != v1alpha1.Drop_ATTRIBUTION_UNSPECIFIED { // otherwise it is the rest
			byPort[of][portOf(row)] += row.Packets
		}
	}
	for _, row := range rows { // the largest first
		if row.Attribution == v1alpha1.Drop_ATTRIBUTION_UNSPECIFIED || row.Class == v1alpha1.Drop_CLASS_BENIGN {
			continue
		}
		if len(p.known) < p.limit {
			p.known[portOf(row)] = true
		}
	}
	for of, total := range totals {
		p.grow(of, total, byPort[of])
	}
}

func portOf(row *v1alpha1.Drop) port {
	p := port{protocol: protocolName(row.Protocol)}
	if row.Port != 0 {
		p.port = strconv.Itoa(int(row.Port))
	}
	return p
}

// grow takes over the drops for one reason.
func (p *ports) grow(of drop, total int64, byPort map[port]int64) {
	d := p.drops[of]
	if d == nil {
		d = &dropsByPort{ports: map[port]*portDrops{}}
		if p.takes == 1 {
			d.total = total // what is in no series by now is in none later
		}
		p.drops[of] = d
	}
	grown := max(0, total-d.total)
	listed := int64(0)
	for at, packets := range byPort {
		listed += packets
		if of.class == benign {
			continue
		}
		if !p.known[at] {
			p.beyond++
			continue
		}
		shown := d.ports[at]
		switch {
		case shown == nil:
			d.ports[at] = &portDrops{shown: packets, last: packets, take: p.takes}
			if d.rest < p.takes-1 { // it was not among the rest before
				grown -= packets
			}
			continue
		case shown.take == p.takes-1:
			growth := max(0, packets-shown.last)
			shown.shown += growth
			grown -= growth
		}
		shown.last, shown.take = max(shown.last, packets), p.takes
	}
	if p.takes > 1 {
		d.other += max(0, grown)
	}
	d.total = max(d.total, total)
	if listed < total {
		d.rest = p.takes
	}
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
			lines = append(lines, line{of, at, shown.shown})
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
