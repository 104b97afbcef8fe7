package headers

import (
	"math"
	"testing"
)

// TestSlot: every value is in the bucket whose bounds hold it.
func TestSlot(t *testing.T) {
	check := func(ns uint64) {
		t.Helper()
		slot := Slot(ns)
		if slot < 0 || slot >= Slots {
			t.Fatalf("%d ns: slot %d", ns, slot)
		}
		bucket := float64(slot + LowestBucket)
		seconds := float64(ns) / 1e9
		low, high := math.Exp2((bucket-1)/8), math.Exp2(bucket/8)
		const rounding = 2.0 / (1 << 30) // two units
		if slot > 0 && seconds <= low-rounding || slot < Slots-1 && seconds > high+rounding {
			t.Errorf("%d ns is in bucket %v: above %v, up to %v s", ns, bucket, low, high)
		}
	}
	for ns := uint64(1); ns < 1<<40; ns += 1 + ns/1000 {
		check(ns)
	}
	for shift := range 64 {
		check(1<<shift - 1)
		check(1 << shift)
		check(1<<shift + 1)
	}
	check(math.MaxUint64)
}

func TestPodNumber(t *testing.T) {
	a, b := PodNumber("9a6e1b7c-4a2f-4e9c-8f0e-000000000001"), PodNumber("9a6e1b7c-4a2f-4e9c-8f0e-000000000002")
	if a == b || a <= Node || b <= Node {
		t.Errorf("%x and %x", a, b)
	}
}
