package captures

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A call is one to an agent, for the caller to make.
type call struct {
	node   string
	ensure *agentv1.EnsureCaptureRequest
	stop   *agentv1.StopCaptureRequest
	seal   bool
	store  bool
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
	case mem.ended() && !mem.sealed() && now.Before(mem.sealAt):
		return nil, mem.sealAt
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

// noteTrouble notes how a call ended that is made until it succeeds.
func (m *machine) noteTrouble(c *call, err error, now time.Time) {
	mem := m.member(c.node)
	switch {
	case c.seal:
		mem.sealing.note(err, now)
		mem.sealAt = now.Add(min(now.Sub(mem.sealing.since), longestPause))
	case c.store:
		mem.storing.note(err, now)
	}
}
