package export

import (
	"fmt"
	"math"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// labelled makes label pairs of names and values.
func labelled(pairs ...string) []*dto.LabelPair {
	var made []*dto.LabelPair
	for i := 0; i+1 < len(pairs); i += 2 {
		made = append(made, &dto.LabelPair{Name: proto.String(pairs[i]), Value: proto.String(pairs[i+1])})
	}
	return made
}

var began = timestamppb.New(now.Add(-3600e9))

func counter(value float64, pairs ...string) *dto.Metric {
	return &dto.Metric{Label: labelled(pairs...), Counter: &dto.Counter{Value: proto.Float64(value), CreatedTimestamp: began}}
}

func gauge(value float64, pairs ...string) *dto.Metric {
	return &dto.Metric{Label: labelled(pairs...), Gauge: &dto.Gauge{Value: proto.Float64(value)}}
}

// histogram has 5 values in bucket -80, 7 in bucket -78 and 1 in bucket -40, and classic buckets beside.
func histogram(pairs ...string) *dto.Metric {
	return &dto.Metric{Label: labelled(pairs...), Histogram: &dto.Histogram{
		SampleCount: proto.Uint64(13), SampleSum: proto.Float64(0.5), Schema: proto.Int32(3), ZeroThreshold: proto.Float64(0), ZeroCount: proto.Uint64(0), CreatedTimestamp: began,
		PositiveSpan:  []*dto.BucketSpan{{Offset: proto.Int32(-80), Length: proto.Uint32(1)}, {Offset: proto.Int32(1), Length: proto.Uint32(1)}, {Offset: proto.Int32(37), Length: proto.Uint32(1)}},
		PositiveDelta: []int64{5, 2, -6},
		Bucket:        []*dto.Bucket{{UpperBound: proto.Float64(0.0009765625), CumulativeCount: proto.Uint64(5)}, {UpperBound: proto.Float64(math.Inf(1)), CumulativeCount: proto.Uint64(13)}},
	}}
}

func family(name string, kind dto.MetricType, metrics ...*dto.Metric) *dto.MetricFamily {
	return &dto.MetricFamily{Name: proto.String(name), Help: proto.String("What it is, in a sentence of some words."), Type: kind.Enum(), Metric: metrics}
}

// families are as a node with so many pods offers them.
func families(pods int) []*dto.MetricFamily {
	type form struct {
		name string
		kind dto.MetricType
		each [][]string
	}
	directions := [][]string{{"direction", "receive"}, {"direction", "transmit"}}
	forms := []form{
		{"bytes_total", dto.MetricType_COUNTER, directions}, {"packets_total", dto.MetricType_COUNTER, directions},
		{"dropped_packets_total", dto.MetricType_COUNTER, [][]string{
			{"direction", "receive", "reason", "NETFILTER_DROP", "class", "policy"}, {"direction", "receive", "reason", "NO_SOCKET", "class", "no_socket"}, {"direction", "transmit", "reason", "TCP_OLD_DATA", "class", "benign"}}},
		{"tcp_connections", dto.MetricType_GAUGE, [][]string{{"state", "established"}, {"state", "syn_sent"}, {"state", "close_wait"}, {"state", "time_wait"}, {"state", "listen"}}},
		{"tcp_connections_opened_total", dto.MetricType_COUNTER, [][]string{{"side", "client"}, {"side", "server"}}},
		{"tcp_connections_failed_total", dto.MetricType_COUNTER, [][]string{{"reason", "refused"}, {"reason", "timeout"}, {"reason", "unreachable"}, {"reason", "abandoned"}, {"reason", "other"}}},
		{"tcp_resets_total", dto.MetricType_COUNTER, directions}, {"tcp_segments_total", dto.MetricType_COUNTER, directions}, {"tcp_retransmitted_segments_total", dto.MetricType_COUNTER, [][]string{nil}},
		{"tcp_rtt_seconds", dto.MetricType_HISTOGRAM, [][]string{nil}}, {"dns_latency_seconds", dto.MetricType_HISTOGRAM, [][]string{nil}},
		{"apiserver_handshake_seconds", dto.MetricType_HISTOGRAM, [][]string{nil}}, {"apiserver_rtt_seconds", dto.MetricType_HISTOGRAM, [][]string{nil}},
		{"dns_queries_total", dto.MetricType_COUNTER, [][]string{{"type", "A"}, {"type", "AAAA"}}}, {"dns_responses_total", dto.MetricType_COUNTER, [][]string{{"type", "A", "code", "NOERROR"}, {"type", "AAAA", "code", "NXDOMAIN"}}},
		{"dns_unanswered_total", dto.MetricType_COUNTER, [][]string{nil}}, {"apiserver_connections_total", dto.MetricType_COUNTER, [][]string{{"result", "connected"}, {"result", "failed"}}},
	}
	all := []*dto.MetricFamily{
		family(ours+"node_interface_bytes_total", dto.MetricType_COUNTER, counter(1e15+1, "interface", "eth0", "direction", "receive")),
		family(ours+"agent_pods", dto.MetricType_GAUGE, gauge(float64(pods))),
		family("process_cpu_seconds_total", dto.MetricType_COUNTER, counter(1.25)),
	}
	info := family(podInfo, dto.MetricType_GAUGE)
	for i := range pods {
		info.Metric = append(info.Metric, gauge(1, "namespace", "shop", "pod", podName(i), "workload", "web", "workload_kind", "Deployment", "uid", fmt.Sprintf("uid-%d", i)))
	}
	all = append(all, info)
	for _, f := range forms {
		made := family(podPrefix+f.name, f.kind)
		for i := range pods {
			for _, more := range f.each {
				pairs := append([]string{"namespace", "shop", "pod", podName(i), "workload", "web"}, more...)
				switch f.kind {
				case dto.MetricType_HISTOGRAM:
					made.Metric = append(made.Metric, histogram(pairs...))
				case dto.MetricType_GAUGE:
					made.Metric = append(made.Metric, gauge(3, pairs...))
				default:
					made.Metric = append(made.Metric, counter(float64(i*1000+7), pairs...))
				}
			}
		}
		all = append(all, made)
	}
	return all
}

func podName(i int) string { return fmt.Sprintf("web-7d4b9c6f5d-%05d", i) }
