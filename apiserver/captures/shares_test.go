package captures

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestSharesAreNeverExceeded lets several leaders at a time, of which each thinks that it is the one, share out a limit, with
// requests that come late, answers that are lost, writes of which nobody knows whether they were made, and packets that come when
// they like.
func TestSharesAreNeverExceeded(t *testing.T) {
	var ended, full int
	for seed := range uint64(80) {
		w := newShareWorld(t, seed)
		for range 400 {
			w.step()
			if used := w.used(); used > w.limit {
				t.Fatalf("seed %d: %d packets were recorded of %d", seed, used, w.limit)
			}
		}
		// From here on one leader is left and nothing is lost: it has to come to an end.
		w.calm()
		if w.used() > w.limit {
			t.Fatalf("seed %d: %d packets were recorded of %d", seed, w.used(), w.limit)
		}
		if w.object.Status.Control.Ending == endLimit {
			ended++
		}
		if w.used()*10 >= w.limit*8 {
			full++
		}
	}
	t.Logf("of 80 captures %d ended by the limit, and %d had at least 80%% of it", ended, full)
	if ended < 70 || full < 60 {
		t.Errorf("of 80 captures only %d ended by the limit, and %d had at least 80%% of it", ended, full)
	}
}

// A shareWorld is a stored object, agents and leaders.
type shareWorld struct {
	t       *testing.T
	random  *rand.Rand
	now     time.Time
	limit   int64
	object  *v1alpha1.Capture
	version int
	agents  map[string]*storyAgent
	leaders []*machine
	targets []*target
	// old agents give nothing back, and do not say what they hold.
	old bool
	// late are requests on their way, with whose they are.
	late []lateCall
}

type lateCall struct {
	leader *machine
	call   *call
}

func newShareWorld(t *testing.T, seed uint64) *shareWorld {
	w := &shareWorld{t: t, random: rand.New(rand.NewPCG(seed, 1)), now: epoch, agents: map[string]*storyAgent{}}
	w.limit = 1 + w.random.Int64N(2000)
	w.object = &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", CreationTimestamp: metav1.NewTime(epoch)}}
	w.object.Spec.Limits.Packets, w.object.Spec.VantagePoint = &w.limit, v1alpha1.BothEnds
	w.object.Spec.DurationSeconds = new(int64(86400))
	w.old = seed%4 == 0
	for i := range 1 + w.random.IntN(4) {
		node := fmt.Sprintf("n%d", i)
		w.targets = append(w.targets, &target{Match: Match{Node: node, Namespace: "shop", Pod: node, UID: types.UID(node)}, key: node, running: true})
		w.agents[node] = &storyAgent{}
	}
	w.lead()
	return w
}

// lead adds a leader, which knows the object as it is, or as it was.
func (w *shareWorld) lead() {
	m := newMachine(w.read(), &selection{})
	m.setTargets(w.targets[:1+w.random.IntN(len(w.targets))])
	w.leaders = append(w.leaders, m)
	if len(w.leaders) > 3 {
		w.leaders = w.leaders[1:]
	}
}

func (w *shareWorld) read() *subject {
	s, err := subjectOf(w.object.DeepCopy())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *shareWorld) used() (sum int64) {
	for _, a := range w.agents {
		sum += countsOf(a.state).Packets
	}
	return sum
}

func (w *shareWorld) step() {
	w.now = w.now.Add(time.Duration(w.random.IntN(300)) * time.Millisecond)
	switch n := w.random.IntN(100); {
	case n < 2:
		w.lead()
	case n < 50:
		w.decide(w.leaders[w.random.IntN(len(w.leaders))], true)
	case n < 65:
		w.deliver()
	case n < 75:
		w.look(w.leaders[w.random.IntN(len(w.leaders))])
	case n < 78:
		w.leaders[w.random.IntN(len(w.leaders))].saw(w.read())
	case n < 79:
		for _, a := range w.agents {
			if a.state != nil && w.random.IntN(20) == 0 {
				a.end(agentv1.CaptureState_REASON_PACKETS, w.now)
			}
		}
	default:
		w.traffic(w.random.IntN(60))
	}
}

// traffic brings packets, of which agents keep what they may.
func (w *shareWorld) traffic(packets int) {
	for _, a := range w.agents {
		if a.state == nil || a.state.Phase != agentv1.CaptureState_PHASE_RUNNING || len(a.state.Parts) == 0 || w.random.IntN(2) == 0 {
			continue
		}
		counts := a.state.Parts[0].Counts
		kept := min(int64(packets), max(a.state.GetPacketsLease()-counts.Packets, 0))
		counts.Packets += kept
		counts.LimitDrops += int64(packets) - kept
		counts.Matched += int64(packets)
	}
}

func (w *shareWorld) decide(m *machine, faults bool) {
	if m.needsProgram(w.now) {
		m.compiled(&Program{}, nil, nil)
	}
	d := m.decide(w.now)
	for _, c := range d.calls {
		w.late = append(w.late, lateCall{m, c})
		if faults && w.random.IntN(4) == 0 {
			// The leader gives up on it, but it may arrive yet.
			m.failed(c.node, failedSilent, errNotSynced, w.now)
			m.done(c.node, w.now)
		}
	}
	if d.status != nil {
		w.write(m, d.status, faults)
	}
}

// write writes on condition that the leader knows the newest object. Sometimes it is not told how that ended.
func (w *shareWorld) write(m *machine, status *v1alpha1.CaptureStatus, faults bool) {
	known := m.meta.ResourceVersion == w.object.ResourceVersion
	told := !faults || w.random.IntN(5) > 0
	if known && (told || w.random.IntN(2) == 0) {
		w.version++
		w.object.Status = *status.DeepCopy()
		w.object.ResourceVersion = fmt.Sprint(w.version)
	}
	switch {
	case !told:
		m.uncertain()
	case known:
		m.wrote(w.read(), w.now)
	default:
		m.saw(w.read())
	}
}

// deliver has one of the requests on their way arrive, in any order, or lets it be lost.
func (w *shareWorld) deliver() {
	if len(w.late) == 0 {
		return
	}
	i := w.random.IntN(len(w.late))
	late := w.late[i]
	w.late = slices.Delete(w.late, i, i+1)
	w.arrive(late, w.random.IntN(6) > 0)
}

// arrive does what the request says, if it is not too old, and tells the leader, if that still waits and is told.
func (w *shareWorld) arrive(late lateCall, told bool) {
	a, c, m := w.agents[late.call.node], late.call, late.leader
	var revision int64
	switch {
	case c.ensure != nil:
		revision = c.ensure.Revision
	case c.stop != nil:
		revision = c.stop.Revision
	}
	waits := m.member(c.node).busy && m.member(c.node).revision == revision
	if a.state != nil && revision != 0 && revision < a.state.Revision {
		if waits {
			m.failed(c.node, failedPrecondition, errNotSynced, w.now)
			m.done(c.node, w.now)
		}
		return
	}
	switch {
	case c.ensure != nil && (a.state == nil || a.state.Phase == agentv1.CaptureState_PHASE_RUNNING):
		before := a.state.GetPacketsLease()
		a.ensure(c.ensure, w.now)
		if c.ensure.PacketsLease == nil || w.old {
			a.state.PacketsLease = new(max(before, c.ensure.GetPacketsLease()))
		}
	case c.stop != nil && a.state != nil:
		a.state.Revision = revision
		a.end(agentv1.CaptureState_REASON_STOPPED, w.now)
	case c.seal && a.state != nil:
		a.state.Sealed, a.state.Digest = true, make([]byte, 32)
	}
	if !waits {
		return
	}
	if told && a.state != nil {
		m.answer(c.node, w.said(a), w.now)
	} else {
		m.failed(c.node, failedSilent, errNotSynced, w.now)
	}
	m.done(c.node, w.now)
}

// said is what an agent says of itself.
func (w *shareWorld) said(a *storyAgent) *agentv1.CaptureState {
	state := copied(a.state)
	if w.old {
		state.PacketsLease = nil
	}
	return state
}

func (w *shareWorld) look(m *machine) {
	for _, node := range m.looks(w.now) {
		if a := w.agents[node]; a.state != nil {
			m.answer(node, w.said(a), w.now)
		} else if !m.member(node).busy {
			m.answer(node, nil, w.now)
		}
	}
}

// calm lets one leader alone come to an end under steady traffic.
func (w *shareWorld) calm() {
	for _, late := range w.late {
		w.arrive(late, true)
	}
	w.late = nil
	m := newMachine(w.read(), &selection{})
	m.setTargets(w.targets)
	for range 300 {
		w.now = w.now.Add(time.Second)
		w.traffic(30)
		w.look(m)
		for range 3 {
			w.decide(m, false)
			late := w.late
			w.late = nil
			for _, one := range late {
				w.arrive(one, true)
			}
		}
	}
}
