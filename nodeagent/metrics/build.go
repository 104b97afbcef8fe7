package metrics

import (
	"strings"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Bounds of the classic buckets of all histograms, in seconds: powers of two, where native buckets end, too, so that
// nothing is interpolated. native[i] is the native bucket that ends at classic[i].
var (
	classic = [...]float64{1. / 1024, 1. / 256, 1. / 64, 1. / 16, 1. / 4, 1, 4, 16}
	native  = [...]int32{-80, -64, -48, -32, -16, 0, 16, 32}
)

const (
	// histogramSeries is what a histogram counts as: buckets, the one without bound, sum and count.
	histogramSeries = len(classic) + 3
	// schema says that native bucket i ends at 2^(i/2^schema).
	schema = 3
	// zeroThreshold is Prometheus's default. Without it an empty histogram would not be taken for a native one.
	zeroThreshold = 2.938735877055719e-39
	// room is how many messages are made at a time.
	room = 512
)

// An output is the families of one gather. Its messages are made many at a time, which is most of what making them costs.
type output struct {
	families [families]*dto.MetricFamily
	counters []ofCounter
	gauges   []ofGauge
	many     []many
}

// ofCounter is a series of a counter.
type ofCounter struct {
	metric  dto.Metric
	counter dto.Counter
	value   float64
}

// ofGauge is a series of a gauge.
type ofGauge struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
}

// many is a histogram.
type many struct {
	metric      dto.Metric
	histogram   dto.Histogram
	buckets     [len(classic)]dto.Bucket
	pointers    [len(classic)]*dto.Bucket
	cumulative  [len(classic)]uint64
	count, zero uint64
	sum         float64
}

// Values that all messages share.
var (
	sharedSchema    int32 = schema
	sharedThreshold       = zeroThreshold
	counterType           = counter
	gaugeType             = gauge
	histogramType         = histogram
)

func (o *output) add(id family, metric *dto.Metric) {
	f := o.families[id]
	if f == nil {
		about := &catalogue[id]
		f = &dto.MetricFamily{Name: &about.Name, Help: &about.Help, Type: typeOf(about.Type)}
		// OpenMetrics wants that names end in their unit; nothing else may be one.
		if about.Unit != "" && strings.HasSuffix(strings.TrimSuffix(about.Name, "_total"), "_"+about.Unit) {
			f.Unit = &about.Unit
		}
		o.families[id] = f
	}
	f.Metric = append(f.Metric, metric)
}

func typeOf(t dto.MetricType) *dto.MetricType {
	switch t {
	case counter:
		return &counterType
	case gauge:
		return &gaugeType
	}
	return &histogramType
}

// value adds a series of a counter or a gauge; created is since when a counter counts, nil where that is not known. The result
// may be added to until the families are given away.
func (o *output) value(id family, labels []*dto.LabelPair, value float64, created *timestamppb.Timestamp) *float64 {
	if catalogue[id].Type == counter {
		s := take(&o.counters, room)
		s.value, s.counter.Value, s.counter.CreatedTimestamp = value, &s.value, created
		s.metric.Label, s.metric.Counter = labels, &s.counter
		o.add(id, &s.metric)
		return &s.value
	}
	s := take(&o.gauges, room/4)
	s.value, s.gauge.Value = value, &s.value
	s.metric.Label, s.metric.Gauge = labels, &s.gauge
	o.add(id, &s.metric)
	return &s.value
}

// take gives one of those that are made, many at a time.
func take[message any](made *[]message, many int) *message {
	if len(*made) == 0 {
		*made = make([]message, many)
	}
	one := &(*made)[0]
	*made = (*made)[1:]
	return one
}

// histogram adds a series of a histogram, with classic and native buckets; created is as in value.
func (o *output) histogram(id family, labels []*dto.LabelPair, from *v1alpha1.Histogram, created *timestamppb.Timestamp) {
	m := take(&o.many, room/8)
	h := &m.histogram
	m.metric.Label, m.metric.Histogram = labels, h
	o.add(id, &m.metric)

	m.sum = float64(from.GetSumNano()) / 1e9
	h.SampleCount, h.SampleSum, h.CreatedTimestamp = &m.count, &m.sum, created
	h.Schema, h.ZeroThreshold, h.ZeroCount = &sharedSchema, &sharedThreshold, &m.zero
	next := 0
	for i, index := range from.GetIndexes() {
		for next < len(native) && index > native[next] {
			m.cumulative[next] = m.count
			next++
		}
		m.count += uint64(from.GetCounts()[i])
	}
	for ; next < len(native); next++ {
		m.cumulative[next] = m.count
	}
	for i := range m.buckets {
		m.buckets[i].UpperBound, m.buckets[i].CumulativeCount = &classic[i], &m.cumulative[i]
		m.pointers[i] = &m.buckets[i]
	}
	h.Bucket = m.pointers[:]
	h.PositiveSpan, h.PositiveDelta = spans(from)
}

// spans are runs of buckets without a gap: how far each begins from the end of the one before, and how long it is. Deltas
// are how much each bucket has more than the one before it.
func spans(from *v1alpha1.Histogram) (spans []*dto.BucketSpan, deltas []int64) {
	indexes, counts := from.GetIndexes(), from.GetCounts()
	if len(indexes) == 0 {
		return nil, nil
	}
	deltas = make([]int64, len(indexes))
	var end int32 // of the last span
	var before int64
	for i, index := range indexes {
		if i == 0 || index != end {
			offset, length := index-end, uint32(0)
			spans = append(spans, &dto.BucketSpan{Offset: &offset, Length: &length})
		}
		*spans[len(spans)-1].Length++
		end = index + 1
		deltas[i], before = counts[i]-before, counts[i]
	}
	return spans, deltas
}

// A dense histogram is one that others are added to.
type dense struct {
	counts  [buckets]int64
	sumNano int64
}

const (
	lowestBucket = -160
	buckets      = 209
)

// rise adds by how much a histogram has grown.
func (d *dense) rise(before, now *v1alpha1.Histogram) {
	old := 0
	for i, index := range now.GetIndexes() {
		for old < len(before.GetIndexes()) && before.Indexes[old] < index {
			old++
		}
		grown := now.Counts[i]
		if old < len(before.GetIndexes()) && before.Indexes[old] == index {
			grown -= before.Counts[old]
		}
		if slot := int(index) - lowestBucket; slot >= 0 && slot < buckets {
			d.counts[slot] += max(0, grown)
		}
	}
	d.sumNano += max(0, now.GetSumNano()-before.GetSumNano())
}

func (d *dense) wire() *v1alpha1.Histogram {
	h := &v1alpha1.Histogram{SumNano: d.sumNano}
	for slot, count := range d.counts {
		if count > 0 {
			h.Indexes = append(h.Indexes, int32(slot+lowestBucket))
			h.Counts = append(h.Counts, count)
		}
	}
	return h
}

// pair makes a label.
func pair(name, value string) *dto.LabelPair {
	value = clean(value)
	return &dto.LabelPair{Name: &name, Value: &value}
}

// clean writes what cannot be printed as \DDD, as zone files do. Whoever reads metrics refuses all of them for one value
// that is not UTF-8, and control bytes end up in terminals.
func clean(value string) string {
	if printable(value) {
		return value
	}
	var text strings.Builder
	for len(value) > 0 {
		r, size := utf8.DecodeRuneInString(value)
		if r == utf8.RuneError && size == 1 || isControl(r) {
			for _, b := range []byte(value[:size]) {
				text.WriteByte('\\')
				text.WriteByte('0' + b/100)
				text.WriteByte('0' + b/10%10)
				text.WriteByte('0' + b%10)
			}
		} else {
			text.WriteString(value[:size])
		}
		value = value[size:]
	}
	return text.String()
}

func printable(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return utf8.ValidString(value) && !strings.ContainsFunc(value, isControl)
		}
	}
	return true
}

// isControl has what terminals may act upon: control characters, and marks that turn the direction of text.
func isControl(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f
}
