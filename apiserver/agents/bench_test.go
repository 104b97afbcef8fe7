package agents

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"
)

// BenchmarkRead reads 110 pods of each agent over warm connections. Agents run in the same process, so half of
// the time and most of the memory are theirs; idle-B/agent is what a connection adds at both ends.
func BenchmarkRead(b *testing.B) {
	for _, agents := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("agents=%d", agents), func(b *testing.B) { benchmarkRead(b, agents) })
	}
}

func benchmarkRead(b *testing.B, agents int) {
	w := newWorld(b)
	queries := map[string]Query{}
	for i := range agents {
		node := fmt.Sprintf("node-%04d", i)
		w.agent(node)
		queries[node] = Query{PodKeys: keysOf(node, 110), Node: true}
	}
	// A clock that moves by hand keeps reads from sharing answers.
	clock := testclock.NewFakeClock(time.Now())
	f := w.fleet(func(c *Config) { c.Clock = clock })
	before := resident(b)
	began := time.Now()
	readAll(b, f, queries)
	first := time.Since(began)
	clock.Step(2 * time.Second)
	f.sweep()
	idle := resident(b) - before
	b.ReportAllocs()
	for b.Loop() {
		readAll(b, f, queries)
		clock.Step(2 * time.Second)
	}
	b.ReportMetric(float64(first.Milliseconds()), "first-ms")
	b.ReportMetric(float64(idle)/float64(agents), "idle-B/agent")
	b.ReportMetric(float64(peak(b))/(1<<20), "peak-MiB")
}

func readAll(b *testing.B, f *Fleet, queries map[string]Query) {
	for node, reply := range mustRead(b, f, queries) {
		if reply.Err != nil || len(reply.Pods) != 110 {
			b.Fatalf("%s: %d rows, %v", node, len(reply.Pods), reply.Err)
		}
	}
}

// resident is what heap and stacks hold after a collection, in bytes.
func resident(b *testing.B) uint64 {
	b.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// peak is the most memory that the process had resident, in bytes (VmHWM of proc_pid_status(5)).
func peak(b *testing.B) uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}
