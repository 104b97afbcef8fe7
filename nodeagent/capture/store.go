package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture/outputs"
	"github.com/networkobservability/networkobservability/nodeagent/capture/snapshot"
)

// Store copies a capture that has ended to outputs, in the background.
func (m *Manager) Store(_ context.Context, request *v1alpha1.StoreCaptureRequest) (*v1alpha1.CaptureState, error) {
	c, err := m.known(request.GetUid())
	if err != nil {
		return nil, err
	}
	if m.config.Outputs == nil {
		return nil, fmt.Errorf("%w: this agent has no outputs", ErrPrecondition)
	}
	return c.store(request)
}

func (c *capture) store(request *v1alpha1.StoreCaptureRequest) (*v1alpha1.CaptureState, error) {
	c.mu.Lock()
	sealed := len(c.Digest) > 0
	c.mu.Unlock()
	if !sealed {
		return nil, fmt.Errorf("%w: the capture is not sealed", ErrPrecondition)
	}
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	err = c.manager.config.Outputs.Ensure(c.uid, request.GetOutputs(), files)
	switch {
	case c.isGone(): // perhaps so late that what was begun just now was not forgotten with the rest
		c.manager.config.Outputs.Forget(c.uid)
		return nil, ErrNotFound
	case errors.Is(err, outputs.ErrClosed):
		return nil, ErrEnding
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c.state(), nil
}

// files are those that this node adds to outputs.
func (c *capture) files() ([]outputs.File, error) {
	name := func(suffix string) string {
		return outputs.ObjectName(c.request.GetNamespace(), c.request.GetName(), c.uid, c.manager.config.Node+suffix)
	}
	packets, err := c.file()
	if err != nil {
		return nil, err
	}
	files := []outputs.File{{Name: name(".pcapng"), Size: packets.size(), Open: packets.open}}
	if !c.request.GetNetworkSnapshot() {
		return files, nil
	}
	network, err := c.network()
	if err != nil {
		return nil, err
	}
	return append(files, outputs.File{Name: name("-network.json"), Size: network.size(), Open: network.open}), nil
}

// content is made of pieces. What it is does not change.
type content []piece

type piece struct {
	size int64
	open func() (io.ReadCloser, error)
}

func text(b []byte) piece {
	return piece{int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func (c content) size() (size int64) {
	for _, p := range c {
		size += p.size
	}
	return size
}

// open opens the content at an offset.
func (c content) open(offset int64) (io.ReadCloser, error) {
	for len(c) > 0 && offset >= c[0].size {
		offset -= c[0].size
		c = c[1:]
	}
	r := &contentReader{left: c}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		return nil, errors.Join(fmt.Errorf("seeking in recorded packets: %w", err), r.Close())
	}
	return r, nil
}

type contentReader struct {
	left content
	now  io.ReadCloser
}

func (r *contentReader) Read(p []byte) (int, error) {
	for {
		if r.now == nil {
			if len(r.left) == 0 {
				return 0, io.EOF
			}
			var err error
			if r.now, err = r.left[0].open(); err != nil {
				return 0, err
			}
			r.left = r.left[1:]
		}
		n, err := r.now.Read(p)
		if !errors.Is(err, io.EOF) || n > 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		if err := r.Close(); err != nil {
			return 0, err
		}
	}
}

func (r *contentReader) Close() error {
	if r.now == nil {
		return nil
	}
	err := r.now.Close()
	r.now = nil
	return err
}

// layout is that of the file with what this node recorded. It is the same at every call, once the capture is sealed.
func (c *capture) layout() (*pcapfile.File, error) {
	state := c.state()
	var names pcapfile.Names
	c.mu.Lock()
	names.Add(c.names)
	c.mu.Unlock()
	layout, err := pcapfile.New(c.header(), []pcapfile.Node{{Name: c.manager.config.Node, State: state}}, &names)
	if err != nil {
		return nil, fmt.Errorf("laying out the file: %w", err)
	}
	return layout, nil
}

// file is what this node recorded, as a file of its own. What comes before the packets may be more than an agent has room for,
// and outputs keep the content until the capture is deleted: it is made while it is read.
func (c *capture) file() (content, error) {
	layout, err := c.layout()
	if err != nil {
		return nil, err
	}
	var begin piece
	_ = layout.WriteBegin(func(b []byte) error { begin.size += int64(len(b)); return nil })
	begin.open = func() (io.ReadCloser, error) {
		layout, err := c.layout()
		if err != nil {
			return nil, err
		}
		return newPieces(layout.WriteBegin), nil
	}
	c.mu.Lock()
	parts, size := slices.Clone(c.parts), c.BlockBytes
	c.mu.Unlock()
	numbers := make([]uint32, len(parts))
	for i, p := range parts {
		numbers[i], _ = layout.Number(c.manager.config.Node, p.Number)
	}
	packets := func() (io.ReadCloser, error) {
		r := &mergeReader{}
		for i, p := range parts {
			one := newCursor(p, len(parts))
			one.number = numbers[i]
			r.merge.waiting = append(r.merge.waiting, one)
		}
		return r, nil
	}
	return content{begin, {size, packets}, text(layout.AppendEnd(nil))}, nil
}

// A piecesReader reads what is handed over in pieces, one at a time.
type piecesReader struct {
	next func() ([]byte, bool)
	stop func()
	left []byte
}

var errStopped = errors.New("no more is read")

// newPieces reads what write hands over; an error that it returns must be one that it was given.
func newPieces(write func(func([]byte) error) error) *piecesReader {
	next, stop := iter.Pull(func(yield func([]byte) bool) {
		_ = write(func(b []byte) error {
			if !yield(b) {
				return errStopped
			}
			return nil
		})
	})
	return &piecesReader{next: next, stop: stop}
}

// Read implements io.Reader.
func (r *piecesReader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		var ok bool
		if r.left, ok = r.next(); !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *piecesReader) Close() error {
	r.left = nil
	r.stop()
	return nil
}

// A mergeReader reads the packets of parts in their order.
type mergeReader struct {
	merge  merge
	buffer []byte
	left   []byte
	begun  bool
}

// Read implements io.Reader.
func (r *mergeReader) Read(p []byte) (int, error) {
	if !r.begun {
		r.begun = true
		if err := r.merge.look(); err != nil {
			return 0, err
		}
	}
	if len(r.left) == 0 {
		var err error
		if r.buffer, _, err = r.merge.next(r.buffer[:0], forever, batchBytes, nil); err != nil {
			return 0, err
		}
		if r.left = r.buffer; len(r.left) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *mergeReader) Close() error {
	r.merge.close()
	return nil
}

const (
	// snapshotWithin bounds how long one is taken.
	snapshotWithin = 30 * time.Second
	// maxSnapshots is how many targets of a capture have one.
	maxSnapshots = v1alpha1.MaxCaptureTargets
)

func snapshotName(number int) string { return fmt.Sprintf("network-%05d.json", number) }

// snapshot records the state of a target's network, once and in the background. The caller holds ensuring.
func (c *capture) snapshot(target *v1alpha1.CaptureTarget, request *v1alpha1.EnsureCaptureRequest) {
	if !request.GetNetworkSnapshot() || c.snapped[target.GetPodUid()] || c.snapshotsBegun >= maxSnapshots {
		return
	}
	at := c.manager.find(target)
	if at == nil {
		return
	}
	number := c.snapshotsBegun
	c.snapshotsBegun++
	c.snapped[target.GetPodUid()] = true
	c.snapshots.Go(func() {
		if err := c.takeSnapshot(number, target, at); err != nil {
			c.problem(fmt.Errorf("taking a snapshot of the network: %w", err))
		}
	})
}

// A networkOf is the state of the network of a target; of the node where it has no pod.
type networkOf struct {
	Namespace string          `json:"namespace,omitempty"`
	Pod       string          `json:"pod,omitempty"`
	PodUID    string          `json:"podUID,omitempty"`
	Network   json.RawMessage `json:"network"`
}

func (c *capture) takeSnapshot(number int, target *v1alpha1.CaptureTarget, at place) error {
	ctx, cancel := context.WithTimeout(c.manager.ctx, snapshotWithin)
	defer cancel()
	var state []byte
	if err := at.Enter(func() (err error) {
		state, err = snapshot.Take(ctx)
		return err
	}); err != nil {
		return err
	}
	one, err := json.Marshal(networkOf{Namespace: target.GetNamespace(), Pod: target.GetPod(), PodUID: target.GetPodUid(), Network: state})
	if err != nil {
		return fmt.Errorf("encoding it: %w", err)
	}
	if err := c.manager.disk.reserve(int64(len(one))); err != nil {
		return err
	}
	if err := replace(c.root, snapshotName(number), one, false); err != nil {
		c.manager.disk.release(int64(len(one)))
		return err
	}
	c.snapshotBytes.Add(int64(len(one)))
	return nil
}

// restoreSnapshots finds those that were taken before the agent was started.
func (c *capture) restoreSnapshots() {
	if !c.request.GetNetworkSnapshot() {
		return
	}
	for number := range maxSnapshots {
		pod, size, err := c.snapshotOf(number)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			c.problem(fmt.Errorf("reading %s: %w", snapshotName(number), err))
		} else {
			c.snapped[pod] = true
		}
		c.snapshotsBegun = number + 1
		c.snapshotBytes.Add(size)
		c.manager.disk.used.Add(size)
	}
}

// snapshotOf says of which pod a snapshot is, by its UID, and how large it is. What it holds of the network comes last, and
// is not read.
func (c *capture) snapshotOf(number int) (pod string, size int64, err error) {
	file, err := c.root.Open(snapshotName(number))
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		size = info.Size()
	}
	known := map[json.Token]json.Token{}
	decoder := json.NewDecoder(file)
	if _, err := decoder.Token(); err != nil {
		return "", size, err
	}
	for known["network"] == nil {
		name, err := decoder.Token()
		if err != nil {
			return "", size, err
		}
		if known[name], err = decoder.Token(); err != nil {
			return "", size, err
		}
	}
	pod, _ = known["podUID"].(string)
	return pod, size, nil
}

// network is all snapshots, as one file of JSON.
func (c *capture) network() (content, error) {
	node, err := json.Marshal(c.manager.config.Node)
	if err != nil {
		return nil, fmt.Errorf("encoding the node's name: %w", err)
	}
	all := content{text(fmt.Appendf(nil, `{"node":%s,"targets":[`, node))}
	for number := range maxSnapshots {
		name := snapshotName(number)
		info, err := c.root.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at a snapshot: %w", err)
		}
		if len(all) > 1 {
			all = append(all, text([]byte(",")))
		}
		all = append(all, piece{info.Size(), func() (io.ReadCloser, error) { return c.root.Open(name) }})
	}
	return append(all, text([]byte("]}\n"))), nil
}
