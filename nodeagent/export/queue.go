package export

import (
	"maps"
	"sync"
)

const (
	// metricsKept is how many gatherings of metrics wait at most. Values are cumulative, so that a newer one tells what
	// older ones did, but for the times between.
	metricsKept = 3
	// joinedBytes is how large a batch of flow logs becomes when batches that wait are joined.
	joinedBytes = 512 << 10
)

// A queue is what waits for a destination, bounded in bytes. For each signal, at any time:
//
//	given = sent + dropped + waiting
//
// where waiting includes what is being sent. It is safe for concurrent use.
type queue struct {
	mu      sync.Mutex
	limit   int64
	bytes   int64
	closed  bool
	waiting [signals][]queued
	taken   [signals]int // how many of waiting, from the first, are being sent and stay where they are
	counts  [signals]counts
	// more has room for one: a signal's worker looks when there is one.
	more [signals]chan struct{}
}

type queued struct {
	Batch
	gathering int64 // of metrics: which it is part of
}

// counts are of items.
type counts struct {
	given, sent int64
	dropped     map[string]int64 // by reason
}

func newQueue(limit int64) *queue {
	q := &queue{limit: limit}
	for s := range signals {
		q.more[s] = make(chan struct{}, 1)
		q.counts[s].dropped = map[string]int64{}
	}
	return q
}

// resize changes the limit; what is too much goes.
func (q *queue) resize(limit int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
	q.makeRoom(0)
}

// put adds batches, those of one gathering together. What does not fit replaces the oldest.
func (q *queue) put(gathering int64, batches ...Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range batches {
		q.counts[b.Signal].given += b.Items
		if q.closed {
			q.counts[b.Signal].dropped[reasonShutdown] += b.Items
			continue
		}
		if b.Signal == Metrics {
			q.supersede(gathering)
		}
		if !q.makeRoom(int64(len(b.Payload))) {
			q.counts[b.Signal].dropped[reasonQueueFull] += b.Items
			continue
		}
		q.waiting[b.Signal] = append(q.waiting[b.Signal], queued{b, gathering})
		q.bytes += int64(len(b.Payload))
		q.wake(b.Signal)
	}
}

// supersede drops the oldest gatherings of metrics, so that with this one there are not more than metricsKept.
func (q *queue) supersede(gathering int64) {
	for {
		free := q.waiting[Metrics][q.taken[Metrics]:]
		if len(free) == 0 || free[0].gathering > gathering-metricsKept {
			return
		}
		q.drop(Metrics, reasonSuperseded)
	}
}

// makeRoom drops until so many bytes fit. Metrics of which there are newer ones go first, then the oldest flow logs, then
// metrics. Nothing is dropped for what would not fit even then.
func (q *queue) makeRoom(size int64) bool {
	if size > 0 && q.sending()+size > q.limit {
		return false
	}
	for q.bytes+size > q.limit {
		metrics, logs := q.waiting[Metrics][q.taken[Metrics]:], q.waiting[FlowLogs][q.taken[FlowLogs]:]
		switch {
		case len(metrics) > 0 && metrics[0].gathering != metrics[len(metrics)-1].gathering:
			q.drop(Metrics, reasonSuperseded)
		case len(logs) > 0:
			q.drop(FlowLogs, reasonQueueFull)
		case len(metrics) > 0:
			q.drop(Metrics, reasonQueueFull)
		default:
			return false // the rest is being sent
		}
	}
	return true
}

// sending is the size of what is being sent, which stays.
func (q *queue) sending() (size int64) {
	for s := range signals {
		for _, b := range q.waiting[s][:q.taken[s]] {
			size += int64(len(b.Payload))
		}
	}
	return size
}

// drop drops the oldest batch of a signal that is not being sent.
func (q *queue) drop(s Signal, reason string) {
	i := q.taken[s]
	b := q.waiting[s][i]
	if i == 0 {
		q.waiting[s][0] = queued{} // lets go of the payload
		q.waiting[s] = q.waiting[s][1:]
	} else {
		q.waiting[s] = append(q.waiting[s][:i], q.waiting[s][i+1:]...)
	}
	q.bytes -= int64(len(b.Payload))
	q.counts[s].dropped[reason] += b.Items
}

// take returns the oldest batch of a signal, joined with those behind it; ok is false when there is none. What is taken
// stays in the queue until it is settled or put back.
func (q *queue) take(s Signal) (batch Batch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting[s]) == 0 {
		return Batch{}, false
	}
	size, n := 0, 0
	for _, b := range q.waiting[s] {
		if n > 0 && (s == Metrics || size+len(b.Payload) > joinedBytes) {
			break
		}
		size, n = size+len(b.Payload), n+1
	}
	q.taken[s] = n
	if n == 1 {
		return q.waiting[s][0].Batch, true
	}
	batch = Batch{Signal: s, Payload: make([]byte, 0, size)}
	for _, b := range q.waiting[s][:n] {
		batch.Payload, batch.Items = append(batch.Payload, b.Payload...), batch.Items+b.Items
	}
	return batch, true
}

// putBack makes what was taken wait again.
func (q *queue) putBack(s Signal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken[s] = 0
	q.makeRoom(0) // the limit may have changed meanwhile
}

// settle removes what was taken: so many items were dropped for a reason, and the others were sent.
func (q *queue) settle(s Signal, dropped int64, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var items int64
	for _, b := range q.waiting[s][:q.taken[s]] {
		items += b.Items
		q.bytes -= int64(len(b.Payload))
	}
	clear(q.waiting[s][:q.taken[s]])
	q.waiting[s], q.taken[s] = q.waiting[s][q.taken[s]:], 0
	dropped = min(max(dropped, 0), items) // whatever the destination said
	q.counts[s].sent += items - dropped
	if dropped > 0 {
		q.counts[s].dropped[reason] += dropped
	}
}

// empty drops everything that waits of a signal.
func (q *queue) empty(s Signal, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting[s]) > q.taken[s] {
		q.drop(s, reason)
	}
}

// close lets nothing more in.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// wake tells a signal's worker to look.
func (q *queue) wake(s Signal) {
	select {
	case q.more[s] <- struct{}{}:
	default: // it was told
	}
}

// snapshot is what was counted of a signal, how many items wait, and the size of all that waits of any signal.
func (q *queue) snapshot(s Signal) (c counts, waiting, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c = q.counts[s]
	c.dropped = maps.Clone(c.dropped)
	for _, b := range q.waiting[s] {
		waiting += b.Items
	}
	return c, waiting, q.bytes
}
