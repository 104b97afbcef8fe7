package pcapfilter

// proof collects whether a filter depends on headers only. It errs on the side of no.
type proof struct {
	// reaches is the first thing found that may be payload; empty if there is none.
	reaches string
}

func (p *proof) leaves(reaches string) {
	if p.reaches == "" {
		p.reaches = reaches
	}
}

// headerSizes are how many bytes from its start are always within a header.
var headerSizes = map[proto]uint32{
	pIP: 20, pIP6: 40, pARP: 28, pRARP: 28, pTCP: 20, pUDP: 8, pSCTP: 12, pICMP: 8, pICMP6: 8,
}

// accessor looks at proto[index:size]. Without the test that the packet has the protocol its offset may be anywhere.
func (p *proof) accessor(g *generator, x *accessor, guarded bool) {
	index, ok := fold(x.index)
	switch {
	case !ok:
		p.leaves("bytes at a computed offset")
	case x.word.proto == pLink:
		p.link(g, index, x.size)
	case !guarded || uint64(index)+uint64(x.size) > uint64(headerSizes[x.word.proto]):
		p.leaves("bytes that may be behind the header")
	}
}

// link looks at size bytes from an index into the link's header.
func (p *proof) link(g *generator, index, size uint32) {
	header := map[linkKind]uint32{onEthernet: 14, onRawIP: 20, onPPP: 2}[g.link]
	if uint64(index)+uint64(size) > uint64(header) {
		p.leaves("bytes that may be behind the header")
	}
}

// fold computes an arithmetic expression that has no part of the packet in it.
func fold(x arithmetic) (uint32, bool) {
	switch x := x.(type) {
	case *constant:
		return x.value, true
	case *minus:
		v, ok := fold(x.x)
		return -v, ok
	case *calculation:
		left, ok := fold(x.left)
		right, also := fold(x.right)
		if !ok || !also {
			return 0, false
		}
		return operate(operations[x.operator.text], left, right)
	}
	return 0, false
}

// operate computes as the kernel does. It fails where the kernel's answer is the machine's affair.
func operate(operation uint16, a, b uint32) (uint32, bool) {
	switch operation {
	case opADD:
		return a + b, true
	case opSUB:
		return a - b, true
	case opMUL:
		return a * b, true
	case opOR:
		return a | b, true
	case opAND:
		return a & b, true
	case opXOR:
		return a ^ b, true
	}
	switch {
	case operation == opDIV && b != 0:
		return a / b, true
	case operation == opMOD && b != 0:
		return a % b, true
	case operation == opLSH && b < 32:
		return a << b, true
	case operation == opRSH && b < 32:
		return a >> b, true
	}
	return 0, false
}

// moves is what a part of a filter does to the place where everything behind it looks.
type moves struct {
	any     bool // it has vlan, mpls, pppoes or geneve
	geneve  bool
	matched bool // it is true only if all of these matched
}

// checkMoves looks for tests that are made although the vlan, mpls or pppoes before them did not match: they
// look where the headers would be. Behind geneve that is an error: nothing has said where to look.
func (p *proof) checkMoves(n node) (moves, error) {
	switch n := n.(type) {
	case *special:
		switch n.word.kind {
		case tGeneve:
			return moves{true, true, true}, nil
		case tVLAN, tMPLS, tPPPoES:
			return moves{true, false, true}, nil
		}
	case *grouping:
		return p.checkMoves(n.x)
	case *negation:
		m, err := p.checkMoves(n.x)
		m.matched = !m.any
		return m, err
	case *chain:
		return p.checkChain(n)
	}
	return moves{matched: true}, nil
}

func (p *proof) checkChain(n *chain) (moves, error) {
	all, err := p.checkMoves(n.first)
	for _, next := range n.rest {
		if err != nil {
			return all, err
		}
		if all.any && (next.or || !all.matched) {
			p.leaves("headers looked for behind a vlan, mpls or pppoes that did not match")
			if all.geneve {
				return all, errorAt(next.x.at(), "this test is made where geneve did not match, and then it has no place to look at; write it before geneve, or join it with and")
			}
		}
		var m moves
		m, err = p.checkMoves(next.x)
		all = moves{all.any || m.any, all.geneve || m.geneve, all.matched && m.matched}
		if next.or {
			all.matched = !all.any
		}
	}
	return all, err
}
