package networkflows

import (
	"errors"
	"slices"
	"testing"
)

// TestArrivalsAreReadAgain: what pods had before they were asked for is told of, also when the agent does not answer at first.
func TestArrivalsAreReadAgain(t *testing.T) {
	w := newWorld(t)
	w.pod("x", "a", "n1", nil)
	b := w.pod("x", "b", "n1", nil)
	w.agents.Record("n1", w.flow(b, "198.51.100.1", 1))
	f := &feed{node: "n1", known: true, instance: w.agents.Instance("n1"), revision: 1}
	if err := w.rest.hub.catchUpArrivals(t.Context(), f, []string{"x/a"}); err != nil {
		t.Fatal(err)
	}
	both := []string{"x/a", "x/b"}
	silence := errors.New("no answer")
	w.agents.Silence("n1", silence)
	if err := w.rest.hub.catchUpArrivals(t.Context(), f, both); !errors.Is(err, silence) {
		t.Fatalf("a silent agent: %v", err)
	}
	w.agents.Silence("n1", nil)
	w.agents.Asked()
	for _, want := range []int{1, 0} {
		if err := w.rest.hub.catchUpArrivals(t.Context(), f, both); err != nil {
			t.Fatal(err)
		}
		asked := w.agents.Asked()
		if len(asked) != want || want > 0 && !slices.Equal(asked[0].Request.PodKeys, []string{"x/b"}) {
			t.Errorf("asked %v, want %d reads of x/b", asked, want)
		}
	}
}
