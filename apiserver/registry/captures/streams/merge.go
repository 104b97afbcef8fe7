package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"k8s.io/utils/clock"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// An input is what one node sends, on its way into a merge, to which it belongs. Its feeder reads place, atPlace and received
// while the merge has no batch of it.
type input struct {
	node string
	// numbers are those of the node's parts as interfaces of the file, by number of the part; noInterface where there is none.
	numbers []uint32

	// batches are what was received and is not written yet. The first begins with the head.
	batches []batch
	head    pcapng.Packet
	// place is where the head, or the last packet without one, is in the order: the running maximum of the times of the
	// node's packets.
	place int64
	// received counts the packets, and atPlace those of them at place, so that a stream that broke can go on behind them:
	// pass is how many the next has to pass by, of those up to passUntil.
	received, atPlace, pass, passUntil int64
	// watermark: every packet up to this time has been received.
	watermark int64
	// waited is whether packets of others wait for this node's, ended whether nothing more comes.
	registered, waited, ended bool
	// bytes were sent by the node, and skipped left out by it. answered is whether anything came.
	bytes, skipped int64
	answered       bool
	// final is what the node said at the end.
	final *agentv1.CaptureState
	// taken has a token for each batch that the feeder may send ahead.
	taken chan struct{}
}

type batch struct {
	blocks  []byte
	arrived time.Time
}

const noInterface = math.MaxUint32

// newInput allows so many batches of a node in the merge's hands, at least 1. One more is with the feeder when it is over 1.
func newInput(node string, batches int) *input {
	in := &input{node: node, place: math.MinInt64, watermark: math.MinInt64, taken: make(chan struct{}, batches)}
	for range batches - 1 {
		in.taken <- struct{}{}
	}
	return in
}

// number gives a part its number as an interface of the file. It is not changed by another.
func (in *input) number(part, number uint32) {
	for uint32(len(in.numbers)) <= part {
		in.numbers = append(in.numbers, noInterface)
	}
	in.numbers[part] = number
}

func (in *input) numberOf(part uint32) (number uint32, ok bool) {
	if part >= uint32(len(in.numbers)) || in.numbers[part] == noInterface {
		return 0, false
	}
	return in.numbers[part], true
}

// violates is the error for what no honest agent sends.
func (in *input) violates(format string, args ...any) error {
	return fmt.Errorf("%s: the agent's answer is not valid: %w", in.node, fmt.Errorf(format, args...))
}

// rewind makes ready for a stream that begins with the place of the last packet, or with the first of all.
func (in *input) rewind(again bool) {
	in.waited = false
	switch {
	case in.received == 0:
	case again:
		in.pass, in.passUntil, in.place = in.received, math.MaxInt64, math.MinInt64
	default:
		in.pass, in.passUntil = in.atPlace, in.place
	}
}

// before is the order of heads.
func (in *input) before(other *input) bool {
	return cmp.Or(cmp.Compare(in.place, other.place), cmp.Compare(in.node, other.node)) < 0
}

// An event is what a feeder tells the merge: a batch, that the stream broke and another will go on behind the last packet
// (again: from the beginning, with what was there already), or else that the input has ended, with an error or without.
type event struct {
	from          *input
	response      *agentv1.ReadCaptureResponse
	broken, again bool
	err           error
}

// A sink takes what a merge makes. It must not keep runs: their memory is used again.
type sink interface {
	// parts are announced by a node, some more than once; each has to be given a number before its first packet comes.
	parts(from *input, parts []*agentv1.CapturePart) error
	// packets is a run of whole blocks.
	packets(run []byte) error
	// before gives blocks to be written before a packet.
	before(packet pcapng.Packet) []byte
	// idle is called when there is nothing to write for now.
	idle() error
}

// maxAhead is how far the time of a packet may be ahead of our clock: nodes' clocks are not ours.
const maxAhead = 24 * time.Hour

// A merge makes one stream of those of nodes, ordered by place, name of the node and sequence. Of a capture that has ended
// the order is always the same, whatever comes when. While one is followed (window is not 0), a packet waits for other nodes
// until their watermarks have passed it, but no longer than the window after it came.
type merge struct {
	clock  clock.Clock
	window time.Duration
	sink   sink
	events chan event
	// done is closed when no input comes that is not registered; nil when there is none.
	done <-chan struct{}
	// maxCaptured is how many bytes of a packet may be there.
	maxCaptured uint32

	inputs []*input
	// heap has the inputs with a head, the first to be written at the top.
	heap []*input
	// behind is the lowest watermark of those that are waited for and have no head.
	behind int64
	// latest is the last plausible time.
	latest int64
	// failure is the first of a node's. It is returned when all the others were written.
	failure error
}

// register makes packets of others wait for an input from now on.
func (m *merge) register(in *input) {
	in.registered, in.waited = true, true
	m.inputs = append(m.inputs, in)
}

// run merges until every input has ended and no further one comes, and gives the error of the first that failed; in a
// capture that has ended at once. Errors of the sink and violations of the wire end it at once, too.
func (m *merge) run(ctx context.Context) error {
	for {
		if err := m.write(); err != nil {
			return err
		}
		if m.done == nil && m.over() {
			return m.failure
		}
		e, ok, err := m.wait(ctx)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := m.take(e); err != nil {
			return err
		}
	}
}

func (m *merge) over() bool {
	for _, in := range m.inputs {
		if !in.ended {
			return false
		}
	}
	return len(m.heap) == 0
}

// wait waits for an event, or until there is something else to do.
func (m *merge) wait(ctx context.Context) (e event, ok bool, err error) {
	select {
	case e := <-m.events:
		return e, true, nil
	default:
	}
	if err := m.sink.idle(); err != nil {
		return event{}, false, err
	}
	var expired <-chan time.Time
	if m.window > 0 && len(m.heap) > 0 {
		timer := m.clock.NewTimer(m.window - m.clock.Since(m.heap[0].batches[0].arrived))
		defer timer.Stop()
		expired = timer.C()
	}
	select {
	case e := <-m.events:
		return e, true, nil
	case <-expired:
	case <-m.done:
		m.done = nil
	case <-ctx.Done():
		return event{}, false, context.Cause(ctx)
	}
	return event{}, false, nil
}

// take takes over an event.
func (m *merge) take(e event) error {
	if !e.from.registered {
		m.register(e.from)
	}
	switch {
	case e.response != nil:
		return m.receive(e.from, e.response)
	case e.broken:
		e.from.rewind(e.again)
		return nil
	}
	e.from.ended = true
	if m.window == 0 {
		return e.err
	}
	if m.failure == nil {
		m.failure = e.err
	}
	return nil
}

func (m *merge) receive(in *input, response *agentv1.ReadCaptureResponse) error {
	in.waited, in.answered = true, true
	m.latest = m.clock.Now().Add(maxAhead).UnixNano()
	if err := m.sink.parts(in, response.Parts); err != nil {
		return err
	}
	if response.End != nil {
		in.final = response.End
		if err := m.sink.parts(in, response.End.Parts); err != nil {
			return err
		}
	}
	in.skipped += response.SkippedBytes
	in.bytes += int64(len(response.Blocks))
	in.watermark = max(in.watermark, min(response.WatermarkUnixNano, m.latest))
	in.batches = append(in.batches, batch{response.Blocks, m.clock.Now()})
	if in.head != nil {
		return nil
	}
	if err := m.settle(in); err != nil || in.head == nil {
		return err
	}
	m.heap = append(m.heap, in)
	m.up()
	return nil
}

// settle gives an input without a head one from its batches, if they have any.
func (m *merge) settle(in *input) error {
	for len(in.batches) > 0 {
		blocks := in.batches[0].blocks
		if len(blocks) == 0 {
			in.batches[0] = batch{}
			in.batches = in.batches[1:]
			in.taken <- struct{}{}
			continue
		}
		if err := m.advance(in, blocks); err != nil {
			return err
		}
		if in.pass == 0 || in.place > in.passUntil {
			in.pass = 0
			return nil
		}
		in.pass--
		in.received--
		in.atPlace--
		in.batches[0].blocks, in.head = blocks[len(in.head):], nil
	}
	return nil
}

// advance makes the first of blocks the head; there is none when there are no blocks. It checks the packet, and gives it
// its number in the file.
func (m *merge) advance(in *input, blocks []byte) error {
	in.head = nil
	if len(blocks) == 0 {
		return nil
	}
	packet, _, err := pcapng.Next(blocks)
	if errors.Is(err, pcapng.ErrIncomplete) {
		return in.violates("a batch that ends within a packet")
	}
	if err != nil {
		return in.violates("%w", err)
	}
	number, ok := in.numberOf(packet.Number())
	if !ok {
		return in.violates("a packet of part %d, which was not announced", packet.Number())
	}
	if captured := uint32(len(packet.Data())); captured > m.maxCaptured || captured > packet.Original() {
		return in.violates("a packet with %d bytes of %d, where at most %d were to be kept", captured, packet.Original(), m.maxCaptured)
	}
	at := packet.Time()
	if at < 0 || at > m.latest {
		return in.violates("a packet of the time %d ns, which is not plausible", at)
	}
	if at > in.place {
		in.place, in.atPlace = at, 0
	}
	in.atPlace++
	in.received++
	packet.SetNumber(number)
	in.head = packet
	return nil
}

// write writes what can be written now.
func (m *merge) write() error {
	m.behind = math.MaxInt64
	for _, in := range m.inputs {
		m.look(in)
	}
	for len(m.heap) > 0 && m.ripe(m.heap[0], m.waitedLong(m.heap[0])) {
		if err := m.writeRun(m.heap[0]); err != nil {
			return err
		}
	}
	return nil
}

// look takes into account how far an input without a head has come.
func (m *merge) look(in *input) {
	switch {
	case in.head != nil || in.ended || !in.waited:
	case m.window == 0:
		m.behind = math.MinInt64
	default:
		m.behind = min(m.behind, max(in.watermark, max(in.place, math.MinInt64+1)-1))
	}
}

// ripe is whether nothing that is still to come goes before the head of an input.
func (m *merge) ripe(in *input, waitedLong bool) bool { return waitedLong || in.place <= m.behind }

func (m *merge) waitedLong(in *input) bool {
	return m.window > 0 && m.clock.Since(in.batches[0].arrived) >= m.window
}

// writeRun writes packets of the first batch of the input at the top, for as long as they go before all others.
func (m *merge) writeRun(top *input) error {
	second, waitedLong := m.second(), m.waitedLong(top)
	run, length := top.batches[0].blocks, 0
	for top.head != nil && (second == nil || top.before(second)) && m.ripe(top, waitedLong) {
		if before := m.sink.before(top.head); len(before) > 0 {
			if err := errors.Join(m.sink.packets(run[:length]), m.sink.packets(before)); err != nil {
				return err
			}
			run, length = run[length:], 0
		}
		length += len(top.head)
		if err := m.advance(top, run[length:]); err != nil {
			return err
		}
	}
	if err := m.sink.packets(run[:length]); err != nil {
		return err
	}
	top.batches[0].blocks = run[length:]
	if top.head == nil {
		if err := m.settle(top); err != nil {
			return err
		}
	}
	if top.head == nil {
		last := len(m.heap) - 1
		m.heap[0], m.heap[last] = m.heap[last], nil
		m.heap = m.heap[:last]
		m.look(top)
	}
	m.down()
	return nil
}

// second is the input that is next when the one at the top is not counted.
func (m *merge) second() *input {
	switch len(m.heap) {
	case 1:
		return nil
	case 2:
		return m.heap[1]
	}
	if m.heap[1].before(m.heap[2]) {
		return m.heap[1]
	}
	return m.heap[2]
}

// up restores the order of the heap when the last was added.
func (m *merge) up() {
	for i := len(m.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !m.heap[i].before(m.heap[parent]) {
			return
		}
		m.heap[i], m.heap[parent] = m.heap[parent], m.heap[i]
		i = parent
	}
}

// down restores the order of the heap when the top has changed.
func (m *merge) down() {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(m.heap) {
			return
		}
		if child+1 < len(m.heap) && m.heap[child+1].before(m.heap[child]) {
			child++
		}
		if !m.heap[child].before(m.heap[i]) {
			return
		}
		m.heap[i], m.heap[child] = m.heap[child], m.heap[i]
		i = child
	}
}
