package pcapfilter

const genevePort = 6081

// geneve tests for a Geneve tunnel, and moves what follows into it. The tunnel carries Ethernet frames or
// packets; only the packet says which, so the offsets of the link's type and payload are computed as it is run.
// That needs jumps inside blocks, and the optimizer is left out, as tcpdump leaves it out.
func (g *generator) geneve(n *special) (*condition, error) {
	if err := g.limit(n, 0xffffff, "a virtual network"); err != nil {
		return nil, err
	}
	g.proof.leaves("the payload of UDP")
	four, err := g.geneveIn(n, etherIP, fromTransport4)
	if err != nil {
		return nil, err
	}
	six, err := g.geneveIn(n, etherIP6, fromTransport6)
	if err != nil {
		return nil, err
	}
	statements, err := g.enterGeneve()
	if err != nil {
		return nil, err
	}
	inside := g.block(append(statements, &statement{code: loadImmediate}), jumpEqual, 0)
	g.tunnelled, g.unoptimized = true, true
	return and(or(four, six), inside), nil
}

// geneveIn tests for Geneve in one IP version, and leaves the length of the IP header in A.
func (g *generator) geneveIn(n *special, link uint32, transport base) (*condition, error) {
	c, err := g.portIn(link, ipUDP, destination, func(at uint32) *condition { return g.equal(transport, at, sizeH, genevePort) })
	if err != nil {
		return nil, err
	}
	c = and(c, g.masked(transport, 8, sizeB, 0, 0xc0)) // version 0
	if n.argument.kind == tNumber {
		c = and(c, g.masked(transport, 12, sizeW, n.number<<8, 0xffffff00))
	}
	var length []*statement
	if transport == fromTransport4 {
		length = append(g.headerLength(), &statement{code: xToA})
	} else {
		length = append(g.variable(&g.payload), &statement{code: loadImmediate, k: 40})
		if g.payload.varies {
			length = append(length, &statement{code: classALU | opADD | sourceX})
		}
		length = append(length, &statement{code: aToX})
	}
	return and(c, g.block(length, jumpEqual|sourceX, 0)), nil // A = X: always true
}

// enterGeneve returns statements that compute where the link's type, header and payload are inside, from
// the length of the outer IP header in A.
func (g *generator) enterGeneve() ([]*statement, error) {
	var registers [3]int
	outer := g.payload.constant + g.network
	for i := range registers {
		r, err := g.allocate()
		if err != nil {
			return nil, err
		}
		registers[i] = r
	}
	linkType, header, payload := uint32(registers[0]), uint32(registers[1]), uint32(registers[2])
	stored := &statement{code: storeX, k: payload}
	isFrame := &statement{code: xToA}
	s := []*statement{
		{code: classALU | opADD, k: outer + 8}, // past UDP
		{code: aToX},
		{code: classALU | opADD, k: 2},
		{code: store, k: linkType},
		{code: classLD | modeIND | sizeB},
		{code: classALU | opAND, k: 0x3f},
		{code: classALU | opMUL, k: 4},
		{code: classALU | opADD, k: 8},
		{code: classALU | opADD | sourceX},
		{code: store, k: header},
		{code: classLD | modeIND | sizeH, k: 2},
		{code: loadXMemory, k: header},
		{code: jumpEqual, k: etherBridging, jt: isFrame, jf: stored},
		isFrame,
		{code: classALU | opADD, k: 12},
		{code: store, k: linkType},
		{code: classALU | opADD, k: 2},
		{code: aToX},
		stored,
	}
	at := func(register uint32) offset { return offset{varies: true, register: int(register)} }
	g.link, g.linkHeader, g.linkType, g.payload, g.network = onEthernet, at(header), at(linkType), at(payload), 0
	return s, nil
}

// innerEthernet tests, behind geneve, that the tunnel carries frames: there is something between the link's
// header and its payload. It is nil elsewhere.
func (g *generator) innerEthernet() *condition {
	if !g.tunnelled {
		return nil
	}
	s := []*statement{{code: loadMemory, k: uint32(g.linkHeader.register)}, {code: loadXMemory, k: uint32(g.payload.register)}}
	return not(g.block(s, jumpEqual|sourceX, 0))
}
