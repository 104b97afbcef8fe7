package captures

import (
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// Why a capture ends, as conditions name it.
const (
	endStopped  = "Stopped"
	endDuration = "DurationElapsed"
	endLimit    = "LimitReached"
	endNobody   = "NoTargets"
	endFilter   = "FilterNotCompiled"
	endRights   = "NotAuthorized"
	endNodes    = "NodesEnded"
)

// noteEnd notes that the capture is over, and why.
func (m *machine) noteEnd(now time.Time) {
	if m.ending == "" {
		m.ending = m.endNow(now)
	}
	if m.ending != "" && m.endingSince.IsZero() {
		m.endingSince = now
	}
}

func (m *machine) endNow(now time.Time) string {
	switch {
	case m.settings.Stop, m.meta.DeletionTimestamp != nil:
		return endStopped
	case m.programErr != nil:
		return endFilter
	case m.refused != nil && m.refused.final:
		return endRights
	case m.start.IsZero():
		if !now.Before(m.begin().Add(m.duration())) && !m.anyTold() {
			if m.refused != nil {
				return endRights
			}
			return endNobody
		}
		if !now.Before(m.begin().Add(m.duration() + overtime)) {
			return endDuration
		}
		return ""
	case !now.Before(m.start.Add(m.duration() + overtime)):
		return endDuration
	}
	return m.endOfNodes()
}

func (m *machine) anyTold() bool {
	for _, mem := range m.members {
		if mem.told || mem.recorded {
			return true
		}
	}
	return false
}

// endOfNodes is why all nodes have ended, if they have.
func (m *machine) endOfNodes() string {
	reasons := map[agentv1.CaptureState_Reason]bool{}
	for _, mem := range m.members {
		switch {
		case mem.lost, mem.absent && !mem.told:
		case mem.ended():
			reasons[mem.state.Reason] = true
		default:
			return ""
		}
	}
	switch {
	case len(reasons) == 0:
		return ""
	case reasons[agentv1.CaptureState_REASON_STOPPED]:
		return endStopped
	case reasons[agentv1.CaptureState_REASON_DURATION]:
		return endDuration
	case reasons[agentv1.CaptureState_REASON_PACKETS], reasons[agentv1.CaptureState_REASON_BYTES]:
		return endLimit
	}
	return endNodes
}

// giveUp stops waiting for nodes that do not answer at the end.
func (m *machine) giveUp(now time.Time, d *decision) {
	if m.ending == "" {
		return
	}
	for _, mem := range m.members {
		m.giveUpSealing(mem, now, d)
		if mem.err == nil || mem.settled() && (!mem.sealed() || m.file != nil || mem.gaveUp) {
			continue
		}
		if !mem.recorded && (mem.refused || mem.kind == failedNoAgent && !mem.reached) {
			mem.absent = true
			continue
		}
		since := m.endingSince
		if mem.errSince.After(since) {
			since = mem.errSince
		}
		if !now.Before(since.Add(patience)) {
			mem.gaveUp, m.unlaidSince = true, time.Time{}
		} else {
			d.soonest(since.Add(patience))
		}
	}
}

// giveUpSealing stops waiting for a node that answers lists, and never seals what it recorded.
func (m *machine) giveUpSealing(mem *member, now time.Time, d *decision) {
	if mem.sealing.err == nil || mem.settled() {
		return
	}
	if at := mem.sealing.since.Add(patience); now.Before(at) {
		d.soonest(at)
	} else {
		mem.gaveUp, mem.err = true, mem.sealing.err
	}
}

// needsFile says that every node has what it recorded under seal, and the file of all is not known.
func (m *machine) needsFile() bool {
	if m.ending == "" || m.file != nil || m.fileErr != nil || len(m.members) == 0 {
		return false
	}
	any := false
	for _, mem := range m.members {
		switch {
		case mem.absent, mem.lost:
		case mem.sealed() && !mem.gaveUp:
			any = true
		default:
			return false
		}
	}
	return any
}

// notLaidOut notes that a node did not describe what it recorded. One that is silent is given up; for one that answers lists it is not
// waited for ever.
func (m *machine) notLaidOut(node string, kind failure, err error, now time.Time) {
	m.failed(node, kind, err, now)
	if m.unlaidSince.IsZero() {
		m.unlaidSince = now
	}
	if now.Sub(m.unlaidSince) >= 2*patience {
		m.assembled(nil, err)
	}
}

// assembled takes over the file.
func (m *machine) assembled(file *v1alpha1.CaptureFile, err error) {
	m.file, m.fileErr, m.unlaidSince = file, err, time.Time{}
	for _, mem := range m.members {
		if mem.sealed() {
			mem.err, mem.failures = nil, 0 // It has described what it recorded.
		}
	}
}
