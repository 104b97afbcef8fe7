package flowlog

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// sampled says whether a flow is one of those that are logged when one out of n is. The answer is the same at both ends
// of a flow and on all nodes, as long as both ends know the same addresses and ports: behind address translation, as
// long as the node of the pod that is told of knows what it made of the peer. What is sampled for some n is also
// sampled for every smaller one.
func sampled(c *flows.Change, n int64) bool {
	if n <= 1 {
		return true
	}
	peer := c.Peer
	if c.Translated.IsValid() {
		peer = c.Translated
	}
	return hash(c.Protocol, c.Local, peer) <= math.MaxUint64/uint64(n)
}

// hash is of a flow, whichever of its ends is named first. It must stay as it is: nodes have agents of different
// versions while they are replaced.
func hash(protocol uint8, a, b netip.AddrPort) uint64 {
	first, second := endBytes(protocol, a), endBytes(protocol, b)
	if string(second[:]) < string(first[:]) {
		first, second = second, first
	}
	// FNV-1a, and the last step of MurmurHash3, without which the upper bits are not spread well.
	const offset, prime = 14695981039346656037, 1099511628211
	h := (offset ^ uint64(protocol)) * prime
	for _, end := range [2]*[18]byte{&first, &second} {
		for _, b := range end {
			h = (h ^ uint64(b)) * prime
		}
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// endBytes are address and port. Protocols without ports have other numbers in their place, which do not belong to an
// end.
func endBytes(protocol uint8, end netip.AddrPort) (b [18]byte) {
	address := end.Addr().As16()
	copy(b[:], address[:])
	if flows.HasPorts(protocol) {
		binary.BigEndian.PutUint16(b[16:], end.Port())
	}
	return b
}
