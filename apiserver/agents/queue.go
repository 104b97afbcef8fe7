package agents

import "context"

// width sorts flights by the reads that wait for them, so that one read of all nodes, many of them slow, cannot hold
// every worker while another asks one healthy node.
type width int

const (
	// narrow is a flight for which a read of at most narrowNodes waits, whoever else does.
	narrow width = iota
	wide
	widths
)

const (
	narrowNodes = 4
	// keptFree is the part of the workers, one in so many, that flights of one width leave to the other.
	keptFree = 4
)

func widthOf(queries map[string]Query) width {
	if len(queries) <= narrowNodes {
		return narrow
	}
	return wide
}

// enqueue makes the fleet begin an agent's waiting flight when there is a worker. Under the fleet's lock. A flight
// that became narrow while it waited leaves its agent in the other queue, where schedule passes it by.
func (f *Fleet) enqueue(a *agent) {
	waiting := a.flights.waiting
	if waiting != nil && !a.queued[waiting.width] && len(a.flights.running) < flightsPerNode {
		a.queued[waiting.width] = true
		f.queues[waiting.width] = append(f.queues[waiting.width], a)
	}
}

// schedule begins flights while there are workers. Under the fleet's lock.
func (f *Fleet) schedule() {
	for f.alive.Err() == nil {
		a, width := f.dequeue()
		if a == nil {
			return
		}
		if a.flights.waiting == nil || a.flights.waiting.width != width {
			continue // Its readers have left, or it is in the other queue.
		}
		flight := a.flights.begin(f.clock.Now())
		if flight == nil {
			continue
		}
		var ctx context.Context
		ctx, flight.cancel = context.WithCancel(f.alive)
		f.running[width]++
		f.calls.Go(func() { f.fly(ctx, a, flight) })
	}
}

// dequeue takes the agent that is next, if there is a worker for one.
func (f *Fleet) dequeue() (*agent, width) {
	if f.running[narrow]+f.running[wide] >= f.workers {
		return nil, 0
	}
	for width := range widths {
		queue := f.queues[width]
		if len(queue) > 0 && f.running[width] < f.workers-f.workers/keptFree {
			a := queue[0]
			queue[0] = nil
			f.queues[width] = queue[1:]
			a.queued[width] = false
			return a, width
		}
	}
	return nil, 0
}
