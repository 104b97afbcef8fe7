package own

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type told struct{}

func (told) Config() *v1alpha1.TelemetryConfig { return &v1alpha1.TelemetryConfig{Generation: 7} }
func (told) Connected() bool                   { return true }
func (told) Unkept() string                    { return "no space left on device" }

// row is what a node with one of each has.
func row() *v1alpha1.NodeStats {
	return &v1alpha1.NodeStats{
		Agent: &v1alpha1.AgentInfo{Pods: 12, Collectors: []*v1alpha1.Collector{
			{Name: "traffic", State: v1alpha1.Collector_STATE_RUNNING},
			{Name: "tcp", State: v1alpha1.Collector_STATE_DEGRADED},
			{Name: "drops", State: v1alpha1.Collector_STATE_OFF, Message: "the kernel has no kfree_skb"},
			{Name: "flows", State: v1alpha1.Collector_STATE_RUNNING},
			{Name: "infiniband", State: v1alpha1.Collector_STATE_OFF, Message: "is switched off by configuration"},
		}},
		Drops: &v1alpha1.Drops{Unsorted: 3},
		Dns:   &v1alpha1.DNS{Lost: 4}, Connections: &v1alpha1.Connections{},
		Flows: &v1alpha1.FlowTable{Present: 5, Capacity: 100, Evicted: 6, Recorded: 7, HistoryCapacity: 200},
		Additional: []*v1alpha1.Counter{
			{Collector: "flows", Name: "unrecorded", Value: 8}, {Collector: "tcp", Name: "events_missed", Value: 9},
			{Collector: "example", Name: "known", Value: 10},
		},
	}
}

func full() Config {
	return Config{
		Version: "v1.2.3", Kernel: "6.18.0", Start: time.Unix(1000, 500e6), Disabled: []string{"infiniband"},
		Node:      row,
		Hooks:     func() map[string]bool { return map[string]bool{"kfree_skb": false, "tcx": true} },
		Captures:  func() Captures { return Captures{1, 2, 3, 4, 5, 6, 7, 8, 9} },
		Series:    func() (int64, map[string]int64) { return 20, map[string]int64{"Traffic": 21} },
		Telemetry: told{},
		Lost:      map[string]func() int64{"peers": func() int64 { return 22 }},
		Tables: map[string]func() (int64, int64){
			"flows_ipv4": func() (int64, int64) { return 23, 24 }, "none": func() (int64, int64) { return 0, 0 },
		},
	}
}

func newMetrics(t *testing.T, config Config) *Metrics {
	t.Helper()
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const want = `
# HELP networkobservability_agent_build_info 1, with the agent's version and the kernel that it runs on.
# TYPE networkobservability_agent_build_info gauge
networkobservability_agent_build_info{kernel="6.18.0",version="v1.2.3"} 1
# HELP networkobservability_agent_capture_bytes Bytes of captures on this node's disk.
# TYPE networkobservability_agent_capture_bytes gauge
networkobservability_agent_capture_bytes 8
# HELP networkobservability_agent_capture_dropped_packets_total Packets that matched a capture and were not recorded: the ring was full, the disk had no room, a limit was reached, or they are recorded at another vantage point.
# TYPE networkobservability_agent_capture_dropped_packets_total counter
networkobservability_agent_capture_dropped_packets_total{cause="disk"} 5
networkobservability_agent_capture_dropped_packets_total{cause="limit"} 6
networkobservability_agent_capture_dropped_packets_total{cause="ring"} 4
networkobservability_agent_capture_dropped_packets_total{cause="vantage"} 7
# HELP networkobservability_agent_capture_packets_total Packets that captures have recorded.
# TYPE networkobservability_agent_capture_packets_total counter
networkobservability_agent_capture_packets_total 3
# HELP networkobservability_agent_capture_quota_bytes Bytes that captures may take on this node's disk.
# TYPE networkobservability_agent_capture_quota_bytes gauge
networkobservability_agent_capture_quota_bytes 9
# HELP networkobservability_agent_captures Captures on this node, by phase: running, ended.
# TYPE networkobservability_agent_captures gauge
networkobservability_agent_captures{phase="ended"} 2
networkobservability_agent_captures{phase="running"} 1
# HELP networkobservability_agent_collector_up 1 when the collector works, 0.5 when something of it is missing, 0 when it does not. What is switched off has no series.
# TYPE networkobservability_agent_collector_up gauge
networkobservability_agent_collector_up{collector="drops"} 0
networkobservability_agent_collector_up{collector="flows"} 1
networkobservability_agent_collector_up{collector="tcp"} 0.5
networkobservability_agent_collector_up{collector="traffic"} 1
# HELP networkobservability_agent_folded_series Series of pods and combinations of labels that are added up in others now, by group of metrics.
# TYPE networkobservability_agent_folded_series gauge
networkobservability_agent_folded_series{group="APIServer"} 0
networkobservability_agent_folded_series{group="DNS"} 0
networkobservability_agent_folded_series{group="Drops"} 0
networkobservability_agent_folded_series{group="TCP"} 0
networkobservability_agent_folded_series{group="Traffic"} 21
# HELP networkobservability_agent_hook_attached 1 when the agent's program is attached to this hook of the kernel.
# TYPE networkobservability_agent_hook_attached gauge
networkobservability_agent_hook_attached{hook="kfree_skb"} 0
networkobservability_agent_hook_attached{hook="tcx"} 1
# HELP networkobservability_agent_lost_events_total What was not counted in full for want of room, by where it was lost.
# TYPE networkobservability_agent_lost_events_total counter
networkobservability_agent_lost_events_total{stage="dns_names"} 4
networkobservability_agent_lost_events_total{stage="drops_missed"} 0
networkobservability_agent_lost_events_total{stage="drops_unsorted"} 3
networkobservability_agent_lost_events_total{stage="flows_evicted"} 6
networkobservability_agent_lost_events_total{stage="flows_failed"} 0
networkobservability_agent_lost_events_total{stage="flows_unrecorded"} 8
networkobservability_agent_lost_events_total{stage="peers"} 22
networkobservability_agent_lost_events_total{stage="tcp_events_missed"} 9
networkobservability_agent_lost_events_total{stage="tcp_sockets_not_followed"} 0
# HELP networkobservability_agent_pods Pods of this node whose traffic is counted.
# TYPE networkobservability_agent_pods gauge
networkobservability_agent_pods 12
# HELP networkobservability_agent_reads_total Reads of statistics by the API server that ended, by result: ok, refused, canceled, failed.
# TYPE networkobservability_agent_reads_total counter
networkobservability_agent_reads_total{result="canceled"} 0
networkobservability_agent_reads_total{result="failed"} 0
networkobservability_agent_reads_total{result="ok"} 0
networkobservability_agent_reads_total{result="refused"} 0
# HELP networkobservability_agent_series Series of pods that are offered.
# TYPE networkobservability_agent_series gauge
networkobservability_agent_series 20
# HELP networkobservability_agent_start_time_seconds When the agent began, in seconds since the Unix epoch.
# TYPE networkobservability_agent_start_time_seconds gauge
networkobservability_agent_start_time_seconds 1000.5
# HELP networkobservability_agent_streams Streams to the API server that are open, by what is sent on them.
# TYPE networkobservability_agent_streams gauge
networkobservability_agent_streams{kind="capture"} 0
networkobservability_agent_streams{kind="flows"} 0
networkobservability_agent_streams{kind="stats"} 0
networkobservability_agent_streams{kind="telemetry"} 0
# HELP networkobservability_agent_table_capacity Entries that a table has room for.
# TYPE networkobservability_agent_table_capacity gauge
networkobservability_agent_table_capacity{table="flow_history"} 200
networkobservability_agent_table_capacity{table="flows_ipv4"} 24
# HELP networkobservability_agent_table_entries Entries of a table now.
# TYPE networkobservability_agent_table_entries gauge
networkobservability_agent_table_entries{table="flow_history"} 7
networkobservability_agent_table_entries{table="flows_ipv4"} 23
# HELP networkobservability_agent_telemetry_connected 1 while the API server keeps this agent's telemetry configured.
# TYPE networkobservability_agent_telemetry_connected gauge
networkobservability_agent_telemetry_connected 1
# HELP networkobservability_agent_telemetry_generation Generation of the NetworkTelemetry in force; 0 without one.
# TYPE networkobservability_agent_telemetry_generation gauge
networkobservability_agent_telemetry_generation 7
# HELP networkobservability_agent_telemetry_kept 1 when what is configured would be kept over a restart of the agent, 0 while it cannot be written to disk.
# TYPE networkobservability_agent_telemetry_kept gauge
networkobservability_agent_telemetry_kept 0
`

func TestNumbers(t *testing.T) {
	m := newMetrics(t, full())
	var names []string
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	if err := testutil.GatherAndCompare(m, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		name := family.GetName()
		known := slices.Contains(names, name) || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
		if !known && name != prefix+"read_duration_seconds" && name != prefix+"scrape_duration_seconds" {
			t.Errorf("%s is new to this test", name)
		}
	}
	for _, want := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == want }) {
			t.Errorf("%s is missing", want)
		}
	}
	var ours []*dto.MetricFamily
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), prefix) {
			ours = append(ours, family)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("the linter says %v (%v)", problems, err)
	}
}

// Every family has its line in docs/self-metrics.md, and the page promises none that is not there.
func TestPageHasEveryName(t *testing.T) {
	text, err := os.ReadFile("../../docs/self-metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(text), "## The agent\n")
	page, _, _ = strings.Cut(page, "\n## ")
	families, err := newMetrics(t, full()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), prefix)
		if !ours {
			continue
		}
		lines++
		want := fmt.Sprintf("\n| `%s` | %s |", name, strings.ToLower(family.GetType().String()))
		if !strings.Contains(page, want) || !strings.Contains(page, "| "+family.GetHelp()+" |\n") {
			t.Errorf("the page has no line %s... %s", want[1:], family.GetHelp())
		}
	}
	exporters := strings.Count(page, "\n| `exporter_") // which nodeagent/export makes
	if got := strings.Count(page, "\n| `"); got != lines+exporters {
		t.Errorf("the page has %d lines for %d families", got, lines+exporters)
	}
}

// What nobody tells has no series, and so has the node's row before it was read.
func TestNothingIsKnown(t *testing.T) {
	for name, config := range map[string]Config{
		"nothing": {}, "no row yet": {Node: func() *v1alpha1.NodeStats { return nil }},
		"an empty row":               {Node: func() *v1alpha1.NodeStats { return &v1alpha1.NodeStats{} }},
		"a kernel of a strange name": {Kernel: "\xff"},
	} {
		families, err := newMetrics(t, config).Gather()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, family := range families {
			if name := family.GetName(); name == prefix+"lost_events_total" || name == prefix+"captures" || name == prefix+"collector_up" {
				t.Errorf("%s has %d series", name, len(family.Metric))
			}
		}
	}
}

// TestCounterThatCannotBeRead: it is absent, for a 0 would be taken for a new beginning, and the next value for what was counted since.
func TestCounterThatCannotBeRead(t *testing.T) {
	failed := row()
	failed.Drops, failed.Connections, failed.Flows, failed.Additional = nil, nil, nil, nil
	config := full()
	config.Node = func() *v1alpha1.NodeStats { return failed }
	families, err := newMetrics(t, config).Gather()
	if err != nil {
		t.Fatal(err)
	}
	lost := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == prefix+"lost_events_total" })
	for _, metric := range families[lost].Metric {
		if stage := metric.Label[0].GetValue(); stage != "dns_names" && stage != "peers" {
			t.Errorf("stage %s has a value", stage)
		}
	}
}

func TestNamesAreRegisteredOnce(t *testing.T) {
	config := full()
	config.Others = []prometheus.Collector{prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "pods", Help: "Twice."})}
	if _, err := New(config); err == nil {
		t.Error("a name was registered twice")
	}
}

func TestStreamsAndReads(t *testing.T) {
	m := newMetrics(t, Config{})
	open := func(kind string) float64 { return testutil.ToFloat64(m.streams.WithLabelValues(kind)) }
	telemetry := m.Began("telemetry")
	for _, err := range []error{
		nil, status.Error(codes.ResourceExhausted, "8 reads are under way"), status.Error(codes.InvalidArgument, "x"),
		status.Error(codes.Canceled, "x"), status.Error(codes.Unavailable, "x"), errors.New("not of gRPC"),
	} {
		ended := m.Began("stats")
		if open("stats") != 1 || open("telemetry") != 1 {
			t.Errorf("%v and %v streams are open", open("stats"), open("telemetry"))
		}
		ended(err)
	}
	telemetry(nil)
	m.Began("something else")(nil)
	if open("stats") != 0 || open("telemetry") != 0 {
		t.Errorf("%v and %v streams are open at the end", open("stats"), open("telemetry"))
	}
	got := map[string]float64{}
	for _, result := range []string{"ok", "refused", "canceled", "failed"} {
		got[result] = testutil.ToFloat64(m.reads.WithLabelValues(result))
	}
	if !maps.Equal(got, map[string]float64{"ok": 1, "refused": 2, "canceled": 1, "failed": 2}) {
		t.Errorf("reads %v", got)
	}
	h := histogramOf(t, m, "read_duration_seconds")
	if h.GetSampleCount() != 6 || h.GetSchema() != 3 || len(h.Bucket) != 8 || h.Bucket[0].GetUpperBound() != 1.0/1024 || h.Bucket[7].GetUpperBound() != 16 {
		t.Errorf("the histogram of reads is %v", h)
	}
}

func histogramOf(t *testing.T, gatherer prometheus.Gatherer, name string) *dto.Histogram {
	t.Helper()
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == prefix+name {
			return family.Metric[0].Histogram
		}
	}
	t.Fatalf("%s is missing", name)
	return nil
}

func TestScrapesAreTimedAndJoined(t *testing.T) {
	m := newMetrics(t, full())
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "other", Help: "Other."}))
	broken := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("broken") })
	var scrapes sync.WaitGroup
	for range 4 {
		scrapes.Go(func() {
			families, err := m.Timed(Join(other, broken, m)).Gather()
			if err == nil || len(families) < 20 || families[0].GetName() != "other" {
				t.Errorf("%d families, %v", len(families), err)
			}
		})
	}
	scrapes.Wait()
	if n := histogramOf(t, m, "scrape_duration_seconds").GetSampleCount(); n != 4 {
		t.Errorf("%d scrapes were measured", n)
	}
}

// What this process counts began with it; what it reads in the kernel's maps began before, nobody knows when.
func TestBegan(t *testing.T) {
	start := time.Unix(1000, 500e6)
	m, err := New(Config{
		Start: start, Lost: map[string]func() int64{"peers": func() int64 { return 3 }}, Captures: func() Captures { return Captures{Packets: 1} },
		Node: func() *v1alpha1.NodeStats { return &v1alpha1.NodeStats{Flows: &v1alpha1.FlowTable{Evicted: 7}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	began := map[string]bool{}
	for _, f := range families {
		for _, metric := range f.Metric {
			if created := metric.GetCounter().GetCreatedTimestamp(); metric.Counter != nil && strings.HasPrefix(f.GetName(), prefix) {
				name := strings.TrimPrefix(f.GetName(), prefix)
				for _, label := range metric.Label {
					name += " " + label.GetValue()
				}
				began[name] = created != nil
				if began[name] && strings.HasPrefix(name, "lost") && !created.AsTime().Equal(start) {
					t.Errorf("%s began at %v", name, created.AsTime())
				}
			}
		}
	}
	for name, want := range map[string]bool{
		"lost_events_total peers": true, "lost_events_total flows_evicted": false, "capture_packets_total": true, "reads_total ok": true,
	} {
		if got, there := began[name]; !there || got != want {
			t.Errorf("%s: says since when: %v (there: %v), want %v", name, got, there, want)
		}
	}
}
