// Package dns pairs the DNS queries of pods with their responses in the kernel. dns.bpf.c says how; this file says what
// its maps hold, and loads it.
//
// What counts is the pod as a client: queries that it transmits to port 53 and responses that it receives from there.
// A newcomer changes the C source, runs bpf/generate.sh, and commits what it wrote. If the layout of a map changed,
// Layout changes too.
package dns

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Layout names the meaning of the maps' bytes. Maps are pinned under it.
const Layout = "dns-v1"

// Names of the maps.
const (
	Pods     = objectMapDnsPods     // by number of the pod: Pod
	Pending  = objectMapDnsPending  // queries without response
	Events   = objectMapDnsEvents   // the ring buffer: Event
	Homeless = objectMapDnsHomeless // entry 0: messages of pods that found no place in Pods
)

// Limits of the programs.
const (
	// Types is how many types of record are counted each on its own, for one pod: those that it asks for first.
	Types = 16
	// Codes is how many response codes there are in a header.
	Codes = 16
	// MaxPending is how many queries of one pod are watched for a response at a time.
	MaxPending = 1024
	// MaxEvents is how many events one pod may send in 2^30 ns.
	MaxEvents = 200
	// Patience is after which time a query that is asked anew with the same id is a new one.
	Patience = 10 * time.Second
)

// Pod is what is known of one pod.
type Pod struct {
	// Queries are messages that ask, by place of their type; the last place is that of all other types.
	Queries [Types + 1]uint64
	// Responses are all messages that answer, by place of type and code. Over UDP they need not answer anything that
	// was asked; the values of Latency are how many did.
	Responses [Types + 1][Codes]uint64
	// Latency is from the first query to its response.
	Latency headers.Histogram
	// Unanswered are queries that were given up.
	Unanswered uint64
	// Unparsed are UDP packets without a DNS message.
	Unparsed uint64
	// Lost are exchanges of which names are not known: there were too many.
	Lost uint64
	// Pending is how many queries have no response now. It is no counter.
	Pending uint64
	// TypeMarks are the types that have a place, plus 65536; 0 is a free place.
	TypeMarks [Types]uint32
	_         [2]uint32
}

// Kinds of Event.
const (
	Answered uint8 = iota
	Unanswered
)

// Event is one exchange that ended.
type Event struct {
	Pod uint64
	// Latency is in nanoseconds.
	Latency uint64
	Type    uint16
	// Length says how many bytes of Message are used.
	Length uint16
	Code   uint8
	Kind   uint8
	_      [2]byte
	// Message is the beginning of the response, from its header on; of an unanswered query the name, as on the wire.
	Message [512]byte
}

// MapSpecs are the maps that outlive the programs, by name.
func MapSpecs() (map[string]*ebpf.MapSpec, error) {
	spec, err := specification()
	if err != nil {
		return nil, err
	}
	specs, shared := map[string]*ebpf.MapSpec{}, headers.MapSpecs()
	for name, m := range spec.Maps {
		if shared[name] == nil && !strings.HasPrefix(name, ".") {
			specs[name] = m.Copy()
		}
	}
	return specs, nil
}

// A Program is one of those here.
type Program string

// The programs. Interface and Socket are called by bpf/traffic through the arrays of inspection.h.
const (
	Interface Program = objectProgDnsInterface // of type sched_cls
	Socket    Program = objectProgDnsSocket    // of type cgroup_skb
	Sweep     Program = objectProgDnsSweep     // of type syscall: takes out what has waited too long
)

// Load loads a program with maps of MapSpecs and of headers.MapSpecs. Without names, none leave the kernel. The caller
// closes the program.
func Load(program Program, maps map[string]*ebpf.Map, names bool) (*ebpf.Program, error) {
	parsed, err := specification()
	if err != nil {
		return nil, err
	}
	spec, shared := parsed.Copy(), headers.MapSpecs()
	for name := range spec.Programs {
		if name != string(program) {
			delete(spec.Programs, name)
		}
	}
	replacements := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		switch {
		case shared[name] != nil && maps[name] == nil:
			delete(spec.Maps, name) // nothing here uses it
		case maps[name] != nil:
			replacements[name] = maps[name]
		}
		if shared[name] != nil && maps[name] != nil {
			spec.Maps[name] = shared[name]
		}
	}
	if !names {
		if err := spec.Variables[objectVarKeepNames].Set(uint32(0)); err != nil {
			return nil, fmt.Errorf("switching names off: %w", err)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", program, err)
	}
	defer collection.Close()
	return collection.DetachProgram(string(program)), nil
}

// RunSweep gives up all queries that have waited for so long.
func RunSweep(sweep *ebpf.Program, patience time.Duration) error {
	if _, err := sweep.Run(&ebpf.RunOptions{Context: uint64(patience)}); err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	return nil
}

// specification parses the embedded object once; it is only read afterwards.
var specification = sync.OnceValues(loadObject)
