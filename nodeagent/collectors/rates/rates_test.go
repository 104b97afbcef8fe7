package rates

import (
	"testing"
	"time"
)

func TestBefore(t *testing.T) {
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for _, test := range []struct {
		name    string
		samples []float64
		now     float64
		want    float64 // time of the sample; -1 for none
	}{
		{"no sample", nil, 0, -1},
		{"a sample that is too young", []float64{0}, 4.9, -1},
		{"one sample", []float64{0}, 5, 0},
		{"the younger of two that will do", []float64{0, 5}, 10, 5},
		{"the older where the younger is too young", []float64{0, 5}, 9.9, 0},
		{"samples that are too old", []float64{0, 5}, 15.1, -1},
		{"three samples, of which two are kept", []float64{0, 5, 10}, 12, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Window[float64]
			for _, s := range test.samples {
				w.Add(at(s), s)
			}
			value, window, ok := w.Before(at(test.now))
			if ok != (test.want >= 0) || (ok && (value != test.want || window != at(test.now).Sub(at(test.want)))) {
				t.Errorf("sample %v, %v ago (%v), want %v", value, window, ok, test.want)
			}
		})
	}
}

func TestMilli(t *testing.T) {
	for _, test := range []struct {
		before, now int64
		window      time.Duration
		want        int64
	}{
		{0, 100, 10 * time.Second, 10_000},
		{100, 100, 10 * time.Second, 0},
		{100, 0, 10 * time.Second, 0},
		{0, 1, 8 * time.Second, 125},
		{0, 100, 0, 0},
	} {
		if got := Milli(test.before, test.now, test.window); got != test.want {
			t.Errorf("from %d to %d in %v: %d, want %d", test.before, test.now, test.window, got, test.want)
		}
	}
}
