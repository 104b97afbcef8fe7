// Package drops says which packets of each pod and of the node the kernel dropped, and why: the rows that bpf/drops
// counts, with the running kernel's names of the reasons.
//
// One program serves all pods. It and its maps are pinned, so that counting goes on while no agent runs.
//
//	drops.go     the hook, and which pods' rows are kept
//	snapshot.go  reading: all rows once an answer
//	reasons.go   names and classes of reasons
//
// What the kernel gives for what, on 6.18: an expired TTL is IP_INHDR, as malformed headers are; the program looks at
// the TTL, and the class tells them apart. A multicast that nobody in the namespace has asked for, which IPv6 sends all the
// time, is NOT_SPECIFIED, as is the last acknowledgment of each connection, and the class of both is benign. A rule that rejects is NETFILTER_DROP, as one that drops; the answer that it
// sends is in the counters of resets and of ICMP. Copies for packet sockets, such as captures, that found no space are
// left out since the kernel has a reason for them (6.10); before, they are NOT_SPECIFIED.
//
// What is missing: where a packet's address is translated on the node before it is dropped there, the rows have the
// translated port. A packet that a socket of UDP drops when it is read, for its checksum, is found by its address only: on
// loopback it is not found, and where several nodes share a kernel and their pods have the same addresses, all find it.
// While the program runs, an interrupt on the same CPU that drops a packet is missed; the counter "missed" of the node
// says how often.
package drops
