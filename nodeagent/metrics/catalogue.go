package metrics

import (
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Prefix begins the names of all families.
const Prefix = "networkobservability_"

// A Family is a family of metrics, as docs/metrics.md has it.
type Family struct {
	// Name has the prefix.
	Name string
	Type dto.MetricType
	// Unit is what values are in; the name ends in it where Prometheus wants that.
	Unit string
	Help string
	// Labels are sorted, but those that every series of a pod has come first.
	Labels []string
	// Optional are labels that the configuration adds.
	Optional []string
	// Group is that of the configuration, "Node" for families of the node, "any" for what all groups bring with them.
	Group string
	// Most is how many series a pod has at most, a histogram counting as 11, with no optional label. It is 0 where the
	// number depends on the configuration, and for families of the node.
	Most int
}

// Families are all families that are gathered here, sorted by name.
func Families() []Family {
	sorted := slices.Clone(catalogue[:])
	slices.SortFunc(sorted, func(a, b Family) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// Groups of families.
const (
	groupNode      = "Node"
	groupAny       = "any"
	groupTraffic   = "Traffic"
	groupDrops     = "Drops"
	groupTCP       = "TCP"
	groupDNS       = "DNS"
	groupAPIServer = "APIServer"
)

type family int

const (
	nodeInterfaceBytes family = iota
	nodeInterfacePackets
	nodeInterfaceErrors
	nodeInterfaceDropped
	nodeInterfaceQueueDropped
	nodeInterfaceCarrierChanges
	nodeInterfaceInfo
	nodeInterfaceSpeed
	nodeInterfaceDriver
	nodeInfiniBand
	nodeDropped
	nodeDropsUnsorted
	nodeTCPConnections
	nodeTCPOpened
	nodeTCPFailed
	nodeTCPResets
	nodeTCPSegments
	nodeTCPRetransmitted
	nodeTCPRTT
	nodeTCPEvents
	nodeUDPDatagrams
	nodeUDPErrors
	nodeIPPackets
	nodeIPForwarded
	nodeIPErrors
	nodeICMPMessages
	nodeConntrackEntries
	nodeConntrackLimit
	nodeConntrackEvents
	nodeSocketMemory
	nodeSocketMemoryLimit
	nodeSockets
	nodeSoftnetProcessed
	nodeSoftnetDropped
	nodeSoftnetSqueezed
	nodeDNSQueries
	nodeDNSResponses
	nodeDNSUnanswered
	nodeDNSLatency
	nodeAPIHandshake
	nodeAPIRTT
	nodeAPIConnections
	nodeAPIOpen
	nodeFlows
	nodeFlowsCapacity
	nodeFlowsCreated
	nodeFlowsEvicted

	podInfo
	podBytes
	podPackets
	podBypassed
	podPeerBytes
	podPeerPackets
	podDropped
	podTCPConnections
	podTCPOpened
	podTCPFailed
	podTCPResets
	podTCPSegments
	podTCPRetransmitted
	podTCPRTT
	podDNSQueries
	podDNSResponses
	podDNSUnanswered
	podDNSLatency
	podDNSNameQueries
	podDNSNameFailures
	podAPIHandshake
	podAPIRTT
	podAPIConnections

	families
)

const (
	counter   = dto.MetricType_COUNTER
	gauge     = dto.MetricType_GAUGE
	histogram = dto.MetricType_HISTOGRAM
)

// Of the lists of series of one pod that have no fixed length, what they can have at most.
const (
	mostDropReasons = 128
	mostDNSTypes    = len(dnsTypes) + 1
	mostDNSCodes    = mostDNSTypes * (len(dnsCodes) + 1)
)

// catalogue has labels without those that every series of a pod has; init adds them, and the prefix.
var catalogue = [families]Family{
	nodeInterfaceBytes:          {Name: "node_interface_bytes_total", Type: counter, Unit: "bytes", Group: groupNode, Labels: []string{"direction", "interface"}, Help: "Bytes that the interface carried, as its driver counts them."},
	nodeInterfacePackets:        {Name: "node_interface_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"direction", "interface"}, Help: "Packets that the interface carried, as its driver counts them."},
	nodeInterfaceErrors:         {Name: "node_interface_errors_total", Type: counter, Unit: "errors", Group: groupNode, Labels: []string{"direction", "interface"}, Help: "Packets that the interface received or sent with an error."},
	nodeInterfaceDropped:        {Name: "node_interface_dropped_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"direction", "interface"}, Help: "Packets that the interface dropped; received ones with those that the hardware missed, as in /proc/net/dev."},
	nodeInterfaceQueueDropped:   {Name: "node_interface_queue_dropped_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"interface"}, Help: "Packets that the interface's root queueing discipline dropped. The kernel's counter has 32 bits."},
	nodeInterfaceCarrierChanges: {Name: "node_interface_carrier_changes_total", Type: counter, Unit: "changes", Group: groupNode, Labels: []string{"interface"}, Help: "How often the interface lost or gained its carrier."},
	nodeInterfaceInfo:           {Name: "node_interface_info", Type: gauge, Group: groupNode, Labels: []string{"interface", "kind", "state", "uplink"}, Help: "1 for each interface: its kind, its state of operation, and whether it is one of the node's uplinks."},
	nodeInterfaceSpeed:          {Name: "node_interface_speed_bytes", Type: gauge, Unit: "bytes", Group: groupNode, Labels: []string{"interface"}, Help: "What the interface can carry, in bytes a second, where it is known."},
	nodeInterfaceDriver:         {Name: "node_interface_driver_total", Type: counter, Group: groupNode, Labels: []string{"counter", "interface"}, Help: "Counters of the drivers of uplinks, under the drivers' names (ethtool -S)."},
	nodeInfiniBand:              {Name: "node_infiniband_total", Type: counter, Group: groupNode, Labels: []string{"counter", "device", "port"}, Help: "Counters of InfiniBand and RoCE ports, under the kernel's names."},
	nodeDropped:                 {Name: "node_dropped_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"class", "direction", "reason"}, Help: "Packets of the node's own network that the kernel dropped, by its reason. Class benign is what every healthy network has."},
	nodeDropsUnsorted:           {Name: "node_drops_unsorted_total", Type: counter, Unit: "packets", Group: groupNode, Help: "Dropped packets of the node's own network whose reason was not recorded, because the table was full."},
	nodeTCPConnections:          {Name: "node_tcp_connections", Type: gauge, Unit: "connections", Group: groupNode, Labels: []string{"state"}, Help: "TCP sockets in the node's own network, by state."},
	nodeTCPOpened:               {Name: "node_tcp_connections_opened_total", Type: counter, Unit: "connections", Group: groupNode, Labels: []string{"side"}, Help: "Connections that were opened in the node's own network, as client or as server."},
	nodeTCPFailed:               {Name: "node_tcp_connections_failed_total", Type: counter, Unit: "connections", Group: groupNode, Labels: []string{"reason"}, Help: "Attempts to connect from the node's own network that failed."},
	nodeTCPResets:               {Name: "node_tcp_resets_total", Type: counter, Unit: "resets", Group: groupNode, Labels: []string{"direction"}, Help: "TCP resets of the node's own network."},
	nodeTCPSegments:             {Name: "node_tcp_segments_total", Type: counter, Unit: "segments", Group: groupNode, Labels: []string{"direction"}, Help: "TCP segments of the node's own network, as the kernel counts them."},
	nodeTCPRetransmitted:        {Name: "node_tcp_retransmitted_segments_total", Type: counter, Unit: "segments", Group: groupNode, Help: "TCP segments that the node's own network sent again, as the kernel counts them."},
	nodeTCPRTT:                  {Name: "node_tcp_rtt_seconds", Type: histogram, Unit: "seconds", Group: groupNode, Help: "The last smoothed round-trip time of each connection of the node's own network that was closed."},
	nodeTCPEvents:               {Name: "node_tcp_events_total", Type: counter, Unit: "events", Group: groupNode, Labels: []string{"event"}, Help: "Rarer events of TCP in the node's own network: full queues of listeners, closed windows, SYN cookies."},
	nodeUDPDatagrams:            {Name: "node_udp_datagrams_total", Type: counter, Unit: "datagrams", Group: groupNode, Labels: []string{"direction"}, Help: "UDP datagrams that were delivered to sockets of the node's own network, or sent by them."},
	nodeUDPErrors:               {Name: "node_udp_errors_total", Type: counter, Unit: "datagrams", Group: groupNode, Labels: []string{"reason"}, Help: "UDP datagrams of the node's own network that were not delivered or not sent."},
	nodeIPPackets:               {Name: "node_ip_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"direction", "family"}, Help: "IP packets that the node's own network received, those to be forwarded included, or sent of its own."},
	nodeIPForwarded:             {Name: "node_ip_forwarded_packets_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"family"}, Help: "IP packets that the node's own network forwarded."},
	nodeIPErrors:                {Name: "node_ip_errors_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"family", "reason"}, Help: "IP packets of the node's own network that were discarded."},
	nodeICMPMessages:            {Name: "node_icmp_messages_total", Type: counter, Unit: "messages", Group: groupNode, Labels: []string{"direction", "family"}, Help: "ICMP messages of the node's own network."},
	nodeConntrackEntries:        {Name: "node_conntrack_entries", Type: gauge, Unit: "entries", Group: groupNode, Help: "Connections that are being tracked."},
	nodeConntrackLimit:          {Name: "node_conntrack_limit", Type: gauge, Unit: "entries", Group: groupNode, Help: "How many connections can be tracked."},
	nodeConntrackEvents:         {Name: "node_conntrack_events_total", Type: counter, Unit: "packets", Group: groupNode, Labels: []string{"event"}, Help: "What connection tracking could not take in, since the agent first looked."},
	nodeSocketMemory:            {Name: "node_socket_memory_bytes", Type: gauge, Unit: "bytes", Group: groupNode, Labels: []string{"protocol"}, Help: "Memory of sockets by protocol, of the whole kernel; of fragments that wait for others, of the node's own network."},
	nodeSocketMemoryLimit:       {Name: "node_socket_memory_limit_bytes", Type: gauge, Unit: "bytes", Group: groupNode, Labels: []string{"protocol"}, Help: "Where the kernel begins to refuse memory to sockets."},
	nodeSockets:                 {Name: "node_sockets", Type: gauge, Unit: "sockets", Group: groupNode, Help: "Sockets in the node's own network."},
	nodeSoftnetProcessed:        {Name: "node_softnet_processed_total", Type: counter, Unit: "packets", Group: groupNode, Help: "Packets that the CPUs took from their backlogs and drivers, since the agent first looked."},
	nodeSoftnetDropped:          {Name: "node_softnet_dropped_total", Type: counter, Unit: "packets", Group: groupNode, Help: "Packets that were dropped because a CPU's backlog was full, since the agent first looked."},
	nodeSoftnetSqueezed:         {Name: "node_softnet_squeezed_total", Type: counter, Unit: "events", Group: groupNode, Help: "How often a CPU had to stop receiving before its work was done, since the agent first looked."},
	nodeDNSQueries:              {Name: "node_dns_queries_total", Type: counter, Unit: "queries", Group: groupNode, Labels: []string{"type"}, Help: "DNS queries of all pods of the node, those that have gone included."},
	nodeDNSResponses:            {Name: "node_dns_responses_total", Type: counter, Unit: "responses", Group: groupNode, Labels: []string{"code", "type"}, Help: "DNS responses to all pods of the node, those that have gone included."},
	nodeDNSUnanswered:           {Name: "node_dns_unanswered_total", Type: counter, Unit: "queries", Group: groupNode, Help: "DNS queries of all pods of the node that nobody answered within 10 s."},
	nodeDNSLatency:              {Name: "node_dns_latency_seconds", Type: histogram, Unit: "seconds", Group: groupNode, Help: "From a DNS query to its response, of all pods of the node."},
	nodeAPIHandshake:            {Name: "node_apiserver_handshake_seconds", Type: histogram, Unit: "seconds", Group: groupNode, Help: "From the first SYN to the established connection, of connections of the node's own network to the Kubernetes API."},
	nodeAPIRTT:                  {Name: "node_apiserver_rtt_seconds", Type: histogram, Unit: "seconds", Group: groupNode, Help: "The last smoothed round-trip time of each connection of the node's own network to the Kubernetes API that was closed."},
	nodeAPIConnections:          {Name: "node_apiserver_connections_total", Type: counter, Unit: "connections", Group: groupNode, Labels: []string{"result"}, Help: "Attempts of the node's own network to connect to the Kubernetes API."},
	nodeAPIOpen:                 {Name: "node_apiserver_connections_open", Type: gauge, Unit: "connections", Group: groupNode, Help: "Connections of the node's own network to the Kubernetes API that are open."},
	nodeFlows:                   {Name: "node_flows", Type: gauge, Unit: "flows", Group: groupNode, Help: "Flows in the kernel's tables."},
	nodeFlowsCapacity:           {Name: "node_flows_capacity", Type: gauge, Unit: "flows", Group: groupNode, Help: "How many flows the kernel's tables hold."},
	nodeFlowsCreated:            {Name: "node_flows_created_total", Type: counter, Unit: "flows", Group: groupNode, Help: "Flows that began."},
	nodeFlowsEvicted:            {Name: "node_flows_evicted_total", Type: counter, Unit: "flows", Group: groupNode, Help: "Flows that were pushed out by others before their last packets were recorded."},

	podInfo:             {Name: "pod_info", Type: gauge, Group: groupAny, Labels: []string{"uid", "workload_kind"}, Most: 1, Help: "1 for each pod of which there are series."},
	podBytes:            {Name: "pod_bytes_total", Type: counter, Unit: "bytes", Group: groupTraffic, Labels: []string{"direction"}, Most: 2, Help: "Bytes of IP packets on the wire that the pod received or transmitted, headers of each packet included."},
	podPackets:          {Name: "pod_packets_total", Type: counter, Unit: "packets", Group: groupTraffic, Labels: []string{"direction"}, Most: 2, Help: "IP packets on the wire that the pod received or transmitted."},
	podBypassed:         {Name: "pod_bypassed_packets_total", Type: counter, Unit: "packets", Group: groupTraffic, Labels: []string{"direction"}, Most: 1, Help: "Buffers that the pod's interfaces carried past the agent's hooks, where there were any."},
	podPeerBytes:        {Name: "pod_peer_bytes_total", Type: counter, Unit: "bytes", Group: groupTraffic, Labels: []string{"direction"}, Optional: peerLabels, Help: "Bytes that the pod exchanged with its peers, as far as flows were recorded."},
	podPeerPackets:      {Name: "pod_peer_packets_total", Type: counter, Unit: "packets", Group: groupTraffic, Labels: []string{"direction"}, Optional: peerLabels, Help: "Packets that the pod exchanged with its peers, as far as flows were recorded."},
	podDropped:          {Name: "pod_dropped_packets_total", Type: counter, Unit: "packets", Group: groupDrops, Labels: []string{"class", "direction", "reason"}, Optional: portLabels, Most: mostDropReasons, Help: "Packets of the pod that the kernel dropped, by its reason. Class benign is what every healthy network has."},
	podTCPConnections:   {Name: "pod_tcp_connections", Type: gauge, Unit: "connections", Group: groupTCP, Labels: []string{"state"}, Most: 5, Help: "The pod's TCP sockets, by state."},
	podTCPOpened:        {Name: "pod_tcp_connections_opened_total", Type: counter, Unit: "connections", Group: groupTCP, Labels: []string{"side"}, Most: 2, Help: "Connections that the pod opened, as client or as server."},
	podTCPFailed:        {Name: "pod_tcp_connections_failed_total", Type: counter, Unit: "connections", Group: groupTCP, Labels: []string{"reason"}, Most: 5, Help: "Attempts of the pod to connect that failed."},
	podTCPResets:        {Name: "pod_tcp_resets_total", Type: counter, Unit: "resets", Group: groupTCP, Labels: []string{"direction"}, Most: 2, Help: "TCP resets that the pod received or transmitted."},
	podTCPSegments:      {Name: "pod_tcp_segments_total", Type: counter, Unit: "segments", Group: groupTCP, Labels: []string{"direction"}, Most: 2, Help: "TCP segments that the pod's sockets received or transmitted."},
	podTCPRetransmitted: {Name: "pod_tcp_retransmitted_segments_total", Type: counter, Unit: "segments", Group: groupTCP, Most: 1, Help: "TCP segments that the pod's sockets sent again."},
	podTCPRTT:           {Name: "pod_tcp_rtt_seconds", Type: histogram, Unit: "seconds", Group: groupTCP, Most: histogramSeries, Help: "The last smoothed round-trip time of each connection of the pod that was closed."},
	podDNSQueries:       {Name: "pod_dns_queries_total", Type: counter, Unit: "queries", Group: groupDNS, Labels: []string{"type"}, Most: mostDNSTypes, Help: "DNS queries of the pod."},
	podDNSResponses:     {Name: "pod_dns_responses_total", Type: counter, Unit: "responses", Group: groupDNS, Labels: []string{"code", "type"}, Most: mostDNSCodes, Help: "DNS responses to the pod."},
	podDNSUnanswered:    {Name: "pod_dns_unanswered_total", Type: counter, Unit: "queries", Group: groupDNS, Most: 1, Help: "DNS queries of the pod that nobody answered within 10 s."},
	podDNSLatency:       {Name: "pod_dns_latency_seconds", Type: histogram, Unit: "seconds", Group: groupDNS, Most: histogramSeries, Help: "From a DNS query of the pod to its response."},
	podDNSNameQueries:   {Name: "pod_dns_name_queries_total", Type: counter, Unit: "queries", Group: groupDNS, Optional: nameLabels, Help: "DNS queries of the pod by name, for the names most asked for: at least so many were answered or given up."},
	podDNSNameFailures:  {Name: "pod_dns_name_failures_total", Type: counter, Unit: "queries", Group: groupDNS, Optional: nameLabels, Help: "Of these, those that were answered with an error code, or not at all."},
	podAPIHandshake:     {Name: "pod_apiserver_handshake_seconds", Type: histogram, Unit: "seconds", Group: groupAPIServer, Most: histogramSeries, Help: "From the first SYN to the established connection, of the pod's connections to the Kubernetes API."},
	podAPIRTT:           {Name: "pod_apiserver_rtt_seconds", Type: histogram, Unit: "seconds", Group: groupAPIServer, Most: histogramSeries, Help: "The last smoothed round-trip time of each connection of the pod to the Kubernetes API that was closed."},
	podAPIConnections:   {Name: "pod_apiserver_connections_total", Type: counter, Unit: "connections", Group: groupAPIServer, Labels: []string{"result"}, Most: 2, Help: "Attempts of the pod to connect to the Kubernetes API."},
}

// Labels that the configuration adds.
var (
	peerLabels = []string{"dns_name", "peer_namespace", "peer_workload", "port", "protocol", "service", "service_namespace"}
	portLabels = []string{"port", "protocol"}
	nameLabels = []string{"dns_name"}
)

// podLabels are those of every series of a pod.
var podLabels = []string{"namespace", "pod", "workload"}

func init() {
	for i := range catalogue {
		f := &catalogue[i]
		if family(i) >= podInfo {
			f.Labels = append(slices.Clone(podLabels), f.Labels...)
		}
		f.Name = Prefix + f.Name
	}
}
