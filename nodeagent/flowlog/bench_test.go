package flowlog

import (
	"testing"
)

// BenchmarkVisit is logging 10,000 flows, and finding that it is too early to.
func BenchmarkVisit(b *testing.B) {
	for _, ended := range []bool{true, false} {
		b.Run(map[bool]string{true: "logged", false: "waits"}[ended], func(b *testing.B) {
			logged := 0
			s := newSession(New(Config{Telemetry: named(newTelemetry(nil, web)), Log: func(r []*Record) { logged += len(r) }}))
			c := change()
			c.Ended = ended
			s.begin(minute, begun)
			b.ReportAllocs()
			for b.Loop() {
				for range 10_000 {
					s.visit(c)
				}
				s.flush()
			}
			if (logged > 0) != ended {
				b.Errorf("%d records", logged)
			}
		})
	}
}
