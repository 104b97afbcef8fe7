package agents

import (
	"fmt"
	"testing"
	"time"
)

// TestLongestDueFirst: of more silent agents than can be probed at once, none waits for its luck.
func TestLongestDueFirst(t *testing.T) {
	f := &Fleet{agents: map[string]*agent{}}
	began := time.Unix(1000, 0)
	for i := range 100 {
		a := &agent{node: fmt.Sprint(i)}
		a.breaker.failed(began.Add(time.Duration(i)*time.Second), errTimeout, true)
		a.breaker.probing = i%10 == 0
		f.agents[a.node] = a
	}
	f.agents["well"] = &agent{node: "well"}
	due := f.longestDue()
	if len(due) != 90 || due[0].node != "1" || due[89].node != "99" {
		t.Fatalf("%d are due, the first is %s, the last %s", len(due), due[0].node, due[len(due)-1].node)
	}
	for i := range due[1:] {
		if due[i+1].breaker.probeAt.Before(due[i].breaker.probeAt) {
			t.Errorf("%s comes before %s", due[i].node, due[i+1].node)
		}
	}
}
