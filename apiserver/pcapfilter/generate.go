package pcapfilter

import "net/netip"

// generator makes blocks from a tree. Its state says where the headers are for what comes next in the text:
// vlan, mpls, pppoes and geneve move them, for everything behind them and whether they matched or not, as
// tcpdump documents it.
type generator struct {
	options Options
	word    token // what is being compiled, for errors

	link        linkKind
	linkHeader  offset
	linkType    offset
	payload     offset // of the link layer
	network     uint32 // from payload to the network header
	noSNAP      uint32 // from payload to what follows an LLC header
	labels      int    // mpls so far
	tags        int    // vlan so far
	tunnelled   bool   // behind geneve
	tagMoves    []int  // registers that depend on where the outermost VLAN tag is
	unoptimized bool
	used        [scratchWords]bool
	register    int
	blocks      int
	addresses   int
	proof       proof
	resolved    map[Name][]netip.Addr
}

type linkKind int

const (
	onEthernet linkKind = iota
	onRawIP
	onPPP
)

// offset is a place in the packet: a constant, and if it varies the content of a scratch register.
type offset struct {
	constant uint32
	varies   bool
	register int
}

func newGenerator(o Options) *generator {
	g := &generator{options: o, resolved: map[Name][]netip.Addr{}}
	if o.Link == RawIP {
		g.link = onRawIP
	} else {
		g.linkType.constant, g.payload.constant, g.noSNAP = 12, 14, 3
	}
	return g
}

// maxBlocks bounds what the optimizer has to look at.
const maxBlocks = 1 << 13

// graph compiles a tree to blocks that end in accept or reject, and returns the first.
func (g *generator) graph(n node) (*block, error) {
	c, _, err := g.test(n, undefined)
	if err != nil {
		return nil, err
	}
	first := c.first()
	if g.tagMoves != nil {
		zero := []*statement{{code: loadImmediate}}
		for _, register := range g.tagMoves {
			zero = append(zero, &statement{code: store, k: uint32(register)})
		}
		first.statements = append(zero, first.statements...)
	}
	c.connect(&block{code: answer, k: g.options.SnapLen}, &block{code: answer})
	return first, nil
}

var undefined = qualifiers{proto: pUndefined}

// test compiles a part of the tree. It takes and returns the qualifiers that a bare id has there.
func (g *generator) test(n node, q qualifiers) (*condition, qualifiers, error) {
	g.word = n.at()
	if g.blocks > maxBlocks {
		return nil, q, errorAt(g.word, "the filter has grown too complex here: more than %d tests; use networks (net 10.1.0.0/16) and ranges of ports (portrange 8000-8100) for single ones", maxBlocks)
	}
	switch n := n.(type) {
	case *chain:
		return g.chain(n, q)
	case *negation:
		c, q, err := g.test(n.x, q)
		if err != nil {
			return nil, q, err
		}
		return not(c), q, nil
	case *grouping:
		c, _, err := g.test(n.x, q)
		return c, q, err
	case *match:
		c, _, err := g.test(n.ids, n.q)
		return c, n.q, err
	case *id:
		c, err := g.id(n, q)
		return c, q, err
	case *abbreviation:
		c, err := g.protocol(n.word.proto)
		return c, undefined, err
	case *special:
		c, err := g.special(n)
		return c, undefined, err
	case *relation:
		c, err := g.relation(n)
		return c, undefined, err
	}
	return nil, q, errorAt(g.word, "this part of a filter is not implemented")
}

func (g *generator) chain(n *chain, q qualifiers) (*condition, qualifiers, error) {
	c, q, err := g.test(n.first, q)
	for _, next := range n.rest {
		if err != nil {
			break
		}
		var right *condition
		if right, q, err = g.test(next.x, q); err != nil {
			break
		}
		if next.or {
			c = or(c, right)
		} else {
			c = and(c, right)
		}
	}
	return c, q, err
}

func (g *generator) refuse(format string, args ...any) error {
	return errorAt(g.word, format, args...)
}

// block returns a test that runs statements and then compares A.
func (g *generator) block(statements []*statement, code uint16, k uint32) *condition {
	g.blocks++
	return leaf(&block{statements: statements, code: code, k: k, word: g.word})
}

// never is a test that fails for every packet.
func (g *generator) never() *condition {
	return g.block([]*statement{{code: loadImmediate, k: 1}}, jumpEqual, 0)
}

// base is what an offset counts from.
type base int

const (
	fromLinkHeader base = iota
	fromLinkType
	fromPayload // the network header
	fromLLC
	fromNoSNAP
	fromLabel // the last MPLS label
	fromTransport4
	fromTransport6
)

// load returns statements that load size bytes at an offset from a base into A.
func (g *generator) load(from base, at uint32, size uint16) []*statement {
	switch from {
	case fromLinkHeader:
		return g.loadAt(&g.linkHeader, at, size)
	case fromLinkType:
		return g.loadAt(&g.linkType, at, size)
	case fromLLC:
		return g.loadAt(&g.payload, at, size)
	case fromNoSNAP:
		return g.loadAt(&g.payload, g.noSNAP+at, size)
	case fromLabel:
		return g.loadAt(&g.payload, g.network-4+at, size)
	case fromTransport6:
		return g.loadAt(&g.payload, g.network+40+at, size)
	case fromTransport4:
		k := g.payload.constant + g.network + at
		return append(g.headerLength(), &statement{code: classLD | modeIND | size, k: k})
	}
	return g.loadAt(&g.payload, g.network+at, size)
}

func (g *generator) loadAt(from *offset, at uint32, size uint16) []*statement {
	s := g.variable(from)
	mode := uint16(modeABS)
	if s != nil {
		mode = modeIND
	}
	return append(s, &statement{code: classLD | mode | size, k: from.constant + at})
}

// variable returns statements that load the varying part of an offset into X, or nil if it has none.
func (g *generator) variable(o *offset) []*statement {
	if !o.varies {
		return nil
	}
	return []*statement{{code: loadXMemory, k: uint32(o.register)}}
}

// headerLength returns statements that load the length of the IPv4 header into X, added to what of its
// offset varies.
func (g *generator) headerLength() []*statement {
	at := g.payload.constant + g.network
	s := g.variable(&g.payload)
	if s == nil {
		return []*statement{{code: loadXHeader, k: at}}
	}
	return append(s,
		&statement{code: classLD | modeIND | sizeB, k: at},
		&statement{code: classALU | opAND, k: 0xf},
		&statement{code: classALU | opLSH, k: 2},
		&statement{code: classALU | opADD | sourceX},
		&statement{code: aToX})
}

func (g *generator) equal(from base, at uint32, size uint16, value uint32) *condition {
	return g.masked(from, at, size, value, 0xffffffff)
}

func (g *generator) masked(from base, at uint32, size uint16, value, mask uint32) *condition {
	s := g.load(from, at, size)
	if mask != 0xffffffff {
		s = append(s, &statement{code: classALU | opAND, k: mask})
	}
	return g.block(s, jumpEqual, value)
}

func (g *generator) greater(from base, at uint32, size uint16, value uint32) *condition {
	return g.block(g.load(from, at, size), jumpGreater, value)
}

func (g *generator) atLeast(from base, at uint32, size uint16, value uint32) *condition {
	return g.block(g.load(from, at, size), jumpAtLeast, value)
}

// bytes compares bytes with the packet, four at once and the last ones first, as tcpdump does.
func (g *generator) bytes(from base, at uint32, value []byte) *condition {
	var c *condition
	for len(value) > 0 {
		n, size := 4, uint16(sizeW)
		if len(value) < 4 {
			n, size = 2, sizeH
		}
		tail := value[len(value)-n:]
		var number uint32
		for _, b := range tail {
			number = number<<8 | uint32(b)
		}
		value = value[:len(value)-n]
		c = and(c, g.equal(from, at+uint32(len(value)), size, number))
	}
	return c
}

// allocate takes a free scratch register.
func (g *generator) allocate() (int, error) {
	for range scratchWords {
		if !g.used[g.register] {
			g.used[g.register] = true
			return g.register, nil
		}
		g.register = (g.register + 1) % scratchWords
	}
	return 0, g.refuse("the arithmetic needs more than the kernel's %d registers; use fewer parentheses on the right", scratchWords)
}

func (g *generator) free(register int) { g.used[register] = false }
