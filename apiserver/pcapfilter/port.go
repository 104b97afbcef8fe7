package pcapfilter

import (
	"strconv"
	"strings"
)

// ports compiles what stands behind port and portrange.
func (g *generator) ports(n *id, q qualifiers) (*condition, error) {
	var transport uint32
	switch q.proto {
	case pDefault:
		transport = anyTransport
	case pTCP:
		transport = ipTCP
	case pUDP:
		transport = ipUDP
	case pSCTP:
		transport = ipSCTP
	default:
		return nil, g.refuse("only tcp, udp and sctp have ports; write for example ip and port %s", n.word.text)
	}
	first, last, named, err := g.parsePorts(n.word, q.kind == tPortRange)
	if err != nil {
		return nil, err
	}
	if named != anyTransport && transport != anyTransport && named != transport {
		return nil, g.refuse("this is the name of a port of %s; write the number", map[uint32]string{ipTCP: "tcp", ipUDP: "udp"}[named])
	}
	if transport == anyTransport {
		transport = named
	}
	test := g.equalPort
	if q.kind == tPortRange {
		test = g.portBetween
	}
	four, err := g.portIn(etherIP, transport, q.direction, func(at uint32) *condition { return test(fromTransport4, at, first, last) })
	if err != nil {
		return nil, err
	}
	six, err := g.portIn(etherIP6, transport, q.direction, func(at uint32) *condition { return test(fromTransport6, at, first, last) })
	if err != nil {
		return nil, err
	}
	return or(six, four), nil
}

// parsePorts reads a port, or two with a hyphen between them, and what transport protocol their names are of.
func (g *generator) parsePorts(t token, isRange bool) (first, last, transport uint32, err error) {
	if t.kind == tNumber {
		if t.value > 65535 {
			return 0, 0, 0, g.refuse("ports are numbers up to 65535")
		}
		return t.value, t.value, anyTransport, nil
	}
	if t.kind != tName {
		return 0, 0, 0, g.refuse("expected a port's number or name")
	}
	text := strings.TrimPrefix(t.text, `\`)
	if !isRange {
		p, ok := ports[text]
		if !ok {
			if _, err := parseRange(text); err == nil {
				return 0, 0, 0, g.refuse("this is a range of ports; write portrange %s", text)
			}
			return 0, 0, 0, g.refuse("this port's name is unknown here; write its number%s", displayFilter(text))
		}
		return p.number, p.number, p.transport, nil
	}
	r, err := parseRange(text)
	if err != nil {
		return 0, 0, 0, g.refuse("expected a range of ports, as 8000-8100 or ftp-ssh")
	}
	if r[0].number > 65535 || r[1].number > 65535 {
		return 0, 0, 0, g.refuse("ports are numbers up to 65535")
	}
	if transport = r[0].transport; transport != r[1].transport {
		transport = anyTransport
	}
	return min(r[0].number, r[1].number), max(r[0].number, r[1].number), transport, nil
}

// parseRange reads two ports around the first hyphen. Their numbers are decimal, also with a leading zero, as in tcpdump.
func parseRange(text string) (r [2]namedPort, err error) {
	first, second, _ := strings.Cut(text, "-")
	for i, part := range []string{first, second} {
		if p, ok := ports[part]; ok {
			r[i] = p
			continue
		}
		number, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return r, err
		}
		r[i] = namedPort{number: uint32(number)}
	}
	return r, nil
}

func (g *generator) equalPort(from base, at, port, _ uint32) *condition {
	return g.equal(from, at, sizeH, port)
}

func (g *generator) portBetween(from base, at, first, last uint32) *condition {
	return and(g.atLeast(from, at, sizeH, first), not(g.greater(from, at, sizeH, last)))
}

// portIn tests ports in one IP version. In IPv4 it looks at first fragments only; in IPv6 at packets without
// extension headers, as tcpdump does.
func (g *generator) portIn(link, transport uint32, d direction, test func(at uint32) *condition) (*condition, error) {
	protocol, err := g.linkProtocol(link)
	if err != nil {
		return nil, err
	}
	of := func(transport uint32) *condition {
		ends := func() *condition {
			return directed(d, func(d direction) *condition {
				if d == destination {
					return test(2)
				}
				return test(0)
			})
		}
		if link == etherIP6 {
			return and(g.equal(fromPayload, 6, sizeB, transport), ends())
		}
		return and(and(g.equal(fromPayload, 9, sizeB, transport), g.firstFragment()), ends())
	}
	if transport != anyTransport {
		return and(protocol, of(transport)), nil
	}
	tcp, udp := of(ipTCP), of(ipUDP)
	return and(protocol, or(of(ipSCTP), or(tcp, udp))), nil
}

// firstFragment tests that an IPv4 packet is no fragment but a first one.
func (g *generator) firstFragment() *condition {
	return not(g.block(g.load(fromPayload, 6, sizeH), jumpSet, 0x1fff))
}
