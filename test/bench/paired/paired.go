// Package paired compares two ways of doing a thing in one run, on one machine: turn by turn, so that
// whatever else the machine does meets both alike.
package paired

import (
	"fmt"
	"slices"
)

// A Comparison holds the measurements of pairs, in one unit.
type Comparison struct {
	Base, Changed []float64
}

// Measure runs base and changed in turn, the given number of times, swapping who goes first.
func Measure(pairs int, base, changed func() (float64, error)) (*Comparison, error) {
	c := &Comparison{}
	for i := range pairs {
		turns := []struct {
			measure func() (float64, error)
			into    *[]float64
		}{{base, &c.Base}, {changed, &c.Changed}}
		if i%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			value, err := turn.measure()
			if err != nil {
				return nil, err
			}
			*turn.into = append(*turn.into, value)
		}
	}
	return c, nil
}

// Difference is the median of the pairs' differences, and the interval that holds the middle half of them.
func (c *Comparison) Difference() (median, low, high float64) {
	differences := make([]float64, len(c.Base))
	for i := range differences {
		differences[i] = c.Changed[i] - c.Base[i]
	}
	return Percentile(differences, 50), Percentile(differences, 25), Percentile(differences, 75)
}

// Ratio is the median of changed over the median of base.
func (c *Comparison) Ratio() float64 {
	return Percentile(c.Changed, 50) / Percentile(c.Base, 50)
}

func (c *Comparison) String() string {
	median, low, high := c.Difference()
	return fmt.Sprintf("%+.1f (middle half %+.1f to %+.1f) on %.1f, ratio %.3f, %d pairs",
		median, low, high, Percentile(c.Base, 50), c.Ratio(), len(c.Base))
}

// Percentile is the value below which p percent of values lie, by the nearest rank. It panics without values.
func Percentile(values []float64, p float64) float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p/100))]
}
