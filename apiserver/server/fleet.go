package server

import (
	"context"

	"github.com/networkobservability/networkobservability/apiserver/agents"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
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
