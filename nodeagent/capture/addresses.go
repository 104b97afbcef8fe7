package capture

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// maxAddresses is how many addresses of a capture are remembered.
const maxAddresses = 10000

// addresses are those that occur in a capture's packets, at most maxAddresses. Safe for concurrent use.
type addresses struct {
	full atomic.Bool
	mu   sync.Mutex
	set  map[address]struct{}
	// saved is how many of them are on disk.
	saved int
}

func (a *addresses) add(one address) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.set) >= maxAddresses {
		a.full.Store(true)
		return
	}
	if a.set == nil {
		a.set = map[address]struct{}{}
	}
	a.set[one] = struct{}{}
}

// list is sorted, each of 4 or 16 bytes.
func (a *addresses) list() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([][]byte, 0, len(a.set))
	for _, one := range slices.SortedFunc(maps.Keys(a.set), func(a, b address) int { return bytes.Compare(a[:], b[:]) }) {
		all = append(all, netip.AddrFrom16(one).Unmap().AsSlice())
	}
	return all
}

// unsaved is the content of a file of all addresses; nil when the one on disk has them.
func (a *addresses) unsaved() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.set) == a.saved {
		return nil
	}
	a.saved = len(a.set)
	content := make([]byte, 0, len(a.set)*len(address{}))
	for one := range a.set {
		content = append(content, one[:]...)
	}
	return content
}

// load takes what unsaved has made.
func (a *addresses) load(content []byte) {
	for ; len(content) >= len(address{}); content = content[len(address{}):] {
		a.add(address(content[:len(address{})]))
	}
	a.saved = len(a.set)
}

// recent spares a part the lock for addresses that it has met lately. It belongs to the part's goroutine.
type recent [256]address

// meet takes the addresses of a packet.
func (r *recent) meet(a *addresses, f *frame) {
	if !f.ip || a.full.Load() {
		return
	}
	for _, one := range [...]*address{&f.source, &f.destination} {
		low := binary.LittleEndian.Uint64(one[8:])
		slot := &r[(low*0x9E3779B97F4A7C15)>>56]
		if *slot != *one {
			*slot = *one
			a.add(*one)
		}
	}
}
