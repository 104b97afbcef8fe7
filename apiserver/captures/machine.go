package captures

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
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
	// slowly is how often what has little hope is tried.
	slowly = 30 * time.Second
	// revisions is how many requests a leader numbers before it writes a new base: more than there can be.
	revisions = 1 << 32
)

// Why a capture ends, as conditions name it.
const (
	endStopped  = "Stopped"
	endDuration = "DurationElapsed"
	endLimit    = "LimitReached"
	endNobody   = "NoTargets"
	endFilter   = "FilterNotCompiled"
	endNodes    = "NodesEnded"
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

	// base is the revision below all that this leader uses, claimed whether it has been written, sequence how many were used.
	base, sequence int64
	claimed        bool

	// start is when the first node began to record; zero before.
	start time.Time
	// ending is why all nodes are told to end, since when this leader tells them.
	ending      string
	endingSince time.Time
	// file is what all nodes recorded together, once it is known; fileErr why that is not possible.
	file    *v1alpha1.CaptureFile
	fileErr error
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

// A member is a node that takes part in a capture, or may.
type member struct {
	node string
	// recorded says that the node was seen to record.
	recorded bool
	// state is what it said last, nil when it said nothing to this leader. It is shared and not changed.
	state *agentv1.CaptureState
	// absences are answers, one after the other, that did not know of the capture.
	absences int
	// lost: what was recorded is gone. absent: nothing was. gaveUp: it did not answer for too long.
	lost, absent, gaveUp bool

	// reached says that a call may have got through, refused that the agent does not take the capture; trouble is why it was
	// not seen to record.
	reached, refused bool
	trouble          error

	// busy says that a call is under way.
	busy bool
	// err is why the last call failed, since when calls do, how often, and when to try again.
	err      error
	kind     failure
	errSince time.Time
	failures int
	retryAt  time.Time

	// What the node was told last: the revision, whether it answered, when, and what (all of it, and without peers).
	told             bool
	revision         int64
	answered         time.Time
	whole, withPeers uint64
	peersAt          time.Time

	packets, bytes memberShare
	// storeAt is when to try again to have the node copy what it recorded.
	storeAt time.Time
	// missing is since when targets are missed there, by their keys.
	missing map[string]time.Time
}

// A memberShare is a node's share of one limit.
type memberShare struct {
	share
	// written is the lease in the object that was written last, sent what the node was last told.
	written, sent int64
	// drops is how many packets had been dropped by limits when the node first had its present share; -1 before.
	drops int64
}

// failure is the kind of an error of a call, as far as it matters here.
type failure int

const (
	failedSilent       failure = iota // no answer, or none that says more
	failedNoAgent                     // no agent on this node
	failedPrecondition                // told something later, deleted, or switched off
	failedInvalid                     // will never be taken
	failedUnknown                     // the agent does not know the capture
)

// A call is one to an agent, for the caller to make.
type call struct {
	node   string
	ensure *agentv1.EnsureCaptureRequest
	stop   *agentv1.StopCaptureRequest
	seal   bool
	store  bool
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

func (s *memberShare) adopt(lease int64) {
	s.set(lease)
	s.written, s.sent, s.drops = 0, none, none
}

func (m *machine) member(node string) *member {
	mem := m.members[node]
	if mem == nil {
		mem = &member{node: node, missing: map[string]time.Time{}}
		mem.packets.adopt(0)
		mem.bytes.adopt(0)
		m.members[node] = mem
	}
	return mem
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
	if state.Revision > m.base+m.sequence {
		// Somebody else leads, or led and its object is lost: what counts is what can be written now.
		m.claimed = false
		m.base, m.sequence = state.Revision+revisions, 0
	}
}

// unknown notes that the node does not know of the capture. A list may be older than the call that began it, so it takes
// two.
func (mem *member) unknown() {
	if mem.absences++; mem.absences < 2 {
		return
	}
	if mem.recorded {
		mem.lost = true
	} else {
		mem.absent = true
	}
}

func (mem *member) noteMissing(now time.Time) {
	missing := make(map[string]time.Time, len(mem.state.Missing))
	for _, one := range mem.state.Missing {
		since, ok := mem.missing[one.Target.Key]
		if !ok {
			since = now
		}
		missing[one.Target.Key] = since
	}
	mem.missing = missing
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
	pause := min(250*time.Millisecond<<min(mem.failures, 6), 10*time.Second)
	if kind == failedInvalid || mem.gaveUp {
		pause = slowly
	}
	mem.retryAt = now.Add(pause)
}

func ended(state *agentv1.CaptureState) bool {
	return state != nil && state.Phase == agentv1.CaptureState_PHASE_ENDED
}

func (mem *member) ended() bool   { return ended(mem.state) }
func (mem *member) running() bool { return mem.state != nil && !ended(mem.state) }
func (mem *member) sealed() bool  { return mem.state != nil && mem.state.Sealed }

// settled: nothing about its recording will change, whatever is done.
func (mem *member) settled() bool { return mem.sealed() || mem.lost || mem.absent || mem.gaveUp }

// compiled takes over the filter, or why there is none.
func (m *machine) compiled(program *Program, names []v1alpha1.CaptureControlName, err error) {
	m.program, m.programErr = program, err
	m.names = names
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

// join makes members of nodes that host a target.
func (m *machine) join(now time.Time) {
	if m.ending != "" || now.Before(m.begin()) {
		return
	}
	for node := range m.targets {
		if len(m.allowed(node)) > 0 {
			m.member(node)
		}
	}
}

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
	case m.start.IsZero():
		if !now.Before(m.begin().Add(m.duration())) && !m.anyTold() {
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

// apportion shares out the limits of all nodes together, and ends the capture when they are used up.
func (m *machine) apportion(now time.Time) {
	if m.ending != "" || !m.shared() || len(m.members) == 0 {
		return
	}
	members := slices.SortedFunc(maps.Values(m.members), func(a, b *member) int { return cmp.Compare(a.node, b.node) })
	packets, bytes := make([]*share, len(members)), make([]*share, len(members))
	for i, mem := range members {
		counts := countsOf(mem.state)
		packets[i] = m.prepare(mem, &mem.packets, counts, counts.Packets, mem.state.GetPacketsLease(), 1)
		bytes[i] = m.prepare(mem, &mem.bytes, counts, counts.Bytes, mem.state.GetBytesLease(), int64(m.packetBytes()))
		if mem.state == nil || mem.state.PacketsLease == nil {
			mem.packets.held = mem.packets.lease // It does not say, and so may hold all.
		}
		if mem.state == nil || mem.state.BytesLease == nil {
			mem.bytes.held = mem.bytes.lease
		}
	}
	used := false
	if limit := m.packets(); limit != none {
		used = apportion(limit, 16, packets)
	}
	if limit := m.bytes(); limit != none {
		used = apportion(limit, 16*int64(m.packetBytes()), bytes) || used
	}
	if used {
		m.ending = endLimit
		m.noteEnd(now)
	}
}

// prepare fills in what is known of a node's share. largest is the largest packet, in the limit's unit.
func (m *machine) prepare(mem *member, s *memberShare, counts v1alpha1.CaptureCounts, used, held, largest int64) *share {
	s.used, s.held = used, held
	s.settled = mem.state != nil && mem.revision != 0 && mem.state.Revision >= mem.revision && s.sent == s.ask
	s.ended = mem.ended()
	s.live = !s.ended && !mem.lost && mem.err == nil && (mem.running() || len(m.targets[mem.node]) > 0)
	s.begun = mem.state != nil
	s.starved = false
	if s.settled && !s.lowering() {
		if s.drops == none {
			s.drops = counts.DroppedByLimit
		}
		s.starved = counts.DroppedByLimit > s.drops && s.lease-s.used < largest
	} else {
		s.drops = none
	}
	return &s.share
}

// giveUp stops waiting for nodes that do not answer at the end.
func (m *machine) giveUp(now time.Time, d *decision) {
	if m.ending == "" {
		return
	}
	for _, mem := range m.members {
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
			mem.gaveUp = true
		} else {
			d.soonest(since.Add(patience))
		}
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

// assembled takes over the file.
func (m *machine) assembled(file *v1alpha1.CaptureFile, err error) {
	m.file, m.fileErr = file, err
	for _, mem := range m.members {
		if mem.sealed() {
			mem.err, mem.failures = nil, 0 // It has described what it recorded.
		}
	}
}

// makeCalls says whom to call, in a fixed order.
func (m *machine) makeCalls(now time.Time, d *decision) {
	if m.quiet() {
		return
	}
	among := m.peers()
	for _, node := range slices.Sorted(maps.Keys(m.members)) {
		mem := m.members[node]
		switch {
		case mem.busy:
			continue
		case now.Before(mem.retryAt):
			d.soonest(mem.retryAt)
			continue
		}
		c, at := m.callFor(mem, among, now)
		if c == nil {
			d.soonest(at)
			continue
		}
		mem.busy = true
		d.calls = append(d.calls, c)
	}
}

// callFor is what to tell a node now, or when there will be something.
func (m *machine) callFor(mem *member, peers peers, now time.Time) (c *call, at time.Time) {
	switch {
	case mem.lost && mem.running():
		return m.stopCall(mem)
	case mem.lost, mem.absent && m.ending != "":
		return nil, time.Time{}
	case mem.ended() && !mem.sealed():
		return &call{node: mem.node, seal: true}, time.Time{}
	case mem.sealed():
		return m.storeCall(mem, now)
	case m.ending != "" || m.finished():
		return m.stopCall(mem)
	}
	return m.ensureCall(mem, peers, now)
}

func (m *machine) stopCall(mem *member) (*call, time.Time) {
	if m.ending == endLimit && (m.status.Control == nil || m.status.Control.Ending == "") {
		return nil, time.Time{} // Another leader could not know it from the nodes that have stopped.
	}
	request := &agentv1.StopCaptureRequest{Uid: string(m.uid()), Revision: m.nextRevision()}
	mem.revision = request.Revision
	return &call{node: mem.node, stop: request}, time.Time{}
}

func (m *machine) ensureCall(mem *member, peers peers, now time.Time) (*call, time.Time) {
	targets := m.allowed(mem.node)
	switch {
	case m.program == nil, mem.recorded && mem.state == nil, len(targets) == 0 && !mem.running():
		return nil, time.Time{} // There is news when the first look at the node is done, or pods come.
	case mem.running() && m.asking(mem.node):
		return nil, time.Time{} // To leave out a pod that another leader had recorded would end it.
	case m.shared() && !m.claimed && mem.state == nil:
		return nil, time.Time{} // Nothing is granted that was not written.
	}
	left := m.duration()
	if !m.start.IsZero() {
		left = m.start.Add(m.duration()).Sub(now)
	}
	if left <= 0 && mem.state == nil {
		return nil, time.Time{}
	}
	request := m.request(mem, targets)
	withoutPeers := fingerprint(request)
	whole := withoutPeers ^ peers.fingerprint
	switch {
	case !mem.told, mem.withPeers != withoutPeers, !now.Before(mem.answered.Add(renewEvery)):
	case mem.whole == whole:
		return nil, mem.answered.Add(renewEvery)
	case now.Before(mem.peersAt.Add(peersEvery)):
		return nil, mem.peersAt.Add(peersEvery)
	}
	request.EthernetFilter, request.RawFilter, request.FilterText = m.program.Ethernet, m.program.Raw, m.program.Text
	request.Peers = peers.addresses
	request.DurationNano = int64(max(left, time.Millisecond))
	request.Revision = m.nextRevision()
	mem.revision, mem.told, mem.whole, mem.withPeers, mem.peersAt = request.Revision, true, whole, withoutPeers, now
	mem.packets.sent, mem.bytes.sent = leaseOr(request.PacketsLease), leaseOr(request.BytesLease)
	return &call{node: mem.node, ensure: request}, time.Time{}
}

func leaseOr(lease *int64) int64 {
	if lease == nil {
		return none
	}
	return *lease
}

func (m *machine) nextRevision() int64 {
	m.sequence++
	return m.base + m.sequence
}

// request is what a node is told that may differ from what another is told, but for revision and duration.
func (m *machine) request(mem *member, targets []*target) *agentv1.EnsureCaptureRequest {
	r := &agentv1.EnsureCaptureRequest{
		Uid: string(m.uid()), Namespace: m.meta.Namespace, Name: m.meta.Name,
		SnapLength: m.packetBytes(), RenewWithinNano: int64(renewWithin),
		OncePerFlow: m.settings.VantagePoint != v1alpha1.BothEnds, NetworkSnapshot: m.settings.NetworkSnapshot,
	}
	for _, t := range targets[:min(len(targets), agentv1.MaxCaptureTargets)] {
		r.Targets = append(r.Targets, &agentv1.CaptureTarget{
			Key: t.key, Namespace: t.Namespace, Pod: t.Pod, PodUid: string(t.UID), Interfaces: t.interfaces,
		})
	}
	limits := m.settings.Limits
	if limits.PacketsPerNode != nil {
		r.PacketsLimit = *limits.PacketsPerNode
	}
	if limits.BytesPerNode != nil {
		r.BytesLimit = limits.BytesPerNode.Value()
	}
	// Without a lease the request leaves it as it is. Only who has written the object last may change it.
	if m.packets() != none && m.claimed {
		r.PacketsLease = new(min(mem.packets.ask, mem.packets.written))
	}
	if m.bytes() != none && m.claimed {
		r.BytesLease = new(min(mem.bytes.ask, mem.bytes.written))
	}
	if ring := m.settings.Ring; ring != nil {
		r.RingFiles, r.RingFileBytes = uint32(ring.Files), ring.FileBytes.Value()
	}
	return r
}

// fingerprint tells requests apart.
func fingerprint(request *agentv1.EnsureCaptureRequest) uint64 {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return 0 // Text that is no UTF-8: the call will fail for the same reason.
	}
	sum := fnv.New64a()
	sum.Write(b)
	return max(sum.Sum64(), 1)
}

// peers are the addresses of pods that are being recorded, of all nodes, in a fixed order. A pod that is not recorded yet, or
// no longer, is not among them: the other end of its flows would leave to it what nobody keeps.
func (m *machine) peers() peers {
	if m.settings.VantagePoint == v1alpha1.BothEnds || m.ending != "" {
		return peers{}
	}
	var addresses []netip.Addr
	for node, mem := range m.members {
		if !mem.running() {
			continue
		}
		recorded := map[string]bool{}
		for _, part := range mem.state.Parts {
			if part.Phase == agentv1.CaptureState_PHASE_RUNNING {
				recorded[part.Key] = true
			}
		}
		for _, t := range m.targets[node] {
			if recorded[t.key] && !t.HostNetwork {
				addresses = append(addresses, t.addresses...)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	// A flow whose other end is beyond what a request holds is recorded at both ends, not at none.
	addresses = addresses[:min(len(addresses), agentv1.MaxCapturePeers)]
	found := peers{addresses: make([][]byte, len(addresses))}
	sum := fnv.New64a()
	for i, address := range addresses {
		found.addresses[i] = address.AsSlice()
		sum.Write(found.addresses[i])
	}
	found.fingerprint = sum.Sum64()
	return found
}

// peers are the same in all requests.
type peers struct {
	addresses   [][]byte
	fingerprint uint64
}

// done notes that a call to a node is over.
func (m *machine) done(node string, now time.Time) {
	mem := m.member(node)
	mem.busy = false
	if mem.err == nil {
		mem.answered = now
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
