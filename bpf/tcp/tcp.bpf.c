//go:build ignore

// Follows the TCP sockets of all pods of a node, and of the node itself, at their changes of state, at resets, and when
// user space asks. Nothing here runs for a packet.
//
// What a socket has carried is kept by the socket (struct tcp_sock). It is added to its pod's totals in portions: when
// user space reads, and a last time when the socket closes. Beside the socket (sk_storage) stands what has been added
// already, so each byte is added once whoever comes first, and the totals only rise.
//
// Not under the Apache licence as the rest, but dual-licensed MIT or GPL-2.0, because the kernel offers the functions
// that are used here (bpf_seq_write, bpf_probe_read_kernel) to such programs only.
// SPDX-License-Identifier: MIT OR GPL-2.0-only

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <histogram.h>
#include <pods.h>

// Of the kernel's structures only what is used, found by name at load time (CO-RE).
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct refcount_struct {
	atomic_t refs;
};

struct inet_timewait_death_row {
	struct refcount_struct tw_refcount;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
};

struct net {
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	struct {
		__u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__u16 skc_family;
	volatile __u8 skc_state;
	__be32 skc_daddr;
	__be16 skc_dport;
	struct in6_addr skc_v6_daddr;
	possible_net_t skc_net;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	int sk_err_soft;
	struct sock_cgroup_data sk_cgrp_data;
};

struct request_sock_queue {
	atomic_t qlen;
};

struct inet_connection_sock {
	struct request_sock_queue icsk_accept_queue;
};

struct minmax_sample {
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 segs_out;
	__u32 segs_in;
	__u32 total_retrans;
	__u32 srtt_us;
	struct minmax rtt_min;
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

struct bpf_iter__tcp {
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#define AF_INET 2
#define AF_INET6 10

enum state { ESTABLISHED = 1, SYN_SENT, SYN_RECV, TIME_WAIT = 6, CLOSE = 7, LISTEN = 10, NEW_SYN_RECV = 12 };

enum cause { REFUSED, TIMEOUT, UNREACHABLE, ABANDONED, OTHER, CAUSES };

enum latency { CLOSED_SMOOTHED_RTT, CLOSED_MINIMUM_RTT, API_HANDSHAKE, API_CLOSED_RTT, LATENCIES };

// What sockets have carried. bpf/tcp/tcp.go has the same layouts; whoever changes one gives the folder of pins
// (nodeagent/collectors/tcp) a new number.
struct sums {
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 segments_sent;
	__u64 segments_received;
	__u64 segments_retransmitted;
};

struct totals {
	__s64 start_unix_nano; // user space's: when counting began
	__u64 opened_actively;
	__u64 opened_passively;
	__u64 failed[CAUSES];
	__u64 resets_sent;
	__u64 resets_received;
	__u64 not_followed; // sockets for which there was no memory, and which are in no sums
	struct sums sums; // of all sockets, closed and open
	__u64 api_connected;
	__u64 api_failed;
	struct histogram latencies[LATENCIES];
};

// By the pod's number (pods.h). User space makes and deletes entries. What happens before there is one is not counted.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct totals);
} totals SEC(".maps");

enum owner { BY_NAMESPACE, BY_CGROUP, OWNERS };

struct followed {
	// Pods that have totals, or 0. The second is a pod that uses the node's network, and then the first is NODE.
	__u64 owners[OWNERS];
	__u64 begun; // CLOCK_MONOTONIC in ns when the first SYN was sent; 0 unless the socket is connecting
	// What is in the totals already. Changed by atomic exchange only, for user space may read while a socket closes.
	// The sockets' counters of segments wrap, and the differences do not mind.
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 segments_sent;
	__u32 segments_received;
	__u32 segments_retransmitted;
	__u8 closed; // the last portion is in the totals, unless the socket is used anew
	__u8 api; // it leads to where the Kubernetes API is served
	__u8 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct followed);
} sockets SEC(".maps");

struct endpoint {
	struct address address;
	__be16 port;
	__u16 unused;
};

// Where the Kubernetes API is served. Kept by user space.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
} api_servers SEC(".maps");

static __always_inline __u64 pod_of_namespace(__u64 cookie)
{
	__u64 *pod = bpf_map_lookup_elem(&pods_by_netns, &cookie);

	return pod ? *pod : 0;
}

// The socket's cgroup is a container's, or below it; the pod's is above.
#define CGROUP_LEVELS 8

static __always_inline __u64 pod_of_cgroup(struct cgroup *cgroup)
{
	for (int i = 0; i < CGROUP_LEVELS && cgroup; i++) {
		__u64 id = BPF_CORE_READ(cgroup, kn, id);
		__u64 *pod = bpf_map_lookup_elem(&pods_by_cgroup, &id);

		if (pod)
			return bpf_map_lookup_elem(&totals, pod) ? *pod : 0;
		cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup);
	}
	return 0; // nor when it has no totals yet: seed looks again
}

static __always_inline bool leads_to_api(struct sock_common *sk)
{
	struct endpoint key = { .port = sk->skc_dport };

	if (sk->skc_family == AF_INET) {
		key.address.words[2] = bpf_htonl(0xffff);
		key.address.words[3] = sk->skc_daddr;
	} else if (sk->skc_family == AF_INET6) {
		key.address.words[0] = sk->skc_v6_daddr.in6_u.u6_addr32[0];
		key.address.words[1] = sk->skc_v6_daddr.in6_u.u6_addr32[1];
		key.address.words[2] = sk->skc_v6_daddr.in6_u.u6_addr32[2];
		key.address.words[3] = sk->skc_v6_daddr.in6_u.u6_addr32[3];
	}
	return bpf_map_lookup_elem(&api_servers, &key);
}

// follow finds or makes what is remembered of a socket: not before there are totals, for what is taken from the socket
// must go somewhere.
static __always_inline struct followed *follow(struct sock *sk, __u64 pod)
{
	struct followed *followed = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct followed fresh = { .owners = { pod } };

	if (followed)
		return followed;
	if (!bpf_map_lookup_elem(&totals, &pod))
		return NULL;
	if (pod == NODE)
		fresh.owners[BY_CGROUP] = pod_of_cgroup(sk->sk_cgrp_data.cgroup);
	return bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

// rises looks at the difference, for counters of 32 bits wrap.
#define rises(before, now) (sizeof(now) == 4 ? (__s32)((now) - (before)) > 0 : (__s64)((now) - (before)) > 0)

// take returns what has been added to a socket's counter since it was last taken. While the socket is not locked it may
// close or be read at the same time: then the other one takes it.
#define take(taken, counter, locked)                                                     \
	({                                                                               \
		typeof(*(taken)) _before = *(volatile typeof(taken))(taken), _now;       \
		barrier();                                                               \
		_now = (counter);                                                        \
		if (locked)                                                              \
			_before = __atomic_exchange_n(taken, _now, __ATOMIC_SEQ_CST);    \
		else if (!rises(_before, _now) ||                                        \
			 __sync_val_compare_and_swap(taken, _before, _now) != _before)   \
			_now = _before;                                                  \
		(typeof(_now))(_now - _before);                                          \
	})

static __always_inline void add(__u64 *counter, __u64 value)
{
	if (value)
		__sync_fetch_and_add(counter, value);
}

static __always_inline void add_sums(__u64 owner, struct sums *portion)
{
	struct totals *sum = owner ? bpf_map_lookup_elem(&totals, &owner) : NULL;

	if (!sum)
		return;
	add(&sum->sums.bytes_acked, portion->bytes_acked);
	add(&sum->sums.bytes_received, portion->bytes_received);
	add(&sum->sums.segments_sent, portion->segments_sent);
	add(&sum->sums.segments_received, portion->segments_received);
	add(&sum->sums.segments_retransmitted, portion->segments_retransmitted);
}

// settle adds to the totals what they lack of a socket. locked says that nothing else happens to the socket meanwhile.
static __always_inline void settle(struct followed *followed, struct tcp_sock *tcp, bool locked)
{
	struct sums portion = {
		.bytes_acked = take(&followed->bytes_acked, tcp->bytes_acked, locked),
		.bytes_received = take(&followed->bytes_received, tcp->bytes_received, locked),
		.segments_sent = take(&followed->segments_sent, tcp->segs_out, locked),
		.segments_received = take(&followed->segments_received, tcp->segs_in, locked),
		.segments_retransmitted = take(&followed->segments_retransmitted, tcp->total_retrans, locked),
	};

	if (!(portion.bytes_acked | portion.bytes_received | portion.segments_sent | portion.segments_received |
	      portion.segments_retransmitted))
		return;
	add_sums(followed->owners[BY_NAMESPACE], &portion);
	add_sums(followed->owners[BY_CGROUP], &portion);
}

// reopen prepares for a socket's next life. Its counters begin anew after a disconnect, and go on after a failure.
static __always_inline void reopen(struct followed *followed, struct tcp_sock *tcp)
{
	if (tcp->segs_out < followed->segments_sent || tcp->segs_in < followed->segments_received) {
		followed->bytes_acked = tcp->bytes_acked;
		followed->bytes_received = tcp->bytes_received;
		followed->segments_sent = tcp->segs_out;
		followed->segments_received = tcp->segs_in;
		followed->segments_retransmitted = tcp->total_retrans;
	}
	followed->closed = 0;
	followed->api = 0;
	followed->begun = 0;
}

// Errors as on x86 and arm64.
static __always_inline enum cause cause_of(struct sock *sk, struct tcp_sock *tcp)
{
	// An unreachable network is often known, but no reason yet to give up, when the pod does.
	int error = sk->sk_err ? sk->sk_err : sk->sk_err_soft;

	switch (error) {
	case 0:
		// A socket that is closed has sent its first SYN. Else connect itself has failed: there was no free port.
		return tcp->segs_out ? ABANDONED : OTHER;
	case 111: // ECONNREFUSED
		return REFUSED;
	case 110: // ETIMEDOUT
		return TIMEOUT;
	case 13: // EACCES, prohibited by an administrator
	case 64: // ENONET
	case 100: // ENETDOWN
	case 101: // ENETUNREACH
	case 112: // EHOSTDOWN
	case 113: // EHOSTUNREACH
		return UNREACHABLE;
	}
	return OTHER;
}

static __always_inline __u32 minimum_rtt(struct tcp_sock *tcp)
{
	__u32 us = tcp->rtt_min.s[0].v;

	return us == ~0U ? 0 : us;
}

// What a change of state means to the totals of every owner.
struct change {
	bool opened;
	bool active;
	bool failed;
	bool closed;
	bool lost; // closed, and not followed
	bool api;
	enum cause cause;
	__u64 handshake_ns; // 0 where it is not known
	__u64 smoothed_rtt_ns; // 0 where there is none
	__u64 minimum_rtt_ns; // the same
};

// A global function, which the kernel verifies once and not again for each path that leads to it.
__noinline int add_latency(__u64 owner, __u32 latency, __u64 ns)
{
	struct totals *sum = bpf_map_lookup_elem(&totals, &owner);

	if (sum && latency < LATENCIES)
		histogram_add(&sum->latencies[latency], ns);
	return 0;
}

static __always_inline void count_change(__u64 owner, struct change *change)
{
	struct totals *sum = owner ? bpf_map_lookup_elem(&totals, &owner) : NULL;

	if (!sum)
		return;
	if (change->opened)
		__sync_fetch_and_add(change->active ? &sum->opened_actively : &sum->opened_passively, 1);
	if (change->failed && change->cause < CAUSES)
		__sync_fetch_and_add(&sum->failed[change->cause], 1);
	if (change->lost)
		__sync_fetch_and_add(&sum->not_followed, 1);
	if (change->closed && change->smoothed_rtt_ns) {
		add_latency(owner, CLOSED_SMOOTHED_RTT, change->smoothed_rtt_ns);
		if (change->minimum_rtt_ns)
			add_latency(owner, CLOSED_MINIMUM_RTT, change->minimum_rtt_ns);
		if (change->api)
			add_latency(owner, API_CLOSED_RTT, change->smoothed_rtt_ns);
	}
	if (change->api && change->opened) {
		__sync_fetch_and_add(&sum->api_connected, 1);
		if (change->handshake_ns)
			add_latency(owner, API_HANDSHAKE, change->handshake_ns);
	}
	if (change->api && change->failed)
		__sync_fetch_and_add(&sum->api_failed, 1);
}

// The kernel calls this before it changes sk_state. The socket is locked, or nobody else has it yet.
SEC("tp_btf/inet_sock_set_state")
int state_changes(__u64 *context)
{
	struct sock *sk = (void *)context[0];
	int before = context[1], now = context[2];
	__u64 pod = pod_of_namespace(sk->__sk_common.skc_net.net->net_cookie);
	struct tcp_sock *tcp = pod ? bpf_skc_to_tcp_sock(sk) : NULL;
	bool connecting = before == SYN_SENT || before == SYN_RECV;
	struct change change = { .closed = now == CLOSE };
	struct followed *followed;
	__u64 begun = 0;

	if (!tcp || now == SYN_RECV) // which is followed by ESTABLISHED at once, or means nothing
		return 0;
	followed = follow(sk, pod);
	if (followed) {
		if (followed->closed && now != CLOSE)
			reopen(followed, tcp);
		if (now == SYN_SENT) {
			followed->begun = bpf_ktime_get_ns();
			followed->api = leads_to_api(&sk->__sk_common);
			return 0;
		}
		begun = followed->begun;
		change.api = followed->api;
		if (connecting)
			followed->begun = 0;
		if (change.closed) {
			change.closed = !followed->closed;
			followed->closed = 1;
			settle(followed, tcp, true);
		}
	}

	change.opened = connecting && now != CLOSE;
	// A socket that has sent a SYN may receive one in answer, and only then be established.
	change.active = before == SYN_SENT || begun;
	change.failed = connecting && now == CLOSE && change.active;
	change.lost = change.closed && !followed;
	if (!change.opened && !change.failed && !change.closed)
		return 0;
	if (change.failed)
		change.cause = cause_of(sk, tcp);
	if (change.opened && begun)
		change.handshake_ns = bpf_ktime_get_ns() - begun;
	if (change.closed) {
		change.smoothed_rtt_ns = (__u64)(tcp->srtt_us >> 3) * 1000;
		change.minimum_rtt_ns = (__u64)minimum_rtt(tcp) * 1000;
	}
	count_change(pod, &change);
	if (followed)
		count_change(followed->owners[BY_CGROUP], &change);
	return 0;
}

static __always_inline void count_reset(__u64 owner, bool sent)
{
	struct totals *sum = owner ? bpf_map_lookup_elem(&totals, &owner) : NULL;

	if (sum)
		__sync_fetch_and_add(sent ? &sum->resets_sent : &sum->resets_received, 1);
}

// Where nobody listens there is no socket, and the packet that is answered tells the namespace. Until Linux 6.10 the
// kernel calls this for sockets only. It says NULL to some kernels' verifiers and not to others', so nothing is read
// through a pointer directly. A socket may be a small one (TIME_WAIT), which has no storage.
SEC("tp_btf/tcp_send_reset")
int reset_sent(__u64 *context)
{
	struct sock *sk = (void *)context[0];
	struct sk_buff *skb = (void *)context[1];
	struct followed *followed;
	__u64 pod = 0;

	if (sk) {
		pod = pod_of_namespace(BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie));
		followed = bpf_sk_storage_get(&sockets, sk, NULL, 0);
		if (followed && pod)
			count_reset(followed->owners[BY_CGROUP], true);
	}
	if (!pod && skb)
		pod = pod_of_namespace(BPF_CORE_READ(skb, dev, nd_net.net, net_cookie));
	count_reset(pod, true);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int reset_received(__u64 *context)
{
	struct sock *sk = (void *)context[0];
	__u64 pod = pod_of_namespace(sk->__sk_common.skc_net.net->net_cookie);
	struct followed *followed;

	if (!pod)
		return 0;
	followed = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (followed)
		count_reset(followed->owners[BY_CGROUP], false);
	count_reset(pod, false);
	return 0;
}

// What user space reads of each socket.
struct record {
	__u64 owners[OWNERS];
	__u32 smoothed_rtt_us; // 0 where there is none
	__u32 minimum_rtt_us; // the same
	__u32 requests; // of a listener: SYNs that were answered and wait for the answer to that
	__u8 state;
	__u8 api;
	__u8 unused[2];
};

_Static_assert(sizeof(struct record) == 32, "SocketSize in tcp.go");

// Brings the totals up to date, and tells of the socket as it is now. When the kernel's buffer is full, it calls again
// for the same socket later, which does no harm.
SEC("iter/bpf_sk_storage_map")
int read_sockets(struct bpf_iter__bpf_sk_storage_map *context)
{
	struct followed *followed = context->value;
	struct sock *sk = context->sk;
	struct record record = {};
	struct tcp_sock *tcp;

	if (!followed || !sk || followed->closed)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	settle(followed, tcp, false);
	record.owners[BY_NAMESPACE] = followed->owners[BY_NAMESPACE];
	record.owners[BY_CGROUP] = followed->owners[BY_CGROUP];
	record.state = sk->__sk_common.skc_state;
	record.api = followed->api;
	if (record.state == LISTEN) {
		record.requests = tcp->inet_conn.icsk_accept_queue.qlen.counter;
	} else {
		record.smoothed_rtt_us = tcp->srtt_us >> 3;
		record.minimum_rtt_us = minimum_rtt(tcp);
	}
	bpf_seq_write(context->meta->seq, &record, sizeof(record));
	return 0;
}

// What there is now of a pod's sockets.
struct live {
	__u32 by_state[16];
	__u32 requests;
	__u32 api_open;
	__s32 time_wait; // UNKNOWN where this kernel keeps it elsewhere
	__u32 unused;
	__u64 namespace; // the cookie of that of which time_wait is
};

#define UNKNOWN -1

// By the pod's number. User space takes out what there is after each run of count_sockets, of which one runs at a time.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct live);
} live SEC(".maps");

static __always_inline int time_wait(struct sock_common *sk)
{
	struct net *net = sk->skc_net.net;

	// In some kernels it is behind a pointer, or has no counter that can be read alone.
	if (!bpf_core_field_exists(net->ipv4.tcp_death_row.tw_refcount))
		return UNKNOWN;
	return BPF_CORE_READ(net, ipv4.tcp_death_row.tw_refcount.refs.counter) - 1;
}

static __always_inline bool count_live(__u64 owner, struct sock_common *sk, __u32 requests, bool api)
{
	struct live *now = bpf_map_lookup_elem(&live, &owner);
	__u8 state = sk->skc_state;

	if (!now) {
		struct live fresh = { .time_wait = time_wait(sk), .namespace = sk->skc_net.net->net_cookie };

		bpf_map_update_elem(&live, &owner, &fresh, BPF_NOEXIST);
		now = bpf_map_lookup_elem(&live, &owner);
		if (!now)
			return false;
	}
	now->by_state[state & 15]++;
	now->requests += requests;
	if (api && state != SYN_SENT && state != SYN_RECV && state != LISTEN)
		now->api_open++;
	return true;
}

// What count_sockets tells, a byte each.
enum { BREATH, NO_ROOM };

static __u32 counted;

// As read_sockets, but adds up what there is by pods, for who needs no more than that: it takes a fifth less, most of the
// rest being the memory of sockets that no cache has.
// User space reads byte by byte, so that a byte ends the run until it reads again; every so many sockets others have their
// turn thereby. The kernel calls again for a socket for which there was no room to tell, which does not happen with one byte.
SEC("iter/bpf_sk_storage_map")
int count_sockets(struct bpf_iter__bpf_sk_storage_map *context)
{
	struct followed *followed = context->value;
	struct sock *sk = context->sk;
	struct tcp_sock *tcp;
	__u32 requests = 0;
	__u8 tell = BREATH;
	bool ok = true;

	if (!followed || !sk || followed->closed)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	settle(followed, tcp, false);
	if (sk->__sk_common.skc_state == LISTEN)
		requests = tcp->inet_conn.icsk_accept_queue.qlen.counter;
	if (followed->owners[BY_NAMESPACE])
		ok = count_live(followed->owners[BY_NAMESPACE], &sk->__sk_common, requests, followed->api);
	if (ok && followed->owners[BY_CGROUP])
		ok = count_live(followed->owners[BY_CGROUP], &sk->__sk_common, requests, followed->api);
	if (!ok)
		tell = NO_ROOM;
	if (!ok || ++counted % 4096 == 0)
		bpf_seq_write(context->meta->seq, &tell, sizeof(tell));
	return 0;
}

// Follows the sockets that the reader's namespace has already. Runs once a pod, and again for the node's when a pod that
// uses the node's network came, or when it became known where the API is served.
SEC("iter/tcp")
int seed(struct bpf_iter__tcp *context)
{
	struct sock_common *common = context->sk_common;
	struct tcp_sock *tcp = common ? bpf_skc_to_tcp_sock(common) : NULL;
	struct followed *followed;
	struct sums portion;
	struct sock *sk;
	__u64 pod;

	if (!tcp) // a request, or a TIME_WAIT
		return 0;
	sk = (struct sock *)tcp;
	pod = pod_of_namespace(sk->__sk_common.skc_net.net->net_cookie);
	if (!pod || sk->__sk_common.skc_state == CLOSE)
		return 0;
	followed = follow(sk, pod);
	if (!followed || followed->closed)
		return 0;
	if (!followed->api && sk->__sk_common.skc_state != LISTEN)
		followed->api = leads_to_api(&sk->__sk_common);
	if (pod != NODE || followed->owners[BY_CGROUP])
		return 0;
	followed->owners[BY_CGROUP] = pod_of_cgroup(sk->sk_cgrp_data.cgroup);
	portion = (struct sums){
		.bytes_acked = followed->bytes_acked,
		.bytes_received = followed->bytes_received,
		.segments_sent = followed->segments_sent,
		.segments_received = followed->segments_received,
		.segments_retransmitted = followed->segments_retransmitted,
	};
	add_sums(followed->owners[BY_CGROUP], &portion);
	return 0;
}

char __license[] SEC("license") = "Dual MIT/GPL";
