package agents

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// moveAgent takes over where an agent is now, under the fleet's lock. If that changed, the agent is presumed
// new: its breaker closes, and the connection returned has to be given up. An agent that was in use is dialled
// at its new address at once.
func (f *Fleet) moveAgent(a *agent, places []place) (old *connection) {
	if slices.Equal(a.places, places) {
		return nil
	}
	old, a.conn = a.conn, nil
	a.places = places
	a.generation++
	a.breaker = breaker{}
	if old != nil && len(places) > 0 {
		if conn, err := dial(a.node, places, f.source); err == nil {
			conn.conn.Connect()
			a.conn = conn
		}
	}
	return old
}

// connect gives the agent's connection, prepares one if there is none, and says to which generation it belongs.
func (f *Fleet) connect(a *agent) (conn *connection, place string, generation int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(a.places) == 0 || f.alive.Err() != nil {
		return nil, "", a.generation, noAgent(a.node)
	}
	if a.conn == nil {
		if a.conn, err = dial(a.node, a.places, f.source); err != nil {
			return nil, "", a.generation, err
		}
	}
	return a.conn, a.places[0].address.String(), a.generation, nil
}

func noAgent(node string) error { return fmt.Errorf("%s: %w", node, ErrNoAgent) }

// call asks an agent within the deadline. A call whose connection is given up meanwhile is repeated once on
// the next: the agent has moved, or another call found the connection dead.
func (f *Fleet) call(ctx context.Context, a *agent, want asked) (out outcome, conn *connection, generation int) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.nodeTimeout, errTimeout)
	defer cancel()
	began := f.clock.Now()
	want.apiServers = f.api.addresses()
	for try := 1; ; try++ {
		var place string
		var err error
		conn, place, generation, err = f.connect(a)
		if err != nil {
			return outcome{result: resultCanceled, err: err}, nil, generation
		}
		var reply Reply
		reply, err = conn.exchange(ctx, want, f.metrics)
		if err != nil && conn.closed.Err() != nil && ctx.Err() == nil && try == 1 {
			continue
		}
		out = judge(ctx, a.node, place, reply, err)
		f.metrics.ended(out.result, f.clock.Since(began))
		return out, conn, generation
	}
}

// exchange asks over this connection, for as long as it is not given up.
func (c *connection) exchange(ctx context.Context, want asked, m *fleetMetrics) (Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.closed, func() { cancel(context.Cause(c.closed)) })()
	return exchange(ctx, c, want, m)
}

// settle draws an agent's state from how a call over conn ended, under the fleet's lock. The connection
// returned has to be given up: a new one gets through where the old one waits out the retransmission timer of
// a partition that has healed.
func (f *Fleet) settle(a *agent, out outcome, conn *connection) (old *connection) {
	switch out.result {
	case resultOK, resultRefused:
		// An agent that refuses answers all the same; a breaker would hide what it says.
		a.answered = f.clock.Now()
		return nil
	case resultCanceled:
		return nil
	case resultTimeout, resultNoDial:
		if a.conn == conn {
			a.conn, old = nil, conn
		}
	}
	a.answered = time.Time{}
	return old
}

// fly makes the call of a flight and gives its readers the reply.
func (f *Fleet) fly(ctx context.Context, a *agent, flight *flight) {
	out, conn, generation := f.call(ctx, a, flight.asked)
	flight.cancel()
	if old := f.land(a, flight, out, conn, generation); old != nil {
		old.giveUp()
	}
}

func (f *Fleet) land(a *agent, flight *flight, out outcome, conn *connection, generation int) (old *connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if generation == a.generation {
		switch out.result {
		case resultOK, resultRefused:
			a.breaker.succeeded()
		case resultTimeout, resultNoDial, resultInvalid:
			a.breaker.failed(f.clock.Now(), out.err, out.result == resultTimeout)
		}
		old = f.settle(a, out, conn)
	}
	out.reply.Err = out.err
	a.flights.end(flight, out.reply)
	close(flight.done)
	f.running[flight.width]--
	f.enqueue(a)
	f.schedule()
	return old
}

// probe asks an agent behind an open breaker for its node's counters: a real read, if a small one.
func (f *Fleet) probe(a *agent) {
	out, conn, generation := f.call(f.alive, a, asked{node: true})
	if old := f.probed(a, out, conn, generation); old != nil {
		old.giveUp()
	}
}

func (f *Fleet) probed(a *agent, out outcome, conn *connection, generation int) (old *connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probing--
	if generation != a.generation {
		return nil
	}
	err := out.err
	if out.result == resultRefused {
		err = nil
	}
	a.breaker.probed(f.clock.Now(), err)
	return f.settle(a, out, conn)
}
