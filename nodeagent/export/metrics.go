package export

import (
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// costAtOnce is how much a batch of metrics has at most: a number costs 1, a histogram histogramCost. It keeps requests
	// well below the 4 MiB that collectors take over gRPC.
	costAtOnce    = 3000
	histogramCost = 6
	// bytesAtOnce is how large a batch may be before the last point that is added: points with many labels are large, and the
	// smallest queue that there can be, of 1 MiB, has to take a batch.
	bytesAtOnce = 512 << 10
	// bucketsAtMost is how many buckets from the first to the last an exponential histogram may have.
	bucketsAtMost = 1024
	cumulative    = 2
)

// otlpEncoder makes OTLP of everything.
type otlpEncoder struct{ about about }

// A resource is what metrics are of: a pod, or else the node and its agent.
type resource struct {
	namespace, name, workload string
	kind, uid                 string // as far as they are known
	series                    []series
}

// series are metrics of one family and resource.
type series struct {
	family string
	instrument
	metrics []*dto.Metric
}

// EncodeMetrics implements Encoder: ExportMetricsServiceRequests, in which each pod is a resource.
func (e otlpEncoder) EncodeMetrics(families []*dto.MetricFamily, at time.Time) []Batch {
	return e.encode(resourcesOf(families), at)
}

func (e otlpEncoder) encode(resources []*resource, at time.Time) []Batch {
	w := &batches{encoder: e, at: at}
	for _, r := range resources {
		w.add(r)
	}
	w.flush()
	return w.made
}

// resourcesOf sorts metrics by what they are of: the node first, then pods as they come.
func resourcesOf(families []*dto.MetricFamily) []*resource {
	type key struct{ namespace, name string }
	node := &resource{}
	all, byKey := []*resource{node}, map[key]*resource{}
	find := func(m *dto.Metric) *resource {
		k := key{labelOf(m, "namespace"), labelOf(m, "pod")}
		r := byKey[k]
		if r == nil {
			r = &resource{namespace: k.namespace, name: k.name, workload: labelOf(m, "workload")}
			byKey[k] = r
			all = append(all, r)
		}
		return r
	}
	for _, family := range families {
		name := family.GetName()
		switch {
		case name == podInfo: // says it by attributes of the resource
			for _, m := range family.GetMetric() {
				r := find(m)
				r.kind, r.uid = labelOf(m, "workload_kind"), labelOf(m, "uid")
			}
			continue
		case !strings.HasPrefix(name, podPrefix):
			node.series = append(node.series, series{name, instrumentOf(family), family.GetMetric()})
			continue
		}
		in := instrumentOf(family)
		for _, m := range family.GetMetric() {
			r := find(m)
			if n := len(r.series); n == 0 || r.series[n-1].family != name {
				r.series = append(r.series, series{family: name, instrument: in})
			}
			last := &r.series[len(r.series)-1]
			last.metrics = append(last.metrics, m)
		}
		if name == podDrops {
			for _, r := range all[1:] {
				r.addErrors()
			}
		}
	}
	return all
}

// addErrors sums what was just added of dropped packets, by direction.
func (r *resource) addErrors() {
	if len(r.series) == 0 || r.series[len(r.series)-1].family != podDrops {
		return
	}
	byDirection := map[string]*dto.Metric{}
	sums := series{family: podErrors.name, instrument: podErrors}
	for _, m := range r.series[len(r.series)-1].metrics {
		if labelOf(m, "class") == "benign" {
			continue
		}
		direction := labelOf(m, "direction")
		sum := byDirection[direction]
		if sum == nil {
			name := "direction"
			sum = &dto.Metric{Label: []*dto.LabelPair{{Name: &name, Value: &direction}}, Counter: &dto.Counter{Value: new(float64), CreatedTimestamp: m.GetCounter().GetCreatedTimestamp()}}
			byDirection[direction] = sum
			sums.metrics = append(sums.metrics, sum)
		}
		*sum.Counter.Value += m.GetCounter().GetValue()
		sum.Counter.CreatedTimestamp = earlier(sum.Counter.CreatedTimestamp, m.GetCounter().GetCreatedTimestamp())
	}
	if len(sums.metrics) > 0 {
		r.series = append(r.series, sums)
	}
}

// earlier is the earlier of two times, and unknown when one is.
func earlier(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if a == nil || b == nil {
		return nil
	}
	if b.AsTime().Before(a.AsTime()) {
		return b
	}
	return a
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// batches fills one batch after the other.
type batches struct {
	encoder otlpEncoder
	at      time.Time
	writer  writer
	cost    int
	items   int64
	made    []Batch
}

// Fields of opentelemetry/proto/metrics/v1.
const (
	resourceMetricsField                                    = 1 // of ExportMetricsServiceRequest
	scopeMetricsField, metricsSchemaURLField                = 2, 3
	metricsField                                            = 2
	metricName, metricDescription, metricUnit               = 1, 2, 3
	metricGauge, metricSum, metricHistogram                 = 5, 7, 9
	metricExponential, metricSummary                        = 10, 11
	dataPoints, temporality, isMonotonic                    = 1, 2, 3
	pointStart, pointTime                                   = 2, 3
	numberDouble, numberInt, numberAttributes               = 4, 6, 7
	histogramCount, histogramSum                            = 4, 5
	classicCounts, classicBounds, classicAttributes         = 6, 7, 9
	expAttributes, expScale, expZero, expPositive, expLimit = 1, 6, 7, 8, 14
	expNegative                                             = 9
	bucketsOffset, bucketsCounts                            = 1, 2
	summaryAttributes, summaryQuantiles                     = 7, 6
	quantile, quantileValue                                 = 1, 2
)

// add writes a resource's metrics, over as many batches as are needed.
func (w *batches) add(r *resource) {
	rest := r.series
	for len(rest) > 0 {
		outer := w.writer.begin(resourceMetricsField)
		w.encoder.resource(&w.writer, r)
		scope := w.writer.begin(scopeMetricsField)
		w.encoder.scope(&w.writer)
		for len(rest) > 0 && !w.full() {
			taken := w.series(&rest[0])
			if taken == len(rest[0].metrics) {
				rest = rest[1:]
				continue
			}
			s := rest[0]
			s.metrics = s.metrics[taken:]
			rest = append([]series{s}, rest[1:]...)
		}
		w.writer.end(scope)
		w.writer.text(metricsSchemaURLField, schemaURL)
		w.writer.end(outer)
		if w.full() {
			w.flush()
		}
	}
}

// full says that a batch takes no more.
func (w *batches) full() bool { return w.cost >= costAtOnce || len(w.writer.b) >= bytesAtOnce }

// flush ends a batch.
func (w *batches) flush() {
	if w.items > 0 {
		payload := make([]byte, len(w.writer.b))
		copy(payload, w.writer.b)
		w.made = append(w.made, Batch{Signal: Metrics, Payload: payload, Items: w.items})
	}
	w.writer.b, w.cost, w.items = w.writer.b[:0], 0, 0
}

// series writes as many metrics of a series as the batch takes.
func (w *batches) series(s *series) int {
	each := 1
	if s.kind == dto.MetricType_HISTOGRAM || s.kind == dto.MetricType_GAUGE_HISTOGRAM {
		each = histogramCost
	}
	n := min(len(s.metrics), max((costAtOnce-w.cost)/each, 1))
	metrics := s.metrics[:n]
	w.cost += n * each
	if s.kind == dto.MetricType_HISTOGRAM {
		// A native histogram and a classic one cannot be points of one metric.
		native := metrics[:0:0]
		classic := metrics[:0:0]
		for _, m := range metrics {
			if isNative(m.GetHistogram()) {
				native = append(native, m)
			} else {
				classic = append(classic, m)
			}
		}
		w.metric(s, metricExponential, native)
		w.metric(s, metricHistogram, classic)
		return n
	}
	field := map[dto.MetricType]protowire.Number{dto.MetricType_COUNTER: metricSum, dto.MetricType_GAUGE: metricGauge,
		dto.MetricType_UNTYPED: metricGauge, dto.MetricType_SUMMARY: metricSummary}[s.kind]
	if field == 0 { // histograms of gauges have no form in OTLP
		return n
	}
	written := w.metric(s, field, metrics)
	w.cost -= (n - written) * each
	return written
}

// metric writes a Metric with its points, and returns how many there was room for: of histograms, of which a family has few, all.
func (w *batches) metric(s *series, field protowire.Number, metrics []*dto.Metric) (written int) {
	if len(metrics) == 0 {
		return 0
	}
	outer := w.writer.begin(metricsField)
	w.writer.text(metricName, s.name)
	w.writer.text(metricDescription, printable(s.description, textBytes))
	w.writer.text(metricUnit, s.unit)
	data := w.writer.begin(field)
	histograms := field == metricHistogram || field == metricExponential
	for _, m := range metrics {
		if written > 0 && !histograms && len(w.writer.b) >= bytesAtOnce {
			break
		}
		point := w.writer.begin(dataPoints)
		w.point(s, field, m)
		w.writer.end(point)
		written++
	}
	w.items += int64(written)
	if field == metricSum || histograms {
		w.writer.varint(temporality, cumulative)
	}
	if field == metricSum {
		w.writer.varint(isMonotonic, 1)
	}
	w.writer.end(data)
	w.writer.end(outer)
	return written
}

func (w *batches) point(s *series, field protowire.Number, m *dto.Metric) {
	at := w.at.UnixNano()
	if m.GetTimestampMs() != 0 {
		at = m.GetTimestampMs() * int64(time.Millisecond)
	}
	w.writer.fixed(pointTime, uint64(at))
	switch field {
	case metricSum:
		w.number(s, m.GetCounter().GetValue())
		w.start(m.GetCounter().GetCreatedTimestamp())
		w.attributes(numberAttributes, s, m)
	case metricGauge:
		value := m.GetGauge().GetValue()
		if m.GetUntyped() != nil {
			value = m.GetUntyped().GetValue()
		}
		w.writer.double(numberDouble, value)
		w.attributes(numberAttributes, s, m)
	case metricExponential:
		w.exponential(m.GetHistogram())
		w.attributes(expAttributes, s, m)
	case metricHistogram:
		w.classic(m.GetHistogram())
		w.attributes(classicAttributes, s, m)
	case metricSummary:
		w.summary(m.GetSummary())
		w.attributes(summaryAttributes, s, m)
	}
}

// start is when counting began. Without it a receiver takes it for unknown, which is right: a time that we made up would
// show everything counted before as if it came at once.
func (w *batches) start(created *timestamppb.Timestamp) {
	if created != nil {
		w.writer.fixed(pointStart, uint64(created.AsTime().UnixNano()))
	}
}

// number is of a counter: seconds are fractions, all else is counted in whole numbers.
func (w *batches) number(s *series, value float64) {
	if s.unit == "s" || value != math.Trunc(value) || math.Abs(value) > 1<<62 {
		w.writer.double(numberDouble, value)
		return
	}
	w.writer.fixed(numberInt, uint64(int64(value)))
}

// attributes writes the labels; those that say which pod it is are the resource's.
func (w *batches) attributes(field protowire.Number, s *series, m *dto.Metric) {
	ofPod := strings.HasPrefix(s.family, podPrefix)
	for _, l := range m.GetLabel() {
		if n := l.GetName(); ofPod && (n == "namespace" || n == "pod" || n == "workload") {
			continue
		}
		w.writer.label(field, s.family, l)
	}
}

// isNative tells whether a histogram has buckets that OTLP's exponential ones can be.
func isNative(h *dto.Histogram) bool {
	if h.Schema == nil || h.GetSchema() < -4 || h.GetSchema() > 8 || h.GetSampleCountFloat() != 0 {
		return false
	}
	return width(h.GetPositiveSpan()) <= bucketsAtMost && width(h.GetNegativeSpan()) <= bucketsAtMost
}

// width is how many buckets there are from the first to the last.
func width(spans []*dto.BucketSpan) int64 {
	var n int64
	for i, s := range spans {
		if i > 0 {
			n += int64(s.GetOffset())
		}
		n += int64(s.GetLength())
	}
	return n
}

func (w *batches) exponential(h *dto.Histogram) {
	w.start(h.GetCreatedTimestamp())
	w.writer.fixed(histogramCount, h.GetSampleCount())
	w.writer.double(histogramSum, h.GetSampleSum())
	w.writer.varint(expScale, protowire.EncodeZigZag(int64(h.GetSchema())))
	w.writer.fixed(expZero, h.GetZeroCount())
	w.buckets(expPositive, h.GetPositiveSpan(), h.GetPositiveDelta())
	w.buckets(expNegative, h.GetNegativeSpan(), h.GetNegativeDelta())
	w.writer.double(expLimit, h.GetZeroThreshold())
}

// buckets makes spans and differences whole. Prometheus numbers a bucket by its upper bound, OTLP by its lower one.
func (w *batches) buckets(field protowire.Number, spans []*dto.BucketSpan, deltas []int64) {
	if len(spans) == 0 {
		return
	}
	outer := w.writer.begin(field)
	w.writer.varint(bucketsOffset, protowire.EncodeZigZag(int64(spans[0].GetOffset())-1))
	packed := w.writer.begin(bucketsCounts)
	var count int64
	for i, span := range spans {
		for range span.GetOffset() {
			if i > 0 {
				w.writer.b = protowire.AppendVarint(w.writer.b, 0)
			}
		}
		for range span.GetLength() {
			if len(deltas) == 0 {
				break
			}
			count, deltas = count+deltas[0], deltas[1:]
			w.writer.b = protowire.AppendVarint(w.writer.b, uint64(max(count, 0)))
		}
	}
	w.writer.end(packed)
	w.writer.end(outer)
}

func (w *batches) classic(h *dto.Histogram) {
	w.start(h.GetCreatedTimestamp())
	w.writer.fixed(histogramCount, h.GetSampleCount())
	w.writer.double(histogramSum, h.GetSampleSum())
	var bounds []float64
	counts := w.writer.begin(classicCounts)
	var before uint64
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		bounds = append(bounds, b.GetUpperBound())
		w.writer.b = protowire.AppendFixed64(w.writer.b, b.GetCumulativeCount()-before)
		before = b.GetCumulativeCount()
	}
	w.writer.b = protowire.AppendFixed64(w.writer.b, h.GetSampleCount()-before)
	w.writer.end(counts)
	packed := w.writer.begin(classicBounds)
	for _, bound := range bounds {
		w.writer.b = protowire.AppendFixed64(w.writer.b, math.Float64bits(bound))
	}
	w.writer.end(packed)
}

func (w *batches) summary(s *dto.Summary) {
	w.start(s.GetCreatedTimestamp())
	w.writer.fixed(histogramCount, s.GetSampleCount())
	w.writer.double(histogramSum, s.GetSampleSum())
	for _, q := range s.GetQuantile() {
		if math.IsNaN(q.GetValue()) {
			continue // nothing was observed lately
		}
		outer := w.writer.begin(summaryQuantiles)
		w.writer.double(quantile, q.GetQuantile())
		w.writer.double(quantileValue, q.GetValue())
		w.writer.end(outer)
	}
}

// Fields of Resource and InstrumentationScope.
const (
	resourceAttributes      = 1
	scopeName, scopeVersion = 1, 2
)

// resource writes what metrics are of. service.instance.id is another for each, so that what keeps no other attribute of
// resources, as Prometheus, tells them apart.
func (e otlpEncoder) resource(w *writer, r *resource) {
	outer := w.begin(resourceField)
	w.textAttribute(resourceAttributes, "service.name", userAgent)
	w.textAttribute(resourceAttributes, "service.version", e.about.Version)
	w.textAttribute(resourceAttributes, "k8s.cluster.name", e.about.Cluster)
	w.textAttribute(resourceAttributes, "k8s.node.name", e.about.Node)
	instance := e.about.Node
	if r != nil && r.name != "" {
		instance = r.uid
		if instance == "" { // the folded ones are on every node
			instance = e.about.Node + "." + r.namespace + "." + r.name
		}
		w.textAttribute(resourceAttributes, "k8s.namespace.name", r.namespace)
		w.textAttribute(resourceAttributes, "k8s.pod.name", r.name)
		w.textAttribute(resourceAttributes, "k8s.pod.uid", r.uid)
		r.workloadAttributes(w)
	}
	w.textAttribute(resourceAttributes, "service.instance.id", instance)
	w.end(outer)
}

// workloadAttributes name the workload by its kind, as the conventions do, where they know the kind.
func (r *resource) workloadAttributes(w *writer) {
	if known, ok := workloads[r.kind]; ok {
		w.textAttribute(resourceAttributes, known, r.workload)
		return
	}
	if r.kind == "" {
		return // it is the pod itself
	}
	w.textAttribute(resourceAttributes, "k8s.workload.kind", r.kind)
	w.textAttribute(resourceAttributes, "k8s.workload.name", r.workload)
}

func (e otlpEncoder) scope(w *writer) {
	outer := w.begin(scopeField)
	w.text(scopeName, "github.com/networkobservability/networkobservability/nodeagent/export")
	w.text(scopeVersion, e.about.Version)
	w.end(outer)
}
