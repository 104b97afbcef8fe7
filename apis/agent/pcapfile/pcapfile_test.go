package pcapfile

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

var header = Header{UID: "3f0f4d5e-0000-4000-8000-000000000001", Namespace: "shop", Name: "web", Filter: "udp", SnapLength: 262144}

func part(number uint32, namespace, pod, device string) *agentv1.CapturePart {
	return &agentv1.CapturePart{
		Number: number, Namespace: namespace, Pod: pod, Interface: device, StartUnixNano: 1_700_000_000_000_000_000, EndUnixNano: 1_700_000_009_000_000_000,
		Reason: agentv1.CaptureState_REASON_STOPPED,
		Counts: &agentv1.CaptureCounts{Matched: 100, Packets: 90, Bytes: 9000, RingDrops: 1, DiskDrops: 2, LimitDrops: 3, OtherVantage: 4},
	}
}

func state(digest string, bytes int64, parts ...*agentv1.CapturePart) *agentv1.CaptureState {
	return &agentv1.CaptureState{Digest: []byte(digest), BlockBytes: bytes, Parts: parts}
}

func mustNew(t testing.TB, header Header, names *Names, nodes ...Node) *File {
	t.Helper()
	file, err := New(header, nodes, names)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLayout(t *testing.T) {
	a := Node{"a", state("digest of a", 1000, part(1, "shop", "web", "eth0"), part(0, "shop", "web", "net1"), part(2, "shop", "api", "eth0"))}
	b := Node{"b", state("digest of b", 500, part(0, "", "", "ens3"))}
	nothing := Node{"c", state("digest of c", 0)}
	var names Names
	names.Add([]*agentv1.CaptureName{{Address: []byte{192, 0, 2, 1}, Names: []string{"shop/web"}}})
	file, again := mustNew(t, header, &names, a, b, nothing), mustNew(t, header, &names, b, a)
	if !bytes.Equal(file.AppendBegin(nil), again.AppendBegin(nil)) || !bytes.Equal(file.AppendEnd(nil), again.AppendEnd(nil)) || file.Digest() != again.Digest() {
		t.Error("the file depends on the order of nodes, or on such that recorded nothing")
	}
	for want, asked := range []struct {
		node string
		part uint32
	}{{"a", 2}, {"a", 1}, {"a", 0}, {"b", 0}} {
		if got, ok := file.Number(asked.node, asked.part); !ok || got != uint32(want) {
			t.Errorf("part %d of node %s is interface %d, want %d", asked.part, asked.node, got, want)
		}
	}
	if _, ok := file.Number("b", 1); ok {
		t.Error("a part that is not there has a number")
	}
	begin, end := file.AppendBegin(nil), file.AppendEnd(nil)
	for _, name := range []string{"a/shop/api/eth0", "a/shop/web/eth0", "a/shop/web/net1", "b/ens3"} {
		at := bytes.Index(begin, []byte(name))
		if at < 0 {
			t.Fatalf("no interface %s", name)
		}
		begin = begin[at:]
	}
	if size, known := file.Size(); !known || size != int64(len(file.AppendBegin(nil))+len(end))+1500 {
		t.Errorf("size %d, %t", size, known)
	}
}

func TestDigest(t *testing.T) {
	node := func(name, digest string) Node { return Node{name, state(digest, 0, part(0, "shop", "web", "eth0"))} }
	change := func(do func(*Header)) Header { h := header; do(&h); return h }
	digests := map[string]string{}
	for what, file := range map[string]*File{
		"one node":         mustNew(t, header, nil, node("a", "x")),
		"other packets":    mustNew(t, header, nil, node("a", "y")),
		"other node":       mustNew(t, header, nil, node("b", "x")),
		"two nodes":        mustNew(t, header, nil, node("a", "x"), node("b", "x")),
		"no node":          mustNew(t, header, nil),
		"headers only":     mustNew(t, change(func(h *Header) { h.HeadersOnly = true }), nil, node("a", "x")),
		"one pod":          mustNew(t, change(func(h *Header) { h.PodNamespace, h.Pod = "shop", "web" }), nil, node("a", "x")),
		"other UID":        mustNew(t, change(func(h *Header) { h.UID = "other" }), nil, node("a", "x")),
		"other filter":     mustNew(t, change(func(h *Header) { h.Filter = "tcp" }), nil, node("a", "x")),
		"other length":     mustNew(t, change(func(h *Header) { h.SnapLength = 64 }), nil, node("a", "x")),
		"names moved":      mustNew(t, change(func(h *Header) { h.Namespace, h.Name = "sho", "pweb" }), nil, node("a", "x")),
		"node and packets": mustNew(t, header, nil, node("ax", "")),
	} {
		digest := file.Digest()
		if other, ok := digests[digest]; ok {
			t.Errorf("%s and %s have the digest %s", what, other, digest)
		}
		if digests[digest] = what; len(digest) != 32 {
			t.Errorf("digest %q", digest)
		}
	}
}

func TestRefused(t *testing.T) {
	for want, nodes := range map[string][]Node{
		"a: there twice":           {{"a", state("", 0, part(0, "", "", "e"))}, {"a", state("", 0, part(0, "", "", "e"))}},
		"a: part 3 is there twice": {{"a", state("", 0, part(3, "", "", "e"), part(3, "", "", "f"))}},
	} {
		if _, err := New(header, nodes, nil); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestEscaping(t *testing.T) {
	for _, test := range []struct{ device, want string }{
		{"eth0", "n/shop/web/eth0"}, {"a/b", `n/shop/web/a\x2fb`}, {"\x1b[31m", `n/shop/web/\x1b[31m`}, {"ü ", `n/shop/web/\xc3\xbc\x20`}, {`\`, `n/shop/web/\x5c`},
	} {
		if got := InterfaceName("n", part(0, "shop", "web", test.device)); got != test.want {
			t.Errorf("%q is %s, want %s", test.device, got, test.want)
		}
	}
	var names Names
	names.Add([]*agentv1.CaptureName{{Address: []byte{192, 0, 2, 1}, Names: []string{"a/b\x00\n\x1b[31m"}}})
	if got := names.Sorted(); len(got) != 1 || got[0].Names[0] != `a/b\x00\x0a\x1b[31m` {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	var one, other, all, back Names
	one.Add([]*agentv1.CaptureName{
		{Address: netip.MustParseAddr("2001:db8::1").AsSlice(), Names: []string{"x/six"}}, {Address: []byte{192, 0, 2, 2}, Names: []string{"x/b", "x/a"}},
		{Address: []byte{1, 2, 3}, Names: []string{"x/short"}}, {Address: []byte{192, 0, 2, 9}},
	})
	other.Add([]*agentv1.CaptureName{{Address: []byte{192, 0, 2, 2}, Names: []string{"x/c", "x/a", ""}}, {Address: []byte{192, 0, 2, 1}, Names: []string{"x/one"}}})
	all.Merge(&one)
	all.Merge(&other)
	back.Merge(&other)
	back.Merge(&one)
	const want = "[{192.0.2.1 [x/one]} {192.0.2.2 [x/a x/b x/c]} {2001:db8::1 [x/six]}]"
	if got := fmt.Sprint(all.Sorted()); got != want || fmt.Sprint(back.Sorted()) != want {
		t.Errorf("%s and %v, want %s", got, back.Sorted(), want)
	}
}

// TestManyNames wants the same names kept, whatever comes first, and blocks that stay small.
func TestManyNames(t *testing.T) {
	var rising, falling Names
	const count = 3 * MaxAddresses
	for i := range count {
		for names, i := range map[*Names]int{&rising: i, &falling: count - 1 - i} {
			names.Add([]*agentv1.CaptureName{{Address: []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}, Names: []string{strings.Repeat("n", 200)}}})
		}
	}
	a, b := rising.Sorted(), falling.Sorted()
	if len(a) != MaxAddresses || len(b) != MaxAddresses || a[0].Address != b[0].Address || a[MaxAddresses-1].Address != b[MaxAddresses-1].Address {
		t.Errorf("%d and %d names are kept", len(a), len(b))
	}
	for blocks := AppendNames(nil, a); len(blocks) > 0; {
		size := int(blocks[4]) | int(blocks[5])<<8 | int(blocks[6])<<16
		if blocks[0] != pcapng.TypeNames || size > maxNameBlock+300 {
			t.Fatalf("a block of type %d with %d bytes", blocks[0], size)
		}
		blocks = blocks[size:]
	}
}

// TestWriteBegin: in pieces it is the same, and what a piece holds does not grow with the interfaces and the names.
func TestWriteBegin(t *testing.T) {
	long := header
	long.Filter = strings.Repeat("x", 50_000)
	var parts []*agentv1.CapturePart
	for i := range uint32(50) {
		parts = append(parts, part(i, "shop", fmt.Sprintf("web-%d", i), "eth0"))
	}
	var names Names
	for i := range MaxAddresses {
		names.Add([]*agentv1.CaptureName{{Address: []byte{10, 0, byte(i >> 8), byte(i)}, Names: []string{fmt.Sprintf("shop/%0200d", i)}}})
	}
	file := mustNew(t, long, &names, Node{"a", state("digest of a", 1000, parts...)})
	var whole []byte
	if err := file.WriteBegin(func(b []byte) error {
		if len(b) > 3*pieceBytes {
			t.Errorf("a piece of %d bytes", len(b))
		}
		whole = append(whole, b...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, file.AppendBegin(nil)) || !bytes.HasSuffix(whole, AppendNames(nil, names.Sorted())) || len(whole) < 50*50_000+MaxAddresses*200 {
		t.Errorf("%d bytes are not what comes before the packets", len(whole))
	}
	if got := file.AppendBegin([]byte("before")); !bytes.HasPrefix(got, []byte("before")) || !bytes.Equal(got[6:], whole) {
		t.Error("it is not appended")
	}
	enough := errors.New("enough")
	if err := file.WriteBegin(func([]byte) error { return enough }); err != enough {
		t.Errorf("the error is %v", err)
	}
}
