package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// recover finds the captures that an earlier agent has left. What is damaged beyond reading is removed, and told; it
// stops nobody.
func (m *Manager) recover() error {
	entries, err := fs.ReadDir(m.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("listing captures: %w", err)
	}
	for _, entry := range entries {
		uid := entry.Name()
		if !entry.IsDir() || !uids.MatchString(uid) {
			m.config.Failed(fmt.Errorf("%q in the folder for captures is none, and is left alone", uid))
			continue
		}
		c, err := m.restore(uid)
		if err != nil {
			err = fmt.Errorf("capture %s cannot be read and is removed: %w", uid, err)
			m.config.Failed(errors.Join(err, m.root.RemoveAll(uid)))
			continue
		}
		m.captures[uid] = c
	}
	return nil
}

// restore makes a capture of its folder.
func (m *Manager) restore(uid string) (c *capture, err error) {
	root, err := m.root.OpenRoot(uid)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	var found meta
	if err := readJSON(root, metaFile, &found); err != nil {
		return nil, err
	}
	request := &v1alpha1.EnsureCaptureRequest{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(found.Request, request); err != nil {
		return nil, fmt.Errorf("decoding the request: %w", err)
	}
	if err := validateEnsure(request); err != nil {
		return nil, err
	}
	if found.Format != format || request.GetUid() != uid {
		return nil, fmt.Errorf("format %d of capture %q", found.Format, request.GetUid())
	}
	c = newCapture(m, request)
	c.root, c.meta = root, found
	if err := c.restoreParts(); err != nil {
		return nil, err
	}
	c.restoreRest()
	return c, nil
}

// restoreRest takes over what is beside parts, and decides whether the capture goes on.
func (c *capture) restoreRest() {
	if content, err := c.root.ReadFile(addressesFile); err == nil {
		c.addresses.load(content)
	}
	if content, err := c.root.ReadFile(namesFile); err == nil {
		request := &v1alpha1.SealCaptureRequest{}
		if err := proto.Unmarshal(content, request); err == nil && validateSeal(request) == nil {
			c.setNames(request.GetNames())
		}
	}
	c.restoreSnapshots()
	if len(c.Digest) > 0 {
		close(c.sealed)
	}
	if c.Phase == v1alpha1.CaptureState_PHASE_ENDED {
		c.ending = true
		close(c.stop)
		close(c.done)
		return
	}
	c.Interruptions++
	left := time.Duration(c.request.GetDurationNano()) - c.elapsed()
	c.deadline = time.Now().Add(left)
	if left <= 0 {
		c.end(v1alpha1.CaptureState_REASON_INTERRUPTED, "its duration passed while no agent ran on this node")
	}
	if err := c.save(); err != nil {
		c.problem(err)
	}
}

// elapsed is the time since the capture began: by the machine's clock that does not step, or by the other one when it
// was started anew since.
func (c *capture) elapsed() time.Duration {
	if boot, now := bootClock(); boot != "" && boot == c.Boot {
		return time.Duration(now - c.Began)
	}
	return max(0, time.Since(time.Unix(0, c.Start)))
}

var (
	partFiles    = regexp.MustCompile(`^(\d{5})\.json$`)
	segmentFiles = regexp.MustCompile(`^(\d{5})-(\d{6,9})\.pcapng$`) // a ring of small files comes to more than six digits
)

func (c *capture) restoreParts() error {
	entries, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("listing files: %w", err)
	}
	segments := map[int][]int{}
	parts := 0
	for _, entry := range entries {
		if match := segmentFiles.FindStringSubmatch(entry.Name()); match != nil {
			number, _ := strconv.Atoi(match[1])
			index, _ := strconv.Atoi(match[2])
			segments[number] = append(segments[number], index)
		}
		if match := partFiles.FindStringSubmatch(entry.Name()); match != nil {
			parts++
		}
	}
	for number := range parts {
		slices.Sort(segments[number])
		p, err := c.restorePart(uint32(number), segments[number])
		if err != nil {
			return err
		}
		c.parts = append(c.parts, p)
		delete(segments, number)
	}
	c.takeRoom()
	return c.removeStrays(segments)
}

// removeStrays removes segments of parts that had not been written down when the agent ended.
func (c *capture) removeStrays(segments map[int][]int) error {
	for number, indexes := range segments {
		for _, index := range indexes {
			if err := c.root.Remove(segmentName(uint32(number), index)); err != nil {
				return fmt.Errorf("removing a file that belongs to no part: %w", err)
			}
		}
	}
	return nil
}

// restorePart reads what is known of a part, and walks the segments that were being written.
func (c *capture) restorePart(number uint32, indexes []int) (*part, error) {
	var state partState
	if err := readJSON(c.root, partName(number), &state); err != nil {
		return nil, err
	}
	if state.Number != number {
		return nil, fmt.Errorf("%s is about part %d", partName(number), state.Number)
	}
	known := closedSegments(&state)
	before := int64(0)
	if len(state.Segments) > 0 {
		before = state.Segments[0].Before // of a packet that a ring let go, which the place of those behind it depends on
	}
	state.Segments, state.Last = nil, before
	p := c.makePart(state)
	p.writer.next = state.First
	for i, index := range indexes {
		p.writer.next = index + 1
		if index < state.First {
			if err := c.root.Remove(segmentName(number, index)); err != nil {
				return nil, fmt.Errorf("removing a file that a ring let go: %w", err)
			}
			continue
		}
		s, last, err := c.restoreSegment(number, known[index], index, i == len(indexes)-1)
		if err != nil {
			return nil, err
		}
		if s.Header == 0 {
			continue // it had no header yet
		}
		s.Before, s.Sequence = p.Last, p.counts().GetPackets()
		p.Last = max(p.Last, last)
		p.Segments = append(p.Segments, s)
	}
	return p, nil
}

// A closedSegment is known to the end. last is the effective time of its newest packet.
type closedSegment struct {
	segment
	last int64
}

// closedSegments are those that nothing was added to after they were written down.
func closedSegments(state *partState) map[int]closedSegment {
	known := map[int]closedSegment{}
	for i, s := range state.Segments {
		if i+1 < len(state.Segments) {
			known[s.Index] = closedSegment{s, state.Segments[i+1].Before}
		} else if state.Phase == v1alpha1.CaptureState_PHASE_ENDED {
			known[s.Index] = closedSegment{s, state.Last}
		}
	}
	return known
}

// restoreSegment walks a segment and cuts it behind its last whole block. One that is as long as it is known to be is not
// read again.
func (c *capture) restoreSegment(number uint32, known closedSegment, index int, newest bool) (s segment, last int64, err error) {
	name := segmentName(number, index)
	file, err := c.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return s, 0, fmt.Errorf("opening a file of packets: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return s, 0, fmt.Errorf("looking at a file of packets: %w", err)
	}
	if known.Size > 0 && info.Size() == known.Header+known.Size {
		return known.segment, known.last, nil
	}
	header, err := headerSize(file)
	if err != nil {
		c.problem(fmt.Errorf("%s: %w: it is removed", name, err))
		return segment{}, 0, c.root.Remove(name)
	}
	var each func(pcapng.Packet)
	if newest {
		each = c.remember()
	}
	if s, last, err = scan(file, header, each); err != nil {
		return s, 0, err
	}
	s.Index = index
	if end := s.Header + s.Size; info.Size() > end {
		if err := file.Truncate(end); err != nil {
			return s, 0, fmt.Errorf("cutting a file of packets: %w", err)
		}
	}
	if s.Size < known.Size {
		c.problem(fmt.Errorf("%s has %d bytes of packets where there were %d", name, s.Size, known.Size))
	}
	return s, last, nil
}

// remember collects addresses again that had not been saved.
func (c *capture) remember() func(pcapng.Packet) {
	var seen recent
	return func(packet pcapng.Packet) {
		f := parse(packet.Data())
		seen.meet(&c.addresses, &f)
	}
}

// takeRoom counts what is on disk towards the quota and the limits.
func (c *capture) takeRoom() {
	for _, p := range c.parts {
		for _, s := range p.Segments {
			c.manager.disk.used.Add(s.Header + s.Size)
		}
		counts := p.counts()
		c.limits.packets += counts.GetPackets()
		c.limits.bytes += counts.GetBytes()
	}
	c.over = c.limits.reached() != v1alpha1.CaptureState_REASON_UNSPECIFIED
	if reason := c.limits.reached(); reason != v1alpha1.CaptureState_REASON_UNSPECIFIED && c.Phase == v1alpha1.CaptureState_PHASE_RUNNING {
		c.end(reason, "")
	}
}
