package pcapfilter

// A node is a part of a filter that is true or false of a packet: an expression of tcpdump's grammar, or an id
// (an address, a name or a number) that means something together with the qualifiers before it.
type node interface{ at() token }

// chain is operands joined by and and or. Both bind equally, from left to right.
type chain struct {
	first node
	rest  []joined
}

type joined struct {
	or bool
	x  node
}

// negation is not x.
type negation struct {
	word token
	x    node
}

// grouping is ( x ). After it, bare ids take their qualifiers from before it and not from inside.
type grouping struct {
	open token
	x    node
}

// match is qualifiers and the ids that they apply to.
type match struct {
	word token // the first qualifier
	q    qualifiers
	ids  node
}

// abbreviation is a protocol's keyword alone.
type abbreviation struct{ word token }

// special is a primitive that has a keyword of its own.
type special struct {
	word     token
	proto    proto // before broadcast and multicast
	number   uint32
	argument token  // behind the keyword, where one may be; tEnd if it is not there
	operator string // of byte
	value    uint32 // of byte
}

// relation compares two arithmetic expressions.
type relation struct {
	operator    token
	left, right arithmetic
}

// id is an address, name or number behind qualifiers.
type id struct {
	word   token
	length *token // behind a slash
	mask   *token // behind the word mask
}

func (n *chain) at() token        { return n.first.at() }
func (n *negation) at() token     { return n.word }
func (n *grouping) at() token     { return n.open }
func (n *match) at() token        { return n.word }
func (n *abbreviation) at() token { return n.word }
func (n *special) at() token      { return n.word }
func (n *relation) at() token     { return n.operator }
func (n *id) at() token           { return n.word }

// arithmetic is a number computed from a packet.
type arithmetic interface{}

// constant is a number; bare while it is written as a number alone, perhaps in parentheses.
type constant struct {
	value uint32
	bare  bool
}

// packetLength is len.
type packetLength struct{}

// minus is - x.
type minus struct{ x arithmetic }

// calculation is left operator right.
type calculation struct {
	operator    token
	left, right arithmetic
}

// accessor is proto[index:size].
type accessor struct {
	word  token
	index arithmetic
	size  uint32
}

// direction is which end of a packet an id is compared with.
type direction int

const (
	either direction = iota // src or dst, also when nothing is said
	source
	destination
	both
)

// qualifiers are what stands before an id.
type qualifiers struct {
	proto     proto
	direction direction
	kind      kind // tHost, tNet, tPort, tPortRange, tProtoWord, or tEnd when nothing is said
	directed  bool // a direction is written
}
