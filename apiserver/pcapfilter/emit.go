package pcapfilter

import (
	"golang.org/x/net/bpf"
)

// emitter lays blocks out as a program. Blocks are placed so that each stands before those that it leads to,
// since the kernel only jumps forward; a jump farther than 255 instructions goes by way of a long one.
type emitter struct {
	order []*block // in the reverse of the program's order
	seen  map[*block]bool
	// start is where a block begins, counted from the program's end.
	start map[*block]int
	long  map[*block][2]bool // the ways, when true and when false, that need a long jump
}

func emit(first *block) []bpf.RawInstruction {
	e := &emitter{seen: map[*block]bool{}, start: map[*block]int{}, long: map[*block][2]bool{}}
	e.place(first)
	for e.measure() {
	}
	program := make([]bpf.RawInstruction, 0, e.start[first])
	for i := len(e.order) - 1; i >= 0; i-- {
		program = e.write(program, e.order[i])
	}
	return program
}

func (e *emitter) place(b *block) {
	if e.seen[b] {
		return
	}
	e.seen[b] = true
	if !b.returns() {
		e.place(b.whenFalse.to)
		e.place(b.whenTrue.to)
	}
	e.order = append(e.order, b)
}

// measure computes where blocks begin, and says whether that has made jumps long that were not.
func (e *emitter) measure() bool {
	size, grown := 0, false
	for _, b := range e.order {
		long := e.long[b]
		extra := 0
		for _, is := range long {
			if is {
				extra++
			}
		}
		// The distance is counted from behind the jump, with the long jumps that follow it.
		for i, to := range []*block{b.whenTrue.to, b.whenFalse.to} {
			if to != nil && !long[i] && size+extra-e.start[to] > 255 {
				long[i], grown = true, true
			}
		}
		e.long[b] = long
		size += extra + 1 + b.size()
		e.start[b] = size
	}
	return grown
}

func (b *block) size() int {
	n := 0
	for _, s := range b.statements {
		if !s.gone {
			n++
		}
	}
	return n
}

func (e *emitter) write(program []bpf.RawInstruction, b *block) []bpf.RawInstruction {
	at := map[*statement]int{}
	n := 0
	for _, s := range b.statements {
		at[s] = n // one that is gone stands for the next
		if !s.gone {
			n++
		}
	}
	for _, s := range b.statements {
		if s.gone {
			continue
		}
		i := bpf.RawInstruction{Op: s.code, K: s.k}
		if s.jt != nil {
			i.Jt, i.Jf = uint8(at[s.jt]-at[s]-1), uint8(at[s.jf]-at[s]-1)
		}
		program = append(program, i)
	}
	if b.returns() {
		return append(program, bpf.RawInstruction{Op: b.code, K: b.k})
	}
	return e.writeJump(program, b)
}

// writeJump writes the jump at a block's end, and the long jumps that it needs.
func (e *emitter) writeJump(program []bpf.RawInstruction, b *block) []bpf.RawInstruction {
	rest := e.start[b] - b.size() - 1 // the program behind the jump
	var long []bpf.RawInstruction
	var short [2]uint8
	for way, to := range []*block{b.whenTrue.to, b.whenFalse.to} {
		distance := rest - e.start[to]
		if e.long[b][way] {
			long = append(long, bpf.RawInstruction{Op: jump, K: uint32(distance - len(long) - 1)})
			distance = len(long) - 1
		}
		short[way] = uint8(distance)
	}
	program = append(program, bpf.RawInstruction{Op: b.code, Jt: short[0], Jf: short[1], K: b.k})
	return append(program, long...)
}
