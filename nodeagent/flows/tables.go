package flows

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// batchSize is how many flows are read by one system call. No bucket of the kernel's tables comes near it.
const batchSize = 2048

// A table is one of the kernel's, with the buffers to read it. Its methods must not overlap.
type table[K comparable] struct {
	m      *ebpf.Map
	keys   []K
	values []headers.Flow
	// The last values of what take took out.
	taken []headers.Flow
	// single says that the kernel reads no batches.
	single bool
}

func newTable[K comparable](m *ebpf.Map) *table[K] {
	return &table[K]{m: m, keys: make([]K, batchSize), values: make([]headers.Flow, batchSize), taken: make([]headers.Flow, batchSize)}
}

// scan gives all flows to visit, in batches that are valid during the call. The kernel reads bucket by bucket: what is
// in the table all the time is seen exactly once.
func (t *table[K]) scan(visit func([]K, []headers.Flow) error) error {
	if t.single {
		return t.iterate(visit)
	}
	var cursor ebpf.MapBatchCursor
	for first := true; ; first = false {
		n, err := t.m.BatchLookup(&cursor, t.keys, t.values, nil)
		if first && errors.Is(err, ebpf.ErrNotSupported) {
			t.single = true
			return t.iterate(visit)
		}
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return fmt.Errorf("reading a table of flows: %w", err)
		}
		if err := visit(t.keys[:n], t.values[:n]); err != nil || done {
			return err
		}
	}
}

// iterate is scan for kernels that read no batches, before 5.6. What is added or taken out meanwhile may make it see a
// flow twice.
func (t *table[K]) iterate(visit func([]K, []headers.Flow) error) error {
	entries, n := t.m.Iterate(), 0
	for entries.Next(&t.keys[n], &t.values[n]) {
		if n++; n == batchSize {
			if err := visit(t.keys, t.values); err != nil {
				return err
			}
			n = 0
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading a table of flows: %w", err)
	}
	return visit(t.keys[:n], t.values[:n])
}

// take takes a flow out, with its last values. It is not there when the kernel has pushed it out meanwhile.
//
// The kernel reads and removes under one lock, so a packet is either in these values or begins the flow anew, but for
// one that found the entry before and adds to it afterwards: it is lost. Only flows that were idle are taken out, so
// this takes a packet after a long silence within the same microsecond.
func (t *table[K]) take(k *K, last *headers.Flow) (there bool, err error) {
	err = t.m.LookupAndDelete(k, last)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) { // before 5.14
		if err = t.m.Lookup(k, last); err == nil {
			err = t.m.Delete(k)
		}
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("taking a flow out of its table: %w", err)
	}
	return true, nil
}

// readCounts sums the counters of all CPUs.
func readCounts(m *ebpf.Map) (headers.FlowTable, error) {
	var sum headers.FlowTable
	var perCPU []headers.FlowTable
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("reading the counters of flows: %w", err)
	}
	for _, one := range perCPU {
		sum.Created += one.Created
		sum.Failed += one.Failed
	}
	return sum, nil
}
