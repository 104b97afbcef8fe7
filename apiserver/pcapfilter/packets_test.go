package pcapfilter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// What packets have in their fields and what generated expressions ask for come from the same short lists, so
// that both answers are frequent.
var (
	someIPv4   = []string{"10.1.2.3", "10.1.2.4", "10.1.3.3", "10.2.0.1", "192.168.1.1", "1.2.3.4", "224.0.0.1", "255.255.255.255", "0.0.0.0"}
	someIPv6   = []string{"2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fe80::1", "ff02::1", "::1", "::ffff:10.1.2.3"}
	someMAC    = []string{"00:01:02:03:04:05", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"}
	somePorts  = []uint16{22, 53, 80, 443, 1000, 1001, 2000, 6081, 8080, 65535, 0}
	someVLANs  = []uint16{0, 1, 3, 5, 100, 4095}
	someLabels = []uint32{0, 5, 6, 1024, 1048575}
)

// fabric makes packets from random numbers.
type fabric struct {
	*rand.Rand
	p *packet
}

func one[T any](r interface{ IntN(int) int }, list []T) T { return list[r.IntN(len(list))] }

// makePackets returns n packets, the same for the same seed.
func makePackets(n int, seed uint64) []*packet {
	f := &fabric{Rand: rand.New(rand.NewPCG(seed, 1))}
	all := make([]*packet, n)
	for i := range all {
		all[i] = f.packet()
	}
	return all
}

func (f *fabric) chance(percent int) bool { return f.IntN(100) < percent }

func (f *fabric) packet() *packet {
	f.p = &packet{outgoing: f.chance(40), ifindex: uint32(f.IntN(6))}
	f.mac()
	f.mac()
	f.tags()
	f.network()
	f.bytes(f.IntN(40))
	p := f.p
	if f.chance(20) {
		p.kind += " cut"
		p.data = p.data[:f.IntN(len(p.data)+1)]
	}
	if f.chance(10) && len(p.data) > 0 {
		p.kind += " garbled"
		for range 1 + f.IntN(4) {
			p.data[f.IntN(len(p.data))] = byte(f.Uint32())
		}
	}
	return p
}

func (f *fabric) add(b ...byte)    { f.p.data = append(f.p.data, b...) }
func (f *fabric) short(v uint16)   { f.p.data = binary.BigEndian.AppendUint16(f.p.data, v) }
func (f *fabric) long(v uint32)    { f.p.data = binary.BigEndian.AppendUint32(f.p.data, v) }
func (f *fabric) is(kind string)   { f.p.kind += " " + kind }
func (f *fabric) address(a string) { f.add(netip.MustParseAddr(a).AsSlice()...) }

func (f *fabric) bytes(n int) {
	for range n {
		f.add(byte(f.Uint32()))
	}
}

func (f *fabric) mac() {
	address, _ := parseMAC(one(f, someMAC))
	f.add(address[:]...)
}

// tags adds VLAN tags, beside the frame as the kernel leaves them, in it, or both.
func (f *fabric) tags() {
	if f.chance(25) {
		f.is("tag-beside")
		f.p.tagged, f.p.tag = true, one(f, someVLANs)|uint16(f.IntN(16))<<12
	}
	if !f.chance(25) {
		return
	}
	for range 1 + f.IntN(3) {
		f.is("tag")
		f.short(one(f, []uint16{etherVLAN, etherQinQ, etherOldQinQ}))
		f.short(one(f, someVLANs) | uint16(f.IntN(16))<<12)
	}
}

// network adds the type field and what it says.
func (f *fabric) network() {
	switch n := f.IntN(100); {
	case n < 35:
		f.short(etherIP)
		f.ipv4()
	case n < 60:
		f.short(etherIP6)
		f.ipv6()
	case n < 68:
		f.arp()
	case n < 76:
		f.mpls()
	case n < 84:
		f.pppoe()
	case n < 92:
		f.llc()
	case n < 97:
		f.is("other")
		f.short(one(f, []uint16{etherLoopback, etherMOPDL, etherMOPRC, etherDECnet, etherLAT, etherSCA, etherIPX, etherAppleTalk, etherAARP, 0x88cc, 0x1234}))
	default:
		f.is("random")
		f.bytes(2)
	}
}

func (f *fabric) ipv4() {
	f.is("ip")
	words := 5
	if f.chance(20) {
		f.is("options")
		words = 5 + f.IntN(11)
	} else if f.chance(5) {
		f.is("short-header")
		words = f.IntN(5)
	}
	fragment := uint16(0)
	if f.chance(20) {
		f.is("fragment")
		fragment = uint16(f.IntN(8)) << 13
		if f.chance(60) {
			fragment |= uint16(1 + f.IntN(0x1fff))
		}
	}
	f.add(0x40|byte(words), byte(f.IntN(4)))
	f.short(uint16(20 + f.IntN(100)))
	f.short(uint16(f.Uint32()))
	f.short(fragment)
	protocol := f.protocol()
	f.add(byte(f.IntN(255)), protocol)
	f.short(uint16(f.Uint32()))
	f.address(one(f, someIPv4))
	f.address(one(f, someIPv4))
	f.bytes(4 * max(0, words-5))
	f.transport(protocol)
}

func (f *fabric) protocol() byte {
	return one(f, []byte{ipTCP, ipTCP, ipTCP, ipUDP, ipUDP, ipUDP, ipSCTP, ipICMP, ipICMP6, ipIGMP, ipIGRP, ipESP, ipAH, ipPIM, ipVRRP, 47, 4, 41, 59, 0})
}

func (f *fabric) ipv6() {
	f.is("ip6")
	f.add(0x60, byte(f.Uint32()), byte(f.Uint32()), byte(f.Uint32()))
	f.short(uint16(f.IntN(100)))
	var chain []byte
	for f.chance(30) && len(chain) < 4 {
		chain = append(chain, one(f, []byte{0, 43, ipFragment, ipFragment, 60, ipAH}))
	}
	chain = append(chain, f.protocol())
	f.add(chain[0], byte(f.IntN(255)))
	f.address6()
	f.address6()
	for i, header := range chain[:len(chain)-1] {
		f.is("extension")
		f.add(chain[i+1], 0)
		if header == ipFragment {
			f.short(uint16(f.IntN(3)) << 3)
			f.bytes(4)
		} else {
			f.bytes(6)
		}
	}
	f.transport(chain[len(chain)-1])
}

func (f *fabric) address6() { f.add(netip.MustParseAddr(one(f, someIPv6)).AsSlice()...) }

func (f *fabric) transport(protocol byte) {
	switch protocol {
	case ipTCP:
		f.is("tcp")
		f.short(one(f, somePorts))
		f.short(one(f, somePorts))
		f.bytes(8)
		words := 5 + f.IntN(4)
		f.add(byte(words)<<4, byte(f.IntN(256)))
		f.bytes(6 + 4*(words-5))
	case ipUDP:
		f.is("udp")
		f.udp()
	case ipSCTP:
		f.is("sctp")
		f.short(one(f, somePorts))
		f.short(one(f, somePorts))
		f.bytes(8)
	case ipICMP:
		f.is("icmp")
		f.add(byte(f.IntN(19)), byte(f.IntN(4)))
		f.bytes(6)
	case ipICMP6:
		f.is("icmp6")
		f.add(one(f, []byte{1, 2, 3, 128, 129, 133, 135, 143}), byte(f.IntN(4)))
		f.bytes(6)
	default:
		f.bytes(8)
	}
}

func (f *fabric) udp() {
	to := one(f, somePorts)
	f.short(one(f, somePorts))
	f.short(to)
	f.short(uint16(8 + f.IntN(40)))
	f.bytes(2)
	if to == genevePort && f.chance(90) {
		f.tunnel()
	}
}

// tunnel adds a Geneve header and a frame or packet in it.
func (f *fabric) tunnel() {
	f.is("geneve")
	words := f.IntN(3)
	version := byte(0)
	if f.chance(5) {
		version = 0x40
	}
	f.add(version|byte(words), 0)
	frame := f.chance(60)
	kind := one(f, []uint16{etherIP, etherIP6, 0x1234})
	if frame {
		f.short(etherBridging)
	} else {
		f.short(kind)
	}
	f.long(one(f, []uint32{0, 5, 7, 0xffffff}) << 8)
	f.bytes(4 * words)
	if frame {
		f.mac()
		f.mac()
		f.short(kind)
	}
	f.inner(kind)
}

// inner adds a packet that is behind something else, never a tunnel.
func (f *fabric) inner(kind uint16) {
	if len(f.p.data) > 250 {
		return
	}
	switch kind {
	case etherIP:
		f.ipv4()
	case etherIP6:
		f.ipv6()
	}
}

func (f *fabric) arp() {
	f.is("arp")
	f.short(one(f, []uint16{etherARP, etherARP, etherRARP}))
	f.add(0, 1, 8, 0, 6, 4, 0, byte(f.IntN(5)))
	f.mac()
	f.address(one(f, someIPv4))
	f.mac()
	f.address(one(f, someIPv4))
}

func (f *fabric) mpls() {
	f.short(etherMPLS)
	for labels := 1 + f.IntN(3); labels > 0; labels-- {
		f.is("mpls")
		last := uint32(0)
		if labels == 1 || f.chance(5) {
			last = 0x100
		}
		f.long(one(f, someLabels)<<12 | last | uint32(f.IntN(256)))
	}
	f.inner(one(f, []uint16{etherIP, etherIP, etherIP6, 0}))
}

func (f *fabric) pppoe() {
	f.is("pppoe")
	if f.chance(20) {
		f.short(etherPPPoED)
		return
	}
	f.short(etherPPPoES)
	f.add(0x11, 0)
	f.short(one(f, []uint16{5, 7, 39, 65535}))
	f.short(uint16(f.IntN(100)))
	kind := one(f, []uint16{etherIP, etherIP, etherIP6, etherDECnet, etherAppleTalk, sapISO, sapIPX})
	f.short(uint16(pppTypes[uint32(kind)]))
	f.inner(kind)
}

func (f *fabric) llc() {
	f.is("llc")
	f.short(uint16(f.IntN(maxLength + 1)))
	switch f.IntN(6) {
	case 0:
		f.add(sapSTP, sapSTP, 3)
	case 1:
		f.add(sapISO, sapISO, 3, one(f, []byte{isoCLNP, isoESIS, isoISIS, isoISIS}), 27, 1, 0, byte(15+f.IntN(13)))
	case 2:
		f.short(0xffff)
	case 3:
		f.add(sapSNAP, sapSNAP, 3)
		f.add(one(f, [][]byte{{8, 0, 7, 0x80, 0x9b}, {0, 0, 0, 0x80, 0xf3}, {0, 0, 0, 0x81, 0x37}, {0, 0, 0, 8, 0}})...)
	default:
		f.add(one(f, []byte{sapIPX, sapNetBEUI, sapIP, sapISO}))
		f.add(one(f, []byte{sapIPX, sapNetBEUI, sapIP, sapISO}))
		f.add(one(f, []byte{0x00, 0x01, 0x03, 0x05, 0x09, 0x63, 0x43, 0x6f, 0xe3, 0xaf, 0x87}))
	}
}

// headerEnd is where payload begins in a frame, by what its headers say and however little of it is there.
func headerEnd(frame []byte) int {
	at, kind := 12, uint16(0)
	read := func(at int) (uint16, bool) {
		if at+2 > len(frame) {
			return 0, false
		}
		return binary.BigEndian.Uint16(frame[at:]), true
	}
	for {
		k, ok := read(at)
		if !ok {
			return len(frame)
		}
		at, kind = at+2, k
		if kind != etherVLAN && kind != etherQinQ && kind != etherOldQinQ {
			break
		}
		at += 2
	}
	switch kind {
	case etherMPLS:
		for ; at+4 <= len(frame) && frame[at+2]&1 == 0; at += 4 {
		}
		return min(at+4, len(frame))
	case etherPPPoED:
		return at
	case etherPPPoES:
		ppp, ok := read(at + 6)
		if !ok {
			return len(frame)
		}
		at += 8
		kind = map[uint16]uint16{0x21: etherIP, 0x57: etherIP6}[ppp]
	}
	return min(at+networkHeaders(frame[at:], kind), len(frame))
}

func networkHeaders(b []byte, kind uint16) int {
	transport := map[byte]int{ipTCP: 20, ipUDP: 8, ipSCTP: 12, ipICMP: 8, ipICMP6: 8}
	switch {
	case kind == etherARP || kind == etherRARP:
		return 28
	case kind == etherIP && len(b) < 20 || kind == etherIP6 && len(b) < 40:
		return len(b)
	case kind == etherIP:
		end := int(b[0]&15) * 4
		if binary.BigEndian.Uint16(b[6:])&0x1fff == 0 && b[9] != ipICMP6 {
			end += transport[b[9]]
		}
		return max(20, end)
	case kind == etherIP6 && b[6] == ipFragment:
		return 48
	case kind == etherIP6 && b[6] != ipICMP:
		return 40 + transport[b[6]]
	case kind == etherIP6:
		return 40
	}
	return 0
}

// withPayload returns p with other bytes behind its headers.
func (p *packet) withPayload(r *rand.Rand) *packet {
	other := *p
	other.data = slices.Clone(p.data)
	for i := headerEnd(p.data); i < len(other.data); i++ {
		other.data[i] = byte(r.Uint32())
	}
	return &other
}
