//go:build ignore

// Counts the packets that the kernel drops, with the reason, for the pods of this node and for the node itself. It runs
// only when something is dropped: what is delivered or sent goes through consume_skb, which is another tracepoint.
//
// Whose drop is it? A packet that a socket was to receive is that socket's. A packet of a sending socket is the socket's
// as long as it is in the socket's network namespace. All others belong to the namespace of the interface on which they
// are. On the node's interfaces it is a packet on its way: it belongs to the local pods that have its addresses, and to
// the node if it is one of the ends or if neither end is a pod here.
//
// This file may be used under Apache-2.0 or GPL-2.0-only: bpf_probe_read_kernel is for programs under the GPL.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <flows.h>
#include <pods.h>

#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define TCP_TIME_WAIT 6
#define TCP_NEW_SYN_RECV 12

// The kernel's structures, as far as they are read.
#define KERNEL __attribute__((preserve_access_index))

struct net {
	__u64 net_cookie;
} KERNEL;

typedef struct {
	struct net *net;
} KERNEL possible_net_t;

struct net_device;

struct netdev_name_node {
	struct net_device *dev;
} KERNEL;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
	struct netdev_name_node *name_node;
} KERNEL;

struct kernfs_node {
	__u64 id;
} KERNEL;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} KERNEL;

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} KERNEL;

struct sock_cgroup_data {
	struct cgroup *cgroup;
} KERNEL;


struct in6_addr___kernel {
	union {
		__u8 u6_addr8[16];
	} in6_u;
} KERNEL;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr___kernel skc_v6_daddr;
	struct in6_addr___kernel skc_v6_rcv_saddr;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
} KERNEL;

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	int skb_iif;
	__u16 protocol;
	__u16 network_header;
	__u16 mac_header;
	unsigned int tail;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
} KERNEL;

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
} KERNEL;

enum direction { RECEIVE, TRANSMIT };

// As Drop.Attribution of apis/agent/v1alpha1.
enum attribution { SOCKET = 1, INTERFACE, ADDRESS };

// Whoever changes the layout of a row or an account gives it a new number in nodeagent/collectors/drops.
struct row {
	__u64 pod; // its number, see pods.h
	__u16 reason; // see code
	__u16 port; // of the destination; 0 where there is none, and where there are too many
	__u8 direction;
	__u8 protocol;
	__u8 attribution;
	__u8 unused;
};

// Preallocated: rows are made in interrupts.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct row);
	__type(value, __u64); // packets on the wire
} drop_rows SEC(".maps");

// How many rows a pod can have in each direction: with ports of their own, and in all. What others send to a pod does
// not take the rows of what it sends itself.
#define PORT_ROWS 256
#define ALL_ROWS 384

struct account {
	__u64 unsorted; // packets that are in no row, for want of space
	__u32 rows[2]; // by direction
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64); // a pod's number
	__type(value, struct account);
} drop_accounts SEC(".maps");

// What user space knows of the kernel's reasons, by their number. The map is written before a program is attached.
enum verdict {
	LEFT_OUT = 1, // nothing was lost
	BENIGN = 2, // belongs to every healthy network, so it does not make a flow a dropped one
	EXPIRES = 4, // is the reason of packets whose TTL has come to its end, too
	STRAYS = 8, // is the reason, too, of multicasts that nobody here has asked for, and of a connection's last acknowledgment
};

struct settings {
	__u8 flows; // whether flows are marked
	__u8 verdicts[255];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} drop_settings SEC(".maps");

// Entry 0 is packets of pods for which drop_accounts had no space. Entry 1 is the agent's: programs never touch it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} drop_lost SEC(".maps");

// What is known of a packet. Addresses and ports are as on the wire.
struct packet {
	struct address from, to;
	__u32 segments;
	__u16 reason;
	__u16 source, destination;
	__u8 version; // 4, 6, or 0 if it is not known
	__u8 protocol;
	__u8 ttl;
	bool ports;
	bool flow; // its drop is one of a flow
	bool bare; // a segment of TCP that brings neither data nor a connection
};

// The linear part of a packet.
struct bytes {
	unsigned char *head;
	__u32 tail;
};

static __always_inline bool get(const struct bytes *bytes, __u32 offset, void *to, __u32 size)
{
	return offset + size <= bytes->tail && !bpf_probe_read_kernel(to, size, bytes->head + offset);
}

static __always_inline void map_ipv4(struct address *to, __u32 address)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = address;
}

// is_bare looks at a TCP header. end is that of the IP packet.
static __always_inline bool is_bare(const struct bytes *bytes, __u32 offset, __u32 end)
{
	__u8 words_and_flags[2];

	return get(bytes, offset + 12, words_and_flags, sizeof(words_and_flags)) &&
	       offset + (words_and_flags[0] >> 4) * 4 >= end && !(words_and_flags[1] & 2 /* SYN */);
}

static __always_inline void read_ports(const struct bytes *bytes, __u32 offset, __u32 end, struct packet *packet)
{
	__u16 ports[2];

	switch (packet->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (!get(bytes, offset, ports, sizeof(ports)))
			return;
		packet->source = ports[0];
		packet->destination = ports[1];
		packet->ports = true;
		packet->bare = packet->protocol == IPPROTO_TCP && is_bare(bytes, offset, end);
	}
}

static __always_inline bool read_ipv4(const struct bytes *bytes, __u32 offset, struct packet *packet)
{
	struct {
		__u8 length, tos;
		__u16 total, id, fragment;
		__u8 ttl, protocol;
		__u16 checksum;
		__u32 from, to;
	} ip;

	if (!offset || !get(bytes, offset, &ip, sizeof(ip)) || ip.length >> 4 != 4)
		return false;
	packet->version = 4;
	packet->ttl = ip.ttl;
	packet->protocol = ip.protocol;
	map_ipv4(&packet->from, ip.from);
	map_ipv4(&packet->to, ip.to);
	if (!(ip.fragment & bpf_htons(0x1fff)))
		read_ports(bytes, offset + (ip.length & 15) * 4, offset + bpf_ntohs(ip.total), packet);
	return true;
}

// read_options walks over extension headers to the transport header.
static __always_inline void read_options(const struct bytes *bytes, __u32 offset, __u32 end, struct packet *packet)
{
	for (int i = 0; i < 6; i++) {
		struct {
			__u8 next, length;
			__u16 fragment;
		} header;

		switch (packet->protocol) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
		case IPPROTO_AH:
			break;
		default:
			read_ports(bytes, offset, end, packet);
			return;
		}
		if (!get(bytes, offset, &header, sizeof(header)))
			return;
		if (packet->protocol == IPPROTO_FRAGMENT) {
			offset += 8;
			if (header.fragment & bpf_htons(0xfff8)) {
				packet->protocol = header.next;
				return;
			}
		} else if (packet->protocol == IPPROTO_AH) {
			offset += (header.length + 2) * 4;
		} else {
			offset += (header.length + 1) * 8;
		}
		packet->protocol = header.next;
	}
}

static __always_inline bool read_ipv6(const struct bytes *bytes, __u32 offset, struct packet *packet)
{
	struct {
		__u8 version, flow[3];
		__u16 length;
		__u8 next, hops;
		struct address from, to;
	} ip;

	if (!offset || !get(bytes, offset, &ip, sizeof(ip)) || ip.version >> 4 != 6)
		return false;
	packet->version = 6;
	packet->ttl = ip.hops;
	packet->protocol = ip.next;
	packet->from = ip.from;
	packet->to = ip.to;
	read_options(bytes, offset + sizeof(ip), offset + sizeof(ip) + bpf_ntohs(ip.length), packet);
	return true;
}

// read_packet finds the headers in the linear part. What it cannot find stays 0.
static __noinline int read_packet(struct sk_buff *skb, struct packet *packet)
{
	struct bytes bytes = { .head = skb->head, .tail = skb->tail };
	struct skb_shared_info *info = (void *)(skb->head + skb->end);
	__u16 protocol = skb->protocol, size = 0, segments = 0;
	// Fresh from a driver, a packet begins with the network header before this is noted.
	__u32 noted = skb->network_header, begin = skb->data - skb->head;

	bpf_probe_read_kernel(&size, sizeof(size), &info->gso_size);
	if (size) {
		bpf_probe_read_kernel(&segments, sizeof(segments), &info->gso_segs);
		if (!segments) // virtual machines hand over super-packets without saying how many segments they are
			segments = (skb->len + size - 1) / size;
	}
	packet->segments = segments ?: 1;

	// A packet of which the kernel has not said what it is yet may have anything for a network header.
	if (protocol == bpf_htons(ETH_P_IP))
		return read_ipv4(&bytes, noted, packet) || read_ipv4(&bytes, begin, packet);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return read_ipv6(&bytes, noted, packet) || read_ipv6(&bytes, begin, packet);
	return 0;
}

// full tells sockets from those that are only requests, or wait for their end: these are shorter.
static __always_inline bool full(struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;

	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

// read_socket takes from the sending socket what the packet does not have yet: TCP looks for a route before it writes
// the header.
static __noinline int read_socket(struct sock *sk, struct packet *packet)
{
	__u16 family = sk->__sk_common.skc_family, port = sk->__sk_common.skc_dport;

	if (packet->version || !full(sk) || !port || (family != AF_INET && family != AF_INET6))
		return 0;
	packet->protocol = sk->sk_protocol;
	packet->source = bpf_htons(sk->__sk_common.skc_num);
	packet->destination = port;
	packet->ports = true;
	if (family == AF_INET) {
		packet->version = 4;
		map_ipv4(&packet->from, sk->__sk_common.skc_rcv_saddr);
		map_ipv4(&packet->to, sk->__sk_common.skc_daddr);
		return 0;
	}
	bpf_probe_read_kernel(&packet->from, sizeof(packet->from), &sk->__sk_common.skc_v6_rcv_saddr);
	bpf_probe_read_kernel(&packet->to, sizeof(packet->to), &sk->__sk_common.skc_v6_daddr);
	packet->version = packet->to.words[0] || packet->to.words[1] || packet->to.words[2] != bpf_htonl(0xffff) ? 6 : 4;
	return 0;
}

static __always_inline __u64 pod_of_net(__u64 cookie)
{
	__u64 *pod = bpf_map_lookup_elem(&pods_by_netns, &cookie);

	return pod ? *pod : 0;
}

static __always_inline __u64 pod_of_address(const struct packet *packet, const struct address *address)
{
	__u64 *pod = packet->version ? bpf_map_lookup_elem(&pods_by_address, address) : NULL;

	return pod ? *pod : 0;
}

// pod_of_cgroup finds the pod in the node's network whose socket it is: the cgroup of the pod or one below it.
static __noinline __u64 pod_of_cgroup(struct sock *sk)
{
	struct cgroup_subsys_state *above;
	struct cgroup *cgroup;
	__u64 id, *pod;

	if (!full(sk))
		return 0;
	cgroup = sk->sk_cgrp_data.cgroup;
	if (!cgroup)
		return 0;
	id = cgroup->kn->id;
	above = cgroup->self.parent;
#pragma unroll
	for (int i = 0; i < 6; i++) {
		pod = bpf_map_lookup_elem(&pods_by_cgroup, &id);
		if (pod)
			return *pod;
		if (!above)
			return 0;
		id = above->cgroup->kn->id;
		above = above->parent;
	}
	return 0;
}

static __always_inline __u64 *new_row(struct account *account, const struct row *row, __u32 limit)
{
	__u32 *rows = row->direction == RECEIVE ? &account->rows[RECEIVE] : &account->rows[TRANSMIT];
	__u64 zero = 0;

	if (*rows >= limit)
		return NULL;
	if (__sync_fetch_and_add(rows, 1) >= limit || bpf_map_update_elem(&drop_rows, row, &zero, BPF_NOEXIST))
		__sync_fetch_and_add(rows, -1); // too late, or another CPU was faster
	return bpf_map_lookup_elem(&drop_rows, row);
}

static __always_inline void note_created(long problem)
{
	__u32 zero = 0;
	struct flow_table *table = bpf_map_lookup_elem(&flow_table, &zero);

	if (!table || problem == -EEXIST)
		return;
	// The program may be interrupted by another that counts here.
	if (problem)
		__sync_fetch_and_add(&table->failed, 1);
	else
		__sync_fetch_and_add(&table->created, 1);
}

static __always_inline struct flow *flow_of(void *flows, void *key, enum direction direction)
{
	struct flow *flow = bpf_map_lookup_elem(flows, key);
	struct flow fresh = {};

	if (flow)
		return flow;
	fresh.first = fresh.last = bpf_ktime_get_ns();
	fresh.begun_by = direction;
	note_created(bpf_map_update_elem(flows, key, &fresh, BPF_NOEXIST));
	return bpf_map_lookup_elem(flows, key);
}

// mark_flow notes the drop in the table of flows.
static __noinline int mark_flow(const struct packet *packet, __u64 pod, enum direction direction)
{
	const struct address *local = direction == RECEIVE ? &packet->to : &packet->from;
	const struct address *remote = direction == RECEIVE ? &packet->from : &packet->to;
	__u16 local_port = direction == RECEIVE ? packet->destination : packet->source;
	__u16 remote_port = direction == RECEIVE ? packet->source : packet->destination;
	struct flow *flow;

	if (packet->version == 4) {
		struct flow4 key = { .pod = pod, .protocol = packet->protocol };

		key.local = local->words[3];
		key.remote = remote->words[3];
		key.local_port = local_port;
		key.remote_port = remote_port;
		flow = flow_of(&flows4, &key, direction);
	} else {
		struct flow6 key = { .pod = pod, .protocol = packet->protocol };

		__builtin_memcpy(key.local, local, sizeof(key.local));
		__builtin_memcpy(key.remote, remote, sizeof(key.remote));
		key.local_port = local_port;
		key.remote_port = remote_port;
		flow = flow_of(&flows6, &key, direction);
	}
	if (!flow)
		return 0;
	__sync_fetch_and_add(&flow->drops, packet->segments);
	flow->drop_reason = packet->reason;
	flow->last_drop = bpf_ktime_get_ns();
	return 0;
}

// place finds or makes the row of a packet, or the one without its port where a pod has too many rows, or the account's
// count of what is in no row. It is NULL only where there is no space for the pod.
static __always_inline __u64 *place(struct row *row)
{
	struct account *account = bpf_map_lookup_elem(&drop_accounts, &row->pod);
	__u64 *packets = NULL;

	if (!account) {
		struct account none = {};

		bpf_map_update_elem(&drop_accounts, &row->pod, &none, BPF_NOEXIST);
		account = bpf_map_lookup_elem(&drop_accounts, &row->pod);
		if (!account)
			return NULL;
	}
	if (row->port) {
		packets = new_row(account, row, PORT_ROWS);
		if (packets)
			return packets;
		row->port = 0;
		packets = bpf_map_lookup_elem(&drop_rows, row);
	}
	if (!packets)
		packets = new_row(account, row, ALL_ROWS);
	return packets ?: &account->unsorted;
}

// count adds the packet to a pod's rows. Every packet is in exactly one row, or unsorted.
static __noinline int count(const struct packet *packet, __u64 pod, enum direction direction, enum attribution attribution)
{
	struct row row = {
		.pod = pod, .reason = packet->reason, .port = bpf_ntohs(packet->destination),
		.direction = direction, .protocol = packet->protocol, .attribution = attribution,
	};
	__u64 *packets = bpf_map_lookup_elem(&drop_rows, &row);
	__u32 zero = 0;

	if (!packets)
		packets = place(&row);
	if (!packets)
		packets = bpf_map_lookup_elem(&drop_lost, &zero);
	if (packets)
		__sync_fetch_and_add(packets, packet->segments);
	if (packet->flow && pod != NODE)
		mark_flow(packet, pod, direction);
	return 0;
}

// count_socket adds a packet to the pod of a socket in a namespace of ours.
static __always_inline void count_socket(const struct packet *packet, struct sock *sk, __u64 pod, enum direction direction)
{
	count(packet, pod, direction, SOCKET);
	if (pod == NODE) {
		__u64 user = pod_of_cgroup(sk);

		if (user)
			count(packet, user, direction, SOCKET);
	}
}

// interface_of is the interface on which the packet is. Queues of TCP and UDP keep other things in the field of the
// packet: a node of a tree, or numbers. An interface is known by its name's pointer back to it. Reading through what is no
// pointer is safe in programs of this type, and gives 0.
static __always_inline struct net_device *interface_of(struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;

	return dev && dev->name_node->dev == dev ? dev : NULL;
}

// direction_of tells packets that came in on the interface from those that are to leave by it.
static __always_inline enum direction direction_of(struct sk_buff *skb, struct net_device *dev)
{
	int came_by = skb->skb_iif; // 0 while it has come by none in this namespace
	__u16 link = skb->mac_header; // 65535 while it has none
	long offset = skb->data - skb->head;

	if (came_by)
		return !dev || dev->ifindex == came_by ? RECEIVE : TRANSMIT;
	// Before receiving sets the index, it moves past the link header. Sending begins with it.
	return link != 0xffff && offset > link ? RECEIVE : TRANSMIT;
}

// count_addresses adds a packet to those that have its addresses here, and returns whether there were any. A sender
// that is known from its socket comes first.
static __always_inline bool count_addresses(const struct packet *packet, __u64 sender)
{
	__u64 receiver = pod_of_address(packet, &packet->to);
	enum attribution by = SOCKET;

	if (!sender) {
		sender = pod_of_address(packet, &packet->from);
		by = ADDRESS;
	}
	if (sender && sender != receiver)
		count(packet, sender, TRANSMIT, by);
	if (receiver)
		count(packet, receiver, RECEIVE, ADDRESS);
	return sender || receiver;
}

// count_queued adds a packet that is in no socket's hands and on no interface, mostly in a queue of what was received.
static __always_inline void count_queued(const struct packet *packet, enum direction direction)
{
	__u64 pod = pod_of_address(packet, direction == RECEIVE ? &packet->to : &packet->from);

	if (pod)
		count(packet, pod, direction, ADDRESS);
}

// code makes a number of 16 bits of a reason: its subsystem's number in the upper four. The kernel has three so far;
// the last two stand for what the program tells from the packet.
#define STRAY 0xe000
#define EXPIRED 0xf000

static __always_inline __u16 code(__u32 reason)
{
	return (reason >> 16 & 15) << 12 | (reason & 0xfff);
}

// has_packets is false for sockets of netlink and UNIX: their messages are no packets.
static __always_inline bool has_packets(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6 || family == AF_PACKET;
}

// verdict_of is what user space says of a reason.
static __always_inline __u8 verdict_of(const struct settings *settings, __u32 reason)
{
	return reason < sizeof(settings->verdicts) ? settings->verdicts[reason] : 0;
}

static __always_inline bool is_multicast(const struct packet *packet)
{
	if (packet->version == 4)
		return (packet->to.words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
	return packet->version == 6 && (packet->to.words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

// examine reads the packet. sender may be NULL.
static __always_inline void examine(const struct settings *settings, struct sk_buff *skb, __u32 reason,
				    struct sock *sender, struct packet *packet)
{
	__u8 verdict = verdict_of(settings, reason);

	packet->reason = code(reason);
	read_packet(skb, packet);
	if (sender)
		read_socket(sender, packet);
	packet->flow = settings->flows && !(verdict & BENIGN) && packet->ports;
	if (verdict & EXPIRES && packet->version && packet->ttl <= 1) {
		packet->reason |= EXPIRED;
	} else if (verdict & STRAYS && (packet->bare || (skb->skb_iif && is_multicast(packet)))) {
		packet->reason |= STRAY;
		packet->flow = false;
	}
}

// count_received adds a packet to the pod of the socket that was to receive it.
static __always_inline int count_received(const struct settings *settings, struct sk_buff *skb, __u32 reason, struct sock *sk)
{
	struct packet packet = {};
	__u64 owner;

	// Packet sockets receive copies.
	if (!has_packets(sk) || sk->__sk_common.skc_family == AF_PACKET)
		return 0;
	owner = pod_of_net(sk->__sk_common.skc_net.net->net_cookie);
	if (!owner)
		return 0;
	examine(settings, skb, reason, NULL, &packet);
	count_socket(&packet, sk, owner, RECEIVE);
	return 0;
}

// is_kernels tells the sockets by which the kernel itself answers, with resets and ICMP. They are lent to the sender's
// namespace, and are back in the first one when the packet comes there. The receivers that are found early are
// connected.
static __always_inline bool is_kernels(struct sk_buff *skb, struct sock *sk)
{
	return skb->skb_iif && !sk->__sk_common.skc_dport;
}

// count_passing adds a packet of which the receiver is not known to whoever has it.
static __always_inline int count_passing(const struct settings *settings, struct sk_buff *skb, __u32 reason)
{
	struct net_device *dev = interface_of(skb);
	struct sock *sender = skb->sk;
	struct packet packet = {};
	__u64 here = 0, owner = 0;

	if (sender) {
		if (!has_packets(sender))
			return 0;
		owner = pod_of_net(sender->__sk_common.skc_net.net->net_cookie);
	}
	if (dev) {
		if (sender && dev->nd_net.net == sender->__sk_common.skc_net.net)
			here = owner;
		else
			here = pod_of_net(dev->nd_net.net->net_cookie);
		if (!here)
			return 0; // another node's, or inside of a pod's own
	} else if (sender && !owner) {
		return 0;
	}
	examine(settings, skb, reason, sender, &packet);

	if (sender && (!dev || here == owner) && !is_kernels(skb, sender)) {
		enum direction direction = direction_of(skb, dev);

		count_socket(&packet, sender, owner, direction);
		if (owner == NODE && direction == TRANSMIT) {
			__u64 pod = pod_of_address(&packet, &packet.to);

			if (pod && pod != NODE)
				count(&packet, pod, RECEIVE, ADDRESS);
		}
	} else if (!dev) {
		count_queued(&packet, direction_of(skb, dev));
	} else if (here != NODE) {
		count(&packet, here, direction_of(skb, dev), INTERFACE);
	} else if (!count_addresses(&packet, here == owner ? 0 : owner)) {
		count(&packet, NODE, direction_of(skb, dev), INTERFACE);
	}
	return 0;
}

static __always_inline const struct settings *settings_for(__u32 reason)
{
	__u32 zero = 0;
	const struct settings *settings = bpf_map_lookup_elem(&drop_settings, &zero);

	return settings && !(verdict_of(settings, reason) & LEFT_OUT) ? settings : NULL;
}

// Since 6.11 the kernel says which socket was to receive the packet.
SEC("tp_btf/kfree_skb")
int drop_received(__u64 *context)
{
	const struct settings *settings = settings_for(context[2]);
	struct sock *receiver = (struct sock *)context[3];

	if (!settings)
		return 0;
	if (receiver)
		return count_received(settings, (struct sk_buff *)context[0], context[2], receiver);
	return count_passing(settings, (struct sk_buff *)context[0], context[2]);
}

// Since 5.17 it gives the reason.
SEC("tp_btf/kfree_skb")
int drop(__u64 *context)
{
	const struct settings *settings = settings_for(context[2]);

	return settings ? count_passing(settings, (struct sk_buff *)context[0], context[2]) : 0;
}

char __license[] SEC("license") = "GPL";
