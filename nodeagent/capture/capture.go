package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A capture is one Capture or ClusterCapture on this node.
//
// Locks are taken in this order: ensuring, joining, saving, mu, and then those of parts.
type capture struct {
	manager   *Manager
	uid       string
	root      *os.Root // its folder
	addresses addresses
	peers     atomic.Pointer[peers]
	// full is set when nothing more can be written.
	full atomic.Bool
	// forgetful has targets looked at as if nothing was known of them.
	forgetful atomic.Bool
	// saving is held while the meta file is written, and unsaved is set when that failed the last time.
	saving  sync.Mutex
	unsaved atomic.Bool

	limiting sync.Mutex
	limits   limits
	over     bool // a limit was reached

	// ensuring is held while targets are made parts, and while parts are ended.
	ensuring sync.Mutex
	seen     map[string]sighting // by key of target
	snapped  map[string]bool     // by UID of pod, which the node has none of
	asleep   bool                // all parts were ended
	// snapshotsBegun is the number of the next snapshot.
	snapshotsBegun int
	// recording are the goroutines of parts, snapshots those that take some.
	recording, snapshots sync.WaitGroup
	snapshotBytes        atomic.Int64 // on disk

	// joining is held while a part joins, so that nobody takes the packets of others for complete meanwhile.
	joining sync.RWMutex

	mu      sync.Mutex
	request *v1alpha1.EnsureCaptureRequest
	meta
	parts    []*part
	missing  []*v1alpha1.CaptureMissing
	renewed  time.Time
	deadline time.Time
	names    []*v1alpha1.CaptureName
	ending   bool

	poke chan struct{} // holds one when targets are to be looked at
	stop chan struct{} // closed when it is to end
	done chan struct{} // closed when it has ended
	gone chan struct{} // closed when it is deleted
	// named is closed when names were given, and sealed when the digest is known or cannot be.
	named, sealed chan struct{}
	sealing       error
	// ended is closed when none of its goroutines is left.
	ended chan struct{}
}

// meta is what is kept on disk of a capture, beside its parts.
type meta struct {
	Format  int             `json:"format"`
	Request json.RawMessage `json:"request"`
	// Boot and Began say when it began, by a clock that does not step.
	Boot  string `json:"boot"`
	Began int64  `json:"began"`

	Phase         v1alpha1.CaptureState_Phase  `json:"phase"`
	Reason        v1alpha1.CaptureState_Reason `json:"reason"`
	Message       string                       `json:"message,omitempty"`
	Start         int64                        `json:"start"`
	End           int64                        `json:"end"`
	Interruptions int64                        `json:"interruptions"`

	Digest     []byte `json:"digest,omitempty"`
	BlockBytes int64  `json:"blockBytes,omitempty"`
}

const (
	format        = 1
	metaFile      = "meta.json"
	addressesFile = "addresses"
)

// A sighting is a target as it was when all its interfaces were being recorded.
type sighting struct{ namespace, revision uint64 }

func newCapture(m *Manager, request *v1alpha1.EnsureCaptureRequest) *capture {
	c := &capture{
		manager: m, uid: request.GetUid(), request: request,
		seen: map[string]sighting{}, snapped: map[string]bool{}, renewed: time.Now(),
		poke: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), gone: make(chan struct{}),
		named: make(chan struct{}), sealed: make(chan struct{}), ended: make(chan struct{}),
	}
	c.limits = limits{
		packetsLimit: orNone(request.GetPacketsLimit()), bytesLimit: orNone(request.GetBytesLimit()),
		packetsLease: -1, bytesLease: -1,
	}
	c.limits.grant(request.PacketsLease, request.BytesLease)
	c.setPeers()
	return c
}

// orNone makes the 0 of the wire none.
func orNone(limit int64) int64 {
	if limit == 0 {
		return -1
	}
	return limit
}

func (c *capture) setPeers() {
	set := peers{}
	if c.request.GetOncePerFlow() {
		set = newPeers(c.request.GetPeers())
	}
	c.peers.Store(&set)
}

// begin makes the folder of a new capture.
func (c *capture) begin() error {
	if err := c.manager.root.Mkdir(c.uid, 0o700); err != nil {
		return fmt.Errorf("making the capture's folder: %w", full(err))
	}
	root, err := c.manager.root.OpenRoot(c.uid)
	if err != nil {
		return fmt.Errorf("opening the capture's folder: %w", err)
	}
	c.root = root
	now := time.Now()
	c.deadline = now.Add(time.Duration(c.request.GetDurationNano()))
	c.meta = meta{Format: format, Phase: v1alpha1.CaptureState_PHASE_RUNNING, Start: now.UnixNano()}
	c.Boot, c.Began = bootClock()
	if err := c.save(); err != nil {
		return errors.Join(err, root.Close())
	}
	return nil
}

// save writes the meta file. While a capture runs nobody waits for it to be on disk, as its packets are not either.
func (c *capture) save() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	text, err := protojson.Marshal(c.request)
	c.Request = text
	content, durable := c.meta, c.manager.durable && c.Phase == v1alpha1.CaptureState_PHASE_ENDED
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	err = writeJSON(c.root, metaFile, content, durable)
	c.unsaved.Store(err != nil)
	return err
}

// saveRest saves again what could not be saved, and says whether all is on disk then.
func (c *capture) saveRest() bool {
	c.mu.Lock()
	parts := slices.Clone(c.parts)
	c.mu.Unlock()
	saved := true
	for _, p := range parts {
		saved = p.saveIfChanged() && saved
	}
	return saved && (!c.unsaved.Load() || c.save() == nil) // the first failure was told
}

// ensure takes over what a request says, and has its targets recorded.
func (c *capture) ensure(request *v1alpha1.EnsureCaptureRequest) (*v1alpha1.CaptureState, error) {
	c.ensuring.Lock()
	defer c.ensuring.Unlock()
	changed, err := c.take(request)
	if err != nil {
		return nil, err
	}
	if changed || c.unsaved.Load() {
		if err := c.save(); err != nil {
			return nil, err
		}
	}
	c.reconcile()
	return c.state(), nil
}

// take takes over what may change.
func (c *capture) take(request *v1alpha1.EnsureCaptureRequest) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if request.GetRevision() < c.request.GetRevision() {
		return false, fmt.Errorf("%w: a request of revision %d came before this one of %d", ErrPrecondition, c.request.GetRevision(), request.GetRevision())
	}
	if c.ending {
		return false, nil
	}
	next := proto.CloneOf(c.request)
	next.Revision, next.RenewWithinNano = request.GetRevision(), request.GetRenewWithinNano()
	next.Targets, next.Peers = request.GetTargets(), request.GetPeers()
	c.limiting.Lock()
	c.limits.grant(request.PacketsLease, request.BytesLease)
	next.PacketsLease, next.BytesLease = lease(c.limits.packetsLease), lease(c.limits.bytesLease)
	c.limiting.Unlock()
	c.renewed = time.Now()
	changed = !proto.Equal(next, c.request)
	if changed {
		c.request = next
		c.setPeers()
		clear(c.seen) // a target may name other interfaces
	}
	return changed, nil
}

func lease(value int64) *int64 {
	if value < 0 {
		return nil
	}
	return &value
}

// admit asks for room for packets of these sizes, and answers for how many of them there is.
func (c *capture) admit(sizes []int) int {
	n, reason := c.within(sizes)
	if reason != v1alpha1.CaptureState_REASON_UNSPECIFIED {
		c.end(reason, "")
	}
	return n
}

func (c *capture) within(sizes []int) (n int, reason v1alpha1.CaptureState_Reason) {
	c.limiting.Lock()
	defer c.limiting.Unlock()
	if c.over {
		return 0, v1alpha1.CaptureState_REASON_UNSPECIFIED
	}
	if c.limits.none() {
		return len(sizes), v1alpha1.CaptureState_REASON_UNSPECIFIED
	}
	n, reason = c.limits.admit(sizes)
	c.over = reason != v1alpha1.CaptureState_REASON_UNSPECIFIED
	return n, reason
}

// diskFailed ends a capture that cannot be written.
func (c *capture) diskFailed(err error) {
	if c.full.Swap(true) {
		return
	}
	reason := v1alpha1.CaptureState_REASON_FAILED
	if errors.Is(err, errFull) {
		reason = v1alpha1.CaptureState_REASON_STORAGE_FULL
	}
	c.end(reason, err.Error())
}

// end has the capture end; the first reason counts. It does not wait.
func (c *capture) end(reason v1alpha1.CaptureState_Reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return
	}
	c.ending, c.Reason, c.Message = true, reason, message
	close(c.stop)
}

// lookAgain has targets looked at soon: an interface that went may be there again already.
func (c *capture) lookAgain() {
	c.forgetful.Store(true)
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// problem is told to the operator.
func (c *capture) problem(err error) {
	c.manager.config.Failed(fmt.Errorf("capture %s: %w", c.uid, err))
}

const (
	// watchTargetsEvery is how often it is asked whether the pods that are recorded are still there.
	watchTargetsEvery = 250 * time.Millisecond
	saveEvery         = time.Second
	reconcileEvery    = 5 * time.Second
)

// run is the life of the capture, until it has ended or the agent ends.
func (c *capture) run(ctx context.Context) {
	watch, save, look := time.NewTicker(watchTargetsEvery), time.NewTicker(saveEvery), time.NewTicker(reconcileEvery)
	defer watch.Stop()
	defer save.Stop()
	defer look.Stop()
	deadline := time.NewTimer(time.Until(c.deadline))
	defer deadline.Stop()
	if c.Interruptions > 0 {
		c.look()
		c.endSuspended()
	}
	for {
		select {
		case <-ctx.Done():
			c.suspend()
			return
		case <-c.stop:
			c.finish()
			return
		case <-deadline.C:
			c.end(v1alpha1.CaptureState_REASON_DURATION, "")
		case <-watch.C:
			c.watch()
		case <-save.C:
			c.checkpoint()
		case <-look.C:
			c.look()
		case <-c.poke:
			c.look()
		}
	}
}

// look makes parts of targets that have come.
func (c *capture) look() {
	c.ensuring.Lock()
	defer c.ensuring.Unlock()
	c.reconcile()
}

// watch ends what has to end.
func (c *capture) watch() {
	c.mu.Lock()
	abandoned := time.Since(c.renewed) > time.Duration(c.request.GetRenewWithinNano())
	c.mu.Unlock()
	if abandoned {
		c.end(v1alpha1.CaptureState_REASON_ABANDONED, "no request came for longer than renew_within_nano")
		return
	}
	c.ensuring.Lock()
	defer c.ensuring.Unlock()
	for _, p := range c.active() {
		if p.place.Alive() {
			continue
		}
		// Another process of the pod may stand for it now, in the same network namespace.
		if next := c.manager.find(p.target); next != nil && next.Namespace() == p.place.Namespace() && next.Alive() {
			p.place = next
			continue
		}
		delete(c.seen, p.target.GetKey())
		p.stop(v1alpha1.CaptureState_REASON_TARGET_GONE, "the pod's process has ended")
	}
}

// checkpoint saves what a restart could not find in the segments.
func (c *capture) checkpoint() {
	c.saveRest()
	if content := c.addresses.unsaved(); content != nil {
		if err := replace(c.root, addressesFile, content, false); err != nil {
			c.problem(err)
		}
	}
}

// active are the parts that record.
func (c *capture) active() (parts []*part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.parts {
		if p.recording() {
			parts = append(parts, p)
		}
	}
	return parts
}

// endParts ends all parts and waits until everything is written.
func (c *capture) endParts(reason v1alpha1.CaptureState_Reason, message string) {
	c.ensuring.Lock()
	defer c.ensuring.Unlock()
	for _, p := range c.active() {
		p.stop(reason, message)
	}
	c.recording.Wait()
	c.snapshots.Wait()
	c.checkpoint()
	c.asleep = true
}

// suspend ends recording, for the agent to go on with it when it is there again.
func (c *capture) suspend() { c.endParts(reasonAgentEnds, "") }

// finish ends the capture.
func (c *capture) finish() {
	c.mu.Lock()
	reason, message := c.Reason, c.Message
	c.mu.Unlock()
	c.endParts(reason, message)
	c.endSuspended()
	c.mu.Lock()
	c.Phase, c.End = v1alpha1.CaptureState_PHASE_ENDED, time.Now().UnixNano()
	c.missing = nil
	c.mu.Unlock()
	if err := c.save(); err != nil {
		c.problem(err)
	}
	close(c.done)
}

// reconcile has the targets recorded as the request says. The caller holds ensuring.
func (c *capture) reconcile() {
	c.mu.Lock()
	ending, request := c.ending || c.asleep, c.request
	c.mu.Unlock()
	if ending {
		return
	}
	if c.forgetful.Swap(false) {
		clear(c.seen)
	}
	for _, p := range c.active() {
		if !targets(request.GetTargets(), p) {
			p.stop(v1alpha1.CaptureState_REASON_NO_LONGER_TARGET, "")
		}
	}
	if request.GetNamespace() == "" { // The node's own network is not for those who may record a namespace.
		c.snapshot(&v1alpha1.CaptureTarget{}, request)
	}
	var missing []*v1alpha1.CaptureMissing
	for _, target := range request.GetTargets() {
		if reason := c.record(target, request); reason != "" && len(missing) < maxMissing {
			missing = append(missing, &v1alpha1.CaptureMissing{Target: target, Reason: printable(reason, 256)})
		}
	}
	c.mu.Lock()
	c.missing = missing
	c.mu.Unlock()
}

// targets says whether a part is one of what is to be recorded.
func targets(targets []*v1alpha1.CaptureTarget, p *part) bool {
	return slices.ContainsFunc(targets, func(t *v1alpha1.CaptureTarget) bool {
		names := t.GetInterfaces()
		return t.GetKey() == p.Key && (len(names) == 0 || slices.Contains(names, p.Device.Name))
	})
}

// record opens what of a target is not being recorded, and answers what is missing.
func (c *capture) record(target *v1alpha1.CaptureTarget, request *v1alpha1.EnsureCaptureRequest) (missing string) {
	at := c.manager.find(target)
	if at == nil {
		return "no process of the pod was found on this node"
	}
	now := sighting{at.Namespace(), at.Revision()}
	if at.Revision() != 0 && c.seen[target.GetKey()] == now {
		return ""
	}
	c.snapshot(target, request)
	var absent []string
	if err := at.Enter(func() (err error) {
		absent, err = c.open(target, at, request)
		return err
	}); errors.Is(err, podmap.ErrGone) {
		return "no process of the pod was found on this node"
	} else if err != nil {
		return err.Error()
	}
	if len(absent) == 0 {
		c.seen[target.GetKey()] = now
		return ""
	}
	return joined(absent)
}

// open opens what is not being recorded, on a thread in the target's network namespace.
func (c *capture) open(target *v1alpha1.CaptureTarget, at place, request *v1alpha1.EnsureCaptureRequest) (absent []string, err error) {
	links, err := c.manager.links()
	if err != nil {
		return nil, err
	}
	uplinks, err := at.Uplinks()
	if err != nil {
		return nil, err
	}
	found, absent := wanted(target, links, uplinks)
	for _, l := range found {
		d := device{Namespace: at.Namespace(), Index: l.index, Name: l.name}
		if c.records(target.GetKey(), d) {
			continue
		}
		if err := c.join(target, at, d, l.loopback, request); err != nil {
			absent = append(absent, fmt.Sprintf("interface %s: %s", printable(l.name, 64), whyNot(err)))
		}
	}
	return absent, nil
}

// records is true when an interface is being recorded for a target, and will be. An interface that was given another name is
// the same.
func (c *capture) records(key string, d device) bool {
	return slices.ContainsFunc(c.active(), func(p *part) bool { return p.Key == key && p.Device.same(d) && !p.ends() })
}

func (d device) same(other device) bool {
	return d.Namespace == other.Namespace && d.Index == other.Index
}

// join begins a part, or goes on with one from before the agent was started.
func (c *capture) join(target *v1alpha1.CaptureTarget, at place, d device, loopback bool, request *v1alpha1.EnsureCaptureRequest) error {
	c.mu.Lock()
	p := c.suspended(target.GetKey(), d)
	full := p == nil && len(c.parts) >= maxParts
	c.mu.Unlock()
	if full {
		return fmt.Errorf("the capture has %d parts on this node, the most that there may be", maxParts)
	}
	memory, err := c.manager.takeRingMemory(request.GetSnapLength())
	if err != nil {
		return err
	}
	p, err = c.add(p, target, at, d, loopback, request, memory)
	if err != nil {
		c.manager.returnRingMemory(memory)
		return err
	}
	p.save()
	c.recording.Go(p.run)
	return nil
}

// add opens a ring and adds its part, so that nobody finds one without the other.
func (c *capture) add(p *part, target *v1alpha1.CaptureTarget, at place, d device, loopback bool, request *v1alpha1.EnsureCaptureRequest, memory int64) (*part, error) {
	c.joining.Lock()
	defer c.joining.Unlock()
	now := time.Now()
	opened, err := c.manager.open(request, d.Name, memory)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p == nil {
		p = c.newPart(target, d, now)
		c.parts = append(c.parts, p)
	}
	p.start(opened, memory, now, at, target, loopback)
	return p, nil
}

// suspended is the part of an interface that the agent was recording before it was started; the caller holds mu.
func (c *capture) suspended(key string, d device) *part {
	for _, p := range c.parts {
		if p.Key == key && p.Device.same(d) && p.suspended() {
			return p
		}
	}
	return nil
}

// endSuspended ends parts whose interface was not there any more when the agent was.
func (c *capture) endSuspended() {
	c.mu.Lock()
	parts := slices.Clone(c.parts)
	c.mu.Unlock()
	for _, p := range parts {
		p.interrupt()
	}
}

// newPart makes the next part; the caller holds mu.
func (c *capture) newPart(target *v1alpha1.CaptureTarget, d device, now time.Time) *part {
	return c.makePart(partState{
		Number: uint32(len(c.parts)), Key: target.GetKey(), Namespace: target.GetNamespace(), Pod: target.GetPod(), PodUID: target.GetPodUid(),
		Device: d, Phase: v1alpha1.CaptureState_PHASE_RUNNING, Start: now.UnixNano(),
	})
}

func (c *capture) makePart(state partState) *part {
	p := &part{capture: c, partState: state, saved: state.partCounts}
	p.writer = writer{root: c.root, disk: &c.manager.disk, part: state.Number, most: segmentBytes}
	if files := int64(c.request.GetRingFiles()); files > 0 {
		p.writer.most = min(segmentBytes, c.request.GetRingFileBytes())
		p.keep = files * c.request.GetRingFileBytes()
	}
	header, row := c.header(), p.partState.row()
	p.writer.header = func() []byte {
		return pcapfile.AppendInterface(pcapfile.AppendSection(nil, header), header, c.manager.config.Node, row)
	}
	return p
}

// header is what files of the capture say of it.
func (c *capture) header() pcapfile.Header {
	return pcapfile.Header{
		UID: c.uid, Namespace: c.request.GetNamespace(), Name: c.request.GetName(),
		Filter: c.request.GetFilterText(), SnapLength: c.request.GetSnapLength(),
	}
}

// state is what the wire says of the capture.
func (c *capture) state() *v1alpha1.CaptureState {
	c.mu.Lock()
	parts := slices.Clone(c.parts)
	s := &v1alpha1.CaptureState{
		Uid: c.uid, Revision: c.request.GetRevision(), Phase: c.Phase, Message: printable(c.Message, 1<<10),
		StartUnixNano: c.Start, EndUnixNano: c.End, Missing: c.missing, Interruptions: c.Interruptions,
		Sealed: len(c.Digest) > 0, Digest: c.Digest, BlockBytes: c.BlockBytes,
		Namespace: c.request.GetNamespace(), Name: c.request.GetName(),
	}
	c.limiting.Lock()
	s.PacketsLease, s.BytesLease = lease(c.limits.packetsLease), lease(c.limits.bytesLease)
	c.limiting.Unlock()
	if c.Phase == v1alpha1.CaptureState_PHASE_ENDED {
		s.Reason = c.Reason
	}
	c.mu.Unlock()
	for _, p := range parts {
		s.Parts = append(s.Parts, p.row())
	}
	if c.manager.config.Outputs != nil {
		s.Outputs = c.manager.config.Outputs.State(c.uid)
	}
	return s
}

// running is false when the capture has ended.
func (c *capture) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Phase == v1alpha1.CaptureState_PHASE_RUNNING
}

// remove removes everything of a capture that has ended.
func (c *capture) remove() error {
	size := c.snapshotBytes.Load()
	for _, p := range c.parts {
		for _, s := range p.view() {
			size += s.Header + s.Size
		}
	}
	// Without this file the rest is not taken for a capture, should the agent end now.
	err := errors.Join(c.root.Remove(metaFile), c.root.Close(), c.manager.root.RemoveAll(c.uid))
	c.manager.disk.release(size)
	if err != nil {
		return fmt.Errorf("removing capture %s: %w", c.uid, err)
	}
	return nil
}
