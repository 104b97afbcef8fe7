package streams

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// aPacket is one that a fake node recorded.
type aPacket struct {
	part  uint32
	at    int64
	data  []byte
	place int64
}

func (p aPacket) block() []byte {
	return pcapng.AppendPacket(nil, p.part, p.at, p.data, uint32(len(p.data)), pcapng.Inbound)
}

// A fakeNode is an agent that keeps to the wire's rules, unless it is told otherwise.
type fakeNode struct {
	mu      sync.Mutex
	changed chan struct{}
	state   *agentv1.CaptureState
	packets []aPacket
	names   []*agentv1.CaptureName
	marks   []*agentv1.CaptureMark
	places  map[uint32]int64
	// batch is how many packets a batch has at most; watermarks whether followers get watermarks.
	batch      int
	watermarks bool
	// missing answers that there is no such capture; err is answered in its place if set.
	missing bool
	err     error
	// breakAfter packets the stream fails, once.
	breakAfter int
	// spoil changes batches before they are sent.
	spoil func(*agentv1.ReadCaptureResponse)
	// reads counts calls of ReadCapture, open those that have not returned.
	reads, open int
}

func newNode(parts ...*agentv1.CapturePart) *fakeNode {
	return &fakeNode{
		changed: make(chan struct{}), places: map[uint32]int64{}, batch: 3, breakAfter: -1,
		state: &agentv1.CaptureState{Uid: uid, Phase: agentv1.CaptureState_PHASE_RUNNING, Parts: parts},
	}
}

const uid = "3f0f4d5e-0000-4000-8000-000000000001"

func partOf(number uint32, namespace, pod, device string) *agentv1.CapturePart {
	return &agentv1.CapturePart{
		Number: number, Namespace: namespace, Pod: pod, PodUid: "uid-of-" + pod, Interface: device,
		Phase: agentv1.CaptureState_PHASE_RUNNING, StartUnixNano: 1, Counts: &agentv1.CaptureCounts{},
	}
}

// change does something under the lock and tells followers.
func (n *fakeNode) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.changed)
	n.changed = make(chan struct{})
}

// record adds a packet behind those that are there.
func (n *fakeNode) record(part uint32, at int64, data []byte) {
	n.change(func() {
		n.places[part] = max(n.places[part], at)
		n.packets = append(n.packets, aPacket{part, at, data, n.places[part]})
		counts := n.state.Parts[part].Counts
		counts.Matched, counts.Packets, counts.Bytes = counts.Matched+1, counts.Packets+1, counts.Bytes+int64(len(data))
	})
}

// end ends the capture here and seals it.
func (n *fakeNode) end() {
	n.change(func() {
		sum := sha256.New()
		n.state.BlockBytes = 0
		for _, p := range n.packets {
			n.state.BlockBytes += int64(len(p.block()))
			sum.Write(p.block())
		}
		for _, part := range n.state.Parts {
			part.Phase, part.Reason, part.EndUnixNano = agentv1.CaptureState_PHASE_ENDED, agentv1.CaptureState_REASON_STOPPED, 1_000_000
		}
		n.state.Phase, n.state.Sealed, n.state.Digest = agentv1.CaptureState_PHASE_ENDED, true, sum.Sum(nil)
	})
}

// fakeAgents are the agents of a cluster.
type fakeAgents map[string]*fakeNode

var _ Source = fakeAgents{}

func (a fakeAgents) DescribeCapture(_ context.Context, node, asked string, take func(*agentv1.DescribeCaptureResponse) error) error {
	n := a[node]
	if n == nil || n.missing || asked != uid {
		return fmt.Errorf("%s: %w", node, ErrNotFound)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return n.err
	}
	return take(&agentv1.DescribeCaptureResponse{State: n.state, Names: n.names, Marks: n.marks})
}

func (a fakeAgents) ReadCapture(ctx context.Context, node string, request *agentv1.ReadCaptureRequest, batches int, take func(*agentv1.ReadCaptureResponse) error) error {
	n := a[node]
	if n == nil || request.Uid != uid {
		return fmt.Errorf("%s: %w", node, ErrNotFound)
	}
	n.mu.Lock()
	n.reads++
	n.open++
	n.mu.Unlock()
	defer func() { n.change(func() { n.open-- }) }()
	var sent [][]byte
	return n.read(ctx, node, request, func(batch *agentv1.ReadCaptureResponse) error {
		batch.Blocks = bytes.Clone(batch.Blocks)
		err := take(batch)
		// Their memory is needed for the next.
		if sent = append(sent, batch.Blocks); len(sent) >= batches {
			clear(sent[len(sent)-batches])
		}
		return err
	})
}

func (n *fakeNode) read(ctx context.Context, node string, request *agentv1.ReadCaptureRequest, take func(*agentv1.ReadCaptureResponse) error) error {
	for done, first := 0, true; ; first = false {
		batch, next, changed, err := n.next(node, request, done, first)
		if err != nil {
			return err
		}
		if batch != nil {
			runtime.Gosched()
			if err := take(batch); err != nil {
				return err
			}
			if batch.End != nil {
				return nil
			}
		}
		if next > done || first {
			done = next
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next is the next batch behind so many packets, if there is one.
func (n *fakeNode) next(node string, request *agentv1.ReadCaptureRequest, done int, first bool) (batch *agentv1.ReadCaptureResponse, next int, changed <-chan struct{}, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.err != nil:
		return nil, 0, nil, n.err
	case n.missing:
		return nil, 0, nil, fmt.Errorf("%s: %w", node, ErrNotFound)
	}
	batch = &agentv1.ReadCaptureResponse{}
	if first {
		for _, part := range n.state.Parts {
			batch.Parts = append(batch.Parts, clonePart(part))
		}
	}
	next = done
	for ; next < len(n.packets) && next < done+n.batch; next++ {
		if next == n.breakAfter {
			n.breakAfter = -1
			return nil, 0, nil, fmt.Errorf("%s: the stream broke", node)
		}
		n.add(batch, request, n.packets[next])
	}
	if n.watermarks && next == len(n.packets) && next > 0 {
		batch.WatermarkUnixNano = n.packets[next-1].place
	}
	if next == len(n.packets) && n.state.Phase == agentv1.CaptureState_PHASE_ENDED {
		batch.End = cloneState(n.state)
	} else if next == done && !first {
		return nil, next, n.changed, nil
	}
	if n.spoil != nil {
		n.spoil(batch)
	}
	return batch, next, n.changed, nil
}

func (n *fakeNode) add(batch *agentv1.ReadCaptureResponse, request *agentv1.ReadCaptureRequest, p aPacket) {
	part := n.state.Parts[p.part]
	switch {
	case request.Pod != "" && (part.Pod != request.Pod || part.Namespace != request.Namespace):
	case p.place < request.FromUnixNano:
		batch.SkippedBytes += int64(len(p.block()))
	case request.HeadersOnly:
		p.data = p.data[:min(len(p.data), 34)]
		batch.Blocks = append(batch.Blocks, p.block()...)
	default:
		batch.Blocks = append(batch.Blocks, p.block()...)
	}
}

// clonePart and cloneState are proto.Clone for what tests use of them.
func clonePart(part *agentv1.CapturePart) *agentv1.CapturePart {
	return &agentv1.CapturePart{
		Number: part.Number, Namespace: part.Namespace, Pod: part.Pod, PodUid: part.PodUid, Interface: part.Interface, Phase: part.Phase,
		Reason: part.Reason, StartUnixNano: part.StartUnixNano, EndUnixNano: part.EndUnixNano,
		Counts: &agentv1.CaptureCounts{Matched: part.Counts.Matched, Packets: part.Counts.Packets, Bytes: part.Counts.Bytes, RingDrops: part.Counts.RingDrops},
	}
}

func cloneState(state *agentv1.CaptureState) *agentv1.CaptureState {
	clone := &agentv1.CaptureState{Uid: state.Uid, Phase: state.Phase, Sealed: state.Sealed, Digest: state.Digest, BlockBytes: state.BlockBytes}
	for _, part := range state.Parts {
		clone.Parts = append(clone.Parts, clonePart(part))
	}
	return clone
}

// frame is an Ethernet frame with an IPv4 packet between two addresses that ends with a number.
func frame(source, destination byte, number uint32, size int) []byte {
	data := make([]byte, max(size, 42))
	data[12], data[13] = 0x08, 0x00
	ip := data[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{192, 0, 2, source})
	copy(ip[16:], []byte{192, 0, 2, destination})
	binary.BigEndian.PutUint16(ip[10:], ipChecksum(ip[:20]))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, 40000)
	binary.BigEndian.PutUint16(udp[2:], 9999)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	if len(udp) >= 12 {
		binary.BigEndian.PutUint32(udp[8:], number)
	}
	return data
}

func ipChecksum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	return ^uint16(sum + sum>>16)
}

// randomAgents are nodes a, b, c ... with so many packets each, all ended. Times collide, and step back.
func randomAgents(t testing.TB, seed uint64, nodes, packets int) fakeAgents {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, seed))
	agents := fakeAgents{}
	for i := range nodes {
		name := string(rune('a' + i))
		node := newNode(partOf(0, "shop", "web-"+name, "eth0"), partOf(1, "shop", "web-"+name, "net1"), partOf(2, "shop", "db-"+name, "eth0"))
		var all []aPacket
		for part := range uint32(3) {
			at, place := int64(1000), int64(math.MinInt64)
			for range random.IntN(packets + 1) {
				at += int64(random.IntN(5) - 1)
				place = max(place, at)
				all = append(all, aPacket{part, at, frame(byte(i), byte(part), random.Uint32(), 42+random.IntN(80)), place})
			}
		}
		slices.SortStableFunc(all, func(a, b aPacket) int { return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.part, b.part)) })
		for _, p := range all {
			node.record(p.part, p.at, p.data)
		}
		node.names = []*agentv1.CaptureName{{Address: []byte{192, 0, 2, byte(i)}, Names: []string{"shop/web-" + name}}}
		node.end()
		agents[name] = node
	}
	return agents
}
