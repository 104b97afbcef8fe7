package pcapfilter

// bits64 is a set of small numbers.
type bits64 []uint64

func words(n int) int { return (n + 63) / 64 }

func (b bits64) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits64) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits64) clear()         { clear(b) }

func (b bits64) fill() {
	for i := range b {
		b[i] = ^uint64(0)
	}
}

func (b bits64) intersect(with bits64) {
	for i, word := range with {
		b[i] &= word
	}
}
