package peers

import (
	"fmt"
	"testing"
	"time"
)

// TestPlacesHeal: after a scan, what is used gets places again: first those that have been idle for longest. What is used keeps
// its place, the sum of what is folded never falls, and no count is lost but with the series that ended.
func TestPlacesHeal(t *testing.T) {
	tables := newTables(asked{port: true}, 4, 100)
	begin := time.Unix(1_000_000, 0)
	one := [2]int64{1, 0}
	now := begin
	use := func(after time.Duration, ports ...string) {
		now = begin.Add(after)
		tables.now = now
		tables.heal()
		for _, port := range ports {
			tables.add("a", Labels{Protocol: "TCP", Port: port}, one, one)
		}
	}
	has := func(want ...string) {
		t.Helper()
		of := tables.pods["a"]
		if len(of.places) != len(want) || tables.counters != len(want) {
			t.Errorf("%d have places (%d of the node), want %v", len(of.places), tables.counters, want)
		}
		for _, port := range want {
			place, there := of.places[Labels{Protocol: "TCP", Port: port}]
			if !there || of.counters[place].Labels.Port != port {
				t.Errorf("%s has no place", port)
			}
		}
	}
	folded := func() int64 { return tables.pods["a"].counters[tables.pods["a"].other].Packets[0] }

	use(0, "80", "scan1", "scan2", "scan3")
	for i := range 2000 {
		use(time.Second, fmt.Sprint("more", i))
	}
	has("80", "scan1", "scan2", "scan3")
	if folded() != 2000 || tables.folded != maxFolded {
		t.Errorf("folded are %d packets, %d labels", folded(), tables.folded)
	}
	use(2*time.Second, "scan2") // it comes back once
	use(10*time.Minute, "80", "443")
	has("80", "scan1", "scan2", "scan3")
	if folded() != 2001 {
		t.Errorf("folded are %d packets", folded())
	}

	use(idleFor, "80", "443")
	if len(tables.pods["a"].places) != 4 || folded() != 2001 {
		t.Errorf("%d have places, folded are %d packets", len(tables.pods["a"].places), folded())
	}
	use(idleFor+time.Second, "8080", "9090") // of which the first takes the other's place
	use(idleFor+3*time.Second, "9090")
	has("80", "443", "8080", "9090")
	if folded() != 2002 {
		t.Errorf("folded are %d packets", folded())
	}
	if place := tables.pods["a"].places[Labels{Protocol: "TCP", Port: "443"}]; tables.pods["a"].counters[place].Packets[0] != 1 {
		t.Errorf("443 began with %d packets", tables.pods["a"].counters[place].Packets[0])
	}
	use(30*time.Minute, "80", "443", "8080", "9090")
	if tables.folded != 0 {
		t.Errorf("%d labels are still said to be folded", tables.folded)
	}
	use(30*time.Minute, "late")
	has("80", "443", "8080", "9090")
	if folded() != 2003 || tables.folded != 1 {
		t.Errorf("folded are %d packets, %d labels", folded(), tables.folded)
	}
	tables.forget("a")
	if tables.counters != 0 || tables.folded != 0 {
		t.Errorf("of nobody: %d counters, %d folded", tables.counters, tables.folded)
	}
}

// BenchmarkScan is of new labels while all places are taken, none of them idle, and while all are idle.
func BenchmarkScan(b *testing.B) {
	tables := newTables(asked{port: true}, 10_000, 100_000)
	tables.now = time.Unix(1_000_000, 0)
	for i := range 10_000 {
		tables.add("a", Labels{Port: fmt.Sprint(i)}, [2]int64{}, [2]int64{1, 1})
	}
	for name, after := range map[string]time.Duration{"taken": time.Second, "idle": idleFor} {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				if i++; i%10_000 == 0 {
					tables.now = tables.now.Add(after)
				}
				tables.add("a", Labels{Port: "new", DNSName: fmt.Sprint(i)}, [2]int64{}, [2]int64{1, 1})
			}
		})
	}
}
