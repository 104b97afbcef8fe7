package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// writePause is the shortest time between two writes, countsPause that before one that changes counts alone.
	writePause, countsPause = 5 * time.Second, 30 * time.Second
	// A spec that is new, and a leader, wait for answers of the agents before they are written about: the former for as long
	// as most need, the latter for as long as streams take that have to be opened.
	specPatience, termPatience = 2 * time.Second, 10 * time.Second
	// A stream that is lost is another one soon, mostly; a revision that is refused is settled soon.
	lossPatience, refusalPatience = 10 * time.Second, 3 * time.Second

	maxProblems = 50
	// maxLacks is how many parts of a spec a condition names that some nodes cannot give.
	maxLacks        = 5
	maxMessageBytes = 512
	fewNodes        = 5
	// minSecret is how long a word in a header is at least to be taken for a secret.
	minSecret = 6
)

// Reasons of conditions.
const (
	reasonAppliedEverywhere = "AppliedEverywhere"
	reasonApplying          = "Applying"
	reasonRefused           = "Refused"
	reasonUnreachable       = "NodesUnreachable"
	reasonAgentsTooOld      = "AgentsTooOld"
	reasonNoAgents          = "NoAgents"
	reasonSpecUnusable      = "SpecUnusable"
	reasonPartly            = "PartlyApplied"
	reasonReaching          = "AllReaching"
	reasonFailing           = "ExportersFailing"
	reasonWaiting           = "WaitingForNodes"
	reasonWithinLimits      = "WithinLimits"
	reasonFolded            = "SeriesFolded"
)

// state is what is known of a node and a spec.
type state int

const (
	statePending state = iota
	stateApplied
	stateRefused
	stateUnknown
	stateUnreachable
)

// metric is the state as metrics name it.
func (s state) metric() string {
	switch s {
	case stateApplied:
		return "applied"
	case stateRefused, stateUnknown:
		return "refused"
	}
	return "unreachable"
}

// current says that what the agent last said still holds, as far as is known.
func (v *view) current(now time.Time) bool {
	return v.open || !v.lost.IsZero() && now.Sub(v.lost) < lossPatience
}

func (v *view) state(want *desired, now time.Time) state {
	switch {
	case v.unknown:
		return stateUnknown
	case !v.current(now) && v.failure != "":
		return stateUnreachable
	case !v.current(now):
		return statePending
	case v.inForce == want.revision:
		return stateApplied
	case !v.refusing.IsZero() && now.Sub(v.refusing) >= refusalPatience:
		return stateRefused
	}
	return statePending
}

// An outlook is all that is known at a moment, nodes by name.
type outlook struct {
	want  *desired
	now   time.Time
	nodes []view
	// by are the names of nodes by state.
	by map[state][]string
	// lacking are the names of nodes where the spec is in force, but not all of it can be given; unkept those that would lose
	// it in a restart.
	lacking, unkept []string
}

func newOutlook(want *desired, nodes []view, now time.Time) *outlook {
	slices.SortFunc(nodes, func(a, b view) int { return strings.Compare(a.name, b.name) })
	o := &outlook{want: want, now: now, nodes: nodes, by: map[state][]string{}}
	for i := range nodes {
		is := nodes[i].state(want, now)
		o.by[is] = append(o.by[is], nodes[i].name)
		if is == stateApplied && len(nodes[i].report.GetLacking()) > 0 {
			o.lacking = append(o.lacking, nodes[i].name)
		}
		if is == stateApplied && nodes[i].report.GetUnkept() != "" {
			o.unkept = append(o.unkept, nodes[i].name)
		}
	}
	return o
}

// status is what is in force. Conditions that are as before keep their time.
func (o *outlook) status(before *v1alpha1.NetworkTelemetryStatus) *v1alpha1.NetworkTelemetryStatus {
	after := &v1alpha1.NetworkTelemetryStatus{ObservedGeneration: o.want.object.Generation}
	for _, condition := range []*metav1.Condition{o.applied(), o.exporting(), o.withinLimits()} {
		if condition == nil {
			continue
		}
		condition.ObservedGeneration = after.ObservedGeneration
		condition.LastTransitionTime = metav1.NewTime(o.now)
		if last := meta.FindStatusCondition(before.Conditions, condition.Type); last != nil && last.Status == condition.Status {
			condition.LastTransitionTime = last.LastTransitionTime
		}
		after.Conditions = append(after.Conditions, *condition)
	}
	after.Nodes = v1alpha1.TelemetryNodes{Total: int32(len(o.nodes)), Applied: int32(len(o.by[stateApplied]) - len(o.lacking))}
	for i := range o.nodes {
		problem := o.problem(&o.nodes[i])
		if problem == "" {
			continue
		}
		after.Nodes.WithProblems++
		if len(after.Problems) < maxProblems {
			after.Problems = append(after.Problems, v1alpha1.TelemetryNodeProblem{Node: o.nodes[i].name, Message: cut(problem)})
		}
	}
	for i := range o.want.object.Spec.Exporters {
		after.Exporters = append(after.Exporters, o.exporter(o.want.object.Spec.Exporters[i].Name))
	}
	return after
}

func (o *outlook) applied() *metav1.Condition {
	condition := func(status metav1.ConditionStatus, reason, format string, args ...any) *metav1.Condition {
		message := fmt.Sprintf(format, args...) + o.besides()
		return &metav1.Condition{Type: v1alpha1.TelemetryApplied, Status: status, Reason: reason, Message: message}
	}
	refused, old, silent, pending := o.by[stateRefused], o.by[stateUnknown], o.by[stateUnreachable], o.by[statePending]
	total := len(o.nodes)
	switch {
	case o.want.problem != "":
		return condition(metav1.ConditionFalse, reasonSpecUnusable, "The spec is in force nowhere: %s.", o.want.problem)
	case total == 0:
		return condition(metav1.ConditionFalse, reasonNoAgents, "No node has an agent.")
	case len(refused) > 0:
		return condition(metav1.ConditionFalse, reasonRefused, "%s refuse the spec: %s (%s).", of(refused, total), some(refused),
			o.why(refused[0], func(v *view) string { return v.report.GetRefused() }))
	case len(silent) > 0:
		return condition(metav1.ConditionFalse, reasonUnreachable, "%s cannot be reached: %s (%s).", of(silent, total), some(silent),
			o.why(silent[0], func(v *view) string { return v.failure }))
	case len(old) > 0:
		return condition(metav1.ConditionFalse, reasonAgentsTooOld, "%s have agents that do not know telemetry: %s.", of(old, total), some(old))
	case len(pending) > 0:
		return condition(metav1.ConditionFalse, reasonApplying, "%s have not answered yet: %s.", of(pending, total), some(pending))
	case len(o.lacking) > 0:
		return condition(metav1.ConditionFalse, reasonPartly, "The spec is in force on every node that has an agent (%d), but not all of it can be given.", total)
	}
	return condition(metav1.ConditionTrue, reasonAppliedEverywhere, "The spec is in force on every node that has an agent (%d).", total)
}

// why is a reason that holds on a node: that of the first of many, of which the problems and exporters of the status tell more.
func (o *outlook) why(node string, of func(*view) string) string {
	i := slices.IndexFunc(o.nodes, func(v view) bool { return v.name == node })
	return node + ": " + cut(of(&o.nodes[i]))
}

// besides says what nodes on which the spec is in force cannot give, which of them would lose it in a restart, and what is in
// force for no pod.
func (o *outlook) besides() string {
	type lack struct{ what, why string }
	where := map[lack][]string{}
	for i := range o.nodes {
		if v := &o.nodes[i]; v.state(o.want, o.now) == stateApplied {
			for _, one := range v.report.GetLacking() {
				where[lack{one.GetWhat(), one.GetWhy()}] = append(where[lack{one.GetWhat(), one.GetWhy()}], v.name)
			}
		}
	}
	lacks := slices.SortedFunc(maps.Keys(where), func(a, b lack) int {
		return cmp.Or(cmp.Compare(len(where[b]), len(where[a])), cmp.Compare(a.what, b.what), cmp.Compare(a.why, b.why))
	})
	var b strings.Builder
	for _, one := range lacks[:min(len(lacks), maxLacks)] {
		nodes := where[one]
		fmt.Fprintf(&b, " %s cannot give %s (%s): %s.", of(nodes, len(o.nodes)), cut(one.what), some(nodes), cut(one.why))
	}
	if more := len(lacks) - maxLacks; more > 0 {
		fmt.Fprintf(&b, " %d more parts are lacking somewhere.", more)
	}
	if len(o.unkept) > 0 {
		fmt.Fprintf(&b, " On %s it would be lost in a restart: %s.", of(o.unkept, len(o.nodes)), some(o.unkept))
	}
	if idle := o.idle(); len(idle) > 0 {
		fmt.Fprintf(&b, " No pod matches the selectors of %s now.", strings.Join(idle, ", "))
	}
	return b.String()
}

// idle are the parts of the spec with selectors that choose no pod of any node; none while that is not known of all nodes.
func (o *outlook) idle() (parts []string) {
	var chose choice
	for i := range o.nodes {
		if v := &o.nodes[i]; v.chosen != o.want.chosen || v.state(o.want, o.now) != stateApplied {
			return nil
		}
		chose |= o.nodes[i].chose
	}
	if o.want.object == nil || len(o.nodes) == 0 {
		return nil
	}
	spec := &o.want.object.Spec
	for i := range spec.PodMetrics {
		if of := &spec.PodMetrics[i]; of.Pods != nil && chose&(1<<groupNames[of.Group]) == 0 {
			parts = append(parts, "group "+string(of.Group))
		}
	}
	if spec.FlowLogs != nil && spec.FlowLogs.Pods != nil && chose&choosesFlowLogs == 0 {
		parts = append(parts, "flow logs")
	}
	return parts
}

func (o *outlook) exporting() *metav1.Condition {
	exporters := o.want.object.Spec.Exporters
	if len(exporters) == 0 {
		return nil
	}
	var failing, waiting []string
	for i := range exporters {
		name := exporters[i].Name
		from, not := o.reaching(name)
		switch {
		case len(not) > 0:
			failing = append(failing, fmt.Sprintf("%s does not reach its destination from %s: %s (%s)", name, of(not, len(o.nodes)), some(not),
				o.why(not[0], func(v *view) string { return o.message(v.exporter(name)) })))
		case len(from) < len(o.nodes) || len(from) == 0:
			waiting = append(waiting, fmt.Sprintf("%s reaches its destination from %s, and the rest have not answered yet", name, of(from, len(o.nodes))))
		}
	}
	condition := &metav1.Condition{Type: v1alpha1.TelemetryExporting}
	switch {
	case len(failing) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonFailing, sentence(failing)
	case len(waiting) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, reasonWaiting, sentence(waiting)
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, reasonReaching, "Every exporter reaches its destination from every node that has an agent."
	}
	return condition
}

func (o *outlook) withinLimits() *metav1.Condition {
	condition := &metav1.Condition{Type: v1alpha1.TelemetryWithinLimits}
	var folding []string
	heard := false
	for i := range o.nodes {
		v := &o.nodes[i]
		if v.report == nil || !v.current(o.now) {
			continue
		}
		heard = true
		if v.report.Folded > 0 {
			folding = append(folding, v.name)
		}
	}
	switch {
	case len(folding) > 0:
		condition.Status, condition.Reason = metav1.ConditionFalse, reasonFolded
		condition.Message = fmt.Sprintf("Series are folded into others on %s: %s. Raise seriesLimit or labelValuesLimit, or choose fewer pods or labels.",
			of(folding, len(o.nodes)), some(folding))
	case !heard:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, reasonWaiting, "No node has answered yet."
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, reasonWithinLimits, "No series is folded into others."
	}
	return condition
}

// reaching are the nodes from which an exporter's last request was answered well, and those from which it was not. What became of an
// exporter of another spec says nothing of the one that has its name in this.
func (o *outlook) reaching(name string) (from, not []string) {
	for i := range o.nodes {
		v := &o.nodes[i]
		if v.state(o.want, o.now) != stateApplied {
			continue
		}
		switch exporter := v.exporter(name); {
		case exporter.GetFailing():
			not = append(not, v.name)
		case exporter.GetReaching():
			from = append(from, v.name)
		}
	}
	return from, not
}

// exporter is what a node last said of one; nil for nothing.
func (v *view) exporter(name string) *agentv1.TelemetryExporterState {
	for _, exporter := range v.report.GetExporters() {
		if exporter.Name == name {
			return exporter
		}
	}
	return nil
}

// exporter sums up an exporter. Counts of nodes that cannot be reached are the last that were told.
func (o *outlook) exporter(name string) v1alpha1.TelemetryExporterStatus {
	from, not := o.reaching(name)
	status := v1alpha1.TelemetryExporterStatus{Name: name, Reaching: int32(len(from)), Failing: int32(len(not))}
	for i := range o.nodes {
		exporter := o.nodes[i].exporter(name)
		status.Sent += exporter.GetSent()
		status.Dropped += exporter.GetDropped()
	}
	if len(not) > 0 {
		status.Message = o.why(not[0], func(v *view) string { return o.message(v.exporter(name)) })
	}
	return status
}

// problem is what is wrong on a node; empty for nothing.
func (o *outlook) problem(v *view) string {
	switch v.state(o.want, o.now) {
	case stateUnreachable, stateUnknown:
		return v.failure
	case stateRefused:
		return "the spec is refused: " + v.report.GetRefused()
	case statePending:
		return ""
	}
	var problems []string
	for _, lack := range v.report.GetLacking() {
		problems = append(problems, fmt.Sprintf("cannot give %s: %s", lack.GetWhat(), lack.GetWhy()))
	}
	if why := v.report.GetUnkept(); why != "" {
		problems = append(problems, "the spec is in force, but would be lost in a restart: "+why)
	}
	for i := range o.want.object.Spec.Exporters {
		name := o.want.object.Spec.Exporters[i].Name
		if exporter := v.exporter(name); exporter.GetFailing() {
			problems = append(problems, fmt.Sprintf("exporter %s: %s", name, o.message(exporter)))
		}
	}
	return strings.Join(problems, "; ")
}

// message is why an exporter fails. Collectors may send back what they were sent, and agents may pass it on: what is in a header is
// never shown.
func (o *outlook) message(exporter *agentv1.TelemetryExporterState) string {
	message := steady(cmp.Or(exporter.GetMessage(), "no reason is told"))
	for _, to := range o.want.config.GetExporters() {
		for _, value := range to.GetOtlp().GetHeaders() {
			for _, word := range strings.Fields(value) {
				if len(word) >= minSecret {
					message = strings.ReplaceAll(message, word, "[header]")
				}
			}
		}
	}
	return message
}

// What errors have that is another with each attempt: our own port of a connection or a question to DNS, and the time at which a
// certificate was found to have expired.
var (
	ownAddress = regexp.MustCompile(`\b((?:dial|read|write) (?:tcp|udp)[46]? )\S+->`)
	timeOfDay  = regexp.MustCompile(`\bcurrent time \S+ is `)
)

// steady is an error without that: for as long as it is the same one, its text is, and nothing is written for it.
func steady(text string) string {
	return timeOfDay.ReplaceAllString(ownAddress.ReplaceAllString(text, "$1"), "the time is ")
}

// of counts nodes among all.
func of(nodes []string, total int) string { return fmt.Sprintf("%d of %d nodes", len(nodes), total) }

// some names a few of many.
func some(names []string) string {
	if len(names) <= fewNodes {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:fewNodes], ", "), len(names)-fewNodes)
}

func sentence(parts []string) string { return strings.Join(parts, "; ") + "." }

// cut shortens a text, between two characters.
func cut(text string) string {
	if len(text) <= maxMessageBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessageBytes], "") + "..."
}

// sameButCounts says whether two statuses differ in counts alone, if at all.
func sameButCounts(a, b *v1alpha1.NetworkTelemetryStatus) bool {
	return equality.Semantic.DeepEqual(withoutCounts(a), withoutCounts(b))
}

func withoutCounts(status *v1alpha1.NetworkTelemetryStatus) *v1alpha1.NetworkTelemetryStatus {
	status = status.DeepCopy()
	for i := range status.Exporters {
		status.Exporters[i].Sent, status.Exporters[i].Dropped = 0, 0
	}
	return status
}

// A scribe decides when a status is written. It does no I/O.
type scribe struct {
	// began is when this replica began to lead, since when the spec came to be wanted, wrote when the status was last written.
	began, since, wrote time.Time
}

// due says whether a status that differs from the stored one is to be written now. pending: some nodes have not answered.
func (s *scribe) due(now time.Time, stored, is *v1alpha1.NetworkTelemetryStatus, pending bool) bool {
	early := now.Sub(s.since) < specPatience || now.Sub(s.began) < termPatience
	switch {
	case pending && early:
		return false
	case !sameButCounts(stored, is):
		return now.Sub(s.wrote) >= writePause
	case equality.Semantic.DeepEqual(stored, is):
		return false
	}
	return now.Sub(s.wrote) >= countsPause
}

// report writes the status until ctx ends.
func (t *term) report(ctx context.Context) {
	ticker := t.cfg.Clock.NewTicker(everySecond)
	defer ticker.Stop()
	s, warned := &scribe{began: t.began}, ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		warned = warn(ctx, t.write(ctx, s), warned, "The status of the NetworkTelemetry cannot be written and is tried again")
	}
}

// write writes the status if it is time.
func (t *term) write(ctx context.Context, s *scribe) error {
	t.mu.Lock()
	want, object := t.wanted, t.object
	s.since = t.since
	t.mu.Unlock()
	if want == nil || want.object == nil || object == nil || !sameSpec(want.object, object) {
		return nil
	}
	now := t.cfg.Clock.Now()
	o := newOutlook(want, t.views(), now)
	status := o.status(&object.Status)
	if !s.due(now, &object.Status, status, len(o.by[statePending]) > 0 || len(o.nodes) == 0) {
		return nil
	}
	s.wrote = now
	object = object.DeepCopy()
	object.Status = *status
	written, err := t.cfg.Own.NetworkobservabilityV1alpha1().NetworkTelemetries().UpdateStatus(ctx, object, metav1.UpdateOptions{})
	switch {
	case err == nil:
		t.keep(written)
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		t.lookAgain() // somebody has written or deleted it meanwhile
	default:
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
