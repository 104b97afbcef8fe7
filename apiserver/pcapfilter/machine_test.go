package pcapfilter

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// packet is a frame and what the kernel knows of it beside it.
type packet struct {
	data     []byte
	kind     string // how it was made, for failures
	outgoing bool
	ifindex  uint32
	tagged   bool   // a VLAN tag was taken out of it
	tag      uint16 // that tag
}

// run judges a packet as the kernel does. The machine of golang.org/x/net/bpf knows no VLAN tag and no packet type.
func run(program []bpf.RawInstruction, p *packet) uint32 {
	verdict, _ := judge(program, p)
	return verdict
}

// judge runs a program, and says whether it ended because the packet was too short for a load.
func judge(program []bpf.RawInstruction, p *packet) (verdict uint32, short bool) {
	var a, x uint32
	var m [scratchWords]uint32
	for pc := 0; ; pc++ {
		i := program[pc]
		switch i.Op & classMask {
		case classLD, classLDX:
			v, ok := load(i, p, x, &m)
			if !ok {
				return 0, true
			}
			if i.Op&classMask == classLD {
				a = v
			} else {
				x = v
			}
		case classST:
			m[i.K] = a
		case classSTX:
			m[i.K] = x
		case classALU:
			operand := i.K
			if i.Op&sourceMask == sourceX {
				operand = x
			}
			var ok bool
			if a, ok = alu(i.Op&opMask, a, operand); !ok {
				return 0, false
			}
		case classJMP:
			pc += distance(i, a, x)
		case classRET:
			if i.Op&0x18 == 0x10 {
				return a, false
			}
			return i.K, false
		case classMISC:
			if i.Op == aToX {
				x = a
			} else {
				a = x
			}
		}
	}
}

func load(i bpf.RawInstruction, p *packet, x uint32, m *[scratchWords]uint32) (uint32, bool) {
	switch i.Op & modeMask {
	case modeIMM:
		return i.K, true
	case modeMEM:
		return m[i.K], true
	case modeLEN:
		return uint32(len(p.data)), true
	case modeMSH:
		v, ok := p.read(i.K, sizeB)
		return v & 0xf * 4, ok
	case modeIND:
		return p.read(i.K+x, i.Op&sizeMask)
	}
	switch i.K {
	case ancillaryType:
		if p.outgoing {
			return packetOutgoing, true
		}
		return 0, true
	case ancillaryIfindex:
		return p.ifindex, true
	case ancillaryTag:
		return uint32(p.tag), true
	case ancillaryTagged:
		if p.tagged {
			return 1, true
		}
		return 0, true
	}
	return p.read(i.K, i.Op&sizeMask)
}

func (p *packet) read(at uint32, size uint16) (uint32, bool) {
	switch {
	case size == sizeB && uint64(at)+1 <= uint64(len(p.data)):
		return uint32(p.data[at]), true
	case size == sizeH && uint64(at)+2 <= uint64(len(p.data)):
		return uint32(binary.BigEndian.Uint16(p.data[at:])), true
	case size == sizeW && uint64(at)+4 <= uint64(len(p.data)):
		return binary.BigEndian.Uint32(p.data[at:]), true
	}
	return 0, false
}

func alu(operation uint16, a, b uint32) (uint32, bool) {
	switch operation {
	case opNEG:
		return -a, true
	case opLSH:
		return a << (b & 31), true
	case opRSH:
		return a >> (b & 31), true
	}
	return operate(operation, a, b)
}

func distance(i bpf.RawInstruction, a, x uint32) int {
	if i.Op == jump {
		return int(i.K)
	}
	operand := i.K
	if i.Op&sourceMask == sourceX {
		operand = x
	}
	if compare(i.Op, a, operand) {
		return int(i.Jt)
	}
	return int(i.Jf)
}
