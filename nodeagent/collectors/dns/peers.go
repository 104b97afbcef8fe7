package dns

import (
	"net/netip"
	"time"
)

const (
	// mostPeers is how many addresses are remembered for one pod, and allPeers for all together.
	mostPeers = 1024
	allPeers  = 20_000
	// A name is remembered for the time that its record may be kept, but at least and at most so long: connections go on
	// when a record has expired, and flows are named when they have ended.
	leastTTL = 30 * time.Minute
	mostTTL  = 24 * time.Hour
)

// peers remembers under which name each pod looked up an address. It is not safe for concurrent use.
type peers struct {
	pods  map[uint64]*addressBook
	total int
}

type addressBook struct {
	names map[netip.Addr]peer
	// order has each address at least once, the one looked up longest ago first; former places of an address that was
	// looked up again have another number than its entry.
	order []place
	made  uint64
}

type peer struct {
	name   string
	until  int64 // in seconds since the Unix epoch
	number uint64
}

type place struct {
	address netip.Addr
	number  uint64
}

func newPeers() *peers { return &peers{pods: map[uint64]*addressBook{}} }

func (p *peers) add(pod uint64, a answer, name string, now time.Time) {
	book := p.pods[pod]
	if book == nil {
		book = &addressBook{names: map[netip.Addr]peer{}}
		p.pods[pod] = book
	}
	if _, known := book.names[a.address]; !known {
		if len(book.names) >= mostPeers {
			p.total -= book.removeOldest()
		} else if p.total >= allPeers {
			p.total -= p.largest().removeOldest()
		}
		p.total++
	}
	book.made++
	ttl := min(max(a.ttl, leastTTL), mostTTL)
	book.names[a.address] = peer{name: name, until: now.Add(ttl).Unix(), number: book.made}
	book.order = append(book.order, place{a.address, book.made})
	if len(book.order) > 2*mostPeers {
		book.tidy()
	}
}

func (p *peers) largest() *addressBook {
	var largest *addressBook
	for _, book := range p.pods {
		if largest == nil || len(book.names) > len(largest.names) {
			largest = book
		}
	}
	return largest
}

// removeOldest removes the address that was looked up longest ago, and says how many that were: 1, if there is any.
func (b *addressBook) removeOldest() int {
	for len(b.order) > 0 {
		oldest := b.order[0]
		b.order = b.order[1:]
		if b.names[oldest.address].number == oldest.number {
			delete(b.names, oldest.address)
			return 1
		}
	}
	return 0
}

// tidy removes former places.
func (b *addressBook) tidy() {
	var order []place
	for _, one := range b.order {
		if b.names[one.address].number == one.number {
			order = append(order, one)
		}
	}
	b.order = order
}

func (p *peers) name(pod uint64, address netip.Addr, now time.Time) string {
	book := p.pods[pod]
	if book == nil {
		return ""
	}
	found, ok := book.names[address]
	if !ok || now.Unix() > found.until {
		return ""
	}
	return found.name
}

func (p *peers) forget(pod uint64) {
	if book := p.pods[pod]; book != nil {
		p.total -= len(book.names)
		delete(p.pods, pod)
	}
}
