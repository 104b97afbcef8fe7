//go:build ignore

// Counts the packets of one pod: what crosses its network interfaces (tcx, or a clsact direct-action classifier on
// older kernels), or what its sockets send and receive where it shares the node's network (cgroup_skb).
//
// Every program is loaded once for each pod (and interface), with that pod's own map, so the pod needs no key here.
// A packet is a packet on the wire and bytes are those of the IP level on the wire; apis/agent/v1alpha1 says what
// that means. No program changes a packet or its fate.
//
// On tcx and clsact, bottom halves are off, so a program never interrupts itself on its CPU and plain additions to a
// per-CPU value are exact. On cgroup_skb it may be interrupted between load and store, so additions are atomic there.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum direction { RECEIVE, TRANSMIT, DIRECTIONS };

enum cell { IPV4_UNICAST, IPV4_NON_UNICAST, IPV6_UNICAST, IPV6_NON_UNICAST, NON_IP, CELLS };

struct counters {
	__u64 packets;
	__u64 bytes;
	__u64 buffers;
};

struct totals {
	struct counters cells[DIRECTIONS][CELLS];
};

// Entry 0 holds the totals. Entry 1 is the agent's notebook (see traffic.go): programs never touch it.
// Whoever changes this layout gives it a new number in traffic.go and keeps the old one readable.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

// What a program looks at. Offsets count from the first byte that the hook shows.
struct frame {
	struct __sk_buff *skb;
	__u32 link_header; // its length, tags included; 0 where the hook shows the IP header first
	__u32 available;   // bytes behind the link header
	__u16 protocol;    // EtherType behind the tags, big endian
	bool broadcast;    // the link-layer destination is all ones
};

struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

static __always_inline bool is_tag(__u16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

// The rare paths below are global functions, which the kernel verifies once and not again for each path that leads to
// them: with all in line a program takes 55 ms to load, and two are loaded for every pod.

// find_tagged moves past VLAN tags that are still in the payload: the kernel strips one on receipt, and its own VLAN
// devices leave it to the hardware, but packet sockets and QinQ do neither. It returns the length of the link header
// with its tags, times 65,536, plus the EtherType behind them.
__noinline __u32 find_tagged(struct __sk_buff *skb)
{
	__u32 offset = ETH_HLEN;
	__u16 protocol = skb->protocol;

	for (int i = 0; i < 3 && is_tag(protocol); i++) {
		struct vlan_tag tag = {};

		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			break;
		protocol = tag.protocol;
		offset += sizeof(tag);
	}
	return offset << 16 | protocol;
}

struct ipv6_option_header {
	__u8 next;
	__u8 length; // in units of 8 bytes, the first not counted
	__u8 option;
	__u8 option_length;
};

#define OPTION_JUMBO 0xc2

// segment_headers is how many bytes of network and transport headers each segment of a super-packet has, whose
// network headers begin at offset. Fragments are never super-packets. wire_length is the kernel's own reckoning of all
// segments with their link headers, where the hook offers it, and else 0: it knows tunnels, which cannot be told here.
// In the upper 32 bits is how many bytes of the buffer segmentation leaves out: the option by which the kernel marks
// IPv6 super-packets beyond 64 KiB (BIG TCP).
__noinline __u64 segment_headers(struct __sk_buff *skb, __u32 offset, __u32 wire_length)
{
	__u32 network = 0, not_on_wire = 0, segments = skb->gso_segs;
	__u8 version = 0, transport = 0, words = 0;

	bpf_skb_load_bytes(skb, offset, &version, sizeof(version));
	if (version >> 4 == 4) {
		network = (version & 15) * 4;
		bpf_skb_load_bytes(skb, offset + offsetof(struct iphdr, protocol), &transport, sizeof(transport));
	} else {
		network = sizeof(struct ipv6hdr);
		bpf_skb_load_bytes(skb, offset + offsetof(struct ipv6hdr, nexthdr), &transport, sizeof(transport));
		for (int i = 0; i < 4; i++) {
			struct ipv6_option_header header = {};

			if (transport != IPPROTO_HOPOPTS && transport != IPPROTO_DSTOPTS && transport != IPPROTO_ROUTING)
				break;
			if (bpf_skb_load_bytes(skb, offset + network, &header, sizeof(header)))
				break;
			if (transport == IPPROTO_HOPOPTS && header.length == 0 && header.option == OPTION_JUMBO)
				not_on_wire = 8;
			transport = header.next;
			network += (header.length + 1) * 8;
		}
	}
	network -= not_on_wire;

	if (transport == IPPROTO_TCP) {
		bpf_skb_load_bytes(skb, offset + network + not_on_wire + 12, &words, sizeof(words));
		network += (words >> 4) * 4;
	} else if (wire_length > skb->len && segments > 1) {
		network = (wire_length - skb->len) / (segments - 1) - offset;
	} else if (transport == IPPROTO_UDP) {
		network += sizeof(struct udphdr);
	}
	return (__u64)not_on_wire << 32 | network;
}

// header returns size bytes at an offset, directly from the packet where they lie in its linear part, which they
// nearly always do, or copied; NULL where the packet is shorter.
static __always_inline void *header(struct frame *frame, __u32 offset, void *copy, __u32 size)
{
	void *found = (void *)(long)frame->skb->data + offset;

	if (found + size <= (void *)(long)frame->skb->data_end)
		return found;
	return bpf_skb_load_bytes(frame->skb, offset, copy, size) ? NULL : copy;
}

// ip_length is shorter than the buffer when the link layer padded it. A super-packet is never padded, and one beyond
// 64 KiB says 0.
static __always_inline __u32 ip_length(struct frame *frame, __u32 declared, __u32 least)
{
	if (frame->skb->gso_size || declared < least || declared > frame->available)
		return frame->available;
	return declared;
}

static __always_inline enum cell judge_ipv4(struct frame *frame, __u64 *bytes)
{
	struct iphdr copy, *ip = header(frame, frame->link_header, &copy, sizeof(copy));

	if (!ip)
		return frame->broadcast ? IPV4_NON_UNICAST : IPV4_UNICAST;
	*bytes = ip_length(frame, bpf_ntohs(ip->tot_len), sizeof(*ip));
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == 0xffffffff || frame->broadcast)
		return IPV4_NON_UNICAST;
	return IPV4_UNICAST;
}

static __always_inline enum cell judge_ipv6(struct frame *frame, __u64 *bytes)
{
	struct ipv6hdr copy, *ip = header(frame, frame->link_header, &copy, sizeof(copy));

	if (!ip)
		return IPV6_UNICAST;
	*bytes = ip_length(frame, bpf_ntohs(ip->payload_len) + sizeof(*ip), sizeof(*ip) + 1);
	return ip->daddr.in6_u.u6_addr8[0] == 0xff ? IPV6_NON_UNICAST : IPV6_UNICAST;
}

static __always_inline void add(__u64 *counter, __u64 value, bool atomic)
{
	if (atomic)
		__sync_fetch_and_add(counter, value);
	else
		*counter += value;
}

static __always_inline void count(struct frame *frame, enum direction direction, __u32 wire_length, bool atomic)
{
	__u32 segments = frame->skb->gso_segs, size = frame->skb->gso_size, zero = 0;
	__u64 bytes = frame->available;
	enum cell cell = NON_IP;
	struct counters *counters;
	struct totals *sum;

	if (frame->protocol == bpf_htons(ETH_P_IP))
		cell = judge_ipv4(frame, &bytes);
	else if (frame->protocol == bpf_htons(ETH_P_IPV6))
		cell = judge_ipv6(frame, &bytes);

	if (size && cell != NON_IP) {
		__u64 answer = segment_headers(frame->skb, frame->link_header, wire_length);
		__u32 headers = answer;

		// Virtual machines hand over super-packets without saying how many segments they are.
		if (!segments && bytes > headers)
			segments = (bytes - headers + size - 1) / size;
		bytes -= answer >> 32;
		if (segments > 1)
			bytes += (__u64)(segments - 1) * headers;
	}

	sum = bpf_map_lookup_elem(&totals, &zero);
	if (!sum)
		return;
	counters = &sum->cells[direction][cell];
	add(&counters->packets, segments ?: 1, atomic);
	add(&counters->bytes, bytes, atomic);
	add(&counters->buffers, 1, atomic);
}

static __always_inline bool is_broadcast(struct __sk_buff *skb)
{
	struct ethhdr *ethernet = (void *)(long)skb->data;

	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return false;
	return *(__u32 *)&ethernet->h_dest[0] == 0xffffffff && *(__u16 *)&ethernet->h_dest[4] == 0xffff;
}

static __always_inline int count_interface(struct __sk_buff *skb, enum direction direction, __u32 link_header)
{
	struct frame frame = { .skb = skb, .link_header = link_header, .protocol = skb->protocol };

	if (link_header) {
		frame.broadcast = is_broadcast(skb);
		if (is_tag(frame.protocol)) {
			__u32 found = find_tagged(skb);

			frame.protocol = found;
			frame.link_header = found >> 16 & 31; // the bound is for the verifier
		}
	}
	frame.available = skb->len > frame.link_header ? skb->len - frame.link_header : 0;
	count(&frame, direction, skb->wire_len, false);
	return TC_ACT_UNSPEC; // is TCX_NEXT too
}

SEC("tcx/ingress")
int receive_ether(struct __sk_buff *skb)
{
	// A bridge sends frames to all its ports when it does not know the destination; the kernel then drops them here.
	if (skb->pkt_type == PACKET_OTHERHOST)
		return TC_ACT_UNSPEC;
	return count_interface(skb, RECEIVE, ETH_HLEN);
}

// For an interface that hands frames on inside the pod, as to a virtual machine: those to others are the pod's too.
SEC("tcx/ingress")
int receive_ether_any(struct __sk_buff *skb)
{
	return count_interface(skb, RECEIVE, ETH_HLEN);
}

SEC("tcx/egress")
int transmit_ether(struct __sk_buff *skb)
{
	return count_interface(skb, TRANSMIT, ETH_HLEN);
}

SEC("tcx/ingress")
int receive_raw(struct __sk_buff *skb)
{
	return count_interface(skb, RECEIVE, 0);
}

SEC("tcx/egress")
int transmit_raw(struct __sk_buff *skb)
{
	return count_interface(skb, TRANSMIT, 0);
}

// The loopback interface has index 1 in every network namespace.
#define LOOPBACK 1

static __always_inline int count_socket(struct __sk_buff *skb, enum direction direction)
{
	struct frame frame = { .skb = skb, .protocol = skb->protocol, .available = skb->len };

	if (skb->ifindex != LOOPBACK)
		count(&frame, direction, 0, true);
	return 1; // let it pass
}

SEC("cgroup_skb/ingress")
int receive_cgroup(struct __sk_buff *skb)
{
	return count_socket(skb, RECEIVE);
}

SEC("cgroup_skb/egress")
int transmit_cgroup(struct __sk_buff *skb)
{
	return count_socket(skb, TRANSMIT);
}

// No helper that is used here asks for the GPL.
char __license[] SEC("license") = "Apache-2.0";
