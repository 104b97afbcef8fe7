package pcapfilter

// value is an arithmetic expression compiled: statements that leave it in a scratch register, and the test
// that has to be true for them to make sense.
type value struct {
	statements []*statement
	register   int
	guard      *condition
}

var relations = map[string]struct {
	code     uint16
	inverted bool
}{
	"=": {opJEQ, false}, "==": {opJEQ, false}, "!=": {opJEQ, true}, ">": {opJGT, false}, "<=": {opJGT, true}, ">=": {opJGE, false}, "<": {opJGE, true},
}

func (g *generator) relation(n *relation) (*condition, error) {
	left, err := g.value(n.left, true)
	if err != nil {
		return nil, err
	}
	right, err := g.value(n.right, true)
	if err != nil {
		return nil, err
	}
	g.word = n.operator
	r := relations[n.operator.text]
	s := append(append(left.statements, right.statements...),
		&statement{code: loadXMemory, k: uint32(right.register)},
		&statement{code: loadMemory, k: uint32(left.register)})
	code := classJMP | r.code | sourceX
	if r.code == opJEQ {
		s = append(s, &statement{code: classALU | opSUB | sourceX})
		code = jumpEqual
	}
	g.free(left.register)
	g.free(right.register)
	c := g.block(s, code, 0)
	if r.inverted {
		c = not(c)
	}
	return and(and(left.guard, right.guard), c), nil
}

// value compiles an arithmetic expression. guarded says that the test of its protocol will be made:
// tcpdump makes that only of the leftmost operand.
func (g *generator) value(x arithmetic, guarded bool) (value, error) {
	switch x := x.(type) {
	case *constant:
		return g.immediate(&statement{code: loadImmediate, k: x.value})
	case *packetLength:
		return g.immediate(&statement{code: classLD | modeLEN})
	case *minus:
		v, err := g.value(x.x, guarded)
		v.statements = append(v.statements,
			&statement{code: loadMemory, k: uint32(v.register)},
			&statement{code: classALU | opNEG},
			&statement{code: store, k: uint32(v.register)})
		return v, err
	case *accessor:
		return g.accessor(x, guarded)
	}
	return g.binary(x.(*calculation), guarded)
}

func (g *generator) immediate(load *statement) (value, error) {
	register, err := g.allocate()
	return value{statements: []*statement{load, {code: store, k: uint32(register)}}, register: register}, err
}

var operations = map[string]uint16{
	"+": opADD, "-": opSUB, "*": opMUL, "/": opDIV, "%": opMOD, "&": opAND, "|": opOR, "^": opXOR, "<<": opLSH, ">>": opRSH,
}

func (g *generator) binary(x *calculation, guarded bool) (value, error) {
	left, err := g.value(x.left, guarded)
	if err != nil {
		return left, err
	}
	right, err := g.value(x.right, false)
	if err != nil {
		return left, err
	}
	g.word = x.operator
	operation := operations[x.operator.text]
	if first := right.statements[0]; first.code == loadImmediate {
		switch {
		case (operation == opDIV || operation == opMOD) && first.k == 0:
			return left, g.refuse("division by zero, or by something that begins with a zero, as ip[0] does (tcpdump refuses it too)")
		case (operation == opLSH || operation == opRSH) && first.k > 31:
			return left, g.refuse("a shift by more than 31 bits, or by something that begins with such a number (tcpdump refuses it too)")
		}
	}
	s := append(append(left.statements, right.statements...),
		&statement{code: loadXMemory, k: uint32(right.register)},
		&statement{code: loadMemory, k: uint32(left.register)},
		&statement{code: classALU | operation | sourceX})
	g.free(left.register)
	g.free(right.register)
	register, err := g.allocate()
	return value{append(s, &statement{code: store, k: uint32(register)}), register, left.guard}, err
}

// accessor loads bytes of a header. The transport protocols' are looked for behind IPv4 only, except ICMPv6.
func (g *generator) accessor(x *accessor, guarded bool) (value, error) {
	index, err := g.value(x.index, false)
	if err != nil {
		return index, err
	}
	g.word = x.word
	g.proof.accessor(g, x, guarded)
	register, err := g.allocate()
	if err != nil {
		return index, err
	}
	g.free(index.register)
	size := map[uint32]uint16{1: sizeB, 2: sizeH, 4: sizeW}[x.size]
	s, guard, err := g.access(x.word.proto, index.register, size)
	if err != nil {
		return index, err
	}
	s = append(append(index.statements, s...), &statement{code: store, k: uint32(register)})
	return value{s, register, guard(index.guard)}, nil
}

// access returns statements that load from a header at an index in a register, and how to guard them together
// with the index.
func (g *generator) access(p proto, index int, size uint16) ([]*statement, func(*condition) *condition, error) {
	switch p {
	case pLink:
		return g.indexed(&g.linkHeader, index, 0, size), func(c *condition) *condition { return c }, nil
	case pIP, pIP6, pARP, pRARP, pAppleTalk, pDECnet, pSCA, pLAT, pMOPRC, pMOPDL:
		s := g.indexed(&g.payload, index, g.network, size)
		is, err := g.protocol(p)
		return s, func(c *condition) *condition { return and(c, is) }, err
	case pTCP, pUDP, pSCTP, pICMP, pIGMP, pIGRP, pPIM, pVRRP, pCARP:
		s := append(g.headerLength(),
			&statement{code: loadMemory, k: uint32(index)},
			&statement{code: classALU | opADD | sourceX},
			&statement{code: aToX},
			&statement{code: classLD | modeIND | size, k: g.payload.constant + g.network})
		is, err := g.protocol(p)
		if err != nil {
			return nil, nil, err
		}
		first := g.firstFragment()
		ip, err := g.protocol(pIP)
		return s, func(c *condition) *condition { return and(ip, and(c, and(is, first))) }, err
	case pICMP6:
		ip6, err := g.protocol(pIP6)
		if err != nil {
			return nil, nil, err
		}
		is := g.equal(fromPayload, 6, sizeB, ipICMP6)
		s := g.indexed(&g.payload, index, g.network+40, size)
		return s, func(c *condition) *condition { return and(and(c, ip6), is) }, nil
	}
	return nil, nil, g.refuse("the bytes of this cannot be had by name; count them from ether, ip or ip6, as ip[20]")
}

// indexed loads at from + index + at.
func (g *generator) indexed(from *offset, index int, at uint32, size uint16) []*statement {
	s := g.variable(from)
	if s == nil {
		s = []*statement{{code: loadXMemory, k: uint32(index)}}
	} else {
		s = append(s,
			&statement{code: loadMemory, k: uint32(index)},
			&statement{code: classALU | opADD | sourceX},
			&statement{code: aToX})
	}
	return append(s, &statement{code: classLD | modeIND | size, k: from.constant + at})
}
