// How bpf/traffic hands a packet on for a closer look, by a tail call: to the program in the slot that its port chooses.
// A slot without a program costs nothing and loses nothing: the packet has been counted by then.
#ifndef NETOBS_INSPECTION_H
#define NETOBS_INSPECTION_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum inspector { INSPECT_DNS, INSPECTORS };

// What is known of the packet already. Valid for the tail call that follows, on the same CPU.
struct inspection {
	__u64 pod;
	__u32 network; // offset of the IP header from where the program sees the packet begin
	__u32 transport; // offset of the UDP or TCP header
	__u32 end; // offset behind the last byte of the IP packet in the buffer: the link layer may have padded it
	__u16 protocol; // EtherType, big endian
	__u8 transport_protocol;
	__u8 direction; // 0 received, 1 transmitted
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct inspection);
} inspection SEC(".maps");

// Programs of type sched_cls (tcx, clsact).
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, INSPECTORS);
	__type(key, __u32);
	__type(value, __u32);
} inspectors SEC(".maps");

// Programs of type cgroup_skb.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, INSPECTORS);
	__type(key, __u32);
	__type(value, __u32);
} cgroup_inspectors SEC(".maps");

#endif
