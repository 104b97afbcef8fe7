package flows

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// ErrOutOfRange says that what a request speaks of is of a former process, or that flows are gone of which the follower
// had not been told.
var ErrOutOfRange = errors.New("flows that were asked for are gone")

// ErrEnding says that the agent is about to end.
var ErrEnding = errors.New("the agent is ending")

// A filter is the flows that a request asks for.
type filter struct {
	pods         map[uint64]string // keys by number
	peers        map[[16]byte]bool
	protocols    [256]bool
	ports        map[uint16]bool
	verdicts     [4]bool
	direction    v1alpha1.Direction
	since, until uint64 // by CLOCK_MONOTONIC; 0 for all
	position     uint64
}

// newFilter takes over a request, which must be valid. clock is as in Collector.
func newFilter(request *v1alpha1.ReadFlowsRequest, clock int64) *filter {
	f := &filter{
		pods: map[uint64]string{}, direction: request.GetDirection(),
		since: monotonicOf(request.GetSinceUnixNano(), clock), until: monotonicOf(request.GetUntilUnixNano(), clock),
		position: uint64(request.GetAfterPosition()),
	}
	for _, key := range request.GetPodKeys() {
		f.pods[headers.PodNumber(key)] = key
	}
	for i := range f.protocols {
		f.protocols[i] = len(request.GetProtocols()) == 0 || slices.Contains(request.GetProtocols(), int32(i))
	}
	for i := range f.verdicts {
		f.verdicts[i] = len(request.GetVerdicts()) == 0 || slices.Contains(request.GetVerdicts(), v1alpha1.Verdict(i))
	}
	for _, port := range request.GetPorts() {
		if f.ports == nil {
			f.ports = map[uint16]bool{}
		}
		f.ports[uint16(port)] = true
	}
	for _, peer := range request.GetPeers() {
		if f.peers == nil {
			f.peers = map[[16]byte]bool{}
		}
		address, _ := netip.AddrFromSlice(peer)
		f.peers[address.As16()] = true
	}
	return f
}

// monotonicOf is the inverse of Collector.wall; what was before the node started is its first moment.
func monotonicOf(unixNano, clock int64) uint64 {
	if unixNano == 0 {
		return 0
	}
	return uint64(max(1, unixNano-clock))
}

// matches says whether a record is asked for, and under which key, but for its verdict: that may change.
func (f *filter) matches(r *record, pod uint64) (key string, ok bool) {
	key, ok = f.pods[pod]
	return key, ok && f.matchesOne(r)
}

// matchesOne is matches for a record of one of the pods.
func (f *filter) matchesOne(r *record) bool {
	if r.position <= f.position || r.last < f.since || f.until != 0 && r.first >= f.until || !f.protocols[uint8(r.protocol)] {
		return false
	}
	if f.direction != v1alpha1.Direction_DIRECTION_UNSPECIFIED && f.direction != r.direction() {
		return false
	}
	if f.ports != nil && !f.ports[binary.BigEndian.Uint16(r.localPort[:])] && !f.ports[binary.BigEndian.Uint16(r.remotePort[:])] {
		return false
	}
	return f.peers == nil || f.peers[r.remote] || r.translated != [16]byte{} && f.peers[r.translated]
}

func (r *record) direction() v1alpha1.Direction {
	if r.state&begunByTransmit != 0 {
		return v1alpha1.Direction_DIRECTION_TRANSMIT
	}
	return v1alpha1.Direction_DIRECTION_RECEIVE
}

const (
	// lookAt is how many records are looked at while the history is locked, and found how many are taken along.
	lookAt = 4096
	find   = 512
)

// found is records that a reader took along, with what the history knows of them.
type found struct {
	records []record
	keys    []string
	names   []string
}

func (f *found) clear() { f.records, f.keys, f.names = f.records[:0], f.keys[:0], f.names[:0] }

// take copies a record if it is asked for, and says whether it is but for its verdict. The history must be locked.
func (r *reader) take(number uint32) (butForVerdict bool) {
	of := &r.history.records[number]
	key, ok := r.filter.matches(of, r.pods.places[of.pod].number)
	if !ok || !r.filter.verdicts[of.verdict()] {
		return ok
	}
	r.found.records = append(r.found.records, *of)
	r.found.keys = append(r.found.keys, key)
	r.found.names = append(r.found.names, r.names.texts[of.name])
	return false
}

// A reader is one request under way.
type reader struct {
	*Collector
	ctx    context.Context
	filter *filter
	found  found
	batch  batcher
	// left is how many flows may still be sent; negative for all.
	left int
	// until is the newest position, and revision the newest revision, when the read began.
	until, revision uint64
}

// Read sends the flows that a request asks for, which must be valid, oldest first; with follow it goes on with what
// changes until the context ends. Errors are those of send and of the context, ErrOutOfRange and ErrEnding, and what
// keeps the history from being read. Nothing is locked while send runs.
func (c *Collector) Read(ctx context.Context, request *v1alpha1.ReadFlowsRequest, send func(*v1alpha1.ReadFlowsResponse) error) error {
	if err := c.refresh(); err != nil {
		return err
	}
	r, err := c.newReader(ctx, request, send)
	if err != nil {
		return err
	}
	if request.GetFollow() {
		return r.follow(uint64(request.GetAfterRevision()))
	}
	if err := r.readAll(); err != nil {
		return err
	}
	return r.batch.end(false)
}

func (c *Collector) newReader(ctx context.Context, request *v1alpha1.ReadFlowsRequest, send func(*v1alpha1.ReadFlowsResponse) error) (*reader, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.history == nil {
		return nil, errClosed
	}
	if of := request.GetInstance(); of != 0 && of != c.instance {
		return nil, ErrOutOfRange
	}
	if uint64(request.GetAfterPosition()) > c.history.position || uint64(request.GetAfterRevision()) > c.history.revision {
		return nil, ErrOutOfRange
	}
	r := &reader{
		Collector: c, ctx: ctx, filter: newFilter(request, c.clock), left: -1,
		until: c.history.position, revision: c.history.revision,
	}
	if request.GetLimit() > 0 {
		r.left = int(request.GetLimit())
	}
	r.batch = batcher{send: send, instance: c.instance, revision: r.revision, clock: c.clock}
	return r, nil
}

// readAll sends what the history held when the read began, by position.
func (r *reader) readAll() error {
	position, at := r.filter.position, place{}
	for more := len(r.filter.pods) > 0; more && r.left != 0; {
		if err := r.collect(func() { more = r.nextByPosition(&position, &at) }); err != nil {
			return err
		}
		if err := r.sendFound(); err != nil {
			return err
		}
	}
	return nil
}

// collect runs gather while the history is locked.
func (r *reader) collect(gather func()) error {
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	r.found.clear()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.history == nil {
		return errClosed
	}
	gather()
	return nil
}

// nextByPosition takes along some records behind a position, and says whether there are more.
func (r *reader) nextByPosition(position *uint64, at *place) bool {
	for range lookAt {
		number, ok := r.history.afterPosition(*position, at)
		if !ok || at.stamp > r.until {
			return false
		}
		*position = at.stamp
		r.take(number)
		if len(r.found.records) == find {
			break
		}
	}
	return true
}

// sendFound sends what was taken along, as far as the limit allows.
func (r *reader) sendFound() error {
	for i := range r.found.records {
		if r.left == 0 {
			return nil
		}
		if err := r.batch.add(r.flow(i)); err != nil {
			return err
		}
		if r.left > 0 {
			r.left--
		}
	}
	return nil
}

// flow makes the message of what was found.
func (r *reader) flow(i int) *v1alpha1.Flow {
	rec := &r.found.records[i]
	counters := func(direction int) *v1alpha1.Counters {
		return &v1alpha1.Counters{Packets: int64(rec.packets[direction]), Bytes: int64(rec.bytes[direction])}
	}
	flow := &v1alpha1.Flow{
		Position: int64(rec.position), Revision: int64(rec.revision), PodKey: r.found.keys[i],
		PodAddress: rec.address(rec.local).AsSlice(), PeerAddress: rec.address(rec.remote).AsSlice(),
		PodPort: int32(binary.BigEndian.Uint16(rec.localPort[:])), PeerPort: int32(binary.BigEndian.Uint16(rec.remotePort[:])),
		Protocol: int32(rec.protocol), Direction: rec.direction(), Receive: counters(0), Transmit: counters(1),
		StartUnixNano: r.batch.wall(rec.first), LastUnixNano: r.batch.wall(rec.last),
		Ended: rec.state&active == 0, Verdict: rec.verdict(), Dropped: int64(rec.drops),
		ReceiveFlags: int32(rec.flags[0]), TransmitFlags: int32(rec.flags[1]),
		HandshakeNano: int64(rec.handshake) * 1000, PeerName: r.found.names[i],
	}
	if rec.drops > 0 {
		flow.DropReason, flow.DropClass = r.reason(rec.reason)
	}
	if rec.translated != [16]byte{} {
		flow.TranslatedAddress = rec.address(rec.translated).AsSlice()
		flow.TranslatedPort = int32(binary.BigEndian.Uint16(rec.translatedPort[:]))
	}
	return flow
}

// A batcher gathers flows into messages below the limit.
type batcher struct {
	send     func(*v1alpha1.ReadFlowsResponse) error
	instance int64
	revision uint64
	clock    int64
	flows    []*v1alpha1.Flow
	gone     []int64
	size     int
	sent     int
}

const (
	// frame is more than a flow's tag and length take in its message, and a position.
	frame = 16
	// heading is more than what stands once in a message.
	heading = 64
)

func (b *batcher) wall(monotonic uint64) int64 { return int64(monotonic) + b.clock }

func (b *batcher) room(size int) error {
	if b.size+size+heading <= v1alpha1.MaxBatchBytes {
		b.size += size
		return nil
	}
	if err := b.flush(false); err != nil {
		return err
	}
	b.size = size
	return nil
}

func (b *batcher) add(flow *v1alpha1.Flow) error {
	if err := b.room(proto.Size(flow) + frame); err != nil {
		return err
	}
	b.flows = append(b.flows, flow)
	return nil
}

func (b *batcher) addGone(position uint64) error {
	if err := b.room(frame); err != nil {
		return err
	}
	b.gone = append(b.gone, int64(position))
	return nil
}

func (b *batcher) flush(current bool) error {
	response := &v1alpha1.ReadFlowsResponse{
		Flows: b.flows, Gone: b.gone, Revision: int64(b.revision), Instance: b.instance, Current: current,
	}
	b.flows, b.gone, b.size = nil, nil, 0
	b.sent++
	return b.send(response)
}

// end sends what is left. An answer has at least one message: it says the revision.
func (b *batcher) end(current bool) error {
	if b.size == 0 && b.sent > 0 && !current {
		return nil
	}
	return b.flush(current)
}
