package paired

import (
	"math"
	"slices"
)

// RatioInterval is the median of the pairs' ratios, changed to base, and an interval that holds the true median with
// a probability of at least 95%, whatever the distribution: the k-th smallest ratio and the k-th largest, with k from
// the binomial distribution. With fewer than six pairs there is none, and it is all that was measured.
func (c *Comparison) RatioInterval() (median, low, high float64) {
	ratios := make([]float64, len(c.Base))
	for i := range ratios {
		ratios[i] = c.Changed[i] / c.Base[i]
	}
	slices.Sort(ratios)
	k := outside(len(ratios))
	return Percentile(ratios, 50), ratios[k], ratios[len(ratios)-1-k]
}

// outside is how many of n values may be left out on each side: the largest k such that at most k of n throws of a coin
// are heads with a probability of 2.5% or less; 0 at least.
func outside(n int) int {
	logOfAll := float64(n) * math.Ln2
	sum := 0.0
	for k := range n {
		sum += math.Exp(logChoose(n, k) - logOfAll)
		if sum > 0.025 {
			return max(0, k-1)
		}
	}
	return 0
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}
