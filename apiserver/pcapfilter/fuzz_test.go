package pcapfilter

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

// FuzzCompile compiles any text: nothing panics, errors are of the promised kind and point into the text, and what
// compiles is taken by the kernel and judges packets.
func FuzzCompile(f *testing.F) {
	for _, text := range lines(f, "testdata/expressions.txt")[:80] {
		f.Add(text, false)
	}
	for _, line := range lines(f, "testdata/errors.txt") {
		if text, ok := strings.CutPrefix(line, "> "); ok {
			f.Add(text, true)
		}
	}
	packets := makePackets(50, 16)
	f.Fuzz(func(t *testing.T, text string, raw bool) {
		o := Options{Resolve: resolveFixed}
		if raw {
			o.Link = RawIP
		}
		p, err := Compile(text, o)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(text) || !strings.HasPrefix(text[e.Offset:], e.Token) || e.Message == "" {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		if len(p.Instructions) > maxProgram {
			t.Fatalf("%q: %d instructions", text, len(p.Instructions))
		}
		checkKernel(t, text, p.Instructions)
		for _, packet := range packets {
			run(p.Instructions, packet)
		}
	})
}

// FuzzAgainstTcpdump writes expressions of the grammar as the input decides, and compares the verdicts of tcpdump's
// programs with ours. What only one of the two compiles has to be on the list of refusals.
func FuzzAgainstTcpdump(f *testing.F) {
	for seed := range byte(60) {
		data := make([]byte, 40)
		for i := range data {
			data[i] = byte(i*int(seed+3)*31) ^ seed*17
		}
		f.Add(data)
	}
	o := newOracle(f)
	all := refusals(f)
	packets := sync.OnceValue(func() []*packet { return makePackets(comparedPackets, 17) })
	f.Fuzz(func(t *testing.T, data []byte) {
		text := (&writer{pick: choices(data)}).expression()
		ours, err := Compile(text, Options{})
		theirs := o.compile(text)
		switch {
		case err == nil && theirs.err == nil:
			compareOn(t, text, o.exact, ours.Instructions, theirs.program, packets())
			checkKernel(t, text, ours.Instructions)
		case err == nil:
			t.Errorf("%s: tcpdump refuses it: %v", text, theirs.err)
		case theirs.err == nil && !listed(all, err):
			t.Errorf("%s: tcpdump compiles it, and this refusal is not listed: %v", text, err)
		}
	})
}
