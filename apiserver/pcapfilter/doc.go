// Package pcapfilter compiles filters in tcpdump's grammar, pcap-filter(7), to classic BPF for the kernel.
//
// A filter means what it means to tcpdump on a live Ethernet or raw IP device of Linux; tests compare the verdicts
// with tcpdump's over a corpus of expressions and packets. What is not the same is refused, with a reason: never
// is a filter taken and understood otherwise. docs/filters.md is for those who write filters and lists what is
// refused.
//
// # Grammar
//
//	filter    = [ expr ]
//	expr      = term { ("and" | "or") ( term | id ) }          both bind equally, from the left
//	term      = "not" term | "(" expr ")" | match | protocol | relation | special
//	match     = [ protocol ] ( direction [ type ] | type | "proto" ) ids
//	direction = "src" | "dst" | "src or dst" | "src and dst"
//	type      = "host" | "net" | "port" | "portrange"
//	ids       = id | "not" ids | "(" id { ("and" | "or") id } ")"
//	id        = address | address "/" bits | address "mask" mask | name | number | svc/name | pod/name
//	relation  = sum ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") sum
//	sum       = number | "len" | protocol "[" sum [ ":" size ] "]" | "-" sum | "(" sum ")" | sum operator sum
//	special   = [ protocol ] ("broadcast" | "multicast") | "less" n | "greater" n | "byte" n ("=" | "<" | ">") n
//	          | "inbound" | "outbound" | "ifindex" n | "vlan" [ n ] | "mpls" [ n ] | "pppoes" [ n ] | "pppoed"
//	          | "geneve" [ n ] | "llc" [ type ]
//
// An id without qualifiers of its own has those of the match before it. Of the operators | binds least, then &, then
// << and >>, then + and -, then * and /; what follows % or ^ is all theirs, as in tcpdump.
//
// # Differences from tcpdump
//
// Names of hosts are those of Services and Pods, which the caller resolves; those of ports and protocols are a fixed
// list (tables.go). tcpdump compiles these and we refuse them:
//
//   - ip broadcast: the network's mask is unknown to the server
//   - protochain: needs a loop, which the kernel does not run
//   - byte N & M and byte N | M: tcpdump forgets the load
//   - a comparison under the mask 0xffffffff: tcpdump takes it for always true
//   - vlan N where the frame's type is known already, as in ip and vlan 5: tcpdump makes a wrong jump
//   - arithmetic that comes out as a constant, where tcpdump then leaves out what a later test needs
//   - tests that are made where geneve did not match: tcpdump's program reads registers that nothing has set
//   - inbound, outbound and ifindex behind pppoes or geneve: tcpdump reads another field
//   - DECnet addresses, networks and Ethernet addresses by name, names of ports and protocols that are not in the list
//   - a range of ports with more than two numbers: tcpdump leaves out the third
//   - what exceeds the bounds below
//
// testdata/refusals.txt has an example of each, which tests give to both. With packets that are cut short within their
// headers verdicts depend on which test comes first, so the blocks and their order are tcpdump's, too: nearly all
// programs are the same instruction for instruction. The others give registers a value that tcpdump leaves unset.
//
// # How it works
//
// A text goes through these files, in this order:
//
//	lex.go       words, as tcpdump's scanner cuts them; token.go has the keywords
//	parse.go     a tree (tree.go), by recursive descent
//	generate.go  blocks that each end in a test (graph.go), with id.go and port.go for what stands behind
//	             qualifiers, protocols.go for protocols, special.go and geneve.go for primitives of their own,
//	             and arithmetic.go for relations; tables.go has the names of ports and protocols
//	optimize.go  fewer blocks and statements, with simplify.go for what happens inside a block
//	emit.go      a program, with long jumps where 8 bits are too few
//
// # Headers only
//
// proof.go decides whether a filter depends on headers only, while blocks are made. It does if every byte that it
// may look at, in any packet, is part of the link's header, VLAN tags, MPLS labels, PPPoE, ARP, the IP headers or
// the fixed part of TCP, UDP, SCTP (12 bytes), ICMP or ICMPv6 (8 bytes). It does not if it has one of these:
//
//   - bytes at a computed offset, as tcp[(tcp[12] >> 4) * 4]
//   - bytes behind the fixed part of a header, as tcp[20], udp[8:2], icmp[8], ip[20] or ether[14]
//   - bytes of a protocol that is not in the list, as igmp[0]
//   - bytes of a header without a test that the packet has it, which is so right of an operator: len + tcp[0]
//   - LLC frames (llc, stp, iso, ipx and the like), geneve, and IP behind mpls: nothing says for certain what is there
//   - a test behind vlan, mpls or pppoes that is made also if these did not match, as in vlan or port 80
//
// # Bounds
//
// A text has at most 64 KiB, nests at most 100 deep, names resolve to at most 512 addresses, a program has at most
// 4096 instructions, which is the kernel's limit, and the optimizer takes a bounded number of steps.
package pcapfilter
