package flows

import (
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Flags of TCP.
const (
	fin = 1 << 0
	syn = 1 << 1
	rst = 1 << 2
)

// verdict judges a flow by what the kernel's table says of it.
//
// It is rejected when ICMP unreachable came back and nothing else, or when the first packet was a SYN and whoever got it
// sent a reset and never a SYN of its own. It is dropped when the last thing known of it is a drop that is not benign. A packet that is
// dropped on its way out of the pod, or behind the pod's interface on its way in, has been counted at the interface just
// before; one that is dropped on its way to the pod has not. So a drop that is not older than the last counted packet is
// what became of it, and a packet that is younger came through after the drop. Packets have the time of the clock's
// last tick, some milliseconds ago, and drops their own: what comes through within that time after a drop is not told
// from what came before.
func verdict(protocol uint16, f *headers.Flow, class v1alpha1.Drop_Class) v1alpha1.Verdict {
	begun := f.Flags[f.BegunByTransmit&1]
	answered := f.Flags[1-(f.BegunByTransmit&1)]
	refused := protocol == unix.IPPROTO_TCP && begun&syn != 0 && answered&rst != 0 && answered&syn == 0
	answers := f.Receive.Packets
	if f.BegunByTransmit == 0 {
		answers = f.Transmit.Packets
	}
	switch {
	case f.Rejected != 0 && answers == 0 || refused:
		return v1alpha1.Verdict_VERDICT_REJECTED
	case f.Drops > 0 && f.LastDrop >= f.Last && class != v1alpha1.Drop_CLASS_BENIGN:
		return v1alpha1.Verdict_VERDICT_DROPPED
	}
	return v1alpha1.Verdict_VERDICT_FORWARDED
}

// verdict is what fill wrote.
func (r *record) verdict() v1alpha1.Verdict { return v1alpha1.Verdict(r.state & verdictBits) }

const (
	// idleAfter is how long nothing must have been heard of a flow for it to be taken out of the kernel's table.
	idleAfter = 60e9
	// idleAfterEnd is the same for a TCP connection that both sides have ended, or one has reset.
	idleAfterEnd = 5e9
)

// lastOf is when something was last heard of a flow.
func lastOf(f *headers.Flow) uint64 { return max(f.Last, f.LastDrop) }

// idle says whether a flow may be taken out of the kernel's table.
func idle(protocol uint16, f *headers.Flow, now uint64) bool {
	limit := uint64(idleAfter)
	if protocol == unix.IPPROTO_TCP && (f.Flags[0]&f.Flags[1]&fin != 0 || (f.Flags[0]|f.Flags[1])&rst != 0) {
		limit = idleAfterEnd
	}
	return lastOf(f)+limit < now
}
