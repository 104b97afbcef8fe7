package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// What an agent that answers may say of a capture; errors of Captures wrap one of them where it applies.
var (
	// ErrNotFound: the agent does not know the capture.
	ErrNotFound = errors.New("the agent does not know this capture")
	// ErrPrecondition: the agent was told something later, the capture runs where it must have ended, or captures are
	// switched off.
	ErrPrecondition = errors.New("the agent is not in the state for it")
	// ErrInvalid: the agent will never take this request.
	ErrInvalid = errors.New("the agent does not accept the request")
)

const (
	// captureCalls bounds the calls about captures under way at all agents together, streams of packets aside.
	captureCalls = 128
	// captureCallsPerNode bounds those at one agent.
	captureCallsPerNode = 6
	// slowCall is the time for what has to wait for a disk: to end a capture, and to read it once more for its digest. A
	// call that takes longer goes on at the agent, and is made again.
	slowCall = 30 * time.Second
	// maxStates bounds the captures in a list without names, maxListBytes and maxListRows what any list may hold: rows need more in
	// memory than on the wire.
	maxStates, maxListBytes, maxListRows = 20_000, 64 << 20, 400_000
	// maxDescription bounds what is told about a capture beside its packets.
	maxDescription = 64 << 20
)

// Captures asks a Fleet's agents about captures. Its methods are safe for concurrent use, and may be repeated: asking an
// agent twice for the same is asking once. Errors begin with the node's name and wrap ErrNoAgent, ErrNotFound,
// ErrPrecondition or ErrInvalid where that is the reason; after any other it is worth trying again. Texts in answers are
// fit to be shown, and an answer over a limit is an error.
type Captures struct {
	fleet    *Fleet
	calls    *semaphore.Weighted
	requests *metrics.CounterVec

	mu      sync.Mutex
	perNode map[string]*semaphore.Weighted
}

// NewCaptures makes a caller of a fleet's agents. register takes its metrics; nil means legacyregistry.Register.
func NewCaptures(fleet *Fleet, register func(metrics.Registerable) error) (*Captures, error) {
	if register == nil {
		register = legacyregistry.Register
	}
	c := &Captures{
		fleet: fleet, calls: semaphore.NewWeighted(captureCalls), perNode: map[string]*semaphore.Weighted{},
		requests: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: "networkobservability", Subsystem: "apiserver", Name: "agent_capture_requests_total", StabilityLevel: metrics.ALPHA,
			Help: "Calls about captures to node agents that ended, by method and result.",
		}, []string{"method", "result"}),
	}
	if err := register(c.requests); err != nil {
		return nil, fmt.Errorf("registering metrics of captures: %w", err)
	}
	return c, nil
}

// Ensure makes a capture on a node be as the request says.
func (c *Captures) Ensure(ctx context.Context, node string, request *agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error) {
	return c.state(ctx, node, "EnsureCapture", c.fleet.nodeTimeout, request.Uid,
		func(ctx context.Context, conn *connection, sizes ...grpc.CallOption) (*agentv1.CaptureState, error) {
			return conn.EnsureCapture(ctx, request, sizes...)
		})
}

// Stop ends a capture on a node, and returns when everything that was recorded can be read. It has 30 s.
func (c *Captures) Stop(ctx context.Context, node string, request *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error) {
	return c.state(ctx, node, "StopCapture", slowCall, request.Uid,
		func(ctx context.Context, conn *connection, sizes ...grpc.CallOption) (*agentv1.CaptureState, error) {
			return conn.StopCapture(ctx, request, sizes...)
		})
}

// Seal gives a capture that has ended its names. It has 30 s.
func (c *Captures) Seal(ctx context.Context, node string, request *agentv1.SealCaptureRequest) (*agentv1.CaptureState, error) {
	return c.state(ctx, node, "SealCapture", slowCall, request.Uid,
		func(ctx context.Context, conn *connection, sizes ...grpc.CallOption) (*agentv1.CaptureState, error) {
			return conn.SealCapture(ctx, request, sizes...)
		})
}

// Store makes a node copy its part of a capture that has ended to outputs, in the background.
func (c *Captures) Store(ctx context.Context, node string, request *agentv1.StoreCaptureRequest) (*agentv1.CaptureState, error) {
	return c.state(ctx, node, "StoreCapture", c.fleet.nodeTimeout, request.Uid,
		func(ctx context.Context, conn *connection, sizes ...grpc.CallOption) (*agentv1.CaptureState, error) {
			return conn.StoreCapture(ctx, request, sizes...)
		})
}

// Delete ends a capture on a node and removes everything of it. It has 30 s.
func (c *Captures) Delete(ctx context.Context, node, uid string) error {
	return c.call(ctx, node, "DeleteCapture", slowCall, func(ctx context.Context, conn *connection, _ context.CancelCauseFunc) error {
		_, err := conn.DeleteCapture(ctx, &agentv1.DeleteCaptureRequest{Uid: uid})
		return err
	})
}

// List tells what captures are on a node: of these, by UID, or all that there are when uids is nil. What the agent does
// not know has no entry.
func (c *Captures) List(ctx context.Context, node string, uids []string) (map[string]*agentv1.CaptureState, error) {
	got := &states{byUID: map[string]*agentv1.CaptureState{}}
	if uids == nil {
		return got.byUID, c.list(ctx, node, nil, got)
	}
	for len(uids) > 0 {
		some := uids[:min(len(uids), agentv1.MaxCaptureUIDs)]
		uids = uids[len(some):]
		if err := c.list(ctx, node, some, got); err != nil {
			return nil, err
		}
	}
	return got.byUID, nil
}

func (c *Captures) list(ctx context.Context, node string, uids []string, into *states) error {
	return c.call(ctx, node, "ListCaptures", slowCall, func(ctx context.Context, conn *connection, cancel context.CancelCauseFunc) error {
		into.ask(uids)
		defer func() { c.fleet.metrics.reject(rowNotAsked, into.notAsked) }()
		open := func() (grpc.ServerStreamingClient[agentv1.CaptureState], error) {
			return conn.ListCaptures(ctx, &agentv1.ListCapturesRequest{Uids: uids}, bounded()...)
		}
		return receive(open, c.fleet.nodeTimeout, cancel, into.take)
	})
}

// Describe tells what is needed to read or seal a capture, batch by batch. It returns the error of take when that fails.
// It has 30 s in all, and the agent NodeTimeout for each batch.
func (c *Captures) Describe(ctx context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error {
	return c.call(ctx, node, "DescribeCapture", slowCall, func(ctx context.Context, conn *connection, cancel context.CancelCauseFunc) error {
		left, names, addresses, nameBytes := maxDescription, maxAddresses, maxAddresses, agentv1.MaxCaptureRequestBytes
		open := func() (grpc.ServerStreamingClient[agentv1.DescribeCaptureResponse], error) {
			return conn.DescribeCapture(ctx, &agentv1.DescribeCaptureRequest{Uid: uid}, bounded()...)
		}
		return receive(open, c.fleet.nodeTimeout, cancel, func(batch *agentv1.DescribeCaptureResponse) error {
			if left -= proto.Size(batch); left < 0 {
				return violation("a description that does not end")
			}
			for _, name := range batch.Names {
				nameBytes -= proto.Size(name)
			}
			names, addresses = names-len(batch.Names), addresses-len(batch.Addresses)
			if names < 0 || addresses < 0 || nameBytes < 0 {
				return violation("more addresses or names than a capture may have")
			}
			if err := checkDescription(batch, uid); err != nil {
				return err
			}
			if err := take(batch); err != nil {
				return notTaken{err}
			}
			return nil
		})
	})
}

// notTaken is the error of who takes what an agent says, which is none of the agent's.
type notTaken struct{ error }

// receive takes a stream's messages to its end. The time limit is on each wait for the agent.
func receive[M any](open func() (grpc.ServerStreamingClient[M], error), patience time.Duration, cancel context.CancelCauseFunc, take func(*M) error) error {
	timer := time.AfterFunc(patience, func() { cancel(errTimeout) })
	defer timer.Stop()
	stream, err := open()
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		timer.Stop()
		if err := take(message); err != nil {
			return err
		}
		timer.Reset(patience)
	}
}

// bounded are the options of calls whose answers have states.
func bounded() []grpc.CallOption {
	return []grpc.CallOption{
		grpc.MaxCallRecvMsgSize(agentv1.MaxCaptureStateBytes), grpc.ForceCodecV2(boundedCodec{encoding.GetCodecV2(protocodec.Name)}),
	}
}

// state makes a call whose answer is the capture's state.
func (c *Captures) state(ctx context.Context, node, method string, within time.Duration, uid string,
	do func(context.Context, *connection, ...grpc.CallOption) (*agentv1.CaptureState, error),
) (*agentv1.CaptureState, error) {
	var state *agentv1.CaptureState
	err := c.call(ctx, node, method, within, func(ctx context.Context, conn *connection, _ context.CancelCauseFunc) error {
		answer, err := do(ctx, conn, append(bounded(), grpc.MaxCallSendMsgSize(agentv1.MaxCaptureRequestBytes))...)
		if err != nil {
			return err
		}
		if answer.Uid != uid {
			return violation("the state of another capture")
		}
		state = answer
		return checkState(answer)
	})
	if err != nil {
		return nil, err
	}
	return state, nil
}

// call makes a call that the agent answers within a time, when it has its place among the others. One whose connection
// is given up meanwhile is repeated once.
func (c *Captures) call(ctx context.Context, node, method string, within time.Duration, do callFunc) error {
	release, err := c.enter(ctx, node)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeoutCause(ctx, within, errTimeout)
	defer cancel()
	err = c.once(ctx, node, method, do)
	if errors.Is(err, errRedial) && ctx.Err() == nil {
		// Another call found the connection dead, or the agent has moved.
		err = c.once(ctx, node, method, do)
	}
	return err
}

// A callFunc makes one call over a connection. cancel ends it with a cause, errTimeout for a silent agent.
type callFunc func(ctx context.Context, conn *connection, cancel context.CancelCauseFunc) error

// once makes one call over the connection that there is, and draws the agent's state from how it ended.
func (c *Captures) once(ctx context.Context, node, method string, do callFunc) error {
	a, err := c.agent(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.fleet.alive, func() { cancel(errStopped) })()
	conn, place, generation, err := c.fleet.connect(a)
	if err != nil {
		return err
	}
	defer context.AfterFunc(conn.closed, func() { cancel(context.Cause(conn.closed)) })()

	err = do(ctx, conn, cancel)
	if own, ok := errors.AsType[notTaken](err); ok {
		return own.error
	}
	out := judge(ctx, node, place, Reply{}, err)
	c.requests.WithLabelValues(method, string(out.result)).Inc()
	if out.result != resultTimeout || !slowMethods[method] {
		c.fleet.landed(a, out, conn, generation)
	}
	if out.result == resultRefused {
		return refusal(node, place, err)
	}
	return out.err
}

// slowMethods may wait for the agent's disk: one that takes its time is not an agent that is silent.
var slowMethods = map[string]bool{"StopCapture": true, "SealCapture": true, "DeleteCapture": true}

// refusal is the typed error for an agent's own.
func refusal(node, place string, err error) error {
	state := status.Convert(err)
	var kind error
	switch state.Code() {
	case codes.NotFound:
		kind = ErrNotFound
	case codes.FailedPrecondition, codes.Unimplemented:
		kind = ErrPrecondition
	case codes.InvalidArgument:
		kind = ErrInvalid
	default:
		return fmt.Errorf("%s: the agent at %s refused: %s: %s", node, place, state.Code(), printable(state.Message()))
	}
	return fmt.Errorf("%s: %w: %s", node, kind, printable(state.Message()))
}

// enter waits for a place among the calls, the node's first: those that wait for a slow node hold none that others
// could use.
func (c *Captures) enter(ctx context.Context, node string) (release func(), err error) {
	if err := c.fleet.awaitSync(ctx); err != nil {
		return nil, err
	}
	ofNode := c.placesOf(node)
	if err := ofNode.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: waiting for other calls about captures: %w", node, context.Cause(ctx))
	}
	if err := c.calls.Acquire(ctx, 1); err != nil {
		ofNode.Release(1)
		return nil, fmt.Errorf("%s: waiting for other calls about captures: %w", node, context.Cause(ctx))
	}
	return func() { c.calls.Release(1); ofNode.Release(1) }, nil
}

func (c *Captures) placesOf(node string) *semaphore.Weighted {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.perNode[node] == nil {
		c.perNode[node] = semaphore.NewWeighted(captureCallsPerNode)
	}
	return c.perNode[node]
}

// agent is that of a node, if it is there and may be asked.
func (c *Captures) agent(node string) (*agent, error) {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	a := c.fleet.agents[node]
	if a == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.perNode, node)
		return nil, noAgent(node)
	}
	return a, a.breaker.refusal()
}

// Nodes are those for which the control plane names an agent, in no order.
func (c *Captures) Nodes() []string {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	nodes := make([]string, 0, len(c.fleet.agents))
	for node := range c.fleet.agents {
		nodes = append(nodes, node)
	}
	return nodes
}

// states collects a list.
type states struct {
	byUID    map[string]*agentv1.CaptureState
	asked    map[string]bool
	bytes    int
	rows     int
	notAsked int
}

// ask begins, or begins anew, a list of these captures; none is all.
func (s *states) ask(uids []string) {
	s.bytes, s.rows, s.notAsked, s.asked = 0, 0, 0, nil
	if uids == nil {
		clear(s.byUID)
		return
	}
	s.asked = make(map[string]bool, len(uids))
	for _, uid := range uids {
		s.asked[uid] = true
		delete(s.byUID, uid)
	}
}

func (s *states) take(state *agentv1.CaptureState) error {
	s.bytes += proto.Size(state)
	s.rows += len(state.Parts) + len(state.Missing)
	for _, output := range state.Outputs {
		s.rows += 1 + len(output.Objects)
	}
	if s.bytes > maxListBytes || s.rows > maxListRows || len(s.byUID) >= maxStates {
		return violation("a list that does not end")
	}
	if s.asked != nil && !s.asked[state.Uid] || s.byUID[state.Uid] != nil {
		if s.notAsked++; s.notAsked > extraRows {
			return violation("many captures that were not asked for")
		}
		return nil
	}
	if err := checkState(state); err != nil {
		return err
	}
	s.byUID[state.Uid] = state
	return nil
}
