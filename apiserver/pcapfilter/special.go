package pcapfilter

import "strings"

// special compiles the primitives that have a keyword of their own.
func (g *generator) special(n *special) (*condition, error) {
	switch n.word.kind {
	case tBroadcast:
		return g.broadcast(n.proto)
	case tMulticast:
		return g.multicast(n.proto)
	case tLess:
		return not(g.block([]*statement{{code: classLD | modeLEN}}, jumpGreater, n.number)), nil
	case tGreater:
		return g.block([]*statement{{code: classLD | modeLEN}}, jumpAtLeast, n.number), nil
	case tByte:
		return g.byte(n), nil
	case tInbound, tOutbound, tIfindex:
		return g.metadata(n)
	case tVLAN:
		return g.vlan(n)
	case tMPLS:
		return g.mpls(n)
	case tPPPoED:
		return g.linkProtocol(etherPPPoED)
	case tPPPoES:
		return g.pppoes(n)
	case tGeneve:
		return g.geneve(n)
	case tLLC:
		return g.llc(n)
	}
	return nil, g.refuse("this primitive is not implemented")
}

func (g *generator) broadcast(p proto) (*condition, error) {
	switch p {
	case pDefault, pLink:
		return g.etherHost(allOnes[:6], destination)
	case pIP:
		return nil, g.refuse("the network's mask is unknown here, and differs between pods; write dst host with the broadcast address, or ether broadcast")
	}
	return nil, g.refuse("only ether has a broadcast here; write ether broadcast")
}

func (g *generator) multicast(p proto) (*condition, error) {
	link, from, least := uint32(etherIP), uint32(16), uint32(224)
	switch p {
	case pDefault, pLink:
		if g.link != onEthernet {
			return nil, g.refuse("there are no Ethernet addresses on this link, or behind pppoes; write ip multicast or ip6 multicast")
		}
		inner := g.innerEthernet()
		return and(inner, g.block(g.load(fromLinkHeader, 0, sizeB), jumpSet, 1)), nil
	case pIP:
	case pIP6:
		link, from = etherIP6, 24
	default:
		return nil, g.refuse("only ether, ip and ip6 have multicast; write ip multicast")
	}
	protocol, err := g.linkProtocol(link)
	if err != nil {
		return nil, err
	}
	if link == etherIP6 {
		return and(protocol, g.equal(fromPayload, from, sizeB, 0xff)), nil
	}
	return and(protocol, g.atLeast(fromPayload, from, sizeB, least)), nil
}

func (g *generator) byte(n *special) *condition {
	g.proof.link(g, n.number, 1)
	switch n.operator {
	case "<":
		return not(g.atLeast(fromLinkHeader, n.number, sizeB, n.value))
	case ">":
		return g.greater(fromLinkHeader, n.number, sizeB, n.value)
	}
	return g.equal(fromLinkHeader, n.number, sizeB, n.value)
}

// metadata tests what the kernel knows of a packet and the packet does not say.
func (g *generator) metadata(n *special) (*condition, error) {
	if g.linkHeader.constant != 0 || g.linkHeader.varies {
		return nil, g.refuse("behind pppoes and geneve tcpdump looks in the wrong place for this; write it before them")
	}
	switch n.word.kind {
	case tIfindex:
		return g.equal(fromLinkHeader, ancillaryIfindex, sizeW, n.number), nil
	case tOutbound:
		return g.equal(fromLinkHeader, ancillaryType, sizeH, packetOutgoing), nil
	}
	return not(g.equal(fromLinkHeader, ancillaryType, sizeH, packetOutgoing)), nil
}

func (g *generator) limit(n *special, most uint32, what string) error {
	if n.argument.kind == tNumber && n.number > most {
		return errorAt(n.argument, "%s is a number up to %d", what, most)
	}
	return nil
}

// vlan tests for a VLAN tag, and moves what follows behind it. The kernel takes the outermost tag out of a
// frame and keeps it beside it, mostly: so both places are looked in, and only a tag that is in the frame moves
// the headers, as far as a scratch register says.
func (g *generator) vlan(n *special) (*condition, error) {
	if g.labels > 0 {
		return nil, g.refuse("behind mpls there is no VLAN tag to be found; write vlan before mpls")
	}
	if g.link != onEthernet {
		return nil, g.refuse("there are no VLAN tags on this link, or behind pppoes; write vlan before pppoes")
	}
	if err := g.limit(n, 0xfff, "a VLAN"); err != nil {
		return nil, err
	}
	tagged := or(or(g.equal(fromLinkType, 0, sizeH, etherVLAN), g.equal(fromLinkType, 0, sizeH, etherQinQ)),
		g.equal(fromLinkType, 0, sizeH, etherOldQinQ))
	var isID *condition
	if n.argument.kind == tNumber {
		isID = g.masked(fromPayload, 0, sizeH, n.number, 0xfff)
	}
	outermost := g.tags == 0 && !g.linkHeader.varies && g.linkHeader.constant == 0
	g.tags++
	if !outermost {
		g.payload.constant += 4
		g.linkType.constant += 4
		return and(tagged, isID), nil
	}
	if err := g.findTag(tagged.first()); err != nil {
		return nil, err
	}
	if isID != nil {
		preferMetadata(isID.test)
	}
	beside := g.block([]*statement{{code: classLD | modeABS | sizeB, k: ancillaryTagged}}, jumpEqual, 1)
	return and(or(beside, tagged), isID), nil
}

// findTag makes the offsets vary, and moves them in the block that is reached when no tag is beside the frame.
func (g *generator) findTag(b *block) error {
	var moves []*statement
	for _, o := range []*offset{&g.payload, &g.linkType} {
		register, err := g.allocate()
		if err != nil {
			return err
		}
		o.varies, o.register = true, register
		g.tagMoves = append(g.tagMoves, register)
		moves = append(moves,
			&statement{code: loadMemory, k: uint32(o.register)},
			&statement{code: classALU | opADD, k: 4},
			&statement{code: store, k: uint32(o.register)})
	}
	b.statements = append(moves, b.statements...)
	return nil
}

// preferMetadata makes a test of a tag in the frame look beside the frame first. Its last statement, which
// masks, is for both.
func preferMetadata(b *block) {
	inFrame := b.statements
	beside := &statement{code: classLD | modeABS | sizeB, k: ancillaryTag}
	isBeside := &statement{code: jumpEqual, k: 1, jt: beside, jf: inFrame[0]}
	b.statements = append([]*statement{
		{code: classLD | modeABS | sizeB, k: ancillaryTagged},
		isBeside,
		beside,
		{code: jump, k: uint32(len(inFrame)) - 1},
	}, inFrame...)
}

// mpls tests for an MPLS label, and moves what follows behind it.
func (g *generator) mpls(n *special) (*condition, error) {
	if err := g.limit(n, 0xfffff, "a label"); err != nil {
		return nil, err
	}
	var c *condition
	switch {
	case g.labels > 0: // the label before is not the last
		c = g.masked(fromLabel, 2, sizeB, 0, 1)
	case g.link == onPPP:
		c = g.equal(fromLinkType, 0, sizeH, pppMPLS)
	case g.link == onEthernet:
		c = g.etherProtocol(etherMPLS)
	default:
		return nil, g.refuse("there are no MPLS labels on this link")
	}
	if n.argument.kind == tNumber {
		c = and(c, g.masked(fromPayload, 0, sizeW, n.number<<12, 0xfffff000))
	}
	g.noSNAP += 4
	g.network += 4
	g.labels++
	return c, nil
}

// pppoes tests for a PPPoE session, and moves what follows into it.
func (g *generator) pppoes(n *special) (*condition, error) {
	if err := g.limit(n, 0xffff, "a session"); err != nil {
		return nil, err
	}
	c, err := g.linkProtocol(etherPPPoES)
	if err != nil {
		return nil, err
	}
	if n.argument.kind == tNumber {
		c = and(c, g.masked(fromPayload, 0, sizeW, n.number, 0xffff))
	}
	inner := g.payload
	inner.constant += g.network + 6
	g.link, g.linkHeader, g.linkType, g.tunnelled = onPPP, inner, inner, false
	g.payload.constant = inner.constant + 2
	g.network, g.noSNAP = 0, 0
	return c, nil
}

// llc tests for an 802.2 frame and its type.
func (g *generator) llc(n *special) (*condition, error) {
	if g.link != onEthernet {
		return nil, g.refuse("there are no LLC frames on this link, or behind pppoes")
	}
	c := and(not(g.greater(fromLinkType, 0, sizeH, maxLength)), not(g.equal(fromLLC, 0, sizeH, 0xffff)))
	g.proof.leaves("the payload of LLC frames")
	if n.argument.text == "" {
		return c, nil
	}
	text := strings.TrimPrefix(n.argument.text, `\`)
	if text == "i" {
		return and(c, not(g.block(g.load(fromLLC, 2, sizeB), jumpSet, 1))), nil
	}
	t, ok := llcTypes[text]
	if !ok {
		return nil, errorAt(n.argument, "expected a type of LLC frame: i, s, u, rr, rnr, rej, ui, ua, disc, sabme, test, xid or frmr")
	}
	return and(c, g.masked(fromLLC, 2, sizeB, t.value, t.mask)), nil
}
