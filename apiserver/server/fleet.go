package server

import (
	"context"
	"errors"
	"fmt"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/agents"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows"
)

// A fleetReader is the agents as the registry wants to see them; neither knows the other's types.
type fleetReader struct {
	fleet *agents.Fleet
}

var _ live.Reader = fleetReader{}

// Read asks the agents.
func (r fleetReader) Read(ctx context.Context, queries map[string]live.Query) (map[string]live.Reply, error) {
	asked := make(map[string]agents.Query, len(queries))
	for node, query := range queries {
		asked[node] = agents.Query(query)
	}
	answers, err := r.fleet.Read(ctx, asked)
	if err != nil {
		return nil, err
	}
	replies := make(map[string]live.Reply, len(answers))
	for node, answer := range answers {
		replies[node] = live.Reply(answer)
	}
	return replies, nil
}

// A flowSource is the agents' flow histories as the registry wants to see them.
type flowSource struct {
	flows *agents.Flows
}

var _ networkflows.Source = flowSource{}

// Read asks one agent.
func (s flowSource) Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error {
	err := s.flows.Read(ctx, node, request, take)
	if errors.Is(err, agents.ErrFlowsGone) {
		return fmt.Errorf("%w: %w", networkflows.ErrGone, err)
	}
	return err
}
