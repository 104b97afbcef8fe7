// Package capture records packets of this node's pods, and of the node itself, for captures that the API server asks for.
//
// A capture has parts, one for each interface of each target. A part has a ring in its network namespace, a goroutine that
// takes packets out of it, and segments on disk: files of pcapng that hold the very blocks that readers are sent. Nothing
// is kept in memory of what was recorded; readers, however slow, read the same files.
//
// What the API server sees of it is described in apis/agent/v1alpha1/PROTOCOL.md.
//
//	options.go    what operators choose
//	manager.go    all captures: the calls, limits of the node
//	capture.go    the life of one: targets to parts, what ends it
//	part.go       one interface: ring to disk, every packet counted
//	frame.go      headers of a packet; where they end
//	vantage.go    at which end a flow is kept
//	limits.go     how much is kept
//	addresses.go  which addresses occur
//	segments.go   files of a part
//	disk.go       quota and free space; files that hold what a capture is
//	recover.go    what was there before the agent started
//	merge.go      parts into one order
//	read.go       streams of packets
//	seal.go       names and digest
//	store.go      files for outputs
//	targets.go    interfaces, and opening rings on them
//	validate.go   what a request may hold
//	totals.go     counts of all captures, for metrics
package capture
