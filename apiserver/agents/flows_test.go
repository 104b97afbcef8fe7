package agents

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

type flowsFunc func(*agentv1.ReadFlowsRequest, grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error

// flowAnswers are the agents' answers to ReadFlows, by *fakeAgent.
var flowAnswers sync.Map

func (a *fakeAgent) ReadFlows(r *agentv1.ReadFlowsRequest, s grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error {
	answer, ok := flowAnswers.Load(a)
	if !ok {
		return status.Error(codes.FailedPrecondition, "flows are switched off")
	}
	return answer.(flowsFunc)(r, s)
}

func (a *fakeAgent) flowsNow(t *testing.T, answer flowsFunc) {
	flowAnswers.Store(a, answer)
	t.Cleanup(func() { flowAnswers.Delete(a) })
}

func flowsOf(t *testing.T, w *world, change ...func(*Config)) *Flows {
	t.Helper()
	flows, err := NewFlows(w.fleet(change...), w.registry.Register)
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

func batchOf(positions ...int64) *agentv1.ReadFlowsResponse {
	batch := &agentv1.ReadFlowsResponse{Instance: 1, Revision: 9}
	for _, position := range positions {
		batch.Flows = append(batch.Flows, &agentv1.Flow{Position: position, PeerName: "a\x1b[31mb"})
	}
	return batch
}

func TestReadFlows(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").flowsNow(t, func(r *agentv1.ReadFlowsRequest, s grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error {
		if err := s.Send(batchOf(r.AfterPosition+1, r.AfterPosition+2)); err != nil {
			return err
		}
		return s.Send(batchOf(r.AfterPosition + 3))
	})
	flows := flowsOf(t, w)
	var positions []int64
	request := &agentv1.ReadFlowsRequest{AfterPosition: 4, Limit: 3}
	take := func(batch *agentv1.ReadFlowsResponse) error {
		for _, flow := range batch.Flows {
			positions = append(positions, flow.Position)
			if flow.PeerName != "a [31mb" {
				t.Errorf("the name is %q", flow.PeerName)
			}
		}
		return nil
	}
	if err := flows.Read(t.Context(), "n1", request, take); err != nil || len(positions) != 3 || positions[2] != 7 {
		t.Errorf("read %v, %v", positions, err)
	}
	request.Limit = 2
	if err := flows.Read(t.Context(), "n1", request, take); err == nil || !strings.Contains(err.Error(), "more flows than were asked for") {
		t.Errorf("over the limit: %v", err)
	}
	enough := errors.New("enough")
	if err := flows.Read(t.Context(), "n1", &agentv1.ReadFlowsRequest{}, func(*agentv1.ReadFlowsResponse) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the taker's error is lost: %v", err)
	}
	if err := flows.Read(t.Context(), "n2", request, take); err == nil || err.Error() != "n2: no agent runs on this node" {
		t.Errorf("a node without an agent: %v", err)
	}
}

func TestFlowsGone(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").flowsNow(t, func(*agentv1.ReadFlowsRequest, grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error {
		return status.Error(codes.OutOfRange, "another instance")
	})
	w.agent("n2")
	flows := flowsOf(t, w)
	take := func(*agentv1.ReadFlowsResponse) error { return nil }
	if err := flows.Read(t.Context(), "n1", &agentv1.ReadFlowsRequest{}, take); !errors.Is(err, ErrFlowsGone) || !strings.HasPrefix(err.Error(), "n1: ") {
		t.Errorf("got %v", err)
	}
	// An agent without flows answers other reads, and its breaker stays closed.
	for range failuresToOpen + 1 {
		if err := flows.Read(t.Context(), "n2", &agentv1.ReadFlowsRequest{}, take); err == nil || !strings.Contains(err.Error(), "flows are switched off") {
			t.Errorf("got %v", err)
		}
	}
	if replies, err := flows.fleet.Read(t.Context(), map[string]Query{"n2": {Node: true}}); err != nil || replies["n2"].Err != nil {
		t.Errorf("read %v, %v", replies, err)
	}
}

// TestFollowFlows: a follower outlives the time that an answer has, and ends when the agent is silent or nobody listens.
func TestFollowFlows(t *testing.T) {
	w := newWorld(t)
	more := make(chan struct{})
	ended := make(chan struct{})
	w.agent("n1").flowsNow(t, func(_ *agentv1.ReadFlowsRequest, s grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error {
		defer close(ended)
		for i := int64(1); ; i++ {
			if err := s.Send(batchOf(i)); err != nil {
				return err
			}
			select {
			case <-more:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	})
	flows := flowsOf(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	taken := make(chan int64)
	go func() {
		done <- flows.Read(ctx, "n1", &agentv1.ReadFlowsRequest{Follow: true}, func(batch *agentv1.ReadFlowsResponse) error {
			taken <- batch.Flows[0].Position
			return nil
		})
	}()
	for want := range int64(3) {
		if got := <-taken; got != want+1 {
			t.Errorf("took %d", got)
		}
		if want < 2 {
			more <- struct{}{}
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	<-ended
}

// TestSilentFlows: an agent that does not answer costs its deadline once.
func TestSilentFlows(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").flowsNow(t, func(_ *agentv1.ReadFlowsRequest, s grpc.ServerStreamingServer[agentv1.ReadFlowsResponse]) error {
		<-s.Context().Done()
		return s.Context().Err()
	})
	flows := flowsOf(t, w, quick)
	take := func(*agentv1.ReadFlowsResponse) error { return nil }
	if err := flows.Read(t.Context(), "n1", &agentv1.ReadFlowsRequest{}, take); !errors.Is(err, errTimeout) {
		t.Errorf("got %v", err)
	}
	if got := w.metric("networkobservability_apiserver_agent_flow_requests_total", map[string]string{"result": "timeout"}); got != 1 {
		t.Errorf("%v timeouts were counted", got)
	}
}
