//go:build ignore

// Counts the packets of one pod: what crosses its network interfaces (tcx, or a clsact direct-action classifier on
// older kernels), or what its sockets send and receive where it shares the node's network (cgroup_skb). Then it adds
// the packet to its flow (flows.h), and hands it on to who looks closer (inspection.h).
//
// Every program is loaded once for each pod (and interface), with that pod's own map, so the pod needs no key here.
// A packet is a packet on the wire and bytes are those of the IP level on the wire; apis/agent/v1alpha1 says what
// that means. No program changes a packet or its fate.
//
// On tcx and clsact, bottom halves are off, so a program never interrupts itself on its CPU and plain additions to a
// per-CPU value are exact. On cgroup_skb it may be interrupted between load and store, so additions are atomic there.
//
// The way of most packets (TCP and UDP without IP options) is in line and reads the packet directly; everything else
// is in functions that are not inlined and read by copying.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <flows.h>
#include <inspection.h>

enum direction { RECEIVE, TRANSMIT, DIRECTIONS };

enum cell { IPV4_UNICAST, IPV4_NON_UNICAST, IPV6_UNICAST, IPV6_NON_UNICAST, NON_IP, CELLS };

struct counters {
	__u64 packets;
	__u64 bytes;
	__u64 buffers;
};

struct totals {
	// The time of the last tick in which a packet came, on this CPU: see coarse_now.
	__u64 tick;
	__u64 now;
	struct counters cells[DIRECTIONS][CELLS];
	// IP packets that are in no flow because their headers cannot be parsed.
	__u64 unparsed;
	__u64 flows_created;
};

// Entry 0 holds the totals. Entry 1 is the agent's notebook (see traffic.go): programs never touch it.
// Whoever changes this layout gives it a new number in traffic.go and keeps the old one readable.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

// The two constants below are placeholders: whoever loads the program puts its own in their place (traffic.go). To the
// verifier they are known numbers, so it removes what is not wanted.

// pod is the number under which its flows are kept.
static __always_inline __u64 pod(void)
{
	__u64 number;

	asm("%0 = 0x706f64706f64706f ll" : "=r"(number));
	return number;
}

#define FLOWS 1
#define INSPECTION 2

static __always_inline bool wanted(__u64 what)
{
	__u64 all;

	asm("%0 = 0x77616e7477616e74 ll" : "=r"(all));
	return all & what;
}

// What a program looks at. Offsets count from the first byte that the hook shows.
struct frame {
	struct __sk_buff *skb;
	enum direction direction;
	bool is_socket;    // at cgroup_skb
	__u32 link_header; // its length, tags included; 0 where the hook shows the IP header first
	__u32 available;   // bytes behind the link header
	__u16 protocol;    // EtherType behind the tags, big endian
	bool broadcast;    // the link-layer destination is all ones
	__u32 length;      // that of the IP packet in the buffer
	__u64 packets;     // on the wire
	__u64 bytes;
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

static __always_inline enum cell judge_ipv4(struct frame *frame)
{
	struct iphdr copy, *ip = header(frame, frame->link_header, &copy, sizeof(copy));

	if (!ip)
		return frame->broadcast ? IPV4_NON_UNICAST : IPV4_UNICAST;
	frame->length = ip_length(frame, bpf_ntohs(ip->tot_len), sizeof(*ip));
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == 0xffffffff || frame->broadcast)
		return IPV4_NON_UNICAST;
	return IPV4_UNICAST;
}

static __always_inline enum cell judge_ipv6(struct frame *frame)
{
	struct ipv6hdr copy, *ip = header(frame, frame->link_header, &copy, sizeof(copy));

	if (!ip)
		return IPV6_UNICAST;
	frame->length = ip_length(frame, bpf_ntohs(ip->payload_len) + sizeof(*ip), sizeof(*ip) + 1);
	return ip->daddr.in6_u.u6_addr8[0] == 0xff ? IPV6_NON_UNICAST : IPV6_UNICAST;
}

static __always_inline void add(__u64 *counter, __u64 value, bool atomic)
{
	if (atomic)
		__sync_fetch_and_add(counter, value);
	else
		*counter += value;
}

// Headers of transport protocols are read as far as flows need them: the ports of TCP, UDP and their kin, the
// identifier of ICMP. What was read fits a register:
//
//	bits 0 to 31   the port of the pod's side and the remote one, each as on the wire
//	bits 32 to 39  the flags of TCP; of ICMP whether it says that an earlier packet did not reach its destination
//	bits 40 to 47  the protocol
//	bits 48 to 62  the offset of the transport header from the IP header
//	bit 63         the headers cannot be parsed, and nothing above is valid
#define UNPARSED (1ULL << 63)
#define UNREACHABLE 1

struct transport {
	__u32 ports;
	__u8 flags;
	__u8 protocol;
	__u16 offset;
	bool parsed;
};

static __always_inline void unpack(struct transport *transport, __u64 packed)
{
	transport->ports = packed;
	transport->flags = packed >> 32;
	transport->protocol = packed >> 40;
	transport->offset = packed >> 48;
	transport->parsed = !(packed & UNPARSED);
}

// Who is source on the way out is destination on the way in.
static __always_inline __u32 local_first(__u32 ports, enum direction direction)
{
	return direction == TRANSMIT ? ports : ports << 16 | ports >> 16;
}

#define TCP_FLAGS 13 // their offset in its header
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct icmp_start {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u16 identifier;
	__u16 sequence;
};

// icmp_ports makes ports of ICMP: the identifier, and type and code. An answer is in the flow of its question, so it
// has the question's type.
static __always_inline __u64 icmp_ports(struct icmp_start *icmp, bool version6)
{
	__u8 type = icmp->type, code = icmp->code;
	bool numbered = true, unreachable;

	if (version6) {
		unreachable = type == 1;
		if (type == 129) // echo reply
			type = 128;
		else if (type != 128)
			numbered = false;
	} else {
		unreachable = type == 3 && code != 4; // 4 asks for smaller packets
		if (type == 0) // echo reply
			type = 8;
		else if (type == 14) // timestamp reply
			type = 13;
		else if (type != 8 && type != 13)
			numbered = false;
	}
	return (numbered ? icmp->identifier : 0) | (__u32)type << 16 | (__u32)code << 24 |
	       (unreachable ? (__u64)UNREACHABLE << 32 : 0);
}

// read_ports reads the transport header at start, which is at most 32,767 bytes behind the IP header at offset.
// Length is that of the IP packet.
__noinline __u64 read_ports(struct __sk_buff *skb, __u32 offset, __u32 start, __u32 length, __u32 protocol_direction)
{
	enum direction direction = protocol_direction & 1;
	__u8 protocol = protocol_direction >> 8;
	__u64 found = (__u64)start << 48 | (__u64)protocol << 40;
	struct icmp_start icmp = {};
	__u32 ports = 0;
	__u8 flags = 0;

	switch (protocol) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (start + sizeof(icmp) > length || bpf_skb_load_bytes(skb, offset + start, &icmp, sizeof(icmp)))
			return UNPARSED;
		return found | icmp_ports(&icmp, protocol == IPPROTO_ICMPV6);
	case IPPROTO_TCP:
		if (start + TCP_FLAGS < length)
			bpf_skb_load_bytes(skb, offset + start + TCP_FLAGS, &flags, sizeof(flags));
		/* fallthrough */
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (start + sizeof(ports) > length || bpf_skb_load_bytes(skb, offset + start, &ports, sizeof(ports)))
			return UNPARSED;
		return found | (__u64)flags << 32 | local_first(ports, direction);
	}
	return found;
}

// read_ipv4 reads the headers of an IPv4 packet at an offset.
__noinline __u64 read_ipv4(struct __sk_buff *skb, __u32 offset, __u32 length, enum direction direction)
{
	struct iphdr ip = {};
	__u32 start;

	if (length < sizeof(ip) || bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return UNPARSED;
	start = ip.ihl * 4;
	if (ip.version != 4 || start < sizeof(ip) || start > length)
		return UNPARSED;
	if (ip.frag_off & bpf_htons(0x1fff)) // not the first fragment: the ports were there
		return (__u64)start << 48 | (__u64)ip.protocol << 40;
	return read_ports(skb, offset, start, length, ip.protocol << 8 | direction);
}

#define EXTENSIONS 8 // as many headers are looked behind
#define IPPROTO_FRAGMENT_HEADER 44
#define IPPROTO_AUTHENTICATION 51

// read_ipv6 reads the headers of an IPv6 packet at an offset.
__noinline __u64 read_ipv6(struct __sk_buff *skb, __u32 offset, __u32 length, enum direction direction)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 fragment;
	} extension = {};
	__u32 start = sizeof(struct ipv6hdr);
	__u8 version = 0, protocol = 0;

	if (length < start || bpf_skb_load_bytes(skb, offset, &version, 1) || version >> 4 != 6 ||
	    bpf_skb_load_bytes(skb, offset + offsetof(struct ipv6hdr, nexthdr), &protocol, 1))
		return UNPARSED;
	for (int i = 0; i <= EXTENSIONS; i++) {
		__u8 kind = protocol;

		if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS &&
		    kind != IPPROTO_FRAGMENT_HEADER && kind != IPPROTO_AUTHENTICATION)
			return read_ports(skb, offset, start, length, protocol << 8 | direction);
		if (start + 8 > length || bpf_skb_load_bytes(skb, offset + start, &extension, sizeof(extension)))
			return UNPARSED;
		protocol = extension.next;
		if (kind == IPPROTO_FRAGMENT_HEADER)
			start += 8;
		else if (kind == IPPROTO_AUTHENTICATION)
			start += (extension.length + 2) * 4;
		else
			start += (extension.length + 1) * 8;
		if (start > length)
			return UNPARSED;
		if (kind == IPPROTO_FRAGMENT_HEADER && extension.fragment & bpf_htons(0xfff8))
			return (__u64)start << 48 | (__u64)protocol << 40;
	}
	return UNPARSED;
}

// Keys are written a word at a time, and these are little-endian machines.
union key4 {
	struct flow4 flow;
	__u64 words[3];
};

union key6 {
	struct flow6 flow;
	__u64 words[6];
};

// fill_key4 takes the addresses as they are in the packet.
static __always_inline void fill_key4(union key4 *key, __u64 addresses, enum direction direction, struct transport *transport)
{
	key->words[0] = pod();
	key->words[1] = direction == TRANSMIT ? addresses : addresses << 32 | addresses >> 32;
	key->words[2] = transport->ports | (__u64)transport->protocol << 32;
}

static __always_inline void fill_key6(union key6 *key, __u64 *addresses, enum direction direction, struct transport *transport)
{
	__u32 local = direction == TRANSMIT ? 0 : 2;

	key->words[0] = pod();
	key->words[1] = addresses[local];
	key->words[2] = addresses[local + 1];
	key->words[3] = addresses[local ^ 2];
	key->words[4] = addresses[(local ^ 2) + 1];
	key->words[5] = transport->ports | (__u64)transport->protocol << 32;
}

// Functions that use maps of flows are static: kernels before 6.8 verify global ones even if nothing calls them, and
// without flows there may be no maps.

// begin_flow makes an entry, unless another CPU has done so meanwhile. It says whether it did.
static __noinline int begin_flow(void *table, void *key, enum direction direction, __u64 now)
{
	struct flow flow = { .first = now, .last = now, .begun_by = direction };
	struct flow_table *counts;
	__u32 zero = 0;
	long problem;

	problem = bpf_map_update_elem(table, key, &flow, BPF_NOEXIST);
	counts = bpf_map_lookup_elem(&flow_table, &zero);
	if (problem == -EEXIST)
		return 0;
	if (counts)
		__sync_fetch_and_add(problem ? &counts->failed : &counts->created, 1);
	return !problem;
}

// note_flags is for packets with a flag of TCP that their direction of the flow had not shown before. The handshake
// is timed here, since each step of it shows one: from the SYN, or the answer to one, that the pod sends to the next
// acknowledgment that it receives. Of a SYN that is sent again, the first counts.
static __noinline void note_flags(struct flow *flow, enum direction direction, __u8 flags)
{
	// The two bytes of flags are the upper half of an aligned word: additions by two CPUs lose none.
	_Static_assert(offsetof(struct flow, flags) % 4 == 2, "flags are where they are set");
	__sync_fetch_and_or((__u32 *)&flow->drop_reason, (__u32)flags << (direction == TRANSMIT ? 24 : 16));

	if (direction == TRANSMIT && flags & TCP_SYN) {
		if (!flow->syn)
			flow->syn = bpf_ktime_get_ns();
	} else if (direction == RECEIVE && flow->syn && flags & TCP_RST) {
		flow->syn = 0;
	} else if (direction == RECEIVE && flow->syn && flags & TCP_ACK) {
		flow->handshake_us = (bpf_ktime_get_ns() - flow->syn) / 1000 ?: 1;
		flow->syn = 0;
	}
}

// coarse_now is bpf_ktime_get_coarse_ns, which changes with each tick and costs 15 ns to ask. The number of ticks costs
// one. It changes a little earlier than the clock does, so this can be late by a tick; CPUs may differ by that.
static __always_inline __u64 coarse_now(struct totals *sum)
{
	__u64 tick = bpf_jiffies64();

	if (sum->tick != tick) {
		sum->now = bpf_ktime_get_coarse_ns();
		sum->tick = tick;
	}
	return sum->now;
}

static __always_inline void add_to_flow(struct flow *flow, struct frame *frame, struct transport *transport, __u64 now)
{
	__sync_fetch_and_add(&flow->halves[frame->direction].packets, frame->packets);
	__sync_fetch_and_add(&flow->halves[frame->direction].bytes, frame->bytes);
	if (flow->last < now)
		flow->last = now;
	if (transport->protocol == IPPROTO_TCP && transport->flags & ~flow->flags[frame->direction])
		note_flags(flow, frame->direction, transport->flags);
}

static __always_inline void follow(struct frame *frame, struct transport *transport, struct totals *sum, void *table, void *key)
{
	struct flow *flow = bpf_map_lookup_elem(table, key);
	__u64 now = coarse_now(sum);

	if (!flow) {
		if (begin_flow(table, key, frame->direction, now))
			add(&sum->flows_created, 1, frame->is_socket);
		flow = bpf_map_lookup_elem(table, key);
	}
	if (flow)
		add_to_flow(flow, frame, transport, now);
}

// reject4 marks the flow of a packet that did not reach its destination, which is quoted at an offset. Whoever got
// the message sent the packet, and the other way round.
static __noinline void reject4(struct __sk_buff *skb, __u32 offset, __u32 length, enum direction direction)
{
	struct transport transport;
	__u64 addresses = 0;
	struct flow *flow;
	union key4 key;

	direction = direction == TRANSMIT ? RECEIVE : TRANSMIT;
	unpack(&transport, read_ipv4(skb, offset, length, direction));
	if (!transport.parsed || bpf_skb_load_bytes(skb, offset + offsetof(struct iphdr, saddr), &addresses, sizeof(addresses)))
		return;
	fill_key4(&key, addresses, direction, &transport);
	flow = bpf_map_lookup_elem(&flows4, &key);
	if (flow)
		flow->rejected = 1;
}

static __noinline void reject6(struct __sk_buff *skb, __u32 offset, __u32 length, enum direction direction)
{
	struct transport transport;
	__u64 addresses[4] = {};
	struct flow *flow;
	union key6 key;

	direction = direction == TRANSMIT ? RECEIVE : TRANSMIT;
	unpack(&transport, read_ipv6(skb, offset, length, direction));
	if (!transport.parsed || bpf_skb_load_bytes(skb, offset + offsetof(struct ipv6hdr, saddr), addresses, sizeof(addresses)))
		return;
	fill_key6(&key, addresses, direction, &transport);
	flow = bpf_map_lookup_elem(&flows6, &key);
	if (flow)
		flow->rejected = 1;
}

#define LEAST_TRANSPORT 8 // that of UDP

// read_directly reads a TCP or UDP header that stands at an offset in the linear part of the buffer, ending at end.
static __always_inline void read_directly(struct transport *transport, void *header, void *end, __u8 protocol,
					  __u16 offset, enum direction direction)
{
	transport->ports = local_first(*(__u32 *)header, direction);
	transport->protocol = protocol;
	transport->offset = offset;
	transport->parsed = true;
	transport->flags = 0;
	if (protocol == IPPROTO_TCP && header + TCP_FLAGS + 1 <= end)
		transport->flags = *(__u8 *)(header + TCP_FLAGS);
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

static __always_inline void follow_ipv4(struct frame *frame, struct transport *transport, struct totals *sum)
{
	void *end = (void *)(long)frame->skb->data_end;
	struct iphdr *ip = (void *)(long)frame->skb->data + frame->link_header;
	__u64 addresses = 0;
	union key4 key;

	if ((void *)(ip + 1) + LEAST_TRANSPORT <= end && *(__u8 *)ip == 0x45 && has_ports(ip->protocol) &&
	    !(ip->frag_off & bpf_htons(0x1fff)) && frame->length >= sizeof(*ip) + LEAST_TRANSPORT) {
		addresses = *(__u64 *)&ip->saddr;
		read_directly(transport, ip + 1, end, ip->protocol, sizeof(*ip), frame->direction);
	} else {
		unpack(transport, read_ipv4(frame->skb, frame->link_header, frame->length, frame->direction));
		if (!transport->parsed)
			return;
		bpf_skb_load_bytes(frame->skb, frame->link_header + offsetof(struct iphdr, saddr), &addresses, sizeof(addresses));
	}
	if (!wanted(FLOWS))
		return;
	fill_key4(&key, addresses, frame->direction, transport);
	follow(frame, transport, sum, &flows4, &key);
	if (transport->protocol == IPPROTO_ICMP && transport->flags == UNREACHABLE)
		reject4(frame->skb, frame->link_header + transport->offset + sizeof(struct icmp_start),
			frame->length - transport->offset - sizeof(struct icmp_start), frame->direction);
}

static __always_inline void follow_ipv6(struct frame *frame, struct transport *transport, struct totals *sum)
{
	void *end = (void *)(long)frame->skb->data_end;
	struct ipv6hdr *ip = (void *)(long)frame->skb->data + frame->link_header;
	union key6 key;

	if ((void *)(ip + 1) + LEAST_TRANSPORT <= end && *(__u8 *)ip >> 4 == 6 && has_ports(ip->nexthdr) &&
	    frame->length >= sizeof(*ip) + LEAST_TRANSPORT) {
		read_directly(transport, ip + 1, end, ip->nexthdr, sizeof(*ip), frame->direction);
		fill_key6(&key, (__u64 *)&ip->saddr, frame->direction, transport);
	} else {
		__u64 addresses[4] = {};

		unpack(transport, read_ipv6(frame->skb, frame->link_header, frame->length, frame->direction));
		if (!transport->parsed)
			return;
		bpf_skb_load_bytes(frame->skb, frame->link_header + offsetof(struct ipv6hdr, saddr), addresses, sizeof(addresses));
		fill_key6(&key, addresses, frame->direction, transport);
	}
	if (!wanted(FLOWS))
		return;
	follow(frame, transport, sum, &flows6, &key);
	if (transport->protocol == IPPROTO_ICMPV6 && transport->flags == UNREACHABLE)
		reject6(frame->skb, frame->link_header + transport->offset + sizeof(struct icmp_start),
			frame->length - transport->offset - sizeof(struct icmp_start), frame->direction);
}

static __always_inline bool is_dns(struct transport *transport)
{
	return has_ports(transport->protocol) &&
	       (transport->ports >> 16 == bpf_htons(53) || (transport->ports & 0xffff) == bpf_htons(53));
}

// inspect hands the packet on, and does not return if there is somebody to take it.
static __always_inline void inspect(struct frame *frame, struct transport *transport)
{
	struct inspection known = {
		.pod = pod(),
		.network = frame->link_header,
		.transport = frame->link_header + transport->offset,
		.end = frame->link_header + frame->length,
		.protocol = frame->protocol,
		.transport_protocol = transport->protocol,
		.direction = frame->direction,
	}, *entry;
	__u32 zero = 0;

	if (frame->is_socket) {
		tell_in_packet(frame->skb, &known);
		bpf_tail_call(frame->skb, &cgroup_inspectors, INSPECT_DNS);
		return;
	}
	entry = bpf_map_lookup_elem(&inspection, &zero);
	if (!entry)
		return;
	*entry = known;
	bpf_tail_call(frame->skb, &inspectors, INSPECT_DNS);
}

// weigh reckons what the packet is on the wire.
static __always_inline void weigh(struct frame *frame, enum cell cell, __u32 wire_length)
{
	__u32 segments = frame->skb->gso_segs, size = frame->skb->gso_size, headers;
	__u64 answer;

	frame->packets = segments ?: 1;
	frame->bytes = frame->length;
	if (!size || cell == NON_IP)
		return;
	answer = segment_headers(frame->skb, frame->link_header, wire_length);
	headers = answer;
	// Virtual machines hand over super-packets without saying how many segments they are.
	if (!segments && frame->bytes > headers)
		frame->packets = (frame->bytes - headers + size - 1) / size;
	frame->bytes -= answer >> 32;
	if (frame->packets > 1)
		frame->bytes += (frame->packets - 1) * headers;
}

static __always_inline void count(struct frame *frame, __u32 wire_length)
{
	struct transport transport = {};
	struct counters *counters;
	enum cell cell = NON_IP;
	struct totals *sum;
	__u32 zero = 0;

	frame->length = frame->available;
	if (frame->protocol == bpf_htons(ETH_P_IP))
		cell = judge_ipv4(frame);
	else if (frame->protocol == bpf_htons(ETH_P_IPV6))
		cell = judge_ipv6(frame);
	weigh(frame, cell, wire_length);

	sum = bpf_map_lookup_elem(&totals, &zero);
	if (!sum)
		return;
	counters = &sum->cells[frame->direction][cell];
	add(&counters->packets, frame->packets, frame->is_socket);
	add(&counters->bytes, frame->bytes, frame->is_socket);
	add(&counters->buffers, 1, frame->is_socket);

	if (cell == NON_IP || !wanted(FLOWS | INSPECTION))
		return;
	if (frame->protocol == bpf_htons(ETH_P_IP))
		follow_ipv4(frame, &transport, sum);
	else
		follow_ipv6(frame, &transport, sum);
	if (!transport.parsed)
		add(&sum->unparsed, frame->packets, frame->is_socket);
	else if (wanted(INSPECTION) && is_dns(&transport))
		inspect(frame, &transport);
}

static __always_inline bool is_broadcast(struct __sk_buff *skb)
{
	void *destination = (void *)(long)skb->data; // struct ethhdr is packed, and would be read byte by byte

	if (destination + ETH_HLEN > (void *)(long)skb->data_end)
		return false;
	return *(__u32 *)destination == 0xffffffff && *(__u16 *)(destination + 4) == 0xffff;
}

static __always_inline int count_interface(struct __sk_buff *skb, enum direction direction, __u32 link_header)
{
	struct frame frame = { .skb = skb, .direction = direction, .link_header = link_header, .protocol = skb->protocol };

	if (link_header) {
		frame.broadcast = is_broadcast(skb);
		if (is_tag(frame.protocol)) {
			__u32 found = find_tagged(skb);

			frame.protocol = found;
			frame.link_header = found >> 16 & 31; // the bound is for the verifier
		}
	}
	frame.available = skb->len > frame.link_header ? skb->len - frame.link_header : 0;
	count(&frame, skb->wire_len);
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
	struct frame frame = {
		.skb = skb, .direction = direction, .is_socket = true, .protocol = skb->protocol, .available = skb->len,
	};

	if (skb->ifindex != LOOPBACK)
		count(&frame, 0);
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
