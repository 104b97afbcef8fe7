package live

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

// soonDelay gathers pods that come at the same time into one read.
const soonDelay = 250 * time.Millisecond

// readForWatchers reads all that is watched, once an interval however many watch it, and newcomers at once.
func (r *REST) readForWatchers(ctx context.Context) {
	r.store.listenForever(r.newcomers)
	ticker := r.clock.NewTicker(r.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			r.readWatched(ctx)
		case <-r.newcomers.wake:
			select {
			case <-ctx.Done():
				return
			case <-r.clock.After(soonDelay):
			}
			r.readNewcomers(ctx)
		}
	}
}

func (r *REST) readWatched(ctx context.Context) {
	selections := r.store.selections()
	if len(selections) == 0 {
		r.store.forgetReadings()
		return
	}
	r.newcomers.take()
	r.readAndSend(ctx, r.store.watchedBy(selections), true)
}

func (r *REST) readNewcomers(ctx context.Context) {
	records := r.store.watchedAmong(r.newcomers.take(), r.store.selections())
	if len(records) > 0 {
		r.readAndSend(ctx, records, false)
	}
}

func (r *REST) readAndSend(ctx context.Context, records []*Record, complete bool) {
	answers, _, _, err := read(ctx, r.reader, records)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		answers = unread(records, err)
	}
	r.store.sendReadings(records, answers, complete)
}

// newcomers are objects that have just got a node or an address, and that nobody has read yet.
type newcomers struct {
	// wake holds one token while some wait.
	wake chan struct{}

	mu      sync.Mutex
	waiting map[key]struct{}
}

var _ listener = &newcomers{}

func newNewcomers() *newcomers {
	return &newcomers{wake: make(chan struct{}, 1), waiting: map[key]struct{}{}}
}

func (n *newcomers) offer(b batch) {
	if b.readings || b.changes[0].kind == watch.Deleted || b.changes[0].record.Node == "" {
		return
	}
	c := b.changes[0]
	if c.before != nil && c.before.Node == c.record.Node && len(c.before.IPs) == len(c.record.IPs) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[c.record.key()] = struct{}{}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *newcomers) expire() {}

// wants is nil: what nobody else watches is not read.
func (n *newcomers) wants() *selection { return nil }

func (n *newcomers) take() map[key]struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	waiting := n.waiting
	n.waiting = map[key]struct{}{}
	return waiting
}
