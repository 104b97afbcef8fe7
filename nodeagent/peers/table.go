package peers

import (
	"hash/maphash"

	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// seriesOfCounter is how many series a counter makes: bytes and packets, of both directions.
	seriesOfCounter = 4
	// maxFolded is how many different combinations that are folded are counted of a pod.
	maxFolded = 1000
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
}

// A table is of a pod. Who has a place keeps it.
type table struct {
	places   map[Labels]int
	counters []Counter // in order of appearance
	other    int       // the place of what is folded, or -1
	folded   map[uint64]struct{}
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
	c := &of.counters[t.place(of, pod, l)]
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
	t.fold(of, l)
	if of.other < 0 {
		of.other = of.append(pod, t.asked.other())
	}
	return of.other
}

func (of *table) append(pod string, l Labels) int {
	of.counters = append(of.counters, Counter{PodKey: pod, Labels: l, Began: timestamppb.Now()})
	return len(of.counters) - 1
}

// fold remembers that labels were folded.
func (t *tables) fold(of *table, l Labels) {
	if len(of.folded) == maxFolded {
		return
	}
	if of.folded == nil {
		of.folded = map[uint64]struct{}{}
	}
	before := len(of.folded)
	of.folded[maphash.Comparable(t.seed, l)] = struct{}{}
	t.folded += len(of.folded) - before
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
