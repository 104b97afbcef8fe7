package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// ErrFlowsGone is wrapped when an agent can no longer go on from where a request says: its history is another one, or
// has moved on.
var ErrFlowsGone = errors.New("the flows are gone")

const (
	// flowReads bounds the reads of flows under way at all agents together, followers aside.
	flowReads = 64
	// flowReadsPerNode bounds those at one agent, which allows 8 reads of all kinds and from all replicas.
	flowReadsPerNode = 2
	// followerPause is the longest time between two batches to a follower (agent.proto), without what is on the way.
	followerPause = 10 * time.Second
)

// Flows reads the flow histories of a Fleet's agents. Its methods are safe for concurrent use.
type Flows struct {
	fleet    *Fleet
	reads    *semaphore.Weighted
	requests *metrics.CounterVec
	rows     *metrics.Counter

	mu      sync.Mutex
	perNode map[string]*semaphore.Weighted
}

// NewFlows makes a reader of a fleet's flows. register takes its metrics; nil means legacyregistry.Register.
func NewFlows(fleet *Fleet, register func(metrics.Registerable) error) (*Flows, error) {
	if register == nil {
		register = legacyregistry.Register
	}
	const namespace, subsystem = "networkobservability", "apiserver"
	f := &Flows{
		fleet: fleet, reads: semaphore.NewWeighted(flowReads), perNode: map[string]*semaphore.Weighted{},
		requests: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_flow_requests_total", StabilityLevel: metrics.ALPHA,
			Help: "Reads of flows from node agents that ended, by result. A follower is one read.",
		}, []string{"result"}),
		rows: metrics.NewCounter(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_flow_rows_total", StabilityLevel: metrics.ALPHA,
			Help: "Flows that node agents sent.",
		}),
	}
	for _, metric := range []metrics.Registerable{f.requests, f.rows} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of flows: %w", err)
		}
	}
	return f, nil
}

// Read asks the agent of a node for flows and hands over what it answers, batch by batch. It returns nil when the
// answer is complete, the error of take when that fails, and otherwise an error that begins with the node's name and
// wraps ErrFlowsGone where that is the reason. An answer has the time that any answer has (Config.NodeTimeout); one
// that follows ends only with an error, at the latest when ctx ends. Texts in batches are fit to be shown.
func (f *Flows) Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	release, err := f.enter(ctx, node, request.Follow)
	if err != nil {
		return err
	}
	defer release()
	untouched := true
	counting := func(batch *agentv1.ReadFlowsResponse) error {
		untouched = false
		return take(batch)
	}
	err = f.once(ctx, node, request, counting)
	if errors.Is(err, errRedial) && untouched && ctx.Err() == nil {
		// Another call found the connection dead, or the agent has moved.
		err = f.once(ctx, node, request, counting)
	}
	return err
}

// once makes one call over the connection that there is.
func (f *Flows) once(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	a, err := f.agent(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(f.fleet.alive, func() { cancel(errStopped) })()
	conn, place, generation, err := f.fleet.connect(a)
	if err != nil {
		return err
	}
	defer context.AfterFunc(conn.closed, func() { cancel(context.Cause(conn.closed)) })()

	var notTaken error
	err = f.exchange(ctx, cancel, conn, request, func(batch *agentv1.ReadFlowsResponse) error {
		notTaken = take(batch)
		return notTaken
	})
	if notTaken != nil {
		return notTaken
	}
	if status.Code(err) == codes.OutOfRange {
		f.requests.WithLabelValues("gone").Inc()
		return fmt.Errorf("%s: %w: %s", node, ErrFlowsGone, printable(status.Convert(err).Message()))
	}
	out := judge(ctx, node, place, Reply{}, err)
	f.requests.WithLabelValues(string(out.result)).Inc()
	f.fleet.landed(a, out, conn, generation)
	return out.err
}

// enter waits for a place among the reads.
func (f *Flows) enter(ctx context.Context, node string, follow bool) (release func(), err error) {
	if err := f.fleet.awaitSync(ctx); err != nil {
		return nil, err
	}
	if follow {
		return func() {}, nil
	}
	// The node's place comes first: those that wait for a slow node hold none that others could use.
	ofNode := f.placesOf(node)
	if err := ofNode.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: waiting for other reads of the agent's flows: %w", node, context.Cause(ctx))
	}
	if err := f.reads.Acquire(ctx, 1); err != nil {
		ofNode.Release(1)
		return nil, fmt.Errorf("%s: waiting for other reads of flows: %w", node, context.Cause(ctx))
	}
	return func() { f.reads.Release(1); ofNode.Release(1) }, nil
}

func (f *Flows) placesOf(node string) *semaphore.Weighted {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.perNode[node] == nil {
		f.perNode[node] = semaphore.NewWeighted(flowReadsPerNode)
	}
	return f.perNode[node]
}

func (f *Flows) agent(node string) (*agent, error) {
	f.fleet.mu.Lock()
	defer f.fleet.mu.Unlock()
	a := f.fleet.agents[node]
	if a == nil {
		f.forget(node)
		return nil, noAgent(node)
	}
	return a, a.breaker.refusal()
}

// forget drops the places of a node that is no more; who holds one gives it back to nobody.
func (f *Flows) forget(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.perNode, node)
}

// exchange makes one call. The time limit is on each wait for the agent: not on how long a batch takes to be used.
func (f *Flows) exchange(ctx context.Context, cancel context.CancelCauseFunc, conn *connection, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	patience, left := f.fleet.nodeTimeout, int(request.Limit)
	timer := time.AfterFunc(patience, func() { cancel(errTimeout) })
	defer timer.Stop()
	stream, err := conn.ReadFlows(ctx, request)
	if err != nil {
		return err
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if request.Follow {
				return violation("a follower's stream ended")
			}
			return nil
		}
		if err != nil {
			return err
		}
		timer.Stop()
		f.rows.Add(float64(len(batch.Flows)))
		if !request.Follow && request.Limit > 0 {
			if left -= len(batch.Flows); left < 0 {
				return violation("more flows than were asked for")
			}
		}
		cleanFlows(batch)
		if err := take(batch); err != nil {
			return err
		}
		if request.Follow {
			patience = followerPause + f.fleet.nodeTimeout
		}
		timer.Reset(patience)
	}
}

func cleanFlows(batch *agentv1.ReadFlowsResponse) {
	for _, flow := range batch.Flows {
		flow.DropReason, flow.PeerName = printable(flow.DropReason), printable(flow.PeerName)
	}
}

// landed draws the agent's state from how a read ended, as after any other.
func (f *Fleet) landed(a *agent, out outcome, conn *connection, generation int) {
	f.mu.Lock()
	var old *connection
	if generation == a.generation {
		switch out.result {
		case resultOK, resultRefused:
			a.breaker.succeeded()
		case resultTimeout, resultNoDial, resultInvalid:
			a.breaker.failed(f.clock.Now(), out.err, out.result == resultTimeout)
		}
		old = f.settle(a, out, conn)
	}
	f.mu.Unlock()
	if old != nil {
		old.giveUp()
	}
}
