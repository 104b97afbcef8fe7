package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FlowCoverage compares a pod's flows with its counters.
type FlowCoverage struct {
	// packets in all flows of the pod, those that have ended included.
	Packets int64 `json:"packets"`
	// bytes in all flows of the pod.
	Bytes int64 `json:"bytes"`
	// created counts flows that began.
	Created int64 `json:"created"`
	// unparsed counts packets whose headers could not be parsed, and which are in no flow.
	Unparsed int64 `json:"unparsed"`
	// coverage is the part of the pod's packets that is in its flows, 1 when nothing was lost: less when there are more
	// flows than the node's table holds. Absent when the pod has no packets.
	// +optional
	Coverage *resource.Quantity `json:"coverage,omitempty"`
}

// FlowTableStats is about a node's flows.
type FlowTableStats struct {
	// present is the number of flows in the kernel's tables.
	Present int64 `json:"present"`
	// capacity of these tables.
	Capacity int64 `json:"capacity"`
	// created counts flows that began.
	Created int64 `json:"created"`
	// evicted counts flows that were pushed out of the tables by others; the last of their packets may be missing.
	Evicted int64 `json:"evicted"`
	// recorded is the number of flows in the history.
	Recorded int64 `json:"recorded"`
	// historyCapacity is how many flows the history holds.
	HistoryCapacity int64 `json:"historyCapacity"`
	// oldest is when the oldest flow of the history ended.
	// +optional
	Oldest *metav1.MicroTime `json:"oldest,omitempty"`
}

// ConntrackStats is about connection tracking in the node's network namespace.
type ConntrackStats struct {
	// entries of now.
	Entries int64 `json:"entries"`
	// limit of entries: at it, new connections are dropped.
	Limit int64 `json:"limit"`
	// insertFailed counts entries that could not be inserted, as when two packets of one connection raced.
	InsertFailed int64 `json:"insertFailed"`
	// dropped counts packets dropped because there was no room for an entry.
	Dropped int64 `json:"dropped"`
	// earlyDropped counts entries removed before their time to make room.
	EarlyDropped int64 `json:"earlyDropped"`
	// invalid counts packets that cannot be tracked.
	Invalid int64 `json:"invalid"`
}

// SocketMemoryStats is what the node's sockets use, those of all its pods included, and where the kernel's limits are.
type SocketMemoryStats struct {
	// sockets in use in the node's network namespace.
	Sockets int64 `json:"sockets"`
	// tcpBytes used by TCP.
	TCPBytes int64 `json:"tcpBytes"`
	// tcpLimitBytes is where the kernel begins to refuse memory to TCP (the third number of tcp_mem).
	TCPLimitBytes int64 `json:"tcpLimitBytes"`
	// tcpOrphans are TCP sockets that no process holds any more.
	TCPOrphans int64 `json:"tcpOrphans"`
	// udpBytes used by UDP.
	UDPBytes int64 `json:"udpBytes"`
	// udpLimitBytes is where the kernel begins to refuse memory to UDP.
	UDPLimitBytes int64 `json:"udpLimitBytes"`
	// fragmentBytes wait for the rest of their datagrams.
	FragmentBytes int64 `json:"fragmentBytes"`
}

// SoftnetStats is about the processing of received packets, on all CPUs together.
type SoftnetStats struct {
	// processed counts packets, or buffers after GRO.
	Processed int64 `json:"processed"`
	// dropped counts packets dropped because a CPU's backlog was full.
	Dropped int64 `json:"dropped"`
	// squeezed counts how often a CPU had to stop before its work was done.
	Squeezed int64 `json:"squeezed"`
	// receivedRPS counts how often a CPU was woken to take packets from another one (RPS).
	ReceivedRPS int64 `json:"receivedRPS"`
	// flowLimited counts packets dropped because one flow had too large a part of a backlog.
	FlowLimited int64 `json:"flowLimited"`
}

// InfiniBandPort is one port of an InfiniBand device.
type InfiniBandPort struct {
	// device, as mlx5_0.
	Device string `json:"device"`
	// port number, from 1.
	Port int32 `json:"port"`
	// state as the kernel says it, as ACTIVE.
	State string `json:"state"`
	// counters by the names they have in /sys/class/infiniband (counters and hw_counters).
	// +optional
	// +listType=map
	// +listMapKey=name
	Counters []NamedCounter `json:"counters,omitempty"`
}

// NamedCounter is a counter that a driver or a collector names.
type NamedCounter struct {
	// name of the counter.
	Name string `json:"name"`
	// value since it was last set to zero.
	Value int64 `json:"value"`
}

// CollectorCounter is a counter of a collector that has no fields of its own.
type CollectorCounter struct {
	// collector that counts.
	Collector string `json:"collector"`
	// name of the counter.
	Name string `json:"name"`
	// value of the counter.
	Value int64 `json:"value"`
}

// QueueStats is about the root queueing discipline of an interface.
type QueueStats struct {
	// kind, as fq_codel or noqueue.
	Kind string `json:"kind"`
	// drops counts packets that it dropped.
	Drops int64 `json:"drops"`
	// overlimits counts how often it held packets back.
	Overlimits int64 `json:"overlimits"`
	// requeues counts packets that the driver gave back.
	Requeues int64 `json:"requeues"`
	// backlogBytes wait in it.
	BacklogBytes int64 `json:"backlogBytes"`
}

// ICMPStats counts ICMP messages of one IP version in one network namespace. RFC 4293 defines them.
type ICMPStats struct {
	// inMessages counts messages received, those in error included.
	InMessages int64 `json:"inMessages"`
	// outMessages counts messages sent.
	OutMessages int64 `json:"outMessages"`
	// inErrors counts messages received in error, such as with a bad checksum.
	InErrors int64 `json:"inErrors"`
	// inDestinationUnreachable counts messages received that something could not be reached, or is forbidden.
	InDestinationUnreachable int64 `json:"inDestinationUnreachable"`
	// outDestinationUnreachable counts the same sent: to a peer that something here could not be reached.
	OutDestinationUnreachable int64 `json:"outDestinationUnreachable"`
	// inTimeExceeded counts messages received that a TTL or hop limit was exceeded.
	InTimeExceeded int64 `json:"inTimeExceeded"`
	// outTimeExceeded counts the same sent.
	OutTimeExceeded int64 `json:"outTimeExceeded"`
	// inPacketTooBig counts messages of ICMPv6 received that a packet was larger than an MTU.
	// +optional
	InPacketTooBig int64 `json:"inPacketTooBig,omitempty"`
	// outPacketTooBig counts the same sent.
	// +optional
	OutPacketTooBig int64 `json:"outPacketTooBig,omitempty"`
	// inEchos counts echo requests received.
	InEchos int64 `json:"inEchos"`
	// outEchos counts echo requests sent.
	OutEchos int64 `json:"outEchos"`
	// inEchoReplies counts echo replies received.
	InEchoReplies int64 `json:"inEchoReplies"`
	// outEchoReplies counts echo replies sent.
	OutEchoReplies int64 `json:"outEchoReplies"`
	// inRedirects counts redirects received.
	InRedirects int64 `json:"inRedirects"`
	// outRedirects counts redirects sent.
	OutRedirects int64 `json:"outRedirects"`
}
