package captures

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// renewEvery is how often an agent is told again what it was told, renewWithin after how long without it the
	// agent ends the capture.
	renewEvery, renewWithin = 20 * time.Second, 2 * time.Minute
	// patience is how long an end waits for nodes that do not answer.
	patience = 2 * time.Minute
	// overtime is how much longer than its duration a capture may run by our clock before it is stopped. Agents end it by
	// theirs.
	overtime = 5 * time.Second
	// checkpointEvery is how often progress is written at most, checkpoints how often a second for all captures together.
	checkpointEvery, checkpoints = 5 * time.Second, 40
	// peersEvery is how often agents are told of others' new addresses alone.
	peersEvery = 250 * time.Millisecond
	// longestPause is how long to wait at most before a call that failed is made again.
	longestPause = 10 * time.Second
	// slowly is how often what has little hope is tried.
	slowly = 30 * time.Second
	// revisions is how many requests a leader numbers before it writes a new base: more than there can be.
	revisions = 1 << 32
	// maxRevision is what no leader of a capture gets to, and far enough from the end of the type to go on from: an agent that says
	// more says it of itself alone.
	maxRevision = 1 << 62
)

// A Program is a filter in the form that agents take.
type Program struct {
	// Text is what was compiled.
	Text string
	// Ethernet and Raw are as in agentv1.EnsureCaptureRequest; both are empty for every packet.
	Ethernet, Raw []uint64
	HeadersOnly   bool
}

// A machine is what the leader knows of one capture, and decides what to do about it. It does no I/O: what is seen goes
// in, calls to make and a status to write come out. The caller serializes.
type machine struct {
	*subject
	selection *selection
	// targets match now, by node. A pod that may not be recorded is in them.
	targets map[string][]*target
	// hostNetwork says of pods in their node's network whether the requester may record them; no entry: not asked yet.
	hostNetwork map[types.UID]bool
	members     map[string]*member

	program    *Program
	programErr error
	names      []v1alpha1.CaptureControlName
	// refused is why the requester may not have names looked up, or that this is not known yet.
	refused *refusal

	// base is the revision below all that this leader uses, claimed whether it has been written, sequence how many were used.
	base, sequence int64
	claimed        bool

	// start is when the first node began to record; zero before.
	start time.Time
	// ending is why all nodes are told to end, since when this leader tells them.
	ending      string
	endingSince time.Time
	// file is what all nodes recorded together, once it is known; fileErr why that is not possible, unlaidSince since when nodes do
	// not describe what they recorded.
	file        *v1alpha1.CaptureFile
	fileErr     error
	unlaidSince time.Time
	// storing is why outputs cannot be used, by their names.
	storing map[string]storeProblem

	// written is when the status was last written, checkpoint how long progress alone waits after that.
	written    time.Time
	checkpoint time.Duration
	// onlyStored: targets are not known here, but as stored rows.
	onlyStored bool
}

// A storeProblem is why an output cannot be used.
type storeProblem struct {
	message string
	final   bool
}

// A decision is what to do now.
type decision struct {
	calls []*call
	// status is to be written, nil when there is nothing worth it.
	status *v1alpha1.CaptureStatus
	// assemble asks for the file of the members' states.
	assemble bool
	// remove: its time is over.
	remove bool
	// again is when to decide again without news; zero for never.
	again time.Time
}

// soonest lowers when to decide again.
func (d *decision) soonest(at time.Time) {
	if !at.IsZero() && (d.again.IsZero() || at.Before(d.again)) {
		d.again = at
	}
}

func newMachine(s *subject, selection *selection) *machine {
	m := &machine{selection: selection, checkpoint: checkpointEvery, hostNetwork: map[types.UID]bool{}, members: map[string]*member{}, storing: map[string]storeProblem{}}
	m.saw(s)
	return m
}

// saw takes over the object, as it was read or as it was written.
func (m *machine) saw(s *subject) {
	m.subject = s
	if s.status.StartTime != nil && m.start.IsZero() {
		m.start = s.status.StartTime.Time
	}
	if s.status.File != nil {
		m.file = s.status.File
	}
	var control v1alpha1.CaptureControl
	if s.status.Control != nil {
		control = *s.status.Control
	}
	if m.claimed && control.Revision <= m.base {
		return // Ours, or older than it: then writing will fail, and it is read again.
	}
	m.adopt(&control)
}

// adopt takes over what another leader wrote. Nothing that this one may have thought holds any more.
func (m *machine) adopt(control *v1alpha1.CaptureControl) {
	m.claimed = false
	another := control.Revision+revisions > m.base
	if another {
		m.base, m.sequence = control.Revision+revisions, 0
	}
	if m.program == nil {
		m.names = control.Names
	}
	if control.Ending != "" {
		m.ending = control.Ending
	}
	for _, mem := range m.members {
		mem.packets.adopt(0)
		mem.bytes.adopt(0)
		if another {
			mem.whole, mem.withPeers = 0, 0 // Say it again, with a revision above those of the other.
		}
	}
	for _, node := range control.Nodes {
		mem := m.member(node.Node)
		mem.recorded = mem.recorded || node.Recorded
		mem.packets.adopt(node.Packets)
		mem.bytes.adopt(node.Bytes)
	}
}

// wrote notes that a status was written, which made the object s.
func (m *machine) wrote(s *subject, now time.Time) {
	m.written = now
	if control := s.status.Control; control != nil && control.Revision == m.base {
		m.claimed = true
		for _, node := range control.Nodes {
			mem := m.member(node.Node)
			mem.packets.written, mem.bytes.written = node.Packets, node.Bytes
		}
	}
	m.saw(s)
}

// uncertain notes that a write may have been made, or not: what is stored is not known before the next one.
func (m *machine) uncertain() { m.claimed = false }

// setTargets takes over who matches now.
func (m *machine) setTargets(targets []*target) {
	if m.ending != "" {
		return // What comes now is none.
	}
	m.targets = map[string][]*target{}
	for _, t := range targets {
		m.targets[t.Node] = append(m.targets[t.Node], t)
	}
	for _, of := range m.targets {
		slices.SortFunc(of, (*target).compare)
	}
}

// answer takes over what a node said of the capture, nil when it does not know it.
func (m *machine) answer(node string, state *agentv1.CaptureState, now time.Time) {
	mem := m.member(node)
	mem.err, mem.failures, mem.retryAt, mem.errSince = nil, 0, time.Time{}, time.Time{}
	if mem.gaveUp {
		mem.gaveUp = false
	}
	if state == nil {
		mem.unknown()
		return
	}
	mem.absences, mem.absent = 0, false
	if before := mem.state; before != nil {
		if state.Revision < before.Revision || ended(before) && !ended(state) && state.StartUnixNano == before.StartUnixNano || before.Sealed && !state.Sealed {
			return // A list that was under way meanwhile.
		}
		// One that begins anew does not have what it had.
		mem.lost = mem.lost || state.StartUnixNano != before.StartUnixNano
	}
	mem.state, mem.recorded, mem.reached = state, true, true
	mem.refused, mem.trouble = false, nil
	mem.noteMissing(now)
	m.noteStart(state, now)
	if state.Revision > m.base+m.sequence && state.Revision <= maxRevision {
		// Somebody else leads, or led and its object is lost: what counts is what can be written now.
		m.claimed = false
		m.base, m.sequence = state.Revision+revisions, 0
	}
}

// noteStart takes an agent's word for when it began, as far as it can be.
func (m *machine) noteStart(state *agentv1.CaptureState, now time.Time) {
	if state.StartUnixNano == 0 || len(state.Parts) == 0 {
		return
	}
	began := time.Unix(0, state.StartUnixNano)
	if began.Before(m.begin()) {
		began = m.begin()
	}
	if began.After(now) {
		began = now
	}
	if m.start.IsZero() || began.Before(m.start) && m.status.StartTime == nil {
		m.start = began
	}
}

// failed notes that a call, or a list, was not answered as it should be.
func (m *machine) failed(node string, kind failure, err error, now time.Time) {
	mem := m.member(node)
	if mem.err == nil {
		mem.errSince = now
	}
	mem.err, mem.kind = err, kind
	mem.failures++
	switch kind {
	case failedSilent:
		mem.reached = true
	case failedPrecondition, failedInvalid:
		mem.refused = true
	case failedUnknown:
		mem.absences = 2
		mem.unknown()
	}
	if !mem.recorded && kind != failedUnknown {
		mem.trouble = err
	}
	mem.whole, mem.withPeers = 0, 0
	pause := min(250*time.Millisecond<<min(mem.failures, 6), longestPause)
	if kind == failedInvalid || mem.gaveUp {
		pause = slowly
	}
	mem.retryAt = now.Add(pause)
}

// notListed notes that a list was not answered. What came of calls before then says nothing of what comes of them when it is.
func (m *machine) notListed(node string, kind failure, err error, now time.Time) {
	mem := m.member(node)
	mem.sealing, mem.storing = trouble{}, trouble{}
	if !mem.busy {
		m.failed(node, kind, err, now)
	}
}

// compiled takes over the filter, or why there is none.
func (m *machine) compiled(program *Program, names []v1alpha1.CaptureControlName, err error) {
	m.program, m.programErr = program, err
	m.names, m.refused = names, nil
}

// needsProgram says that the filter has to be compiled.
func (m *machine) needsProgram(now time.Time) bool {
	return m.program == nil && m.programErr == nil && m.ending == "" && !m.finished() && !now.Before(m.begin())
}

// askHostNetwork says that it has to be found out whether the requester may record nodes.
func (m *machine) askHostNetwork(now time.Time) (pods []types.UID) {
	if m.ending != "" || m.finished() || now.Before(m.begin()) {
		return nil
	}
	for _, of := range m.targets {
		for _, t := range of {
			if _, known := m.hostNetwork[t.UID]; t.HostNetwork && !known && !m.cluster {
				pods = append(pods, t.UID)
			}
		}
	}
	return pods
}

// allowed are the targets of a node that may be recorded: all, but for pods in the node's network.
func (m *machine) allowed(node string) []*target {
	all := m.targets[node]
	if m.cluster {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(t *target) bool { return t.HostNetwork && !m.hostNetwork[t.UID] })
}

// asking says that it is not known of a target of the node whether it may be recorded.
func (m *machine) asking(node string) bool {
	return !m.cluster && slices.ContainsFunc(m.targets[node], func(t *target) bool {
		_, known := m.hostNetwork[t.UID]
		return t.HostNetwork && !known
	})
}

// decide says what to do now.
func (m *machine) decide(now time.Time) decision {
	var d decision
	if !m.finished() {
		m.join(now)
		m.noteEnd(now)
		m.apportion(now)
		m.giveUp(now, &d)
	}
	m.giveUpCopies(now, &d)
	status := m.report(now)
	if due, at := m.worthWriting(status, now); due {
		d.status = status
	} else {
		d.soonest(at)
	}
	d.assemble = m.needsFile()
	m.makeCalls(now, &d)
	m.expire(now, &d)
	d.soonest(m.turn(now))
	return d
}

// turn is when the capture begins, or ends by the clock; zero when it has.
func (m *machine) turn(now time.Time) time.Time {
	switch {
	case m.ending != "" || m.finished():
		return time.Time{}
	case now.Before(m.begin()):
		return m.begin()
	case !m.start.IsZero():
		return m.start.Add(m.duration() + overtime)
	}
	if end := m.begin().Add(m.duration()); now.Before(end) {
		return end
	}
	return m.begin().Add(m.duration() + overtime)
}

// join makes members of nodes that host a target. Without a program there is nothing to tell them.
func (m *machine) join(now time.Time) {
	if m.ending != "" || now.Before(m.begin()) || m.program == nil {
		return
	}
	for node := range m.targets {
		if len(m.allowed(node)) > 0 {
			m.member(node)
		}
	}
}

// expire says when the capture's time is over.
func (m *machine) expire(now time.Time, d *decision) {
	at, ok := m.expiry()
	switch {
	case !ok || m.meta.DeletionTimestamp != nil:
	case now.Before(at):
		d.soonest(at)
	default:
		d.remove = true
	}
}
