package pcapfilter

import (
	"fmt"
)

// writer writes expressions of the grammar, as numbers from elsewhere decide: from a generator or a fuzzer.
type writer struct {
	pick  func(n int) int
	depth int
}

// choices returns a picker that reads bytes, and picks the first of everything when they are used up.
func choices(data []byte) func(int) int {
	return func(n int) int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b) % n
	}
}

func (w *writer) IntN(n int) int { return w.pick(n) }

func (w *writer) of(list ...string) string { return list[w.pick(len(list))] }

// expression writes tests joined by and and or.
func (w *writer) expression() string {
	w.depth++
	defer func() { w.depth-- }()
	text := w.operand()
	for w.depth < 4 && w.pick(5) >= 3 {
		text += w.of(" and ", " or ", " && ", " || ")
		if w.pick(6) == 0 {
			text += w.bareID()
		} else {
			text += w.operand()
		}
	}
	return text
}

func (w *writer) operand() string {
	switch w.pick(12) {
	case 0:
		return w.of("not ", "! ") + w.operand0()
	case 1:
		if w.depth < 4 {
			return "(" + w.expression() + ")"
		}
	}
	return w.operand0()
}

func (w *writer) operand0() string {
	switch w.pick(16) {
	case 0, 1, 2:
		return w.host()
	case 3, 4, 5:
		return w.ports()
	case 6:
		return w.of("ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "igrp", "pim", "ah", "esp", "vrrp", "carp",
			"stp", "ipx", "netbeui", "iso", "atalk", "aarp", "decnet", "lat", "sca", "moprc", "mopdl", "isis", "esis", "clnp", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp")
	case 7:
		return w.of("ip proto ", "ip6 proto ", "proto ") + w.of("6", "17", `\tcp`, `\udp`, "132", "44", "gre", "58", "ipv6-icmp", "0", "(6 or 17)")
	case 8:
		return w.of("ether proto ", "ether proto ", "iso proto ", "isis proto ") + w.of("0x800", `\ip`, `\ip6`, `\arp`, "0x86dd", `\stp`, "0x42", "0xfe", "15", `\isis`, "1501", "0x8847")
	case 9:
		return w.of("broadcast", "multicast", "ether broadcast", "ether multicast", "ip multicast", "ip6 multicast")
	case 10:
		return w.of("inbound", "outbound", "less 60", "greater 60", "less 100", "greater 100", "ifindex 3", "byte 0 = 1", "byte 12 < 8", "byte 23 > 6", "llc", "llc i", "llc s", "llc u", "llc rr", "llc xid", "llc rnr")
	case 11:
		return w.encapsulation()
	case 12:
		return w.of("ether", "ether src", "ether dst", "ether src or dst", "ether src and dst") + " " + w.of("host ", "host ") + one(w, someMAC)
	}
	return w.relation()
}

func (w *writer) encapsulation() string {
	switch w.pick(5) {
	case 0, 1:
		return w.of("vlan", "vlan", "vlan 3", "vlan 5", "vlan 100")
	case 2:
		return w.of("mpls", "mpls 5", "mpls 1024")
	case 3:
		return w.of("pppoes", "pppoed", "pppoes 7")
	}
	return w.of("geneve", "geneve 5", "geneve 7")
}

func (w *writer) direction() string {
	return w.of("", "", "src ", "dst ", "src or dst ", "src and dst ", "dst or src ", "dst and src ")
}

func (w *writer) ipv4() string { return one(w, someIPv4) }

func (w *writer) net() string {
	return w.of("10.1.0.0/16", "10.0.0.0/8", "10.1.2.0/24", "10.1", "10", "192.168.1.0/30", "0.0.0.0/0", "10.1.0.0 mask 255.255.0.0", "224.0.0.0/4", "10.1.2.3",
		"2001:db8::/32", "2001:db8::/48", "fe80::/10", "::/0", "2001:db8::1/128", "2001:db8:1::/64")
}

func (w *writer) host() string {
	switch w.pick(6) {
	case 0, 1:
		return w.direction() + "net " + w.net()
	case 2:
		return w.of("ip ", "arp ", "rarp ") + w.direction() + "host " + w.ipv4()
	case 3:
		return w.of("", "ip6 ") + w.direction() + "host " + one(w, someIPv6)
	case 4:
		return w.direction() + "host (" + w.ipv4() + w.of(" or ", " and ") + w.ipv4() + ")"
	}
	return w.direction() + "host " + w.ipv4()
}

func (w *writer) port() string {
	if w.pick(4) == 0 {
		return w.of("http", "https", "domain", "ssh", "ntp", "0x50", "bootps")
	}
	return fmt.Sprint(one(w, somePorts))
}

func (w *writer) ports() string {
	transport := w.of("", "", "tcp ", "udp ", "sctp ")
	switch w.pick(4) {
	case 0:
		return transport + w.direction() + "portrange " + w.of("1000-2000", "53-443", "443-53", "1001", "ssh-http", "0-65535", "80-80")
	case 1:
		return transport + w.direction() + "port (" + w.port() + w.of(" or ", " and ") + w.port() + ")"
	}
	return transport + w.direction() + "port " + w.port()
}

// bareID writes an id that takes its qualifiers from what is before it, which often has none.
func (w *writer) bareID() string {
	return w.of("", "", "not ") + w.of(w.ipv4(), "80", "443", one(w, someIPv6), "(80 or 53)", "10.1.2.4")
}

func (w *writer) relation() string {
	return w.arithmetic() + w.of(" = ", " == ", " != ", " < ", " <= ", " > ", " >= ", "=", ">") + w.arithmetic()
}

func (w *writer) arithmetic() string {
	w.depth++
	defer func() { w.depth-- }()
	if w.depth > 4 || w.pick(3) > 0 {
		return w.term()
	}
	switch w.pick(8) {
	case 0:
		return "(" + w.arithmetic() + ")"
	case 1:
		return "- " + w.term()
	}
	return w.term() + w.of(" + ", " - ", " * ", " / ", " % ", " & ", " & ", " | ", " ^ ", " << ", " >> ", "+", "&") + w.arithmetic()
}

func (w *writer) term() string {
	switch w.pick(6) {
	case 0, 1:
		return w.of("0", "1", "2", "5", "0xf", "0x0f", "017", "6", "17", "80", "255", "0xffff", "0x0a010203", "0xffffffff", "64", "tcp-syn", "tcp-ack", "icmp-echo", "icmp6-echo", "31", "32")
	case 2:
		return w.of("len", "length")
	}
	protocol := w.of("ip", "ip", "ip6", "tcp", "tcp", "udp", "ether", "icmp", "icmp6", "arp", "sctp", "igmp", "pim", "link", "vrrp", "carp", "atalk", "decnet", "rarp")
	index := w.of("0", "0", "1", "2", "4", "6", "8", "9", "12", "13", "16", "19", "20", "40", "100", "tcpflags", "icmptype", "icmpcode", "icmp6type")
	if w.depth < 3 && w.pick(8) == 0 {
		index = w.arithmetic()
	}
	return protocol + "[" + index + w.of("", "", ":1", ":2", ":4") + "]"
}
