package pcapfilter

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/net/bpf"
)

// TestJoin checks that joined programs accept what both accept, and that the kernel takes them.
func TestJoin(t *testing.T) {
	texts := lines(t, "testdata/expressions.txt")
	packets := makePackets(500, 11)
	r := rand.New(rand.NewPCG(12, 12))
	for range 150 {
		scopeText, filterText := one(r, texts), one(r, texts)
		scope, err := Compile(scopeText, Options{SnapLen: 1})
		if err != nil {
			t.Fatal(err)
		}
		filter, err := Compile(filterText, Options{SnapLen: 128})
		if err != nil {
			t.Fatal(err)
		}
		joined, err := Join(scope.Instructions, filter.Instructions)
		if err != nil {
			t.Fatalf("%s | %s: %v", scopeText, filterText, err)
		}
		checkKernel(t, scopeText+" | "+filterText, joined)
		for _, p := range packets {
			want := uint32(0)
			if run(scope.Instructions, p) != 0 {
				want = run(filter.Instructions, p)
			}
			if got := run(joined, p); got != want {
				t.Fatalf("%s | %s: %d, want %d (%s)", scopeText, filterText, got, want, p.kind)
			}
		}
	}
}

// TestJoinClears checks that the filter begins with zeroes in A and X.
func TestJoinClears(t *testing.T) {
	scope := []bpf.RawInstruction{{Op: loadImmediate, K: 7}, {Op: aToX}, {Op: answer, K: 1}}
	filter := []bpf.RawInstruction{{Op: jumpEqual, K: 0, Jf: 2}, {Op: xToA}, {Op: jumpEqual, K: 0, Jt: 1}, {Op: answer}, {Op: answer, K: 5}}
	joined, err := Join(scope, filter)
	if err != nil || run(joined, &packet{}) != 5 {
		t.Fatalf("got %v, %v", joined, err)
	}
}

func TestJoinRefuses(t *testing.T) {
	good := []bpf.RawInstruction{{Op: answer, K: 1}}
	long := make([]bpf.RawInstruction, maxProgram)
	for i := range long {
		long[i] = bpf.RawInstruction{Op: answer, K: 1}
	}
	for name, bad := range map[string][]bpf.RawInstruction{
		"empty":            {},
		"without a return": {{Op: loadImmediate}},
		"a jump outside":   {{Op: jumpEqual, Jt: 1}, {Op: answer}},
		"a long jump":      {{Op: jump, K: 1}, {Op: answer}},
		"one that wraps":   {{Op: jump, K: 1<<32 - 1}, {Op: answer}},
		"returning A":      {{Op: answer | 0x10}},
		"too long":         long,
	} {
		if joined, err := Join(bad, good); err == nil {
			t.Errorf("%s as scope: %v", name, joined)
		}
		if joined, err := Join(good, bad); err == nil {
			t.Errorf("%s as filter: %v", name, joined)
		}
	}
}
