package capture

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// sealWithin is how long SealCapture waits for the digest before it answers without one.
	sealWithin = 20 * time.Second
	namesFile  = "names"
)

// Seal adds names to a capture that has ended, once, and answers with its digest when that is known in time.
func (m *Manager) Seal(ctx context.Context, request *v1alpha1.SealCaptureRequest) (*v1alpha1.CaptureState, error) {
	if err := validateSeal(request); err != nil {
		return nil, err
	}
	c, err := m.known(request.GetUid())
	if err != nil {
		return nil, err
	}
	if c.running() {
		return nil, fmt.Errorf("%w: the capture runs", ErrPrecondition)
	}
	if err := c.name(request); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sealWithin, errSealing)
	defer cancel()
	if err := c.await(ctx, c.sealed); err != nil && !errors.Is(context.Cause(ctx), errSealing) {
		return nil, err
	}
	c.mu.Lock()
	err = c.sealing
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return c.state(), nil
}

var errSealing = errors.New("recorded packets are still being read")

// name takes names, the first ones only.
func (c *capture) name(request *v1alpha1.SealCaptureRequest) error {
	c.ensuring.Lock()
	defer c.ensuring.Unlock()
	select {
	case <-c.named:
		return nil
	default:
	}
	content, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("encoding names: %w", err)
	}
	if err := replace(c.root, namesFile, content, c.manager.durable); err != nil {
		return err
	}
	c.setNames(request.GetNames())
	return nil
}

func (c *capture) setNames(names []*v1alpha1.CaptureName) {
	names = slices.Clone(names)
	slices.SortStableFunc(names, func(a, b *v1alpha1.CaptureName) int {
		return cmp.Or(cmp.Compare(len(a.GetAddress()), len(b.GetAddress())), bytes.Compare(a.GetAddress(), b.GetAddress()))
	})
	c.mu.Lock()
	c.names = names
	c.mu.Unlock()
	close(c.named)
}

// seal finds the digest of a capture that has ended: what was recorded is read once, and names are waited for.
func (c *capture) seal(ctx context.Context) {
	select {
	case <-c.sealed:
		return // before the agent was started
	default:
	}
	select {
	case <-ctx.Done():
		return
	case <-c.gone:
		return
	case c.manager.hashing <- struct{}{}:
	}
	rows, size, err := c.hashParts(ctx)
	<-c.manager.hashing
	if ctx.Err() != nil {
		return
	}
	if !c.awaitSaving(ctx, c.named) {
		return
	}
	c.mu.Lock()
	if c.sealing = err; err == nil {
		c.Digest, c.BlockBytes = c.digest(rows), size
	}
	c.mu.Unlock()
	if err == nil {
		err = c.save()
	}
	if err != nil {
		c.problem(err)
	}
	close(c.sealed)
	c.awaitSaving(ctx, nil)
}

// awaitSaving waits for a channel to be closed, or, when it is nil, for everything to be saved. What a full disk had no room
// for is tried again meanwhile: an agent that finds the capture running goes on with it. The answer is false when the
// capture was deleted or the agent ends.
func (c *capture) awaitSaving(ctx context.Context, what <-chan struct{}) bool {
	again := time.NewTicker(saveEvery)
	defer again.Stop()
	for {
		retry := again.C
		if c.saveRest() {
			if retry = nil; what == nil {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-c.gone:
			return false
		case <-what:
			return true
		case <-retry:
		}
	}
}

// A hashedPart is what the digest says of a part.
type hashedPart struct {
	partState
	size int64
	sum  []byte
}

func (c *capture) hashParts(ctx context.Context) (parts []hashedPart, size int64, err error) {
	c.mu.Lock()
	all := slices.Clone(c.parts)
	c.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		one := hashedPart{partState: p.partState}
		p.mu.Unlock()
		if one.size, one.sum, err = c.hashPart(ctx, &one.partState); err != nil {
			return nil, 0, err
		}
		parts = append(parts, one)
		size += one.size
	}
	return parts, size, nil
}

// hashPart hashes a part's blocks, and has them on disk: a digest is given for what stays.
func (c *capture) hashPart(ctx context.Context, p *partState) (size int64, sum []byte, err error) {
	h := sha256.New()
	for _, s := range p.Segments {
		n, err := c.hashSegment(ctx, h, p.Number, s)
		if err != nil {
			return 0, nil, fmt.Errorf("reading recorded packets: %w", err)
		}
		size += n
	}
	return size, h.Sum(nil), nil
}

func (c *capture) hashSegment(ctx context.Context, into hash.Hash, number uint32, s segment) (int64, error) {
	file, err := c.root.Open(segmentName(number, s.Index))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if c.manager.durable {
		if err := file.Sync(); err != nil {
			return 0, err
		}
	}
	n, err := io.CopyBuffer(into, io.NewSectionReader(whileWanted{file, c, ctx}, s.Header, s.Size), make([]byte, 256<<10))
	if err == nil && n != s.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// whileWanted reads a file until the capture is deleted or the agent ends.
type whileWanted struct {
	*os.File
	capture *capture
	ctx     context.Context
}

func (w whileWanted) ReadAt(p []byte, off int64) (int, error) {
	select {
	case <-w.capture.gone:
		return 0, ErrNotFound
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	default:
		return w.File.ReadAt(p, off)
	}
}

// digest is as PROTOCOL.md says; the caller holds mu.
func (c *capture) digest(parts []hashedPart) []byte {
	d := digester{sha256.New()}
	d.text("networkobservability capture 1")
	d.text(c.uid)
	d.text(c.request.GetFilterText())
	d.number(int64(c.request.GetSnapLength()))
	d.number(int64(len(parts)))
	for _, p := range parts {
		d.part(p)
	}
	d.number(int64(len(c.names)))
	for _, name := range c.names {
		d.text(string(name.GetAddress()))
		d.number(int64(len(name.GetNames())))
		for _, text := range name.GetNames() {
			d.text(text)
		}
	}
	return d.Sum(nil)
}

type digester struct{ hash.Hash }

func (d digester) number(n int64) {
	_, _ = d.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func (d digester) text(s string) {
	d.number(int64(len(s)))
	_, _ = io.WriteString(d, s)
}

func (d digester) part(p hashedPart) {
	row := p.row()
	d.number(int64(row.GetNumber()))
	for _, text := range []string{row.GetKey(), row.GetNamespace(), row.GetPod(), row.GetPodUid(), row.GetInterface()} {
		d.text(text)
	}
	counts := row.GetCounts()
	for _, n := range []int64{
		int64(row.GetReason()), row.GetStartUnixNano(), row.GetEndUnixNano(),
		counts.GetMatched(), counts.GetPackets(), counts.GetBytes(), counts.GetRingDrops(), counts.GetDiskDrops(), counts.GetLimitDrops(), counts.GetOtherVantage(),
		p.size,
	} {
		d.number(n)
	}
	d.text(string(p.sum))
}
