package live

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestWarning(t *testing.T) {
	var silent []error
	for i := range 300 {
		silent = append(silent, fmt.Errorf("node-%d: no answer in 3s", i))
	}
	got := Warning(silent, 1000)
	if !strings.HasPrefix(got, "300 of 1000 nodes did not answer: node-0: no answer in 3s; ") || !strings.HasSuffix(got, "; and 290 more") {
		t.Errorf("got %q", got)
	}
	for _, length := range []int{10, 500, 5000} {
		long := errors.New("node-1: " + strings.Repeat("é", length))
		for n := range 4 {
			if got := Warning(append([]error{long}, silent[:n]...), 9); len(got) > maxWarning || strings.ToValidUTF8(got, "") != got {
				t.Errorf("%d nodes, %d letters: %d bytes: %q", n+1, length, len(got), got)
			}
		}
	}
}
