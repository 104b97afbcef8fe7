package pcapfilter

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// refusal is a class of expressions that tcpdump compiles and we do not.
type refusal struct{ example, message string }

func refusals(t testing.TB) []refusal {
	t.Helper()
	var all []refusal
	for _, line := range lines(t, "testdata/refusals.txt") {
		example, message, ok := strings.Cut(line, "\t")
		if !ok {
			t.Fatalf("refusals.txt: no tab in %q", line)
		}
		all = append(all, refusal{example, message})
	}
	return all
}

// listed says whether an error is of a class that the list has. Filters that are too large are listed in words.
func listed(all []refusal, err error) bool {
	bounds := []string{"nested more than", "has grown too complex", "takes too long to compile", "and the kernel takes"}
	return slices.ContainsFunc(all, func(r refusal) bool { return strings.Contains(err.Error(), r.message) }) ||
		slices.ContainsFunc(bounds, func(b string) bool { return strings.Contains(err.Error(), b) })
}

// TestRefusals checks that what we refuse and tcpdump does not is refused with the listed reason, and documented.
func TestRefusals(t *testing.T) {
	guide, err := os.ReadFile("../../docs/filters.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refusals(t) {
		_, err := Compile(r.example, Options{})
		if err == nil || !strings.Contains(err.Error(), r.message) {
			t.Errorf("%s: got %v, want a refusal that says %q", r.example, err, r.message)
		}
		if !strings.Contains(string(guide), strings.ReplaceAll(r.example, "|", `\|`)) {
			t.Errorf("docs/filters.md does not name %q among what is refused", r.example)
		}
	}
}

// TestRefusalsAreOurs checks that the list has nothing that tcpdump refuses as well.
func TestRefusalsAreOurs(t *testing.T) {
	o := newOracle(t)
	for _, r := range refusals(t) {
		if answer := o.compile(r.example); answer.err != nil {
			t.Errorf("%s: tcpdump refuses it too: %v", r.example, answer.err)
		}
	}
}
