package metrics

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// crowd is a world of n pods whose rows look like those of a busy cluster. A tenth of the pods talks to the Kubernetes
// API, and one name of a pod is as long as Deployments make them.
func crowd(n int, groups ...*v1alpha1.TelemetryGroup) *world {
	w := newWorld()
	w.config = &v1alpha1.TelemetryConfig{Revision: 1, SeriesLimit: 50_000, Groups: groups}
	w.node = busyNode()
	for i := range n {
		key := fmt.Sprintf("%08d-0000-4000-8000-000000000000", i)
		w.called[key] = &v1alpha1.TelemetryPod{
			Key: key, Uid: key, Namespace: fmt.Sprintf("team-%d", i%7), Name: fmt.Sprintf("checkout-%d-7d9c6b5f4-x%04d", i%30, i),
			WorkloadKind: "Deployment", WorkloadName: fmt.Sprintf("checkout-%d", i%30),
			Groups: []v1alpha1.TelemetryGroupName{traffic, drops, tcp, dns, apiServer},
		}
		w.process[key] = &podmap.Pod{Key: key}
		w.rows[key] = busyPod(key, i)
	}
	return w
}

// latencies has values in so many buckets next to each other.
func latencies(buckets int) *v1alpha1.Histogram {
	h := &v1alpha1.Histogram{SumNano: 123_456_789_012}
	for i := range buckets {
		h.Indexes = append(h.Indexes, int32(-80+i))
		h.Counts = append(h.Counts, int64(1000+i*i))
	}
	return h
}

func busyPod(key string, i int) *v1alpha1.PodStats {
	amount := func(n int64) *v1alpha1.DirectionTraffic {
		return &v1alpha1.DirectionTraffic{Ipv4Unicast: &v1alpha1.Counters{Packets: n * 1_234_567, Bytes: n * 987_654_321}}
	}
	row := &v1alpha1.PodStats{
		Key: key, Measurement: &v1alpha1.Measurement{}, Traffic: &v1alpha1.Traffic{Receive: amount(int64(i + 1)), Transmit: amount(int64(i + 7))},
		Connections: &v1alpha1.Connections{
			Established: 20, Listen: 2, OpenedActively: 123_456, OpenedPassively: 654_321, FailedRefused: 17, ResetsSent: 4711, ResetsReceived: 815,
			SegmentsSent: 12_345_678, SegmentsReceived: 12_345_679, SegmentsRetransmitted: 1234, ClosedSmoothedRtt: latencies(40),
		},
		Dns: &v1alpha1.DNS{
			Queries:   []*v1alpha1.DNSQueries{{Type: 1, Count: 123_456}, {Type: 28, Count: 123_455}},
			Responses: []*v1alpha1.DNSResponses{{Type: 1, Code: 0, Count: 100_000}, {Type: 1, Code: 3, Count: 23_000}, {Type: 28, Code: 0, Count: 100_000}, {Type: 28, Code: 3, Count: 23_000}},
			Latency:   latencies(40), Unanswered: 12,
		},
		Drops:     &v1alpha1.Drops{},
		ApiServer: &v1alpha1.APIServer{Handshake: &v1alpha1.Histogram{}, Rtt: &v1alpha1.Histogram{}},
	}
	for reason, name := range []string{"NOT_SPECIFIED", "NETFILTER_DROP", "NO_SOCKET", "TCP_OLD_DATA"} {
		for port := range 15 {
			row.Drops.Drops = append(row.Drops.Drops, &v1alpha1.Drop{
				Reason: name, Class: v1alpha1.Drop_Class(1 + reason), Direction: v1alpha1.Direction_DIRECTION_RECEIVE,
				Attribution: v1alpha1.Drop_ATTRIBUTION_INTERFACE, Protocol: 6, Port: int32(8000 + port), Packets: int64(1000 - port),
			})
		}
	}
	for name := range 20 {
		row.Dns.Names = append(row.Dns.Names, &v1alpha1.DNSNameCount{Name: fmt.Sprintf("service-%d.team.svc.cluster.local", name), Count: int64(1000 - name), Failed: 3})
	}
	if i%10 == 0 {
		row.ApiServer = &v1alpha1.APIServer{Connected: 12, Failed: 1, Open: 2, Handshake: latencies(8), Rtt: latencies(8), ClosedRtt: latencies(8)}
	}
	return row
}

func busyNode() *v1alpha1.NodeStats {
	pod := busyPod("", 0)
	row := &v1alpha1.NodeStats{
		Drops: pod.Drops, Connections: pod.Connections, Dns: pod.Dns, ApiServer: pod.ApiServer,
		Protocols: &v1alpha1.Protocols{
			Tcp: &v1alpha1.TCP{InSegments: 1}, Udp: &v1alpha1.UDP{}, Ipv4: &v1alpha1.IP{}, Ipv6: &v1alpha1.IP{}, Icmpv4: &v1alpha1.ICMP{}, Icmpv6: &v1alpha1.ICMP{},
		},
		Flows: &v1alpha1.FlowTable{Present: 5000}, Conntrack: &v1alpha1.Conntrack{Entries: 1}, SocketMemory: &v1alpha1.SocketMemory{Sockets: 1},
		Softnet: &v1alpha1.Softnet{Processed: 1},
	}
	for _, name := range []string{"eth0", "eth1", "cni0", "lo", "vxlan0"} {
		one := &v1alpha1.Interface{
			Name: name, State: "up", Uplink: name == "eth0", SpeedMegabits: 10_000, Queue: &v1alpha1.Queue{},
			Receive: &v1alpha1.InterfaceCounters{Bytes: 1 << 40}, Transmit: &v1alpha1.InterfaceCounters{Bytes: 1 << 40},
		}
		for i := range 100 {
			one.Driver = append(one.Driver, &v1alpha1.Counter{Name: fmt.Sprintf("rx_queue_%d_packets", i), Value: 123_456_789})
		}
		row.Interfaces = append(row.Interfaces, one)
	}
	return row
}

// allGroups are all, with labels on Traffic, Drops and DNS as they have them.
func allGroups(labels ...v1alpha1.TelemetryLabel) (all []*v1alpha1.TelemetryGroup) {
	allowed := map[v1alpha1.TelemetryGroupName][]v1alpha1.TelemetryLabel{
		traffic: {peerWorkload, service, portLabel, dnsName}, drops: {portLabel}, dns: {dnsName},
	}
	for name := traffic; name <= apiServer; name++ {
		g := &v1alpha1.TelemetryGroup{Name: name, LabelValuesLimit: 50}
		for _, label := range labels {
			for _, one := range allowed[name] {
				if one == label {
					g.Labels = append(g.Labels, label)
				}
			}
		}
		all = append(all, g)
	}
	return all
}

const (
	peerWorkload = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD
	service      = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_SERVICE
	portLabel    = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT
	dnsName      = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME
)

// talk gives each pod ten peers, with the labels that are asked for.
func (w *world) talk(labels ...v1alpha1.TelemetryLabel) {
	for key := range w.process {
		for i := range 10 {
			c := peers.Counter{PodKey: key, Bytes: [2]int64{123_456_789, 987_654_321}, Packets: [2]int64{123_456, 654_321}}
			for _, label := range labels {
				switch label {
				case peerWorkload:
					c.Labels.PeerNamespace, c.Labels.PeerWorkload = fmt.Sprintf("team-%d", i%7), fmt.Sprintf("checkout-%d", i)
				case service:
					c.Labels.ServiceNamespace, c.Labels.Service = fmt.Sprintf("team-%d", i%7), fmt.Sprintf("checkout-%d", i)
				case portLabel:
					c.Labels.Protocol, c.Labels.Port = "TCP", fmt.Sprint(8000+i)
				case dnsName:
					c.Labels.DNSName = fmt.Sprintf("checkout-%d.team-%d.svc.cluster.local", i, i%7)
				}
			}
			w.peers = append(w.peers, c)
		}
	}
}

// BenchmarkScrape is what a scrape of 110 pods at all groups costs, but for reading the kernel: gathering, and encoding as
// text or as protobuf. With labels, each pod has ten peers, drops at 15 ports and 20 names.
func BenchmarkScrape(b *testing.B) {
	for _, c := range []struct {
		name   string
		labels []v1alpha1.TelemetryLabel
	}{
		{"plain", nil},
		{"PeerWorkload", []v1alpha1.TelemetryLabel{peerWorkload}},
		{"Service", []v1alpha1.TelemetryLabel{service}},
		{"Port", []v1alpha1.TelemetryLabel{portLabel}},
		{"DNSName", []v1alpha1.TelemetryLabel{dnsName}},
		{"all", []v1alpha1.TelemetryLabel{peerWorkload, service, portLabel, dnsName}},
	} {
		w := crowd(110, allGroups(c.labels...)...)
		w.talk(c.labels...)
		b.Run("labels="+c.name+"/gather", func(b *testing.B) { scrape(b, w, nil) })
		for _, format := range []struct {
			name string
			is   expfmt.Format
		}{{"text", expfmt.NewFormat(expfmt.TypeTextPlain)}, {"protobuf", expfmt.NewFormat(expfmt.TypeProtoDelim)}} {
			b.Run("labels="+c.name+"/"+format.name, func(b *testing.B) {
				scrape(b, w, func(to io.Writer, families []*dto.MetricFamily) {
					encoder := expfmt.NewEncoder(to, format.is)
					for _, f := range families {
						if err := encoder.Encode(f); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}

func scrape(b *testing.B, w *world, encode func(io.Writer, []*dto.MetricFamily)) {
	w.asked = nil
	w.gather()
	b.ReportAllocs()
	var out bytes.Buffer
	before := cpuTime(b)
	for b.Loop() {
		families := w.gather()
		if encode != nil {
			out.Reset()
			encode(&out, families)
		}
		w.asked = w.asked[:0]
	}
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	offered, _ := w.metrics.Series()
	b.ReportMetric(float64(offered)/float64(len(w.process)), "series/pod")
	if encode != nil {
		b.ReportMetric(float64(out.Len()), "bytes")
	}
}

// cpuTime is what this process has used of all CPUs, the collection of its garbage included.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
