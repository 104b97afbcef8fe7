// Package agents finds the node agents, dials them and asks many of them at once.
//
// # Finding
//
// The control plane says where agents are: each endpoint of the headless Service's EndpointSlices gives an
// address and the name of a node (endpoints.go). An address is only a hint. Who answers is decided by the
// certificate, which must chain to the current serving CA and carry the DNS name of the node that was meant
// (dial.go).
//
// # Asking
//
// [Fleet.Read] takes what to read of each node and gives one [Reply] for each. A read of a node becomes a
// flight (flight.go): an identical read, or one that asks for less, shares it for a second after it began, under
// way or not, and reads that wait for a free place are put together into one call. A caller that
// goes away leaves its flight; the last to leave cancels it. At most [Config.Workers] calls are under way, two
// to a node. A read of many slow nodes holds three quarters of them at most, so that a read of one node goes on
// beside it (queue.go).
//
// A call (call.go) trusts nothing that an agent says: rows that were not asked for or come twice are dropped
// and counted, and an answer over a limit of size, count or time is no answer.
//
// # Failing
//
// A node that does not answer in time costs the deadline once. Then its breaker opens (breaker.go): reads of
// it fail at once with the reason, while probes in the background find out, at most 5 s later, that the agent
// is back. An endpoint that changes is a new agent: its connection is dropped, calls under way are repeated at
// the new address, and its breaker is reset.
//
// One silent node is an error in that node's Reply. Read itself fails with [ErrNoAgents] only when no asked
// node answered and no other agent is known to.
//
// # Order in the code
//
// breaker and flights are state machines without I/O: time and events go in, decisions come out, and their
// tests are transcripts. Fleet holds them under one lock, which is never held over I/O.
package agents
