// The tables of flows. bpf/traffic adds packets to them, bpf/drops what was dropped; nodeagent/flows takes out what is
// idle, and nobody else deletes. One entry is both directions of what passes between a pod and one peer under one pair
// of ports.
//
// Programs on several CPUs add to one entry at a time, so additions are atomic.
#ifndef NETOBS_FLOWS_H
#define NETOBS_FLOWS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct flow4 {
	__u64 pod;
	__u32 local; // addresses and ports as on the wire
	__u32 remote;
	__u16 local_port; // of ICMP the identifier
	__u16 remote_port; // of ICMP type and code, an answer having those of its question
	__u8 protocol;     // fragments but the first have no ports, and share the flow without
	__u8 unused[3];
};

struct flow6 {
	__u64 pod;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
	__u8 protocol;
	__u8 unused[3];
};

struct flow {
	struct {
		__u64 packets;
		__u64 bytes;
	} halves[2]; // received, transmitted; on the wire, as everywhere
	__u64 first; // CLOCK_MONOTONIC in ns, of ticks (bpf_ktime_get_coarse_ns)
	__u64 last;
	__u64 last_drop; // the same clock, exact; 0: none
	__u64 syn; // CLOCK_MONOTONIC in ns, exact: the SYN that waits for its answer; 0 when none does
	__u32 handshake_us; // from SYN to its answer, at least 1; 0 when it was not seen
	__u32 drops;
	__u16 drop_reason;
	__u8 flags[2]; // of TCP, by direction
	__u8 begun_by; // direction of the first packet: 0 received, 1 transmitted
	__u8 rejected; // ICMP unreachable came back
	__u8 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow4);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow6);
	__type(value, struct flow);
} flows6 SEC(".maps");

// Of all CPUs and both tables.
struct flow_table {
	__u64 created;
	__u64 failed; // entries that could not be made
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_table);
} flow_table SEC(".maps");

#endif
