package pcapfilter

// Values of the Ethernet type field. Those up to 1500 are LLC service access points.
const (
	etherIP        = 0x0800
	etherIP6       = 0x86dd
	etherARP       = 0x0806
	etherRARP      = 0x8035
	etherNS        = 0x0600
	etherMOPDL     = 0x6001
	etherMOPRC     = 0x6002
	etherDECnet    = 0x6003
	etherLAT       = 0x6004
	etherSCA       = 0x6007
	etherBridging  = 0x6558
	etherAppleTalk = 0x809b
	etherAARP      = 0x80f3
	etherVLAN      = 0x8100
	etherIPX       = 0x8137
	etherMPLS      = 0x8847
	etherPPPoED    = 0x8863
	etherPPPoES    = 0x8864
	etherQinQ      = 0x88a8
	etherOldQinQ   = 0x9100
	etherLoopback  = 0x9000

	maxLength = 1500 // larger values of the type field are types

	sapIP      = 0x06
	sapSTP     = 0x42
	sapSNAP    = 0xaa
	sapIPX     = 0xe0
	sapNetBEUI = 0xf0
	sapISO     = 0xfe

	pppMPLS = 0x0281
)

const (
	ipICMP     = 1
	ipIGMP     = 2
	ipTCP      = 6
	ipIGRP     = 9
	ipUDP      = 17
	ipFragment = 44
	ipESP      = 50
	ipAH       = 51
	ipICMP6    = 58
	ipPIM      = 103
	ipVRRP     = 112 // and CARP
	ipSCTP     = 132
)

const (
	isoCLNP = 0x81
	isoESIS = 0x82
	isoISIS = 0x83
)

var pppTypes = map[uint32]uint32{
	etherIP: 0x21, etherIP6: 0x57, etherDECnet: 0x27, etherAppleTalk: 0x29, etherNS: 0x25,
	sapISO: 0x23, sapSTP: 0x31, sapIPX: 0x2b,
}

var etherTypes = map[proto]uint32{
	pIP: etherIP, pIP6: etherIP6, pARP: etherARP, pRARP: etherRARP,
	pAppleTalk: etherAppleTalk, pAARP: etherAARP, pDECnet: etherDECnet, pLAT: etherLAT, pSCA: etherSCA,
	pMOPRC: etherMOPRC, pMOPDL: etherMOPDL, pISO: sapISO, pSTP: sapSTP, pIPX: sapIPX, pNetBEUI: sapNetBEUI,
}

// transport says in which IP versions a protocol is looked for, IPv4 always.
var transports = map[proto]struct {
	number uint32
	ip6    bool
}{
	pSCTP: {ipSCTP, true}, pTCP: {ipTCP, true}, pUDP: {ipUDP, true}, pPIM: {ipPIM, true}, pAH: {ipAH, true}, pESP: {ipESP, true},
	pICMP: {ipICMP, false}, pIGMP: {ipIGMP, false}, pIGRP: {ipIGRP, false}, pVRRP: {ipVRRP, false}, pCARP: {ipVRRP, false},
}

// isisTypes are the types of IS-IS packets that an abbreviation stands for, in the order of their tests.
var isisTypes = map[proto][]uint32{
	pISISLevel1: {26, 24, 18, 15, 17},
	pISISLevel2: {27, 25, 20, 16, 17},
	pISISHello:  {17, 15, 16},
	pISISLSP:    {18, 20},
	pISISSNP:    {27, 26, 24, 25},
	pISISCSNP:   {24, 25},
	pISISPSNP:   {26, 27},
}

// linkProtocol tests for the protocol that the link layer carries.
func (g *generator) linkProtocol(number uint32) (*condition, error) {
	if g.labels > 0 {
		return g.labelledProtocol(number)
	}
	switch g.link {
	case onRawIP:
		switch number {
		case etherIP:
			return g.masked(fromLinkHeader, 0, sizeB, 0x40, 0xf0), nil
		case etherIP6:
			return g.masked(fromLinkHeader, 0, sizeB, 0x60, 0xf0), nil
		}
		return g.never(), nil
	case onPPP:
		if mapped, ok := pppTypes[number]; ok {
			number = mapped
		}
		return g.equal(fromLinkType, 0, sizeH, number), nil
	}
	return g.etherProtocol(number), nil
}

// labelledProtocol tests for IP behind an MPLS label: nothing says what is there but the first bits of it.
func (g *generator) labelledProtocol(number uint32) (*condition, error) {
	g.proof.leaves("what is behind MPLS labels")
	version := uint32(0x40)
	switch number {
	case etherIP:
	case etherIP6:
		version = 0x60
	default:
		return nil, g.refuse("behind mpls only IPv4 and IPv6 can be told from each other; write this test before mpls")
	}
	last := g.masked(fromPayload, ^uint32(1), sizeB, 1, 1) // two bytes before: the bottom of the stack
	return and(last, g.masked(fromPayload, 0, sizeB, version, 0xf0)), nil
}

func (g *generator) etherProtocol(number uint32) *condition {
	isLength := func() *condition { return not(g.greater(fromLinkType, 0, sizeH, maxLength)) }
	snap := func(organization uint32) *condition {
		return g.bytes(fromLLC, 0, []byte{sapSNAP, sapSNAP, 3,
			byte(organization >> 16), byte(organization >> 8), byte(organization), byte(number >> 8), byte(number)})
	}
	if number <= maxLength || number == etherAppleTalk || number == etherAARP {
		g.proof.leaves("the payload of LLC frames")
	}
	switch number {
	case sapISO, sapIP, sapNetBEUI:
		return and(isLength(), g.equal(fromLLC, 0, sizeH, number<<8|number))
	case sapIPX:
		novell := or(g.equal(fromLLC, 0, sizeB, sapIPX), g.equal(fromLLC, 0, sizeH, 0xffff))
		number = etherIPX
		return or(g.equal(fromLinkType, 0, sizeH, etherIPX), and(isLength(), or(snap(0), novell)))
	case etherAppleTalk:
		return or(g.equal(fromLinkType, 0, sizeH, number), and(isLength(), snap(0x080007)))
	case etherAARP:
		return or(g.equal(fromLinkType, 0, sizeH, number), and(isLength(), snap(0)))
	}
	if number <= maxLength {
		return and(isLength(), g.equal(fromLinkType, 2, sizeB, number))
	}
	return g.equal(fromLinkType, 0, sizeH, number)
}

// protocol tests for a protocol named by its keyword.
func (g *generator) protocol(p proto) (*condition, error) {
	if number, ok := etherTypes[p]; ok {
		return g.linkProtocol(number)
	}
	if t, ok := transports[p]; ok {
		if t.ip6 {
			return g.carried(t.number, pDefault)
		}
		return g.carried(t.number, pIP)
	}
	if types, ok := isisTypes[p]; ok {
		return g.isis(types)
	}
	switch p {
	case pICMP6:
		return g.carried(ipICMP6, pIP6)
	case pESIS:
		return g.carried(isoESIS, pISO)
	case pISIS:
		return g.carried(isoISIS, pISO)
	case pCLNP:
		return g.carried(isoCLNP, pISO)
	}
	return nil, g.refuse("this names the link and not a protocol; write for example ether host 0:1:2:3:4:5, ether proto 0x800 or ether[0] & 1 != 0")
}

func (g *generator) isis(types []uint32) (*condition, error) {
	var c *condition
	for _, number := range types {
		next, err := g.carried(number, pISIS)
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = next
		} else {
			c = or(c, next)
		}
	}
	return c, nil
}

// carried tests for a protocol by number inside another.
func (g *generator) carried(number uint32, inside proto) (*condition, error) {
	switch inside {
	case pDefault:
		return g.carriedByEither(number)
	case pLink:
		return g.linkProtocol(number)
	case pIP:
		link, err := g.linkProtocol(etherIP)
		if err != nil {
			return nil, err
		}
		return and(link, g.equal(fromPayload, 9, sizeB, number)), nil
	case pIP6:
		link, err := g.linkProtocol(etherIP6)
		if err != nil {
			return nil, err
		}
		behindFragment := and(g.equal(fromPayload, 6, sizeB, ipFragment), g.equal(fromPayload, 40, sizeB, number))
		return and(link, or(g.equal(fromPayload, 6, sizeB, number), behindFragment)), nil
	case pISO:
		g.proof.leaves("the payload of ISO packets") // behind PPP, too
		link, err := g.linkProtocol(sapISO)
		if err != nil {
			return nil, err
		}
		return and(link, g.equal(fromNoSNAP, 0, sizeB, number)), nil
	case pISIS:
		isis, err := g.carried(isoISIS, pISO)
		if err != nil {
			return nil, err
		}
		return and(isis, g.equal(fromNoSNAP, 4, sizeB, number)), nil
	}
	return nil, g.refuse("proto counts inside ether, ip, ip6, iso or isis; write ip proto N or ip6 proto N")
}

func (g *generator) carriedByEither(number uint32) (*condition, error) {
	four, err := g.carried(number, pIP)
	if err != nil {
		return nil, err
	}
	six, err := g.carried(number, pIP6)
	if err != nil {
		return nil, err
	}
	return or(four, six), nil
}
