package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

const (
	// mergeMemory is what all cursors of a stream may hold of files.
	mergeMemory = 512 << 10
	// leastWindow is what a cursor needs: the head of a block.
	leastWindow = 64
	mostWindow  = 256 << 10
	// mostOpen is how many parts of a stream keep their file open. Those of a larger one open it for every read.
	mostOpen = 64

	blockHead = 28 // of a packet's block, up to its data
)

// errDamaged says that a file does not hold what was written.
var errDamaged = errors.New("a file of packets is damaged")

// A cursor reads the blocks of one part in their order.
type cursor struct {
	part   *part
	number uint32 // of the interface, in what it hands out
	order  int    // among cursors of the same time

	// segments that are left, the current one first, as known when they were last asked for.
	segments []segment
	offset   int64 // of what follows window in the current segment's blocks
	file     *os.File
	keepOpen bool

	buffer, window []byte // window is what of buffer has not been handed out

	// Of the next packet, when there is one.
	time int64
	size int
	// last is the effective time of the packet before, and sequence how many of the part's packets are before the next.
	last, sequence int64
}

func newCursor(p *part, parts int) *cursor {
	size := min(mostWindow, max(leastWindow, mergeMemory/max(1, parts)))
	c := &cursor{part: p, number: p.Number, order: int(p.Number), segments: p.view(), buffer: make([]byte, size), keepOpen: parts <= mostOpen}
	if len(c.segments) > 0 {
		c.last, c.sequence = c.segments[0].Before, c.segments[0].Sequence
	}
	return c
}

func (c *cursor) close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

// refresh takes over what has been written since. ErrLost when a ring has let go of something that was not read.
func (c *cursor) refresh() error {
	now := c.part.view()
	if len(c.segments) == 0 {
		c.segments = now
		if len(now) > 0 && now[0].Sequence > 0 {
			return ErrLost
		}
		return nil
	}
	current := c.segments[0].Index
	for len(now) > 0 && now[0].Index < current {
		now = now[1:]
	}
	if len(now) == 0 || now[0].Index != current {
		if len(now) == 0 || now[0].Sequence != c.sequence {
			return ErrLost
		}
		c.advance(now)
		return nil
	}
	c.segments = now
	return nil
}

// advance goes on with another segment.
func (c *cursor) advance(segments []segment) {
	c.close()
	c.segments, c.offset, c.window = segments, 0, nil
}

// peek finds the next packet; false when there is none (yet).
func (c *cursor) peek() (bool, error) {
	for {
		if len(c.window) >= blockHead {
			return true, c.inspect()
		}
		if len(c.segments) == 0 {
			return false, nil
		}
		if c.offset < c.segments[0].Size {
			if err := c.fill(); err != nil {
				return false, err
			}
			continue
		}
		if len(c.window) > 0 {
			return false, errDamaged
		}
		if len(c.segments) == 1 {
			return false, nil
		}
		c.advance(c.segments[1:])
	}
}

// inspect reads the head of the next block.
func (c *cursor) inspect() error {
	kind, size := binary.LittleEndian.Uint32(c.window), int64(binary.LittleEndian.Uint32(c.window[4:]))
	captured := int64(binary.LittleEndian.Uint32(c.window[20:]))
	left := c.segments[0].Size - c.offset + int64(len(c.window))
	if kind != pcapng.TypePacket || size > left || size > pcapng.MaxBlock || captured > size || int64(pcapng.PacketSize(int(captured))) != size {
		return fmt.Errorf("%w: part %d", errDamaged, c.part.Number)
	}
	c.size, c.time = int(size), max(c.last, pcapng.Packet(c.window).Time())
	return nil
}

// fill reads more of the current segment, behind what is left of the window.
func (c *cursor) fill() error {
	kept := copy(c.buffer, c.window)
	room := min(int64(len(c.buffer)-kept), c.segments[0].Size-c.offset)
	if err := c.read(c.buffer[kept : kept+int(room)]); err != nil {
		return err
	}
	c.window = c.buffer[:kept+int(room)]
	return nil
}

// read reads what follows.
func (c *cursor) read(into []byte) error {
	if c.file == nil {
		file, err := c.part.capture.root.Open(segmentName(c.part.Number, c.segments[0].Index))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrClosed) {
			return ErrLost
		}
		if err != nil {
			return fmt.Errorf("opening recorded packets: %w", err)
		}
		c.file = file
	}
	n, err := c.file.ReadAt(into, c.segments[0].Header+c.offset)
	c.offset += int64(n)
	if !c.keepOpen {
		c.close()
	}
	if n < len(into) {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: part %d is cut", errDamaged, c.part.Number)
		}
		return fmt.Errorf("reading recorded packets: %w", err)
	}
	return nil
}

// take appends the packet that peek has found, with the cursor's number.
func (c *cursor) take(to []byte) ([]byte, error) {
	start := len(to)
	have := min(c.size, len(c.window))
	to = append(to, c.window[:have]...)
	c.window = c.window[have:]
	if rest := c.size - have; rest > 0 {
		to = append(to, make([]byte, rest)...)
		if err := c.read(to[start+have:]); err != nil {
			return to[:start], err
		}
	}
	if binary.LittleEndian.Uint32(to[len(to)-4:]) != uint32(c.size) {
		return to[:start], fmt.Errorf("%w: part %d", errDamaged, c.part.Number)
	}
	pcapng.Packet(to[start:]).SetNumber(c.number)
	c.last = c.time
	c.sequence++
	return to, nil
}

// skip passes over the packet that peek has found.
func (c *cursor) skip() {
	c.last = c.time
	c.sequence++
	if c.size <= len(c.window) {
		c.window = c.window[c.size:]
		return
	}
	c.offset += int64(c.size - len(c.window))
	c.window = nil
}

// seek passes over packets whose effective time is before a time, and says how many bytes of blocks these are. Only
// the segment that holds the time is read.
func (c *cursor) seek(from int64) (skipped int64, err error) {
	for len(c.segments) > 1 && c.segments[1].Before < from {
		skipped += c.segments[0].Size
		c.last, c.sequence = c.segments[1].Before, c.segments[1].Sequence
		c.segments = c.segments[1:]
	}
	for {
		ok, err := c.peek()
		if err != nil || !ok || c.time >= from {
			return skipped, err
		}
		skipped += int64(c.size)
		c.skip()
	}
}

// A merge puts the packets of cursors into one order.
type merge struct {
	// ready has a next packet each, the smallest first, as a heap.
	ready []*cursor
	// waiting have none at present.
	waiting []*cursor
}

// before is the order of packets.
func (c *cursor) before(other *cursor) bool {
	if c.time != other.time {
		return c.time < other.time
	}
	return c.order < other.order
}

// look moves cursors that have a packet now among those that are ready.
func (m *merge) look() error {
	still := m.waiting[:0]
	for _, c := range m.waiting {
		ok, err := c.peek()
		if err != nil {
			return err
		}
		if ok {
			m.push(c)
		} else {
			still = append(still, c)
		}
	}
	clear(m.waiting[len(still):])
	m.waiting = still
	return nil
}

func (m *merge) push(c *cursor) {
	m.ready = append(m.ready, c)
	for i := len(m.ready) - 1; i > 0; {
		parent := (i - 1) / 2
		if !m.ready[i].before(m.ready[parent]) {
			return
		}
		m.ready[i], m.ready[parent] = m.ready[parent], m.ready[i]
		i = parent
	}
}

// settle puts the first of the heap where it belongs now.
func (m *merge) settle() {
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(m.ready); child++ {
			if m.ready[child].before(m.ready[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		m.ready[i], m.ready[least] = m.ready[least], m.ready[i]
		i = least
	}
}

// next appends packets up to an effective time, until there are so many bytes; more is true when that was the reason. Each
// packet is passed through change, if there is one, as what was appended from start on.
func (m *merge) next(to []byte, until int64, enough int, change func(to []byte, start int) []byte) (_ []byte, more bool, err error) {
	for len(m.ready) > 0 && m.ready[0].time <= until {
		if len(to) >= enough {
			return to, true, nil
		}
		c, start := m.ready[0], len(to)
		if to, err = c.take(to); err != nil {
			return to, false, err
		}
		if change != nil {
			to = change(to, start)
		}
		ok, err := c.peek()
		if err != nil {
			return to, false, err
		}
		if !ok {
			last := len(m.ready) - 1
			m.ready[0], m.ready[last] = m.ready[last], nil
			m.ready = m.ready[:last]
			m.waiting = append(m.waiting, c)
		}
		m.settle()
	}
	return to, false, nil
}

func (m *merge) close() {
	for _, c := range m.ready {
		c.close()
	}
	for _, c := range m.waiting {
		c.close()
	}
}

// forever is later than every packet.
const forever = math.MaxInt64

// withoutPayload cuts the packet that was appended last behind its headers.
func withoutPayload(to []byte, start int) []byte {
	packet := pcapng.Packet(to[start:])
	data := packet.Data()
	f := parse(data)
	if f.headers >= len(data) {
		return to
	}
	return pcapng.AppendPacket(to[:start], packet.Number(), packet.Time(), data[:f.headers], packet.Original(), packet.Direction())
}
