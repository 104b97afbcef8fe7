package retina

import (
	"cmp"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

const (
	prefix = "networkobservability_"

	counter   = dto.MetricType_COUNTER
	gauge     = dto.MetricType_GAUGE
	histogram = dto.MetricType_HISTOGRAM
)

// rules are all names of Retina's that there are. Several may make one family.
var rules = []rule{
	// Of the node.
	{"node_interface_packets_total", "forward_count", gauge, "Packets that the node's uplinks carried.", uplinksOnly},
	{"node_interface_bytes_total", "forward_bytes", gauge, "Bytes that the node's uplinks carried.", uplinksOnly},
	{"node_dropped_packets_total", "drop_count", gauge, "Packets of the node's own network that the kernel dropped.", ofDrop},
	{"node_tcp_connections", "tcp_state", gauge, "TCP sockets by state.", ofState},
	{"node_tcp_events_total", "tcp_connection_stats", gauge, "Events of TCP, under the kernel's names.", ofEvent},
	{"node_ip_errors_total", "ip_connection_stats", gauge, "Events of IP, under the kernel's names.", ofIPError},
	{"node_interface_driver_total", "interface_stats", gauge, "Counters of drivers that are about errors and drops.", ofDriver},
	{"node_infiniband_total", "infiniband_counter_stats", gauge, "Counters of InfiniBand ports.", ofInfiniBand},
	{"node_conntrack_entries", "conntrack_total_connections", gauge, "Connections that the kernel tracks.", none},
	{"node_dns_queries_total", "dns_request_count", counter, "DNS queries of the node's pods.", ofDNS},
	{"node_dns_responses_total", "dns_response_count", counter, "DNS responses to the node's pods.", ofDNS},
	{"node_apiserver_handshake_seconds", "adv_node_apiserver_tcp_handshake_latency", histogram, "Milliseconds to connect to the Kubernetes API.", none},
	{"node_apiserver_connections_total", "adv_node_apiserver_no_response", counter, "Attempts to connect to the Kubernetes API that failed.", ofNoResponse},
	// Of pods.
	{"pod_packets_total", "adv_forward_count", gauge, "Packets of the pod.", ofPod(directed)},
	{"pod_bytes_total", "adv_forward_bytes", gauge, "Bytes of the pod.", ofPod(directed)},
	{"pod_dropped_packets_total", "adv_drop_count", gauge, "Packets of the pod that the kernel dropped.", ofPod(ofDrop)},
	{"pod_tcp_retransmitted_segments_total", "adv_tcpretrans_count", gauge, "TCP segments that the pod sent again.", ofPod(transmitted)},
	{"pod_tcp_resets_total", "adv_tcpflags_count", gauge, "TCP packets of the pod that have a flag: resets only.", ofPod(ofReset)},
	{"pod_dns_queries_total", "adv_dns_request_count", counter, "DNS queries of the pod.", ofPod(ofDNS)},
	{"pod_dns_responses_total", "adv_dns_response_count", counter, "DNS responses to the pod.", ofPod(ofDNS)},
}

const ingress, egress = "ingress", "egress"

var directions = map[string]string{"receive": ingress, "transmit": egress}

func none(labels, *facts) labels { return labels{} }

func directed(of labels, _ *facts) labels {
	return labels{{"direction", directions[of.get("direction")]}}
}

func transmitted(labels, *facts) labels { return labels{{"direction", egress}} }

func uplinksOnly(of labels, known *facts) labels {
	if !known.uplinks[of.get("interface")] {
		return nil
	}
	return directed(of, known)
}

// reasons are the kernel's for which Retina has a name of its own.
var reasons = map[string]string{"NETFILTER_DROP": "IPTABLE_RULE_DROP"}

// ofDrop leaves out what every healthy network has, which Retina does not count.
func ofDrop(of labels, _ *facts) labels {
	if of.get("class") == "benign" {
		return nil
	}
	reason := of.get("reason")
	if name := reasons[reason]; name != "" {
		reason = name
	}
	return labels{{"direction", directions[of.get("direction")]}, {"reason", reason}}
}

func ofState(of labels, _ *facts) labels {
	state := strings.ToUpper(of.get("state"))
	if state == "SYN_RECEIVED" {
		state = "SYN_RECV"
	}
	return labels{{"state", state}}
}

// events are those of TCP, under the names that /proc/net/netstat has for them.
var events = map[string]string{
	"listen_drops": "ListenDrops", "listen_overflows": "ListenOverflows", "request_queue_drops": "TCPReqQFullDrop",
	"syn_cookies_sent": "SyncookiesSent", "zero_window_drops": "TCPZeroWindowDrop", "zero_windows_sent": "TCPToZeroWindowAdv",
}

func ofEvent(of labels, _ *facts) labels {
	name := events[of.get("event")]
	if name == "" {
		return nil
	}
	return labels{{"statistic_name", name}}
}

func ofIPError(of labels, _ *facts) labels {
	if of.get("family") != "ipv4" || of.get("reason") != "no_route" {
		return nil
	}
	return labels{{"statistic_name", "InNoRoutes"}}
}

// ofDriver takes what Retina takes: names with err or drop in them.
func ofDriver(of labels, _ *facts) labels {
	name := strings.ToLower(of.get("counter"))
	if !strings.Contains(name, "err") && !strings.Contains(name, "drop") {
		return nil
	}
	return labels{{"interface_name", of.get("interface")}, {"statistic_name", of.get("counter")}}
}

func ofInfiniBand(of labels, _ *facts) labels {
	return labels{{"device", of.get("device")}, {"port", of.get("port")}, {"statistic_name", of.get("counter")}}
}

func ofDNS(of labels, _ *facts) labels {
	made := labels{{"query_type", of.get("type")}}
	if code := of.get("code"); code != "" {
		made = append(made, label{returnCode, code})
	}
	return made
}

func ofNoResponse(of labels, _ *facts) labels {
	if of.get("result") != "failed" {
		return nil
	}
	return labels{{"count", "no_response"}}
}

func ofReset(labels, *facts) labels { return labels{{"flag", "RST"}} }

const (
	// unknown is what Retina calls the kind of a workload that a pod does not have.
	unknown    = "unknown"
	returnCode = "return_code"
)

// Names of the pod's labels: on its own, as source and as destination.
var (
	podNames         = [4]string{"namespace", "podname", "workload_kind", "workload_name"}
	sourceNames      = [4]string{"source_namespace", "source_podname", "source_workload_kind", "source_workload_name"}
	destinationNames = [4]string{"destination_namespace", "destination_podname", "destination_workload_kind", "destination_workload_name"}
)

// ofPod adds who the pod is, in the labels of both of Retina's modes: without a prefix as in that of local context, and as
// source or destination as in that of remote context. Who receives, packets or answers, is the destination; everything else
// is the source's.
func ofPod(inner func(labels, *facts) labels) func(labels, *facts) labels {
	return func(of labels, known *facts) labels {
		special := inner(of, known)
		if special == nil {
			return nil
		}
		side := &sourceNames
		if special.get("direction") == ingress || special.get(returnCode) != "" {
			side = &destinationNames
		}
		namespace, pod := of.get("namespace"), of.get("pod")
		kind := cmp.Or(known.kinds[[2]string{namespace, pod}], unknown)
		made := append(make(labels, 0, len(special)+8), special...)
		for i, value := range [4]string{namespace, pod, kind, of.get("workload")} {
			made = append(made, label{podNames[i], value}, label{side[i], value})
		}
		return made
	}
}
