package paired

import "testing"

// The ranks are those of tables of the sign test: the interval is from the (k+1)-th smallest to the (k+1)-th largest.
func TestOutside(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 10: 1, 20: 5, 40: 13, 100: 39} {
		if got := outside(n); got != want {
			t.Errorf("of %d values %d are outside on each side, not %d", n, got, want)
		}
	}
}

func TestRatioInterval(t *testing.T) {
	c := &Comparison{}
	for i := range 40 {
		c.Base = append(c.Base, 100)
		c.Changed = append(c.Changed, float64(81+i))
	}
	if median, low, high := c.RatioInterval(); median != 1.01 || low != 0.94 || high != 1.07 {
		t.Errorf("the ratio is %v, from %v to %v", median, low, high)
	}
}
