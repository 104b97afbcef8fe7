// Package streams answers with the packets of captures: the subresources pcap, headers and attach of both kinds.
//
//	streams.go   what it needs, and the subresources as the generic server sees them
//	session.go   one request: limits, rights, log and audit of its beginning and end
//	guard.go     what ends a stream from outside: rights that are gone, the capture deleted, the server stopping
//	file.go      pcap and headers: a file that is always the same, from any byte on
//	marks.go     where in time a byte of it is
//	attach.go    attach: nodes and interfaces join while it is written
//	merge.go     many nodes' packets in one order, without I/O but for its sink
//	feeder.go    reads a node into a merge; goes on where a live one broke
//	output.go    the body of the answer
//	upgrade.go   the body over the connection itself
//	limits.go    how many streams, and how much memory
//	capture.go   what both kinds of captures have for readers
//	addresses.go addresses of a packet, for the names of a live file
//	metrics.go   what is counted of streams
//
// # Order
//
// Packets are ordered by (place, name of the node, sequence); a packet's place is the running maximum of the times of its
// node's packets. A file that is complete waits for the next packet of every node, so that it is the same whatever comes
// when. A live one waits until the other nodes' watermarks have passed the packet, and at most 250 ms.
//
// # Truncation
//
// An answer that ends well is whole. Whatever fails behind the first byte, the client's connection is broken off
// (http.ErrAbortHandler): over HTTP/2 a reset of the stream, over HTTP/1 a missing last chunk. What agents say is held
// against what they said before: sizes, digests and counts of packets.
//
// # Memory
//
// A stream holds a buffer of 64 KiB, the 288 KiB that are being written at a time and, of each node, a window of 64 KiB and a batch
// of up to 256 KiB that is being written; of up to 3 nodes 640 KiB for the window, and another batch that is next. That is 4 MiB
// at most for up to 11 nodes. Agents send no further than that, so a client that reads slowly, or not at all, costs no more. All
// streams together hold at most [Config.Memory] of nodes' packets; what does not fit is answered 429.
//
// # Processor time
//
// A file of known size is had over a connection of its own (package download): kube-apiserver then passes bytes on, where it would
// take apart and put together frames of HTTP/2, and large writes reach the system as one.
//
// # Time
//
// The generic server must treat [LongRunning] as long-running requests: neither its timeout nor its queues nor its wait at
// the end are made for them. kube-apiserver in front ends pcap and headers after a minute, but for connections that were taken over,
// and clients go on with offset.
package streams
