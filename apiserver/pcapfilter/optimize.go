package pcapfilter

import "math/bits"

// The optimizer works as the one of the BSD packet filter does, because what tcpdump answers for a packet that is
// cut short depends on it: a load that is found to be needless no longer rejects a packet too short for it, and tests
// that are moved together make it look at one part of a packet before another. So the same reasoning is
// applied in the same order:
//
//  1. Blocks are ordered by level, their distance from the returns.
//  2. Every block's statements are evaluated symbolically: equal numbers stand for equal values.
//  3. An edge whose outcome is known from the edges that all ways to it share goes straight on.
//  4. Tests of a value that was loaded before are pulled up next to the first test of it.
//
// This is repeated until nothing changes, first for edges only and then also for statements: constants are folded,
// and what is known to be there already, or is never used, is not computed. At the end equal blocks become one.

// Registers as the analysis counts them: the scratch words, A and X.
const (
	registerA = scratchWords
	registerX = scratchWords + 1
	registers = scratchWords + 2
)

// analysis is what the optimizer knows of a block.
type analysis struct {
	id         int
	level      int
	reached    int // the last traversal that was here
	inward     *edge
	dominators bits64
	values     [registers]uint32 // at the block's end; 0 is unknown
	operand    uint32            // the value that A is compared with
	used       uint32            // registers used before they are set, here or later
	usedAfter  uint32
	killed     uint32
	same       *block // one that does the same, perhaps itself
}

type optimizer struct {
	first   *block
	blocks  []*block
	edges   []*edge
	levels  [][]*block
	visit   int
	changed bool
	// rewrote says that more than edges changed.
	rewrote   bool
	numbers   map[computation]uint32
	constants []constantValue
	alike     map[comparison]bits64
	last      uint32
	work      int
	careless  bool
	forgotten token
	failed    error
}

// computation is how a value comes about; equal computations have equal numbers.
type computation struct {
	code uint16
	a, b uint32
}

type constantValue struct {
	is    bool
	value uint32
}

const (
	// maxWork bounds the optimizer's steps, and so its time.
	maxWork = 3e8
	// statementWork is how many steps it takes to look at a statement. A pass may find that one of them is not needed, and
	// the next pass that so is the one before.
	statementWork = 8
)

// optimize returns the block that does with fewer instructions what first does. A register that a removed statement
// would have set has an unknown value from then on, and forgotten says which word that statement was for. libpcap
// 1.10.3 goes on as if it had been set, and so does a careless optimizer.
func optimize(first *block, careless bool) (optimized *block, forgotten token, err error) {
	o := &optimizer{first: first, careless: careless, numbers: map[computation]uint32{}, alike: map[comparison]bits64{}}
	o.visit++
	o.number(first)
	o.allocateSets()
	for _, statements := range []bool{false, true} {
		if err := o.repeat(statements); err != nil {
			return nil, token{}, err
		}
	}
	o.unify()
	if err := o.checkJumps(); err != nil {
		return nil, token{}, err
	}
	return o.skipFirst(), o.forgotten, nil
}

// checkJumps refuses what tcpdump gets wrong: it counts jumps inside a block as if no statement before their targets
// had been removed. That is so when the type of the frame is known before vlan N is tested.
func (o *optimizer) checkJumps() error {
	var err error
	o.downward(func(b *block) {
		removed := false
		jumps := 0
		for _, s := range b.statements {
			removed = removed || s.gone && jumps == 0
			if s.jt != nil {
				jumps++
			}
		}
		if removed && jumps > 0 {
			err = errorAt(b.word, "tcpdump gets this wrong behind a test of the frame's type, as ip: it misses the tags that the kernel has taken out of frames; write vlan first, as in vlan 5 and ip")
		}
	})
	return err
}

// number gives ids to blocks, each before those that it leads to.
func (o *optimizer) number(b *block) {
	if b == nil || b.reached == o.visit {
		return
	}
	b.reached = o.visit
	b.id = len(o.blocks)
	o.blocks = append(o.blocks, b)
	o.number(b.whenTrue.to)
	o.number(b.whenFalse.to)
}

func (o *optimizer) allocateSets() {
	n := len(o.blocks)
	o.edges = make([]*edge, 2*n)
	blockWords, edgeWords := words(n), words(2*n)
	blockSets := make(bits64, n*blockWords)
	edgeSets := make(bits64, 2*n*edgeWords)
	cut := func(sets *bits64, size int) bits64 {
		set := (*sets)[:size:size]
		*sets = (*sets)[size:]
		return set
	}
	for i, b := range o.blocks {
		b.dominators = cut(&blockSets, blockWords)
		b.whenTrue.from, b.whenTrue.id, b.whenTrue.dominators = b, i, cut(&edgeSets, edgeWords)
		b.whenFalse.from, b.whenFalse.id, b.whenFalse.dominators = b, n+i, cut(&edgeSets, edgeWords)
		o.edges[i], o.edges[n+i] = &b.whenTrue, &b.whenFalse
	}
	o.levels = make([][]*block, n)
}

// maxIdlePasses ends a cycle of passes that only move edges.
const maxIdlePasses = 100

func (o *optimizer) repeat(statements bool) error {
	for idle := 0; idle < maxIdlePasses; {
		o.changed, o.rewrote = false, false
		o.findLevels()
		o.findDominators()
		o.findUses()
		o.findEdgeDominators()
		o.pass(statements)
		switch {
		case o.failed != nil:
			return o.failed
		case o.work > maxWork:
			return errorAt(o.first.word, "the filter takes too long to compile; use networks (net 10.1.0.0/16) and ranges of ports (portrange 8000-8100) for single ones")
		case !o.changed:
			return nil
		case o.rewrote:
			idle = 0
		default:
			idle++
		}
	}
	return nil
}

func (o *optimizer) findLevels() {
	for i := range o.levels {
		o.levels[i] = o.levels[i][:0]
	}
	o.visit++
	o.level(o.first)
}

func (o *optimizer) level(b *block) {
	if b.reached == o.visit {
		return
	}
	b.reached = o.visit
	b.level = 0
	if b.whenTrue.to != nil {
		o.level(b.whenTrue.to)
		o.level(b.whenFalse.to)
		b.level = max(b.whenTrue.to.level, b.whenFalse.to.level) + 1
	}
	o.levels[b.level] = append(o.levels[b.level], b)
}

// downward calls f for every block, from the first to the returns. In each level the block that was found
// last comes first.
func (o *optimizer) downward(f func(*block)) {
	for level := o.first.level; level >= 0; level-- {
		o.inLevel(level, f)
	}
}

func (o *optimizer) inLevel(level int, f func(*block)) {
	for i := len(o.levels[level]) - 1; i >= 0; i-- {
		f(o.levels[level][i])
	}
}

// upward calls f for every block that is no return, from the last.
func (o *optimizer) upward(top int, f func(*block)) {
	for level := 1; level <= top; level++ {
		o.inLevel(level, f)
	}
}

func (o *optimizer) findDominators() {
	for _, b := range o.blocks {
		b.dominators.fill()
	}
	o.first.dominators.clear()
	o.downward(func(b *block) {
		b.dominators.add(b.id)
		if b.whenTrue.to != nil {
			b.whenTrue.to.dominators.intersect(b.dominators)
			b.whenFalse.to.dominators.intersect(b.dominators)
		}
	})
	o.work += 3 * len(o.blocks) * len(o.first.dominators)
}

func (o *optimizer) findEdgeDominators() {
	for _, e := range o.edges {
		e.dominators.fill()
	}
	o.first.whenTrue.dominators.clear()
	o.first.whenFalse.dominators.clear()
	pass := func(e *edge) {
		e.dominators.add(e.id)
		if e.to != nil {
			e.to.whenTrue.dominators.intersect(e.dominators)
			e.to.whenFalse.dominators.intersect(e.dominators)
		}
	}
	o.downward(func(b *block) {
		pass(&b.whenTrue)
		pass(&b.whenFalse)
	})
	o.work += 3 * len(o.edges) * len(o.first.whenTrue.dominators)
}

// use and define call f with the registers that a statement uses and sets.
func use(code uint16, k uint32, f func(register int)) {
	switch code & classMask {
	case classRET:
		return
	case classLD, classLDX:
		switch code & modeMask {
		case modeIND:
			f(registerX)
		case modeMEM:
			f(int(k))
		}
	case classST:
		f(registerA)
	case classSTX:
		f(registerX)
	case classMISC:
		if code == xToA {
			f(registerX)
		} else {
			f(registerA)
		}
	default:
		f(registerA)
		if code&sourceMask == sourceX {
			f(registerX)
		}
	}
}

func define(code uint16, k uint32) (register int, ok bool) {
	switch code & classMask {
	case classLD, classALU:
		return registerA, true
	case classLDX:
		return registerX, true
	case classST, classSTX:
		return int(k), true
	case classMISC:
		if code == aToX {
			return registerX, true
		}
		return registerA, true
	}
	return 0, false
}

func (o *optimizer) findUses() {
	o.downward(localUses)
	o.upward(o.first.level, func(b *block) {
		b.usedAfter = b.whenTrue.to.used | b.whenFalse.to.used
		b.used |= b.usedAfter &^ b.killed
	})
}

func localUses(b *block) {
	var defined, used, killed uint32
	mark := func(register int) {
		if defined&(1<<register) == 0 {
			used |= 1 << register
		}
	}
	for _, s := range b.statements {
		if s.gone {
			continue
		}
		use(s.code, s.k, mark)
		if register, ok := define(s.code, s.k); ok {
			if used&(1<<register) == 0 {
				killed |= 1 << register
			}
			defined |= 1 << register
		}
	}
	use(b.code, b.k, mark)
	b.used, b.killed, b.usedAfter = used, killed, 0
}

// pass does one round over all blocks.
func (o *optimizer) pass(statements bool) {
	top := o.first.level
	clear(o.numbers)
	o.constants, o.last = append(o.constants[:0], constantValue{}), 0
	o.findInward()
	o.downward(func(b *block) { o.evaluate(b, statements) })
	if statements || o.failed != nil {
		return
	}
	o.findAlike()
	o.upward(top, func(b *block) {
		o.shorten(&b.whenTrue)
		o.shorten(&b.whenFalse)
	})
	o.findInward()
	o.upward(top, func(b *block) {
		o.pullUp(b, orPart)
		o.pullUp(b, andPart)
	})
}

// findInward lists for every block the edges that lead to it.
func (o *optimizer) findInward() {
	for _, b := range o.blocks {
		b.inward = nil
	}
	link := func(e *edge) {
		e.next = e.to.inward
		e.to.inward = e
	}
	for level := o.first.level; level > 0; level-- {
		o.inLevel(level, func(b *block) {
			link(&b.whenTrue)
			link(&b.whenFalse)
		})
	}
}

// evaluate finds the values of all registers at a block's end, and if asked to simplifies its statements.
func (o *optimizer) evaluate(b *block, simplify bool) {
	b.values = [registers]uint32{}
	if e := b.inward; e != nil {
		b.values = e.from.values
		for e = e.next; e != nil; e = e.next {
			for i := range b.values {
				if b.values[i] != e.from.values[i] {
					b.values[i] = 0
				}
			}
		}
	}
	a, x := b.values[registerA], b.values[registerX]
	o.work += statementWork * len(b.statements)
	for _, s := range b.statements {
		o.statement(b, s, simplify)
	}
	nothingNew := b.usedAfter == 0 && a != 0 && b.values[registerA] == a && x != 0 && b.values[registerX] == x
	if simplify && (nothingNew || b.returns()) {
		if len(b.statements) != 0 {
			b.statements = nil
			o.rewritten()
		}
	} else {
		o.rewrite(b)
		o.dropDead(b)
	}
	b.operand = b.values[registerX]
	if b.code&sourceMask == sourceK {
		b.operand = o.constant(b.k)
	}
	b.whenTrue.code, b.whenFalse.code = int(b.code), -int(b.code)
}

func (o *optimizer) rewritten() { o.changed, o.rewrote = true, true }

// value returns the number of a computation's result.
func (o *optimizer) value(code uint16, a, b uint32) uint32 {
	c := computation{code, a, b}
	if v, ok := o.numbers[c]; ok {
		return v
	}
	o.last++
	o.constants = append(o.constants, constantValue{code == loadImmediate, a})
	o.numbers[c] = o.last
	return o.last
}

func (o *optimizer) constant(k uint32) uint32 { return o.value(loadImmediate, k, 0) }

// shorten leads an edge past tests whose outcome is known on it.
func (o *optimizer) shorten(e *edge) {
	if e.to.whenTrue.to == nil {
		return
	}
	if next := e.to.whenTrue.to; next == e.to.whenFalse.to && !conflict(e.from, next) {
		e.to = next
		o.rewritten()
	}
	for e.to.whenTrue.to != nil {
		next := o.known(e)
		if next == nil {
			return
		}
		e.to = next
		o.changed = true
	}
}

// known returns where the block that e leads to leads in turn, if that is known on e.
func (o *optimizer) known(e *edge) *block {
	alike := o.alike[e.to.comparison()]
	o.work += len(alike)
	for i, word := range alike {
		for word &= e.dominators[i]; word != 0; word &= word - 1 {
			o.work++
			next := outcome(e.to, o.edges[i*64+bits.TrailingZeros64(word)])
			if next != nil && !conflict(e.from, next) {
				return next
			}
		}
	}
	return nil
}

// comparison is what a block compares, and how.
type comparison struct {
	code  uint16
	value uint32
}

func (b *block) comparison() comparison { return comparison{b.code, b.values[registerA]} }

// findAlike groups edges by what the blocks that they leave compare.
func (o *optimizer) findAlike() {
	clear(o.alike)
	size := words(len(o.edges))
	o.upward(o.first.level, func(b *block) {
		c := b.comparison()
		if o.alike[c] == nil {
			o.alike[c] = make(bits64, size)
		}
		o.alike[c].add(b.whenTrue.id)
		o.alike[c].add(b.whenFalse.id)
	})
	o.work += len(o.alike) * size
}

// outcome returns where b leads if e was taken before, or nil if that does not follow. Both compare the same value.
func outcome(b *block, e *edge) *block {
	code, taken := e.code, true
	if code < 0 {
		code, taken = -code, false
	}
	switch {
	case b.operand == e.from.operand && taken:
		return b.whenTrue.to
	case b.operand == e.from.operand:
		return b.whenFalse.to
	case taken && code == jumpEqual: // it equals another constant
		return b.whenFalse.to
	}
	return nil
}

// conflict says that to uses a register that at its end does not have the value that it has at the end of from.
func conflict(from, to *block) bool {
	for used := to.usedAfter; used != 0; used &= used - 1 {
		if i := bits.TrailingZeros32(used); from.values[i] != to.values[i] {
			return true
		}
	}
	return false
}

// part says which way tests go that belong together: those of an or share where they go when true.
type part struct {
	shared, chained func(*block) *edge
}

func trueEdge(b *block) *edge  { return &b.whenTrue }
func falseEdge(b *block) *edge { return &b.whenFalse }

var (
	orPart  = part{shared: trueEdge, chained: falseEdge}
	andPart = part{shared: falseEdge, chained: trueEdge}
)

// pullUp moves a test of the value that is in A before b from further down its chain to where the chain turns
// to other values.
func (o *optimizer) pullUp(b *block, p part) {
	e := b.inward
	if e == nil {
		return
	}
	value := e.from.values[registerA]
	for e = e.next; e != nil; e = e.next {
		if e.from.values[registerA] != value {
			return
		}
	}
	belongs := func(e *edge) bool {
		return e.to != nil && p.shared(e.to).to == p.shared(b).to && e.to.dominators.has(b.id)
	}
	other, atTop := &b.inward.from.whenFalse, true
	if b.inward.from.whenTrue.to == b {
		other = &b.inward.from.whenTrue
	}
	for {
		if o.work++; !belongs(other) {
			return
		}
		if other.to.values[registerA] != value {
			break
		}
		other, atTop = p.chained(other.to), false
	}
	same := p.chained(other.to)
	for ; ; same = p.chained(same.to) {
		if o.work++; !belongs(same) {
			return
		}
		if same.to.values[registerA] == value {
			break
		}
	}
	pulled := same.to
	same.to = p.chained(pulled).to
	p.chained(pulled).to = other.to
	if atTop {
		for e := b.inward; e != nil; e = e.next {
			if e.from.whenTrue.to == b {
				e.from.whenTrue.to = pulled
			} else {
				e.from.whenFalse.to = pulled
			}
		}
	} else {
		other.to = pulled
	}
	o.changed = true
}

// unify makes one of blocks that do the same, from the returns up.
func (o *optimizer) unify() {
	o.findLevels()
	seen := map[string]*block{}
	for level := range o.first.level + 1 {
		o.inLevel(level, func(b *block) {
			for _, e := range []*edge{&b.whenTrue, &b.whenFalse} {
				if e.to != nil {
					e.to = e.to.same
				}
			}
			key := b.key()
			if seen[key] == nil {
				seen[key] = b
			}
			b.same = seen[key]
		})
	}
}

// skipFirst drops tests at the start that lead to one block, but keeps their statements.
func (o *optimizer) skipFirst() *block {
	b := o.first
	statements := b.statements
	b.statements = nil
	for !b.returns() && b.whenTrue.to == b.whenFalse.to {
		b = b.whenTrue.to
	}
	b.statements = append(statements, b.statements...)
	if b.returns() {
		b.statements = nil
	}
	return b
}
