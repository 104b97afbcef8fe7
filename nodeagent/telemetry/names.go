package telemetry

import (
	"net/netip"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// maxAddresses is of how many addresses names are known or wanted.
	maxAddresses = 20_000
	// askAgainAfter is when the name of an address is asked for again: the API server follows only so many, and does not
	// say which it no longer does.
	askAgainAfter = 10 * time.Minute
	// forgetAfter is for how long nobody has to have asked for an address until it is forgotten.
	forgetAfter = 15 * time.Minute
)

// addresses are those of peers. It is safe for concurrent use.
type addresses struct {
	mu     sync.Mutex
	known  map[netip.Addr]*address
	wanted map[netip.Addr]struct{} // by the stream that is open
	// wake says that something is wanted.
	wake chan struct{}
	// stream counts streams: what was answered on an earlier one is not followed any more.
	stream uint64
	// unasked counts how often there was no room for one.
	unasked int64
}

// An address is what is known of one; name is nil while nothing is.
type address struct {
	name     *v1alpha1.TelemetryName
	answered time.Time // or asked for since
	heard    time.Time // when the name came
	used     time.Time
	stream   uint64
}

func newAddresses() *addresses {
	return &addresses{known: map[netip.Addr]*address{}, wanted: map[netip.Addr]struct{}{}, wake: make(chan struct{}, 1)}
}

// Name is who has an address; nil while that is not known, and without an owner when nobody is known to have it. To ask
// is to want to know: the answer comes within a second while the API server's stream is open.
func (s *State) Name(of netip.Addr) *v1alpha1.TelemetryName {
	return s.addresses.name(of.Unmap(), time.Now())
}

// Unasked counts how often a name could not be asked for because 20,000 were known.
func (s *State) Unasked() int64 {
	s.addresses.mu.Lock()
	defer s.addresses.mu.Unlock()
	return s.addresses.unasked
}

func (a *addresses) name(of netip.Addr, now time.Time) *v1alpha1.TelemetryName {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.known[of]
	if known == nil {
		if len(a.known) >= maxAddresses {
			a.unasked++
			return nil
		}
		known = &address{}
		a.known[of] = known
	}
	known.used = now
	if known.stream != a.stream || now.Sub(known.answered) > askAgainAfter {
		if _, already := a.wanted[of]; !already {
			a.wanted[of] = struct{}{}
			a.signal()
		}
	}
	if now.Sub(known.heard) > forgetAfter {
		return nil // nobody has confirmed it since it was asked for again: the address may be somebody else's by now
	}
	return known.name
}

func (a *addresses) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// begin makes everything that is asked for from now on wanted by a new stream, whose number it returns.
func (a *addresses) begin() (stream uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stream++
	a.signal()
	return a.stream
}

// take gives wanted addresses to a stream, and says whether there are more. A stream that another has replaced gets none:
// they would not be asked for again.
func (a *addresses) take(stream uint64) (wanted [][]byte, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if stream != a.stream {
		a.signal() // it may have been woken in the other one's place
		return nil, false
	}
	for of := range a.wanted {
		if len(wanted) == v1alpha1.MaxWantedAddresses {
			return wanted, true
		}
		delete(a.wanted, of)
		wanted = append(wanted, of.AsSlice())
		// Until it is answered it is not wanted again by this stream, which cannot lose it.
		a.known[of].stream, a.known[of].answered = a.stream, time.Now()
	}
	return wanted, false
}

// answer takes over what the API server says. What nobody asked for is left aside.
func (a *addresses) answer(names []*v1alpha1.TelemetryName, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		of, ok := netip.AddrFromSlice(name.GetAddress())
		if known := a.known[of.Unmap()]; ok && known != nil {
			known.name, known.answered, known.heard = name, now, now
		}
	}
}

// forget drops what nobody has asked for in a while.
func (a *addresses) forget(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for of, known := range a.known {
		if now.Sub(known.used) > forgetAfter {
			delete(a.known, of)
			delete(a.wanted, of)
		}
	}
}
