package pcapfilter

import (
	"strings"
)

// maxDepth bounds how deep parentheses, negations and indices nest.
const maxDepth = 100

// class is what a parsed operand may be used as. The grammar tells a bare id from a whole test only by what
// stands behind it.
type class int

const (
	aTest    class = iota // true or false by itself
	anID                  // an id
	aGroup                // ids in parentheses
	aNumber               // a number: an id, or part of an arithmetic expression
	aFormula              // an arithmetic expression that is no bare number
)

type parser struct {
	tokens []token
	next   int
	depth  int
}

// parse makes a tree of the text. It is nil for a text without tokens.
func parse(text string) (node, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, hint(err, text)
	}
	p := &parser{tokens: tokens}
	if p.peek().kind == tEnd {
		return nil, nil
	}
	n, c, err := p.chain()
	if err == nil && c != aTest {
		err = p.notATest(n, c)
	}
	if err == nil && p.peek().kind != tEnd {
		err = p.unexpected("and, or, or the end of the filter")
	}
	if err != nil {
		return nil, hint(err, text)
	}
	return n, nil
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != tEnd {
		p.next++
	}
	return t
}

// enter counts a level of nesting, which leave gives back.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return errorAt(p.peek(), "nested more than %d deep; write it flatter", maxDepth)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

// unexpected says what should have been where p is.
func (p *parser) unexpected(wanted string) error {
	t := p.peek()
	switch t.kind {
	case tRefused:
		return errorAt(t, "%s %s", t.text, t.reason)
	case tRuleNumber:
		return errorAt(t, "%s %s", t.text, onlyPF)
	case tAnd, tOr:
		return errorAt(t, "expected %s, before it", wanted)
	}
	return errorAt(t, "expected %s", wanted)
}

// notATest says why something that is neither true nor false cannot stand alone.
func (p *parser) notATest(n node, c class) error {
	if n == nil || c == aFormula {
		return p.unexpected("a comparison (=, !=, <, <=, > or >=) behind the number")
	}
	t := n.at()
	switch t.kind {
	case tName:
		return errorAt(t, "this is a name without a word that says of what; write host %s, port %s, or a protocol as tcp, udp, icmp or ip6%s", t.text, t.text, displayFilter(t.text))
	case tMAC:
		return errorAt(t, "expected a qualifier before the address; write ether host %s", t.text)
	}
	return errorAt(t, "expected a qualifier before it, as in host 10.1.2.3, net 10.1.0.0/16 or port 80")
}

// chain parses operands joined by and and or.
func (p *parser) chain() (node, class, error) {
	if err := p.enter(); err != nil {
		return nil, 0, err
	}
	defer p.leave()
	first, c, err := p.operand()
	if err != nil {
		return nil, 0, err
	}
	if k := p.peek().kind; k != tAnd && k != tOr {
		return first, c, nil
	}
	if c == aFormula {
		return nil, 0, p.notATest(first, c)
	}
	if c == aGroup {
		return nil, 0, errorAt(first.at(), "a list of addresses or ports cannot begin with a list in parentheses (tcpdump refuses it too); leave out the inner ones")
	}
	n := &chain{first: first}
	for p.peek().kind == tAnd || p.peek().kind == tOr {
		or := p.take().kind == tOr
		x, xc, err := p.operand()
		if err != nil {
			return nil, 0, err
		}
		if xc == aFormula {
			return nil, 0, p.notATest(x, xc)
		}
		if c != aTest && xc == aTest {
			return nil, 0, errorAt(x.at(), "in a list of addresses or ports only more of them can follow; close the parenthesis before it")
		}
		n.rest = append(n.rest, joined{or: or, x: x})
	}
	if c == aTest {
		return n, aTest, nil
	}
	return n, anID, nil
}

// operand parses what and, or and not apply to.
func (p *parser) operand() (node, class, error) {
	switch t := p.peek(); t.kind {
	case tNot:
		return p.negation(p.operand)
	case tName, tObject, tIPv4, tIPv6, tMAC:
		n, err := p.id()
		return n, anID, err
	case tNumber, tLen:
		return p.formula()
	case tSymbol:
		if t.text == "-" {
			return p.formula()
		}
		if t.text == "(" {
			return p.parentheses()
		}
	case tProto:
		if p.tokens[p.next+1].is("[") {
			return p.formula()
		}
		return p.protocol()
	case tSrc, tDst, tHost, tNet, tPort, tPortRange, tProtoWord:
		n, err := p.match(pDefault, t)
		return n, aTest, err
	case tLess, tGreater, tByte, tBroadcast, tMulticast, tInbound, tOutbound, tIfindex, tVLAN, tMPLS, tPPPoED, tPPPoES, tGeneve, tLLC:
		n, err := p.special(pDefault)
		return n, aTest, err
	}
	return nil, 0, p.unexpected("a test, as host 10.1.2.3, port 80, tcp or ip[8] < 5")
}

func (p *parser) negation(operand func() (node, class, error)) (node, class, error) {
	if err := p.enter(); err != nil {
		return nil, 0, err
	}
	defer p.leave()
	word := p.take()
	x, c, err := operand()
	if err != nil {
		return nil, 0, err
	}
	switch c {
	case aFormula:
		return nil, 0, p.notATest(x, c)
	case aTest:
		return &negation{word, x}, aTest, nil
	}
	return &negation{word, x}, anID, nil
}

// parentheses parses ( ... ), of which only the inside tells whether it is a test, ids or arithmetic.
func (p *parser) parentheses() (node, class, error) {
	open := p.take()
	x, c, err := p.chain()
	if err != nil {
		return nil, 0, err
	}
	if err := p.symbol(")", "a closing parenthesis, and or or"); err != nil {
		return nil, 0, err
	}
	switch c {
	case aNumber:
		return p.comparison(&constant{value: x.at().value, bare: true}, x.at())
	case aFormula:
		return p.comparison(x.(*formula).x, x.at())
	case aGroup:
		return nil, 0, errorAt(open, "too many parentheses around a list (tcpdump refuses it too); leave out these")
	case anID:
		return &grouping{open, x}, aGroup, nil
	}
	return &grouping{open, x}, aTest, nil
}

// formula carries an arithmetic expression while it is unknown whether a comparison follows.
type formula struct {
	word token
	x    arithmetic
}

func (n *formula) at() token { return n.word }

func (p *parser) symbol(symbol, wanted string) error {
	if !p.peek().is(symbol) {
		return p.unexpected(wanted)
	}
	p.take()
	return nil
}

// id parses one id, with what belongs to a network address.
func (p *parser) id() (node, error) {
	n := &id{word: p.take()}
	k := n.word.kind
	if p.peek().is("/") && (k == tIPv4 || k == tIPv6) {
		p.take()
		if p.peek().kind != tNumber {
			return nil, p.unexpected("the length of the network's prefix")
		}
		length := p.take()
		n.length = &length
	}
	if p.peek().is("/") && k == tName {
		return nil, errorAt(n.word, "before a slash only svc or pod can stand, as in host svc/web.shop")
	}
	if p.peek().kind == tMask && k == tIPv4 {
		p.take()
		if p.peek().kind != tIPv4 {
			return nil, p.unexpected("a dotted mask, as 255.255.0.0")
		}
		mask := p.take()
		n.mask = &mask
	}
	return n, nil
}

// ids parses what qualifiers apply to: an id, or ids in parentheses.
func (p *parser) ids() (node, class, error) {
	switch t := p.peek(); t.kind {
	case tNot:
		return p.negation(p.ids)
	case tName, tObject, tIPv4, tIPv6, tMAC:
		n, err := p.id()
		return n, anID, err
	case tNumber:
		p.take()
		return &id{word: t}, anID, nil
	}
	if t := p.peek(); t.text != "" && isAlphanumeric(t.text[0]) {
		return nil, 0, errorAt(t, `expected an address, name or number; %s is a word of the grammar, written \%s when something of that name is meant`, t.text, t.text)
	}
	if !p.peek().is("(") {
		return nil, 0, p.unexpected("an address, name or number")
	}
	n, c, err := p.parentheses()
	if err != nil {
		return nil, 0, err
	}
	if c == aTest || c == aFormula {
		return nil, 0, errorAt(n.at(), "expected an address, name or number, or a list of them in parentheses")
	}
	return n, c, nil
}

// protocol parses what begins with a protocol's keyword that is not indexed.
func (p *parser) protocol() (node, class, error) {
	word := p.take()
	switch p.peek().kind {
	case tSrc, tDst, tHost, tNet, tPort, tPortRange, tProtoWord:
		n, err := p.match(word.proto, word)
		return n, aTest, err
	case tBroadcast, tMulticast:
		n, err := p.special(word.proto)
		return n, aTest, err
	case tRefused:
		return nil, 0, p.unexpected("")
	case tName, tObject, tIPv4, tIPv6, tMAC, tNumber:
		return nil, 0, p.unexpected("host, net, port, portrange, proto, src or dst between the protocol and this")
	}
	return &abbreviation{word}, aTest, nil
}

// match parses qualifiers behind a protocol, and their ids.
func (p *parser) match(proto proto, word token) (node, error) {
	q := qualifiers{proto: proto, kind: tEnd}
	if k := p.peek().kind; k == tSrc || k == tDst {
		if err := p.direction(&q); err != nil {
			return nil, err
		}
	}
	switch k := p.peek().kind; k {
	case tHost, tNet, tPort, tPortRange:
		p.take()
		q.kind = k
	case tProtoWord:
		if q.directed {
			return nil, p.unexpected("host, net, port or portrange: a protocol has no direction")
		}
		p.take()
		q.kind = k
	}
	ids, _, err := p.ids()
	if err != nil {
		return nil, err
	}
	return &match{word, q, ids}, nil
}

// direction parses src, dst, or both of them joined.
func (p *parser) direction(q *qualifiers) error {
	first := p.take().kind
	q.directed, q.direction = true, source
	if first == tDst {
		q.direction = destination
	}
	joint := p.peek().kind
	if joint != tAnd && joint != tOr {
		return nil
	}
	p.take()
	if k := p.peek().kind; k == first || k != tSrc && k != tDst {
		return p.unexpected("the other direction, as in src or dst")
	}
	p.take()
	q.direction = both
	if joint == tOr {
		q.direction = either
	}
	return nil
}

// special parses a primitive with a keyword of its own, and what follows the keyword.
func (p *parser) special(proto proto) (node, error) {
	n := &special{word: p.take(), proto: proto}
	switch n.word.kind {
	case tLess, tGreater, tIfindex:
		if p.peek().kind != tNumber {
			return nil, p.unexpected("a number")
		}
		n.argument = p.take()
		n.number = n.argument.value
	case tVLAN, tMPLS, tPPPoES, tGeneve:
		return n, p.optionalNumber(n)
	case tLLC:
		if k := p.peek().kind; k == tName || k == tRuleNumber {
			n.argument = p.take()
		}
	case tByte:
		return n, p.byteTest(n)
	}
	return n, nil
}

// optionalNumber parses the number that vlan, mpls, pppoes and geneve may have, which may stand in parentheses.
func (p *parser) optionalNumber(n *special) error {
	open := 0
	for ; p.peek().is("("); open++ {
		p.take()
	}
	if p.peek().kind == tNumber {
		n.argument = p.take()
		n.number = n.argument.value
	} else if open > 0 {
		return p.unexpected("a number")
	}
	for ; open > 0; open-- {
		if err := p.symbol(")", "a closing parenthesis"); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) byteTest(n *special) error {
	if p.peek().kind != tNumber {
		return p.unexpected("the number of a byte")
	}
	n.argument = p.take()
	n.number = n.argument.value
	operator := p.take()
	n.operator = operator.text
	switch {
	case operator.is("&") || operator.is("|"):
		return errorAt(operator, "tcpdump compiles this to a test of whatever it loaded last; write ether[%d] %s NUMBER != 0", n.number, operator.text)
	case !operator.is("=") && !operator.is("<") && !operator.is(">"):
		p.next--
		return p.unexpected("=, < or >")
	}
	if p.peek().kind != tNumber {
		return p.unexpected("a number")
	}
	n.value = p.take().value
	return nil
}

// formula parses an arithmetic expression, and a comparison if one follows.
func (p *parser) formula() (node, class, error) {
	word := p.peek()
	x, err := p.binary(0)
	if err != nil {
		return nil, 0, err
	}
	return p.compare(x, word)
}

// comparison continues an arithmetic expression whose first operand, in parentheses, is parsed already.
func (p *parser) comparison(first arithmetic, word token) (node, class, error) {
	x, err := p.continueBinary(first, 0)
	if err != nil {
		return nil, 0, err
	}
	return p.compare(x, word)
}

func (p *parser) compare(x arithmetic, word token) (node, class, error) {
	t := p.peek()
	if t.kind == tSymbol {
		switch t.text {
		case "=", "==", "!=", "<", "<=", ">", ">=":
			p.take()
			right, err := p.binary(0)
			return &relation{t, x, right}, aTest, err
		}
	}
	if c, ok := x.(*constant); ok && c.bare {
		word.kind, word.value = tNumber, c.value
		return &id{word: word}, aNumber, nil
	}
	return &formula{word, x}, aFormula, nil
}

// How tightly operators bind. As in tcpdump, % and ^ have no place in this order: their right side is
// everything that follows.
var precedence = map[string]int{"|": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5}

const unaryPrecedence = 6

// binary parses an arithmetic expression of operators that bind tighter than one of the given precedence.
func (p *parser) binary(above int) (arithmetic, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.unary()
	if err != nil {
		return nil, err
	}
	return p.continueBinary(x, above)
}

func (p *parser) continueBinary(x arithmetic, above int) (arithmetic, error) {
	for {
		t := p.peek()
		level := precedence[t.text]
		unordered := t.is("%") || t.is("^")
		if t.kind != tSymbol || !unordered && level <= above {
			return x, nil
		}
		p.take()
		right, err := p.binary(level) // 0 when unordered
		if err != nil {
			return nil, err
		}
		x = &calculation{t, x, right}
	}
}

func (p *parser) unary() (arithmetic, error) {
	t := p.peek()
	switch {
	case t.kind == tNumber:
		p.take()
		return &constant{value: t.value, bare: true}, nil
	case t.kind == tLen:
		p.take()
		return &packetLength{}, nil
	case t.is("-"):
		p.take()
		x, err := p.binary(unaryPrecedence)
		return &minus{x}, err
	case t.is("("):
		p.take()
		x, err := p.binary(0)
		if err != nil {
			return nil, err
		}
		return x, p.symbol(")", "a closing parenthesis or an operator")
	case t.kind == tProto && p.tokens[p.next+1].is("["):
		return p.accessor()
	}
	return nil, p.unexpected("a number, len, or bytes of the packet as tcp[13]")
}

// accessor parses proto[index] and proto[index:size].
func (p *parser) accessor() (arithmetic, error) {
	n := &accessor{word: p.take(), size: 1}
	p.take()
	var err error
	if n.index, err = p.binary(0); err != nil {
		return nil, err
	}
	if p.peek().is(":") {
		p.take()
		size := p.peek()
		if size.kind != tNumber {
			return nil, p.unexpected("how many bytes: 1, 2 or 4")
		}
		if p.take(); size.value != 1 && size.value != 2 && size.value != 4 {
			return nil, errorAt(size, "expected 1, 2 or 4 bytes")
		}
		n.size = size.value
	}
	return n, p.symbol("]", "a closing bracket, an operator, or a colon and a number of bytes")
}

const displayFilterHint = "; is this a Wireshark display filter? The capture filter for tcp.port == 80 is tcp port 80"

// displayFilter returns a hint if a name looks like a field of Wireshark's display filters.
func displayFilter(name string) string {
	field, _, dotted := strings.Cut(name, ".")
	if _, ok := protoWords[field]; dotted && ok || field == "http" || field == "dns" || field == "tls" || field == "frame" || field == "eth" {
		return displayFilterHint
	}
	return ""
}

// hint adds to an error what a text as a whole suggests.
func hint(err error, text string) error {
	e, ok := err.(*Error)
	if !ok || strings.Contains(e.Message, displayFilterHint) {
		return err
	}
	if lower := strings.ToLower(e.Token); lower != e.Token && known(lower) {
		e.Message += "; keywords are written in lower case: " + lower
	}
	return e
}

func known(word string) bool {
	_, plain := plainWords[word]
	_, isProto := protoWords[word]
	return plain || isProto
}
