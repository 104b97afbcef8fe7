package metrics

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// What agent.go gives is what is asked for.
var (
	_ Reading = (*collectors.Reading)(nil)
	_ Peers   = (*peers.Counters)(nil)
)

// everything is a world in which there is something of every family.
func everything() *world {
	labels := []v1alpha1.TelemetryLabel{peerWorkload, service, portLabel, dnsName}
	w := crowd(3, allGroups(labels...)...)
	w.talk(labels...)
	for _, row := range w.rows {
		bypassed := int64(5)
		row.Traffic.Transmit.Bypassed = &bypassed
		row.Measurement.StartUnixNano = epoch.UnixNano()
	}
	w.node.Infiniband = []*v1alpha1.InfiniBandPort{{Device: "mlx5_0", Port: 1, Counters: []*v1alpha1.Counter{{Name: "port_rcv_data", Value: 1}}}}
	w.node.SocketMemory.TcpLimitBytes = 1
	return w
}

// Prometheus's linter has nothing to say, and the text can be read back.
func TestLint(t *testing.T) {
	families := everything().gather()
	text := text(t, families)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed) != len(families) {
		t.Errorf("%d families were read back, of %d", len(parsed), len(families))
	}
}

// Every family of the catalogue is made, as it says, and no other.
func TestFamiliesAreThoseOfTheCatalogue(t *testing.T) {
	byName := map[string]Family{}
	for _, f := range Families() {
		byName[f.Name] = f
	}
	if len(byName) != len(catalogue) {
		t.Errorf("%d names of %d families", len(byName), len(catalogue))
	}
	for _, f := range everything().gather() {
		about, ok := byName[f.GetName()]
		if !ok {
			t.Errorf("%s is in no catalogue, or comes twice", f.GetName())
			continue
		}
		delete(byName, f.GetName())
		if f.GetType() != about.Type || f.GetHelp() != about.Help || about.Help == "" {
			t.Errorf("%s: %v %q", about.Name, f.GetType(), f.GetHelp())
		}
		for _, metric := range f.Metric {
			checkLabels(t, about, metric)
		}
	}
	for name := range byName {
		t.Errorf("%s is not made", name)
	}
}

func checkLabels(t *testing.T, about Family, metric *dto.Metric) {
	t.Helper()
	var names []string
	for _, label := range metric.Label {
		names = append(names, label.GetName())
	}
	if !slices.IsSorted(names) {
		t.Errorf("%s: labels %v are not sorted", about.Name, names)
	}
	for _, name := range about.Labels {
		if !slices.Contains(names, name) {
			t.Errorf("%s has no label %s", about.Name, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(about.Labels, name) && !slices.Contains(about.Optional, name) {
			t.Errorf("%s has a label %s", about.Name, name)
		}
	}
}

// Series are sorted by namespace and pod and then by all labels, and none comes twice.
func TestOrder(t *testing.T) {
	w := crowd(30, allGroups(portLabel, dnsName)...)
	w.config.SeriesLimit = 1500 // so that some are folded
	w.talk(portLabel, dnsName)
	w.gather()
	families := w.gather()
	if !slices.IsSortedFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) }) {
		t.Error("families are not sorted")
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), Prefix+"pod_") {
			continue
		}
		var before string
		for _, metric := range f.Metric {
			now := orderOf(metric)
			if now <= before {
				t.Errorf("%s: %q comes behind %q", f.GetName(), now, before)
			}
			before = now
		}
	}
}

func orderOf(metric *dto.Metric) string {
	values := map[string]string{}
	var rest []string
	for _, label := range metric.Label {
		values[label.GetName()] = label.GetValue()
		rest = append(rest, label.GetValue())
	}
	if values["namespace"] == other {
		values["namespace"] = "~" // last
	}
	return strings.Join(append([]string{values["namespace"], values["pod"]}, rest...), "\x00")
}

// Native and classic buckets tell the same.
func TestHistograms(t *testing.T) {
	from := &v1alpha1.Histogram{SumNano: 2_500_000_000}
	for index := int32(lowestBucket); index < lowestBucket+buckets; index += 1 + index&3 {
		from.Indexes = append(from.Indexes, index)
		from.Counts = append(from.Counts, int64(200+index))
	}
	out := &output{}
	out.histogram(podTCPRTT, nil, from, nil)
	h := out.families[podTCPRTT].Metric[0].Histogram
	var read []int32
	var index int32
	var count int64
	deltas := h.PositiveDelta
	for _, span := range h.PositiveSpan {
		index += span.GetOffset()
		for range span.GetLength() {
			count, deltas = count+deltas[0], deltas[1:]
			if count != int64(200+index) {
				t.Errorf("bucket %d has %d", index, count)
			}
			read = append(read, index)
			index++
		}
	}
	if !slices.Equal(read, from.Indexes) || len(deltas) != 0 {
		t.Errorf("native buckets %v, want %v", read, from.Indexes)
	}
	for i, bucket := range h.Bucket {
		want := uint64(0)
		for j, index := range from.Indexes {
			if index <= native[i] {
				want += uint64(from.Counts[j])
			}
		}
		if bucket.GetCumulativeCount() != want || bucket.GetUpperBound() != classic[i] {
			t.Errorf("bucket %v has %d, want %d", bucket.GetUpperBound(), bucket.GetCumulativeCount(), want)
		}
	}
	if h.GetSampleSum() != 2.5 || h.GetSchema() != 3 || h.GetZeroThreshold() == 0 {
		t.Errorf("sum %v, schema %d, threshold %v", h.GetSampleSum(), h.GetSchema(), h.GetZeroThreshold())
	}
}

// Two thousand pods that come and go leave nothing behind: no series, and nothing that is remembered.
func TestChurn(t *testing.T) {
	labels := []v1alpha1.TelemetryLabel{peerWorkload, portLabel, dnsName}
	w := crowd(0, allGroups(labels...)...)
	w.config.SeriesLimit = 5_000 // some hundred pods have no place
	const atATime = 200
	for wave := range 10 {
		crowd := crowd(atATime)
		for key, called := range crowd.called {
			unique := fmt.Sprintf("%s-%d", key, wave)
			called.Name += fmt.Sprint("-wave", wave)
			w.called[unique], w.process[unique], w.rows[unique] = called, &podmap.Pod{Key: unique}, crowd.rows[key]
		}
		w.peers = nil
		w.talk(labels...)
		text := w.text(t, "pod")
		if offered, folded := w.metrics.Series(); offered > 5_000 || folded == 0 || offered != countSeries(text) {
			t.Errorf("%d series, %d folded, of %d pods; the text has %d", offered, folded, len(w.process), countSeries(text))
		}
		if strings.Contains(text, fmt.Sprintf(`-wave%d",`, wave-1)) {
			t.Error("there are series of pods that are gone")
		}
		clear(w.process)
		clear(w.called)
		clear(w.rows)
		w.now = w.now.Add(time.Second)
	}
	w.peers = nil
	for _, line := range strings.Split(w.text(t, "pod"), "\n") {
		if line != "" && line[0] != '#' && !strings.Contains(line, `namespace="other",`) {
			t.Errorf("left behind: %s", line)
		}
	}
	m := w.metrics
	if len(m.pods) != 0 || m.ledger.used != 0 || len(m.Folded()) != 0 {
		t.Errorf("left behind: %d pods, %d series, folded %v", len(m.pods), m.ledger.used, m.Folded())
	}
	// Labels of all pods, and series of other, are as many as there are names for them.
	for name, values := range m.ledger.shared {
		if len(values) > 20 {
			t.Errorf("%d values of %s are kept", len(values), name)
		}
	}
	if len(m.ledger.sums) > 300 {
		t.Errorf("%d series of other", len(m.ledger.sums))
	}
}

// countSeries counts what Series counts: all lines of values.
func countSeries(text string) (count int64) {
	for line := range strings.Lines(text) {
		if line[0] != '#' {
			count++
		}
	}
	return count
}

// The limit holds, whatever pods come and whatever they count.
func TestLimitHolds(t *testing.T) {
	for _, limit := range []int64{100, 250, 1000} {
		w := crowd(0, allGroups(portLabel, dnsName)...)
		w.config.SeriesLimit = limit
		random := rand.New(rand.NewPCG(1, uint64(limit)))
		for step := range 30 {
			key := fmt.Sprint(step)
			w.called[key] = &v1alpha1.TelemetryPod{Key: key, Namespace: "n", Name: key, Groups: []v1alpha1.TelemetryGroupName{drops, tcp, dns, traffic}}
			w.process[key], w.rows[key] = &podmap.Pod{Key: key}, busyPod(key, step)
			for _, row := range w.rows {
				row.Drops.Drops = append(row.Drops.Drops, &v1alpha1.Drop{Reason: fmt.Sprint("R", random.IntN(30)), Attribution: 1, Packets: 1})
			}
			if gone := fmt.Sprint(random.IntN(step + 1)); random.IntN(3) == 0 {
				delete(w.called, gone)
			}
			text := w.text(t, "pod")
			if offered, _ := w.metrics.Series(); countSeries(text) > limit || offered != countSeries(text) {
				t.Fatalf("step %d: %d series, said to be %d, limit %d", step, countSeries(text), offered, limit)
			}
		}
	}
}

// A series of a pod that has a place gets one of its own when there is room again.
func TestSeriesGetPlaces(t *testing.T) {
	w := crowd(0, &v1alpha1.TelemetryGroup{Name: drops})
	w.config.SeriesLimit = 100 // 50 for pods
	reasons := func(key string, n int) {
		w.called[key] = &v1alpha1.TelemetryPod{Key: key, Namespace: "n", Name: key, Groups: []v1alpha1.TelemetryGroupName{drops}}
		w.process[key], w.rows[key] = &podmap.Pod{Key: key}, &v1alpha1.PodStats{Drops: &v1alpha1.Drops{}}
		for i := range n {
			w.rows[key].Drops.Drops = append(w.rows[key].Drops.Drops, &v1alpha1.Drop{Reason: fmt.Sprint(i), Attribution: 1, Packets: 1})
		}
	}
	reasons("x", 20)
	reasons("y", 20)
	w.gather()
	reasons("y", 40)
	if text := w.text(t, "pod_drop"); strings.Count(text, `pod="y"`) != 28 || strings.Count(text, `pod="other"`) != 12 {
		t.Errorf("with x: %s", text)
	}
	delete(w.called, "x")
	if text := w.text(t, "pod_drop"); strings.Count(text, `pod="y"`) != 40 || strings.Count(text, `pod="other"`) != 12 {
		t.Errorf("without x: %s", text)
	}
}

// No counter falls while rows move between those that are told and the rest, and all growth is somewhere. In odd runs time
// passes, so that places change hands.
func TestPortsNeverFall(t *testing.T) {
	const told = 8
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		all := make([]*v1alpha1.Drop, 20)
		for i := range all {
			all[i] = &v1alpha1.Drop{Reason: "R", Attribution: 1, Protocol: 6, Port: int32(1 + i), Packets: int64(random.IntN(50))}
		}
		p := newPorts(6)
		before, now, lost := map[port]int64{}, epoch, 0
		var total int64
		for step := range 50 {
			grown := int64(0)
			for range 5 {
				growth := int64(random.IntN(40))
				all[random.IntN(len(all))].Packets += growth
				grown += growth
			}
			if seed%2 == 1 {
				now = now.Add(time.Duration(random.IntN(10)) * time.Minute)
			}
			p.take(tell(all, told), now)
			sum, fresh, after := int64(0), int64(0), map[port]int64{}
			p.each(func(_ drop, at port, packets int64) {
				was, known := before[at]
				if packets < was {
					t.Errorf("seed %d, step %d: %v fell from %d to %d", seed, step, at, was, packets)
				}
				if !known && at != otherPort {
					fresh += packets
				}
				after[at] = packets
				sum += packets
			})
			ended := false
			for at := range before {
				if _, there := after[at]; !there {
					ended = true
					lost++
				}
			}
			before = after
			if step > 0 && fresh == 0 && !ended && sum-total != grown {
				t.Errorf("seed %d, step %d: all grew by %d, the series by %d", seed, step, grown, sum-total)
			}
			total = sum
		}
		if (lost > 0) != (seed%2 == 1) {
			t.Errorf("seed %d: %d places changed hands", seed, lost)
		}
	}
}

// No counter of a name falls while names move in and out of the row. In odd runs time passes, so that places change hands.
func TestNamesNeverFall(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		all := make([]*v1alpha1.DNSNameCount, 20)
		for i := range all {
			all[i] = &v1alpha1.DNSNameCount{Name: fmt.Sprintf("%02d.", i)}
		}
		n, now, total, lost := newNames(6), epoch, int64(0), 0
		before := map[string]int64{}
		for step := range 50 {
			for range 30 {
				all[random.IntN(len(all))].Count++
				total++
			}
			if seed%2 == 1 {
				now = now.Add(time.Duration(random.IntN(10)) * time.Minute)
			}
			sorted := slices.SortedFunc(slices.Values(all), func(a, b *v1alpha1.DNSNameCount) int { return cmp.Compare(b.Count, a.Count) })
			n.take(&v1alpha1.DNS{Latency: &v1alpha1.Histogram{Indexes: []int32{0}, Counts: []int64{total}}, Names: sorted[:8]}, now)
			after := map[string]int64{}
			n.each(func(name string, queries, _ int64) { after[name] = queries })
			for name, was := range before {
				if queries, there := after[name]; !there {
					lost++
				} else if queries < was {
					t.Errorf("seed %d, step %d: %s fell from %d to %d", seed, step, name, was, queries)
				}
			}
			before = after
		}
		if (lost > 0) != (seed%2 == 1) {
			t.Errorf("seed %d: %d places changed hands", seed, lost)
		}
	}
}

// tell gives the largest rows, and the rest as one.
func tell(all []*v1alpha1.Drop, most int) []*v1alpha1.Drop {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b *v1alpha1.Drop) int { return cmp.Compare(b.Packets, a.Packets) })
	rest := &v1alpha1.Drop{Reason: "R"}
	for _, row := range sorted[most:] {
		rest.Packets += row.Packets
	}
	return append(slices.Clone(sorted[:most]), rest)
}

// Bypassed packets are shown from 0 on where a former agent may have shown more.
func TestBypassed(t *testing.T) {
	for _, c := range []struct {
		began time.Time
		want  []float64
	}{{epoch.Add(-time.Hour), []float64{0, 2}}, {epoch.Add(time.Second), []float64{5, 7}}} {
		w := crowd(1, allGroups()...)
		for i, bypassed := range []int64{5, 7} {
			for _, row := range w.rows {
				row.Measurement.StartUnixNano, row.Traffic.Transmit.Bypassed = c.began.UnixNano(), &bypassed
			}
			var got float64
			for _, f := range w.gather() {
				if f.GetName() == catalogue[podBypassed].Name {
					got = f.Metric[0].Counter.GetValue()
				}
			}
			if got != c.want[i] {
				t.Errorf("counted since %v: %v of %d, want %v", c.began, got, bypassed, c.want[i])
			}
		}
	}
}

// A config that changes while scrapes run does no harm, and scrapes at the same time share a reading.
func TestConcurrentGathers(t *testing.T) {
	w := crowd(5, allGroups()...)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	inner := w.metrics.config.Pods
	w.metrics.config.Pods = func() []*podmap.Pod {
		once.Do(func() { close(entered); <-leave })
		return inner()
	}
	var gathers sync.WaitGroup
	results := make([][]*dto.MetricFamily, 4)
	gathers.Go(func() { results[0], _ = w.metrics.Gather() })
	<-entered
	for i := 1; i < len(results); i++ {
		gathers.Go(func() { results[i], _ = w.metrics.Gather() })
	}
	close(leave)
	gathers.Go(func() { w.metrics.Series(); w.metrics.Folded(); w.metrics.Node() })
	gathers.Wait()
	for i, result := range results {
		if len(result) != len(results[0]) {
			t.Errorf("gather %d has %d families, the first %d", i, len(result), len(results[0]))
		}
		for _, f := range result {
			var buffer bytes.Buffer
			if err := expfmt.NewEncoder(&buffer, expfmt.NewFormat(expfmt.TypeProtoDelim)).Encode(f); err != nil {
				t.Error(err)
			}
		}
	}
}

// Groups and labels of a newer API server are passed over.
func TestUnknownConfiguration(t *testing.T) {
	w := crowd(1, &v1alpha1.TelemetryGroup{Name: 99, Labels: []v1alpha1.TelemetryLabel{77}}, &v1alpha1.TelemetryGroup{Name: traffic, Labels: []v1alpha1.TelemetryLabel{77}})
	for _, called := range w.called {
		called.Groups = append(called.Groups, 99, -1)
	}
	if text := w.text(t, "pod_bytes"); countSeries(text) != 2 {
		t.Errorf("got %s", text)
	}
}

// Whatever a value of a label is made of, the text can be read, and nothing in it acts upon a terminal.
func FuzzLabel(f *testing.F) {
	for _, seed := range []string{"a.example", "a\x00b", "\xff\xfe", "x\"y\\z\n", "ü", "\u202e", "\u009b31m", "a\xc3", "\\007"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		out := &output{}
		out.value(podDNSNameQueries, []*dto.LabelPair{pair("dns_name", value)}, 1, nil)
		text := text(t, []*dto.MetricFamily{out.families[podDNSNameQueries]})
		if !utf8.ValidString(text) || strings.Count(text, "\n") != 3 || strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), isControl) {
			t.Errorf("%q became %q", value, text)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		parsed, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		got := parsed[catalogue[podDNSNameQueries].Name].Metric[0].Label[0].GetValue()
		if got != clean(value) || clean(got) != got {
			t.Errorf("%q became %q, which is read as %q", value, clean(value), got)
		}
	})
}
