// How bpf/traffic hands a packet on for a closer look, by a tail call: to the program in the slot that its port chooses.
// A slot without a program costs nothing and loses nothing: the packet has been counted by then.
#ifndef NETOBS_INSPECTION_H
#define NETOBS_INSPECTION_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum inspector { INSPECT_DNS, INSPECTORS };

// What is known of the packet already. On an interface it is in the map inspection, valid for the tail call that follows:
// nothing comes in between on that CPU. A program on a cgroup can be interrupted by another one, so there it is in the
// packet's control buffer, which the kernel gives to one run alone.
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

static __always_inline void tell_in_packet(struct __sk_buff *skb, const struct inspection *known)
{
	skb->cb[0] = known->pod;
	skb->cb[1] = known->pod >> 32;
	skb->cb[2] = known->transport;
	skb->cb[3] = known->end;
	skb->cb[4] = known->protocol | known->transport_protocol << 16 | (__u32)known->direction << 24;
}

// On a cgroup programs see the IP header first.
static __always_inline struct inspection told_in_packet(struct __sk_buff *skb)
{
	return (struct inspection){
		.pod = (__u64)skb->cb[1] << 32 | skb->cb[0],
		.transport = skb->cb[2],
		.end = skb->cb[3],
		.protocol = skb->cb[4],
		.transport_protocol = skb->cb[4] >> 16,
		.direction = skb->cb[4] >> 24,
	};
}

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
