package agents

import (
	"context"
	"errors"
	"fmt"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Read asks the nodes for what queries say, all at once as far as workers allow, and gives one Reply for each.
// It takes no longer than Config.ReadTimeout. Its own error is that of ctx when that ends first, and wraps
// ErrNoAgents when no asked node answered and no other agent is known to.
func (f *Fleet) Read(ctx context.Context, queries map[string]Query) (map[string]Reply, error) {
	f.metrics.fanOut.Observe(float64(len(queries)))
	limited, cancel := context.WithTimeoutCause(ctx, f.readTimeout, errReadTimeout)
	defer cancel()
	if err := f.awaitSync(limited); err != nil {
		return nil, err
	}
	replies, err := f.read(limited, queries)
	if err != nil || anyAnswered(replies) {
		return replies, err
	}
	if f.witness(limited, queries) {
		return replies, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, downError(replies)
}

// errReadTimeout ends a read, which then answers with what it has.
var errReadTimeout = errors.New("the time of the read is up")

// awaitSync waits until the control plane has said where the agents are.
func (f *Fleet) awaitSync(ctx context.Context) error {
	timer := f.clock.NewTimer(f.nodeTimeout)
	defer timer.Stop()
	select {
	case <-f.synced:
		return nil
	default:
	}
	select {
	case <-f.synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.alive.Done():
		return fmt.Errorf("%w: %w", ErrNoAgents, errStopped)
	case <-timer.C():
		return fmt.Errorf("%w: the EndpointSlices of the Service %s are not listed yet", ErrNoAgents, agentv1.ServiceName)
	}
}

// anyAnswered is also true when nothing was asked.
func anyAnswered(replies map[string]Reply) bool {
	for _, reply := range replies {
		if reply.Err == nil {
			return true
		}
	}
	return len(replies) == 0
}

// downError names one of the reasons; with all agents down they are alike.
func downError(replies map[string]Reply) error {
	first := ""
	for node := range replies {
		if first == "" || node < first {
			first = node
		}
	}
	return fmt.Errorf("%w: %d asked, none answered: %w", ErrNoAgents, len(replies), replies[first].Err)
}

// witness says whether an agent that was not asked answers: one that did lately, else one of a few that are
// asked now, if there is time.
func (f *Fleet) witness(ctx context.Context, queries map[string]Query) bool {
	known, unknown := f.witnesses(queries)
	if known || len(unknown) == 0 || ctx.Err() != nil {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, f.nodeTimeout)
	defer cancel()
	replies, err := f.read(ctx, unknown)
	return err == nil && anyAnswered(replies)
}

// witnesses says whether an agent is known to answer, and else which of those that may could be asked.
func (f *Fleet) witnesses(queries map[string]Query) (known bool, unknown map[string]Query) {
	f.mu.Lock()
	defer f.mu.Unlock()
	unknown = map[string]Query{}
	for node, a := range f.agents {
		if !a.answered.IsZero() && f.clock.Since(a.answered) < answersFor {
			return true, nil
		}
		if _, wasAsked := queries[node]; !wasAsked && !a.breaker.open && len(unknown) < witnesses {
			unknown[node] = Query{Node: true}
		}
	}
	return false, unknown
}

// ticket is a reader's place in a flight.
type ticket struct {
	agent  *agent
	flight *flight
	want   asked
}

// read is Read without the question whether the telemetry is down, and ends with ctx.
func (f *Fleet) read(ctx context.Context, queries map[string]Query) (map[string]Reply, error) {
	replies := make(map[string]Reply, len(queries))
	tickets := make(map[string]ticket, len(queries))
	defer func() { f.leave(tickets) }()
	for node, query := range queries {
		if t, err := f.join(node, usable(query), widthOf(queries)); err != nil {
			replies[node] = Reply{Err: err}
		} else {
			tickets[node] = t
		}
	}
	for node, t := range tickets {
		select {
		case <-t.flight.done:
			replies[node] = t.reply()
		case <-f.alive.Done():
			return nil, fmt.Errorf("%w: %w", ErrNoAgents, errStopped)
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errReadTimeout) {
				return nil, cause
			}
			f.giveUpOn(tickets, replies)
			return replies, nil
		}
	}
	return replies, nil
}

func (t ticket) reply() Reply { return part(t.flight.reply, t.flight.asked, t.want) }

// giveUpOn fills in what is there when the time of a read is up.
func (f *Fleet) giveUpOn(tickets map[string]ticket, replies map[string]Reply) {
	for node, t := range tickets {
		select {
		case <-t.flight.done:
			replies[node] = t.reply()
		default:
			replies[node] = Reply{Err: fmt.Errorf("%s: not reached within %v, as too many agents do not answer", node, f.readTimeout)}
		}
	}
}

// join gives a read its place in a flight, or says at once why the node cannot be read.
func (f *Fleet) join(node string, want asked, width width) (ticket, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.agents[node]
	if a == nil || f.alive.Err() != nil {
		return ticket{}, noAgent(node)
	}
	if err := a.breaker.refusal(); err != nil {
		return ticket{}, err
	}
	flight, shared := a.flights.join(f.clock.Now(), want)
	if shared {
		f.metrics.coalesced.Inc()
	}
	if flight == a.flights.waiting && (!shared || width == narrow) {
		flight.width = width
	}
	f.enqueue(a)
	f.schedule()
	return ticket{a, flight, want}, nil
}

// leave gives the places back; flights in which nobody is left are cancelled.
func (f *Fleet) leave(tickets map[string]ticket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range tickets {
		if t.agent.flights.leave(t.flight) {
			t.flight.cancel()
		}
		f.enqueue(t.agent)
	}
	f.schedule()
}
