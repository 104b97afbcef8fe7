package telemetry

import (
	"hash/maphash"
	"net/netip"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// maxFollowed is of how many addresses an agent is told changes. It wants no more, and asks again for what it needs
	// every ten minutes.
	maxFollowed = 20_000
	// followFor is for how long an address is followed that the agent no longer asks for.
	followFor = 15 * time.Minute
	// lookups bounds how many owners are looked up in a second for all agents together, to find changes; an agent that has
	// a few addresses has them looked at every second nevertheless.
	lookups, fewLookups = 200_000, 200
)

// seed is of the sums by which answers are compared.
var seed = maphash.MakeSeed()

// names are the addresses that an agent has asked for, and what it was told. The zero value is of a new stream.
type names struct {
	// asked have not been answered yet.
	asked []netip.Addr
	told  map[netip.Addr]answer
	// order has every address of told, next is where to go on looking for changes, and replaced where the next one
	// replaces another when there are too many.
	order          []netip.Addr
	next, replaced int
}

// An answer is a sum of what was told, and when, in seconds since the Unix epoch.
type answer struct {
	sum uint64
	at  int64
}

// ask notes addresses to be answered. Those beyond the limit are dropped: the agent asks again for what it needs.
func (n *names) ask(addresses [][]byte) {
	for _, bytes := range addresses {
		if address, ok := netip.AddrFromSlice(bytes); ok && len(n.asked) < maxFollowed {
			n.asked = append(n.asked, address)
		}
	}
}

// tell answers what was asked, and then looks for changes of at most so many earlier answers.
func (n *names) tell(to *outbox, owner func(netip.Addr) Owner, now time.Time, budget int) {
	for _, address := range n.asked {
		n.answer(to, address, owner(address.Unmap()), now, time.Time{})
	}
	n.asked = nil
	for range min(budget, len(n.order)) {
		if n.next >= len(n.order) {
			n.next = 0
		}
		if len(n.order) == 0 {
			return
		}
		address := n.order[n.next]
		last := n.told[address]
		if now.Unix()-last.at > int64(followFor/time.Second) {
			n.forget(n.next)
			continue
		}
		n.next++
		if is := owner(address.Unmap()); sumOf(is) != last.sum {
			// When nothing better is known, its owner came to have it by now: what came before was another's.
			n.answer(to, address, is, now, now)
		}
	}
}

// answer tells who an address's owner is, since when unless that is known.
func (n *names) answer(to *outbox, address netip.Addr, is Owner, now, since time.Time) {
	if n.told == nil {
		n.told = map[netip.Addr]answer{}
	}
	if _, known := n.told[address]; !known {
		n.follow(address)
	}
	n.told[address] = answer{sumOf(is), now.Unix()}
	if is.Since.IsZero() && is.Kind != Nobody {
		is.Since = since
	}
	to.name(nameOf(address, is))
}

// follow makes room for an address, at the expense of one that has been there for long.
func (n *names) follow(address netip.Addr) {
	if len(n.order) < maxFollowed {
		n.order = append(n.order, address)
		return
	}
	n.replaced %= maxFollowed
	delete(n.told, n.order[n.replaced])
	n.order[n.replaced] = address
	n.replaced++
}

// forget drops the address at a place of the order, which the last one takes.
func (n *names) forget(i int) {
	delete(n.told, n.order[i])
	last := len(n.order) - 1
	n.order[i] = n.order[last]
	n.order = n.order[:last]
}

// sumOf tells owners apart.
func sumOf(o Owner) uint64 {
	type comparable struct {
		kind                                        OwnerKind
		namespace, name, workloadKind, workloadName string
		since                                       int64
	}
	return maphash.Comparable(seed, comparable{o.Kind, o.Namespace, o.Name, o.WorkloadKind, o.WorkloadName, nanoseconds(o.Since)})
}

func nanoseconds(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixNano()
}

// nameOf is an owner on the wire.
func nameOf(address netip.Addr, o Owner) *agentv1.TelemetryName {
	name := &agentv1.TelemetryName{Address: address.AsSlice(), SinceUnixNano: nanoseconds(o.Since)}
	switch o.Kind {
	case PodOwner:
		kind, workload := workloadOf(o.WorkloadKind, o.WorkloadName, o.Created)
		name.Owner = &agentv1.TelemetryName_Pod{Pod: &agentv1.TelemetryPeerPod{
			Namespace: o.Namespace, Name: o.Name, WorkloadKind: kind, WorkloadName: workload,
		}}
	case ServiceOwner:
		name.Owner = &agentv1.TelemetryName_Service{Service: &agentv1.TelemetryService{Namespace: o.Namespace, Name: o.Name}}
	case NodeOwner:
		name.Owner = &agentv1.TelemetryName_Node{Node: o.Name}
	}
	return name
}
