package peers

import (
	"hash/maphash"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// seriesOfCounter is how many series a counter makes: bytes and packets, of both directions.
	seriesOfCounter = 4
	// maxFolded is how many different combinations that are folded are counted of a pod.
	maxFolded = 1000
	// idleFor is after how long without anything counted a place may be given to other labels of the pod, and labels are no
	// longer said to be folded.
	idleFor = 15 * time.Minute
)

// A Counter is what a pod exchanged under some labels, received and transmitted, since it was made.
type Counter struct {
	PodKey         string
	Labels         Labels
	Bytes, Packets [2]int64
	// Began is as families of metrics have it, and shared. It must not be changed.
	Began *timestamppb.Timestamp
}

// tables are the counters of all pods. They are not safe for concurrent use.
type tables struct {
	asked        asked
	limit, total int
	seed         maphash.Seed
	pods         map[string]*table
	counters     int // in all tables, without those of what is folded
	folded       int
	now          time.Time // of the present look
	healed       time.Time // when labels were last forgotten that were folded long ago
}

// A table is of a pod. Labels keep their place until they have been idle and others of the pod want one. What they have counted
// goes with their series: whoever added it up over time has it, and would have it twice if it were added to what is folded.
type table struct {
	places   map[Labels]int
	counters []Counter   // by place
	used     []time.Time // when something was last counted, by place
	other    int         // the place of what is folded, or -1
	// spare are places that were idle when last looked, the longest last; none becomes idle before next.
	spare []int
	next  time.Time
	// folded are labels, and when something was last counted for them.
	folded map[uint64]time.Time
}

func newTables(a asked, limit, total int) *tables {
	return &tables{asked: a, limit: limit, total: total, seed: maphash.MakeSeed(), pods: map[string]*table{}}
}

// add counts.
func (t *tables) add(pod string, l Labels, bytes, packets [2]int64) {
	of := t.pods[pod]
	if of == nil {
		of = &table{places: map[Labels]int{}, other: -1}
		t.pods[pod] = of
	}
	place := t.place(of, pod, l)
	of.used[place] = t.now
	c := &of.counters[place]
	for i := range bytes {
		c.Bytes[i] += bytes[i]
		c.Packets[i] += packets[i]
	}
}

// place finds the counter of labels, or makes one, or takes that of all beyond the limit.
func (t *tables) place(of *table, pod string, l Labels) int {
	if place, ok := of.places[l]; ok {
		return place
	}
	if len(of.places) < t.limit && t.counters < t.total {
		t.counters++
		of.places[l] = of.append(pod, l)
		return of.places[l]
	}
	if place := of.idle(t.now); place >= 0 {
		delete(of.places, of.counters[place].Labels)
		of.counters[place], of.places[l] = newCounter(pod, l), place
		t.unfold(of, l)
		return place
	}
	t.fold(of, l)
	if of.other < 0 {
		of.other = of.append(pod, t.asked.other())
	}
	return of.other
}

func (of *table) append(pod string, l Labels) int {
	of.counters, of.used = append(of.counters, newCounter(pod, l)), append(of.used, time.Time{})
	return len(of.counters) - 1
}

func newCounter(pod string, l Labels) Counter {
	return Counter{PodKey: pod, Labels: l, Began: timestamppb.Now()}
}

// idle is the place that has been idle for longest, if for long enough, else -1. All places are looked at only when one may
// have become idle: somebody who scans makes new labels with every packet.
func (of *table) idle(now time.Time) int {
	if len(of.spare) == 0 && !now.Before(of.next) {
		of.next = now.Add(idleFor)
		for _, place := range of.places {
			if at := of.used[place].Add(idleFor); !at.After(now) {
				of.spare = append(of.spare, place)
			} else if at.Before(of.next) {
				of.next = at
			}
		}
		slices.SortFunc(of.spare, func(a, b int) int { return of.used[b].Compare(of.used[a]) })
	}
	for len(of.spare) > 0 {
		place := of.spare[len(of.spare)-1]
		of.spare = of.spare[:len(of.spare)-1]
		if now.Sub(of.used[place]) >= idleFor { // otherwise it was used meanwhile
			return place
		}
	}
	return -1
}

// fold remembers that labels were folded.
func (t *tables) fold(of *table, l Labels) {
	if of.folded == nil {
		of.folded = map[uint64]time.Time{}
	}
	hash := maphash.Comparable(t.seed, l)
	if _, known := of.folded[hash]; !known {
		if len(of.folded) == maxFolded {
			return
		}
		t.folded++
	}
	of.folded[hash] = t.now
}

// unfold forgets that labels were folded that have a place now.
func (t *tables) unfold(of *table, l Labels) {
	hash := maphash.Comparable(t.seed, l)
	if _, known := of.folded[hash]; known {
		delete(of.folded, hash)
		t.folded--
	}
}

// heal forgets labels that were folded and are idle, once a minute.
func (t *tables) heal() {
	if t.now.Sub(t.healed) < time.Minute {
		return
	}
	t.healed = t.now
	for _, of := range t.pods {
		for hash, used := range of.folded {
			if t.now.Sub(used) >= idleFor {
				delete(of.folded, hash)
				t.folded--
			}
		}
	}
}

// forget ends the counters of a pod.
func (t *tables) forget(pod string) {
	of := t.pods[pod]
	if of == nil {
		return
	}
	t.counters -= len(of.places)
	t.folded -= len(of.folded)
	delete(t.pods, pod)
}

// other are the labels of what is folded.
func (a asked) other() (l Labels) {
	if a.peer {
		l.PeerNamespace, l.PeerWorkload = Other, Other
	}
	if a.service {
		l.ServiceNamespace, l.Service = Other, Other
	}
	if a.port {
		l.Protocol, l.Port = Other, Other
	}
	if a.dnsName {
		l.DNSName = Other
	}
	return l
}
