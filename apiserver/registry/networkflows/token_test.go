package networkflows

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"testing"
	"time"
)

func TestToken(t *testing.T) {
	whole := token{version: 9, since: time.Unix(5, 7).UTC(), cursors: map[nodeID]cursor{idOf("n1"): {1 << 60, 1 << 40}, idOf("n2"): {3, 0}}}
	got, err := parseToken(whole.encode())
	if err != nil || got.version != 9 || !got.since.Equal(whole.since) || !got.until.IsZero() || !maps.Equal(got.cursors, whole.cursors) {
		t.Errorf("got %+v, %v", got, err)
	}
	text, _ := base64.RawURLEncoding.DecodeString(whole.encode())
	for n := range len(text) - 1 {
		if got, err := parseToken(base64.RawURLEncoding.EncodeToString(text[:n])); err == nil && len(got.cursors) != 1 {
			t.Errorf("cut to %d bytes it was read as %+v", n, got)
		}
	}
	for i := range 10_000 {
		whole.cursors[idOf(fmt.Sprint(i))] = cursor{time.Now().UnixNano(), 1 << 40}
	}
	if _, err := parseToken(whole.encode()); err != nil {
		t.Errorf("a token of 10,000 nodes has %d bytes: %v", len(whole.encode()), err)
	}
}

// FuzzToken: whatever comes, a token that is read survives being written.
func FuzzToken(f *testing.F) {
	f.Add(token{version: 9, since: time.Unix(5, 7), cursors: map[nodeID]cursor{idOf("n1"): {1 << 60, 1 << 40}}}.encode())
	f.Add(token{version: 1, cursors: map[nodeID]cursor{idOf("n1"): {0, 0}, idOf("n2"): {-1, 5}}}.encode())
	f.Add("AQEAAA")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseToken(text)
		if err != nil {
			return
		}
		if got.version == 0 || len(got.cursors) == 0 {
			t.Errorf("%q was read as %+v", text, got)
		}
		again, err := parseToken(got.encode())
		if err != nil || again.version != got.version || !again.since.Equal(got.since) || !again.until.Equal(got.until) || !maps.Equal(again.cursors, got.cursors) {
			t.Errorf("%+v was read again as %+v, %v", got, again, err)
		}
	})
}

// FuzzName: a name that is read is the only one of its place.
func FuzzName(f *testing.F) {
	f.Add(place{"n1", 1700000000000000000, 42}.name())
	f.Add("0480a93d-1-01")
	f.Fuzz(func(t *testing.T, name string) {
		hash, instance, position, ok := parseName(name)
		if !ok {
			return
		}
		if again := hash + (place{"", instance, position}).name()[2*hashBytes:]; again != name {
			t.Errorf("%q is %q", name, again)
		}
	})
}

// TestTimesFarAway: whatever time a client names, agents are asked for one that they take, and the next page for the same.
func TestTimesFarAway(t *testing.T) {
	for text, want := range map[string]int64{
		"1500-01-01T00:00:00Z": 1, "1969-12-31T23:59:59Z": 1, "1970-01-01T00:00:00Z": 1, "2026-01-02T03:04:05Z": 1767323045000000000,
		"2500-01-01T00:00:00Z": math.MaxInt64,
	} {
		options, err := optionsOf("", "since="+text+",until="+text)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSelection(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if request := s.query(nil); request.SinceUnixNano != want || request.UntilUnixNano != want {
			t.Errorf("%s: asked since %d until %d, want %d", text, request.SinceUnixNano, request.UntilUnixNano, want)
		}
		next, err := parseToken(token{version: 1, since: s.since, until: s.until, cursors: map[nodeID]cursor{{}: {}}}.encode())
		if err != nil || next.since.UnixNano() != want || next.until.UnixNano() != want {
			t.Errorf("%s: the next page is asked since %v until %v (%v)", text, next.since, next.until, err)
		}
	}
}
