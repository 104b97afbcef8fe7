package own

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// descriptions are of what is read at each scrape.
var descriptions []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(prefix+name, help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}

var (
	buildInfo    = describe("build_info", "1, with the agent's version and the kernel that it runs on.", "version", "kernel")
	startTime    = describe("start_time_seconds", "When the agent began, in seconds since the Unix epoch.")
	pods         = describe("pods", "Pods of this node whose traffic is counted.")
	collectorUp  = describe("collector_up", "1 when the collector works, 0.5 when something of it is missing, 0 when it does not. What is switched off has no series.", "collector")
	hookAttached = describe("hook_attached", "1 when the agent's program is attached to this hook of the kernel.", "hook")
	lostEvents   = describe("lost_events_total", "What was not counted in full for want of room, by where it was lost.", "stage")
	tableEntries = describe("table_entries", "Entries of a table now.", "table")
	tableRoom    = describe("table_capacity", "Entries that a table has room for.", "table")

	captures       = describe("captures", "Captures on this node, by phase: running, ended.", "phase")
	capturePackets = describe("capture_packets_total", "Packets that captures have recorded.")
	captureDrops   = describe("capture_dropped_packets_total", "Packets that matched a capture and were not recorded: the ring was full, the disk had no room, a limit was reached, or they are recorded at another vantage point.", "cause")
	captureBytes   = describe("capture_bytes", "Bytes of captures on this node's disk.")
	captureQuota   = describe("capture_quota_bytes", "Bytes that captures may take on this node's disk.")

	series              = describe("series", "Series of pods that are offered.")
	foldedSeries        = describe("folded_series", "Series of pods and combinations of labels that are added up in others now, by group of metrics.", "group")
	telemetryGeneration = describe("telemetry_generation", "Generation of the NetworkTelemetry in force; 0 without one.")
	telemetryKept       = describe("telemetry_kept", "1 when what is configured would be kept over a restart of the agent, 0 while it cannot be written to disk.")
	telemetryConnected  = describe("telemetry_connected", "1 while the API server keeps this agent's telemetry configured.")
)

// groups are those of metrics of pods, of which 0 is said too.
var groups = []string{"Traffic", "Drops", "TCP", "DNS", "APIServer"}

// numbers is what is read at each scrape.
type numbers struct{ Config }

// Describe implements prometheus.Collector.
func (numbers) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (n numbers) Collect(to chan<- prometheus.Metric) {
	out := output{to}
	out.gauge(buildInfo, 1, n.Version, n.Kernel)
	out.gauge(startTime, float64(n.Start.UnixNano())/1e9)
	if n.Node != nil {
		if row := n.Node(); row != nil {
			n.ofNode(out, row)
		}
	}
	if n.Hooks != nil {
		for hook, attached := range n.Hooks() {
			out.gauge(hookAttached, oneIf(attached), hook)
		}
	}
	for stage, lost := range n.Lost {
		out.since(n.Start, lostEvents, lost(), stage)
	}
	for name, table := range n.Tables {
		if entries, capacity := table(); capacity > 0 {
			out.table(name, entries, capacity)
		}
	}
	if n.Captures != nil {
		out.captures(n.Captures(), n.Start)
	}
	n.ofTelemetry(out)
}

// ofNode takes what the node's row has.
func (n numbers) ofNode(out output, row *v1alpha1.NodeStats) {
	out.gauge(pods, float64(row.GetAgent().GetPods()))
	for _, c := range row.GetAgent().GetCollectors() {
		if !slices.Contains(n.Disabled, c.GetName()) {
			out.gauge(collectorUp, up(c.GetState()), c.GetName())
		}
	}
	if d := row.GetDrops(); d != nil {
		out.counter(lostEvents, d.GetUnsorted(), "drops_unsorted")
	}
	if d := row.GetDns(); d != nil {
		out.counter(lostEvents, d.GetLost(), "dns_names")
	}
	if f := row.GetFlows(); f != nil {
		out.counter(lostEvents, f.GetEvicted(), "flows_evicted")
		out.table("flow_history", f.GetRecorded(), f.GetHistoryCapacity())
	}
	n.ofUnseen(out, row)
}

// unseen are counters of what collectors did not see that have no field of their own in the row. It has them when they are
// not 0, and the collector could be read: then it has the collector's part.
var unseen = []struct {
	collector, counter string
	read               func(*v1alpha1.NodeStats) bool
}{
	{"drops", "missed", dropsRead}, {"tcp", "events_missed", tcpRead}, {"tcp", "sockets_not_followed", tcpRead},
	{"flows", "failed", flowsRead}, {"flows", "unrecorded", flowsRead},
}

func dropsRead(row *v1alpha1.NodeStats) bool { return row.GetDrops() != nil }
func tcpRead(row *v1alpha1.NodeStats) bool   { return row.GetConnections() != nil }
func flowsRead(row *v1alpha1.NodeStats) bool { return row.GetFlows() != nil }

// ofUnseen leaves counters out that could not be read: with 0 they would seem to begin anew, and with the next reading to have
// counted everything once more.
func (n numbers) ofUnseen(out output, row *v1alpha1.NodeStats) {
	for _, one := range unseen {
		if !one.read(row) || slices.Contains(n.Disabled, one.collector) {
			continue
		}
		var value int64
		for _, counter := range row.GetAdditional() {
			if counter.GetCollector() == one.collector && counter.GetName() == one.counter {
				value = counter.GetValue()
			}
		}
		out.counter(lostEvents, value, one.collector+"_"+one.counter)
	}
}

func (n numbers) ofTelemetry(out output) {
	if n.Series != nil {
		offered, folded := n.Series()
		out.gauge(series, float64(offered))
		for _, group := range groups {
			out.gauge(foldedSeries, float64(folded[group]), group)
		}
	}
	if n.Telemetry != nil {
		out.gauge(telemetryGeneration, float64(n.Telemetry.Config().GetGeneration()))
		out.gauge(telemetryConnected, oneIf(n.Telemetry.Connected()))
		out.gauge(telemetryKept, oneIf(n.Telemetry.Unkept() == ""))
	}
}

// output makes metrics of numbers.
type output struct{ to chan<- prometheus.Metric }

func (o output) gauge(d *prometheus.Desc, value float64, labels ...string) {
	o.send(d, prometheus.GaugeValue, value, labels)
}

// counter is one that began before this process, or of which that is not known.
func (o output) counter(d *prometheus.Desc, value int64, labels ...string) {
	o.send(d, prometheus.CounterValue, float64(value), labels)
}

// since is a counter that began at a time.
func (o output) since(began time.Time, d *prometheus.Desc, value int64, labels ...string) {
	metric, err := prometheus.NewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(value), began, labels...)
	o.give(d, metric, err)
}

func (o output) send(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "?")
	}
	metric, err := prometheus.NewConstMetric(d, kind, value, labels...)
	o.give(d, metric, err)
}

func (o output) give(d *prometheus.Desc, metric prometheus.Metric, err error) {
	if err != nil {
		metric = prometheus.NewInvalidMetric(d, err)
	}
	o.to <- metric
}

func (o output) table(name string, entries, capacity int64) {
	o.gauge(tableEntries, float64(entries), name)
	o.gauge(tableRoom, float64(capacity), name)
}

func (o output) captures(c Captures, began time.Time) {
	o.gauge(captures, float64(c.Running), "running")
	o.gauge(captures, float64(c.Ended), "ended")
	o.since(began, capturePackets, c.Packets)
	o.since(began, captureDrops, c.RingDrops, "ring")
	o.since(began, captureDrops, c.DiskDrops, "disk")
	o.since(began, captureDrops, c.LimitDrops, "limit")
	o.since(began, captureDrops, c.OtherVantage, "vantage")
	o.gauge(captureBytes, float64(c.Bytes))
	o.gauge(captureQuota, float64(c.Quota))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func up(state v1alpha1.Collector_State) float64 {
	switch state {
	case v1alpha1.Collector_STATE_RUNNING:
		return 1
	case v1alpha1.Collector_STATE_DEGRADED:
		return 0.5
	}
	return 0
}
