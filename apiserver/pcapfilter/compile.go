package pcapfilter

import (
	"net/netip"

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
	// errors become part of the filter's, so they should say what to do. Zones of addresses are left out.
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
	g := newGenerator(o)
	if _, err := g.proof.checkMoves(tree); err != nil {
		return nil, err
	}
	first, err := g.graph(tree)
	if err != nil {
		return nil, err
	}
	if !g.unoptimized {
		if first, err = optimize(first); err != nil {
			return nil, err
		}
		if first.code == answer && first.k == 0 {
			return nil, errorAt(tree.at(), "this filter cannot match any packet")
		}
	}
	program := emit(first)
	if len(program) > maxProgram {
		return nil, errorAt(tree.at(), "the filter needs %d instructions and the kernel takes %d; use networks (net 10.1.0.0/16) and ranges of ports (portrange 8000-8100) for single ones", len(program), maxProgram)
	}
	return &Program{Instructions: program, HeadersOnly: g.proof.reaches == ""}, nil
}
