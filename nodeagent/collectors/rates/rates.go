// Package rates keeps two timed samples of some counters, so that a reader has a rate over the last five to ten
// seconds at once and nothing else need be remembered.
package rates

import "time"

const (
	// Every is how often samples are taken.
	Every = 5 * time.Second
	// Longest is the longest window of a rate.
	Longest = 10 * time.Second
	// shortest is the shortest window, but for samples that were taken late.
	shortest = Every
)

// A Window holds two samples. The zero value is empty. It is not safe for concurrent use.
type Window[T any] struct {
	older, newer sample[T]
}

type sample[T any] struct {
	at    time.Time // with its monotonic reading, so a clock that is set does no harm
	value T
}

// Add keeps a sample and drops the older of the two that there were.
func (w *Window[T]) Add(at time.Time, value T) {
	w.older, w.newer = w.newer, sample[T]{at: at, value: value}
}

// Before gives the sample to compare with now, and how long ago it was; ok is false when none is of the right age.
func (w *Window[T]) Before(now time.Time) (value T, window time.Duration, ok bool) {
	for _, s := range []sample[T]{w.newer, w.older} {
		age := now.Sub(s.at)
		if !s.at.IsZero() && age >= shortest && age <= Longest {
			return s.value, age, true
		}
	}
	return value, 0, false
}

// Milli is the rate of a counter in thousandths per second; 0 when it fell.
func Milli(before, now int64, window time.Duration) int64 {
	if now <= before || window <= 0 {
		return 0
	}
	return int64(float64(now-before) / window.Seconds() * 1000)
}
