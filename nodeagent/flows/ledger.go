package flows

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
)

// ledgerLayout names the meaning of the bytes in the ledger's maps.
const ledgerLayout = "flows-v1"

// maxPods is how many pods the ledger holds. It is as many as bpf/headers/pods.h has.
const maxPods = 4096

// entry is what the ledger holds of a pod.
type entry struct {
	// Total is all that was ever added to the pod's flows, as far as it was seen.
	Total amount
	// Present is the part of it that was in the kernel's tables.
	Present amount
}

// An amount is packets and bytes of both directions.
type amount struct{ Packets, Bytes uint64 }

func (a *amount) add(b amount) { a.Packets += b.Packets; a.Bytes += b.Bytes }

// subtract takes away, but never more than there is.
func (a *amount) subtract(b amount) {
	a.Packets -= min(a.Packets, b.Packets)
	a.Bytes -= min(a.Bytes, b.Bytes)
}

// raise makes each part at least b's.
func (a *amount) raise(b amount) {
	a.Packets = max(a.Packets, b.Packets)
	a.Bytes = max(a.Bytes, b.Bytes)
}

// node is what the ledger holds of the node.
type node struct {
	// Drained is when the last drain began, by CLOCK_MONOTONIC; 0 before the first.
	Drained uint64
	// Deleted is how many flows agents have taken out of the kernel's tables.
	Deleted uint64
	// Evicted is the largest number of evictions that was ever reckoned.
	Evicted uint64
}

// A ledger is the maps that outlive the agent, so that totals go on from where they were. It lasts until the next boot,
// as the kernel's tables do.
type ledger struct {
	maps       map[string]*ebpf.Map
	pods, node *ebpf.Map
}

func openLedger(root string) (*ledger, error) {
	maps, err := pins.Maps(filepath.Join(root, ledgerLayout), map[string]*ebpf.MapSpec{
		"flow_ledger": {Type: ebpf.Hash, KeySize: 8, ValueSize: 32, MaxEntries: maxPods, Flags: 1 /* BPF_F_NO_PREALLOC */},
		"flow_node":   {Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1},
	})
	if err != nil {
		return nil, err
	}
	return &ledger{maps: maps, pods: maps["flow_ledger"], node: maps["flow_node"]}, nil
}

func (l *ledger) close() { pins.CloseAll(l.maps) }

// read gives all that was written.
func (l *ledger) read() (node, map[uint64]entry, error) {
	var n node
	if err := l.node.Lookup(uint32(0), &n); err != nil {
		return n, nil, fmt.Errorf("reading the ledger of flows: %w", err)
	}
	all := map[uint64]entry{}
	var number uint64
	var e entry
	entries := l.pods.Iterate()
	for entries.Next(&number, &e) {
		all[number] = e
	}
	if err := entries.Err(); err != nil {
		return n, nil, fmt.Errorf("reading the ledger of flows: %w", err)
	}
	return n, all, nil
}

func (l *ledger) writeNode(n *node) error {
	if err := l.node.Put(uint32(0), n); err != nil {
		return fmt.Errorf("writing the ledger of flows: %w", err)
	}
	return nil
}

func (l *ledger) write(number uint64, e *entry) error {
	if err := l.pods.Put(number, e); err != nil {
		return fmt.Errorf("writing the ledger of flows: %w", err)
	}
	return nil
}

func (l *ledger) remove(number uint64) error {
	if err := l.pods.Delete(number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("clearing the ledger of flows: %w", err)
	}
	return nil
}

func amountOf(f *headers.Flow) amount {
	return amount{Packets: f.Receive.Packets + f.Transmit.Packets, Bytes: f.Receive.Bytes + f.Transmit.Bytes}
}

func (r *record) amount() amount {
	return amount{Packets: r.packets[0] + r.packets[1], Bytes: r.bytes[0] + r.bytes[1]}
}
