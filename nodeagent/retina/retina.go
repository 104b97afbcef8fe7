// Package retina offers the agent's numbers under the names that Microsoft Retina gives them, so that its dashboards and
// alerts go on. docs/retina.md says what differs.
//
// Types are Retina's: what counts is a gauge there mostly. Nothing is read here: families that were gathered get other
// names and labels.
//
//	retina.go  the conversion
//	names.go   what is called how
package retina

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// New is a gatherer of what another one gathers, under Retina's names. What it gathers is left as it is.
func New(from prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := from.Gather()
		return convert(families), err
	})
}

// labels are those of a series.
type labels []label

type label struct{ name, value string }

// get is empty for a label that is not there.
func (l labels) get(name string) string {
	for i := range l {
		if l[i].name == name {
			return l[i].value
		}
	}
	return ""
}

// A rule makes a family of Retina's of one of ours.
type rule struct {
	from, to string
	kind     dto.MetricType
	help     string
	// relabel makes Retina's labels; nil leaves the series out. Series that get the same labels are added up.
	relabel func(of labels, known *facts) labels
}

// facts are what one family says and others need.
type facts struct {
	uplinks map[string]bool      // by interface
	kinds   map[[2]string]string // of workloads, by namespace and pod
}

func convert(families []*dto.MetricFamily) []*dto.MetricFamily {
	byName := map[string]*dto.MetricFamily{}
	for _, family := range families {
		byName[family.GetName()] = family
	}
	known := learn(byName)
	made := map[string]*builder{}
	for i := range rules {
		r := &rules[i]
		family := byName[prefix+r.from]
		if family == nil {
			continue
		}
		b := made[r.to]
		if b == nil {
			b = &builder{rule: r, series: map[string]*dto.Metric{}}
			made[r.to] = b
		}
		var of labels
		for _, metric := range family.Metric {
			of = labelsOf(of, metric)
			if made := r.relabel(of, known); made != nil {
				b.add(made, metric)
			}
		}
	}
	var all []*dto.MetricFamily
	for _, b := range made {
		if len(b.family.Metric) > 0 {
			all = append(all, b.done())
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}

func learn(byName map[string]*dto.MetricFamily) *facts {
	known := &facts{uplinks: map[string]bool{}, kinds: map[[2]string]string{}}
	for _, metric := range byName[prefix+"node_interface_info"].GetMetric() {
		of := labelsOf(nil, metric)
		known.uplinks[of.get("interface")] = of.get("uplink") == "true"
	}
	for _, metric := range byName[prefix+"pod_info"].GetMetric() {
		of := labelsOf(nil, metric)
		known.kinds[[2]string{of.get("namespace"), of.get("pod")}] = of.get("workload_kind")
	}
	return known
}

// labelsOf uses the memory of before.
func labelsOf(before labels, metric *dto.Metric) labels {
	of := before[:0]
	for _, pair := range metric.Label {
		of = append(of, label{pair.GetName(), pair.GetValue()})
	}
	return of
}

// A builder gathers the series of one family.
type builder struct {
	rule   *rule
	family dto.MetricFamily
	series map[string]*dto.Metric // by labels
	key    []byte                 // memory for the next key
}

func (b *builder) add(of labels, from *dto.Metric) {
	slices.SortFunc(of, func(a, b label) int { return strings.Compare(a.name, b.name) })
	b.key = b.key[:0]
	for _, l := range of {
		b.key = append(append(append(append(b.key, l.name...), 0xff), l.value...), 0xff)
	}
	series := b.series[string(b.key)]
	if series == nil {
		series = &dto.Metric{Label: pairsOf(of)}
		b.series[string(b.key)] = series
		b.family.Metric = append(b.family.Metric, series)
	}
	switch b.rule.kind {
	case dto.MetricType_HISTOGRAM:
		series.Histogram = inMilliseconds(from.GetHistogram()) // one series only
	case dto.MetricType_COUNTER:
		series.Counter = &dto.Counter{Value: new(series.GetCounter().GetValue() + valueOf(from))}
	default:
		series.Gauge = &dto.Gauge{Value: new(series.GetGauge().GetValue() + valueOf(from))}
	}
}

// pairsOf points into of, which is kept.
func pairsOf(of labels) []*dto.LabelPair {
	pairs, all := make([]*dto.LabelPair, len(of)), make([]dto.LabelPair, len(of))
	for i := range of {
		all[i].Name, all[i].Value = &of[i].name, &of[i].value
		pairs[i] = &all[i]
	}
	return pairs
}

func valueOf(metric *dto.Metric) float64 {
	if metric.Counter != nil {
		return metric.Counter.GetValue()
	}
	return metric.GetGauge().GetValue()
}

func (b *builder) done() *dto.MetricFamily {
	b.family.Name, b.family.Help, b.family.Type = new(prefix+b.rule.to), new(b.rule.help), b.rule.kind.Enum()
	slices.SortFunc(b.family.Metric, func(x, y *dto.Metric) int {
		return slices.CompareFunc(x.Label, y.Label, func(p, q *dto.LabelPair) int {
			return cmp.Or(strings.Compare(p.GetName(), q.GetName()), strings.Compare(p.GetValue(), q.GetValue()))
		})
	})
	return &b.family
}

// inMilliseconds has the same buckets at 1,000 times their bounds, and no native ones: their bounds are powers of two.
func inMilliseconds(of *dto.Histogram) *dto.Histogram {
	h := &dto.Histogram{SampleCount: new(of.GetSampleCount()), SampleSum: new(of.GetSampleSum() * 1000)}
	for _, bucket := range of.GetBucket() {
		h.Bucket = append(h.Bucket, &dto.Bucket{
			CumulativeCount: new(bucket.GetCumulativeCount()), UpperBound: new(bucket.GetUpperBound() * 1000),
		})
	}
	return h
}
