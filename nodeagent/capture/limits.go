package capture

import "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"

// limits are those of a capture on this node, and what of them is used. The caller serializes.
type limits struct {
	// A limit or lease below 0 is none.
	packetsLimit, bytesLimit int64
	packetsLease, bytesLease int64
	packets, bytes           int64
}

// none is true when everything is admitted, so that nobody needs to ask.
func (l *limits) none() bool {
	return l.packetsLimit < 0 && l.bytesLimit < 0 && l.packetsLease < 0 && l.bytesLease < 0
}

// admit takes the first n of packets of these sizes. reason is set when a limit ends the capture.
func (l *limits) admit(sizes []int) (n int, reason v1alpha1.CaptureState_Reason) {
	for _, size := range sizes {
		if beyond(l.packetsLimit, l.packets, 1) {
			return n, v1alpha1.CaptureState_REASON_PACKETS
		}
		if beyond(l.bytesLimit, l.bytes, size) {
			return n, v1alpha1.CaptureState_REASON_BYTES
		}
		if beyond(l.packetsLease, l.packets, 1) || beyond(l.bytesLease, l.bytes, size) {
			return n, v1alpha1.CaptureState_REASON_UNSPECIFIED
		}
		l.packets++
		l.bytes += int64(size)
		n++
	}
	return n, l.reached()
}

// reached is set when nothing more will ever be admitted.
func (l *limits) reached() v1alpha1.CaptureState_Reason {
	if l.packetsLimit >= 0 && l.packets >= l.packetsLimit {
		return v1alpha1.CaptureState_REASON_PACKETS
	}
	if l.bytesLimit >= 0 && l.bytes >= l.bytesLimit {
		return v1alpha1.CaptureState_REASON_BYTES
	}
	return v1alpha1.CaptureState_REASON_UNSPECIFIED
}

func beyond(limit, used int64, more int) bool { return limit >= 0 && used+int64(more) > limit }

// grant takes over leases of a later request: what they say, but never less than what was used.
func (l *limits) grant(packets, bytes *int64) {
	if packets != nil {
		l.packetsLease = max(*packets, l.packets)
	}
	if bytes != nil {
		l.bytesLease = max(*bytes, l.bytes)
	}
}
