package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MeasurementState says whether an object's counters are there and, if not, why.
// +enum
type MeasurementState string

const (
	// Measured: the node's agent answered and every counter in the object is its answer.
	Measured MeasurementState = "Measured"
	// Degraded: the agent answered, but some counters could not be read; the message says which and why.
	Degraded MeasurementState = "Degraded"
	// Pending: the pod has no node yet, or its agent has not found its network namespace yet.
	Pending MeasurementState = "Pending"
	// Ended: every container of the pod has ended, and its network namespace is gone.
	Ended MeasurementState = "Ended"
	// NotAttributed: the pod uses the node's network and the node offers no cgroup v2 to tell its traffic
	// from the node's.
	NotAttributed MeasurementState = "NotAttributed"
	// NodeSilent: the agent of the node did not answer in time, or there is none.
	NodeSilent MeasurementState = "NodeSilent"
)

// +genclient
// +genclient:onlyVerbs=get,list,watch
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// PodNetworkStats is what one pod's network interfaces and sockets have done since counting began,
// read from the pod's node at the moment of the request. It has the name, namespace and labels of its
// pod, and goes when the pod goes. Nothing of it is stored.
type PodNetworkStats struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. Name, namespace, labels and creationTimestamp are the pod's; the uid is
	// derived from the pod's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// nodeName is the node on which the pod runs. Empty while the pod is not scheduled.
	// Selectable: --field-selector nodeName=NODE, or spec.nodeName=NODE as for pods.
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// podIPs are the pod's addresses, of both families, the primary one first.
	// +optional
	// +listType=atomic
	PodIPs []string `json:"podIPs,omitempty"`
	// hostNetwork is true for a pod that uses the node's network namespace. Its traffic is counted by its
	// cgroup where the node has cgroup v2, and is otherwise not attributed to the pod.
	// +optional
	HostNetwork bool `json:"hostNetwork,omitempty"`

	Measurement `json:",inline"`

	// traffic counts what crossed the pod's network interfaces, loopback aside. Absent when the hooks that
	// count it are not in place; message then says why.
	// +optional
	Traffic *TrafficStats `json:"traffic,omitempty"`
	// protocols are the kernel's own protocol statistics of the pod's network namespace, loopback
	// traffic included. Absent for pods that use the node's network.
	// +optional
	Protocols *ProtocolStats `json:"protocols,omitempty"`
	// drops counts the packets of the pod that the kernel dropped, in the pod or on their way through the node.
	// Absent when drops are not counted; message then says why, as for the fields that follow.
	// +optional
	Drops *DropStats `json:"drops,omitempty"`
	// connections is about the pod's TCP connections.
	// +optional
	Connections *ConnectionStats `json:"connections,omitempty"`
	// dns is about the names that the pod looked up.
	// +optional
	DNS *DNSStats `json:"dns,omitempty"`
	// apiServer is about the pod's connections to the Kubernetes API.
	// +optional
	APIServer *APIServerStats `json:"apiServer,omitempty"`
	// flows compares the pod's flows (networkflows) with its traffic.
	// +optional
	Flows *FlowCoverage `json:"flows,omitempty"`
	// additional are counters of collectors that have no fields of their own.
	// +optional
	// +listType=map
	// +listMapKey=collector
	// +listMapKey=name
	Additional []CollectorCounter `json:"additional,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// PodNetworkStatsList is a list of PodNetworkStats. A page of a long list is read from the nodes when it
// is asked for.
type PodNetworkStatsList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are ordered by namespace and name.
	Items []PodNetworkStats `json:"items"`
}

// +genclient
// +genclient:nonNamespaced
// +genclient:onlyVerbs=get,list,watch
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NodeNetworkStats is what one node's own network interfaces and protocols have done, read from the node
// at the moment of the request, and the state of the agent that answered. It has the name and labels of
// its node. Nothing of it is stored.
type NodeNetworkStats struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. Name, labels and creationTimestamp are the node's; the uid is derived
	// from the node's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// nodeIPs are the node's internal addresses.
	// +optional
	// +listType=atomic
	NodeIPs []string `json:"nodeIPs,omitempty"`

	Measurement `json:",inline"`

	// traffic sums the node's uplinks: the interfaces that carry its default routes or its addresses. It is
	// never summed over bridges, tunnels and the pods' ends, which see the same packets again.
	// +optional
	Traffic *InterfaceTraffic `json:"traffic,omitempty"`
	// interfaces are the interfaces in the node's network namespace.
	// +optional
	// +listType=map
	// +listMapKey=name
	Interfaces []InterfaceStats `json:"interfaces,omitempty"`
	// protocols are the kernel's own protocol statistics of the node's network namespace.
	// +optional
	Protocols *ProtocolStats `json:"protocols,omitempty"`
	// drops counts the packets that the kernel dropped in the node's network namespace.
	// +optional
	Drops *DropStats `json:"drops,omitempty"`
	// connections is about the TCP connections of the node itself.
	// +optional
	Connections *ConnectionStats `json:"connections,omitempty"`
	// dns sums what the pods of the node looked up.
	// +optional
	DNS *DNSStats `json:"dns,omitempty"`
	// apiServer is about the connections of the node itself to the Kubernetes API.
	// +optional
	APIServer *APIServerStats `json:"apiServer,omitempty"`
	// flows is about the node's table and history of flows.
	// +optional
	Flows *FlowTableStats `json:"flows,omitempty"`
	// conntrack is about connection tracking. Absent where it is not in use.
	// +optional
	Conntrack *ConntrackStats `json:"conntrack,omitempty"`
	// socketMemory is what sockets use.
	// +optional
	SocketMemory *SocketMemoryStats `json:"socketMemory,omitempty"`
	// softnet is about the processing of received packets.
	// +optional
	Softnet *SoftnetStats `json:"softnet,omitempty"`
	// infiniband are the ports of InfiniBand devices. Absent where there are none.
	// +optional
	// +listType=map
	// +listMapKey=device
	// +listMapKey=port
	InfiniBand []InfiniBandPort `json:"infiniband,omitempty"`
	// additional are counters of collectors that have no fields of their own.
	// +optional
	// +listType=map
	// +listMapKey=collector
	// +listMapKey=name
	Additional []CollectorCounter `json:"additional,omitempty"`
	// agent describes the agent that answered and what it can count.
	// +optional
	Agent *AgentStatus `json:"agent,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// NodeNetworkStatsList is a list of NodeNetworkStats.
type NodeNetworkStatsList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are ordered by name.
	Items []NodeNetworkStats `json:"items"`
}

// Measurement says when and how well an object was measured.
type Measurement struct {
	// state says whether the counters below are there: Measured, Degraded (some are missing), Pending,
	// Ended, NotAttributed or NodeSilent. The last four carry no counters.
	State MeasurementState `json:"state"`
	// message says in a sentence why the state is not Measured.
	// +optional
	Message string `json:"message,omitempty"`
	// timestamp is when the counters were read on the node, by the node's clock. Equal reads within a second
	// share one answer, in each replica of the API server: it may be up to a second old, and of two reads the
	// later one may show the earlier timestamp.
	// +optional
	Timestamp *metav1.MicroTime `json:"timestamp,omitempty"`
	// window is the interval before timestamp over which rates are taken, at most 10 seconds. Absent
	// until two samples exist.
	// +optional
	Window *metav1.Duration `json:"window,omitempty"`
	// startTime is when counting by the agent's own hooks began. It stays the same over restarts and
	// upgrades of the agent. Counters that the kernel keeps by itself (protocols, interfaces) count from
	// the start of the network namespace.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
}

// TrafficStats counts the packets of a pod, by direction as the pod sees it.
type TrafficStats struct {
	// receive counts packets that arrived at the pod.
	Receive DirectionTraffic `json:"receive"`
	// transmit counts packets that the pod sent.
	Transmit DirectionTraffic `json:"transmit"`
}

// DirectionTraffic counts the packets of one direction.
type DirectionTraffic struct {
	// The total of IPv4 and IPv6.
	TrafficCounters `json:",inline"`
	// bytesPerSecond is the rate of bytes over the window.
	// +optional
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`
	// packetsPerSecond is the rate of packets over the window.
	// +optional
	PacketsPerSecond *resource.Quantity `json:"packetsPerSecond,omitempty"`
	// ipv4 counts IPv4 packets.
	IPv4 FamilyTraffic `json:"ipv4"`
	// ipv6 counts IPv6 packets.
	IPv6 FamilyTraffic `json:"ipv6"`
	// nonIP counts frames that carry neither IPv4 nor IPv6, such as ARP, which are in no total. Its bytes
	// begin behind the link-layer header.
	NonIP TrafficCounters `json:"nonIP"`
	// bypassed counts buffers that the interfaces carried and the hooks did not see, as programs send them
	// with PACKET_QDISC_BYPASS. They are in no other counter. Absent for the direction that cannot tell.
	// +optional
	Bypassed *int64 `json:"bypassed,omitempty"`
}

// FamilyTraffic counts the packets of one IP version.
type FamilyTraffic struct {
	// unicast counts packets to a single destination.
	Unicast TrafficCounters `json:"unicast"`
	// nonUnicast counts packets to a multicast or broadcast destination.
	NonUnicast TrafficCounters `json:"nonUnicast"`
}

// TrafficCounters counts packets in the three units in which the kernel handles them.
type TrafficCounters struct {
	// packets on the wire: a buffer with several segments counts as its segments.
	Packets int64 `json:"packets"`
	// bytes at IP level on the wire, the headers of each segment included.
	Bytes int64 `json:"bytes"`
	// buffers are socket buffers: what tcpdump and packet filters on the same interface see.
	Buffers int64 `json:"buffers"`
}

// ProtocolStats are the protocol counters that the kernel keeps for one network namespace
// (/proc/net/snmp, snmp6 and netstat), loopback traffic included.
type ProtocolStats struct {
	// tcp counts TCP over IPv4 and IPv6 together.
	TCP TCPStats `json:"tcp"`
	// udp counts UDP over IPv4 and IPv6 together.
	UDP UDPStats `json:"udp"`
	// ipv4 counts IPv4 datagrams.
	IPv4 IPStats `json:"ipv4"`
	// ipv6 counts IPv6 datagrams. Absent where the kernel has IPv6 switched off.
	// +optional
	IPv6 *IPStats `json:"ipv6,omitempty"`
	// icmpv4 counts messages of ICMP.
	ICMPv4 ICMPStats `json:"icmpv4"`
	// icmpv6 counts messages of ICMPv6. Absent where the kernel has IPv6 switched off.
	// +optional
	ICMPv6 *ICMPStats `json:"icmpv6,omitempty"`
}

// TCPStats counts connections and segments of one network namespace. RFC 4022 defines most of them.
type TCPStats struct {
	// activeOpens counts connections that were begun here (SYN sent).
	ActiveOpens int64 `json:"activeOpens"`
	// passiveOpens counts connections that were accepted here.
	PassiveOpens int64 `json:"passiveOpens"`
	// attemptFails counts connections, of either kind, that failed before they were established.
	AttemptFails int64 `json:"attemptFails"`
	// establishedResets counts established connections that ended by a reset.
	EstablishedResets int64 `json:"establishedResets"`
	// currentlyEstablished is the number of connections in the states ESTABLISHED and CLOSE-WAIT.
	CurrentlyEstablished int64 `json:"currentlyEstablished"`
	// inSegments counts segments received, those in error included.
	InSegments int64 `json:"inSegments"`
	// outSegments counts segments sent, those that carry only retransmitted bytes excluded.
	OutSegments int64 `json:"outSegments"`
	// retransmittedSegments counts segments sent again.
	RetransmittedSegments int64 `json:"retransmittedSegments"`
	// inErrors counts segments received in error, such as with a bad checksum.
	InErrors int64 `json:"inErrors"`
	// outResets counts segments sent with the RST flag.
	OutResets int64 `json:"outResets"`
	// listenOverflows counts connections refused because the accept queue of a listening socket was full.
	ListenOverflows int64 `json:"listenOverflows"`
	// listenDrops counts connections dropped at a listening socket for any reason, overflows included.
	ListenDrops int64 `json:"listenDrops"`
	// zeroWindowsSent counts how often this side closed its window: its program does not read fast enough.
	ZeroWindowsSent int64 `json:"zeroWindowsSent"`
	// zeroWindowDrops counts segments dropped because they came while the window was closed.
	ZeroWindowDrops int64 `json:"zeroWindowDrops"`
	// synCookiesSent counts connections that were answered without memory, as the queue of requests was full.
	SynCookiesSent int64 `json:"synCookiesSent"`
	// requestQueueDrops counts connections dropped because the queue of requests was full.
	RequestQueueDrops int64 `json:"requestQueueDrops"`
}

// UDPStats counts UDP datagrams of one network namespace. RFC 4113 defines most of them.
type UDPStats struct {
	// inDatagrams counts datagrams delivered to sockets.
	InDatagrams int64 `json:"inDatagrams"`
	// outDatagrams counts datagrams sent.
	OutDatagrams int64 `json:"outDatagrams"`
	// noPorts counts datagrams received for a port on which nobody listens.
	NoPorts int64 `json:"noPorts"`
	// inErrors counts datagrams that could not be delivered for other reasons, those below included.
	InErrors int64 `json:"inErrors"`
	// receiveBufferErrors counts datagrams dropped because the socket's receive buffer was full.
	ReceiveBufferErrors int64 `json:"receiveBufferErrors"`
	// sendBufferErrors counts datagrams not sent because the socket's send buffer was full.
	SendBufferErrors int64 `json:"sendBufferErrors"`
	// checksumErrors counts datagrams received with a bad checksum.
	ChecksumErrors int64 `json:"checksumErrors"`
}

// IPStats counts IP datagrams of one network namespace. RFC 4293 defines them.
type IPStats struct {
	// inReceives counts datagrams received, those in error included. Datagrams that the kernel put
	// together on receipt (GRO) count as one.
	InReceives int64 `json:"inReceives"`
	// inDelivers counts datagrams delivered to a protocol such as TCP.
	InDelivers int64 `json:"inDelivers"`
	// outRequests counts datagrams that local protocols asked to send.
	OutRequests int64 `json:"outRequests"`
	// forwarded counts datagrams passed on to another interface.
	Forwarded int64 `json:"forwarded"`
	// inDiscards counts good datagrams received and discarded, as for lack of memory.
	InDiscards int64 `json:"inDiscards"`
	// outDiscards counts good datagrams discarded instead of sent.
	OutDiscards int64 `json:"outDiscards"`
	// inHeaderErrors counts datagrams received with a bad header or an exceeded hop limit.
	InHeaderErrors int64 `json:"inHeaderErrors"`
	// inAddressErrors counts datagrams received for an address that is not valid here.
	InAddressErrors int64 `json:"inAddressErrors"`
	// noRoutes counts datagrams received or to be sent for which there was no route.
	NoRoutes int64 `json:"noRoutes"`
	// reassemblyFails counts failures to put fragments together.
	ReassemblyFails int64 `json:"reassemblyFails"`
}

// InterfaceTraffic counts what an interface carried, by direction as its owner sees it, as the kernel and
// the driver count it: link-layer bytes and whatever unit the driver calls a packet.
type InterfaceTraffic struct {
	// receive counts what arrived at the interface.
	Receive InterfaceCounters `json:"receive"`
	// transmit counts what the interface sent.
	Transmit InterfaceCounters `json:"transmit"`
}

// InterfaceCounters counts one direction of an interface.
type InterfaceCounters struct {
	// bytes at link level.
	Bytes int64 `json:"bytes"`
	// packets as the driver counts them.
	Packets int64 `json:"packets"`
	// errors counts bad packets received, or problems in sending.
	Errors int64 `json:"errors"`
	// dropped counts packets that the kernel or the driver dropped at the interface.
	Dropped int64 `json:"dropped"`
	// missed counts packets received for which the hardware had no buffer.
	// +optional
	Missed int64 `json:"missed,omitempty"`
	// overruns counts packets lost between hardware and driver.
	// +optional
	Overruns int64 `json:"overruns,omitempty"`
	// checksumErrors counts frames received with a bad checksum (CRC).
	// +optional
	ChecksumErrors int64 `json:"checksumErrors,omitempty"`
	// multicast counts multicast frames received.
	// +optional
	Multicast int64 `json:"multicast,omitempty"`
	// bytesPerSecond is the rate of bytes over the window.
	// +optional
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`
	// packetsPerSecond is the rate of packets over the window.
	// +optional
	PacketsPerSecond *resource.Quantity `json:"packetsPerSecond,omitempty"`
}

// InterfaceStats is one network interface of a node.
type InterfaceStats struct {
	// name of the interface, such as eth0. Unique on its node at one time.
	Name string `json:"name"`
	// kind of a virtual interface as the kernel calls it, such as veth, bridge or vxlan. Empty for hardware.
	// +optional
	Kind string `json:"kind,omitempty"`
	// state of operation: up, down, lowerlayerdown, dormant, testing, notpresent or unknown (RFC 2863).
	State string `json:"state"`
	// mtu is the largest packet in bytes that the interface sends.
	MTU int32 `json:"mtu"`
	// uplink is true for interfaces whose counters are in the node's total.
	// +optional
	Uplink bool `json:"uplink,omitempty"`
	// speedMegabits is the speed of the link in megabits a second. Absent where it is not known.
	// +optional
	SpeedMegabits int64 `json:"speedMegabits,omitempty"`
	// carrierChanges counts how often the carrier came or went.
	CarrierChanges int64 `json:"carrierChanges"`
	// InterfaceTraffic counts what the interface carried.
	InterfaceTraffic `json:",inline"`
	// queue is the root queueing discipline. Absent where there is none that counts.
	// +optional
	Queue *QueueStats `json:"queue,omitempty"`
	// driver are the counters that the driver offers through ethtool and are not zero, at most 128.
	// +optional
	// +listType=map
	// +listMapKey=name
	Driver []NamedCounter `json:"driver,omitempty"`
}

// AgentStatus describes the agent of a node.
type AgentStatus struct {
	// version of the agent's program.
	Version string `json:"version"`
	// startTime is when the agent's process started.
	StartTime metav1.MicroTime `json:"startTime"`
	// kernelVersion of the node as the agent found it.
	KernelVersion string `json:"kernelVersion"`
	// pods is the number of pods whose traffic the agent counts.
	Pods int32 `json:"pods"`
	// collectors are the agent's sources of numbers, each with its state.
	// +optional
	// +listType=map
	// +listMapKey=name
	Collectors []CollectorStatus `json:"collectors,omitempty"`
}

// CollectorState says whether a collector works.
// +enum
type CollectorState string

const (
	// CollectorRunning: everything that the collector counts is counted.
	CollectorRunning CollectorState = "Running"
	// CollectorDegraded: the collector counts in part, or by a fallback; the message says what is missing.
	CollectorDegraded CollectorState = "Degraded"
	// CollectorOff: the collector counts nothing; the message says why.
	CollectorOff CollectorState = "Off"
)

// CollectorStatus is the state of one of an agent's collectors.
type CollectorStatus struct {
	// name of the collector, such as traffic.
	Name string `json:"name"`
	// state of the collector: Running, Degraded or Off.
	State CollectorState `json:"state"`
	// message says what is missing and why, when the state is not Running; or how the collector counts.
	// +optional
	Message string `json:"message,omitempty"`
}
