package flows

import (
	"context"
	"sort"
	"time"
)

// aliveEvery is how often a follower hears something, even when nothing changes.
const aliveEvery = 5 * time.Second

// A follower is a reader that goes on.
type follower struct {
	*reader
	// told is the revision up to which changes have been sent, and toldGone the same for departures.
	told, toldGone uint64
	// recorded is the newest position that was told of, or 0 while that is not known.
	recorded uint64
	at       [2]place
	gone     []uint64
	lost     bool
}

// follow sends what changed after a revision, or all there is if that is 0, and then what changes, until the context
// ends or the limit is reached.
func (r *reader) follow(after uint64) error {
	r.join()
	defer r.leave()
	f := &follower{reader: r, told: after, toldGone: after}
	if after == 0 {
		f.told, f.toldGone, f.recorded = r.revision, r.revision, r.until
		if err := r.readAll(); err != nil {
			return err
		}
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for due := true; ; {
		news, err := f.round(due)
		if err != nil {
			return err
		}
		if r.left == 0 {
			return nil
		}
		due = false
		select {
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		case <-r.ending:
			return ErrEnding
		case <-news:
		case <-alive.C:
			due = true
		}
	}
}

// join makes drains more frequent.
func (c *Collector) join() {
	c.mu.Lock()
	c.followers++
	c.mu.Unlock()
	select {
	case c.hurry <- struct{}{}:
	default:
	}
}

func (c *Collector) leave() {
	c.mu.Lock()
	c.followers--
	c.mu.Unlock()
}

// round sends all that has changed by now; if that is nothing, only when a message is due. news is closed when more may
// have changed.
func (f *follower) round(due bool) (news <-chan struct{}, err error) {
	var target, recorded uint64
	for more := true; more && f.left != 0; {
		err := f.collect(func() {
			if news == nil {
				target, recorded, news = f.history.revision, f.history.position, f.news
				f.batch.revision, f.batch.clock = target, f.clock
			}
			f.nextDepartures()
			more = f.nextByRevision(target)
		})
		if err != nil {
			return nil, err
		}
		if f.lost {
			return nil, ErrOutOfRange
		}
		for _, position := range f.gone {
			if err := f.batch.addGone(position); err != nil {
				return nil, err
			}
			due = true
		}
		due = due || len(f.found.records) > 0
		if err := f.sendFound(); err != nil {
			return nil, err
		}
	}
	f.recorded = recorded
	if !due {
		return news, nil
	}
	return news, f.batch.end(f.left != 0)
}

// nextDepartures takes along what has left the history since the last look. When more has left than is remembered, or a
// flow that was never told of, the follower is lost.
func (f *follower) nextDepartures() {
	h := f.history
	f.gone = f.gone[:0]
	f.lost = h.forgotten > f.toldGone
	remembered := len(h.departures)
	first := sort.Search(remembered, func(i int) bool { return h.departure(i).revision > f.toldGone })
	for i := first; i < remembered; i++ {
		d := h.departure(i)
		f.toldGone = d.revision
		if _, asked := f.filter.pods[d.pod]; !asked {
			continue
		}
		f.gone = append(f.gone, d.position)
		if f.recorded == 0 {
			f.lost = f.lost || d.changed > f.told
		} else {
			f.lost = f.lost || d.position > f.recorded
		}
	}
}

// nextByRevision takes along some records that changed up to the revision target, and says whether there are more.
func (f *follower) nextByRevision(target uint64) bool {
	for range lookAt {
		number, ok := f.history.afterRevision(f.told, &f.at)
		if !ok || f.history.records[number].revision > target {
			f.told = target
			return false
		}
		f.told = f.history.records[number].revision
		if f.take(number) { // the follower may have heard of it when it had another one
			f.gone = append(f.gone, f.history.records[number].position)
		}
		if len(f.found.records) == find {
			break
		}
	}
	return true
}
