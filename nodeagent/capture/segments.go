package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
)

// segmentBytes is the most that a file of a part has.
const segmentBytes = 16 << 20

// A segment is a file of a part: pcapng of one interface, whose blocks have its number as 0. Readers may read Size bytes
// behind Header; what is behind these is being written.
type segment struct {
	Index int `json:"index"`
	// Header is where blocks begin in the file, and Size how many bytes of them there are.
	Header int64 `json:"header"`
	Size   int64 `json:"size"`
	// Packets and Bytes are what its blocks hold.
	Packets int64 `json:"packets"`
	Bytes   int64 `json:"bytes"`
	// Before is the effective time of the packet before the first; 0 for none.
	Before int64 `json:"before"`
	// Sequence is how many of the part's packets are before the first.
	Sequence int64 `json:"sequence"`
}

// segmentName is made of numbers only.
func segmentName(part uint32, index int) string { return fmt.Sprintf("%05d-%06d.pcapng", part, index) }

// A writer appends to the segments of a part. It belongs to the part's goroutine.
type writer struct {
	root *os.Root
	disk *disk
	part uint32
	// header makes what every segment begins with. It has the text of the filter and is not kept: parts are many.
	header func() []byte
	// most is the size of a segment's file.
	most int64

	file *os.File
	next int // index of the next segment
	end  int64
}

// room is how many bytes of blocks the current segment can still take.
func (w *writer) room() int64 {
	if w.file == nil {
		return 0
	}
	return w.most - w.end
}

// begin begins the next segment. An error that wraps errFull leaves nothing behind.
func (w *writer) begin() (segment, error) {
	if err := w.close(); err != nil {
		return segment{}, err
	}
	header := w.header()
	size := int64(len(header))
	if err := w.disk.reserve(size); err != nil {
		return segment{}, err
	}
	name := segmentName(w.part, w.next)
	file, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		w.disk.release(size)
		return segment{}, fmt.Errorf("making a file for packets: %w", full(err))
	}
	if _, err := file.Write(header); err != nil {
		w.disk.release(size)
		return segment{}, errors.Join(fmt.Errorf("writing a file's header: %w", full(err)), file.Close(), w.root.Remove(name))
	}
	w.file, w.end = file, size
	w.next++
	return segment{Index: w.next - 1, Header: w.end}, nil
}

// write appends blocks, all of them or none.
func (w *writer) write(blocks []byte) error {
	size := int64(len(blocks))
	if err := w.disk.reserve(size); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(blocks, w.end); err != nil {
		w.disk.release(size)
		return errors.Join(fmt.Errorf("writing packets: %w", full(err)), w.file.Truncate(w.end))
	}
	w.end += size
	return nil
}

// full tells a disk without room from other errors.
func full(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return err
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	if err != nil {
		return fmt.Errorf("closing a file of packets: %w", err)
	}
	return nil
}

// errHeader says that a file does not begin as segments do.
var errHeader = errors.New("the file does not begin with a section and an interface")

// headerSize finds where the blocks of packets begin.
func headerSize(file io.ReaderAt) (int64, error) {
	at := int64(0)
	for _, kind := range []uint32{pcapng.TypeSection, pcapng.TypeInterface} {
		var head [8]byte
		if _, err := file.ReadAt(head[:], at); err != nil {
			return 0, errHeader
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		if binary.LittleEndian.Uint32(head[:]) != kind || size < 12 || size > pcapng.MaxBlock || size%4 != 0 {
			return 0, errHeader
		}
		at += size
	}
	var last [4]byte // of the second block, whose length ends it
	if _, err := file.ReadAt(last[:], at-4); err != nil {
		return 0, errHeader
	}
	return at, nil
}

// scan walks the blocks of a file from an offset on, up to the first that is not whole or not ours. each is called
// for every packet, and may be nil. The error is one of reading.
func scan(file io.ReaderAt, at int64, each func(pcapng.Packet)) (s segment, last int64, err error) {
	const chunk = 256 << 10
	s.Header = at
	reader := io.NewSectionReader(file, at, 1<<62-at)
	buffer := make([]byte, 0, chunk)
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, make([]byte, chunk)...)[:len(buffer)]
		}
		n, err := reader.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		rest, walked := s.walk(buffer, &last, each)
		buffer = buffer[:copy(buffer, rest)]
		switch {
		case walked != nil && !errors.Is(walked, pcapng.ErrIncomplete), errors.Is(err, io.EOF):
			return s, last, nil
		case err != nil:
			return s, last, fmt.Errorf("reading recorded packets: %w", err)
		}
	}
}

// walk counts whole blocks, and returns what is behind them.
func (s *segment) walk(blocks []byte, last *int64, each func(pcapng.Packet)) (rest []byte, err error) {
	for {
		packet, rest, err := pcapng.Next(blocks)
		if err != nil {
			return blocks, err
		}
		s.Size += int64(len(packet))
		s.Packets++
		s.Bytes += int64(len(packet.Data()))
		*last = max(*last, packet.Time())
		if each != nil {
			each(packet)
		}
		blocks = rest
	}
}
