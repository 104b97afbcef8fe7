package networkflows

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

const (
	// firstChunk is about how many flows the nodes of a list are first asked for, together and beyond the list's limit.
	firstChunk = 1000
	// smallestChunk and largestChunk bound what one node is asked for at once. A node's chunks double while less than
	// half of what it sends is selected.
	smallestChunk = 32
	largestChunk  = 4096
)

// A row is a flow that was selected, and where it is.
type row struct {
	place
	revision int64
	object   *v1alpha1.NetworkFlow
	pod      *live.Record
}

// began orders rows of different nodes.
func (r row) began() time.Time { return r.object.StartTime.Time }

// A judge makes objects of an agent's rows and leaves out what is not for the caller.
type judge struct {
	names     Names
	selection *selection
	metrics   *flowMetrics
}

// judged is what became of a row.
type judged int

const (
	selected judged = iota
	notSelected
	// unknown rows are of a pod that nobody here knows.
	unknown
	// refused rows are of a pod that is not on the agent's node, or make no sense.
	refused
)

func (j judge) take(node string, instance int64, flow *agentv1.Flow) (*v1alpha1.NetworkFlow, *live.Record, judged) {
	pod, ok := j.names.Pod(flow.PodKey)
	if !ok {
		j.metrics.reject(rowUnknown)
		return nil, nil, unknown
	}
	if pod.Node != node {
		j.metrics.reject(rowOfOtherNode)
		return nil, nil, refused
	}
	if !j.selection.matchesPod(pod) {
		return nil, nil, notSelected
	}
	object, err := makeObject(j.names, place{node, instance, flow.Position}, pod, flow)
	if err != nil || flow.Position <= 0 || flow.StartUnixNano <= 0 {
		j.metrics.reject(rowInvalid)
		return nil, nil, refused
	}
	if !j.selection.matchesFlow(object) {
		return nil, nil, notSelected
	}
	return object, pod, selected
}

// A listed node gives one node's flows in the order of their positions, read chunk by chunk.
type listed struct {
	node    string
	request *agentv1.ReadFlowsRequest
	// started is false until instance is known; at is the position of the last flow that was taken out, read that of the
	// last that was read.
	started  bool
	instance int64
	at, read int64
	// revision is what the history was at when the first chunk was read.
	revision int64
	chunk    int
	rows     []row
	// complete says that there is nothing behind rows.
	complete bool
	err      error
}

var errNotRising = errors.New("positions do not rise")

// fill reads chunks until there is a row, or none at all, or the merge has no more time.
func (m *merge) fill(ctx context.Context, l *listed) {
	for first := true; len(l.rows) == 0 && !l.complete && l.err == nil; first = false {
		if !first && time.Now().After(m.until) {
			return
		}
		l.err = l.readChunk(ctx, m.source, m.judge, m.found)
	}
}

// paused says that a node has more, but nobody knows what.
func (l *listed) paused() bool { return len(l.rows) == 0 && !l.complete && l.err == nil }

func (l *listed) readChunk(ctx context.Context, source Source, judge judge, found *found) error {
	request := &agentv1.ReadFlowsRequest{
		PodKeys: l.request.PodKeys, SinceUnixNano: l.request.SinceUnixNano, UntilUnixNano: l.request.UntilUnixNano,
		Direction: l.request.Direction, Protocols: l.request.Protocols, Ports: l.request.Ports, Verdicts: l.request.Verdicts,
		Peers: l.request.Peers, AfterPosition: l.read, Instance: l.instance, Limit: int32(l.chunk),
	}
	got := 0
	err := source.Read(ctx, l.node, request, func(batch *agentv1.ReadFlowsResponse) error {
		if !l.started {
			l.started, l.instance, l.revision = true, batch.Instance, batch.Revision
		}
		if batch.Instance != l.instance {
			return ErrGone
		}
		for _, flow := range batch.Flows {
			if flow.Position <= l.read {
				return errNotRising
			}
			l.read = flow.Position
			got++
			object, pod, what := judge.take(l.node, l.instance, flow)
			found.count(what)
			if what == selected {
				l.rows = append(l.rows, row{place{l.node, l.instance, flow.Position}, flow.Revision, object, pod})
			}
		}
		return nil
	})
	l.complete = got < l.chunk
	if len(l.rows) < got/2 {
		l.chunk = min(2*l.chunk, largestChunk)
	}
	return err
}

// found counts what was left out. It is safe for concurrent use.
type found struct {
	mu      sync.Mutex
	unknown int
}

func (f *found) count(what judged) {
	if what != unknown {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unknown++
}

// A merge gives the flows of several nodes one by one: of the nodes' next flows always the one that began first. The
// flows of a node stay in the order of their positions, so where a list is cut, a position of each node says all.
type merge struct {
	source Source
	judge  judge
	found  *found
	// until is when to stop with what there is. A list of few among many flows has pages with few, or none.
	until time.Time
	nodes []*listed
	ready byTime
	// paused is set when a node has more flows, but time was up before one was found.
	paused bool
}

// newMerge asks all nodes, and those with a cursor from there on. limit is how many flows will probably be taken.
func newMerge(ctx context.Context, source Source, judge judge, queries map[string]*agentv1.ReadFlowsRequest, cursors map[string]cursor, limit int, until time.Time) *merge {
	m := &merge{source: source, judge: judge, found: &found{}, until: until}
	chunk := smallestChunk
	if n := len(queries); n > 0 {
		chunk = min(max((limit+firstChunk)/n, smallestChunk), limit+1, largestChunk)
	}
	for node, request := range queries {
		l := &listed{node: node, request: request, chunk: chunk}
		if at, ok := cursors[node]; ok {
			l.started, l.instance, l.at, l.read = true, at.instance, at.position, at.position
		}
		m.nodes = append(m.nodes, l)
	}
	slices.SortFunc(m.nodes, func(a, b *listed) int { return cmp.Compare(a.node, b.node) })
	var filling sync.WaitGroup
	for _, l := range m.nodes {
		filling.Go(func() { m.fill(ctx, l) })
	}
	filling.Wait()
	for _, l := range m.nodes {
		if len(l.rows) > 0 {
			m.ready = append(m.ready, l)
		}
		m.paused = m.paused || l.paused()
	}
	heap.Init(&m.ready)
	return m
}

// next takes the next flow; ok is false when there is none, or nobody knows which.
func (m *merge) next(ctx context.Context) (r row, ok bool) {
	if len(m.ready) == 0 || m.paused {
		return row{}, false
	}
	l := m.ready[0]
	r = l.rows[0]
	l.rows[0] = row{}
	l.rows = l.rows[1:]
	l.at = r.position
	m.fill(ctx, l)
	m.paused = l.paused()
	if len(l.rows) == 0 {
		heap.Pop(&m.ready)
	} else {
		heap.Fix(&m.ready, 0)
	}
	return r, true
}

// cursors say where to go on: for each node that may have more behind what was taken.
func (m *merge) cursors() map[string]cursor {
	cursors := map[string]cursor{}
	for _, l := range m.nodes {
		switch {
		case l.err != nil:
		case len(l.rows) > 0:
			cursors[l.node] = cursor{l.instance, l.at}
		case !l.complete:
			cursors[l.node] = cursor{l.instance, l.read}
		}
	}
	return cursors
}

// silent are the errors of nodes that gave no answer, or not all of it.
func (m *merge) silent() []error {
	var errs []error
	for _, l := range m.nodes { // In the order of their names.
		if l.err != nil {
			errs = append(errs, l.err)
		}
	}
	return errs
}

// byTime is a heap of nodes with a next row.
type byTime []*listed

func (h byTime) Len() int { return len(h) }
func (h byTime) Less(i, j int) bool {
	a, b := h[i].rows[0], h[j].rows[0]
	return cmp.Or(a.began().Compare(b.began()), cmp.Compare(a.node, b.node)) < 0
}
func (h byTime) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)   { *h = append(*h, x.(*listed)) }
func (h *byTime) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
