package pcapfilter

// statement is an instruction that is no jump between blocks. A few blocks have jumps inside: those that
// look for a VLAN tag in two places, and those of Geneve.
type statement struct {
	code   uint16
	k      uint32
	jt, jf *statement // of a conditional jump inside the block
	gone   bool       // removed by the optimizer
}

// block is statements and a jump to two other blocks, or a return.
type block struct {
	statements []*statement
	code       uint16
	k          uint32
	word       token // what it was made from, for errors
	whenTrue   edge
	whenFalse  edge
	analysis
}

// edge leads from the block that it is part of to another.
type edge struct {
	from, to *block
	id       int
	code     int // the jump's, negative where it is the way of a test that failed
	next     *edge
	// dominators are the edges that every way to this one takes.
	dominators bits64
}

func (b *block) returns() bool { return b.code&classMask == classRET }

// condition is a test made of blocks, before it is known where they lead.
type condition struct {
	test        *block // or one of the following
	left, right *condition
	or          bool
	inverted    bool // the test, or both sides together
}

func leaf(b *block) *condition { return &condition{test: b} }

// and is left, and only if it is true right. Either may be nil and is left out then.
func and(left, right *condition) *condition {
	if left == nil {
		return right
	}
	if right == nil {
		return left
	}
	return &condition{left: left, right: right}
}

func or(left, right *condition) *condition {
	return &condition{left: left, right: right, or: true}
}

func not(c *condition) *condition {
	inverse := *c
	inverse.inverted = !c.inverted
	return &inverse
}

// first is the block that c begins with.
func (c *condition) first() *block {
	for c.test == nil {
		c = c.left
	}
	return c.test
}

// connect leads the blocks of c to the given ones.
func (c *condition) connect(whenTrue, whenFalse *block) {
	for {
		if c.inverted {
			whenTrue, whenFalse = whenFalse, whenTrue
		}
		if c.test != nil {
			c.test.whenTrue.to, c.test.whenFalse.to = whenTrue, whenFalse
			return
		}
		// The left side is the deep one; the right side is done first so that the loop goes left.
		c.right.connect(whenTrue, whenFalse)
		if c.or {
			whenFalse = c.right.first()
		} else {
			whenTrue = c.right.first()
		}
		c = c.left
	}
}
