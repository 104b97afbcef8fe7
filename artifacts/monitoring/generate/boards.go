package main

import "strings"

// prefix begins the name of every metric of ours.
const prefix = "networkobservability_"

// full writes metrics' names in full: ^pod_bytes_total is networkobservability_pod_bytes_total. $n and its like are what
// selectors of a board have in common.
func full(expr string) string {
	for short, long := range map[string]string{
		"$nodes":     `cluster=~"$cluster",node=~"$node"`,
		"$spaces":    `cluster=~"$cluster",namespace=~"$namespace"`,
		"$workloads": `cluster=~"$cluster",namespace=~"$namespace",workload=~"$workload"`,
		"$pods":      `cluster=~"$cluster",namespace=~"$namespace",pod=~"$pod"`,
		"$clusters":  `cluster=~"$cluster"`,
	} {
		expr = strings.ReplaceAll(expr, short+"}", long+"}")
		expr = strings.ReplaceAll(expr, short+",", long+",")
	}
	expr = strings.ReplaceAll(expr, "[$]", "[$__rate_interval]")
	return strings.ReplaceAll(expr, "^", prefix)
}

var (
	clusters  = variable{name: "cluster", label: "Cluster", of: "^agent_build_info"}
	nodes     = variable{name: "node", label: "Node", of: "^agent_build_info{$clusters}"}
	spaces    = variable{name: "namespace", label: "Namespace", of: "^pod_info{$clusters}"}
	workloads = variable{name: "workload", label: "Workload", of: "^pod_info{$spaces}"}
	pods      = variable{name: "pod", label: "Pod", of: "^pod_info{$workloads}"}
)

// boards are all boards, in the order in which they link to each other.
func boards() []board {
	all := []board{cluster(), node(), namespace(), workload(), pod(), drops(), dns(), apiServer(), captures(), health()}
	for i := range all {
		for v := range all[i].variables {
			all[i].variables[v].of = full(all[i].variables[v].of)
		}
		for _, row := range all[i].rows {
			for _, p := range row.panels {
				for q := range p.queries {
					p.queries[q].expr = full(p.queries[q].expr)
				}
			}
		}
	}
	return all
}

func cluster() board {
	return board{
		uid: "netobs-cluster", title: "Cluster", variables: []variable{clusters},
		description: "What all nodes and namespaces do. Numbers by namespace come from the recording rules.",
		rows: []row{
			{"At a glance", []panel{
				number("Nodes seen", "short", "Nodes whose agent answers Prometheus.", `count(up{job="networkobservability-nodeagent",$clusters} == 1)`),
				number("Pods seen", "short", "Pods that agents count.", `sum(^agent_pods{$clusters})`),
				number("Received by nodes", "Bps", "Bytes a second that came in through uplinks.", uplinks("bytes", "receive", "")),
				number("Sent by nodes", "Bps", "Bytes a second that went out through uplinks.", uplinks("bytes", "transmit", "")),
				number("Drops on nodes", "pps", "Packets a second that nodes themselves dropped, benign drops left out.", `sum(rate(^node_dropped_packets_total{$clusters,class!="benign"}[$])) or vector(0)`),
				number("Alerts", "short", "Alerts about the network and about us that fire.", `count(ALERTS{alertstate="firing",alertname=~"Network.*",$clusters}) or vector(0)`),
			}},
			{"Namespaces", []panel{
				series("Sent, by namespace", "Bps", "Bytes of IP packets that pods sent; the ten namespaces that sent most.", query{`topk(10, namespace:^pod_bytes:rate5m{$clusters,direction="transmit"})`, "{{namespace}}"}),
				series("Received, by namespace", "Bps", "Bytes of IP packets that pods received; the ten namespaces that received most.", query{`topk(10, namespace:^pod_bytes:rate5m{$clusters,direction="receive"})`, "{{namespace}}"}),
				series("Drops, by namespace", "pps", "Dropped packets of pods, benign drops left out.", query{`topk(10, namespace:^pod_dropped_packets:rate5m{$clusters})`, "{{namespace}}"}),
				series("DNS that failed, by namespace", "percentunit", "Share of queries without an answer, or with an error other than NXDOMAIN.", query{`topk(10, namespace:^pod_dns_failures:rate5m{$clusters} / namespace:^pod_dns_answered_or_not:rate5m{$clusters})`, "{{namespace}}"}),
			}},
			{"Nodes", []panel{
				series("Received through uplinks, by node", "Bps", "Interfaces that carry the node's addresses or a default route.", query{uplinks("bytes", "receive", "node"), "{{node}}"}),
				series("Sent through uplinks, by node", "Bps", "Interfaces that carry the node's addresses or a default route.", query{uplinks("bytes", "transmit", "node"), "{{node}}"}),
				series("Connection tracking, by node", "percentunit", "How full the kernel's table of connections is.", query{`^node_conntrack_entries{$clusters} / (^node_conntrack_limit{$clusters} > 0)`, "{{node}}"}),
				series("Retransmitted, by node", "percentunit", "Share of the TCP segments that the node itself (not its pods) sent again.", query{`sum by (node) (rate(^node_tcp_retransmitted_segments_total{$clusters}[$])) / sum by (node) (rate(^node_tcp_segments_total{$clusters,direction="transmit"}[$]))`, "{{node}}"}),
			}},
			{"Workloads", []panel{
				table("Retransmissions", "percentunit", "Workloads with the highest share of TCP segments sent again.", "Share", `topk(10, workload:^pod_tcp_retransmitted_segments:rate5m{$clusters} / (workload:^pod_tcp_segments:rate5m{$clusters} > 1))`),
				table("Connections that failed", "percentunit", "Workloads with the highest share of TCP connections that were refused, timed out or were given up.", "Share", `topk(10, workload:^pod_tcp_connections_failed:rate5m{$clusters} / workload:^pod_tcp_connections_tried:rate5m{$clusters})`),
			}},
		},
	}
}

// uplinks sums what interfaces of nodes count, over uplinks only: other interfaces carry the same packets again. by names
// labels to keep.
func uplinks(what, direction, by string) string {
	if by != "" {
		by = " by (" + by + ")"
	}
	return `sum` + by + ` (rate(^node_interface_` + what + `_total{$clusters,direction="` + direction + `"}[$]) * on (cluster, node, interface) group_left () ^node_interface_info{$clusters,uplink="true"})`
}

func node() board {
	rate := func(metric, by, extra string) string {
		return `sum by (` + by + `) (rate(^node_` + metric + `{$nodes` + extra + `}[$]))`
	}
	return board{
		uid: "netobs-node", title: "Node", variables: []variable{clusters, nodes},
		description: "Interfaces, protocols and limits of nodes themselves. Pods have counters of their own.",
		rows: []row{
			{"Interfaces", []panel{
				series("Bytes", "Bps", "Of each interface that is not an end of a pod's veth pair.", query{rate("interface_bytes_total", "node, interface, direction", ""), "{{node}} {{interface}} {{direction}}"}),
				series("Packets", "pps", "As the interface counts them.", query{rate("interface_packets_total", "node, interface, direction", ""), "{{node}} {{interface}} {{direction}}"}),
				series("Errors and drops", "pps", "What interfaces count as errors and drops, and drops of their queues.",
					query{rate("interface_errors_total", "node, interface, direction", ""), "{{node}} {{interface}} {{direction}} errors"},
					query{rate("interface_dropped_packets_total", "node, interface, direction", ""), "{{node}} {{interface}} {{direction}} drops"},
					query{rate("interface_queue_dropped_packets_total", "node, interface", ""), "{{node}} {{interface}} queue"}),
				series("Carrier changes", "short", "How often interfaces lost or found their link within the last hour.", query{`sum by (node, interface) (increase(^node_interface_carrier_changes_total{$nodes}[1h]))`, "{{node}} {{interface}}"}),
			}},
			{"TCP", []panel{
				series("Connections", "short", "Open connections of the node itself, by state.", query{`sum by (node, state) (^node_tcp_connections{$nodes})`, "{{node}} {{state}}"}),
				series("Opened and failed", "cps", "Connections that were opened, and that failed, a second.",
					query{rate("tcp_connections_opened_total", "node, side", ""), "{{node}} {{side}}"},
					query{rate("tcp_connections_failed_total", "node, reason", ""), "{{node}} failed: {{reason}}"}),
				series("Sent again", "percentunit", "Share of TCP segments that were sent again.", query{rate("tcp_retransmitted_segments_total", "node", "") + " / " + rate("tcp_segments_total", "node", `,direction="transmit"`), "{{node}}"}),
				series("Round-trip time", "s", "Of connections that closed.", quantiles("^node_tcp_rtt_seconds", "$nodes", "node, ", "{{node}}")...),
				series("Resets", "pps", "TCP resets of the node itself.", query{rate("tcp_resets_total", "node, direction", ""), "{{node}} {{direction}}"}),
				series("Rarer events", "short", "The kernel's rarer counters of TCP, a second: overflows of listeners, memory, timeouts.", query{rate("tcp_events_total", "node, event", "") + " > 0", "{{node}} {{event}}"}),
			}},
			{"Limits", []panel{
				series("Connection tracking", "short", "Connections in the table, and how many fit.",
					query{`^node_conntrack_entries{$nodes}`, "{{node}}"}, query{`^node_conntrack_limit{$nodes}`, "{{node}} limit"}),
				series("Connection tracking: events", "short", "What could not be put into the table, a second.", query{rate("conntrack_events_total", "node, event", ""), "{{node}} {{event}}"}),
				series("Memory of sockets", "bytes", "Of the whole kernel, and its limits.",
					query{`^node_socket_memory_bytes{$nodes}`, "{{node}} {{protocol}}"}, query{`^node_socket_memory_limit_bytes{$nodes}`, "{{node}} {{protocol}} limit"}),
				series("Backlog", "pps", "Packets that CPUs dropped because their backlog was full, and how often they stopped before it was empty.",
					query{rate("softnet_dropped_total", "node", ""), "{{node}} dropped"}, query{rate("softnet_squeezed_total", "node", ""), "{{node}} squeezed"}),
			}},
			{"Protocols", []panel{
				series("IP packets", "pps", "As the node's IP layers count them.", query{rate("ip_packets_total", "node, family, direction", ""), "{{node}} {{family}} {{direction}}"}),
				series("Forwarded", "pps", "Packets of others, of pods above all.", query{rate("ip_forwarded_packets_total", "node, family", ""), "{{node}} {{family}}"}),
				series("Errors of IP and UDP", "pps", "By the kernel's reason.",
					query{rate("ip_errors_total", "node, family, reason", "") + " > 0", "{{node}} {{family}} {{reason}}"},
					query{rate("udp_errors_total", "node, reason", "") + " > 0", "{{node}} UDP {{reason}}"}),
				series("Drops", "pps", "Packets that the node itself dropped, by reason, benign drops left out.", query{rate("dropped_packets_total", "node, reason", `,class!="benign"`), "{{node}} {{reason}}"}),
			}},
		},
	}
}

// ofPods are the panels that a namespace, a workload and a pod have alike. by is what series are kept apart by, selector
// what is chosen.
func ofPods(selector, by string) []row {
	legend := "{{" + strings.ReplaceAll(by, ", ", "}} {{") + "}}"
	rate := func(metric, more, extra string) string {
		return `sum by (` + by + more + `) (rate(^pod_` + metric + `{` + selector + extra + `}[$]))`
	}
	return []row{
		{"Traffic (group Traffic)", []panel{
			series("Received", "Bps", "Bytes of IP packets on the wire, loopback left out.", query{rate("bytes_total", "", `,direction="receive"`), legend}),
			series("Sent", "Bps", "Bytes of IP packets on the wire, loopback left out.", query{rate("bytes_total", "", `,direction="transmit"`), legend}),
			series("Packets", "pps", "Packets on the wire: large segments count as what they are cut into.", query{rate("packets_total", ", direction", ""), legend + " {{direction}}"}),
			series("Drops (group Drops)", "pps", "Dropped packets by class, benign drops left out.", query{rate("dropped_packets_total", ", class", `,class!="benign"`), legend + " {{class}}"}),
		}},
		{"Connections (group TCP)", []panel{
			series("Open", "short", "TCP connections by state.", query{`sum by (` + by + `, state) (^pod_tcp_connections{` + selector + `})`, legend + " {{state}}"}),
			series("Opened", "cps", "TCP connections that were opened a second, by them or to them.", query{rate("tcp_connections_opened_total", ", side", ""), legend + " {{side}}"}),
			series("Failed", "cps", "TCP connections that were refused, timed out or were given up, a second.", query{rate("tcp_connections_failed_total", ", reason", ""), legend + " {{reason}}"}),
			series("Resets", "pps", "Of TCP.", query{rate("tcp_resets_total", ", direction", ""), legend + " {{direction}}"}),
			series("Sent again", "percentunit", "Share of TCP segments that were sent again.", query{rate("tcp_retransmitted_segments_total", "", "") + " / " + rate("tcp_segments_total", "", `,direction="transmit"`), legend}),
			series("Round-trip time", "s", "Of connections that closed.", quantiles("^pod_tcp_rtt_seconds", selector, by+", ", legend)...),
		}},
		{"DNS (group DNS) and the Kubernetes API (group APIServer)", []panel{
			series("DNS answers by code", "reqps", "NXDOMAIN is ordinary: search lists ask for several names that do not exist.",
				query{rate("dns_responses_total", ", code", ""), legend + " {{code}}"}, query{rate("dns_unanswered_total", "", ""), legend + " unanswered"}),
			series("DNS latency", "s", "From a query to its answer.", quantiles("^pod_dns_latency_seconds", selector, by+", ", legend)...),
			series("Connections to the Kubernetes API", "cps", "By result. Only those have any who talk to it.", query{rate("apiserver_connections_total", ", result", ""), legend + " {{result}}"}),
			series("Handshake with the Kubernetes API", "s", "From SYN to ESTABLISHED.", quantiles("^pod_apiserver_handshake_seconds", selector, by+", ", legend)...),
		}},
	}
}

func namespace() board {
	return board{
		uid: "netobs-namespace", title: "Namespace", variables: []variable{clusters, spaces},
		description: "What the pods of namespaces do together, and which workloads stand out.",
		rows: append(ofPods("$spaces", "namespace"), row{"Workloads", []panel{
			table("Who sends most", "Bps", "Workloads by bytes sent a second.", "Sent", `topk(20, sum by (namespace, workload) (rate(^pod_bytes_total{$spaces,direction="transmit"}[$])))`),
			table("Who receives most", "Bps", "Workloads by bytes received a second.", "Received", `topk(20, sum by (namespace, workload) (rate(^pod_bytes_total{$spaces,direction="receive"}[$])))`),
		}}),
	}
}

func workload() board {
	return board{
		uid: "netobs-workload", title: "Workload", variables: []variable{clusters, spaces, workloads},
		description: "What the pods of a Deployment, StatefulSet, DaemonSet or Job do together, and which pods stand out.",
		rows: append(ofPods("$workloads", "namespace, workload"), row{"Pods", []panel{
			table("Pods that send most", "Bps", "Pods by bytes sent a second.", "Sent", `topk(20, sum by (namespace, pod) (rate(^pod_bytes_total{$workloads,direction="transmit"}[$])))`),
			series("Pods against the past of their workload", "short", "Bytes sent a second, as a multiple of the most that any pod of the workload sent in the day that ended an hour ago. Above 5 is an alert.", query{
				`pod:^pod_transmit_bytes:rate5m{$workloads} / on (cluster, namespace, workload) group_left () workload:^pod_transmit_bytes:max_rate5m_past{$workloads}`, "{{namespace}} {{pod}}"}),
		}}),
	}
}

func pod() board {
	return board{
		uid: "netobs-pod", title: "Pod", variables: []variable{clusters, spaces, workloads, pods},
		description: "One pod or a few, in every metric that there is of them.",
		rows: append(ofPods("$pods", "namespace, pod"), row{"The pod", []panel{
			table("Who it is", "short", "One row a pod. A pod's series end with it.", "Pods", `sum by (namespace, pod, workload, workload_kind, node, uid) (^pod_info{$pods})`),
			series("Packets that passed by the hooks", "pps", "Sent in a way that no program sees (PACKET_QDISC_BYPASS); found by comparison with the interface's counters.", query{`sum by (namespace, pod, direction) (rate(^pod_bypassed_packets_total{$pods}[$]))`, "{{pod}} {{direction}}"}),
		}}),
	}
}

func drops() board {
	return board{
		uid: "netobs-drops", title: "Drops", variables: []variable{clusters, spaces, nodes},
		description: "Packets that the kernel dropped: whose, where and why.",
		rows: []row{
			{"Pods (group Drops)", []panel{
				series("By class", "pps", "policy: netfilter, BPF; buffer: a queue or memory was full; no_socket: nobody listens; routing, ttl, mtu, checksum, malformed, protocol: as they say.", query{`sum by (class) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class!="benign"}[$]))`, "{{class}}"}),
				series("By reason", "pps", "The kernel's names.", query{`topk(10, sum by (reason) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class!="benign"}[$])))`, "{{reason}}"}),
				series("By namespace", "pps", "Benign drops left out.", query{`topk(10, sum by (namespace) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class!="benign"}[$])))`, "{{namespace}}"}),
				table("By workload and reason", "pps", "Of the last minutes, largest first.", "Drops", `topk(30, sum by (namespace, workload, direction, class, reason) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class!="benign"}[$])) > 0)`),
				series("Share of packets", "percentunit", "Dropped packets by packets, of namespaces.", query{`topk(10, sum by (namespace) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class!="benign"}[$])) / sum by (namespace) (rate(^pod_packets_total{$spaces,node=~"$node"}[$])))`, "{{namespace}}"}),
				series("Benign", "pps", "What the kernel frees in good order and calls a drop.", query{`topk(10, sum by (reason) (rate(^pod_dropped_packets_total{$spaces,node=~"$node",class="benign"}[$])))`, "{{reason}}"}),
			}},
			{"Nodes", []panel{
				series("By node and class", "pps", "Of the node's own network namespace.", query{`sum by (node, class) (rate(^node_dropped_packets_total{$nodes,class!="benign"}[$]))`, "{{node}} {{class}}"}),
				series("Not sorted", "pps", "Drops that are in no row because the table was full.", query{`sum by (node) (rate(^node_drops_unsorted_total{$nodes}[$]))`, "{{node}}"}),
			}},
		},
	}
}

func dns() board {
	return board{
		uid: "netobs-dns", title: "DNS", variables: []variable{clusters, spaces, nodes},
		description: "Queries, answers, and what takes long or fails. Seen on port 53.",
		rows: []row{
			{"Pods (group DNS)", []panel{
				series("Queries by type", "reqps", "What pods ask for.", query{`sum by (type) (rate(^pod_dns_queries_total{$spaces}[$]))`, "{{type}}"}),
				series("Answers by code", "reqps", "NXDOMAIN is ordinary: search lists ask for several names that do not exist.", query{`sum by (code) (rate(^pod_dns_responses_total{$spaces}[$]))`, "{{code}}"}),
				series("Without an answer", "reqps", "Queries that nobody answered within some seconds.", query{`sum by (namespace) (rate(^pod_dns_unanswered_total{$spaces}[$]))`, "{{namespace}}"}),
				series("Latency", "s", "From a query to its answer.", quantiles("^pod_dns_latency_seconds", "$spaces", "", "")...),
				series("Slower than 250 ms", "percentunit", "Share of answers, exact.", query{`1 - sum by (namespace) (rate(^pod_dns_latency_seconds_bucket{$spaces,le="0.25"}[$])) / sum by (namespace) (rate(^pod_dns_latency_seconds_count{$spaces}[$]))`, "{{namespace}}"}),
				table("Who gets errors", "reqps", "Answers with a code other than NOERROR, by workload.", "Answers", `topk(20, sum by (namespace, workload, code) (rate(^pod_dns_responses_total{$spaces,code!="NOERROR"}[$])) > 0)`),
				table("Names that fail (label DNSName)", "reqps", "Names that were asked for in vain. Only where NetworkTelemetry asks for the label.", "Failures", `topk(20, sum by (namespace, workload, dns_name) (rate(^pod_dns_name_failures_total{$spaces}[$])) > 0)`),
				table("Names that are asked for most (label DNSName)", "reqps", "Only where NetworkTelemetry asks for the label.", "Queries", `topk(20, sum by (namespace, workload, dns_name) (rate(^pod_dns_name_queries_total{$spaces}[$])))`),
			}},
			{"All pods of a node (no NetworkTelemetry is needed)", []panel{
				series("Answers by code", "reqps", "Pods that have gone included.", query{`sum by (node, code) (rate(^node_dns_responses_total{$nodes}[$]))`, "{{node}} {{code}}"}),
				series("Latency", "s", "From a query to its answer.", quantiles("^node_dns_latency_seconds", "$nodes", "node, ", "{{node}}")...),
			}},
		},
	}
}

func apiServer() board {
	return board{
		uid: "netobs-apiserver", title: "Kubernetes API", variables: []variable{clusters, nodes, spaces},
		description: "How far the Kubernetes API is from nodes and pods, as their TCP connections see it.",
		rows: []row{
			{"Nodes: kubelet, kube-proxy, pods with the node's network", []panel{
				series("Handshake", "s", "From SYN to ESTABLISHED.", quantiles("^node_apiserver_handshake_seconds", "$nodes", "node, ", "{{node}}")...),
				series("Round-trip time", "s", "Smoothed, of connections that closed.", quantiles("^node_apiserver_rtt_seconds", "$nodes", "node, ", "{{node}}")...),
				series("Connections", "cps", "By result.", query{`sum by (node, result) (rate(^node_apiserver_connections_total{$nodes}[$]))`, "{{node}} {{result}}"}),
				series("Open", "short", "Connections that are open.", query{`sum by (node) (^node_apiserver_connections_open{$nodes})`, "{{node}}"}),
			}},
			{"Pods (group APIServer)", []panel{
				series("Handshake", "s", "From SYN to ESTABLISHED.", quantiles("^pod_apiserver_handshake_seconds", "$spaces", "", "")...),
				series("Round-trip time", "s", "Smoothed, of connections that closed.", quantiles("^pod_apiserver_rtt_seconds", "$spaces", "", "")...),
				series("Handshakes slower than 62.5 ms", "percentunit", "Share, exact, by namespace.", query{`1 - sum by (namespace) (rate(^pod_apiserver_handshake_seconds_bucket{$spaces,le="0.0625"}[$])) / sum by (namespace) (rate(^pod_apiserver_handshake_seconds_count{$spaces}[$]))`, "{{namespace}}"}),
				table("Who fails to connect", "cps", "By workload.", "Failures", `topk(20, sum by (namespace, workload) (rate(^pod_apiserver_connections_total{$spaces,result="failed"}[$])) > 0)`),
			}},
		},
	}
}

func captures() board {
	return board{
		uid: "netobs-captures", title: "Captures", variables: []variable{clusters, nodes},
		description: "Captures of packets: how many, what they take, and what they miss.",
		rows: []row{
			{"All", []panel{
				series("Captures by phase", "short", "As the replica that leads counts them.", query{`max by (phase) (^apiserver_captures{$clusters})`, "{{phase}}"}),
				series("Readers", "short", "Open streams of packets to clients.", query{`sum by (subresource) (^apiserver_capture_streams_open{$clusters})`, "{{subresource}}"}),
				series("Read", "Bps", "Bytes of files with packets that were sent to clients.", query{`sum by (subresource) (rate(^apiserver_capture_stream_bytes_total{$clusters}[$]))`, "{{subresource}}"}),
				series("Streams that ended", "cps", "complete, refused or broken.", query{`sum by (subresource, result) (rate(^apiserver_capture_streams_total{$clusters}[$]))`, "{{subresource}} {{result}}"}),
			}},
			{"Nodes", []panel{
				series("Recordings", "short", "On each node.", query{`sum by (node, phase) (^agent_captures{$nodes})`, "{{node}} {{phase}}"}),
				series("Packets", "pps", "Recorded.", query{`sum by (node) (rate(^agent_capture_packets_total{$nodes}[$]))`, "{{node}}"}),
				series("Not recorded", "pps", "ring: the reader was too slow; disk: it could not be written; limit: the capture had its share; vantage: the other end records the flow.", query{`sum by (node, cause) (rate(^agent_capture_dropped_packets_total{$nodes}[$]))`, "{{node}} {{cause}}"}),
				series("Disk", "percentunit", "Share of what a node may keep.", query{`^agent_capture_bytes{$nodes} / ^agent_capture_quota_bytes{$nodes}`, "{{node}}"}),
			}},
		},
	}
}

func health() board {
	return board{
		uid: "netobs-health", title: "Health of network observability", variables: []variable{clusters, nodes},
		description: "Whether what observes works: agents, API server, telemetry, exporters, and what they cost.",
		rows: []row{
			{"At a glance", []panel{
				number("Agents up", "short", "Agents that Prometheus can scrape.", `count(up{job="networkobservability-nodeagent",$clusters} == 1) or vector(0)`),
				number("Agents down", "short", "Agents that it cannot.", `count(up{job="networkobservability-nodeagent",$clusters} == 0) or vector(0)`),
				number("API servers up", "short", "Replicas that Prometheus can scrape.", `count(up{job="networkobservability-apiserver",$clusters} == 1) or vector(0)`),
				number("Silent nodes", "short", "Agents that some replica does not ask because they did not answer.", `max(^apiserver_agent_breakers_open{$clusters})`),
				number("Folded series", "short", "Series beyond the limit, counted as other.", `sum(^agent_folded_series{$clusters}) or vector(0)`),
				number("Versions", "short", "Different versions of the agent that run.", `count(count by (version) (^agent_build_info{$clusters}))`),
			}},
			{"Agents", []panel{
				series("Collectors", "short", "1 counts everything, 0.5 misses something, 0 does not run. Only those below 1.", query{`^agent_collector_up{$nodes} < 1`, "{{node}} {{collector}}"}),
				series("Lost events", "short", "By stage, a second.", query{`sum by (node, stage) (rate(^agent_lost_events_total{$nodes}[$])) > 0`, "{{node}} {{stage}}"}),
				series("Tables", "percentunit", "How full the kernel's and the agent's tables are.", query{`^agent_table_entries{$nodes} / ^agent_table_capacity{$nodes}`, "{{node}} {{table}}"}),
				series("Flows", "short", "Flows in the kernel's tables, new ones and those that were evicted, a second.",
					query{`^node_flows{$nodes}`, "{{node}} flows"}, query{`rate(^node_flows_created_total{$nodes}[$])`, "{{node}} created"}, query{`rate(^node_flows_evicted_total{$nodes}[$])`, "{{node}} evicted"}),
				series("Reading", "s", "How long agents take to read everything for an answer.", quantiles("^agent_read_duration_seconds", "$nodes", "", "")...),
				series("Scrapes", "s", "How long scrapes take, as Prometheus sees it.", query{`scrape_duration_seconds{job=~"networkobservability-.*",$clusters}`, "{{instance}}"}),
				series("CPU", "percentunit", "Of one core.", query{`rate(process_cpu_seconds_total{job="networkobservability-nodeagent",$nodes}[$])`, "{{node}}"}),
				series("Memory", "bytes", "Resident.", query{`process_resident_memory_bytes{job="networkobservability-nodeagent",$nodes}`, "{{node}}"}),
				series("Series of pods", "short", "Offered to Prometheus.", query{`^agent_series{$nodes}`, "{{node}}"}),
				series("Streams", "short", "Open calls of the API server.", query{`sum by (node, kind) (^agent_streams{$nodes})`, "{{node}} {{kind}}"}),
			}},
			{"API server", []panel{
				series("Calls to agents", "reqps", "By result.", query{`sum by (result) (rate(^apiserver_agent_requests_total{$clusters}[$]))`, "{{result}}"}),
				series("Latency of calls to agents", "s", "Whatever their result.", quantiles("^apiserver_agent_request_duration_seconds", "$clusters", "", "")...),
				series("Latency of reads", "s", "By resource, 99th percentile.", query{`histogram_quantile(0.99, sum by (resource, le) (rate(^apiserver_read_duration_seconds_bucket{$clusters}[$])))`, "{{resource}}"}),
				series("Nodes asked by a read", "short", "The median and the 99th percentile.", query{`histogram_quantile(0.5, sum by (le) (rate(^apiserver_fan_out_nodes_bucket{$clusters}[$])))`, "median"}, query{`histogram_quantile(0.99, sum by (le) (rate(^apiserver_fan_out_nodes_bucket{$clusters}[$])))`, "p99"}),
				series("Memory", "bytes", "Resident.", query{`process_resident_memory_bytes{job="networkobservability-apiserver",$clusters}`, "{{instance}}"}),
				series("Agents known", "short", "Nodes for which the control plane names an agent.", query{`^apiserver_agents_known{$clusters}`, "{{instance}}"}),
			}},
			{"Telemetry", []panel{
				series("Nodes by state", "short", "Where NetworkTelemetry is in force.", query{`max by (state) (^apiserver_telemetry_nodes{$clusters})`, "{{state}}"}),
				series("Generation in force", "short", "Of NetworkTelemetry, on each node.", query{`^agent_telemetry_generation{$nodes}`, "{{node}}"}),
				series("Sent by exporters", "short", "Records a second.", query{`sum by (exporter, signal) (rate(^agent_exporter_sent_total{$nodes}[$]))`, "{{exporter}} {{signal}}"}),
				series("Dropped by exporters", "short", "Records a second, by reason.", query{`sum by (exporter, signal, reason) (rate(^agent_exporter_dropped_total{$nodes}[$]))`, "{{exporter}} {{signal}} {{reason}}"}),
				series("Queues of exporters", "bytes", "What waits.", query{`^agent_exporter_queue_bytes{$nodes}`, "{{node}} {{exporter}}"}),
			}},
		},
	}
}
