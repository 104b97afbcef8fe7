// Package drops counts the packets that the kernel drops, by pod and reason. drops.bpf.c says how; this file says what
// its maps hold, and loads it.
//
// A newcomer changes the C source, runs bpf/generate.sh, and commits what it wrote. If the layout of a map changed,
// nodeagent/collectors/drops pins it under another name.
package drops

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Hook is the kernel's tracepoint, as in the specification's programs.
const Hook = "kfree_skb"

// The maps of this package; all others that the programs use are those of bpf/headers.
const (
	Rows     = objectMapDropRows     // Row to uint64, packets on the wire
	Accounts = objectMapDropAccounts // a pod's number to Account
	Settings = objectMapDropSettings // entry 0 is SettingsOf
	Lost     = objectMapDropLost     // see LostPackets and MissedBefore
)

// The entries of Lost, each a uint64.
const (
	// LostPackets are of pods for which Accounts had no space.
	LostPackets uint32 = iota
	// MissedBefore is kept by the agent: events that former programs missed.
	MissedBefore
)

// Direction is as the pod sees it.
type Direction uint8

// The directions, as in the tables of flows.
const (
	Receive Direction = iota
	Transmit
)

// Attribution is how a packet's pod was found. The numbers are those of Drop.Attribution in apis/agent/v1alpha1.
type Attribution uint8

// The attributions.
const (
	Socket Attribution = iota + 1
	Interface
	Address
)

// Row is struct row.
type Row struct {
	Pod         uint64
	Reason      Code
	Port        uint16
	Direction   Direction
	Protocol    uint8
	Attribution Attribution
	_           uint8
}

// PortRows and AllRows are how many rows a pod can have in each direction: with a port, and in all.
const (
	PortRows = 256
	AllRows  = 384
)

// Account is struct account.
type Account struct {
	Unsorted uint64
	Rows     [2]uint32 // by direction
}

// Code is a reason as programs write it: the number within its subsystem in the lower 12 bits, and the subsystem's in
// the upper 4, of which the last two are not the kernel's.
type Code uint16

// What programs tell from the packet itself stands where the kernel's subsystems do: reasons of its core only.
const (
	stray   = 14
	expired = 15
)

// Number is the kernel's own number of the reason.
func (c Code) Number() uint32 {
	if c>>12 >= stray {
		return uint32(c & 0xfff)
	}
	return uint32(c>>12)<<16 | uint32(c&0xfff)
}

// Expired is true where the packet's TTL or hop limit had come to its end, for which the kernel has no reason of its own.
func (c Code) Expired() bool { return c>>12 == expired }

// Stray is true for what nobody misses, where the kernel did not say so: a multicast that nobody in the namespace had
// asked for, and a segment of TCP without data, as is the last acknowledgment of each connection.
func (c Code) Stray() bool { return c>>12 == stray }

// Verdict says what programs do with a reason.
type Verdict uint8

// The verdicts; others are zero.
const (
	// LeftOut is for reasons for which nothing was lost.
	LeftOut Verdict = 1 << iota
	// Benign reasons do not mark flows.
	Benign
	// Expires is for the reasons that are given for an expired TTL, too.
	Expires
	// Strays is for the reasons that are given for what Code.Stray tells, too.
	Strays
)

// SettingsOf is struct settings.
type SettingsOf struct {
	// Flows is 1 when the flows of dropped packets are to be marked.
	Flows uint8
	// Verdicts are by the kernel's number.
	Verdicts [255]Verdict
}

// Kernel is what the running kernel's type information says about drops.
type Kernel struct {
	// Reasons are the names of reasons by number, without SKB_DROP_REASON_.
	Reasons map[uint32]string
	// Receivers says whether the tracepoint tells the receiving socket (6.11 and later).
	Receivers bool
}

// ErrNoReasons is the answer on kernels before 5.17.
var ErrNoReasons = errors.New("the kernel gives no reasons for drops (it does since 5.17)")

// Look reads the type information of the running kernel.
func Look() (Kernel, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return Kernel{}, fmt.Errorf("reading the kernel's types: %w", err)
	}
	var reasons *btf.Enum
	if err := types.TypeByName("skb_drop_reason", &reasons); err != nil {
		return Kernel{}, fmt.Errorf("%w: %w", ErrNoReasons, err)
	}
	var trace *btf.Typedef
	if err := types.TypeByName("btf_trace_"+Hook, &trace); err != nil {
		return Kernel{}, fmt.Errorf("looking for the tracepoint %s: %w", Hook, err)
	}
	return describe(reasons, trace)
}

const prefix = "SKB_DROP_REASON_"

// describe takes the enumeration of reasons and the type of the tracepoint, whose first parameter is none of its own.
func describe(reasons *btf.Enum, trace *btf.Typedef) (Kernel, error) {
	kernel := Kernel{Reasons: map[uint32]string{}}
	for _, value := range reasons.Values {
		name := strings.TrimPrefix(value.Name, prefix)
		if number := uint32(value.Value); number>>16 == 0 {
			kernel.Reasons[number] = name
		}
	}
	pointer, ok := trace.Type.(*btf.Pointer)
	if !ok {
		return kernel, fmt.Errorf("the tracepoint %s is a %T", Hook, trace.Type)
	}
	prototype, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return kernel, fmt.Errorf("the tracepoint %s points to a %T", Hook, pointer.Target)
	}
	if len(prototype.Params) < 4 {
		return kernel, ErrNoReasons
	}
	kernel.Receivers = len(prototype.Params) > 4
	return kernel, nil
}

// Spec is the specification of the program that suits the kernel, and of its maps.
func Spec(kernel Kernel) (*ebpf.CollectionSpec, error) {
	spec, err := loadObject()
	if err != nil {
		return nil, fmt.Errorf("reading the compiled programs: %w", err)
	}
	if kernel.Receivers {
		delete(spec.Programs, objectProgDrop)
	} else {
		delete(spec.Programs, objectProgDropReceived)
	}
	return spec, nil
}
