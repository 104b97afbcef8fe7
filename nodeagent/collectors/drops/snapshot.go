package drops

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/drops"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// most is how many rows of a pod are on the wire.
const most = 128

// A snapshot is all rows, read once.
type snapshot struct {
	collector *Collector
	problem   error
	rows      map[uint64][]*v1alpha1.Drop
	unsorted  map[uint64]int64
	missed    uint64
}

// Snapshot reads all rows, for one answer.
func (c *Collector) Snapshot() interface {
	ReadPod(*podmap.Pod, *v1alpha1.PodStats) error
	ReadNode(*v1alpha1.NodeStats) error
} {
	s := &snapshot{collector: c, rows: map[uint64][]*v1alpha1.Drop{}, unsorted: map[uint64]int64{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.problem != nil:
		s.problem = c.problem
	case c.closed:
		s.problem = errors.New("counting has ended")
	default:
		s.problem = s.read()
	}
	return s
}

func (s *snapshot) read() (err error) {
	maps := s.collector.traced.Maps
	err = eachRow(maps[bpf.Rows], func(row *bpf.Row, packets uint64) {
		if packets > 0 { // else it is being made
			s.rows[row.Pod] = append(s.rows[row.Pod], s.collector.drop(row, packets))
		}
	})
	if err != nil {
		return err
	}
	var number uint64
	var account bpf.Account
	entries := maps[bpf.Accounts].Iterate()
	for entries.Next(&number, &account) {
		s.unsorted[number] = int64(account.Unsorted)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading the table of pods: %w", err)
	}
	s.missed, err = s.collector.missed()
	return err
}

func (c *Collector) drop(row *bpf.Row, packets uint64) *v1alpha1.Drop {
	name, class := c.Reason(uint16(row.Reason))
	direction := v1alpha1.Direction_DIRECTION_RECEIVE
	if row.Direction == bpf.Transmit {
		direction = v1alpha1.Direction_DIRECTION_TRANSMIT
	}
	return &v1alpha1.Drop{
		Reason: name, Class: class, Direction: direction, Attribution: v1alpha1.Drop_Attribution(row.Attribution),
		Protocol: int32(row.Protocol), Port: int32(row.Port), Packets: int64(packets),
	}
}

// eachRow calls do with every row. A row that is made meanwhile may be missed, no other is, and none is seen twice.
func eachRow(rows *ebpf.Map, do func(row *bpf.Row, packets uint64)) error {
	const batch = 1024
	keys, values := make([]bpf.Row, batch), make([]uint64, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := rows.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			do(&keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the rows of drops: %w", err)
		}
	}
}

// ReadPod fills in the pod's drops.
func (s *snapshot) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) error {
	if s.problem != nil {
		return s.problem
	}
	row.Drops = s.drops(headers.PodNumber(pod.Key))
	return nil
}

// ReadNode fills in the drops of the node itself, and how many events were missed.
func (s *snapshot) ReadNode(row *v1alpha1.NodeStats) error {
	if s.problem != nil {
		return s.problem
	}
	row.Drops = s.drops(headers.Node)
	row.Additional = append(row.Additional, &v1alpha1.Counter{Collector: "drops", Name: "missed", Value: int64(s.missed)})
	return nil
}

func (s *snapshot) drops(number uint64) *v1alpha1.Drops {
	rows, beyond := fold(s.rows[number])
	return &v1alpha1.Drops{Drops: rows, Unsorted: s.unsorted[number] + beyond}
}

// fold keeps the largest rows and adds up the others by reason and direction, so that there are at most so many as the
// wire allows. What does not fit even then, which takes more reasons than any pod meets, is unsorted.
func fold(rows []*v1alpha1.Drop) (folded []*v1alpha1.Drop, unsorted int64) {
	slices.SortFunc(rows, compare)
	if len(rows) <= most {
		return rows, 0
	}
	kept := most
	rest := sums(rows[kept:])
	for ; kept > 0 && kept+len(rest) > most; kept-- {
		rest = sums(rows[kept-1:])
	}
	for ; len(rest) > most; rest = rest[:len(rest)-1] {
		unsorted += rest[len(rest)-1].Packets
	}
	folded = append(slices.Clone(rows[:kept]), rest...)
	slices.SortFunc(folded, compare)
	return folded, unsorted
}

// sums adds rows up by reason and direction, the largest first.
func sums(rows []*v1alpha1.Drop) (sums []*v1alpha1.Drop) {
	type kind struct {
		reason    string
		class     v1alpha1.Drop_Class
		direction v1alpha1.Direction
	}
	byKind := map[kind]*v1alpha1.Drop{}
	for _, row := range rows {
		k := kind{row.Reason, row.Class, row.Direction}
		sum := byKind[k]
		if sum == nil {
			sum = &v1alpha1.Drop{Reason: row.Reason, Class: row.Class, Direction: row.Direction}
			byKind[k] = sum
			sums = append(sums, sum)
		}
		sum.Packets += row.Packets
	}
	slices.SortFunc(sums, compare)
	return sums
}

// compare puts the largest first, and the same rows always in the same order.
func compare(a, b *v1alpha1.Drop) int {
	return cmp.Or(
		cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Class, b.Class),
		cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Attribution, b.Attribution),
	)
}
