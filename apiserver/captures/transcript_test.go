package captures

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts in testdata from what the code does")

// epoch is when every story begins.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestStories plays every file in testdata: lines that begin with "> " are commands, those below what do must answer to
// them. Run the test with -rewrite to accept what the code does.
func TestStories(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no stories: ", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { play(t, path) })
	}
}

func play(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, now: epoch}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "> ")
		switch {
		case isCommand:
			got.WriteString(line)
			got.WriteString(s.do(strings.Fields(command)))
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
			got.WriteString(line)
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(text) {
		t.Errorf("%s differs; go test ./apiserver/captures -rewrite accepts this:\n%s", path, got.String())
	}
}

// A story is one capture as a controller sees it.
type story struct {
	t       *testing.T
	now     time.Time
	capture *v1alpha1.Capture
	version int
	m       *machine
	targets []*target
	// lacking are pods that have no, or few, of the interfaces that were named.
	lacking map[string]string
	// refused is why names in the filter are not looked up.
	refused *refusal
	// held: what is to be written is not, until the command write.
	held bool
	// agents hold what each node was told and says.
	agents map[string]*storyAgent
	calls  map[string]*call
}

type storyAgent struct {
	state *agentv1.CaptureState
	names []*agentv1.CaptureName
}

func (s *story) do(words []string) string {
	s.t.Helper()
	switch words[0] {
	case "create":
		return s.create(words[1:])
	case "pod", "gone":
		return s.pod(words)
	case "wait":
		s.now = s.now.Add(s.duration(words[1]))
		return s.decide()
	case "decide":
		return s.decide()
	case "ok":
		return s.answerCall(words[1])
	case "fail":
		return s.failCall(words[1], strings.Join(words[2:], " "))
	case "list":
		return s.list(words[1], words[2:])
	case "silent":
		s.m.notListed(words[1], failedSilent, fmt.Errorf("%s: the agent did not answer in time", words[1]), s.now)
		return s.decide()
	case "unlaid":
		s.m.notLaidOut(words[1], failedSilent, fmt.Errorf("%s: the agent did not describe it", words[1]), s.now)
		return s.decide()
	case "hold":
		s.held = true
		return ""
	case "write":
		s.held = false
		return s.write()
	case "conflict":
		return s.conflict()
	case "file":
		s.m.assembled(&v1alpha1.CaptureFile{Digest: "d16e57", Bytes: 4096}, nil)
		return s.decide()
	case "names":
		return s.names(words[1:])
	case "stop":
		s.capture.Spec.Stop = true
		return s.touch()
	case "hostnetwork":
		for _, uid := range s.m.askHostNetwork(s.now) {
			s.m.hostNetwork[uid] = words[1] == "yes"
		}
		return s.decide()
	case "leader":
		return s.leader()
	case "cannotstore":
		s.m.cannotStore(words[1], strings.Join(words[2:], " "), true, s.now)
		return s.decide()
	case "status":
		return s.status()
	}
	s.t.Fatalf("unknown command %q", words)
	return ""
}

// names refused|unknown REASON: names in the filter are not looked up; names ok: they are.
func (s *story) names(words []string) string {
	s.refused = nil
	if words[0] != "ok" {
		s.refused = &refusal{strings.Join(words[1:], " "), words[0] == "refused"}
	}
	if s.m == nil {
		return ""
	}
	return s.decide()
}

func (s *story) duration(text string) time.Duration {
	s.t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *story) number(text string) int64 {
	s.t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *story) create(words []string) string {
	c := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Generation: 1, CreationTimestamp: metav1.NewTime(s.now)}}
	c.Spec.Pods.Selector = &metav1.LabelSelector{}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "duration":
			c.Spec.DurationSeconds = new(int64(s.duration(value).Seconds()))
		case "packets":
			c.Spec.Limits.Packets = new(s.number(value))
		case "bytes":
			c.Spec.Limits.Bytes = new(resource.MustParse(value))
		case "start":
			c.Spec.StartTime = new(metav1.NewTime(s.now.Add(s.duration(value))))
		case "ttl":
			c.Spec.TTLSecondsAfterFinished = new(int32(s.duration(value).Seconds()))
		case "output":
			c.Spec.Outputs = append(c.Spec.Outputs, v1alpha1.CaptureOutput{Name: value, Volume: &v1alpha1.CaptureOutputVolume{Volume: "v"}})
		case "bothends":
			c.Spec.VantagePoint = v1alpha1.BothEnds
		default:
			s.t.Fatalf("unknown setting %q", word)
		}
	}
	s.capture, s.agents, s.calls = c, map[string]*storyAgent{}, map[string]*call{}
	s.fresh()
	return s.decide()
}

// fresh makes a machine that knows the stored object only.
func (s *story) fresh() {
	s.version++
	s.capture.ResourceVersion = strconv.Itoa(s.version)
	subject, err := subjectOf(s.capture.DeepCopy())
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = newMachine(subject, &selection{})
	s.calls = map[string]*call{}
}

// touch is a change of the stored object by somebody else.
func (s *story) touch() string {
	s.version++
	s.capture.ResourceVersion = strconv.Itoa(s.version)
	s.capture.Generation++
	subject, err := subjectOf(s.capture.DeepCopy())
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.saw(subject)
	return s.decide()
}

// pod NODE/NAME [host] [pending] [no|few] adds a pod, gone NODE/NAME takes it away. It has no, or few, of the interfaces that were named.
func (s *story) pod(words []string) string {
	node, name, _ := strings.Cut(words[1], "/")
	if words[0] == "gone" {
		s.targets = slices.DeleteFunc(s.targets, func(t *target) bool { return t.Pod == name })
	} else {
		n := len(s.targets) + 1
		s.targets = append(s.targets, &target{
			Match:     Match{Node: node, Namespace: "shop", Pod: name, UID: types.UID("uid-" + name), HostNetwork: slices.Contains(words, "host")},
			key:       "uid-" + name,
			addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})},
			running:   !slices.Contains(words, "pending"),
		})
		for _, word := range words {
			if word == "no" || word == "few" {
				s.lacking = map[string]string{name: word}
			}
		}
	}
	if s.m == nil {
		return ""
	}
	s.m.setTargets(s.targets)
	return s.decide()
}

// decide shows what the machine wants done, and keeps its calls.
func (s *story) decide() string {
	if !s.now.Before(s.m.begin()) {
		s.m.setTargets(s.targets)
	}
	if s.m.needsProgram(s.now) {
		s.m.refused = s.refused
	}
	if s.m.needsProgram(s.now) && s.refused == nil {
		s.m.compiled(&Program{Text: "tcp"}, nil, nil)
	}
	d := s.m.decide(s.now)
	var out strings.Builder
	for _, c := range d.calls {
		s.calls[c.node] = c
		out.WriteString("call " + describeCall(c) + "\n")
	}
	if d.status != nil {
		out.WriteString("write\n")
	}
	if d.assemble {
		out.WriteString("assemble\n")
	}
	if d.remove {
		out.WriteString("delete the object\n")
	}
	if d.status != nil && !s.held {
		out.WriteString(s.write())
	}
	return out.String()
}

func describeCall(c *call) string {
	switch {
	case c.ensure != nil:
		var pods []string
		for _, t := range c.ensure.Targets {
			pods = append(pods, t.Pod)
		}
		text := fmt.Sprintf("ensure %s r%s %v for %v", c.node, describeRevision(c.ensure.Revision), pods, time.Duration(c.ensure.DurationNano))
		if len(c.ensure.Peers) > 0 {
			text += " peers"
			for _, peer := range c.ensure.Peers {
				text += " " + netip.AddrFrom4([4]byte(peer)).String()
			}
		}
		if c.ensure.PacketsLease != nil {
			text += fmt.Sprintf(" packets %d", *c.ensure.PacketsLease)
		}
		if c.ensure.BytesLease != nil {
			text += fmt.Sprintf(" bytes %d", *c.ensure.BytesLease)
		}
		return text
	case c.stop != nil:
		return fmt.Sprintf("stop %s r%s", c.node, describeRevision(c.stop.Revision))
	case c.seal:
		return "seal " + c.node
	}
	return "store " + c.node
}

// describeRevision is LEADER.REQUEST.
func describeRevision(revision int64) string {
	return fmt.Sprintf("%d.%d", revision/revisions, revision%revisions)
}

// write writes the status that the machine wants written.
func (s *story) write() string {
	s.capture.Status = *s.m.report(s.now)
	s.version++
	s.capture.ResourceVersion = strconv.Itoa(s.version)
	subject, err := subjectOf(s.capture.DeepCopy())
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.wrote(subject, s.now)
	return s.decide()
}

// conflict is a write of another leader that came before ours.
func (s *story) conflict() string {
	control := s.capture.Status.Control
	if control == nil {
		control = &v1alpha1.CaptureControl{}
		s.capture.Status.Control = control
	}
	control.Revision += revisions
	return s.touch()
}

// leader is another replica, which knows what is stored.
func (s *story) leader() string {
	s.fresh()
	return s.decide()
}

// ok NODE: the agent does what it was told.
func (s *story) answerCall(node string) string {
	c := s.calls[node]
	if c == nil {
		s.t.Fatalf("no call to %s is under way", node)
	}
	delete(s.calls, node)
	a := s.agents[node]
	if a == nil {
		a = &storyAgent{}
		s.agents[node] = a
	}
	var answer *agentv1.CaptureState
	var err error
	switch {
	case c.ensure != nil:
		a.ensure(c.ensure, s.now)
		a.lack(s.lacking)
		answer = a.state
	case a.state == nil:
		err = fmt.Errorf("%s: the agent does not know this capture", node)
		s.m.failed(node, failedUnknown, err, s.now)
	case c.stop != nil:
		a.state.Revision = c.stop.Revision
		a.end(agentv1.CaptureState_REASON_STOPPED, s.now)
		answer = a.state
	case c.seal:
		a.state.Sealed, a.state.Digest = true, make([]byte, 32)
		answer = a.state
	case c.store:
		for _, output := range s.m.outputsFor(s.m.member(node)) {
			a.state.Outputs = append(a.state.Outputs, &agentv1.CaptureOutputState{Name: output.Name, Phase: agentv1.CaptureOutputState_PHASE_UPLOADING})
		}
		answer = a.state
	}
	if answer != nil {
		s.m.answer(node, copied(answer), s.now)
	}
	s.m.noteTrouble(c, err, s.now)
	s.m.done(node, s.now)
	return s.decide()
}

func copied(state *agentv1.CaptureState) *agentv1.CaptureState { return proto.CloneOf(state) }

func (a *storyAgent) ensure(r *agentv1.EnsureCaptureRequest, now time.Time) {
	if a.state == nil {
		a.state = &agentv1.CaptureState{Uid: r.Uid, Phase: agentv1.CaptureState_PHASE_RUNNING, StartUnixNano: now.UnixNano()}
	}
	if a.state.Phase == agentv1.CaptureState_PHASE_ENDED {
		return
	}
	a.state.Revision = r.Revision
	if r.PacketsLease != nil {
		a.state.PacketsLease = new(max(*r.PacketsLease, countsOf(a.state).Packets))
	}
	if r.BytesLease != nil {
		a.state.BytesLease = new(max(*r.BytesLease, countsOf(a.state).Bytes))
	}
	for _, part := range a.state.Parts {
		if !slices.ContainsFunc(r.Targets, func(t *agentv1.CaptureTarget) bool { return t.Key == part.Key }) && part.Phase == agentv1.CaptureState_PHASE_RUNNING {
			part.Phase, part.Reason = agentv1.CaptureState_PHASE_ENDED, agentv1.CaptureState_REASON_NO_LONGER_TARGET
		}
	}
	for _, t := range r.Targets {
		if !slices.ContainsFunc(a.state.Parts, func(p *agentv1.CapturePart) bool { return p.Key == t.Key }) {
			a.state.Parts = append(a.state.Parts, &agentv1.CapturePart{
				Number: uint32(len(a.state.Parts)), Key: t.Key, Namespace: t.Namespace, Pod: t.Pod, PodUid: t.PodUid, Interface: "eth0",
				Phase: agentv1.CaptureState_PHASE_RUNNING, Counts: &agentv1.CaptureCounts{},
			})
		}
	}
}

// lack takes the parts of pods away that have none of the interfaces which were named. Of those that have others it is said only.
func (a *storyAgent) lack(pods map[string]string) {
	for pod, interfaces := range pods {
		key := "uid-" + pod
		a.state.Missing = append(a.state.Missing, &agentv1.CaptureMissing{
			Target: &agentv1.CaptureTarget{Key: key, Namespace: "shop", Pod: pod, PodUid: key}, Reason: "there is no interface net1",
		})
		if interfaces == "no" {
			a.state.Parts = slices.DeleteFunc(a.state.Parts, func(p *agentv1.CapturePart) bool { return p.Key == key })
		}
	}
}

func (a *storyAgent) end(reason agentv1.CaptureState_Reason, now time.Time) {
	if a.state.Phase == agentv1.CaptureState_PHASE_ENDED {
		return
	}
	a.state.Phase, a.state.Reason, a.state.EndUnixNano = agentv1.CaptureState_PHASE_ENDED, reason, now.UnixNano()
	a.state.Missing = nil
	for _, part := range a.state.Parts {
		if part.Phase == agentv1.CaptureState_PHASE_RUNNING {
			part.Phase, part.Reason = agentv1.CaptureState_PHASE_ENDED, reason
		}
	}
}

// fail NODE KIND: the call under way ends with an error.
func (s *story) failCall(node, kind string) string {
	c := s.calls[node]
	if c == nil {
		s.t.Fatalf("no call to %s is under way", node)
	}
	delete(s.calls, node)
	kinds := map[string]failure{"silent": failedSilent, "noagent": failedNoAgent, "precondition": failedPrecondition, "invalid": failedInvalid, "unknown": failedUnknown}
	of, ok := kinds[kind]
	if !ok {
		s.t.Fatalf("unknown failure %q", kind)
	}
	err := errors.New(node + ": " + kind)
	s.m.failed(node, of, err, s.now)
	s.m.noteTrouble(c, err, s.now)
	s.m.done(node, s.now)
	return s.decide()
}

// list NODE [unknown] [packets=N] [drops=N] [ended=REASON] [interrupted] [missing=POD] [stored] [uploadfailed]: the agent says how far it is.
func (s *story) list(node string, words []string) string {
	a := s.agents[node]
	if slices.Contains(words, "unknown") {
		s.m.answer(node, nil, s.now)
		delete(s.agents, node)
		return s.decide()
	}
	if a == nil || a.state == nil {
		s.t.Fatalf("%s knows nothing", node)
	}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "packets":
			counts := a.state.Parts[0].Counts
			counts.Packets, counts.Bytes, counts.Matched = s.number(value), 100*s.number(value), s.number(value)+counts.LimitDrops
		case "drops":
			counts := a.state.Parts[0].Counts
			counts.LimitDrops = s.number(value)
			counts.Matched = counts.Packets + counts.LimitDrops
		case "ended":
			reason, ok := agentv1.CaptureState_Reason_value["REASON_"+strings.ToUpper(value)]
			if !ok {
				s.t.Fatalf("unknown reason %q", value)
			}
			a.end(agentv1.CaptureState_Reason(reason), s.now)
		case "gone":
			for _, part := range a.state.Parts {
				if part.Pod == value {
					part.Phase, part.Reason = agentv1.CaptureState_PHASE_ENDED, agentv1.CaptureState_REASON_TARGET_GONE
				}
			}
		case "interrupted":
			a.state.Interruptions++
		case "missing":
			a.state.Parts = slices.DeleteFunc(a.state.Parts, func(p *agentv1.CapturePart) bool { return p.Pod == value })
			a.state.Missing = []*agentv1.CaptureMissing{{Target: &agentv1.CaptureTarget{Key: "uid-" + value, Namespace: "shop", Pod: value}, Reason: "no process of the pod was found"}}
		case "stored", "uploadfailed", "needscredentials":
			phase := map[string]agentv1.CaptureOutputState_Phase{
				"stored": agentv1.CaptureOutputState_PHASE_STORED, "uploadfailed": agentv1.CaptureOutputState_PHASE_FAILED,
				"needscredentials": agentv1.CaptureOutputState_PHASE_NEEDS_CREDENTIALS,
			}[name]
			for _, output := range a.state.Outputs {
				output.Phase, output.Message = phase, "as the store said"
			}
		default:
			s.t.Fatalf("unknown news %q", word)
		}
	}
	s.m.answer(node, copied(a.state), s.now)
	return s.decide()
}

// status shows what is stored.
func (s *story) status() string {
	var out strings.Builder
	status := &s.capture.Status
	for _, c := range status.Conditions {
		fmt.Fprintf(&out, "%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	for _, row := range status.Targets {
		fmt.Fprintf(&out, "%s/%s %s", row.Node, row.Pod, row.Phase)
		if row.Reason != "" {
			fmt.Fprintf(&out, " %s", row.Reason)
		}
		if row.Matched > 0 {
			fmt.Fprintf(&out, " matched %d packets %d limited %d", row.Matched, row.Packets, row.DroppedByLimit)
		}
		if row.Message != "" {
			fmt.Fprintf(&out, " (%s)", row.Message)
		}
		out.WriteString("\n")
	}
	for _, row := range status.Outputs {
		fmt.Fprintf(&out, "output %s %s %s %s\n", row.Name, row.Node, row.Phase, row.Message)
	}
	fmt.Fprintf(&out, "%d nodes, %d pods, %d packets\n", status.Nodes, status.Pods, status.Totals.Packets)
	if control := status.Control; control != nil {
		var shares []string
		for _, node := range control.Nodes {
			shares = append(shares, fmt.Sprintf("%s recorded=%t %d/%d", node.Node, node.Recorded, node.Packets, node.Bytes))
		}
		fmt.Fprintf(&out, "control %s %q %s\n", describeRevision(control.Revision), control.Ending, strings.Join(shares, ", "))
	}
	if status.File != nil {
		fmt.Fprintf(&out, "file %s %d\n", status.File.Digest, status.File.Bytes)
	}
	return out.String()
}
