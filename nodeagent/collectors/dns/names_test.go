package dns

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/dns"
)

func TestNameText(t *testing.T) {
	long := strings.Repeat("a", 63)
	all := strings.Join([]string{long, long, long, long[:61]}, ".")
	for label, test := range map[string]struct {
		wire string
		want string
	}{
		"the root":             {"\x00", "."},
		"letters":              {"\x03WWW\x07eXample\x00", "www.example"},
		"what follows":         {"\x01a\x00\x01b\x00", "a"},
		"a dot in a label":     {"\x03a.b\x01c\x00", `a\.b.c`},
		"a backslash":          {"\x03a\\b\x00", `a\\b`},
		"unprintable bytes":    {"\x04\x00\n\x7f\xff\x00", `\000\010\127\255`},
		"a space":              {"\x03a b\x00", `a\032b`},
		"an escape of a shell": {"\x05\x1b[31m\x00", `\027[31m`},
		"the longest":          {"\x3f" + long + "\x3f" + long + "\x3f" + long + "\x3d" + long[:61] + "\x00", all},
		"cut after escapes":    {"\x3f" + strings.Repeat("\x01", 63) + "\x3f" + strings.Repeat("\x02", 63) + "\x00", strings.Repeat(`\001`, 63) + `.`},
	} {
		t.Run(label, func(t *testing.T) {
			got, ok := nameText([]byte(test.wire))
			if label == "cut after escapes" {
				if !ok || len(got) > longest || !strings.HasPrefix(got, test.want[:252]) {
					t.Errorf("%q (%v)", got, ok)
				}
				return
			}
			if !ok || got != test.want {
				t.Errorf("%q (%v), want %q", got, ok, test.want)
			}
		})
	}
	for _, wrong := range []string{"", "\x01", "\x01a", "\x40" + strings.Repeat("a", 64) + "\x00", "\xc0\x0c", "\x01a\xc0\x00", strings.Repeat("\x3f"+long, 4) + "\x00"} {
		if got, ok := nameText([]byte(wrong)); ok {
			t.Errorf("%x is taken for %q", wrong, got)
		}
	}
}

func pack(t testing.TB, message dnsmessage.Message) []byte {
	t.Helper()
	packed, err := message.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func aliases(t testing.TB) []byte {
	name := dnsmessage.MustNewName
	header := func(owner string) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name(owner), Class: dnsmessage.ClassINET, TTL: 60}
	}
	return pack(t, dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, Response: true},
		Questions: []dnsmessage.Question{{Name: name("www.Example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{
			{Header: header("WWW.example.com."), Body: &dnsmessage.CNAMEResource{CNAME: name("cdn.example.net.")}},
			{Header: header("cdn.example.net."), Body: &dnsmessage.CNAMEResource{CNAME: name("edge.example.org.")}},
			{Header: header("edge.example.org."), Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}},
			{Header: header("edge.example.org."), Body: &dnsmessage.TXTResource{TXT: []string{"text"}}},
			{Header: header("edge.example.org."), Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 2}}},
			{Header: header("www.victim.example."), Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 3}}}, // not asked for
			{Header: header("edge.example.org."), Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 15: 1}}},
		},
	})
}

func TestReadResponse(t *testing.T) {
	name, answers, ok := readResponse(aliases(t))
	want := []answer{
		{netip.MustParseAddr("192.0.2.1"), time.Minute}, {netip.MustParseAddr("192.0.2.2"), time.Minute}, {netip.MustParseAddr("2001::1"), time.Minute},
	}
	if name != "www.example.com" || !slices.Equal(answers, want) || !ok {
		t.Errorf("%q: %v, want %v", name, answers, want)
	}
}

// A message that is cut off tells what comes before: the kernel hands on its beginning only.
func TestReadCutResponse(t *testing.T) {
	whole := aliases(t)
	_, most, _ := readResponse(whole)
	before := 0
	for length := range whole {
		name, answers, ok := readResponse(whole[:length])
		if ok && name != "www.example.com" || len(answers) < before || len(answers) > len(most) || !slices.Equal(answers, most[:len(answers)]) {
			t.Fatalf("of %d bytes: %q, %v", length, name, answers)
		}
		before = len(answers)
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add(aliases(f))
	f.Add(packQuery(f, 1, "www.example.com.", dnsmessage.TypeA))
	f.Add(append(make([]byte, 12), 0xc0, 12, 0, 1, 0, 1)) // a name that points at itself
	f.Add(append([]byte{0, 1, 0x80, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 1}, bytes.Repeat([]byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4}, 40)...))
	f.Add(append(make([]byte, 12), "\x05\x1b[31m\x03a.b\x00\x00\x01\x00\x01"...))
	f.Fuzz(func(t *testing.T, message []byte) {
		name, answers, ok := readResponse(message)
		if len(answers) > mostAnswers || !ok && (name != "" || answers != nil) {
			t.Errorf("%q: %v (%v)", name, answers, ok)
		}
		if len(name) > longest {
			t.Errorf("a name of %d bytes", len(name))
		}
		for _, b := range []byte(name) {
			if b <= ' ' || b > '~' || b >= 'A' && b <= 'Z' {
				t.Errorf("%q holds %q", name, b)
			}
		}
		// Where another decoder takes the question for what it is, both agree.
		var parser dnsmessage.Parser
		if _, err := parser.Start(message); err != nil || !ok {
			return
		}
		if question, err := parser.Question(); err == nil && !strings.Contains(name, `\`) {
			if other := question.Name.String(); !strings.EqualFold(other, name+".") && other != name {
				t.Errorf("%q is %q to another decoder", name, other)
			}
		}
	})
}

// FuzzEvent: whatever the ring buffer holds, what is kept of it is bounded.
func FuzzEvent(f *testing.F) {
	event := bpf.Event{Pod: 1 << 63, Type: 1, Code: 3}
	event.Length = uint16(copy(event.Message[:], aliases(f)))
	sample, err := binary.Append(nil, binary.LittleEndian, event)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	f.Add(sample[:30])
	f.Add([]byte{})
	event.Kind, event.Length = bpf.Unanswered, uint16(copy(event.Message[:], "\x03www\x00"))
	if sample, err = binary.Append(nil, binary.LittleEndian, event); err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	c := New(Config{Names: 20})
	f.Fuzz(func(t *testing.T, sample []byte) {
		c.config.Names = 20
		c.take(sample)
		for _, asked := range c.asked {
			if len(asked.entries) > asked.places || len(asked.index) != len(asked.entries) {
				t.Errorf("%d names, %d in the index", len(asked.entries), len(asked.index))
			}
		}
		checkPeers(t, c.peers)
		if len(c.asked) > 1000 {
			clear(c.asked) // the kernel names no pod that is none
		}
	})
}

// An event is read as the kernel writes it.
func TestParseEvent(t *testing.T) {
	want := bpf.Event{Pod: 1<<63 + 5, Latency: 6, Type: 28, Length: 3, Code: 2, Kind: bpf.Unanswered, Message: [512]byte{7, 8, 9}}
	sample, err := binary.Append(nil, binary.LittleEndian, want)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := parseEvent(sample)
	if !ok || got.pod != want.Pod || got.code != 2 || !got.unanswered || !bytes.Equal(got.message, []byte{7, 8, 9}) {
		t.Errorf("%+v (%v)", got, ok)
	}
	if _, ok := parseEvent(sample[:headerOfEvent+2]); ok {
		t.Error("a message that is not all there is taken")
	}
}

// Against exact counts: no count is too low, none is too high by more than its error, and what is frequent is there.
func TestRanking(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.2, 1, 5000)
	r := newRanking(20)
	exact, failures := map[string]int64{}, map[string]int64{}
	const total = 100_000
	for range total {
		name := fmt.Sprint(zipf.Uint64())
		failed := random.IntN(3) == 0
		exact[name]++
		if failed {
			failures[name]++
		}
		r.add(name, failed)
	}
	var sum int64
	for _, e := range r.entries {
		sum += e.count
		if e.count < exact[e.name] || e.count-e.error > exact[e.name] || e.failed > failures[e.name] {
			t.Errorf("%+v, but %d and %d", e, exact[e.name], failures[e.name])
		}
	}
	if sum != total || len(r.entries) != r.places {
		t.Errorf("%d names with %d in all", len(r.entries), sum)
	}
	for name, count := range exact {
		if _, ok := r.index[name]; !ok && count > total/int64(r.places) {
			t.Errorf("%s is missing, of %d", name, count)
		}
	}
	first := r.first(20)
	if len(first) != 20 || first[0].Name != "0" || !slices.IsSortedFunc(first, func(a, b *v1alpha1.DNSNameCount) int { return cmp.Compare(b.GetCount(), a.GetCount()) }) {
		t.Errorf("first %v", first)
	}
}

func checkPeers(t testing.TB, p *peers) {
	t.Helper()
	total := 0
	for pod, book := range p.pods {
		total += len(book.names)
		if len(book.names) > mostPeers || len(book.order) > 2*mostPeers+1 {
			t.Errorf("pod %d has %d addresses in %d places", pod, len(book.names), len(book.order))
		}
	}
	if total != p.total || total > allPeers {
		t.Errorf("%d addresses, counted as %d", total, p.total)
	}
}

func TestPeersAreBounded(t *testing.T) {
	p := newPeers()
	now := time.Unix(1_800_000_000, 0)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 3 * mostPeers {
		p.add(1, answer{address: address(i)}, fmt.Sprint(i), now)
		p.add(1, answer{address: address(3 * mostPeers)}, "often", now)
	}
	checkPeers(t, p)
	if got := p.name(1, address(3*mostPeers), now); got != "often" {
		t.Errorf("what is looked up often is %q", got)
	}
	if first, last := p.name(1, address(0), now), p.name(1, address(3*mostPeers-1), now); first != "" || last != fmt.Sprint(3*mostPeers-1) {
		t.Errorf("the first is %q, the last %q", first, last)
	}
	for pod := range uint64(40) {
		for i := range mostPeers {
			p.add(pod+2, answer{address: address(i)}, "x", now)
		}
	}
	checkPeers(t, p)
	if p.total != allPeers {
		t.Errorf("%d addresses", p.total)
	}
	for pod := range uint64(42) {
		p.forget(pod)
	}
	if p.total != 0 || len(p.pods) != 0 {
		t.Errorf("%d addresses of %d pods are left", p.total, len(p.pods))
	}
}

func TestPeersExpire(t *testing.T) {
	p := newPeers()
	now := time.Unix(1_800_000_000, 0)
	address := netip.MustParseAddr("192.0.2.1")
	for ttl, want := range map[time.Duration]time.Duration{0: leastTTL, time.Hour: time.Hour, 1000 * time.Hour: mostTTL} {
		p.add(1, answer{address, ttl}, "name", now)
		if p.name(1, address, now.Add(want)) != "name" || p.name(1, address, now.Add(want+time.Second)) != "" {
			t.Errorf("a TTL of %v is not kept for %v", ttl, want)
		}
	}
	p.add(1, answer{address, 0}, "other", now)
	if got := p.name(1, address, now); got != "other" {
		t.Errorf("the name is %q", got)
	}
}

// BenchmarkTake is what user space does for one response.
func BenchmarkTake(b *testing.B) {
	event := bpf.Event{Pod: 1 << 63, Type: 1}
	event.Length = uint16(copy(event.Message[:], aliases(b)))
	sample, err := binary.Append(nil, binary.LittleEndian, event)
	if err != nil {
		b.Fatal(err)
	}
	c := New(Config{})
	c.config.Names = 20
	b.ReportAllocs()
	for b.Loop() {
		c.take(sample)
	}
}
