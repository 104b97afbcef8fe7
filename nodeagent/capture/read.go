package capture

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// batchBytes is how many bytes of blocks a batch has, and a packet more.
	batchBytes = 192 << 10
	// followEvery is how often a follower looks for more.
	followEvery = 25 * time.Millisecond
	// watermarkEvery is how often a follower is told the watermark at least.
	watermarkEvery = 200 * time.Millisecond
)

// A reading is one stream of packets.
type reading struct {
	capture *capture
	request *v1alpha1.ReadCaptureRequest
	send    func(*v1alpha1.ReadCaptureResponse) error

	merge   merge
	known   int // parts of the capture that were looked at
	cursors int
	blocks  []byte
	change  func([]byte, int) []byte
	// told is the last watermark, sent at when.
	told int64
	when time.Time
}

// Read sends the packets of a capture. It does not use what it sent after send has returned, and send must not either.
func (m *Manager) Read(ctx context.Context, request *v1alpha1.ReadCaptureRequest, send func(*v1alpha1.ReadCaptureResponse) error) error {
	if request.GetHeadersOnly() && request.GetFromUnixNano() != 0 {
		return invalid("from_unix_nano", "is not for headers_only")
	}
	c, err := m.known(request.GetUid())
	if err != nil {
		return err
	}
	select {
	case m.readers <- struct{}{}:
		defer func() { <-m.readers }()
	default:
		return fmt.Errorf("%w: %d streams of packets are open on this node", ErrExhausted, maxReaders)
	}
	r := &reading{capture: c, request: request, send: send}
	if request.GetHeadersOnly() {
		r.change = withoutPayload
	}
	defer r.merge.close()
	err = r.run(ctx)
	if err != nil && c.isGone() {
		return ErrNotFound
	}
	return err
}

func (c *capture) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (r *reading) run(ctx context.Context) error {
	now := r.capture.frontier()
	if !r.request.GetFollow() {
		now.emit = forever
	}
	if err := r.join(true); err != nil {
		return err
	}
	for {
		if err := r.pass(ctx, now.emit); err != nil {
			return err
		}
		if now.ended {
			return r.send(&v1alpha1.ReadCaptureResponse{End: r.capture.state()})
		}
		if !r.request.GetFollow() {
			return nil
		}
		if err := r.sendWatermark(now.watermark); err != nil {
			return err
		}
		if err := r.capture.wait(ctx); err != nil {
			return err
		}
		// What is complete is asked before what there is, so that nothing can be between.
		now = r.capture.frontier()
		if err := r.refresh(); err != nil {
			return err
		}
	}
}

// A frontier is how far the packets of all parts can be put into one order.
type frontier struct {
	// emit is the effective time up to which packets may be sent, and watermark the one up to which all then were.
	emit, watermark int64
	ended           bool
}

// frontier asks what is complete now. A part that joins later has later packets only.
func (c *capture) frontier() frontier {
	c.joining.RLock()
	defer c.joining.RUnlock()
	c.mu.Lock()
	parts, ended := c.parts[:len(c.parts):len(c.parts)], c.Phase == v1alpha1.CaptureState_PHASE_ENDED
	c.mu.Unlock()
	if ended {
		return frontier{emit: forever, watermark: forever, ended: true}
	}
	now := time.Now()
	f := frontier{emit: forever, watermark: now.Add(-late).UnixNano()}
	running, alone := 0, int64(0)
	for _, p := range parts {
		complete, last, ended := p.complete(now)
		if ended {
			continue
		}
		f.emit, f.watermark = min(f.emit, complete), min(f.watermark, complete)
		running, alone = running+1, max(last, now.UnixNano())
	}
	if running == 1 {
		f.emit = alone // there is no other to wait for
	}
	return f
}

// wait returns when there may be more to read.
func (c *capture) wait(ctx context.Context) error {
	timer := time.NewTimer(followEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.gone:
		return ErrNotFound
	case <-c.manager.ctx.Done():
		return ErrEnding
	case <-timer.C:
		return nil
	}
}

// join tells of parts that are new, and begins to read them.
func (r *reading) join(first bool) error {
	r.capture.mu.Lock()
	parts := r.capture.parts[r.known:]
	r.known = len(r.capture.parts)
	r.capture.mu.Unlock()
	var wanted []*part
	for _, p := range parts {
		if r.request.GetPod() == "" && r.request.GetNamespace() == "" || p.Namespace == r.request.GetNamespace() && p.Pod == r.request.GetPod() {
			wanted = append(wanted, p)
		}
	}
	r.cursors += len(wanted)
	skipped := int64(0)
	for _, p := range wanted {
		c := newCursor(p, r.cursors)
		r.merge.waiting = append(r.merge.waiting, c)
		if from := r.request.GetFromUnixNano(); from > 0 {
			n, err := c.seek(from)
			if err != nil {
				return err
			}
			skipped += n
		}
	}
	if !first && len(wanted) == 0 {
		return nil
	}
	return r.sendParts(wanted, skipped)
}

// sendParts sends the rows of parts, in batches.
func (r *reading) sendParts(parts []*part, skipped int64) error {
	response := &v1alpha1.ReadCaptureResponse{SkippedBytes: skipped}
	size := 0
	for _, p := range parts {
		row := p.row()
		if size += proto.Size(row) + rowFrame; size > v1alpha1.MaxBatchBytes {
			if err := r.send(response); err != nil {
				return err
			}
			response, size = &v1alpha1.ReadCaptureResponse{}, proto.Size(row)+rowFrame
		}
		response.Parts = append(response.Parts, row)
	}
	return r.send(response)
}

// rowFrame is more than what a row takes beside itself.
const rowFrame = 32

// refresh takes over what has been written, and parts that have joined.
func (r *reading) refresh() error {
	for _, c := range r.merge.waiting {
		if err := c.refresh(); err != nil {
			return err
		}
	}
	for _, c := range r.merge.ready {
		if err := c.refresh(); err != nil {
			return err
		}
	}
	return r.join(false)
}

// pass sends everything up to an effective time.
func (r *reading) pass(ctx context.Context, until int64) error {
	if err := r.merge.look(); err != nil {
		return err
	}
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.capture.isGone() {
			return ErrNotFound
		}
		var err error
		r.blocks, more, err = r.merge.next(r.blocks[:0], until, batchBytes, r.change)
		if err != nil {
			return err
		}
		if len(r.blocks) == 0 {
			return nil
		}
		if err := r.send(&v1alpha1.ReadCaptureResponse{Blocks: r.blocks}); err != nil {
			return err
		}
		if cap(r.blocks) > 2*batchBytes {
			r.blocks = nil
		}
	}
	return nil
}

// sendWatermark says how far the stream is, when that has changed or a follower may wonder.
func (r *reading) sendWatermark(now int64) error {
	if quiet := time.Since(r.when); quiet < watermarkEvery && now <= r.told {
		return nil
	}
	r.told, r.when = max(r.told, now), time.Now()
	return r.send(&v1alpha1.ReadCaptureResponse{WatermarkUnixNano: r.told})
}

// Describe sends what is needed to read or seal a capture.
func (m *Manager) Describe(_ context.Context, request *v1alpha1.DescribeCaptureRequest, send func(*v1alpha1.DescribeCaptureResponse) error) error {
	c, err := m.known(request.GetUid())
	if err != nil {
		return err
	}
	if err := send(&v1alpha1.DescribeCaptureResponse{State: c.state()}); err != nil {
		return err
	}
	d := describing{send: send}
	c.mu.Lock()
	names, parts := c.names, c.parts[:len(c.parts):len(c.parts)]
	c.mu.Unlock()
	for _, name := range names {
		if err := d.add(proto.Size(name), func(to *v1alpha1.DescribeCaptureResponse) { to.Names = append(to.Names, name) }); err != nil {
			return err
		}
	}
	for _, one := range c.addresses.list() {
		if err := d.add(len(one), func(to *v1alpha1.DescribeCaptureResponse) { to.Addresses = append(to.Addresses, one) }); err != nil {
			return err
		}
	}
	for _, p := range parts {
		for _, mark := range p.marks() {
			if err := d.add(proto.Size(mark), func(to *v1alpha1.DescribeCaptureResponse) { to.Marks = append(to.Marks, mark) }); err != nil {
				return err
			}
		}
	}
	return d.flush()
}

// marks are where segments begin, but for the first.
func (p *part) marks() (marks []*v1alpha1.CaptureMark) {
	before := int64(0)
	for i, s := range p.view() {
		if i > 0 {
			marks = append(marks, &v1alpha1.CaptureMark{Part: p.Number, TimeUnixNano: s.Before + 1, BlockBytes: before})
		}
		before += s.Size
	}
	return marks
}

// describing gathers rows into batches.
type describing struct {
	send func(*v1alpha1.DescribeCaptureResponse) error
	next *v1alpha1.DescribeCaptureResponse
	size int
}

func (d *describing) add(size int, to func(*v1alpha1.DescribeCaptureResponse)) error {
	size += rowFrame
	if d.size+size > v1alpha1.MaxBatchBytes {
		if err := d.flush(); err != nil {
			return err
		}
	}
	if d.next == nil {
		d.next = &v1alpha1.DescribeCaptureResponse{}
	}
	d.size += size
	to(d.next)
	return nil
}

func (d *describing) flush() error {
	if d.next == nil {
		return nil
	}
	err := d.send(d.next)
	d.next, d.size = nil, 0
	return err
}
