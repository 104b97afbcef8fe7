package captures

import (
	"cmp"
	"fmt"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// stuckAfter is for how long a pod that runs may be waited for at the end without being called missed.
const stuckAfter = 10 * time.Second

// maxMissing is how many missing targets an agent tells of (PROTOCOL.md, Limits).
const maxMissing = 200

// reasons are agents' reasons as rows name them.
var reasons = map[agentv1.CaptureState_Reason]string{
	agentv1.CaptureState_REASON_STOPPED:          endStopped,
	agentv1.CaptureState_REASON_DURATION:         endDuration,
	agentv1.CaptureState_REASON_PACKETS:          "PacketsReached",
	agentv1.CaptureState_REASON_BYTES:            "BytesReached",
	agentv1.CaptureState_REASON_STORAGE_FULL:     "StorageFull",
	agentv1.CaptureState_REASON_ABANDONED:        "Abandoned",
	agentv1.CaptureState_REASON_INTERRUPTED:      "Interrupted",
	agentv1.CaptureState_REASON_TARGET_GONE:      "TargetGone",
	agentv1.CaptureState_REASON_NO_LONGER_TARGET: "NoLongerTarget",
	agentv1.CaptureState_REASON_FAILED:           "RecordingFailed",
}

// takePart adds a part to the row of its target. Parts come in the order in which they began: an interface that failed
// leaves a target that failed, else the last word is that of the last.
func takePart(row *v1alpha1.CaptureTarget, part *agentv1.CapturePart) {
	counts := countsOfPart(part)
	add(&row.CaptureCounts, &counts)
	failed := part.Reason == agentv1.CaptureState_REASON_FAILED
	switch {
	case part.Phase == agentv1.CaptureState_PHASE_RUNNING:
		if row.Phase != v1alpha1.CaptureTargetFailed {
			row.Phase, row.Reason, row.Message = v1alpha1.CaptureRunning, "", part.Message
		}
	case failed:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, reasons[part.Reason], part.Interface+": "+cmp.Or(part.Message, "recording failed")
	case row.Phase == v1alpha1.CaptureEnded:
		row.Reason, row.Message = cmp.Or(reasons[part.Reason], "Ended"), part.Message
	}
}

// qualify says what is known of a row's node.
func (mem *member) qualify(row v1alpha1.CaptureTarget) v1alpha1.CaptureTarget {
	switch {
	case mem.lost, mem.gaveUp && row.Phase == v1alpha1.CaptureRunning:
		return mem.silentRow(row)
	case mem.err != nil && row.Phase == v1alpha1.CaptureRunning:
		row.Message = fmt.Sprint(mem.err)
	}
	return row
}

// waitingRows adds rows for targets that are not recorded.
func (m *machine) waitingRows(rows []v1alpha1.CaptureTarget) []v1alpha1.CaptureTarget {
	there := map[string]bool{}
	for i := range rows {
		there[rowKey(&rows[i])] = true
	}
	for node, of := range m.targets {
		for _, t := range of {
			row := v1alpha1.CaptureTarget{Node: node, Namespace: t.Namespace, Pod: t.Pod, PodUID: t.UID}
			if there[rowKey(&row)] {
				continue
			}
			m.explain(&row, t)
			if row.Phase != "" {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// explain says why a target is not recorded. A row without a phase is not worth telling.
func (m *machine) explain(row *v1alpha1.CaptureTarget, t *target) {
	set := func(phase v1alpha1.CaptureTargetPhase, reason, message string) {
		row.Phase, row.Reason, row.Message = phase, reason, message
	}
	mem := m.members[t.Node]
	allowed, known := m.hostNetwork[t.UID]
	switch {
	case t.HostNetwork && !m.cluster && known && !allowed:
		set(v1alpha1.CaptureTargetFailed, "HostNetwork", "It is in its node's network, and who created the capture may not create clustercaptures.")
	case m.ending != "":
		m.explainEnd(row, t, mem)
	case t.HostNetwork && !m.cluster && !known:
		set(v1alpha1.CapturePending, "Authorizing", "It is asked whether its node's network may be recorded.")
	case mem == nil:
		set(v1alpha1.CapturePending, "Waiting", "The capture has not begun.")
	case mem.err != nil:
		set(v1alpha1.CapturePending, failureReasons[mem.kind], fmt.Sprint(mem.err))
	case mem.ended():
		set(v1alpha1.CaptureEnded, cmp.Or(reasons[mem.state.Reason], "Ended"), "Recording on its node had ended.")
	default:
		set(v1alpha1.CapturePending, "Starting", mem.missing[t.key].GetReason())
	}
}

var failureReasons = map[failure]string{
	failedSilent: "NodeUnreachable", failedNoAgent: "NoAgent", failedPrecondition: "Refused", failedInvalid: "Refused", failedUnknown: "Lost",
}

// explainEnd is explain when the capture has ended.
func (m *machine) explainEnd(row *v1alpha1.CaptureTarget, t *target, mem *member) {
	switch {
	case mem == nil || m.start.IsZero() && mem.trouble == nil && !m.stuck(t, mem):
		return
	case mem.trouble != nil && mem.refused:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, "Refused", fmt.Sprint(mem.trouble)
	case mem.trouble != nil && mem.kind == failedNoAgent:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, failureReasons[mem.kind], fmt.Sprint(mem.trouble)
	case mem.trouble != nil:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, "NotRecorded", fmt.Sprint(mem.trouble)
	case m.stuck(t, mem):
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, "NotRecorded", mem.missing[t.key].GetReason()
	default:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureEnded, "NotRecorded", "The capture ended before it could be recorded."
	}
}

// stuck says that a target that runs was waited for in vain: for stuckAfter, or half of a capture that was shorter.
func (m *machine) stuck(t *target, mem *member) bool {
	missed, missing := mem.missing[t.key]
	if !missing && len(mem.missing) >= maxMissing {
		return t.running // It may be one of those that the agent left out.
	}
	began := m.start
	if began.IsZero() {
		began = m.begin()
	}
	return missing && t.running && m.endingSince.Sub(missed.since) >= min(stuckAfter, m.endingSince.Sub(began)/2)
}

// missingOf is what is missing of a target that is recorded, as one of its interfaces.
func (mem *member) missingOf(row *v1alpha1.CaptureTarget) string {
	for _, one := range mem.missing {
		if t := one.Target; one.partly && t.GetNamespace() == row.Namespace && t.GetPod() == row.Pod && t.GetPodUid() == string(row.PodUID) {
			return one.Reason
		}
	}
	return ""
}

func countsOf(state *agentv1.CaptureState) (sum v1alpha1.CaptureCounts) {
	for _, part := range state.GetParts() {
		counts := countsOfPart(part)
		add(&sum, &counts)
	}
	return sum
}

func countsOfPart(part *agentv1.CapturePart) v1alpha1.CaptureCounts {
	counts := part.GetCounts()
	return v1alpha1.CaptureCounts{
		Packets: counts.GetPackets(), Bytes: counts.GetBytes(), Matched: counts.GetMatched(),
		DroppedByRing: counts.GetRingDrops(), DroppedByDisk: counts.GetDiskDrops(), DroppedByLimit: counts.GetLimitDrops(),
		AtOtherVantagePoint: counts.GetOtherVantage(),
	}
}

func add(to, counts *v1alpha1.CaptureCounts) {
	each(to, counts, func(a *int64, b int64) { *a += b })
}

func each(a, b *v1alpha1.CaptureCounts, do func(*int64, int64)) {
	do(&a.Packets, b.Packets)
	do(&a.Bytes, b.Bytes)
	do(&a.Matched, b.Matched)
	do(&a.DroppedByRing, b.DroppedByRing)
	do(&a.DroppedByDisk, b.DroppedByDisk)
	do(&a.DroppedByLimit, b.DroppedByLimit)
	do(&a.AtOtherVantagePoint, b.AtOtherVantagePoint)
}

// largest of each count.
func largest(a, b v1alpha1.CaptureCounts) v1alpha1.CaptureCounts {
	each(&a, &b, func(to *int64, count int64) { *to = max(*to, count) })
	return a
}
