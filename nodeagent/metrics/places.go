package metrics

import "time"

// idleFor is after how long without anything counted a place may be given to others of the pod, and what is folded is no
// longer said to be. It is that of package peers.
const idleFor = 15 * time.Minute

// places are the keys of a pod that have series of their own: the first ones that come, up to a limit, and later those that
// count something when another has been idle.
type places[K comparable] struct {
	limit int
	used  map[K]time.Time // when something was last counted
	next  time.Time       // none becomes idle before
}

func newPlaces[K comparable](limit int) places[K] {
	return places[K]{limit: limit, used: map[K]time.Time{}}
}

func (p *places[K]) has(key K) bool {
	_, has := p.used[key]
	return has
}

// give gives a key a place if there is one. When all are taken and the key counts something, it gets that of the key that
// has been idle for longest, which has lost it then.
func (p *places[K]) give(key K, counts bool, now time.Time) (lost K, lose bool) {
	if len(p.used) < p.limit {
		p.used[key] = now
		return lost, false
	}
	if !counts || now.Before(p.next) {
		return lost, false
	}
	oldest := now
	for other, used := range p.used {
		if used.Before(oldest) {
			lost, oldest = other, used
		}
	}
	if p.next = oldest.Add(idleFor); now.Before(p.next) {
		return lost, false
	}
	delete(p.used, lost)
	p.used[key] = now
	return lost, true
}
