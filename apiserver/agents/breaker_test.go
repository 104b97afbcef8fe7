package agents

import (
	"errors"
	"fmt"
	"testing"
)

func TestBreaker(t *testing.T) {
	var b breaker
	now := epoch
	state := func() string {
		if !b.open {
			return "closed"
		}
		return fmt.Sprintf("open, probe in %v: %v", b.probeAt.Sub(now), b.refusal())
	}
	transcript(t, "breaker.txt", func(t *testing.T, words []string) string {
		switch words[0] {
		case "new":
			b, now = breaker{}, epoch
		case "wait":
			now = now.Add(duration(t, words[1]))
		case "answered":
			b.succeeded()
		case "unreachable":
			b.failed(now, errors.New("refused"), false)
		case "timeout":
			b.failed(now, errors.New("timed out"), true)
		case "due":
			return fmt.Sprint(b.probeDue(now))
		case "probe":
			var err error
			if words[1] == "failed" {
				err = errors.New("still out")
			}
			b.probed(now, err)
		default:
			t.Fatalf("unknown command %q", words)
		}
		return state()
	})
}
