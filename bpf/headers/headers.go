// Package headers is the user-space side of the C headers beside it: what several BPF programs have in common, in the
// kernel's memory layout. Each map that the headers declare is made once a node (MapSpecs) and given to every program
// that names it.
package headers

import (
	"hash/fnv"
	"math/bits"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Node is the number of the node itself, where others have a pod's.
const Node uint64 = 1

// PodNumber is the number by which programs know the pod of a key. It is the same on every node and for ever.
func PodNumber(key string) uint64 {
	hash := fnv.New64a()
	hash.Write([]byte(key))
	return hash.Sum64() | 1<<63 // never Node, never 0
}

// Address is an address as programs see it: IPv4 addresses are mapped.
type Address [16]byte

// AddressOf turns an address into what programs see.
func AddressOf(address netip.Addr) Address { return address.As16() }

// Slots is the number of slots of a Histogram.
const Slots = 209

// LowestBucket is the bucket of slot 0.
const LowestBucket = -160

// Histogram is histogram.h's. Slot i holds bucket i + LowestBucket.
type Histogram struct {
	Counts         [Slots]uint64
	SumNanoseconds uint64
}

// Add adds one value, as histogram_add does.
func (h *Histogram) Add(nanoseconds uint64) {
	h.Counts[Slot(nanoseconds)]++
	h.SumNanoseconds += nanoseconds
}

// Merge adds all of other's values.
func (h *Histogram) Merge(other *Histogram) {
	for i := range h.Counts {
		h.Counts[i] += other.Counts[i]
	}
	h.SumNanoseconds += other.SumNanoseconds
}

// bounds are 2^31 times 2^(1/8) to 2^(7/8), rounded up.
var bounds = [7]uint32{2341847524, 2553802834, 2784941738, 3037000500, 3311872530, 3611622603, 3938502376}

// Slot is where a value is counted, as histogram_slot says.
func Slot(nanoseconds uint64) int {
	nanoseconds = min(nanoseconds, 1<<36)
	units := nanoseconds + nanoseconds*79179680>>30
	if units <= 1024 {
		return 0
	}
	units--
	exponent := 63 - bits.LeadingZeros64(units)
	mantissa := uint32(units << (63 - exponent) >> 32)
	slot := (exponent-10)*8 + 1
	for _, bound := range bounds {
		if mantissa >= bound {
			slot++
		}
	}
	return min(slot, Slots-1)
}

// FlowKey4 is struct flow4: addresses and ports in network byte order.
type FlowKey4 struct {
	Pod                   uint64
	Local, Remote         [4]byte
	LocalPort, RemotePort [2]byte
	Protocol              uint8
	_                     [3]byte
}

// FlowKey6 is struct flow6.
type FlowKey6 struct {
	Pod                   uint64
	Local, Remote         [16]byte
	LocalPort, RemotePort [2]byte
	Protocol              uint8
	_                     [3]byte
}

// Flow is struct flow. Times are nanoseconds of CLOCK_MONOTONIC.
type Flow struct {
	Receive, Transmit     struct{ Packets, Bytes uint64 }
	First, Last, LastDrop uint64
	SYN                   uint64
	HandshakeMicroseconds uint32
	Drops                 uint32
	DropReason            uint16
	Flags                 [2]uint8
	BegunByTransmit       uint8
	Rejected              uint8
	_                     [2]byte
}

// FlowTable is struct flow_table, of one CPU.
type FlowTable struct{ Created, Failed uint64 }

// InspectDNS is the slot of the program that looks at packets of port 53.
const InspectDNS uint32 = 0

// Inspectors are the slots by the name of the collector that fills them.
var Inspectors = map[string]uint32{"dns": InspectDNS}

// MapSpecs are the maps that the headers declare, by the name that programs give them. They are made by
// nodeagent/pins, once a node.
func MapSpecs() map[string]*ebpf.MapSpec {
	specs := map[string]*ebpf.MapSpec{}
	hash := func(name string, kind ebpf.MapType, key, value uintptr, entries, flags uint32) {
		specs[name] = &ebpf.MapSpec{
			Name: name, Type: kind, KeySize: uint32(key), ValueSize: uint32(value), MaxEntries: entries, Flags: flags,
		}
	}
	const noPrealloc = 1 // BPF_F_NO_PREALLOC
	hash("pods_by_netns", ebpf.Hash, 8, 8, 4096, noPrealloc)
	hash("pods_by_cgroup", ebpf.Hash, 8, 8, 4096, noPrealloc)
	hash("pods_by_address", ebpf.Hash, 16, 8, 16384, noPrealloc)
	hash("flows4", ebpf.LRUHash, unsafe.Sizeof(FlowKey4{}), unsafe.Sizeof(Flow{}), 131072, 0)
	hash("flows6", ebpf.LRUHash, unsafe.Sizeof(FlowKey6{}), unsafe.Sizeof(Flow{}), 32768, 0)
	hash("flow_table", ebpf.PerCPUArray, 4, unsafe.Sizeof(FlowTable{}), 1, 0)
	hash("inspection", ebpf.PerCPUArray, 4, 24, 1, 0)
	hash("inspectors", ebpf.ProgramArray, 4, 4, 1, 0)
	hash("cgroup_inspectors", ebpf.ProgramArray, 4, 4, 1, 0)
	return specs
}
