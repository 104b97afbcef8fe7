package flows

// maxNames is how many different names of peers the history holds, of at most maxNameBytes each. Flows that would need
// more have none.
const (
	maxNames     = 16_384
	maxNameBytes = 255
)

// names holds each name once, for as long as a record has its number. Number 0 is no name.
type names struct {
	numbers map[string]uint32
	texts   []string
	uses    []int
	free    []uint32
}

func newNames() names {
	return names{numbers: map[string]uint32{}, texts: []string{""}, uses: []int{0}}
}

// take gives the number of a name, which the caller releases.
func (n *names) take(text string) uint32 {
	if text == "" || len(text) > maxNameBytes {
		return 0
	}
	number, ok := n.numbers[text]
	switch {
	case ok:
	case len(n.numbers) >= maxNames:
		return 0
	case len(n.free) > 0:
		number = n.free[len(n.free)-1]
		n.free = n.free[:len(n.free)-1]
	default:
		number = uint32(len(n.texts))
		n.texts, n.uses = append(n.texts, ""), append(n.uses, 0)
	}
	n.numbers[text], n.texts[number] = number, text
	n.uses[number]++
	return number
}

func (n *names) release(number uint32) {
	if number == 0 {
		return
	}
	if n.uses[number]--; n.uses[number] == 0 {
		delete(n.numbers, n.texts[number])
		n.texts[number] = ""
		n.free = append(n.free, number)
	}
}
