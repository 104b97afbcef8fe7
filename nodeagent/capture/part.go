package capture

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/ring"
)

// A source hands out packets of one interface: a ring.Ring, but for tests.
type source interface {
	// Run calls take for each block, as ring.Ring does. Packets are valid until take returns.
	Run(take func(block) error) error
	// Stop has Run end when it has handed out everything.
	Stop() error
	Statistics() (matched, dropped int64, err error)
	Close() error
}

// A block hands out its packets one by one.
type block interface {
	Next() (ring.Packet, bool)
}

// A part records one interface of one target.
type part struct {
	capture  *capture
	loopback bool
	writer   writer
	recent   recent
	// place and target belong to whoever holds the capture's ensuring.
	place  place
	target *v1alpha1.CaptureTarget
	// keep is how many bytes of blocks a ring of files holds; 0 for no such ring.
	keep int64

	// saving is held while the state is written, of which each of several goroutines may be the cause. It is taken before mu.
	saving sync.Mutex

	mu sync.Mutex
	partState
	source source // nil when the part has ended
	// ringMemory is what the source takes of the budget.
	ringMemory int64
	stopping   v1alpha1.CaptureState_Reason
	stopped    string // message
	// seen are packets of the source that are counted and, if kept, can be read.
	seen int64
	// base is ring_drops before this source.
	base int64
	// watermark: every packet of an effective time up to it can be read.
	watermark int64
	watched   time.Time
	saved     partCounts
	// unsaved is set when the last attempt to write the state failed.
	unsaved bool
}

// partState is what is kept on disk of a part, beside its segments.
type partState struct {
	Number    uint32 `json:"number"`
	Key       string `json:"key"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	PodUID    string `json:"podUID"`
	Device    device `json:"device"`

	Phase   v1alpha1.CaptureState_Phase  `json:"phase"`
	Reason  v1alpha1.CaptureState_Reason `json:"reason"`
	Message string                       `json:"message,omitempty"`
	Start   int64                        `json:"start"`
	End     int64                        `json:"end"`

	partCounts
	// Last is the effective time of the newest packet.
	Last int64 `json:"last"`
	// Segments are those that there are, the newest last.
	Segments []segment `json:"segments"`
}

// partCounts are counts of packets, but for those in the segments that there are.
type partCounts struct {
	RingDrops    int64 `json:"ringDrops"`
	DiskDrops    int64 `json:"diskDrops"`
	LimitDrops   int64 `json:"limitDrops"`
	OtherVantage int64 `json:"otherVantage"`
	// PacketsGone and BytesGone were in segments that a ring of files let go.
	PacketsGone int64 `json:"packetsGone"`
	BytesGone   int64 `json:"bytesGone"`
	// First is the index of the oldest segment that was not let go.
	First int `json:"first"`
}

func partName(number uint32) string { return fmt.Sprintf("%05d.json", number) }

// batch is the room that a goroutine needs to take a block to disk. It is lent, so that idle parts need none.
type batch struct {
	packets []ring.Packet
	sizes   []int
	blocks  []byte
	// What is in blocks.
	count, bytes, last int64
}

const (
	// chunk is how many packets are decided about at a time.
	chunk = 512
	// flushAt is how many bytes of blocks are written at a time, and a packet more.
	flushAt = 128 << 10
)

var batches = sync.Pool{New: func() any {
	return &batch{packets: make([]ring.Packet, 0, chunk), sizes: make([]int, 0, chunk), blocks: make([]byte, 0, flushAt+16<<10)}
}}

// run records until the source ends.
func (p *part) run() {
	err := p.source.Run(p.take)
	reason, message := v1alpha1.CaptureState_REASON_FAILED, ""
	switch {
	case errors.Is(err, ring.ErrGone), errors.Is(err, ring.ErrDown):
		reason, message = v1alpha1.CaptureState_REASON_TARGET_GONE, err.Error()
	case err != nil:
		message = err.Error()
	}
	p.finish(err == nil, reason, message)
}

// finish closes everything. What stopped the part says why, unless it ended by itself.
func (p *part) finish(asked bool, reason v1alpha1.CaptureState_Reason, message string) {
	_, dropped, statisticsError := p.source.Statistics()
	err := errors.Join(statisticsError, p.source.Close(), p.writer.close())
	p.mu.Lock()
	p.RingDrops = p.base + dropped
	p.source = nil
	if p.stopping != v1alpha1.CaptureState_REASON_UNSPECIFIED && (asked || reason == v1alpha1.CaptureState_REASON_TARGET_GONE) {
		reason, message = p.stopping, p.stopped
	}
	if reason != reasonAgentEnds {
		p.Phase, p.Reason, p.Message, p.End = v1alpha1.CaptureState_PHASE_ENDED, reason, p.Message+message, time.Now().UnixNano()
	}
	if err != nil {
		p.Message = err.Error()
	}
	p.mu.Unlock()
	p.capture.manager.returnRingMemory(p.ringMemory)
	p.save()
	if !asked {
		p.capture.lookAgain()
	}
}

// reasonAgentEnds stops a part that is to go on when the agent is there again.
const reasonAgentEnds v1alpha1.CaptureState_Reason = -1

// stop has the part end; the first reason counts.
func (p *part) stop(reason v1alpha1.CaptureState_Reason, message string) {
	p.mu.Lock()
	source := p.source
	if source == nil || p.stopping != v1alpha1.CaptureState_REASON_UNSPECIFIED {
		p.mu.Unlock()
		return
	}
	p.stopping, p.stopped = reason, message
	p.mu.Unlock()
	if err := source.Stop(); err != nil && !errors.Is(err, ring.ErrClosed) {
		// Closing loses what is in the ring, but ends it.
		p.mu.Lock()
		p.Message = err.Error() + "; "
		p.mu.Unlock()
		_ = source.Close()
	}
}

// take brings the packets of a block to disk, and counts every one.
func (p *part) take(from block) error {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	b.last = p.last()
	for more := true; more; {
		more = p.takeChunk(b, from)
	}
	p.flush(b)
	return nil
}

// takeChunk takes up to chunk packets; false when the block has no more.
func (p *part) takeChunk(b *batch, from block) bool {
	b.packets, b.sizes = b.packets[:0], b.sizes[:0]
	peers, collect := p.peers(), !p.capture.addresses.full.Load()
	var counts partCounts
	for read := 0; read < chunk; read++ {
		packet, ok := from.Next()
		if !ok {
			break
		}
		if len(peers) > 0 || collect {
			f := parse(packet.Data)
			if peers.elsewhere(&f, packet.Direction) {
				counts.OtherVantage++
				continue
			}
			p.recent.meet(&p.capture.addresses, &f)
		}
		b.packets, b.sizes = append(b.packets, packet), append(b.sizes, len(packet.Data))
	}
	took := len(b.packets) + int(counts.OtherVantage)
	admitted := p.capture.admit(b.sizes)
	counts.LimitDrops = int64(len(b.packets) - admitted)
	if p.capture.full.Load() {
		counts.DiskDrops, admitted = int64(admitted), 0
	}
	p.count(counts)
	for i := range b.packets[:admitted] {
		p.encode(b, &b.packets[i])
	}
	clear(b.packets) // views of memory that will be unmapped
	return took == chunk
}

// peers is the set that the rule of one vantage point asks about.
func (p *part) peers() peers {
	if p.loopback {
		return nil
	}
	return *p.capture.peers.Load()
}

// encode appends a packet's block, and makes room for it first.
func (p *part) encode(b *batch, packet *ring.Packet) {
	size := pcapng.PacketSize(len(packet.Data))
	if waiting := len(b.blocks); waiting > 0 && (waiting+size > flushAt || int64(waiting+size) > p.writer.room()) {
		p.flush(b)
	}
	b.blocks = pcapng.AppendPacket(b.blocks, 0, packet.Time, packet.Data, packet.Original, packet.Direction)
	b.count++
	b.bytes += int64(len(packet.Data))
	b.last = max(b.last, packet.Time)
}

// flush writes what has been encoded. Readers see it when it returns.
func (p *part) flush(b *batch) {
	if b.count > 0 {
		if err := p.write(b); err != nil {
			p.count(partCounts{DiskDrops: b.count})
			p.capture.diskFailed(err)
		}
	}
	b.blocks, b.count, b.bytes = b.blocks[:0], 0, 0
	if cap(b.blocks) > 2*flushAt {
		b.blocks = make([]byte, 0, flushAt)
	}
}

func (p *part) write(b *batch) error {
	if p.capture.full.Load() {
		return errFull
	}
	if int64(len(b.blocks)) > p.writer.room() {
		if err := p.beginSegment(); err != nil {
			return err
		}
	}
	if err := p.writer.write(b.blocks); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	current := &p.Segments[len(p.Segments)-1]
	current.Size += int64(len(b.blocks))
	current.Packets += b.count
	current.Bytes += b.bytes
	p.seen += b.count
	p.Last = b.last
	return nil
}

// beginSegment begins a file, and lets go of the oldest ones of a ring.
func (p *part) beginSegment() error {
	s, err := p.writer.begin()
	if err != nil {
		return err
	}
	p.mu.Lock()
	s.Before, s.Sequence = p.Last, p.counts().GetPackets()
	p.Segments = append(p.Segments, s)
	var gone []segment
	for p.keep > 0 && len(p.Segments) > 1 && p.held()+p.writer.most > p.keep {
		oldest := p.Segments[0]
		p.Segments = append([]segment(nil), p.Segments[1:]...)
		p.PacketsGone += oldest.Packets
		p.BytesGone += oldest.Bytes
		p.First = p.Segments[0].Index
		gone = append(gone, oldest)
	}
	p.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	p.save() // before they are gone, so that their packets stay counted
	for _, s := range gone {
		p.remove(s)
	}
	return nil
}

// held is the size of all files but the newest.
func (p *part) held() (size int64) {
	for _, s := range p.Segments[:len(p.Segments)-1] {
		size += s.Header + s.Size
	}
	return size
}

func (p *part) remove(s segment) {
	if err := p.capture.root.Remove(segmentName(p.Number, s.Index)); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.capture.manager.config.Failed(fmt.Errorf("removing a file of capture %s: %w", p.capture.uid, err))
		return // it goes with the capture
	}
	p.capture.manager.disk.release(s.Header + s.Size)
}

// count adds packets that were not kept.
func (p *part) count(c partCounts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.DiskDrops += c.DiskDrops
	p.LimitDrops += c.LimitDrops
	p.OtherVantage += c.OtherVantage
	p.seen += c.DiskDrops + c.LimitDrops + c.OtherVantage
}

func (p *part) last() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Last
}

// row is what the wire says of the part.
func (p *part) row() *v1alpha1.CapturePart {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readDrops()
	return p.partState.row()
}

func (s *partState) row() *v1alpha1.CapturePart {
	return &v1alpha1.CapturePart{
		Number: s.Number, Key: s.Key, Namespace: s.Namespace, Pod: s.Pod, PodUid: s.PodUID, Interface: printable(s.Device.Name, 64),
		Phase: s.Phase, Reason: s.Reason, Message: printable(s.Message, 256),
		StartUnixNano: s.Start, EndUnixNano: s.End, Counts: s.counts(),
	}
}

func (s *partState) counts() *v1alpha1.CaptureCounts {
	c := &v1alpha1.CaptureCounts{
		Packets: s.PacketsGone, Bytes: s.BytesGone, RingDrops: s.RingDrops, DiskDrops: s.DiskDrops,
		LimitDrops: s.LimitDrops, OtherVantage: s.OtherVantage,
	}
	for _, segment := range s.Segments {
		c.Packets += segment.Packets
		c.Bytes += segment.Bytes
	}
	c.Matched = c.Packets + c.RingDrops + c.DiskDrops + c.LimitDrops + c.OtherVantage
	return c
}

// readDrops brings ring_drops up to date, and returns how many packets the ring has taken; the caller holds mu.
func (p *part) readDrops() (taken int64, err error) {
	if p.source == nil {
		return p.seen, nil
	}
	matched, dropped, err := p.source.Statistics()
	if err != nil {
		return 0, err
	}
	p.RingDrops = p.base + dropped
	return matched - dropped, nil
}

const (
	// watchEvery is how often the kernel is asked whether there are packets that have not been handed out.
	watchEvery = 20 * time.Millisecond
	// late is how long after its timestamp the kernel may count a packet, at most.
	late = 10 * time.Millisecond
)

// complete is the part's watermark, and the effective time of its newest packet. While packets come the watermark is
// just before the newest; else it goes with the clock.
func (p *part) complete(now time.Time) (watermark, last int64, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Phase == v1alpha1.CaptureState_PHASE_ENDED {
		return forever, p.Last, true
	}
	if now.Sub(p.watched) < watchEvery {
		return p.watermark, p.Last, false
	}
	p.watched = now
	known := p.Last - 1
	// What the kernel took until now has been counted, so all of it can be read.
	if taken, err := p.readDrops(); err == nil && taken <= p.seen {
		known = max(known, now.Add(-late).UnixNano())
	}
	p.watermark = max(p.watermark, known)
	return p.watermark, p.Last, false
}

// save writes what a restart needs to know. One does it at a time: two would write one new file, and the older state might come
// last.
func (p *part) save() {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	_, _ = p.readDrops()
	state := p.partState
	state.Segments = append([]segment(nil), state.Segments...)
	durable := p.capture.manager.durable && p.Phase == v1alpha1.CaptureState_PHASE_ENDED
	p.mu.Unlock()
	err := writeJSON(p.capture.root, partName(p.Number), state, durable)
	p.mu.Lock()
	again := p.unsaved
	if p.unsaved = err != nil; err == nil {
		p.saved = state.partCounts
	}
	p.mu.Unlock()
	if err != nil && !again {
		p.capture.problem(err)
	}
}

// saveIfChanged is called every second or so. It says whether the state is on disk.
func (p *part) saveIfChanged() bool {
	p.mu.Lock()
	_, _ = p.readDrops()
	changed := p.unsaved || p.saved != p.partCounts
	p.mu.Unlock()
	if changed {
		p.save()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.unsaved
}

// view is a copy of the part's segments.
func (p *part) view() []segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]segment(nil), p.Segments...)
}

// start has the part record from a source; the caller holds the capture's mu.
func (p *part) start(from source, memory int64, now time.Time, at place, target *v1alpha1.CaptureTarget, loopback bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.source, p.ringMemory, p.place, p.target, p.loopback = from, memory, at, target, loopback
	p.base, p.seen, p.watermark = p.RingDrops, 0, max(p.watermark, now.UnixNano()-1)
}

// recording is true while there is a source.
func (p *part) recording() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.source != nil
}

// ends is true for a part that was stopped. It takes no more packets, and still writes those that it has.
func (p *part) ends() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping != v1alpha1.CaptureState_REASON_UNSPECIFIED
}

// suspended is true for a part that recorded when the agent ended.
func (p *part) suspended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.source == nil && p.Phase == v1alpha1.CaptureState_PHASE_RUNNING
}

// interrupt ends a part that recorded when the agent ended, and has not gone on since: another goroutine may have it go on
// at the same time.
func (p *part) interrupt() {
	p.mu.Lock()
	suspended := p.source == nil && p.Phase == v1alpha1.CaptureState_PHASE_RUNNING
	if suspended {
		p.Phase, p.Reason = v1alpha1.CaptureState_PHASE_ENDED, v1alpha1.CaptureState_REASON_INTERRUPTED
		p.Message, p.End = "the agent was started anew, and the interface was not there any more", time.Now().UnixNano()
	}
	p.mu.Unlock()
	if suspended {
		p.save()
	}
}
