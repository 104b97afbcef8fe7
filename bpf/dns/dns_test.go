package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Messages and packets are put together from pieces, as on the wire.

const (
	typeA, typeTXT, typeAAAA = 1, 16, 28
	response                 = 0x80 // the first byte of flags
)

// name is a name as on the wire.
func name(text string) []byte {
	var wire []byte
	for label := range strings.SplitSeq(text, ".") {
		if label != "" {
			wire = append(append(wire, byte(len(label))), label...)
		}
	}
	return append(wire, 0)
}

func question(name []byte, kind uint16) []byte {
	return append(binary.BigEndian.AppendUint16(slices.Clone(name), kind), 0, 1)
}

// message is a header with sections that follow it.
func message(id uint16, flags, code byte, questions int, rest ...[]byte) []byte {
	header := binary.BigEndian.AppendUint16(nil, id)
	header = append(header, flags, code)
	header = binary.BigEndian.AppendUint16(header, uint16(questions))
	return slices.Concat(append([][]byte{header, make([]byte, 6)}, rest...)...)
}

func query(id uint16, text string, kind uint16) []byte {
	return message(id, 1, 0, 1, question(name(text), kind))
}

func answer(id uint16, text string, kind uint16, code byte) []byte {
	return message(id, response|1, 0x80|code, 1, question(name(text), kind))
}

// prefixed is a message as TCP carries it.
func prefixed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

// An end is one of the pod that the tests are about.
type end struct {
	pod     uint64
	ipv6    bool
	tcp     bool
	options int // words of IPv4 and TCP options
	port    uint16
}

const (
	ethernetLength        = 14
	protocolTCP, protoUDP = 6, 17
)

// seen is struct inspection.
type seen struct {
	Pod                     uint64
	Network, Transport, End uint32
	EtherType               [2]byte
	Protocol, Direction     uint8
}

// packet is a frame with a payload to (transmit) or from port 53, and what bpf/traffic would say of it.
func (e end) packet(payload []byte, transmit bool) ([]byte, seen) {
	ports := [2]uint16{53, e.port}
	if transmit {
		ports = [2]uint16{e.port, 53}
	}
	return e.between(ports, payload, transmit)
}

func (e end) between(ports [2]uint16, payload []byte, transmit bool) ([]byte, seen) {
	transport := binary.BigEndian.AppendUint16(nil, ports[0])
	transport = binary.BigEndian.AppendUint16(transport, ports[1])
	s := seen{Pod: e.pod, Network: ethernetLength, Protocol: protoUDP, EtherType: [2]byte{0x08, 0}}
	if e.tcp {
		s.Protocol = protocolTCP
		transport = append(transport, make([]byte, 16+4*e.options)...)
		transport[12] = byte(5+e.options) << 4
	} else {
		transport = binary.BigEndian.AppendUint16(transport, uint16(8+len(payload)))
		transport = append(transport, 0, 0)
	}
	addresses := [2]byte{1, 2}
	if transmit {
		addresses, s.Direction = [2]byte{2, 1}, 1
	}
	var network []byte
	if e.ipv6 {
		network = make([]byte, 40)
		network[0], network[6], network[8], network[23], network[24], network[39] = 0x60, s.Protocol, 0xfd, addresses[0], 0xfd, addresses[1]
		s.EtherType = [2]byte{0x86, 0xdd}
	} else {
		network = make([]byte, 20+4*e.options)
		network[0], network[9], network[12], network[15], network[16], network[19] = 0x45+byte(e.options), s.Protocol, 10, addresses[0], 10, addresses[1]
	}
	frame := append(make([]byte, 12), s.EtherType[:]...)
	frame = slices.Concat(frame, network, transport, payload)
	s.Transport, s.End = uint32(ethernetLength+len(network)), uint32(len(frame))
	return frame, s
}

// A node has the programs and their maps, pinned nowhere.
type node struct {
	t     testing.TB
	maps  map[string]*ebpf.Map
	iface *ebpf.Program
	sweep *ebpf.Program
}

func newNode(t testing.TB) *node {
	t.Helper()
	return newNodeWith(t, true)
}

func newNodeWith(t testing.TB, names bool) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	specs, err := MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	specs["inspection"] = headers.MapSpecs()["inspection"]
	n := &node{t: t, maps: map[string]*ebpf.Map{}}
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		n.maps[name] = m
	}
	n.iface, n.sweep = n.load(Interface, names), n.load(Sweep, names)
	return n
}

func (n *node) load(program Program, names bool) *ebpf.Program {
	n.t.Helper()
	loaded, err := Load(program, n.maps, names)
	if err != nil {
		n.t.Fatalf("%+v", err)
	}
	n.t.Cleanup(func() { loaded.Close() })
	return loaded
}

// run hands a frame to the program for interfaces, cut off at a length.
func (n *node) run(frame []byte, s seen) {
	n.t.Helper()
	n.tell(s)
	verdict, err := n.iface.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		n.t.Fatal(err)
	}
	if verdict != ^uint32(0) {
		n.t.Errorf("the program answers %d", verdict)
	}
}

// inPacket is struct __sk_buff as far as PROG_TEST_RUN takes it, with what programs on cgroups read.
func (s seen) inPacket() any {
	return struct {
		_       [48]byte
		Control [5]uint32
		_       [124]byte
	}{Control: [5]uint32{
		uint32(s.Pod), uint32(s.Pod >> 32), s.Transport, s.End,
		uint32(binary.LittleEndian.Uint16(s.EtherType[:])) | uint32(s.Protocol)<<16 | uint32(s.Direction)<<24,
	}}
}

func (n *node) tell(s seen) {
	n.t.Helper()
	entry := make([]byte, n.maps["inspection"].ValueSize())
	if _, err := binary.Encode(entry, binary.LittleEndian, s); err != nil {
		n.t.Fatal(err)
	}
	var all [][]byte
	for range ebpf.MustPossibleCPU() {
		all = append(all, entry)
	}
	if err := n.maps["inspection"].Put(uint32(0), all); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) send(e end, payload []byte)    { n.t.Helper(); n.run(e.packet(payload, true)) }
func (n *node) receive(e end, payload []byte) { n.t.Helper(); n.run(e.packet(payload, false)) }

func (n *node) pod(number uint64) Pod {
	n.t.Helper()
	var pod Pod
	if err := n.maps[Pods].Lookup(number, &pod); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		n.t.Fatal(err)
	}
	return pod
}

// events are all that are in the ring buffer.
func (n *node) events() (events []Event) {
	n.t.Helper()
	reader, err := ringbuf.NewReader(n.maps[Events])
	if err != nil {
		n.t.Fatal(err)
	}
	defer reader.Close()
	reader.SetDeadline(time.Unix(1, 0))
	for {
		record, err := reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events
		}
		if err != nil {
			n.t.Fatal(err)
		}
		var e Event
		if _, err := binary.Decode(record.RawSample, binary.LittleEndian, &e); err != nil {
			n.t.Fatal(err)
		}
		events = append(events, e)
	}
}

// A count is what a pod's counters say, without zeros.
type count struct {
	queries                                    map[uint16]uint64
	responses                                  map[[2]uint16]uint64 // by type and code
	answered, unanswered, unparsed, lost, open uint64
}

const others = 65535

func (n *node) count(number uint64) count {
	n.t.Helper()
	pod := n.pod(number)
	c := count{
		queries: map[uint16]uint64{}, responses: map[[2]uint16]uint64{},
		unanswered: pod.Unanswered, unparsed: pod.Unparsed, lost: pod.Lost, open: pod.Pending,
	}
	for place := range pod.Queries {
		kind := uint16(others)
		if place < Types {
			kind = uint16(pod.TypeMarks[place])
		}
		if pod.Queries[place] > 0 {
			c.queries[kind] = pod.Queries[place]
		}
		for code, responses := range pod.Responses[place] {
			if responses > 0 {
				c.responses[[2]uint16{kind, uint16(code)}] = responses
			}
		}
	}
	for _, values := range pod.Latency.Counts {
		c.answered += values
	}
	return c
}

func (n *node) expect(number uint64, want count) {
	n.t.Helper()
	if want.queries == nil {
		want.queries = map[uint16]uint64{}
	}
	if want.responses == nil {
		want.responses = map[[2]uint16]uint64{}
	}
	got := n.count(number)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		n.t.Errorf("counted %+v, want %+v", got, want)
	}
}

var ends = map[string]end{
	"IPv4 UDP":              {pod: 7, port: 40000},
	"IPv6 UDP":              {pod: 7, port: 40000, ipv6: true},
	"IPv4 UDP with options": {pod: 7, port: 40000, options: 10},
	"IPv4 TCP":              {pod: 7, port: 40000, tcp: true},
	"IPv6 TCP":              {pod: 7, port: 40000, tcp: true, ipv6: true},
	"IPv4 TCP with options": {pod: 7, port: 40000, tcp: true, options: 10},
}

func (e end) wrap(message []byte) []byte {
	if e.tcp {
		return prefixed(message)
	}
	return message
}

func TestLayout(t *testing.T) {
	specs, err := MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := unsafe.Sizeof(Pod{}), uintptr(specs[Pods].ValueSize); got != want {
		t.Errorf("Pod has %d bytes, the kernel's %d", got, want)
	}
	if got := slices.Sorted(maps.Keys(specs)); len(got) != 5 {
		t.Errorf("maps %v", got)
	}
}

func TestExchange(t *testing.T) {
	for label, e := range ends {
		for _, code := range []byte{0, 2, 3, 5, 15} {
			t.Run(fmt.Sprintf("%s/code %d", label, code), func(t *testing.T) {
				n := newNode(t)
				n.send(e, e.wrap(query(99, "Kubernetes.default.SVC", typeAAAA)))
				n.expect(7, count{queries: map[uint16]uint64{typeAAAA: 1}, open: 1})
				reply := answer(99, "kubernetes.DEFAULT.svc", typeAAAA, code)
				n.receive(e, e.wrap(reply))
				n.expect(7, count{
					queries: map[uint16]uint64{typeAAAA: 1}, responses: map[[2]uint16]uint64{{typeAAAA, uint16(code)}: 1}, answered: 1,
				})
				events := n.events()
				if len(events) != 1 {
					t.Fatalf("%d events", len(events))
				}
				got := events[0]
				if got.Pod != 7 || got.Kind != Answered || got.Type != typeAAAA || got.Code != code ||
					got.Latency != n.pod(7).Latency.SumNanoseconds || !bytes.Equal(got.Message[:got.Length], reply) {
					t.Errorf("event %+v", got)
				}
			})
		}
	}
}

// What is in a pod's packets, one after the other, and what is then counted.
func TestMessages(t *testing.T) {
	long := strings.Repeat("a", 63)
	longest := strings.Join([]string{long, long, long, long[:61]}, ".") // 255 bytes on the wire
	udp := ends["IPv4 UDP"]
	tcp := ends["IPv4 TCP"]
	one := map[uint16]uint64{typeA: 1}
	noError := func(kind uint16) map[[2]uint16]uint64 { return map[[2]uint16]uint64{{kind, 0}: 1} }
	for label, test := range map[string]struct {
		end      end
		sent     [][]byte
		received [][]byte
		want     count
	}{
		"the root":                             {end: udp, sent: [][]byte{query(1, "", typeA)}, want: count{queries: one, open: 1}},
		"the longest label":                    {end: udp, sent: [][]byte{query(1, long, typeA)}, want: count{queries: one, open: 1}},
		"the longest name":                     {end: udp, sent: [][]byte{query(1, longest, typeA)}, want: count{queries: one, open: 1}},
		"a name of 256 bytes":                  {end: udp, sent: [][]byte{query(1, longest+"a", typeA)}, want: count{unparsed: 1}},
		"a label of 64":                        {end: udp, sent: [][]byte{query(1, long+"a", typeA)}, want: count{unparsed: 1}},
		"a pointer":                            {end: udp, sent: [][]byte{message(1, 0, 0, 1, question([]byte{0xc0, 12}, 1))}, want: count{unparsed: 1}},
		"a pointer in a name":                  {end: udp, sent: [][]byte{message(1, 0, 0, 1, question([]byte{1, 'a', 0xc0, 12}, 1))}, want: count{unparsed: 1}},
		"a name without end":                   {end: udp, sent: [][]byte{message(1, 0, 0, 1, bytes.Repeat([]byte{1, 'a'}, 300))}, want: count{unparsed: 1}},
		"nothing":                              {end: udp, sent: [][]byte{{}}, want: count{unparsed: 1}},
		"a header":                             {end: udp, sent: [][]byte{message(1, 0, 0, 1)}, want: count{unparsed: 1}},
		"no question":                          {end: udp, sent: [][]byte{message(1, 0, 0, 0)}, want: count{unparsed: 1}},
		"no class":                             {end: udp, sent: [][]byte{message(1, 0, 0, 1, name("a"), []byte{0, 1, 0})}, want: count{unparsed: 1}},
		"many questions":                       {end: udp, sent: [][]byte{message(1, 0, 0, 65535, question(name("a"), typeA))}, want: count{queries: one, open: 1}},
		"zeros":                                {end: udp, sent: [][]byte{make([]byte, 100)}, want: count{unparsed: 1}},
		"ones":                                 {end: udp, sent: [][]byte{bytes.Repeat([]byte{0xff}, 100)}, want: count{unparsed: 1}},
		"text":                                 {end: udp, sent: [][]byte{[]byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")}, want: count{unparsed: 1}},
		"an update":                            {end: udp, sent: [][]byte{message(1, 5<<3, 0, 1, question(name("a"), 6))}},
		"an unknown opcode":                    {end: udp, sent: [][]byte{message(1, 9<<3, 0, 1, question(name("a"), 6))}, want: count{unparsed: 1}},
		"a response sent":                      {end: udp, sent: [][]byte{answer(1, "a", typeA, 0)}},
		"a query received":                     {end: udp, received: [][]byte{query(1, "a", typeA)}},
		"a response that nobody asked for":     {end: udp, received: [][]byte{answer(1, "a", typeA, 0)}, want: count{responses: noError(others)}},
		"a response of another id":             {end: udp, sent: [][]byte{query(1, "a", typeA)}, received: [][]byte{answer(2, "a", typeA, 0)}, want: count{queries: one, responses: noError(typeA), open: 1}},
		"a response of another name":           {end: udp, sent: [][]byte{query(1, "a", typeA)}, received: [][]byte{answer(1, "b", typeA, 0)}, want: count{queries: one, responses: noError(typeA), open: 1}},
		"a response of another type":           {end: udp, sent: [][]byte{query(1, "a", typeA)}, received: [][]byte{answer(1, "a", typeTXT, 0)}, want: count{queries: one, responses: noError(others), open: 1}},
		"a response without question":          {end: udp, sent: [][]byte{query(1, "a", typeA)}, received: [][]byte{message(1, response, 1, 0)}, want: count{queries: one, responses: map[[2]uint16]uint64{{typeA, 1}: 1}, answered: 1, lost: 1}},
		"two responses":                        {end: udp, sent: [][]byte{query(1, "a", typeA)}, received: [][]byte{answer(1, "a", typeA, 0), answer(1, "a", typeA, 0)}, want: count{queries: one, responses: map[[2]uint16]uint64{{typeA, 0}: 2}, answered: 1}},
		"asked twice":                          {end: udp, sent: [][]byte{query(1, "a", typeA), query(1, "a", typeA)}, received: [][]byte{answer(1, "a", typeA, 0)}, want: count{queries: map[uint16]uint64{typeA: 2}, responses: noError(typeA), answered: 1}},
		"the id used for something else":       {end: udp, sent: [][]byte{query(1, "a", typeA), query(1, "b", typeA)}, received: [][]byte{answer(1, "b", typeA, 0)}, want: count{queries: map[uint16]uint64{typeA: 2}, responses: noError(typeA), answered: 1, unanswered: 1, lost: 1}},
		"TCP without payload":                  {end: tcp, sent: [][]byte{{}}},
		"TCP, only a length":                   {end: tcp, sent: [][]byte{{0, 30}}},
		"TCP, a length that is too short":      {end: tcp, sent: [][]byte{append([]byte{0, 5}, query(1, "a", typeA)...)}},
		"TCP, a length beyond the segment":     {end: tcp, sent: [][]byte{append([]byte{1, 0}, query(1, "a", typeA)...)}},
		"TCP, the middle of a message":         {end: tcp, sent: [][]byte{bytes.Repeat([]byte("middle"), 50)}},
		"TCP, a response nobody asked for":     {end: tcp, received: [][]byte{prefixed(answer(1, "a", typeA, 0))}},
		"TCP, two queries in one segment":      {end: tcp, sent: [][]byte{append(prefixed(query(1, "a", typeA)), prefixed(query(2, "a", typeAAAA))...)}, want: count{queries: map[uint16]uint64{typeA: 1, typeAAAA: 1}, open: 2}},
		"TCP, nine queries in one segment":     {end: tcp, sent: [][]byte{bytes.Repeat(prefixed(query(1, "a", typeA)), 9)}, want: count{queries: map[uint16]uint64{typeA: 8}, open: 1}},
		"TCP, the beginning of a response":     {end: tcp, sent: [][]byte{prefixed(query(1, "a", typeA))}, received: [][]byte{append([]byte{4, 0}, answer(1, "a", typeA, 0)...)}, want: count{queries: one, responses: noError(typeA), answered: 1}},
		"TCP, a response behind another's end": {end: tcp, sent: [][]byte{prefixed(query(1, "a", typeA))}, received: [][]byte{append([]byte("end"), prefixed(answer(1, "a", typeA, 0))...)}, want: count{queries: one, open: 1}},
	} {
		t.Run(label, func(t *testing.T) {
			n := newNode(t)
			for _, payload := range test.sent {
				n.send(test.end, payload)
			}
			for _, payload := range test.received {
				n.receive(test.end, payload)
			}
			n.expect(7, test.want)
		})
	}
}

// A pod that is a server of DNS asks nothing itself.
func TestServerIsNotCounted(t *testing.T) {
	n := newNode(t)
	e := ends["IPv4 UDP"]
	n.run(e.between([2]uint16{40000, 53}, query(1, "a", typeA), false))
	n.run(e.between([2]uint16{53, 40000}, answer(1, "a", typeA, 0), true))
	n.expect(7, count{})
}

// UDP ends where its header says, and the packet where the IP header says: what is behind is padding.
func TestPadding(t *testing.T) {
	n := newNode(t)
	e := ends["IPv4 UDP"]
	frame, s := e.packet(query(1, "a", typeA), true)
	n.run(append(frame, make([]byte, 30)...), s)
	n.expect(7, count{queries: map[uint16]uint64{typeA: 1}, open: 1})

	frame, s = e.packet(append(query(2, "a", typeA), make([]byte, 30)...), true)
	binary.BigEndian.PutUint16(frame[s.Transport+4:], uint16(8+11)) // not even a header
	n.run(frame, s)
	n.expect(7, count{queries: map[uint16]uint64{typeA: 1}, open: 1, unparsed: 1})
}

// total is how many UDP packets are accounted for.
func (c count) total() (sum uint64) {
	for _, values := range c.queries {
		sum += values
	}
	for _, values := range c.responses {
		sum += values
	}
	return sum + c.unparsed
}

// Packets cut at every byte: each is a query, a response or unparsed.
func TestTruncated(t *testing.T) {
	n := newNode(t)
	var ran uint64
	for label, e := range ends {
		for _, transmit := range []bool{true, false} {
			whole := query(1, "www.example.com", typeA)
			if !transmit {
				whole = answer(1, "www.example.com", typeA, 0)
			}
			before := n.count(7)
			for cut := range len(whole) {
				n.run(e.packet(e.wrap(whole)[:cut], transmit))
				if !e.tcp {
					ran++
				}
			}
			after := n.count(7)
			if e.tcp && after.total() != before.total() {
				t.Errorf("%s: %v, then %v", label, before, after)
			}
		}
	}
	if c := n.count(7); c.unparsed != ran || c.total() != ran {
		t.Errorf("%d packets: %+v", ran, c)
	}
	// The frame itself may end anywhere, whatever was said of it.
	for label, e := range ends {
		frame, s := e.packet(e.wrap(query(1, "www.example.com", typeA)), true)
		before := n.count(7)
		for cut := 54; cut < len(frame); cut++ { // PROG_TEST_RUN wants an IP header
			n.run(frame[:cut], s)
		}
		if after := n.count(7); after.answered != 0 || len(after.queries) > 0 {
			t.Errorf("%s: %v, then %v", label, before, after)
		}
	}
}

// Whatever is in packets: what is counted adds up, and stays within its bounds.
func TestHostile(t *testing.T) {
	n := newNode(t)
	random := rand.New(rand.NewPCG(1, 2))
	seeds := [][]byte{
		query(1, "www.example.com", typeA), answer(1, "www.example.com", typeA, 3),
		message(1, 0, 0, 1, question([]byte{0xc0, 12}, 1)), make([]byte, 300),
	}
	const packets = 20_000
	for range packets {
		payload := slices.Clone(seeds[random.IntN(len(seeds))])
		for range random.IntN(4) {
			payload[random.IntN(len(payload))] = byte(random.Uint32())
		}
		e := end{pod: 7, port: uint16(40000 + random.IntN(50)), ipv6: random.IntN(2) == 0}
		n.run(e.packet(payload, random.IntN(2) == 0))
	}
	c := n.count(7)
	if c.total() > packets {
		t.Errorf("%d packets were counted as %d: %+v", packets, c.total(), c)
	}
	if c.open > MaxPending || len(c.queries) > Types+1 {
		t.Errorf("beyond the bounds: %+v", c)
	}
	var queries uint64
	for _, values := range c.queries {
		queries += values
	}
	if c.answered+c.unanswered+c.open > queries {
		t.Errorf("%d queries, of which %d were answered, %d not, and %d are open", queries, c.answered, c.unanswered, c.open)
	}
	if got := n.entries(Pending); uint64(got) != c.open {
		t.Errorf("%d queries are pending, and counted as %d", got, c.open)
	}
}

func (n *node) entries(name string) (count int) {
	n.t.Helper()
	key, value := make([]byte, n.maps[name].KeySize()), make([]byte, n.maps[name].ValueSize())
	entries := n.maps[name].Iterate()
	for entries.Next(&key, &value) {
		count++
	}
	if err := entries.Err(); err != nil {
		n.t.Fatal(err)
	}
	return count
}

// One pod's queries that nobody answers leave room for the others'.
func TestPendingIsBounded(t *testing.T) {
	n := newNode(t)
	const queries = 3 * MaxPending
	for i := range queries {
		n.send(end{pod: 7, port: uint16(i)}, query(uint16(i), "flood", typeA))
	}
	n.expect(7, count{queries: map[uint16]uint64{typeA: queries}, open: MaxPending, lost: queries - MaxPending})

	other := end{pod: 8, port: 40000}
	n.send(other, query(1, "a", typeA))
	n.receive(other, answer(1, "a", typeA, 0))
	n.expect(8, count{queries: map[uint16]uint64{typeA: 1}, responses: map[[2]uint16]uint64{{typeA, 0}: 1}, answered: 1})

	if err := RunSweep(n.sweep, 0); err != nil {
		t.Fatal(err)
	}
	c := n.count(7)
	if c.open != 0 || c.unanswered != MaxPending || n.entries(Pending) != 0 {
		t.Errorf("after sweeping: %+v", c)
	}
}

func TestSweep(t *testing.T) {
	n := newNode(t)
	e := ends["IPv6 UDP"]
	n.send(e, query(1, "Nobody.example", typeTXT))
	if err := RunSweep(n.sweep, time.Hour); err != nil {
		t.Fatal(err)
	}
	n.expect(7, count{queries: map[uint16]uint64{typeTXT: 1}, open: 1})
	if err := RunSweep(n.sweep, 0); err != nil {
		t.Fatal(err)
	}
	n.expect(7, count{queries: map[uint16]uint64{typeTXT: 1}, unanswered: 1})
	events := n.events()
	if len(events) != 1 || events[0].Kind != Unanswered || events[0].Pod != 7 || events[0].Type != typeTXT ||
		!bytes.Equal(events[0].Message[:events[0].Length], name("nobody.example")) {
		t.Errorf("events %+v", events)
	}
	n.receive(e, answer(1, "nobody.example", typeTXT, 0)) // too late
	n.expect(7, count{queries: map[uint16]uint64{typeTXT: 1}, responses: map[[2]uint16]uint64{{typeTXT, 0}: 1}, unanswered: 1})
}

// Types beyond those that have a place are counted together, and only what a pod asks for takes places.
func TestTypesAreBounded(t *testing.T) {
	n := newNode(t)
	e := ends["IPv4 UDP"]
	for kind := range uint16(500) {
		n.receive(e, answer(1, "a", 1000+kind, 0)) // nobody asked
	}
	for kind := range uint16(Types + 10) {
		n.send(e, query(kind, "a", kind))
		n.receive(e, answer(kind, "a", kind, 0))
	}
	want := count{queries: map[uint16]uint64{others: 10}, responses: map[[2]uint16]uint64{{others, 0}: 510}, answered: Types + 10}
	for kind := range uint16(Types) {
		want.queries[kind], want.responses[[2]uint16{kind, 0}] = 1, 1
	}
	n.expect(7, want)
}

// Events have a budget; what has none is counted, and nothing else suffers.
func TestEventsAreBounded(t *testing.T) {
	n := newNode(t)
	e := ends["IPv4 UDP"]
	const exchanges = 2000
	begun := time.Now()
	for i := range exchanges {
		n.send(e, query(uint16(i), "a", typeA))
		n.receive(e, answer(uint16(i), "a", typeA, 0))
	}
	windows := 2 + int(time.Since(begun)/(1<<30))
	c, events := n.count(7), n.events()
	if c.answered != exchanges || int(c.lost)+len(events) != exchanges {
		t.Errorf("%d events: %+v", len(events), c)
	}
	if len(events) > windows*MaxEvents {
		t.Errorf("%d events in %d windows", len(events), windows)
	}
	other := end{pod: 8, port: 40000}
	n.send(other, query(1, "a", typeA))
	n.receive(other, answer(1, "a", typeA, 0))
	if c := n.count(8); c.lost != 0 || len(n.events()) != 1 {
		t.Errorf("another pod lost its event: %+v", c)
	}
}

func TestWithoutNames(t *testing.T) {
	n := newNodeWith(t, false)
	e := ends["IPv4 UDP"]
	n.send(e, query(1, "secret", typeA))
	n.send(e, query(2, "secret", typeA))
	key, value := make([]byte, n.maps[Pending].KeySize()), make([]byte, n.maps[Pending].ValueSize())
	for entries := n.maps[Pending].Iterate(); entries.Next(&key, &value); {
		if bytes.Contains(value, []byte("secret")) {
			t.Error("the kernel keeps a name")
		}
	}
	n.receive(e, answer(1, "secret", typeA, 0))
	if err := RunSweep(n.sweep, 0); err != nil {
		t.Fatal(err)
	}
	n.expect(7, count{queries: map[uint16]uint64{typeA: 2}, responses: map[[2]uint16]uint64{{typeA, 0}: 1}, answered: 1, unanswered: 1})
	if events := n.events(); len(events) > 0 {
		t.Errorf("%d events", len(events))
	}
}

// The programs are targets of a tail call from programs of both kinds that are loaded for no direction in particular.
func TestTailCall(t *testing.T) {
	n := newNode(t)
	for program, test := range map[Program]struct {
		kind    ebpf.ProgramType
		array   string
		network uint32
		verdict uint32
	}{
		Interface: {ebpf.SchedCLS, "inspectors", ethernetLength, ^uint32(0)},
		Socket:    {ebpf.CGroupSKB, "cgroup_inspectors", 0, 1},
	} {
		t.Run(string(program), func(t *testing.T) {
			array, err := ebpf.NewMap(headers.MapSpecs()[test.array])
			if err != nil {
				t.Fatal(err)
			}
			defer array.Close()
			caller, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: test.kind, License: "Apache-2.0", Instructions: asm.Instructions{
				asm.LoadMapPtr(asm.R2, array.FD()),
				asm.Mov.Imm(asm.R3, int32(headers.InspectDNS)),
				asm.FnTailCall.Call(),
				asm.Mov.Imm(asm.R0, 0), // nobody is there
				asm.Return(),
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			if err := array.Put(headers.InspectDNS, n.load(program, true)); err != nil {
				t.Fatal(err)
			}
			before := n.count(7).queries[typeA]
			frame, s := end{pod: 7, port: uint16(len(program))}.packet(query(1, "a", typeA), true)
			shift := ethernetLength - test.network
			s.Network, s.Transport, s.End = s.Network-shift, s.Transport-shift, s.End-shift
			n.tell(s)
			verdict, err := caller.Run(&ebpf.RunOptions{Data: frame, Context: s.inPacket()})
			if err != nil || verdict != test.verdict {
				t.Errorf("verdict %d (%v)", verdict, err)
			}
			if after := n.count(7).queries[typeA]; after != before+1 {
				t.Errorf("%d queries, then %d", before, after)
			}
		})
	}
}

// The object must be the same wherever it is made.
func TestObjectNamesNoPath(t *testing.T) {
	directory, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{directory, "/usr/include", "/home/"} {
		if bytes.Contains(_ObjectBytes, []byte(path)) {
			t.Errorf("the object holds the path %s", path)
		}
	}
}

// BenchmarkProgram is the cost of the program, and of PROG_TEST_RUN around it: 29 to 50 ns for an empty program. These
// are what a flood can make it do; an exchange is measured in nodeagent/collectors/dns.
func BenchmarkProgram(b *testing.B) {
	const long = "storage.example.com.my-namespace.svc.cluster.local.abcd"
	for label, test := range map[string]struct {
		payload []byte
		send    bool
	}{
		"asked again":             {query(1, long, typeA), true},
		"beyond what may be open": {query(MaxPending+1, long, typeA), true},
		"nobody asked":            {answer(1, long, typeA, 0), false},
		"no message":              {make([]byte, 40), true},
	} {
		b.Run(label, func(b *testing.B) {
			n := newNode(b)
			for id := range uint16(MaxPending) {
				n.send(ends["IPv4 UDP"], query(id, long, typeA))
			}
			frame, s := ends["IPv4 UDP"].packet(test.payload, test.send)
			s.Pod += map[bool]uint64{false: 1}[test.send]
			n.tell(s)
			b.ResetTimer()
			if _, err := n.iface.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(b.N)}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
