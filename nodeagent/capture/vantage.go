package capture

import (
	"bytes"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

// peers are the addresses of pods that are recorded somewhere. A set does not change once it is in use.
type peers map[address]struct{}

// newPeers takes valid addresses, of 4 or 16 bytes each.
func newPeers(addresses [][]byte) peers {
	set := make(peers, len(addresses))
	for _, a := range addresses {
		if len(a) == 4 {
			set[mapped(a)] = struct{}{}
		} else {
			set[address(a)] = struct{}{}
		}
	}
	return set
}

// elsewhere is true for a packet that is kept at the other end of its flow.
func (p peers) elsewhere(f *frame, direction pcapng.Direction) bool {
	if len(p) == 0 || !f.ip {
		return false
	}
	remote := &f.destination
	if direction == pcapng.Inbound {
		remote = &f.source
	} else if direction != pcapng.Outbound {
		return false
	}
	if _, recorded := p[*remote]; !recorded {
		return false
	}
	return !keeps(f, direction == pcapng.Outbound)
}

// keeps says whether this end is the vantage point. Both ends come to opposite answers about the same packet.
func keeps(f *frame, sends bool) bool {
	if source, destination, ok := f.ports(); ok {
		if source != destination {
			return (source > destination) == sends
		}
		if order := bytes.Compare(f.source[:], f.destination[:]); order != 0 {
			return (order < 0) == sends
		}
		return sends
	}
	if asks, answers := f.echo(); asks || answers {
		return asks == sends
	}
	return sends
}
