package flows

import (
	"fmt"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

// BenchmarkDrain is a drain of tables of the size that agents make, which hold so many flows: of which none has changed
// since the last one, or all.
func BenchmarkDrain(b *testing.B) {
	for _, n := range []int{5_000, 100_000} {
		for _, changed := range []bool{false, true} {
			b.Run(fmt.Sprintf("flows=%d/changed=%v", n, changed), func(b *testing.B) {
				w := newWorld(b, 131_072)
				c := w.agent(Config{})
				w.fill(n, 1)
				drain(b, c)
				b.ReportAllocs()
				spent := time.Duration(0)
				for round := uint64(2); b.Loop(); round++ {
					if changed {
						b.StopTimer()
						w.fill(n, round)
						b.StartTimer()
					}
					begun := cpu(b)
					if err := c.drain(); err != nil {
						b.Fatal(err)
					}
					spent += cpu(b) - begun
				}
				b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
				b.ReportMetric(float64(int(c.history.used)*int(unsafe.Sizeof(record{}))+len(c.history.index)*4), "history-bytes")
			})
		}
	}
}

// BenchmarkRead is reading all of so many flows.
func BenchmarkRead(b *testing.B) {
	const n = 100_000
	w := newWorld(b, 131_072)
	c := w.agent(Config{})
	w.fill(n, 1)
	drain(b, c)
	c.drained = time.Now().Add(time.Hour) // no drain
	b.ReportAllocs()
	begun := cpu(b)
	for b.Loop() {
		flows := 0
		err := c.Read(b.Context(), request(), func(batch *v1alpha1.ReadFlowsResponse) error {
			flows += len(batch.Flows)
			return nil
		})
		if err != nil || flows != n {
			b.Fatalf("%d flows: %v", flows, err)
		}
	}
	b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
}

// fill puts so many flows of IPv4, with so many packets each, into the tables.
func (w *world) fill(n int, packets uint64) {
	keys, values := make([]headers.FlowKey4, n), make([]headers.Flow, n)
	now := monotonic()
	for i := range keys {
		keys[i], values[i] = key4(i%2, i), w.flow(packets, packets)
		values[i].Last = now
	}
	if _, err := w.shared["flows4"].BatchUpdate(keys, values, nil); err != nil {
		w.t.Fatal(err)
	}
}

// cpu is the time that this process has spent on CPUs.
func cpu(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
