package flows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conntrack asks the node's connection tracking, over ctnetlink, what address translation made of a peer. Its zero
// value is ready; its methods must not overlap.
type conntrack struct {
	socket   int // 0 while it is not open
	sequence uint32
	buffer   []byte
	retry    time.Time // when it is worth asking again after it did not work
}

const (
	// conntrackRetry is the pause after asking did not work.
	conntrackRetry = time.Minute
	// together is how many questions are sent at a time. Their answers have to fit into the socket's buffer.
	together = 32
)

// From linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	ctnetlinkNew = 1 << 8 // NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW
	ctnetlinkGet = 1<<8 | 1

	ctaTupleOrig, ctaTupleReply            = 1, 2
	ctaTupleIP, ctaTupleProto              = 1, 2
	ctaV4Src, ctaV4Dst, ctaV6Src, ctaV6Dst = 1, 2, 3, 4
	ctaProtoNum, ctaSrcPort, ctaDstPort    = 1, 2, 3

	nested = unix.NLA_F_NESTED
)

// A tuple is a packet's addresses and ports, as connection tracking sees one direction of a connection.
type tuple struct{ source, destination netip.AddrPort }

// open makes the socket, in the calling thread's network namespace: the node's.
func (c *conntrack) open() error {
	// Asking would make the kernel load what tracks connections. Whoever does without shall not get it from us.
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_count"); errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel tracks no connections")
	}
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("opening a ctnetlink socket: %w", err)
	}
	err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(socket)
		return fmt.Errorf("preparing a ctnetlink socket: %w", err)
	}
	c.socket = socket
	c.buffer = make([]byte, 16<<10)
	return nil
}

func (c *conntrack) close() {
	if c.socket != 0 {
		unix.Close(c.socket)
		c.socket = 0
	}
}

// lookup asks about tuples, at most together of them, and gives both directions of each connection that is known to
// answer, by the number of the tuple.
func (c *conntrack) lookup(tuples []tuple, protocols []uint16, answer func(i int, original, reply tuple)) error {
	if c.socket == 0 {
		if err := c.open(); err != nil {
			return err
		}
	}
	first := c.sequence + 1
	message := c.buffer[:0]
	for i, t := range tuples {
		message = appendQuestion(message, t, protocols[i], first+uint32(i))
	}
	c.sequence += uint32(len(tuples))
	if err := unix.Sendto(c.socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking conntrack: %w", err)
	}
	for awaited := len(tuples); awaited > 0; {
		n, _, err := unix.Recvfrom(c.socket, c.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("awaiting conntrack's answer: %w", err)
		}
		for header, body := range messages(c.buffer[:n]) {
			i := int(header.Seq - first)
			if i < 0 || i >= len(tuples) {
				continue // an answer to a question that was given up
			}
			awaited--
			if err := readAnswer(header.Type, body, func(original, reply tuple) { answer(i, original, reply) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendQuestion appends a request for the connection that a tuple belongs to, in either direction.
func appendQuestion(b []byte, t tuple, protocol uint16, sequence uint32) []byte {
	start := len(b)
	family, source, destination := uint8(unix.AF_INET), uint16(ctaV4Src), uint16(ctaV4Dst)
	if t.source.Addr().Is6() {
		family, source, destination = unix.AF_INET6, ctaV6Src, ctaV6Dst
	}
	b = append(b, make([]byte, unix.SizeofNlMsghdr)...)
	b = append(b, family, 0, 0, 0) // struct nfgenmsg: version 0, resource 0
	both, b := beginNested(b, ctaTupleOrig)
	inner, b := beginNested(b, ctaTupleIP)
	b = appendAddress(b, source, t.source.Addr())
	b = appendAddress(b, destination, t.destination.Addr())
	endNested(b, inner)
	inner, b = beginNested(b, ctaTupleProto)
	b = appendAttribute(b, ctaProtoNum, uint8(protocol))
	b = appendPort(b, ctaSrcPort, t.source.Port())
	b = appendPort(b, ctaDstPort, t.destination.Port())
	endNested(b, inner)
	endNested(b, both)
	header := b[start:]
	binary.NativeEndian.PutUint32(header, uint32(len(header)))
	binary.NativeEndian.PutUint16(header[4:], ctnetlinkGet)
	binary.NativeEndian.PutUint16(header[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(header[8:], sequence)
	return b
}

// beginNested begins an attribute of others, which endNested ends, given where it starts.
func beginNested(b []byte, kind uint16) (start int, appended []byte) {
	start = len(b)
	b = binary.NativeEndian.AppendUint16(b, 0)
	return start, binary.NativeEndian.AppendUint16(b, kind|nested)
}

func endNested(b []byte, start int) { binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start)) }

func appendAddress(b []byte, kind uint16, address netip.Addr) []byte {
	if address.Is4() {
		bytes := address.As4()
		return appendAttribute(b, kind, bytes[:]...)
	}
	bytes := address.As16()
	return appendAttribute(b, kind, bytes[:]...)
}

func appendPort(b []byte, kind, port uint16) []byte {
	return appendAttribute(b, kind, uint8(port>>8), uint8(port))
}

func appendAttribute(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// messages are those of a netlink datagram. One that is cut ends it.
func messages(b []byte) iter.Seq2[unix.NlMsghdr, []byte] {
	return func(yield func(unix.NlMsghdr, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			header := unix.NlMsghdr{
				Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Seq: binary.NativeEndian.Uint32(b[8:]),
			}
			if header.Len < unix.SizeofNlMsghdr || uint64(header.Len) > uint64(len(b)) {
				return
			}
			if !yield(header, b[unix.SizeofNlMsghdr:header.Len]) {
				return
			}
			b = b[min(len(b), int(header.Len+3)&^3):]
		}
	}
}

// readAnswer reads the body of a message. A connection that is not known is no error, and gives no answer.
func readAnswer(kind uint16, body []byte, answer func(original, reply tuple)) error {
	switch kind {
	case unix.NLMSG_ERROR:
		if len(body) < 4 {
			return errors.New("conntrack's answer is cut")
		}
		number := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		if number != 0 && number != unix.ENOENT {
			return fmt.Errorf("conntrack refuses to answer: %w", number)
		}
	case ctnetlinkNew:
		if original, reply, ok := decodeConnection(body); ok {
			answer(original, reply)
		}
	}
	return nil
}

// decodeConnection finds both tuples in the body of a ctnetlink message; ok is false where one is missing or cut.
func decodeConnection(body []byte) (original, reply tuple, ok bool) {
	if len(body) < 4 {
		return original, reply, false
	}
	var both [2]bool
	for kind, value := range attributes(body[4:]) {
		switch kind {
		case ctaTupleOrig:
			original, both[0] = decodeTuple(value)
		case ctaTupleReply:
			reply, both[1] = decodeTuple(value)
		}
	}
	return original, reply, both[0] && both[1]
}

func decodeTuple(b []byte) (tuple, bool) {
	var source, destination netip.Addr
	var sourcePort, destinationPort uint16
	for kind, value := range attributes(b) {
		for inner, value := range attributes(value) {
			switch {
			case kind == ctaTupleIP && (inner == ctaV4Src || inner == ctaV6Src):
				source, _ = netip.AddrFromSlice(value)
			case kind == ctaTupleIP && (inner == ctaV4Dst || inner == ctaV6Dst):
				destination, _ = netip.AddrFromSlice(value)
			case kind == ctaTupleProto && inner == ctaSrcPort && len(value) == 2:
				sourcePort = binary.BigEndian.Uint16(value)
			case kind == ctaTupleProto && inner == ctaDstPort && len(value) == 2:
				destinationPort = binary.BigEndian.Uint16(value)
			}
		}
	}
	t := tuple{netip.AddrPortFrom(source, sourcePort), netip.AddrPortFrom(destination, destinationPort)}
	return t, source.IsValid() && destination.IsValid()
}

// attributes are those of a netlink message or of an attribute that nests others. One that is cut ends them.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			length := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if length < 4 || length > len(b) || !yield(kind, b[4:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// realPeer says who the peer is, of packets that go from t.source to t.destination in the pod's eyes: whose address
// stands in the other direction, if it is another one.
func realPeer(t, original, reply tuple) (netip.AddrPort, bool) {
	peer := t.destination
	switch t {
	case original:
		peer = reply.source // the pod began; behind a Service there is another pod
	case tuple{reply.source, reply.destination}:
		peer = original.source // the peer began; it may be behind the node's address
	}
	return peer, peer != t.destination
}

func (k *key) tuple() tuple {
	return tuple{
		netip.AddrPortFrom(k.address(k.local), binary.BigEndian.Uint16(k.localPort[:])),
		netip.AddrPortFrom(k.address(k.remote), binary.BigEndian.Uint16(k.remotePort[:])),
	}
}

// address is one of the key's, IPv4 or IPv6 as the flow is.
func (k *key) address(a [16]byte) netip.Addr {
	if k.version == 4 {
		return netip.AddrFrom16(a).Unmap()
	}
	return netip.AddrFrom16(a)
}

// translate asks conntrack about flows, and notes the answers. It is called by who drains.
func (c *Collector) translate(questions []question) {
	if len(questions) == 0 || time.Now().Before(c.conntrack.retry) {
		return
	}
	var err error
	for len(questions) > 0 && err == nil {
		some := questions[:min(len(questions), together)]
		questions = questions[len(some):]
		err = c.translateSome(some)
	}
	if err != nil {
		c.conntrack.close()
		c.conntrack.retry = time.Now().Add(conntrackRetry)
	}
	c.mu.Lock()
	c.untracked = err
	c.mu.Unlock()
}

func (c *Collector) translateSome(questions []question) error {
	var tuples [together]tuple
	var protocols [together]uint16
	var peers [together]netip.AddrPort
	for i := range questions {
		tuples[i], protocols[i] = questions[i].tuple(), questions[i].protocol
	}
	err := c.conntrack.lookup(tuples[:len(questions)], protocols[:], func(i int, original, reply tuple) {
		if peer, ok := realPeer(tuples[i], original, reply); ok {
			peers[i] = peer
		}
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, q := range questions {
		r := &c.history.records[q.number]
		if r.position != q.position {
			continue // it has left the history meanwhile
		}
		r.state |= asked
		if peers[i].IsValid() {
			r.translated = peers[i].Addr().As16()
			binary.BigEndian.PutUint16(r.translatedPort[:], peers[i].Port())
			c.changed(q.number)
		}
	}
	return nil
}
