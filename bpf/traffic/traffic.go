// Package traffic counts the packets of one pod in the kernel, and adds them to flows. traffic.bpf.c says how; this
// file says what its map holds, and loads it.
//
// A newcomer changes the C source, runs bpf/generate.sh, and commits what it wrote. If the map's layout changed,
// Layout changes too, and nodeagent/collectors/traffic keeps a reader of the old one.
package traffic

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Layout names the meaning of the map's bytes. Maps are pinned under it.
const Layout = "totals-v2"

// Direction is as the pod sees it.
type Direction int

// The directions, in the order of the map.
const (
	Receive Direction = iota
	Transmit
	directions
)

func (d Direction) String() string { return [directions]string{"receive", "transmit"}[d] }

// Cell is one kind of packet. Every packet is counted in exactly one.
type Cell int

// The cells, in the order of the map.
const (
	IPv4Unicast Cell = iota
	IPv4NonUnicast
	IPv6Unicast
	IPv6NonUnicast
	NonIP
	cells
)

// Counters are packets and IP-level bytes as on the wire, and the socket buffers that carried them.
type Counters struct{ Packets, Bytes, Buffers uint64 }

// Cells are the counters of all packets.
type Cells [directions][cells]Counters

// Totals is the value of the map's entry 0, of each CPU.
type Totals struct {
	_ [2]uint64 // the programs' own
	Cells
	// Unparsed are IP packets that are in no flow, because their headers cannot be parsed. The flows hold all others.
	Unparsed uint64
	// FlowsCreated are entries made in the tables of flows.
	FlowsCreated uint64
}

// Add adds other to t.
func (t *Totals) Add(other *Totals) {
	for d := range t.Cells {
		for c := range t.Cells[d] {
			t.Cells[d][c].Packets += other.Cells[d][c].Packets
			t.Cells[d][c].Bytes += other.Cells[d][c].Bytes
			t.Cells[d][c].Buffers += other.Cells[d][c].Buffers
		}
	}
	t.Unparsed += other.Unparsed
	t.FlowsCreated += other.FlowsCreated
}

// Notes is what the agent itself remembers of a pod, kept beside the totals so that it lives exactly as long: the
// value of the map's entry 1, of the first CPU.
type Notes struct {
	// StartUnixNano is when counting began, by the wall clock.
	StartUnixNano int64
	// TransmitBase is what the pod's interfaces had sent, in buffers, before counting began on them, less what
	// interfaces that have gone had sent in all.
	TransmitBase int64
	_            [32]uint64 // up to the size of Totals
}

const (
	totalsKey uint32 = 0
	notesKey  uint32 = 1
)

// NewMap makes the map of one pod, with its notes. The caller closes it.
func NewMap(notes Notes) (*ebpf.Map, error) {
	spec, err := specification()
	if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMap(spec.Maps[objectMapTotals])
	if err != nil {
		return nil, fmt.Errorf("making the map of totals: %w", err)
	}
	if err := WriteNotes(m, notes); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Read reads the totals that all CPUs together have counted. Each counter is read whole; a packet that arrives
// meanwhile may be in one counter and not yet in the next.
func Read(m *ebpf.Map) (Totals, error) {
	var sum Totals
	var perCPU []Totals
	if err := m.Lookup(totalsKey, &perCPU); err != nil {
		return sum, fmt.Errorf("reading totals: %w", err)
	}
	for i := range perCPU {
		sum.Add(&perCPU[i])
	}
	return sum, nil
}

// ReadNotes reads what WriteNotes wrote.
func ReadNotes(m *ebpf.Map) (Notes, error) {
	var perCPU []Notes
	if err := m.Lookup(notesKey, &perCPU); err != nil {
		return Notes{}, fmt.Errorf("reading notes: %w", err)
	}
	return perCPU[0], nil
}

// WriteNotes replaces the notes; totals are not touched.
func WriteNotes(m *ebpf.Map, notes Notes) error {
	if err := m.Put(notesKey, []Notes{notes}); err != nil {
		return fmt.Errorf("writing notes: %w", err)
	}
	return nil
}

// Hook is where a program sits.
type Hook int

const (
	// Ether is tcx or clsact of an interface whose frames begin with an Ethernet header. Frames received for others
	// are not counted.
	Ether Hook = iota
	// EtherAny is Ether for an interface that hands frames on, so that those for others count.
	EtherAny
	// Raw is tcx or clsact of an interface without link-layer header, such as tun.
	Raw
	// Cgroup is cgroup_skb of cgroup version 2.
	Cgroup
	hooks
)

var programNames = [hooks][directions]string{
	Ether:    {objectProgReceiveEther, objectProgTransmitEther},
	EtherAny: {objectProgReceiveEtherAny, objectProgTransmitEther},
	Raw:      {objectProgReceiveRaw, objectProgTransmitRaw},
	Cgroup:   {objectProgReceiveCgroup, objectProgTransmitCgroup},
}

// Beyond is what a program does beyond counting. The zero value is nothing.
type Beyond struct {
	// Pod is the number of the pod (headers.PodNumber).
	Pod uint64
	// Shared are the maps of bpf/headers; without them there are neither flows nor inspection of packets.
	Shared map[string]*ebpf.Map
	// Flows says whether packets are added to the tables of flows.
	Flows bool
	// WithoutInspection says that packets are not handed on to those of Shared who look closer (inspection.h).
	WithoutInspection bool
}

// Placeholders in the programs' instructions, see traffic.bpf.c.
const (
	podPlaceholder    = 0x706f64706f64706f
	wantedPlaceholder = 0x77616e7477616e74

	wantFlows      = 1
	wantInspection = 2
)

// constants are what stands in for the placeholders.
func (b Beyond) constants() map[int64]int64 {
	wanted := int64(0)
	if b.Shared != nil && b.Flows {
		wanted |= wantFlows
	}
	if b.Shared != nil && !b.WithoutInspection {
		wanted |= wantInspection
	}
	return map[int64]int64{podPlaceholder: int64(b.Pod), wantedPlaceholder: wanted}
}

// NewProgram loads the program of a hook and direction; it counts into m, which it keeps alive. The caller closes it.
func NewProgram(m *ebpf.Map, hook Hook, direction Direction, beyond Beyond) (*ebpf.Program, error) {
	spec, err := specification()
	if err != nil {
		return nil, err
	}
	program := spec.Programs[programNames[hook][direction]].Copy()
	// The kernel lets programs share an array of inspectors only if they expect the same kind of attachment. None of
	// ours needs to be told how it will be attached.
	program.AttachType = ebpf.AttachNone
	if err := complete(program.Instructions, m, beyond); err != nil {
		return nil, fmt.Errorf("completing %s: %w", program.Name, err)
	}
	loaded, err := ebpf.NewProgram(program)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", program.Name, err)
	}
	return loaded, nil
}

// complete puts maps and constants in their places.
func complete(instructions asm.Instructions, m *ebpf.Map, beyond Beyond) error {
	constants := beyond.constants()
	for i := range instructions {
		instruction := &instructions[i]
		if !instruction.OpCode.IsDWordLoad() {
			continue
		}
		if value, ok := constants[instruction.Constant]; ok {
			instruction.Constant = value
		}
		if !instruction.IsLoadFromMap() {
			continue
		}
		used := beyond.Shared[instruction.Reference()]
		if instruction.Reference() == objectMapTotals {
			used = m
		}
		if used == nil && beyond.Shared == nil {
			// The verifier removes what would use it, and there is no map to name.
			*instruction = asm.LoadImm(instruction.Dst, 0, asm.DWord).WithMetadata(instruction.Metadata).WithReference("")
			continue
		}
		if used == nil {
			return fmt.Errorf("there is no map %s", instruction.Reference())
		}
		if err := instruction.AssociateMap(used); err != nil {
			return err
		}
	}
	return nil
}

// specification parses the embedded object once; it is only read afterwards.
var specification = sync.OnceValues(loadObject)
