package telemetry

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
)

// wanted is a spec at revision 7 with an exporter.
func wanted() *desired {
	spec := otlp("keys")
	object := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: "cluster", Generation: 3}, Spec: spec}
	return newDesired(point{object: object, revision: 7}, map[use]secret{{name: "keys"}: {headers: map[string]string{"authorization": "Bearer s3cr3t!"}}})
}

// exporting is a node that does what it shall.
func exporting(name string, change ...func(*view)) view {
	v := view{name: name, open: true, inForce: 7, report: &agentv1.TelemetryReport{
		Revision: 7, Exporters: []*agentv1.TelemetryExporterState{{Name: "otlp", Reaching: true, Sent: 10, Dropped: 1}},
	}}
	for _, one := range change {
		one(&v)
	}
	return v
}

func silentNode(v *view) {
	*v = view{name: v.name, lost: epoch.Add(-lossPatience), failure: "the agent at 192.0.2.1:10261 did not answer in time", report: v.report}
}

func fails(v *view) {
	v.report.Exporters[0] = &agentv1.TelemetryExporterState{Name: "otlp", Failing: true, Message: "refused with s3cr3t!", Sent: 5}
}

// lacks makes a node that cannot give something.
func lacks(what, why string) func(*view) {
	return func(v *view) {
		v.report.Lacking = append(v.report.Lacking, &agentv1.TelemetryLack{What: what, Why: why})
	}
}

func TestStatus(t *testing.T) {
	many := func(n int, change ...func(*view)) (views []view) {
		for i := range n {
			views = append(views, exporting(fmt.Sprintf("n%03d", i), change...))
		}
		return views
	}
	for name, test := range map[string]struct {
		nodes    []view
		want     []string // conditions
		problems []string
		lacking  int
	}{
		"all": {nodes: many(3), want: []string{
			"Applied=True AppliedEverywhere: The spec is in force on every node that has an agent (3).",
			"Exporting=True AllReaching: Every exporter reaches its destination from every node that has an agent.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}},
		"none": {want: []string{
			"Applied=False NoAgents: No node has an agent.",
			"Exporting=Unknown WaitingForNodes: otlp reaches its destination from 0 of 0 nodes, and the rest have not answered yet.",
			"WithinLimits=Unknown WaitingForNodes: No node has answered yet.",
		}},
		"many silent": {nodes: append(many(60, silentNode), exporting("z")), want: []string{
			"Applied=False NodesUnreachable: 60 of 61 nodes cannot be reached: n000, n001, n002, n003, n004 and 55 more (n000: the agent at 192.0.2.1:10261 did not answer in time).",
			"Exporting=Unknown WaitingForNodes: otlp reaches its destination from 1 of 61 nodes, and the rest have not answered yet.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}, problems: []string{"n000: the agent at 192.0.2.1:10261 did not answer in time", "50"}},
		"lost a moment ago": {nodes: many(1, func(v *view) { v.open, v.lost, v.failure = false, epoch.Add(-time.Second), "gone" }), want: []string{
			"Applied=True AppliedEverywhere: The spec is in force on every node that has an agent (1).",
			"Exporting=True AllReaching: Every exporter reaches its destination from every node that has an agent.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}},
		"failing": {nodes: append(many(1, fails), exporting("z")), want: []string{
			"Applied=True AppliedEverywhere: The spec is in force on every node that has an agent (2).",
			"Exporting=False ExportersFailing: otlp does not reach its destination from 1 of 2 nodes: n000 (n000: refused with [header]).",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}, problems: []string{"n000: exporter otlp: refused with [header]", "1"}},
		"refused, folded": {nodes: append(many(1, func(v *view) {
			v.inForce, v.refusing = 0, epoch.Add(-time.Minute)
			v.report.Refused, v.report.Folded = strings.Repeat("é", 400), 9
		}), exporting("z", func(v *view) { v.inForce = 6 })), want: []string{
			"Applied=False Refused: 1 of 2 nodes refuse the spec: n000 (n000: " + cut(strings.Repeat("é", 400)) + ").",
			"Exporting=Unknown WaitingForNodes: otlp reaches its destination from 0 of 2 nodes, and the rest have not answered yet.",
			"WithinLimits=False SeriesFolded: Series are folded into others on 1 of 2 nodes: n000. Raise seriesLimit or labelValuesLimit, or choose fewer pods or labels.",
		}, problems: []string{"n000: " + cut("the spec is refused: "+strings.Repeat("é", 400)), "1"}},
		"not all of it": {nodes: append(many(6, lacks("flow logs", "collector flows is off"), lacks("group DNS", "no hook")), exporting("y", lacks("group TCP", "no hook")), exporting("z")), want: []string{
			"Applied=False PartlyApplied: The spec is in force on every node that has an agent (8), but not all of it can be given." +
				" 6 of 8 nodes cannot give flow logs (n000, n001, n002, n003, n004 and 1 more): collector flows is off." +
				" 6 of 8 nodes cannot give group DNS (n000, n001, n002, n003, n004 and 1 more): no hook. 1 of 8 nodes cannot give group TCP (y): no hook.",
			"Exporting=True AllReaching: Every exporter reaches its destination from every node that has an agent.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}, problems: []string{"n000: cannot give flow logs: collector flows is off; cannot give group DNS: no hook", "7"}, lacking: 7},
		"not all of it, and silent": {nodes: append(many(1, lacks("a", "x"), lacks("b", "x"), lacks("c", "x"), lacks("d", "x"), lacks("e", "x"), lacks("f", "x"), lacks("g", "x")),
			exporting("z", silentNode)), want: []string{
			"Applied=False NodesUnreachable: 1 of 2 nodes cannot be reached: z (z: the agent at 192.0.2.1:10261 did not answer in time). 1 of 2 nodes cannot give a (n000): x. 1 of 2 nodes cannot give b (n000): x." +
				" 1 of 2 nodes cannot give c (n000): x. 1 of 2 nodes cannot give d (n000): x. 1 of 2 nodes cannot give e (n000): x. 2 more parts are lacking somewhere.",
			"Exporting=Unknown WaitingForNodes: otlp reaches its destination from 1 of 2 nodes, and the rest have not answered yet.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}, problems: []string{"n000: cannot give a: x; cannot give b: x; cannot give c: x; cannot give d: x; cannot give e: x; cannot give f: x; cannot give g: x", "2"}, lacking: 1},
		"not kept": {nodes: append(many(1, func(v *view) { v.report.Unkept = "no space left on device" }), exporting("z")), want: []string{
			"Applied=True AppliedEverywhere: The spec is in force on every node that has an agent (2). On 1 of 2 nodes it would be lost in a restart: n000.",
			"Exporting=True AllReaching: Every exporter reaches its destination from every node that has an agent.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}, problems: []string{"n000: the spec is in force, but would be lost in a restart: no space left on device", "1"}},
		// What an agent that does another spec lacks, and what its exporters reach, says nothing of this one.
		"another spec": {nodes: many(1, lacks("flow logs", "x"), func(v *view) { v.inForce, v.report.Unkept = 6, "y" }), want: []string{
			"Applied=False Applying: 1 of 1 nodes have not answered yet: n000.",
			"Exporting=Unknown WaitingForNodes: otlp reaches its destination from 0 of 1 nodes, and the rest have not answered yet.",
			"WithinLimits=True WithinLimits: No series is folded into others.",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOutlook(wanted(), test.nodes, epoch)
			status := o.status(&v1alpha1.NetworkTelemetryStatus{})
			if errs := validation.NetworkTelemetryStatus(status); len(errs) > 0 {
				t.Errorf("the status is refused: %v", errs)
			}
			for i, c := range status.Conditions {
				if got := fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message); i >= len(test.want) || got != test.want[i] {
					t.Errorf("got %s", got)
				}
			}
			var problems []string
			if len(status.Problems) > 0 {
				problems = []string{status.Problems[0].Node + ": " + status.Problems[0].Message, fmt.Sprint(len(status.Problems))}
			}
			if fmt.Sprint(problems) != fmt.Sprint(test.problems) {
				t.Errorf("the problems are %q", problems)
			}
			if status.Nodes.Total != int32(len(test.nodes)) || len(status.Exporters) != 1 || status.ObservedGeneration != 3 ||
				int(status.Nodes.Applied) != len(o.by[stateApplied])-test.lacking {
				t.Errorf("the status is %+v", status)
			}
		})
	}
}

// TestStatusOfNobody: selectors that choose no pod are said, once that is known of all nodes.
func TestStatusOfNobody(t *testing.T) {
	want := wanted()
	nobody := &v1alpha1.TelemetryPods{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "webb"}}}
	want.object.Spec.PodMetrics = []v1alpha1.PodMetrics{{Group: v1alpha1.PodTraffic}, {Group: v1alpha1.PodDNS, Pods: nobody}, {Group: v1alpha1.PodTCP, Pods: nobody}}
	want.object.Spec.FlowLogs = &v1alpha1.FlowLogs{Pods: nobody}
	told := func(groups ...agentv1.TelemetryGroupName) func(*view) {
		return func(v *view) {
			v.chosen = want.chosen
			for _, name := range groups {
				v.chose |= 1 << name
			}
		}
	}
	const everywhere = "The spec is in force on every node that has an agent (2)."
	for name, test := range map[string]struct {
		nodes []view
		want  string
	}{
		"one group": {[]view{exporting("a", told()), exporting("b", told(agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TCP))},
			everywhere + " No pod matches the selectors of group DNS, flow logs now."},
		"not told yet": {[]view{exporting("a", told()), exporting("b")}, everywhere},
	} {
		if got := newOutlook(want, test.nodes, epoch).applied(); got.Message != test.want || got.Status != metav1.ConditionTrue {
			t.Errorf("%s: %s %s", name, got.Status, got.Message)
		}
	}
}

// TestStatusOfUnusable: what is in force nowhere says why, and counts are of all nodes together.
func TestStatusOfUnusable(t *testing.T) {
	want := wanted()
	spec := want.object.Spec.DeepCopy()
	spec.Exporters[0].OTLP.CABundle = make([]byte, agentv1.MaxTelemetryBytes)
	want = newDesired(point{object: &v1alpha1.NetworkTelemetry{Spec: *spec}, revision: 7}, nil)
	status := newOutlook(want, []view{exporting("a"), exporting("b", silentNode)}, epoch).status(&v1alpha1.NetworkTelemetryStatus{})
	if c := status.Conditions[0]; c.Reason != reasonSpecUnusable || !strings.Contains(c.Message, "has 10486") {
		t.Errorf("the condition is %+v", c)
	}
	if e := status.Exporters[0]; e.Sent != 20 || e.Dropped != 2 || e.Reaching != 1 || e.Failing != 0 || e.Message != "" {
		t.Errorf("the exporter is %+v", e)
	}
	bad := &v1alpha1.NetworkTelemetry{}
	bad.Spec.FlowLogs = &v1alpha1.FlowLogs{Pods: &v1alpha1.TelemetryPods{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a b": ""}}}}
	if want := newDesired(point{object: bad, revision: 7}, nil); !strings.HasPrefix(want.problem, "spec.flowLogs.pods: selector: ") || want.config != nil {
		t.Errorf("the problem is %q", want.problem)
	}
}

// TestTransitionTimes: a condition keeps its time for as long as it has its status.
func TestTransitionTimes(t *testing.T) {
	nodes := []view{exporting("a")}
	first := newOutlook(wanted(), nodes, epoch).status(&v1alpha1.NetworkTelemetryStatus{})
	fails(&nodes[0])
	second := newOutlook(wanted(), nodes, epoch.Add(time.Hour)).status(first)
	for i, want := range []time.Time{epoch, epoch.Add(time.Hour), epoch} {
		if got := second.Conditions[i].LastTransitionTime.Time; !got.Equal(want) {
			t.Errorf("%s changed at %v", second.Conditions[i].Type, got)
		}
	}
}

func TestWhenToWrite(t *testing.T) {
	at := func(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }
	stored := &v1alpha1.NetworkTelemetryStatus{Nodes: v1alpha1.TelemetryNodes{Total: 1}, Exporters: []v1alpha1.TelemetryExporterStatus{{Name: "a"}}}
	counts, other := stored.DeepCopy(), stored.DeepCopy()
	counts.Exporters[0].Sent = 9
	other.Nodes.Applied = 1
	for _, test := range []struct {
		now, since, wrote float64
		is                *v1alpha1.NetworkTelemetryStatus
		pending, want     bool
	}{
		{100, 0, 0, stored, false, false},
		{100, 0, 99, other, false, false},
		{100, 0, 95, other, false, true},
		{100, 0, 75, counts, false, false},
		{100, 0, 70, counts, false, true},
		{100, 99, 0, other, true, false},
		{100, 99, 0, other, false, true},
		{100, 98, 0, other, true, true},
		{9, 0, -50, other, true, false}, // a leader that has just begun
		{9, 0, -50, other, false, true},
	} {
		s := &scribe{began: at(0), since: at(test.since), wrote: at(test.wrote)}
		if got := s.due(at(test.now), stored, test.is, test.pending); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

// TestSameErrorIsWrittenOnce: what changes with each attempt is left out of errors, or the status would be written for every one.
func TestSameErrorIsWrittenOnce(t *testing.T) {
	at := func(port, second int) *v1alpha1.NetworkTelemetryStatus {
		node := exporting("a", fails)
		node.report.Exporters[0].Message = fmt.Sprintf("the collector cannot be reached: lookup otlp.example.com on 10.96.0.10:53: read udp 192.0.2.7:%d->10.96.0.10:53: i/o timeout", port)
		other := exporting("b", fails)
		other.report.Exporters[0].Message = fmt.Sprintf("the collector cannot be reached: tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-11-23T12:00:%02dZ is after 2026-11-01T00:00:00Z", second)
		return newOutlook(wanted(), []view{node, other}, epoch).status(&v1alpha1.NetworkTelemetryStatus{})
	}
	first, second := at(40001, 1), at(40002, 2)
	if !sameButCounts(first, second) {
		t.Errorf("%v\nand %v", first.Problems, second.Problems)
	}
	want := []string{
		"exporter otlp: the collector cannot be reached: lookup otlp.example.com on 10.96.0.10:53: read udp 10.96.0.10:53: i/o timeout",
		"exporter otlp: the collector cannot be reached: tls: failed to verify certificate: x509: certificate has expired or is not yet valid: the time is after 2026-11-01T00:00:00Z",
	}
	for i, problem := range first.Problems {
		if problem.Message != want[i] {
			t.Errorf("%q", problem.Message)
		}
	}

	n := &node{term: &term{Controller: &Controller{}}, name: "a"}
	n.ended(errors.New("a: connecting to the agent at 192.0.2.1:10261: error reading server preface: read tcp [fd00::1]:40003->[fd00::2]:10261: read: connection reset by peer"))
	if got := n.view().failure; got != "connecting to the agent at 192.0.2.1:10261: error reading server preface: read tcp [fd00::2]:10261: read: connection reset by peer" {
		t.Errorf("%q", got)
	}
}
