// Which pod something in the kernel belongs to, for programs that serve all pods of a node. nodeagent/podindex keeps the
// maps; programs only read them. Other nodes' pods on the same kernel are in none of them.
//
// A pod's number is made from its key (headers.go) and stays the same when its sandbox is made anew. NODE is the node
// itself: everything in its network namespace, the pods that use it included.
#ifndef NETOBS_PODS_H
#define NETOBS_PODS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define NODE 1

// IPv4 addresses are mapped (::ffff:192.0.2.1).
struct address {
	__u32 words[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); // cookie of a network namespace
	__type(value, __u64);
} pods_by_netns SEC(".maps");

// Only pods that use the node's network.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); // id of the pod's cgroup of version 2
	__type(value, __u64);
} pods_by_cgroup SEC(".maps");

// Addresses of the pods that have a network of their own, and of the node.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u64);
} pods_by_address SEC(".maps");

#endif
