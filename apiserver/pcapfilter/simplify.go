package pcapfilter

import (
	"encoding/binary"
)

// statement evaluates one statement symbolically and, if asked to, simplifies it.
func (o *optimizer) statement(b *block, s *statement, simplify bool) {
	if s.gone {
		return
	}
	a, x := &b.values[registerA], &b.values[registerX]
	switch s.code & classMask {
	case classLD:
		switch s.code & modeMask {
		case modeABS:
			o.set(s, a, o.value(s.code, s.k, 0), simplify)
		case modeIND:
			o.loadIndirect(b, s, simplify)
		case modeLEN:
			o.set(s, a, o.value(s.code, 0, 0), simplify)
		case modeIMM:
			o.set(s, a, o.constant(s.k), simplify)
		case modeMEM:
			o.loadScratch(b, s, a, loadImmediate, simplify)
		}
	case classLDX:
		switch s.code & modeMask {
		case modeIMM:
			o.set(s, x, o.constant(s.k), simplify)
		case modeMSH:
			o.set(s, x, o.value(s.code, s.k, 0), simplify)
		case modeMEM:
			o.loadScratch(b, s, x, loadXImmediate, simplify)
		}
	case classST:
		o.set(s, &b.values[s.k], *a, simplify)
	case classSTX:
		o.set(s, &b.values[s.k], *x, simplify)
	case classMISC:
		if s.code == aToX {
			o.set(s, x, *a, simplify)
		} else {
			o.set(s, a, *x, simplify)
		}
	case classALU:
		o.compute(b, s, simplify)
	}
}

// set gives a register a value, or drops the statement if the register has it already.
func (o *optimizer) set(s *statement, register *uint32, value uint32, simplify bool) {
	if simplify && value != 0 && *register == value {
		s.gone = true
		return
	}
	*register = value
}

func (o *optimizer) loadIndirect(b *block, s *statement, simplify bool) {
	x := b.values[registerX]
	v := uint32(0)
	if known := o.constants[x]; simplify && known.is {
		s.code = classLD | modeABS | s.code&sizeMask
		s.k += known.value
		v = o.value(s.code, s.k, 0)
		o.rewritten()
	} else {
		v = o.value(s.code, s.k, x)
	}
	o.set(s, &b.values[registerA], v, simplify)
}

func (o *optimizer) loadScratch(b *block, s *statement, register *uint32, immediate uint16, simplify bool) {
	v := b.values[s.k]
	if known := o.constants[v]; simplify && known.is {
		s.code, s.k = immediate, known.value
		o.rewritten()
	}
	o.set(s, register, v, simplify)
}

// compute evaluates what the arithmetic unit does.
func (o *optimizer) compute(b *block, s *statement, simplify bool) {
	a := &b.values[registerA]
	operation := s.code & opMask
	switch {
	case operation == opNEG:
		o.negate(s, a, simplify)
	case s.code&sourceMask == sourceK:
		o.computeConstant(b, s, operation, simplify)
	default:
		o.computeX(b, s, operation, simplify)
	}
}

func (o *optimizer) negate(s *statement, a *uint32, simplify bool) {
	if known := o.constants[*a]; simplify && known.is {
		s.code, s.k = loadImmediate, -known.value
		*a = o.constant(s.k)
		return
	}
	*a = o.value(s.code, *a, 0)
}

func (o *optimizer) computeConstant(b *block, s *statement, operation uint16, simplify bool) {
	a := &b.values[registerA]
	if simplify && s.k == 0 {
		switch operation {
		case opADD, opLSH, opRSH, opOR, opXOR:
			s.gone = true
			return
		case opMUL, opAND:
			s.code = loadImmediate
			*a = o.constant(0)
			return
		case opDIV, opMOD:
			o.fail(b, "division by zero")
			return
		}
	}
	if known := o.constants[*a]; simplify && known.is {
		o.fold(b, s, known.value, s.k)
		*a = o.constant(s.k)
		return
	}
	*a = o.value(s.code, *a, o.constant(s.k))
}

func (o *optimizer) computeX(b *block, s *statement, operation uint16, simplify bool) {
	a, x := &b.values[registerA], b.values[registerX]
	left, right := o.constants[*a], o.constants[x]
	switch {
	case simplify && left.is && right.is:
		o.fold(b, s, left.value, right.value)
		*a = o.constant(s.k)
	case simplify && right.is:
		if (operation == opLSH || operation == opRSH) && right.value > 31 {
			o.fail(b, "a shift by more than 31 bits")
			return
		}
		s.code, s.k = classALU|operation, right.value
		o.rewritten()
		*a = o.value(s.code, *a, o.constant(s.k))
	case simplify && left.is && left.value == 0 && (operation == opADD || operation == opOR || operation == opXOR):
		s.code = xToA
		o.set(s, a, x, simplify)
	case simplify && left.is && left.value == 0 && operation != opSUB:
		s.code, s.k = loadImmediate, 0
		o.set(s, a, o.constant(0), simplify)
	default:
		*a = o.value(s.code, *a, x)
	}
}

// fold makes a constant of an operation on two.
func (o *optimizer) fold(b *block, s *statement, left, right uint32) {
	operation := s.code & opMask
	result, ok := operate(operation, left, right)
	if !ok && (operation == opDIV || operation == opMOD) {
		o.fail(b, "division by zero")
		return
	}
	s.code, s.k = loadImmediate, result // a shift by more than 31 bits leaves 0
	o.rewritten()
}

func (o *optimizer) fail(b *block, message string) {
	if o.failed == nil {
		o.failed = errorAt(b.word, "%s", message)
	}
}

// real returns the index of the first statement from i that is not gone, or -1.
func (b *block) real(i int) int {
	for ; i < len(b.statements); i++ {
		if !b.statements[i].gone {
			return i
		}
	}
	return -1
}

// rewrite replaces sequences at the end of a block by shorter ones.
func (o *optimizer) rewrite(b *block) {
	if len(b.statements) == 0 {
		return
	}
	last := b.statements[0]
	for i := b.real(0); i >= 0; {
		next := b.real(i + 1)
		if next < 0 {
			break
		}
		last = b.statements[next]
		o.rewritePair(b, i, next)
		i = b.real(next)
	}
	if b.code == jumpEqual && b.usedAfter&(1<<registerA) == 0 {
		o.mergeLast(b, last)
	}
	o.decide(b)
}

// rewritePair replaces two statements that follow each other.
func (o *optimizer) rewritePair(b *block, i, next int) {
	s, n := b.statements[i], b.statements[next]
	if s.code == store && n.code == loadXMemory && s.k == n.k {
		n.code = aToX
		o.rewritten()
	}
	if s.code == loadImmediate && n.code == aToX {
		s.code, n.code = loadXImmediate, xToA
		o.rewritten()
	}
	if s.code == loadImmediate && b.usedAfter&(1<<registerX) == 0 {
		o.mergeIndex(b, s, next)
	}
}

// mergeIndex makes tcp[2], which adds 2 to the header's length, a load at an offset of 2 from that.
func (o *optimizer) mergeIndex(b *block, constant *statement, next int) {
	if b.statements[next].code == loadXHeader {
		next = b.real(next + 1)
	}
	sequence := [3]*statement{}
	for i := range sequence {
		if next < 0 {
			return
		}
		sequence[i] = b.statements[next]
		next = b.real(next + 1)
	}
	add, move, load := sequence[0], sequence[1], sequence[2]
	if add.code != classALU|opADD|sourceX || move.code != aToX ||
		load.code&classMask != classLD || load.code&modeMask != modeIND {
		return
	}
	load.k += constant.k
	constant.gone, add.gone, move.gone = true, true, true
	o.rewritten()
}

// mergeLast makes the last statement part of a comparison with a constant that nobody else needs the result of.
func (o *optimizer) mergeLast(b *block, last *statement) {
	switch {
	case last.gone: // it has been merged before
	case last.code == classALU|opSUB|sourceX:
		if x := o.constants[b.values[registerX]]; x.is {
			b.k += x.value
		} else if b.k == 0 {
			b.code = jumpEqual | sourceX
		} else {
			return
		}
		last.gone = true
		o.rewritten()
	case last.code == classALU|opSUB:
		b.k += last.k
		last.gone = true
		o.rewritten()
	case last.code == classALU|opAND && b.k == 0:
		b.code, b.k = jumpSet, last.k
		b.whenTrue.to, b.whenFalse.to = b.whenFalse.to, b.whenTrue.to
		last.gone = true
		o.rewritten()
	}
}

// decide finds out where a test leads whose outcome is known.
func (o *optimizer) decide(b *block) {
	if b.code == jumpSet && b.k == 0 {
		b.whenTrue.to = b.whenFalse.to
	}
	if b.code == jumpSet && b.k == 0xffffffff {
		o.fail(b, "tcpdump takes a test of all 32 bits under the mask 0xffffffff for always true; leave out the mask")
		return
	}
	if x := o.constants[b.values[registerX]]; x.is && b.code&classMask == classJMP && b.code&sourceMask == sourceX {
		b.code, b.k = b.code&^sourceX, x.value
	}
	a := o.constants[b.values[registerA]]
	if !a.is || b.code&classMask != classJMP || b.code&sourceMask != sourceK {
		return
	}
	if b.whenTrue.to != b.whenFalse.to {
		o.rewritten()
	}
	if compare(b.code, a.value, b.k) {
		b.whenFalse.to = b.whenTrue.to
	} else {
		b.whenTrue.to = b.whenFalse.to
	}
}

func compare(code uint16, a, k uint32) bool {
	switch code & opMask {
	case opJGT:
		return a > k
	case opJGE:
		return a >= k
	case opJSET:
		return a&k != 0
	}
	return a == k
}

// dropDead removes statements that set a register which nobody looks at before it is set again.
func (o *optimizer) dropDead(b *block) {
	var last [registers]*statement
	look := func(register int) { last[register] = nil }
	for _, s := range b.statements {
		if s.gone {
			continue
		}
		use(s.code, s.k, look)
		register, ok := define(s.code, s.k)
		if !ok {
			continue
		}
		if last[register] != nil {
			last[register].gone = true
			o.rewritten()
		}
		last[register] = s
	}
	use(b.code, b.k, look)
	for register, s := range last {
		if s != nil && b.usedAfter&(1<<register) == 0 {
			s.gone = true
			o.forget(b, register)
			o.rewritten()
		}
	}
}

// forget makes the value of a register unknown, which nothing sets any more.
func (o *optimizer) forget(b *block, register int) {
	if b.values[register] != 0 && o.forgotten.kind == tEnd {
		o.forgotten = b.word
	}
	if !o.careless {
		b.values[register] = 0
	}
}

// key is equal for blocks that do the same.
func (b *block) key() string {
	key := binary.BigEndian.AppendUint16(nil, b.code)
	key = binary.BigEndian.AppendUint32(key, b.k)
	for _, e := range []*edge{&b.whenTrue, &b.whenFalse} {
		to := uint32(0)
		if e.to != nil {
			to = uint32(e.to.id) + 1
		}
		key = binary.BigEndian.AppendUint32(key, to)
	}
	for _, s := range b.statements {
		if !s.gone {
			key = binary.BigEndian.AppendUint16(key, s.code)
			key = binary.BigEndian.AppendUint32(key, s.k)
		}
	}
	return string(key)
}
