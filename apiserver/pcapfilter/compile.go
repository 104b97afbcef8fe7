package pcapfilter

import (
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Link is what packets begin with.
type Link int

const (
	// Ethernet is for interfaces whose frames have an Ethernet header: veth, bridge, macvlan, loopback.
	Ethernet Link = iota
	// RawIP is for interfaces whose packets begin with an IP header: tun, ipip, WireGuard.
	RawIP
)

// Options are what a filter means beside its text.
type Options struct {
	// Link is of the interfaces that the filter is for.
	Link Link
	// SnapLen is how many bytes of a packet the program asks for when it accepts; 0 is the most, 262144.
	SnapLen uint32
	// Resolve returns the addresses of a name. Names are refused if it is nil. It is called once per name; its
	// errors become part of the filter's, so they should say what to do. Order, repetitions and zones do not matter.
	Resolve func(Name) ([]netip.Addr, error)
}

// Program is a compiled filter.
type Program struct {
	// Instructions are valid for the kernel's SO_ATTACH_FILTER.
	Instructions []bpf.RawInstruction
	// HeadersOnly says that the answer is proven to depend on headers, the packet's length and the kernel's
	// metadata only, whatever the packet: see doc.go. Where it is false, counts of matches tell about payload.
	HeadersOnly bool
}

// MaxText is the longest filter, in bytes.
const MaxText = 64 << 10

const defaultSnapLen = 262144

// Compile compiles a filter. The empty text accepts everything. Errors are *Error.
func Compile(text string, o Options) (*Program, error) {
	if o.SnapLen == 0 {
		o.SnapLen = defaultSnapLen
	}
	if len(text) > MaxText {
		return nil, &Error{Offset: MaxText, Message: "the filter is longer than 65536 bytes; use networks and ranges of ports"}
	}
	tree, err := parse(text)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		return &Program{Instructions: []bpf.RawInstruction{{Op: answer, K: o.SnapLen}}, HeadersOnly: true}, nil
	}
	return compile(tree, o)
}

func compile(tree node, o Options) (*Program, error) {
	g := newGenerator(o)
	if _, err := g.proof.checkMoves(tree); err != nil {
		return nil, err
	}
	program, forgotten, err := g.program(tree, false)
	if err != nil {
		return nil, err
	}
	if forgotten.kind != tEnd {
		// What tcpdump does in that case is not always right.
		again := newGenerator(o)
		again.resolved = g.resolved
		careless, _, err := again.program(tree, true)
		if err != nil || !slices.Equal(program, careless) {
			return nil, errorAt(forgotten, "tcpdump gets this arithmetic wrong: it takes for known what it has left out; compute less from constants, or write this test last")
		}
	}
	if len(program) > maxProgram {
		return nil, errorAt(tree.at(), "the filter needs %d instructions and the kernel takes %d; use networks (net 10.1.0.0/16) and ranges of ports (portrange 8000-8100) for single ones", len(program), maxProgram)
	}
	return &Program{Instructions: program, HeadersOnly: g.proof.reaches == ""}, nil
}

// program makes instructions of a tree. If the optimizer forgot a value, it returns the word that was for.
func (g *generator) program(tree node, careless bool) (program []bpf.RawInstruction, forgotten token, err error) {
	first, err := g.graph(tree)
	if err != nil {
		return nil, token{}, err
	}
	if g.unoptimized {
		return emit(first), token{}, nil
	}
	if first, forgotten, err = optimize(first, careless); err != nil {
		return nil, token{}, err
	}
	if first.code == answer && first.k == 0 {
		return nil, token{}, errorAt(tree.at(), "this filter cannot match any packet")
	}
	return emit(first), forgotten, nil
}
