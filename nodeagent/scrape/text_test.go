package scrape

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

var textFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

func pointer[T any](v T) *T { return &v }

func labels(namesAndValues ...string) (all []*dto.LabelPair) {
	for i := 0; i < len(namesAndValues); i += 2 {
		all = append(all, &dto.LabelPair{Name: &namesAndValues[i], Value: &namesAndValues[i+1]})
	}
	return all
}

func counter(value float64, namesAndValues ...string) *dto.Metric {
	return &dto.Metric{Label: labels(namesAndValues...), Counter: &dto.Counter{Value: &value}}
}

// compare writes families in both ways.
func compare(t *testing.T, families ...*dto.MetricFamily) {
	t.Helper()
	var want, got bytes.Buffer
	encoder := expfmt.NewEncoder(&want, textFormat)
	for _, family := range families {
		_ = encoder.Encode(family)
	}
	if err := writeText(&got, textFormat, families); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s", &got, &want)
	}
}

// TestText: what is written is what expfmt writes, byte for byte.
func TestText(t *testing.T) {
	numbers := []float64{
		0, math.Copysign(0, -1), 1, -1, 7, 999_999, 1e6, -999_999, -1e6, 1234567, 1e21, 1 << 53, 0.5, 1e-7, 0.1, 999_999.5, math.MaxFloat64,
		math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), math.NaN(),
	}
	counters := &dto.MetricFamily{Name: pointer("a_total"), Help: pointer(`Help with "quotes", a \ and` + "\n."), Type: dto.MetricType_COUNTER.Enum()}
	gauges := &dto.MetricFamily{Name: pointer("_b:9"), Type: dto.MetricType_GAUGE.Enum()}
	histograms := &dto.MetricFamily{Name: pointer("c_seconds"), Help: pointer(""), Type: dto.MetricType_HISTOGRAM.Enum()}
	for _, number := range numbers {
		counters.Metric = append(counters.Metric, counter(number, "pod", `a"b\c`+"\nd", "empty", "", "word", "ä"))
		gauges.Metric = append(gauges.Metric, &dto.Metric{Gauge: &dto.Gauge{Value: pointer(number)}, TimestampMs: pointer(int64(-5))})
		histograms.Metric = append(histograms.Metric, &dto.Metric{Label: labels("pod", "a"), Histogram: &dto.Histogram{
			SampleCount: pointer(uint64(12)), SampleSum: &number,
			Bucket: []*dto.Bucket{{UpperBound: pointer(number / 2), CumulativeCount: pointer(uint64(3))}, {UpperBound: &number, CumulativeCountFloat: pointer(2.5)}},
		}})
	}
	histograms.Metric = append(histograms.Metric,
		&dto.Metric{Histogram: &dto.Histogram{SampleCountFloat: pointer(2.5)}},
		&dto.Metric{Histogram: &dto.Histogram{Bucket: []*dto.Bucket{{}}}})
	many := &dto.MetricFamily{Name: pointer("many_total"), Type: dto.MetricType_COUNTER.Enum()}
	for range 1000 {
		many.Metric = append(many.Metric, counter(1, "pod", strings.Repeat("x", 90)))
	}
	compare(t, counters, gauges, histograms, many)
}

// TestOddText: what is rare is left to expfmt, in its place.
func TestOddText(t *testing.T) {
	plain := &dto.MetricFamily{Name: pointer("plain_total"), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{counter(1)}}
	for name, family := range map[string]*dto.MetricFamily{
		"no name":          {Type: dto.MetricType_COUNTER.Enum(), Metric: plain.Metric},
		"a name in quotes": {Name: pointer("with.dots"), Type: dto.MetricType_COUNTER.Enum(), Metric: plain.Metric},
		"a digit first":    {Name: pointer("9"), Type: dto.MetricType_COUNTER.Enum(), Metric: plain.Metric},
		"a label in quotes": {Name: pointer("a"), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{
			counter(1, "with.dots", "value"),
		}},
		"no metrics": {Name: pointer("a"), Type: dto.MetricType_COUNTER.Enum()},
		"no value":   {Name: pointer("a"), Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{}}, counter(1)}},
		"a summary": {Name: pointer("a"), Type: dto.MetricType_SUMMARY.Enum(), Metric: []*dto.Metric{{Summary: &dto.Summary{
			SampleCount: pointer(uint64(2)), Quantile: []*dto.Quantile{{Quantile: pointer(0.5), Value: pointer(1.5)}},
		}}}},
		"untyped":         {Name: pointer("a"), Type: dto.MetricType_UNTYPED.Enum(), Metric: []*dto.Metric{{Untyped: &dto.Untyped{Value: pointer(1.0)}}}},
		"gauge histogram": {Name: pointer("a"), Type: dto.MetricType_GAUGE_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Histogram: &dto.Histogram{}}}},
	} {
		t.Run(name, func(t *testing.T) { compare(t, plain, family, plain) })
	}
}

// FuzzText compares with expfmt.
func FuzzText(f *testing.F) {
	f.Add("a_total", "help", "pod", "value", 1.0, uint8(0))
	f.Add("a", "\n\\\"", "le", "\n\\\"", 1e6, uint8(4))
	f.Add("9.", "", "", "\xff", math.NaN(), uint8(1))
	f.Fuzz(func(t *testing.T, name, help, label, value string, number float64, kind uint8) {
		metric := counter(number, label, value)
		metric.Gauge = &dto.Gauge{Value: &number}
		metric.Histogram = &dto.Histogram{SampleSum: &number, Bucket: []*dto.Bucket{{UpperBound: &number}}}
		compare(t, &dto.MetricFamily{Name: &name, Help: &help, Type: dto.MetricType(kind % 6).Enum(), Metric: []*dto.Metric{metric, metric}})
	})
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) {
	b.writes++
	return 0, errors.New("gone away")
}

// TestReaderGoesAway: nothing is written any more.
func TestReaderGoesAway(t *testing.T) {
	family := &dto.MetricFamily{Name: pointer("a_total"), Type: dto.MetricType_COUNTER.Enum()}
	for range 10_000 {
		family.Metric = append(family.Metric, counter(1, "pod", "value"))
	}
	to := &broken{}
	if err := writeText(to, textFormat, []*dto.MetricFamily{family, {}, family}); err == nil || to.writes != 1 {
		t.Errorf("%v after %d writes", err, to.writes)
	}
}

// BenchmarkText compares with expfmt, on 6,000 series as 110 pods have them.
func BenchmarkText(b *testing.B) {
	family := &dto.MetricFamily{Name: pointer("networkobservability_pod_bytes_total"), Type: dto.MetricType_COUNTER.Enum()}
	for i := range 6000 {
		family.Metric = append(family.Metric, counter(float64(i*1000), "direction", "receive", "namespace", "shop", "pod", "frontend-7d9c6b5f4-abcde", "workload", "frontend"))
	}
	families := []*dto.MetricFamily{family}
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			_ = writeText(io.Discard, textFormat, families)
		}
	})
	b.Run("expfmt", func(b *testing.B) {
		for b.Loop() {
			_ = expfmt.NewEncoder(io.Discard, textFormat).Encode(family)
		}
	})
}
