package pcapfilter

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// id compiles an address, name or number under its qualifiers.
func (g *generator) id(n *id, q qualifiers) (*condition, error) {
	g.word = n.word
	if q.proto == pUndefined {
		return nil, g.refuse("what came before has no qualifiers that this could share; write host, net, port or proto before it")
	}
	switch n.word.kind {
	case tMAC:
		return g.etherAddress(n, q)
	case tIPv6:
		return g.ipv6(n, q)
	}
	switch q.kind {
	case tPort, tPortRange:
		return g.ports(n, q)
	case tProtoWord:
		return g.protocolID(n, q)
	}
	switch n.word.kind {
	case tName, tObject:
		return g.named(n, q)
	case tNumber:
		return g.ipv4Number(n, q)
	}
	return g.ipv4(n, q)
}

func (g *generator) etherAddress(n *id, q qualifiers) (*condition, error) {
	if q.proto != pLink || q.kind != tHost && q.kind != tEnd {
		return nil, g.refuse("an Ethernet address goes with ether: ether host %s", n.word.text)
	}
	address, err := parseMAC(n.word.text)
	if err != nil {
		return nil, g.refuse("this is no Ethernet address; write six bytes, as 00:01:02:03:04:05")
	}
	return g.etherHost(address[:], q.direction)
}

// parseMAC reads an Ethernet address in any of the forms that the lexer lets through.
func parseMAC(text string) (address [6]byte, err error) {
	parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(":-.", r) })
	var digits strings.Builder
	for _, part := range parts {
		if len(part) == 1 {
			digits.WriteByte('0')
		}
		digits.WriteString(part)
	}
	_, err = hex.Decode(address[:], []byte(digits.String()))
	return address, err
}

// etherHost tests the addresses of the link layer.
func (g *generator) etherHost(address []byte, d direction) (*condition, error) {
	if g.link != onEthernet {
		return nil, g.refuse("there are no Ethernet addresses on this link, or behind pppoes")
	}
	inner := g.innerEthernet()
	c := directed(d, func(d direction) *condition {
		if d == source {
			return g.bytes(fromLinkHeader, 6, address)
		}
		return g.bytes(fromLinkHeader, 0, address)
	})
	return and(inner, c), nil
}

// directed joins the tests of source and destination as a direction wants it.
func directed(d direction, test func(direction) *condition) *condition {
	switch d {
	case both:
		return and(test(source), test(destination))
	case either:
		return or(test(source), test(destination))
	}
	return test(d)
}

// named tests for the addresses of a name.
func (g *generator) named(n *id, q qualifiers) (*condition, error) {
	switch {
	case q.kind == tNet:
		return nil, g.refuse("networks have no names here; write the network, as net 10.1.0.0/16")
	case q.proto == pLink:
		return nil, g.refuse("Ethernet addresses have no names here; write ether host 00:01:02:03:04:05")
	}
	addresses, err := g.resolve(n.word)
	if err != nil {
		return nil, err
	}
	var c *condition
	for _, a := range addresses {
		var next *condition
		switch {
		case a.Is4() && q.proto == pIP6, a.Is6() && (q.proto == pIP || q.proto == pARP || q.proto == pRARP):
			continue
		case a.Is4():
			next, err = g.ipv4Host(binary.BigEndian.Uint32(a.AsSlice()), 0xffffffff, q)
		default:
			next, err = g.ipv6Host(a.As16(), [16]byte(allOnes), q)
		}
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = next
		} else {
			c = or(c, next)
		}
	}
	if c == nil {
		return nil, g.refuse("this has no address of the IP version that stands before it")
	}
	return c, nil
}

var allOnes = []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")

// ipv4Number tests for an address given as one number: the whole address behind host, its first bytes behind net.
func (g *generator) ipv4Number(n *id, q qualifiers) (*condition, error) {
	if q.proto == pLink {
		return nil, g.refuse("this is no Ethernet address; write six bytes, as 00:01:02:03:04:05")
	}
	address, mask := n.word.value, uint32(0xffffffff)
	if q.kind == tNet {
		for address != 0 && address>>24 == 0 {
			address, mask = address<<8, mask<<8
		}
	}
	return g.ipv4Host(address, mask, q)
}

// ipv4 tests for a dotted address or network.
func (g *generator) ipv4(n *id, q qualifiers) (*condition, error) {
	address, bits, err := parseDotted(n.word)
	if err != nil {
		return nil, err
	}
	mask := uint32(0xffffffff) << (32 - bits)
	if n.mask == nil && n.length == nil {
		if q.proto == pLink {
			return nil, g.refuse("this is no Ethernet address; write six bytes, as 00:01:02:03:04:05")
		}
		return g.ipv4Host(address, mask, q)
	}
	if q.kind != tNet {
		return nil, g.refuse("a network goes with net, as net 10.1.0.0/16")
	}
	if n.mask != nil {
		if mask, _, err = parseDotted(*n.mask); err != nil {
			return nil, err
		}
	} else {
		if n.length.value > 32 {
			return nil, errorAt(*n.length, "an IPv4 network's prefix has at most 32 bits")
		}
		mask = uint32(uint64(0xffffffff) << (32 - n.length.value))
	}
	if address&^mask != 0 {
		network := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, address&mask)))
		return nil, g.refuse("bits are set outside of the mask; the network's address is %s", network)
	}
	return g.ipv4Host(address, mask, q)
}

// parseDotted reads two to four dotted decimal numbers as the first bytes of an address, and says how many bits they are.
func parseDotted(t token) (address uint32, bits int, err error) {
	parts := strings.Split(t.text, ".")
	for _, part := range parts {
		b, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return 0, 0, errorAt(t, "this is no IPv4 address: its parts are decimal numbers up to 255")
		}
		address = address<<8 | uint32(b)
	}
	bits = 8 * len(parts)
	return address << (32 - bits), bits, nil
}

// ipv4Host tests the addresses of IPv4, ARP and RARP.
func (g *generator) ipv4Host(address, mask uint32, q qualifiers) (*condition, error) {
	switch q.proto {
	case pDefault:
		c, err := g.ipv4In(etherIP, address, mask, q.direction)
		if err != nil || g.labels > 0 {
			return c, err
		}
		arp, err := g.ipv4In(etherARP, address, mask, q.direction)
		if err != nil {
			return nil, err
		}
		rarp, err := g.ipv4In(etherRARP, address, mask, q.direction)
		return or(or(c, arp), rarp), err
	case pIP:
		return g.ipv4In(etherIP, address, mask, q.direction)
	case pARP:
		return g.ipv4In(etherARP, address, mask, q.direction)
	case pRARP:
		return g.ipv4In(etherRARP, address, mask, q.direction)
	case pIP6:
		return nil, g.refuse("this is an IPv4 address behind ip6; leave out ip6, or write an IPv6 address")
	}
	return nil, g.refuseProtocol()
}

func (g *generator) refuseProtocol() error {
	return g.refuse("only ip, ip6, arp, rarp and ether have addresses; write for example tcp and host %s", g.word.text)
}

func (g *generator) ipv4In(link uint32, address, mask uint32, d direction) (*condition, error) {
	from, to := uint32(12), uint32(16)
	if link != etherIP {
		from, to = 14, 24
	}
	var failed error
	c := directed(d, func(d direction) *condition {
		protocol, err := g.linkProtocol(link)
		if err != nil {
			failed = err
			return nil
		}
		at := from
		if d == destination {
			at = to
		}
		return and(protocol, g.masked(fromPayload, at, sizeW, address, mask))
	})
	return c, failed
}

// ipv6 tests for an IPv6 address or network.
func (g *generator) ipv6(n *id, q qualifiers) (*condition, error) {
	address, err := netip.ParseAddr(n.word.text)
	if err != nil {
		return nil, g.refuse("this is no IPv6 address")
	}
	bits := 128
	if n.length != nil {
		if n.length.value > 128 {
			return nil, errorAt(*n.length, "an IPv6 network's prefix has at most 128 bits")
		}
		bits = int(n.length.value)
	}
	network := netip.PrefixFrom(address, bits).Masked().Addr()
	if address != network {
		return nil, g.refuse("bits are set behind the first %d; the network is %s/%d", bits, network, bits)
	}
	switch q.kind {
	case tHost, tEnd:
		if bits != 128 {
			return nil, g.refuse("a network goes with net: net %s/%d", n.word.text, bits)
		}
	case tNet:
	default:
		return nil, g.refuse("an IPv6 address cannot stand behind port, portrange or proto")
	}
	var mask [16]byte
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return g.ipv6Host(address.As16(), mask, q)
}

func (g *generator) ipv6Host(address, mask [16]byte, q qualifiers) (*condition, error) {
	switch q.proto {
	case pDefault, pIP6:
	case pLink:
		return nil, g.refuse("this is no Ethernet address; write six bytes, as 00:01:02:03:04:05")
	case pIP, pARP, pRARP:
		return nil, g.refuse("this is an IPv6 address behind a word for IPv4; leave that out, or write ip6")
	default:
		return nil, g.refuseProtocol()
	}
	var failed error
	c := directed(q.direction, func(d direction) *condition {
		at := uint32(8)
		if d == destination {
			at = 24
		}
		words := [4]*condition{}
		for i := 3; i >= 0; i-- {
			a, m := binary.BigEndian.Uint32(address[4*i:]), binary.BigEndian.Uint32(mask[4*i:])
			words[i] = g.masked(fromPayload, at+4*uint32(i), sizeW, a, m)
		}
		protocol, err := g.linkProtocol(etherIP6)
		if err != nil {
			failed = err
			return nil
		}
		return and(protocol, and(and(and(words[0], words[1]), words[2]), words[3]))
	})
	return c, failed
}

// protocolID tests for a protocol by number or name.
func (g *generator) protocolID(n *id, q qualifiers) (*condition, error) {
	number := n.word.value
	switch n.word.kind {
	case tName:
		var known map[string]uint32
		switch q.proto {
		case pLink:
			known = etherProtocols
		case pISO:
			known = isoProtocols
		case pDefault, pIP, pIP6:
			known = ipProtocols
		}
		var ok bool
		if number, ok = known[strings.TrimPrefix(n.word.text, `\`)]; !ok {
			return nil, g.refuse("this protocol's name is unknown here; write its number")
		}
	case tNumber:
	default:
		return nil, g.refuse("expected a protocol's number or name behind proto")
	}
	return g.carried(number, q.proto)
}
