// Package flowtest holds the flow histories of agents in memory, as agent.proto describes them. Only tests import it.
package flowtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Agents are the agents of some nodes. The methods are safe for concurrent use.
type Agents struct {
	// Gone is wrapped where a request cannot be gone on with.
	Gone error

	mu        sync.Mutex
	histories map[string]*history
	// changed is closed and replaced at each change.
	changed chan struct{}
	asked   []Asked
	silent  map[string]error
	// batch is the most flows in a batch.
	batch int
}

// Asked is a read that came.
type Asked struct {
	Node    string
	Request *agentv1.ReadFlowsRequest
}

type history struct {
	instance, position, revision int64
	flows                        map[int64]*agentv1.Flow
	departures                   []departure
	// forgotten is the revision up to which departures are not known any more.
	forgotten int64
}

type departure struct{ position, revision int64 }

// New makes agents of nodes. gone is wrapped by errors for histories that cannot be gone on with.
func New(gone error, nodes ...string) *Agents {
	a := &Agents{Gone: gone, histories: map[string]*history{}, changed: make(chan struct{}), silent: map[string]error{}, batch: 7}
	for i, node := range nodes {
		a.histories[node] = &history{instance: int64(1000 + i), flows: map[int64]*agentv1.Flow{}}
	}
	return a
}

func (a *Agents) locked(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Record adds a flow and returns its position.
func (a *Agents) Record(node string, flow *agentv1.Flow) (position int64) {
	a.locked(func() {
		h := a.histories[node]
		h.position++
		h.revision++
		position = h.position
		flow = proto.CloneOf(flow)
		flow.Position, flow.Revision = h.position, h.revision
		h.flows[position] = flow
	})
	return position
}

// Change changes a flow.
func (a *Agents) Change(node string, position int64, change func(*agentv1.Flow)) {
	a.locked(func() {
		h := a.histories[node]
		h.revision++
		flow := proto.CloneOf(h.flows[position])
		change(flow)
		flow.Position, flow.Revision = position, h.revision
		h.flows[position] = flow
	})
}

// Remove takes a flow out of the history.
func (a *Agents) Remove(node string, position int64) {
	a.locked(func() {
		h := a.histories[node]
		h.revision++
		delete(h.flows, position)
		h.departures = append(h.departures, departure{position, h.revision})
	})
}

// Forget makes the agent forget which flows left.
func (a *Agents) Forget(node string) {
	a.locked(func() {
		h := a.histories[node]
		h.forgotten, h.departures = h.revision, nil
	})
}

// Restart begins a new history.
func (a *Agents) Restart(node string) {
	a.locked(func() {
		a.histories[node] = &history{instance: a.histories[node].instance + 1000, flows: map[int64]*agentv1.Flow{}}
	})
}

// Silence makes a node's reads fail, those under way too; nil ends that.
func (a *Agents) Silence(node string, err error) {
	a.locked(func() { a.silent[node] = err })
}

// Positions are those in a node's history, in order.
func (a *Agents) Positions(node string) []int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.histories[node].flows))
}

// Pods are the keys of the pods of the flows in a node's history, by the flows' positions.
func (a *Agents) Pods(node string) map[int64]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := map[int64]string{}
	for position, flow := range a.histories[node].flows {
		keys[position] = flow.PodKey
	}
	return keys
}

// Instance is that of a node's history.
func (a *Agents) Instance(node string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.histories[node].instance
}

// Asked is what was asked since it was last called.
func (a *Agents) Asked() []Asked {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

// Read answers as an agent does.
func (a *Agents) Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	a.mu.Lock()
	a.asked = append(a.asked, Asked{node, proto.CloneOf(request)})
	h := a.histories[node]
	a.mu.Unlock()
	if h == nil {
		return fmt.Errorf("%s: no agent runs on this node", node)
	}
	if request.Instance != 0 && request.Instance != h.instance {
		return fmt.Errorf("%s: %w", node, a.Gone)
	}
	if request.Follow {
		return a.follow(ctx, node, h, request, take)
	}
	a.mu.Lock()
	err, rows := a.silent[node], h.matching(request, 0)
	revision := h.revision
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	slices.SortFunc(rows, func(a, b *agentv1.Flow) int { return int(a.Position - b.Position) })
	if request.Limit > 0 && len(rows) > int(request.Limit) {
		rows = rows[:request.Limit]
	}
	return a.send(rows, nil, revision, h.instance, false, take)
}

func (a *Agents) send(rows []*agentv1.Flow, gone []int64, revision, instance int64, current bool, take func(*agentv1.ReadFlowsResponse) error) error {
	for len(rows) > a.batch {
		if err := take(&agentv1.ReadFlowsResponse{Flows: rows[:a.batch], Revision: revision, Instance: instance}); err != nil {
			return err
		}
		rows = rows[a.batch:]
	}
	return take(&agentv1.ReadFlowsResponse{Flows: rows, Gone: gone, Revision: revision, Instance: instance, Current: current})
}

func (a *Agents) follow(ctx context.Context, node string, h *history, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	after := request.AfterRevision
	for first := true; ; first = false {
		a.mu.Lock()
		changed, silent, restarted := a.changed, a.silent[node], a.histories[node] != h
		rows, revision, forgotten := h.matching(request, after), h.revision, h.forgotten
		var gone []int64
		for _, d := range h.departures {
			if d.revision > after && after > 0 {
				gone = append(gone, d.position)
			}
		}
		a.mu.Unlock()
		switch {
		case silent != nil:
			return fmt.Errorf("%s: %w", node, silent)
		case restarted:
			return fmt.Errorf("%s: %w", node, errors.New("connection reset"))
		case after > 0 && after < forgotten:
			return fmt.Errorf("%s: %w", node, a.Gone)
		}
		slices.SortFunc(rows, func(a, b *agentv1.Flow) int { return int(a.Revision - b.Revision) })
		if first || len(rows)+len(gone) > 0 {
			if err := a.send(rows, gone, revision, h.instance, true, take); err != nil {
				return err
			}
		}
		after = revision
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", node, context.Cause(ctx))
		}
	}
}

func (h *history) matching(request *agentv1.ReadFlowsRequest, afterRevision int64) []*agentv1.Flow {
	var rows []*agentv1.Flow
	for _, flow := range h.flows {
		if flow.Revision > afterRevision && matches(request, flow) {
			rows = append(rows, proto.CloneOf(flow))
		}
	}
	return rows
}

func matches(r *agentv1.ReadFlowsRequest, flow *agentv1.Flow) bool {
	in := func(values []int32, of ...int32) bool {
		return len(values) == 0 || slices.ContainsFunc(values, func(v int32) bool { return slices.Contains(of, v) })
	}
	return flow.Position > r.AfterPosition &&
		slices.Contains(r.PodKeys, flow.PodKey) &&
		flow.LastUnixNano >= r.SinceUnixNano &&
		(r.UntilUnixNano == 0 || flow.StartUnixNano < r.UntilUnixNano) &&
		(r.Direction == 0 || r.Direction == flow.Direction) &&
		in(r.Protocols, flow.Protocol) && in(r.Ports, flow.PodPort, flow.PeerPort) &&
		(len(r.Verdicts) == 0 || slices.Contains(r.Verdicts, flow.Verdict)) &&
		(len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(p []byte) bool { return bytes.Equal(p, flow.PeerAddress) || bytes.Equal(p, flow.TranslatedAddress) }))
}
