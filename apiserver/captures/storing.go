package captures

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// Reasons of the condition Stored.
const (
	storeWaiting   = "Waiting"
	storeUploading = "Uploading"
	storeDone      = "Stored"
	storeFailed    = "UploadFailed"
)

const (
	// storeAgain is how long to wait before an output that could not be used is tried again, storeFor for how long that
	// is done.
	storeAgain, storeFor = 15 * time.Second, 10 * time.Minute
)

// storeCall has a node copy what it recorded, when all have ended, and again when it wants credentials.
func (m *machine) storeCall(mem *member, now time.Time) (*call, time.Time) {
	if len(m.outputsFor(mem)) == 0 || m.meta.DeletionTimestamp != nil {
		return nil, time.Time{}
	}
	if now.Before(mem.storeAt) {
		return nil, mem.storeAt
	}
	mem.storeAt = now.Add(storeAgain)
	return &call{node: mem.node, store: true}, time.Time{}
}

// outputsFor are the outputs that a node does not copy to, and should.
func (m *machine) outputsFor(mem *member) (missing []v1alpha1.CaptureOutput) {
	if !m.over() || len(mem.state.GetParts()) == 0 || mem.lost {
		return nil
	}
	for _, output := range m.settings.Outputs {
		state := outputState(mem.state, output.Name)
		if m.storing[output.Name].final || state != nil && state.Phase != agentv1.CaptureOutputState_PHASE_NEEDS_CREDENTIALS {
			continue
		}
		missing = append(missing, output)
	}
	return missing
}

// cannotStore notes why an output cannot be used. What is not final becomes it in time.
func (m *machine) cannotStore(output, message string, final bool, now time.Time) {
	since := m.endingSince
	if m.status.CompletionTime != nil {
		since = m.status.CompletionTime.Time
	}
	m.storing[output] = storeProblem{message, final || now.Sub(since) > storeFor}
}

// giveUpCopies stops waiting for nodes that have long not answered, or not been able to be told what to copy.
func (m *machine) giveUpCopies(now time.Time, d *decision) {
	if len(m.settings.Outputs) == 0 || m.storesNoMore() || !m.over() {
		return
	}
	for _, mem := range m.members {
		mem.uncopied = nil
		why := mem.storing
		if why.err == nil {
			why = trouble{mem.err, mem.errSince}
		}
		if why.err == nil || !mem.sealed() || mem.lost {
			continue
		}
		if at := why.since.Add(storeFor); now.Before(at) {
			d.soonest(at)
		} else {
			mem.uncopied = why.err
		}
	}
}

// canStore notes that an output can be used after all.
func (m *machine) canStore(output string) { delete(m.storing, output) }

func outputState(state *agentv1.CaptureState, name string) *agentv1.CaptureOutputState {
	for _, output := range state.GetOutputs() {
		if output.Name == name {
			return output
		}
	}
	return nil
}

// reportOutputs writes how far copying is, and what becomes of the capture by it.
func (m *machine) reportOutputs(status *v1alpha1.CaptureStatus, now time.Time) {
	if len(m.settings.Outputs) == 0 || m.storesNoMore() {
		return
	}
	if !m.over() {
		if m.ending == "" {
			setCondition(status, v1alpha1.CaptureStored, false, storeWaiting, "It is copied when it has ended.", now)
		}
		return
	}
	rows, waiting, failed := m.outputRows()
	status.Outputs = rows[:min(len(rows), maxRows)]
	switch {
	case waiting:
		setCondition(status, v1alpha1.CaptureStored, false, storeUploading, m.storeMessage(rows), now)
	case failed != "":
		message := "Not everything could be copied: " + failed + ". What was recorded stays on the nodes."
		setCondition(status, v1alpha1.CaptureStored, false, storeFailed, message, now)
		if !isFinished(status) {
			m.fail(status, storeFailed, message, now)
		}
	case !m.sealedEverywhere():
		setCondition(status, v1alpha1.CaptureStored, false, "NodeUnreachable", "What some nodes recorded cannot be copied while they do not answer.", now)
	default:
		message := "Everything was copied to all outputs."
		if len(rows) == 0 {
			message = "Nothing was recorded that could be copied."
		}
		setCondition(status, v1alpha1.CaptureStored, true, storeDone, message, now)
		if !isFinished(status) {
			m.complete(status, now)
		}
	}
}

// storeMessage says how copying goes, and the first that hinders it.
func (m *machine) storeMessage(rows []v1alpha1.CaptureOutputStatus) string {
	text := "It is being copied."
	for _, name := range slices.Sorted(maps.Keys(m.storing)) {
		text += fmt.Sprintf(" %s: %s.", name, m.storing[name].message)
	}
	hindered := func(row v1alpha1.CaptureOutputStatus) bool {
		return row.Message != "" && m.storing[row.Name].message == ""
	}
	if i := slices.IndexFunc(rows, hindered); i >= 0 {
		text += fmt.Sprintf(" %s of %s: %s.", rows[i].Name, rows[i].Node, rows[i].Message)
	}
	return text
}

func (m *machine) sealedEverywhere() bool {
	for _, mem := range m.members {
		if !mem.sealed() && !mem.absent || mem.lost {
			return false
		}
	}
	return true
}

// outputRows are the rows, those that failed first, whether any is still under way, and why the first failed.
func (m *machine) outputRows() (rows []v1alpha1.CaptureOutputStatus, waiting bool, failed string) {
	for _, node := range slices.Sorted(maps.Keys(m.members)) {
		mem := m.members[node]
		if !mem.sealed() || mem.lost || len(mem.state.Parts) == 0 {
			continue
		}
		for _, output := range m.settings.Outputs {
			row := m.outputRow(mem, output.Name)
			switch row.Phase {
			case v1alpha1.CaptureOutputFailed:
				failed = cmp.Or(failed, fmt.Sprintf("%s of %s: %s", row.Name, node, row.Message))
			case v1alpha1.CaptureOutputStored:
			default:
				waiting = true
			}
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b v1alpha1.CaptureOutputStatus) int {
		return cmp.Compare(outputRank[a.Phase], outputRank[b.Phase])
	})
	return rows, waiting, failed
}

var outputRank = map[v1alpha1.CaptureOutputPhase]int{
	v1alpha1.CaptureOutputFailed: 0, v1alpha1.CaptureOutputUploading: 1, v1alpha1.CaptureOutputPending: 2, v1alpha1.CaptureOutputStored: 3,
}

func (m *machine) outputRow(mem *member, name string) v1alpha1.CaptureOutputStatus {
	row := v1alpha1.CaptureOutputStatus{Name: name, Node: mem.node, Phase: v1alpha1.CaptureOutputPending}
	if problem, ok := m.storing[name]; ok {
		row.Message = problem.message
		if problem.final {
			row.Phase = v1alpha1.CaptureOutputFailed
		}
	}
	state := outputState(mem.state, name)
	if state == nil && mem.storing.err != nil {
		row.Message = cmp.Or(row.Message, fmt.Sprint(mem.storing.err))
	}
	switch state.GetPhase() {
	case agentv1.CaptureOutputState_PHASE_PENDING:
		row.Message = cmp.Or(state.Message, row.Message) // Why it is tried again, after a failure that may pass.
	case agentv1.CaptureOutputState_PHASE_UPLOADING:
		row.Phase, row.Message = v1alpha1.CaptureOutputUploading, state.Message
	case agentv1.CaptureOutputState_PHASE_STORED:
		row.Phase, row.Message = v1alpha1.CaptureOutputStored, state.Message
	case agentv1.CaptureOutputState_PHASE_FAILED:
		row.Phase, row.Message = v1alpha1.CaptureOutputFailed, cmp.Or(state.Message, "the agent does not say why")
	}
	if mem.uncopied != nil && row.Phase != v1alpha1.CaptureOutputStored && row.Phase != v1alpha1.CaptureOutputFailed {
		row.Phase, row.Message = v1alpha1.CaptureOutputFailed, fmt.Sprint(mem.uncopied)
	}
	for _, object := range state.GetObjects() {
		row.Objects = append(row.Objects, v1alpha1.CaptureObject{Key: object.Key, Bytes: object.Bytes, SHA256: object.Sha256})
	}
	return row
}

// storesNoMore: how copying ended is in the stored object.
func (m *machine) storesNoMore() bool {
	stored := meta.FindStatusCondition(m.status.Conditions, v1alpha1.CaptureStored)
	return stored != nil && (stored.Status == metav1.ConditionTrue || stored.Reason == storeFailed)
}

// quiet: nothing is left to do but to wait for the end of its time.
func (m *machine) quiet() bool {
	if !m.finished() || len(m.settings.Outputs) > 0 && !m.storesNoMore() {
		return false
	}
	if m.status.File != nil {
		return true
	}
	for _, mem := range m.members {
		if !mem.settled() || mem.gaveUp {
			return false
		}
	}
	return true
}

// expiry is when the capture is to be deleted; ok is false while that is not known. What could not be copied is kept for
// a day at least.
func (m *machine) expiry() (at time.Time, ok bool) {
	if !m.finished() {
		return time.Time{}, false
	}
	var since time.Time
	live := m.timeToLive()
	for _, condition := range m.status.Conditions {
		final := condition.Status == metav1.ConditionTrue && condition.Type != v1alpha1.CaptureStarted
		if condition.Type == v1alpha1.CaptureStored && condition.Reason == storeFailed {
			final, live = true, max(live, defaultTTL)
		}
		if condition.Type == v1alpha1.CaptureStored && condition.Reason == storeUploading {
			return time.Time{}, false
		}
		if final && condition.LastTransitionTime.After(since) {
			since = condition.LastTransitionTime.Time
		}
	}
	return since.Add(live), true
}

// looks are the nodes that have to be asked how far they are.
func (m *machine) looks(now time.Time) (nodes []string) {
	if m.quiet() {
		return nil
	}
	for node, mem := range m.members {
		open := !mem.settled() || mem.gaveUp || mem.err != nil && !mem.absent && !mem.lost || mem.sealed() && len(m.settings.Outputs) > 0 && !m.storesNoMore()
		if open && !now.Before(mem.retryAt) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// worthWriting says whether a status is to be written now, or else when.
func (m *machine) worthWriting(status *v1alpha1.CaptureStatus, now time.Time) (due bool, at time.Time) {
	if equality.Semantic.DeepEqual(status, m.status) {
		return false, time.Time{}
	}
	after := time.Duration(0)
	switch {
	case !sameCourse(status, m.status):
	case !equality.Semantic.DeepEqual(withoutCounts(status), withoutCounts(m.status)):
		after = rowsEvery
	default:
		after = m.checkpoint
	}
	if at := m.written.Add(after); now.Before(at) {
		return false, at
	}
	return true, time.Time{}
}

// sameCourse: what differs can wait.
func sameCourse(a, b *v1alpha1.CaptureStatus) bool {
	return equality.Semantic.DeepEqual(a.Control, b.Control) && equality.Semantic.DeepEqual(a.File, b.File) &&
		a.ObservedGeneration == b.ObservedGeneration && equality.Semantic.DeepEqual(a.StartTime, b.StartTime) &&
		slices.EqualFunc(a.Conditions, b.Conditions, func(a, b metav1.Condition) bool {
			return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason
		})
}

func withoutCounts(status *v1alpha1.CaptureStatus) *v1alpha1.CaptureStatus {
	status = status.DeepCopy()
	status.Totals = v1alpha1.CaptureCounts{}
	for i := range status.Targets {
		status.Targets[i].CaptureCounts = v1alpha1.CaptureCounts{}
	}
	return status
}
