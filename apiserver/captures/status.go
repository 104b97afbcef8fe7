package captures

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// maxRows bounds the rows of a status.
	maxRows = 500
	// rowsEvery is how often a change of rows alone is written.
	rowsEvery = time.Second
)

// finished: the stored object says how it ended.
func (m *machine) finished() bool { return isFinished(m.status) }

func isFinished(status *v1alpha1.CaptureStatus) bool {
	return meta.IsStatusConditionTrue(status.Conditions, v1alpha1.CaptureComplete) ||
		meta.IsStatusConditionTrue(status.Conditions, v1alpha1.CaptureFailed)
}

// report is the status as it ought to be now.
func (m *machine) report(now time.Time) *v1alpha1.CaptureStatus {
	status := m.status.DeepCopy()
	status.ObservedGeneration = m.meta.Generation
	if m.program != nil {
		status.Filter = &v1alpha1.CaptureFilterStatus{Instructions: int32(len(m.program.Ethernet)), HeadersOnly: m.program.HeadersOnly}
	}
	if !m.start.IsZero() && status.StartTime == nil {
		status.StartTime = new(seconds(m.start))
	}
	m.reportTargets(status)
	m.reportControl(status, now)
	m.reportStarted(status, now)
	if m.over() {
		m.reportEnd(status, now)
	}
	m.reportOutputs(status, now)
	return status
}

func seconds(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

func setCondition(status *v1alpha1.CaptureStatus, of string, is bool, reason, message string, now time.Time) {
	condition := metav1.Condition{
		Type: of, Status: metav1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: status.ObservedGeneration, LastTransitionTime: seconds(now),
	}
	if is {
		condition.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

// reportControl writes down what the next leader has to know. What has ended is left as it is.
func (m *machine) reportControl(status *v1alpha1.CaptureStatus, now time.Time) {
	if m.finished() || now.Before(m.begin()) && m.ending == "" {
		return
	}
	control := &v1alpha1.CaptureControl{Revision: m.base, Ending: m.ending, Names: m.names}
	for _, node := range slices.Sorted(maps.Keys(m.members)) {
		mem := m.members[node]
		if mem.absent && !mem.recorded && mem.packets.lease+mem.bytes.lease == 0 {
			continue
		}
		one := v1alpha1.CaptureControlNode{Node: node, Recorded: mem.recorded}
		if m.packets() != none {
			one.Packets = mem.packets.lease
		}
		if m.bytes() != none {
			one.Bytes = mem.bytes.lease
		}
		control.Nodes = append(control.Nodes, one)
	}
	status.Control = control
}

func (m *machine) reportStarted(status *v1alpha1.CaptureStatus, now time.Time) {
	switch {
	case meta.IsStatusConditionTrue(status.Conditions, v1alpha1.CaptureStarted):
	case status.StartTime != nil:
		setCondition(status, v1alpha1.CaptureStarted, true, "Recording", "Packets are recorded.", now)
	case m.ending != "":
		setCondition(status, v1alpha1.CaptureStarted, false, m.ending, "It ended before anything was recorded.", now)
	case now.Before(m.begin()):
		setCondition(status, v1alpha1.CaptureStarted, false, "Scheduled", "It begins at "+m.begin().UTC().Format(time.RFC3339)+".", now)
	case m.refused != nil:
		setCondition(status, v1alpha1.CaptureStarted, false, "Authorizing", "It is asked whether who created the capture may get what its filter or match names.", now)
	case len(m.targets) == 0:
		setCondition(status, v1alpha1.CaptureStarted, false, endNobody, "Nothing that matches is on a node. What comes to match is recorded.", now)
	default:
		setCondition(status, v1alpha1.CaptureStarted, false, "Starting", "Agents are told to record.", now)
	}
}

// over: it has ended, and nothing of its recording will change.
func (m *machine) over() bool {
	if m.ending == "" {
		return false
	}
	for _, mem := range m.members {
		if !mem.settled() {
			return false
		}
	}
	return !m.needsFile()
}

// reportEnd says how it ended. With outputs it is not complete before everything was copied.
func (m *machine) reportEnd(status *v1alpha1.CaptureStatus, now time.Time) {
	status.File = m.file
	if status.CompletionTime == nil {
		status.CompletionTime = new(seconds(m.lastEnd(now)))
	}
	if isFinished(status) {
		return
	}
	if problem := m.problem(status); problem.reason != "" {
		m.fail(status, problem.reason, problem.message, now)
		return
	}
	if len(m.settings.Outputs) > 0 {
		return
	}
	m.complete(status, now)
}

func (m *machine) complete(status *v1alpha1.CaptureStatus, now time.Time) {
	recorded := counted(status.Totals.Packets, "packet")
	if status.Pods > 0 {
		recorded += " of " + counted(int64(status.Pods), "pod")
	}
	message := fmt.Sprintf("%s Recorded: %s on %s.", endings[m.ending], recorded, counted(int64(status.Nodes), "node"))
	setCondition(status, v1alpha1.CaptureComplete, true, m.ending, message, now)
	setCondition(status, v1alpha1.CaptureFailed, false, m.ending, "", now)
}

func (m *machine) fail(status *v1alpha1.CaptureStatus, reason, message string, now time.Time) {
	setCondition(status, v1alpha1.CaptureFailed, true, reason, message, now)
	setCondition(status, v1alpha1.CaptureComplete, false, reason, message, now)
}

// endings begin the message of a capture that is complete.
var endings = map[string]string{
	endStopped:  "It was stopped.",
	endDuration: "Its duration is over.",
	endLimit:    "A limit was reached.",
	endNodes:    "All nodes have ended.",
}

// lastEnd is when the last node ended, as far as an agent's word can be.
func (m *machine) lastEnd(now time.Time) time.Time {
	var last time.Time
	for _, mem := range m.members {
		if mem.ended() && mem.state.EndUnixNano > 0 {
			if at := time.Unix(0, mem.state.EndUnixNano); at.After(last) {
				last = at
			}
		}
	}
	if last.IsZero() || last.After(now) || last.Before(m.start) {
		return now
	}
	return last
}

// A problem is why a capture is not complete.
type problem struct{ reason, message string }

// problem is the gravest, empty when there is none. status has the rows.
func (m *machine) problem(status *v1alpha1.CaptureStatus) problem {
	if m.ending == endFilter {
		return problem{endFilter, fmt.Sprintf("The filter could not be compiled: %v.", m.programErr)}
	}
	if m.ending == endRights {
		return problem{endRights, m.refusedMessage()}
	}
	byReason := map[string][]string{}
	details := map[string]string{}
	for _, node := range slices.Sorted(maps.Keys(m.members)) {
		reason, detail := m.members[node].problem()
		if reason != "" {
			byReason[reason] = append(byReason[reason], node)
			if details[reason] == "" {
				details[reason] = detail
			}
		}
	}
	for _, reason := range []string{"NodeUnreachable", "Lost", "NoAgent", "StorageFull", "Interrupted", "Abandoned", "NodeFailed"} {
		if nodes := byReason[reason]; nodes != nil {
			return problem{reason, fmt.Sprintf(problems[reason], some(nodes), details[reason])}
		}
	}
	if m.fileErr != nil {
		return problem{"FileNotMade", fmt.Sprintf("The file could not be laid out: %v.", m.fileErr)}
	}
	var names []string
	for _, row := range m.rows() {
		if row.Phase == v1alpha1.CaptureTargetFailed {
			names = append(names, rowName(row))
			details["TargetFailed"] = cmp.Or(details["TargetFailed"], row.Message)
		}
	}
	if names != nil {
		return problem{"TargetFailed", fmt.Sprintf("Not everything was recorded of %s: %s.", some(names), strings.TrimSuffix(details["TargetFailed"], "."))}
	}
	if m.start.IsZero() && m.ending != endStopped {
		return problem{endNobody, "There was nothing to record: nothing that matches ran on a node."}
	}
	return problem{}
}

// refusedMessage says why names were not looked up. A leader that comes later knows no more than that.
func (m *machine) refusedMessage() string {
	text := "What its filter or match names was not looked up for who created the capture"
	if m.refused != nil {
		text += ": " + m.refused.message
	}
	return text + "."
}

// problems are messages about nodes, of whom, and of what the first of them said.
var problems = map[string]string{
	"NodeUnreachable": "What was recorded on %s cannot be read: %s.",
	"Lost":            "The agent on %s no longer has what it recorded%s.",
	"NoAgent":         "Nothing was recorded on %s: %s.",
	"StorageFull":     "Recording ended early on %s for want of space%s.",
	"Interrupted":     "The agent on %s was interrupted. Packets that came meanwhile are missing%s.",
	"Abandoned":       "Recording ended on %s as nobody renewed it%s.",
	"NodeFailed":      "Recording failed on %s: %s.",
}

// problem is why a node's part did not end as it was meant to, and details, if there are any.
func (mem *member) problem() (reason, detail string) {
	switch {
	case mem.gaveUp && mem.kind == failedNoAgent && !mem.recorded:
		return "NoAgent", fmt.Sprint(mem.err)
	case mem.gaveUp:
		return "NodeUnreachable", fmt.Sprint(mem.err)
	case mem.lost:
		return "Lost", ""
	case mem.absent && mem.kind == failedNoAgent && mem.err != nil:
		return "NoAgent", fmt.Sprint(mem.err)
	case mem.absent && mem.trouble != nil:
		return "NodeFailed", fmt.Sprint(mem.trouble)
	case mem.state == nil:
		return "", ""
	}
	said := mem.state.Message
	if said != "" {
		said = ": " + said
	}
	switch mem.state.Reason {
	case agentv1.CaptureState_REASON_STORAGE_FULL:
		return "StorageFull", said
	case agentv1.CaptureState_REASON_ABANDONED:
		return "Abandoned", said
	case agentv1.CaptureState_REASON_INTERRUPTED:
		return "Interrupted", said
	case agentv1.CaptureState_REASON_FAILED:
		return "NodeFailed", cmp.Or(mem.state.Message, "the agent does not say why")
	}
	if mem.state.Interruptions > 0 {
		return "Interrupted", said
	}
	return "", ""
}

// some names a few of many.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// reportTargets writes the rows, and sums that are exact also where rows are left out.
func (m *machine) reportTargets(status *v1alpha1.CaptureStatus) {
	if m.finished() && !m.hasNews() {
		return
	}
	rows := m.rows()
	var totals v1alpha1.CaptureCounts
	pods, nodes := map[types.UID]bool{}, map[string]bool{}
	for i := range rows {
		row := &rows[i]
		add(&totals, &row.CaptureCounts)
		if row.Phase == v1alpha1.CaptureRunning || row.Phase == v1alpha1.CaptureEnded || row.Packets > 0 {
			nodes[row.Node] = true
			if row.Pod != "" {
				pods[row.PodUID] = true
			}
		}
	}
	if m.knowsAll() {
		status.Totals, status.Nodes, status.Pods = totals, int32(len(nodes)), int32(len(pods))
	} else {
		status.Totals = largest(status.Totals, totals)
		status.Nodes, status.Pods = max(status.Nodes, int32(len(nodes))), max(status.Pods, int32(len(pods)))
	}
	omitted := status.OmittedTargets
	if status.Targets, status.OmittedTargets = cut(rows); !m.knowsAll() {
		status.OmittedTargets = max(status.OmittedTargets, omitted)
	}
}

// hasNews: a node has said something to this leader.
func (m *machine) hasNews() bool {
	for _, mem := range m.members {
		if mem.state != nil {
			return true
		}
	}
	return false
}

// knowsAll: every node that recorded has said what.
func (m *machine) knowsAll() bool {
	for _, mem := range m.members {
		if mem.recorded && mem.state == nil {
			return false
		}
	}
	return true
}

// cut leaves maxRows rows, those that matter most, in the order of their names.
func cut(rows []v1alpha1.CaptureTarget) (kept []v1alpha1.CaptureTarget, omitted int32) {
	if len(rows) > maxRows {
		slices.SortStableFunc(rows, func(a, b v1alpha1.CaptureTarget) int { return cmp.Compare(rank(&a), rank(&b)) })
		omitted = int32(len(rows) - maxRows)
		rows = rows[:maxRows]
	}
	slices.SortStableFunc(rows, func(a, b v1alpha1.CaptureTarget) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.PodUID, b.PodUID))
	})
	return rows, omitted
}

func rank(row *v1alpha1.CaptureTarget) int {
	switch {
	case row.Phase == v1alpha1.CaptureTargetFailed:
		return 0
	case row.Phase == v1alpha1.CaptureRunning:
		return 1
	case row.Packets > 0:
		return 2
	}
	return 3
}

// rows are all rows, in no order that matters: what agents say, what was stored of nodes that say nothing, and what is not
// recorded yet.
func (m *machine) rows() []v1alpha1.CaptureTarget {
	var rows []v1alpha1.CaptureTarget
	for _, node := range slices.Sorted(maps.Keys(m.members)) {
		mem := m.members[node]
		if mem.state == nil {
			for _, row := range m.status.Targets {
				if row.Node == node && (mem.recorded || m.finished()) {
					rows = append(rows, mem.silentRow(row))
				}
			}
			continue
		}
		rows = append(rows, m.rowsOf(mem)...)
	}
	if m.finished() || m.onlyStored || m.status.CompletionTime != nil {
		return append(rows, m.rowsBeside(rows)...)
	}
	if m.ending != "" && m.targets == nil {
		return append(rows, m.endedBeside(rows)...)
	}
	return m.waitingRows(rows)
}

// endedBeside are rowsBeside for a leader that came when the capture was ending, and does not know what it was to record but
// from them. What an agent had a reason not to record is not taken for recorded.
func (m *machine) endedBeside(rows []v1alpha1.CaptureTarget) []v1alpha1.CaptureTarget {
	beside := m.rowsBeside(rows)
	for i := range beside {
		row := &beside[i]
		switch {
		case row.Phase != v1alpha1.CapturePending:
		case row.Message != "":
			row.Phase, row.Reason = v1alpha1.CaptureTargetFailed, "NotRecorded"
		default:
			row.Phase, row.Reason, row.Message = v1alpha1.CaptureEnded, "NotRecorded", "The capture ended before it could be recorded."
		}
	}
	return beside
}

// rowsBeside are stored rows of a capture that has ended which are of no member: pods that were never recorded.
func (m *machine) rowsBeside(rows []v1alpha1.CaptureTarget) (beside []v1alpha1.CaptureTarget) {
	there := map[string]bool{}
	for i := range rows {
		there[rowKey(&rows[i])] = true
	}
	for _, row := range m.status.Targets {
		if !there[rowKey(&row)] {
			beside = append(beside, row)
		}
	}
	return beside
}

func rowKey(row *v1alpha1.CaptureTarget) string {
	return row.Node + "/" + row.Namespace + "/" + row.Pod + "/" + string(row.PodUID)
}

func rowName(row v1alpha1.CaptureTarget) string {
	if row.Pod == "" {
		return "node " + row.Node
	}
	return "pod " + row.Namespace + "/" + row.Pod
}

// silentRow is what was known of a row whose node does not answer.
func (mem *member) silentRow(row v1alpha1.CaptureTarget) v1alpha1.CaptureTarget {
	switch {
	case mem.lost:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, "Lost", "The agent no longer has what it recorded."
	case mem.gaveUp:
		row.Phase, row.Reason, row.Message = v1alpha1.CaptureTargetFailed, "NodeUnreachable", fmt.Sprint(mem.err)
	case mem.err != nil:
		row.Message = fmt.Sprint(mem.err)
	}
	return row
}

// rowsOf sums the parts of a node's targets.
func (m *machine) rowsOf(mem *member) []v1alpha1.CaptureTarget {
	parts := slices.SortedFunc(slices.Values(mem.state.Parts), func(a, b *agentv1.CapturePart) int { return cmp.Compare(a.Number, b.Number) })
	byTarget := map[string]*v1alpha1.CaptureTarget{}
	var order []*v1alpha1.CaptureTarget
	for _, part := range parts {
		id := part.Namespace + "/" + part.Pod + "/" + part.PodUid
		row := byTarget[id]
		if row == nil {
			row = &v1alpha1.CaptureTarget{
				Node: mem.node, Namespace: part.Namespace, Pod: part.Pod, PodUID: types.UID(part.PodUid), Phase: v1alpha1.CaptureEnded,
			}
			byTarget[id] = row
			order = append(order, row)
		}
		takePart(row, part)
	}
	rows := make([]v1alpha1.CaptureTarget, len(order))
	for i, row := range order {
		row.Message = cmp.Or(row.Message, mem.missingOf(row))
		rows[i] = mem.qualify(*row)
	}
	return rows
}

// counted is a number of things in words: 1 pod, 2 pods.
func counted(n int64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
