package paired

import (
	"errors"
	"testing"
)

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 50: 3, 99: 5, 100: 5} {
		if got := Percentile(values, p); got != want {
			t.Errorf("percentile %v is %v, not %v", p, got, want)
		}
	}
}

func TestMeasureTakesTurns(t *testing.T) {
	var order string
	measure := func(name string, value float64) func() (float64, error) {
		return func() (float64, error) {
			order += name
			return value, nil
		}
	}
	c, err := Measure(3, measure("b", 10), measure("c", 15))
	if err != nil || order != "bccbbc" {
		t.Errorf("turns were %s, %v", order, err)
	}
	if median, low, high := c.Difference(); median != 5 || low != 5 || high != 5 || c.Ratio() != 1.5 {
		t.Errorf("differences are %v, %v, %v, the ratio %v", median, low, high, c.Ratio())
	}
	broken := errors.New("broken")
	if _, err := Measure(1, measure("b", 1), func() (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}
