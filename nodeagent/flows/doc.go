// Package flows keeps the history of a node's flows: it takes them from the tables in the kernel (bpf/headers/flows.h),
// remembers them for a while off the Go heap, and answers who asks about them or follows them.
//
//	flows.go      the collector: what it is made of, its roles, and when it drains
//	drain.go      a drain: every flow of the kernel's tables is looked at, idle ones are taken out
//	tables.go     the kernel's tables
//	history.go    the records, in one anonymous mapping
//	pods.go       pods by number, and their totals
//	ledger.go     what outlives the agent: totals, in pinned maps
//	names.go      DNS names of peers, each kept once
//	verdict.go    forwarded, dropped or rejected
//	conntrack.go  what the node's address translation made of a peer
//	read.go       which flows a request asks for, and batches of them
//	follow.go     going on with what changes
//	watch.go      what passes in the flows of all pods, for others in this process
//
// A flow has a record from the drain that first sees it until it is older than the limit or pushed out by newer ones.
// While it is in the kernel's table its record is brought up to date in place, and stays, however old it is.
package flows
