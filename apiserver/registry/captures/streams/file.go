package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/agent/pcapfile"
	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// describing is how many nodes are asked at a time what they have.
	describing = 16
	// fewNodes are so few that each may have a batch on the way while another is written, and a wide window: all of it is less
	// than 4 MiB.
	fewNodes = 3
)

// A description is what the nodes say of a capture that has ended.
type description struct {
	nodes []pcapfile.Node
	names pcapfile.Names
	marks marks
}

// serveFile answers with the file of a capture that has ended, from an offset on.
func (s *session) serveFile(ctx context.Context, out *output) error {
	if !s.capture.ended() {
		return apierrors.NewConflict(s.groupResource(), s.name, errors.New("the capture has not ended; read it live with the subresource attach, or wait for its condition Complete"))
	}
	d, err := s.describe(ctx)
	if err != nil {
		return err
	}
	file, err := pcapfile.New(s.capture.narrowed(s.options, s.subresource == "headers"), d.nodes, &d.names)
	if err != nil {
		return fmt.Errorf("laying out the file: %w", err)
	}
	if s.options.Pod != "" && !slices.ContainsFunc(d.nodes, func(n pcapfile.Node) bool { return slices.ContainsFunc(n.State.Parts, s.shows) }) {
		return s.nothingOfPod()
	}
	if err := s.prepare(out, file); err != nil {
		return err
	}
	behind := s.options.Offset
	err = file.WriteBegin(func(b []byte) error {
		behind -= int64(len(b))
		return out.write(b)
	})
	if err != nil {
		return err
	}
	d.names = pcapfile.Names{}
	if err := s.writePackets(ctx, out, file, d, behind); err != nil {
		return err
	}
	if err := out.write(file.AppendEnd(nil)); err != nil {
		return err
	}
	if out.skip > 0 {
		return s.beyondEnd(s.options.Offset - out.skip)
	}
	return nil
}

func (s *session) nothingOfPod() error {
	return apierrors.NewBadRequest(fmt.Sprintf("nothing of pod %s/%s was recorded", s.capture.podNamespace(s.options), s.options.Pod))
}

func (s *session) noPart() error {
	return apierrors.NewBadRequest(fmt.Sprintf("node %q has no part in this capture", s.options.Node))
}

// prepare checks what the client expects of the file, and sets the headers of the answer.
func (s *session) prepare(out *output, file *pcapfile.File) error {
	digest := file.Digest()
	if s.options.Digest != "" && s.options.Digest != digest {
		return statusError(http.StatusPreconditionFailed, "PreconditionFailed",
			fmt.Sprintf("the file has the digest %s and not %s: it is another one; begin anew without offset", digest, s.options.Digest))
	}
	if stored := s.capture.status.File; s.whole() && stored != nil && stored.Digest != digest {
		return fmt.Errorf("what the nodes have is not what they had when the capture ended: the file would have the digest %s, and status.file says %s", digest, stored.Digest)
	}
	size, known := file.Size()
	if known && s.options.Offset > size {
		return s.beyondEnd(size)
	}
	out.skip = s.options.Offset
	out.begin = func(header http.Header) {
		setHeaders(header)
		header.Set("ETag", strconv.Quote(digest))
		if known {
			header.Set("Content-Length", strconv.FormatInt(size-s.options.Offset, 10))
		}
	}
	return nil
}

// whole is whether the file is that of status.file.
func (s *session) whole() bool { return s.exact() && s.options.Node == "" }

func setHeaders(header http.Header) {
	header.Set("Content-Type", contentType)
	header.Set("X-Content-Type-Options", "nosniff")
}

func (s *session) beyondEnd(size int64) error {
	return statusError(http.StatusRequestedRangeNotSatisfiable, metav1.StatusReason("RangeNotSatisfiable"),
		fmt.Sprintf("offset %d is beyond the end of the file, which has %d bytes", s.options.Offset, size))
}

// describe asks all nodes that the answer needs what they have. A node with packets that does not answer is an error.
func (s *session) describe(ctx context.Context) (*description, error) {
	nodes := s.capture.nodes()
	if s.options.Node != "" {
		recorded, ok := nodes[s.options.Node]
		if !ok {
			return nil, s.noPart()
		}
		nodes = map[string]bool{s.options.Node: recorded}
	}
	// That nothing is missing of the whole file is seen by its digest.
	checked := s.whole() && s.capture.status.File != nil
	var mu sync.Mutex
	d, failed := &description{}, []error(nil)
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(describing)
	for node, recorded := range nodes {
		group.Go(func() error {
			err := s.describeNode(asking, node, d, &mu)
			if err == nil || !recorded && (checked || errors.Is(err, ErrNotFound)) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err)
			return nil
		})
	}
	_ = group.Wait() // Errors are in failed.
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return d, s.silent(failed, len(nodes))
}

// silent is the error that names nodes which do not answer.
func (s *session) silent(failed []error, nodes int) error {
	if len(failed) == 0 {
		return nil
	}
	const shown = 10
	messages := make([]string, len(failed))
	for i, err := range failed {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		messages[i] = err.Error()
	}
	slices.Sort(messages)
	more := ""
	if len(messages) > shown {
		more = fmt.Sprintf("; and %d more", len(messages)-shown)
		messages = messages[:shown]
	}
	hint := ""
	if nodes > 1 {
		hint = " (the packets of other nodes can be read with node=)"
	}
	return fmt.Errorf("nodes with packets of this capture do not answer: %s%s%s", strings.Join(messages, "; "), more, hint)
}

func (s *session) describeNode(ctx context.Context, node string, into *description, mu *sync.Mutex) error {
	var state *agentv1.CaptureState
	var names pcapfile.Names
	var marks sample
	err := s.streams.Source.DescribeCapture(ctx, node, s.capture.header.UID, func(batch *agentv1.DescribeCaptureResponse) error {
		if state == nil {
			state = batch.State
		}
		names.Add(batch.Names)
		if s.options.Offset > 0 {
			marks.take(batch.Marks)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if state == nil {
		return fmt.Errorf("%s: the agent did not describe the capture", node)
	}
	if state.Phase != agentv1.CaptureState_PHASE_ENDED || !state.Sealed {
		return apierrors.NewConflict(s.groupResource(), s.name, fmt.Errorf("node %s is not yet done with it; try again in some seconds", node))
	}
	if err := s.checkTargets(node, state); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	into.nodes = append(into.nodes, pcapfile.Node{Name: node, State: state})
	into.names.Merge(&names)
	shown := map[uint32]bool{}
	for _, part := range state.Parts {
		shown[part.Number] = s.shows(part)
	}
	into.marks.add(marks.kept, state.BlockBytes, func(part uint32) bool { return shown[part] })
	return nil
}

// checkTargets refuses parts of what the capture did not record.
func (s *session) checkTargets(node string, state *agentv1.CaptureState) error {
	targets, all := s.capture.targets()
	for _, part := range state.Parts {
		t := targetOf(node, part)
		if !s.capture.mayHave(t) || all && !targets[t] {
			return fmt.Errorf("%s: the agent's answer is not valid: packets of %v, which is no target of the capture", node, t)
		}
	}
	return nil
}

// writePackets writes the packets of all nodes, but for the first behind bytes that out leaves out anyway.
func (s *session) writePackets(ctx context.Context, out *output, file *pcapfile.File, d *description, behind int64) error {
	if all := blockBytes(file); s.exact() && behind >= all {
		out.skip -= all
		return nil
	}
	for want := behind; ; {
		from := int64(0)
		if s.subresource == "pcap" {
			from = d.marks.before(want)
		}
		skipped, err := s.mergeFile(ctx, out, file, from)
		if !errors.Is(err, errTooFar) {
			return err
		}
		// Marks are not exact. What was left out too much is left out less.
		want -= 2*(skipped-behind) + want/16
	}
}

// exact is whether the answer has every byte that nodes say they have.
func (s *session) exact() bool { return s.subresource == "pcap" && s.options.Pod == "" }

func blockBytes(file *pcapfile.File) (all int64) {
	for _, node := range file.Nodes() {
		all += node.State.BlockBytes
	}
	return all
}

// errTooFar says that nodes have left out more than out still leaves out.
var errTooFar = errors.New("the nodes have left out too much")

// mergeFile writes the packets from a time on. skipped is what came before it.
func (s *session) mergeFile(ctx context.Context, out *output, file *pcapfile.File, from int64) (skipped int64, err error) {
	to := &fileSink{file: file, out: out, sought: from > 0}
	m := &merge{clock: s.streams.Clock, sink: to, events: make(chan event), maxCaptured: s.capture.header.SnapLength}
	var inputs []*input
	batches := batchesFor(len(file.Nodes()))
	for _, node := range file.Nodes() {
		if node.State.BlockBytes > 0 && slices.ContainsFunc(node.State.Parts, s.shows) {
			inputs = append(inputs, newInput(node.Name, batches))
		}
	}
	giveBack, err := s.streams.limits.take(len(inputs), batches)
	if err != nil {
		return 0, err
	}
	defer giveBack()
	f := s.feeder(m.events)
	f.request.FromUnixNano = from

	ctx, cancel := context.WithCancel(ctx)
	var feeding sync.WaitGroup
	defer feeding.Wait()
	defer cancel()
	for _, in := range inputs {
		m.register(in)
		feeding.Go(func() { f.feed(ctx, in) })
	}
	to.inputs = m.inputs
	if err := m.run(ctx); err != nil {
		return to.skipped, err
	}
	if err := to.settle(); err != nil {
		return to.skipped, err
	}
	return to.skipped, s.checkWhole(file, inputs, from)
}

// batchesFor is how many batches of each of so many nodes may be held.
func batchesFor(nodes int) int {
	if nodes <= fewNodes {
		return 2
	}
	return 1
}

func (s *session) feeder(events chan<- event) *feeder {
	f := &feeder{source: s.streams.Source, clock: s.streams.Clock, events: events}
	f.request.Uid = s.capture.header.UID
	f.request.HeadersOnly = s.subresource == "headers" || s.options.HeadersOnly
	if s.options.Pod != "" {
		f.request.Namespace, f.request.Pod = s.capture.podNamespace(s.options), s.options.Pod
	}
	return f
}

// checkWhole fails when nodes sent less, or other, packets than they said they have.
func (s *session) checkWhole(file *pcapfile.File, inputs []*input, from int64) error {
	states := map[string]*agentv1.CaptureState{}
	for _, node := range file.Nodes() {
		states[node.Name] = node.State
	}
	for _, in := range inputs {
		state := states[in.node]
		if in.final == nil || !bytes.Equal(in.final.Digest, state.Digest) {
			return in.violates("what it has of the capture has changed while it was read")
		}
		if got := in.skipped + in.bytes; s.exact() && got != state.BlockBytes {
			return in.violates("%d bytes of packets, where there are %d", got, state.BlockBytes)
		}
		if want := s.packetsOf(state); from == 0 && s.capture.settings.Ring == nil && in.received != want {
			return in.violates("%d packets, where there are %d", in.received, want)
		}
	}
	return nil
}

// packetsOf counts the packets that a node recorded of what is asked for.
func (s *session) packetsOf(state *agentv1.CaptureState) (packets int64) {
	for _, part := range state.Parts {
		if s.shows(part) {
			packets += part.GetCounts().GetPackets()
		}
	}
	return packets
}

// shows is whether a part belongs to the answer.
func (s *session) shows(part *agentv1.CapturePart) bool {
	return s.options.Pod == "" || part.Pod == s.options.Pod && part.Namespace == s.capture.podNamespace(s.options)
}

// A fileSink writes the packets of a file whose layout is known.
type fileSink struct {
	file   *pcapfile.File
	out    *output
	inputs []*input
	// sought is whether nodes leave packets out, settled whether that was already counted, as skipped.
	sought, settled bool
	skipped         int64
}

var _ sink = &fileSink{}

// parts implements sink.
func (f *fileSink) parts(from *input, parts []*agentv1.CapturePart) error {
	for _, part := range parts {
		if number, ok := f.file.Number(from.node, part.Number); ok {
			from.number(part.Number, number)
		}
	}
	return nil
}

// packets implements sink.
func (f *fileSink) packets(run []byte) error {
	if !f.settled {
		if err := f.settle(); err != nil {
			return err
		}
	}
	return f.out.write(run)
}

// settle takes what nodes have left out off what out leaves out. All of them have answered by then.
func (f *fileSink) settle() error {
	if f.settled {
		return nil
	}
	f.settled = true
	for _, in := range f.inputs {
		f.skipped += in.skipped
	}
	switch {
	case f.skipped > 0 && !f.sought:
		return errors.New("nodes have left out packets that were asked for")
	case f.skipped > f.out.skip:
		return errTooFar
	}
	f.out.skip -= f.skipped
	return nil
}

// before implements sink.
func (f *fileSink) before(pcapng.Packet) []byte { return nil }

// idle implements sink.
func (f *fileSink) idle() error { return nil }
