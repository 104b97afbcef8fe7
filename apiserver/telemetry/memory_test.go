package telemetry

import (
	"context"
	"fmt"
	"sync"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// memoryAgents are agents without a wire, for crowds. They answer every configuration.
type memoryAgents struct {
	names []string

	mu   sync.Mutex
	have map[string]int // pods, by node
}

func newMemoryAgents(n int) *memoryAgents {
	a := &memoryAgents{have: map[string]int{}}
	for i := range n {
		a.names = append(a.names, fmt.Sprintf("node-%04d", i))
	}
	return a
}

func (a *memoryAgents) Nodes() []string { return a.names }

func (a *memoryAgents) Configure(ctx context.Context, node string) (Stream, error) {
	return &memoryStream{agents: a, node: node, ctx: ctx, reports: make(chan *agentv1.TelemetryReport, 10)}, nil
}

func (a *memoryAgents) pods() (all int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.have {
		all += n
	}
	return all
}

type memoryStream struct {
	agents  *memoryAgents
	node    string
	ctx     context.Context
	reports chan *agentv1.TelemetryReport
}

func (s *memoryStream) Send(update *agentv1.TelemetryUpdate) error {
	if config := update.Config; config != nil {
		s.reports <- &agentv1.TelemetryReport{Revision: config.Revision, Generation: config.Generation}
	}
	s.agents.mu.Lock()
	defer s.agents.mu.Unlock()
	if update.PodsComplete {
		s.agents.have[s.node] = 0
	}
	s.agents.have[s.node] += len(update.Pods)
	return s.ctx.Err()
}

func (s *memoryStream) Recv() (*agentv1.TelemetryReport, error) {
	select {
	case report := <-s.reports:
		return report, nil
	case <-s.ctx.Done():
		return nil, fmt.Errorf("%s: %w", s.node, s.ctx.Err())
	}
}

func (s *memoryStream) Close() {}
