//go:build ignore

// DNS as each pod sees it that asks: bpf/traffic hands packets of port 53 on by tail call, and the programs here pair
// queries that a pod transmits with the responses that it receives. What a pod does as a server of DNS is left alone.
//
// Counters live here, so they are exact whatever happens to events; the ring buffer only carries what is needed for
// names. No program changes a packet or its fate. Everything is bounded: a pod's state is one entry of fixed size, and
// what it may have pending and may send through the ring is limited; what is beyond is counted as lost.
//
// A cgroup_skb program may be interrupted by another one on the same CPU, so nothing is kept in per-CPU memory and all
// additions are atomic.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <histogram.h>
#include <inspection.h>

#define PORT 53
#define NAME 256 // RFC 1035: at most 255
#define MESSAGE 512 // so much of a response goes to user space
#define TYPES 16 // a pod's types of record that are counted each on its own
#define CODES 16
#define PENDING 1024 // of one pod
#define EVENTS 200 // of one pod in 2^30 ns
#define RING (512 * 1024)
#define AT_ONCE 8 // messages that are looked for in one segment of TCP
#define PATIENCE 10000000000ULL // ns after which a query is unanswered

// With 0 no names leave the kernel, and none are kept in it.
const volatile __u32 keep_names = 1;

// Type TYPES stands for all types that have no place of their own. Responses are counted by code (the header's four
// bits: those of EDNS are not looked at).
struct pod {
	__u64 queries[TYPES + 1];
	__u64 responses[TYPES + 1][CODES];
	struct histogram latency;
	__u64 unanswered;
	__u64 unparsed;
	__u64 lost;
	__u64 pending; // how many now: no counter
	__u32 types[TYPES]; // the type, plus 65536; 0 is a free place
	__u32 second; // of 2^30 ns
	__u32 events; // in it
};

// Made here with a pod's first message, removed by user space.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct pod);
} dns_pods SEC(".maps");

// What a pod's entry is at first: all 0.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pod);
} dns_blank SEC(".maps");

// Messages of pods that found no place in dns_pods.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dns_homeless SEC(".maps");

// Within the pod, addresses are those that it uses: translation of Services is undone before a response comes in.
// Programs on cgroups see it from the other side, so there the socket's cookie stands in local and all addresses are 0.
struct question {
	__u64 pod;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 id;
	__u8 protocol;
	__u8 unused[3];
};

struct pending {
	__u64 time; // CLOCK_MONOTONIC in ns
	__u32 hash; // of the name
	__u16 type;
	__u8 place; // of the type in struct pod
	__u8 length; // of the name
	__u8 name[NAME]; // as on the wire, but in small letters
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct question);
	__type(value, struct pending);
} dns_pending SEC(".maps");

enum kind { ANSWERED, UNANSWERED };

struct event {
	__u64 pod;
	__u64 latency; // in ns; 0 when unanswered
	__u16 type;
	__u16 length; // of message
	__u8 code;
	__u8 kind;
	__u8 unused[2];
	__u8 message[MESSAGE]; // of a response its beginning, header first; of an unanswered query its name as on the wire
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING);
} dns_events SEC(".maps");

struct header {
	__be16 id;
	__u8 flags;
	__u8 code;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additional;
};

#define IS_RESPONSE 0x80

enum opcode { QUERY, STATUS = 2, NOTIFY = 4, UPDATE = 5, STATEFUL = 6 };

static __always_inline __u64 add(__u64 *counter, __u64 value) { return __sync_fetch_and_add(counter, value); }

static __always_inline struct pod *find_pod(__u64 number)
{
	struct pod *pod = bpf_map_lookup_elem(&dns_pods, &number), *blank;
	__u32 zero = 0;
	__u64 *homeless;

	if (pod)
		return pod;
	blank = bpf_map_lookup_elem(&dns_blank, &zero);
	if (!blank)
		return NULL;
	bpf_map_update_elem(&dns_pods, &number, blank, BPF_NOEXIST); // or another CPU did
	pod = bpf_map_lookup_elem(&dns_pods, &number);
	if (!pod) {
		homeless = bpf_map_lookup_elem(&dns_homeless, &zero);
		if (homeless)
			add(homeless, 1);
	}
	return pod;
}

// place_of is where a type is counted. Only a pod's own queries take places, so responses that nobody asked for
// cannot take them all.
static __always_inline __u32 place_of(struct pod *pod, __u16 type, bool take)
{
	__u32 marked = type | 1 << 16;

	for (__u32 i = 0; i < TYPES; i++) {
		__u32 present = pod->types[i];

		if (!present && take)
			present = __sync_val_compare_and_swap(&pod->types[i], 0, marked) ?: marked;
		if (present == marked)
			return i;
		if (!present)
			break;
	}
	return TYPES;
}

// reserve_event takes from the pod's budget; NULL is counted.
static __always_inline struct event *reserve_event(struct pod *pod, __u64 now)
{
	__u32 second = now >> 30, before = pod->second;
	struct event *event;

	if (!keep_names)
		return NULL;
	if (before != second && __sync_val_compare_and_swap(&pod->second, before, second) == before)
		pod->events = 0;
	if (pod->events < EVENTS && __sync_fetch_and_add(&pod->events, 1) < EVENTS) {
		event = bpf_ringbuf_reserve(&dns_events, sizeof(*event), 0);
		if (event)
			return event;
	}
	add(&pod->lost, 1);
	return NULL;
}

// submit_event wakes user space only when much has gathered: otherwise it comes by itself.
static __always_inline void submit_event(struct event *event)
{
	__u64 gathered = bpf_ringbuf_query(&dns_events, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(event, gathered > RING / 4 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

// An exchange is one message and who sends it to whom.
struct exchange {
	struct question key;
	__u32 offset; // of the message
	__u32 end;
	bool received;
	bool uncertain; // it may be the middle of a message
	__u8 code;
};

// read_name puts the name in small letters and reckons its hash. It returns the name's length as on the wire, or 0
// when there is no whole name in the first available bytes. In a question nothing precedes to which a name could
// point, so pointers are refused, too.
static __always_inline __u32 read_name(struct pending *asked, __u32 available)
{
	__u32 hash = 2166136261, left = 0; // FNV-1a

	for (__u32 i = 0; i < NAME - 1; i++) {
		__u8 byte = asked->name[i];

		if (i >= available)
			return 0;
		if (left) {
			left--;
			if (byte >= 'A' && byte <= 'Z')
				asked->name[i] = byte += 'a' - 'A';
		} else {
			if (byte > 63)
				return 0;
			left = byte;
			if (!byte) {
				asked->hash = hash;
				asked->length = i + 1;
				return i + 1;
			}
		}
		hash = (hash ^ byte) * 16777619;
	}
	return 0;
}

// read_question reads the first question of a message. It is a global function, which the kernel verifies once.
__noinline int read_question(struct __sk_buff *skb, struct pending *asked, __u32 offset, __u32 end)
{
	__be16 type;
	__u32 available = end - offset, length;

	if (!asked || end <= offset)
		return 0;
	if (available > NAME)
		available = NAME;
	available = ((available - 1) & (NAME - 1)) + 1; // for the verifier: it is not 0
	if (bpf_skb_load_bytes(skb, offset, asked->name, available))
		return 0;
	length = read_name(asked, available);
	if (!length || end - offset < length + 4) // type and class
		return 0;
	if (bpf_skb_load_bytes(skb, offset + length, &type, sizeof(type)))
		return 0;
	asked->type = bpf_ntohs(type);
	return 1;
}

// count_query and count_response are not in line, so that their variables share the stack, which is 512 bytes for all.
static __noinline void count_query(struct pod *pod, struct exchange *x, struct pending *asked)
{
	struct pending *before;

	asked->place = place_of(pod, asked->type, true);
	add(&pod->queries[asked->place > TYPES ? TYPES : asked->place], 1);
	asked->time = bpf_ktime_get_ns();
	if (!keep_names)
		__builtin_memset(asked->name, 0, sizeof(asked->name));

	before = bpf_map_lookup_elem(&dns_pending, &x->key);
	if (before) {
		// Asked once more: what counts is when it was asked first.
		if (before->hash == asked->hash && before->type == asked->type && asked->time - before->time < PATIENCE)
			return;
		if (!bpf_map_delete_elem(&dns_pending, &x->key)) {
			add(&pod->pending, -1);
			add(&pod->unanswered, 1);
			add(&pod->lost, 1); // its name
		}
	}
	if ((__s64)add(&pod->pending, 1) < PENDING &&
	    !bpf_map_update_elem(&dns_pending, &x->key, asked, BPF_NOEXIST))
		return;
	add(&pod->pending, -1);
	add(&pod->lost, 1);
}

static __always_inline void report(struct __sk_buff *skb, struct pod *pod, struct exchange *x, __u16 type, __u64 now,
				   __u64 latency)
{
	struct event *event = reserve_event(pod, now);
	__u32 length = x->end - x->offset;

	if (!event)
		return;
	if (length > MESSAGE)
		length = MESSAGE;
	length = ((length - 1) & (MESSAGE - 1)) + 1; // for the verifier: it is at least a header
	event->pod = x->key.pod;
	event->latency = latency;
	event->type = type;
	event->code = x->code;
	event->kind = ANSWERED;
	event->length = length;
	if (bpf_skb_load_bytes(skb, x->offset, event->message, length))
		event->length = 0;
	submit_event(event);
}

static __noinline void count_response(struct __sk_buff *skb, struct pod *pod, struct exchange *x,
				      struct pending *asked)
{
	struct pending *query = bpf_map_lookup_elem(&dns_pending, &x->key);
	__u64 begun = 0, now;
	__u16 type = asked->type;
	__u32 place = TYPES;
	bool questions = asked->length, paired = false;

	if (query && (!questions || (query->hash == asked->hash && query->type == asked->type))) {
		begun = query->time;
		type = query->type;
		place = query->place;
		// Memory of deleted entries is used again at once, so what was read holds only if it is deleted here.
		paired = !bpf_map_delete_elem(&dns_pending, &x->key);
	}
	if (!paired) {
		if (x->uncertain)
			return;
		place = questions ? place_of(pod, asked->type, false) : TYPES;
	}
	add(&pod->responses[place > TYPES ? TYPES : place][x->code & (CODES - 1)], 1);
	if (!paired)
		return;
	now = bpf_ktime_get_ns();
	add(&pod->pending, -1);
	histogram_add(&pod->latency, now - begun);
	if (!questions) {
		add(&pod->lost, 1); // its name
		return;
	}
	report(skb, pod, x, type, now, now - begun);
}

// take_message is a global function, too: it is called for UDP and for each message in a segment of TCP. It returns 1
// when there is a message.
__noinline int take_message(struct __sk_buff *skb, struct exchange *x)
{
	struct pending asked = {};
	struct header *header = (struct header *)asked.name; // until there is a name: the stack is small
	struct pod *pod;

	if (!x)
		return 0;
	pod = find_pod(x->key.pod);
	if (!pod)
		return 0;
	if (x->end < x->offset || x->end - x->offset < sizeof(*header) ||
	    bpf_skb_load_bytes(skb, x->offset, header, sizeof(*header)))
		goto unparsed;
	switch (header->flags >> 3 & 15) {
	case QUERY:
		break;
	case STATUS:
	case NOTIFY:
	case UPDATE:
	case STATEFUL:
		return 1; // DNS, but nothing is looked up
	default:
		goto unparsed;
	}
	if (!!(header->flags & IS_RESPONSE) != x->received)
		return 1; // between servers that both use the port
	x->key.id = header->id;
	x->code = header->code & (CODES - 1);
	if (header->questions) {
		if (!read_question(skb, &asked, x->offset + sizeof(*header), x->end))
			goto unparsed;
	} else if (!x->received) {
		goto unparsed;
	}
	if (x->received)
		count_response(skb, pod, x, &asked);
	else
		count_query(pod, x, &asked);
	return 1;
unparsed:
	if (!x->uncertain)
		add(&pod->unparsed, 1);
	return 0;
}

// take_segment looks for messages from where a segment's payload begins: each has its length before it. What does not
// look like one is the middle of another, and says nothing.
static __always_inline void take_segment(struct __sk_buff *skb, struct exchange *x, __u32 payload, __u32 end)
{
	__be16 prefix;

	x->uncertain = true;
	for (int i = 0; i < AT_ONCE; i++) {
		if (payload >= end || end - payload < sizeof(prefix) + sizeof(struct header) ||
		    bpf_skb_load_bytes(skb, payload, &prefix, sizeof(prefix)))
			return;
		x->offset = payload + sizeof(prefix);
		x->end = x->offset + bpf_ntohs(prefix);
		payload = x->end;
		if (x->end > end) {
			if (!x->received)
				return; // a query is whole
			x->end = end;
		}
		if (!take_message(skb, x))
			return;
	}
}

static __always_inline bool read_addresses(struct __sk_buff *skb, struct inspection *in, struct question *key)
{
	__u32 *source = in->direction ? key->local : key->remote, *destination = in->direction ? key->remote : key->local;

	if (in->protocol == bpf_htons(ETH_P_IP))
		return !bpf_skb_load_bytes(skb, in->network + offsetof(struct iphdr, saddr), source, 4) &&
		       !bpf_skb_load_bytes(skb, in->network + offsetof(struct iphdr, daddr), destination, 4);
	return !bpf_skb_load_bytes(skb, in->network + offsetof(struct ipv6hdr, saddr), source, 16) &&
	       !bpf_skb_load_bytes(skb, in->network + offsetof(struct ipv6hdr, daddr), destination, 16);
}

struct ports {
	__be16 source;
	__be16 destination;
};

// take_packet: cookie is that of the socket, or 0 where addresses tell who speaks.
static __always_inline void take_packet(struct __sk_buff *skb, struct inspection *in, __u64 cookie)
{
	struct exchange x = { .key = { .pod = in->pod, .protocol = in->transport_protocol }, .received = !in->direction };
	struct ports ports;

	if (bpf_skb_load_bytes(skb, in->transport, &ports, sizeof(ports)))
		return;
	if ((x.received ? ports.source : ports.destination) != bpf_htons(PORT))
		return; // this pod is the server
	if (cookie) {
		x.key.local[0] = cookie;
		x.key.local[1] = cookie >> 32;
	} else {
		if (!read_addresses(skb, in, &x.key))
			return;
		x.key.local_port = x.received ? ports.destination : ports.source;
	}

	if (in->transport_protocol == IPPROTO_UDP) {
		__be16 length = 0;
		__u32 end;

		if (bpf_skb_load_bytes(skb, in->transport + offsetof(struct udphdr, len), &length, sizeof(length)))
			return;
		end = in->transport + bpf_ntohs(length);
		x.offset = in->transport + sizeof(struct udphdr);
		x.end = end < in->end ? end : in->end;
		take_message(skb, &x);
	} else if (in->transport_protocol == IPPROTO_TCP) {
		__u8 words = 0;

		if (bpf_skb_load_bytes(skb, in->transport + 12, &words, sizeof(words)))
			return;
		take_segment(skb, &x, in->transport + (words >> 4) * 4, in->end);
	}
}

SEC("tc")
int dns_interface(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct inspection *in = bpf_map_lookup_elem(&inspection, &zero);

	if (in)
		take_packet(skb, in, 0);
	return TC_ACT_UNSPEC; // is TCX_NEXT too
}

SEC("cgroup/skb")
int dns_socket(struct __sk_buff *skb)
{
	struct inspection in = told_in_packet(skb);

	take_packet(skb, &in, bpf_get_socket_cookie(skb));
	return 1; // let it pass
}

struct sweep {
	__u64 patience; // in ns
};

static long sweep_one(void *map, struct question *entry, struct pending *value, struct sweep *sweep)
{
	__u64 now = bpf_ktime_get_ns();
	struct question key = *entry;
	struct pending *query;
	struct event *event = NULL;
	struct pod *pod;

	(void)map;
	if (now - value->time < sweep->patience)
		return 0;
	// The entry may have been deleted and its memory used again while it was copied.
	query = bpf_map_lookup_elem(&dns_pending, &key);
	if (!query || now - query->time < sweep->patience)
		return 0;
	pod = bpf_map_lookup_elem(&dns_pods, &key.pod);
	if (pod)
		event = reserve_event(pod, now);
	if (event) {
		event->pod = key.pod;
		event->latency = 0;
		event->type = query->type;
		event->code = 0;
		event->kind = UNANSWERED;
		event->length = query->length;
		__builtin_memcpy(event->message, query->name, NAME);
	}
	if (bpf_map_delete_elem(&dns_pending, &key)) {
		if (event)
			bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	if (pod) {
		add(&pod->pending, -1);
		add(&pod->unanswered, 1);
	}
	if (event)
		submit_event(event);
	return 0;
}

// dns_sweep takes out the queries that nobody answered. User space runs it.
SEC("syscall")
int dns_sweep(struct sweep *sweep)
{
	struct sweep copy = { .patience = sweep->patience };

	bpf_for_each_map_elem(&dns_pending, sweep_one, &copy, 0);
	return 0;
}

// No helper that is used here asks for the GPL.
char __license[] SEC("license") = "Apache-2.0";
