package directory

import (
	"net/netip"
	"slices"
	"time"
)

// A span is a time in which one held an address. Spans of an address are in the order of their beginnings and do not
// overlap.
type span struct {
	holder *holder
	// from and to, which is not in it, are nanoseconds since the Unix epoch; to is 0 while it lasts.
	from, to int64
}

func (s span) covers(at, slack int64) bool {
	return s.from-slack <= at && (s.to == 0 || at < s.to+slack)
}

func (s span) since() time.Time {
	if s.from <= 0 {
		return time.Time{}
	}
	return time.Unix(0, s.from)
}

// slack is how far clocks may be apart before an address has no owner. Within a span it is not needed: only where nobody
// held the address, a neighbour in time is taken.
const slack = 2 * time.Second

// Owner is who held an address at a time.
func (d *Directory) Owner(address netip.Addr, at time.Time) (Owner, bool) {
	owner, _, ok := d.OwnerSince(address, at)
	return owner, ok
}

// OwnerSince is Owner, with since when; zero where that is not known.
func (d *Directory) OwnerSince(address netip.Addr, at time.Time) (owner Owner, since time.Time, ok bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	spans := d.addresses[address]
	for _, allowed := range []time.Duration{0, slack} {
		for _, span := range slices.Backward(spans) {
			if span.covers(at.UnixNano(), int64(allowed)) {
				return span.holder.owner, span.since(), true
			}
		}
	}
	if node, ok := d.conventional[address]; ok {
		return Owner{Node: node}, time.Time{}, true
	}
	return Owner{}, time.Time{}, false
}

// openSpan begins a span. Whoever had the address until then has lost it, told or not.
func (d *Directory) openSpan(address netip.Addr, h *holder, since, now time.Time) {
	spans := d.addresses[address]
	from := since.UnixNano()
	if len(spans) > 0 {
		last := &spans[len(spans)-1]
		if last.to == 0 {
			last.to = max(now.UnixNano(), last.from)
		}
		from = max(from, last.to)
	}
	d.addresses[address] = append(spans, span{holder: h, from: from})
	if !slices.Contains(h.held, address) {
		h.held = append(h.held, address)
	}
}

func (d *Directory) closeSpan(address netip.Addr, h *holder, now time.Time) {
	spans := d.addresses[address]
	for i := range spans {
		if spans[i].holder == h && spans[i].to == 0 {
			spans[i].to = max(now.UnixNano(), spans[i].from)
		}
	}
}

func (d *Directory) dropSpans(address netip.Addr, h *holder) {
	spans := slices.DeleteFunc(d.addresses[address], func(s span) bool { return s.holder == h })
	if len(spans) == 0 {
		delete(d.addresses, address)
		return
	}
	d.addresses[address] = spans
}
