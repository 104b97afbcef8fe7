package agents

import (
	"fmt"
	"time"
)

const (
	// failuresToOpen is how many quick failures in a row open a breaker. A timeout opens it alone: the next
	// list shall not wait for the same node again.
	failuresToOpen = 3
	// firstPause is the time from the opening of a breaker to its first probe; each failed probe doubles it.
	firstPause = 500 * time.Millisecond
	// lastPause bounds the doubling, so that a node that heals is seen within 10 s: this pause and one deadline.
	lastPause = 5 * time.Second
)

// breaker keeps reads away from an agent that does not answer. It does no I/O and takes the time as an
// argument; the zero value is closed.
type breaker struct {
	failures int
	pause    time.Duration
	open     bool
	probing  bool
	probeAt  time.Time
	reason   error
}

// refusal is why a read must not go to the agent now, or nil.
func (b *breaker) refusal() error {
	if !b.open {
		return nil
	}
	return b.reason
}

// succeeded notes the answer of a read.
func (b *breaker) succeeded() { *b = breaker{} }

// failed notes that a read was not answered, and whether it was for want of time.
func (b *breaker) failed(now time.Time, reason error, timeout bool) {
	b.failures++
	if b.open || (!timeout && b.failures < failuresToOpen) {
		return
	}
	b.open, b.reason = true, beingProbed(reason)
	b.lengthen(now)
}

// probeDue says that a probe should be sent now; it is then under way until probed or reset.
func (b *breaker) probeDue(now time.Time) bool {
	// A wait of more than a pause means that the clock stepped back.
	if wait := b.probeAt.Sub(now); !b.open || b.probing || (wait > 0 && wait <= lastPause) {
		return false
	}
	b.probing = true
	return true
}

// probed notes how a probe ended. The pause is forgotten only when a read succeeds, so an agent that answers
// probes but no reads is asked ever more seldom.
func (b *breaker) probed(now time.Time, err error) {
	b.probing = false
	if !b.open {
		return
	}
	if err == nil {
		b.open, b.failures, b.reason = false, 0, nil
		return
	}
	b.reason = beingProbed(err)
	b.lengthen(now)
}

func (b *breaker) lengthen(now time.Time) {
	b.pause = min(max(2*b.pause, firstPause), lastPause)
	b.probeAt = now.Add(b.pause)
}

func beingProbed(reason error) error {
	return fmt.Errorf("%w (not asked again until a probe is answered)", reason)
}
