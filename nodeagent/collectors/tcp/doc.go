// Package tcp follows the TCP sockets of each pod and of the node, in the kernel, by the programs of bpf/tcp: what was
// opened and what failed and why, resets, what the sockets have carried, round-trip times, and apart from all others
// the connections to the Kubernetes API.
//
// Three kinds of program do it, and none of them runs for a packet. One runs at every change of a socket's state, two
// at resets. An iterator over the followed sockets runs once an answer: it brings the totals of all pods up to date and
// tells of each socket as it is. Another iterator finds the sockets that a pod had before it was followed; it sees one
// network namespace at a time and walks the whole kernel's table for it, so it runs pod by pod, at a measured pace. For
// metrics, which tell nothing of single sockets, a third one runs in place of the first and adds them up by pods.
//
// Sums only rise. The kernel keeps beside each socket which part of its counters is in the totals already; whoever
// settles the rest, the iterator or the closing socket, exchanges that atomically. So an answer is the totals, read
// after the iterator ran, and nothing is added up here of which one part could be older than the other.
//
// What that means in detail:
//   - A socket that was there before counting began brings its whole life's bytes and segments with it. It counts as
//     opened by nobody, and its handshake is not known.
//   - What a socket sends after it has closed, a RST at most, is not in its sums unless it is connected anew.
//   - Segments that no full socket sends or receives are in no sum: SYN-ACKs, what TIME_WAIT answers, RSTs of
//     closed ports. Retransmitted segments are those of RetransSegs in /proc/net/snmp, but for SYN-ACKs of connections
//     that never came to be.
//   - SYN_RECV are requests in the listeners' queues, TIME_WAIT is from /proc/PID/net/sockstat, or
//     from the same number in the kernel where sockets are added up there. The latter is not known
//     of a pod that uses the node's network, and is in the node's row only. FIN_WAIT2 is without those that the kernel
//     keeps as TIME_WAIT by then.
//   - The node's row is its namespace's, and that includes the pods that use it.
//
// What is lost is counted, in a row's additional counters: sockets_not_followed, for which the kernel had no memory (their
// changes of state are counted, what they carried is not), and in the node's row events_missed, when an interrupt
// changed a socket's state while the CPU was handling another one's change (docs/collectors.md says how often that is).
//
// A connect that fails is refused, timed out or unreachable by the error that the socket has when it closes. An error
// that a program has taken from the socket before (SO_ERROR) is gone by then: when a router says "unreachable" the
// kernel keeps that in mind and tries on, and a program that asks, and gives up for the answer, abandons the attempt.
//
// Maps and links are pinned, so that counting goes on while no agent runs.
//
//	collector.go  which pods are followed, the hooks, and their state
//	seed.go       sockets that were there before
//	snapshot.go   reading, once an answer
//	rows.go       putting what was read on the wire
package tcp
