// Package captures makes Captures and ClusterCaptures happen. It finds out which pods on which nodes match, tells the agents
// there to record, follows how far they are, ends, seals and copies what was recorded, and deletes it when its time is over.
//
// # Parts
//
// A machine (machine.go; member.go, what it knows of a node; requests.go, shares.go, ending.go, storing.go, what to tell nodes; status.go,
// rows.go, what to tell users) is what is known of one capture. It does no I/O: the object,
// matching targets, agents' answers and the time go in; calls to make and a status to write come out. Its tests are the stories
// in testdata. A term (term.go, calls.go, store.go, rights.go) is the time for which this replica holds the Lease: it feeds
// machines from informers, makes their calls and writes their status. cluster.go knows pods, namespaces, nodes and Services in every
// replica, for the term as for dry runs ([Controller.Matches], [Controller.Resolve]); fresh.go answers a single get.
//
// # The life of a capture
//
// From its creation, or its startTime, every node that hosts a target is told to record it (EnsureCapture), at once. Each second
// every node is asked once how far its captures are (ListCaptures). It is told again when targets, addresses of peers or shares
// change, and every 20 s. Pods that come to match join, pods that go leave; the set of targets is closed when the capture ends.
// The address of a pod is told to the others only while the pod is recorded, so that no end of a flow is left to nobody.
//
// A capture ends when it is stopped or deleted, when all its nodes have ended (by their clocks, limits, or for want of space),
// when limits of all nodes together are used up, 5 s after its duration by our clock, or when nothing matched for as long as it was
// to run. Then every node is told to stop, asked for the addresses that occur, told their names (SealCapture), and the digest and
// size of the merged file are worked out (apis/agent/pcapfile). With outputs it is copied before it is complete.
//
// # Complete or failed
//
// Complete=True says that every node that took part ended as it was meant to, has sealed what it recorded, and answered when the
// file was laid out; that every target was recorded; and, with outputs, that everything was copied. Anything else is Failed=True, for
// ever, with the gravest reason: NodeUnreachable (no answer for two minutes after the end), Lost (the agent no longer has it), NoAgent,
// StorageFull, Interrupted (the agent was restarted meanwhile: packets may be missing), Abandoned, NodeFailed, FileNotMade,
// TargetFailed (a pod that runs was not recorded, or may not be), NoTargets, FilterNotCompiled, NotAuthorized (what the filter names
// was not looked up), UploadFailed. What could be recorded can be read all the same: a node that comes back is stopped, sealed and
// made part of the file as long as the object is there. A capture that could not be copied is kept for a day at least.
//
// # Another leader
//
// Everything that outlives a leader is in the stored object or at the agents. status.control holds the base of the revisions of
// requests, which a leader raises by 2^32 before it uses it: its first write takes the capture over, on condition that nobody wrote
// meanwhile, and agents refuse what is numbered lower. Two replicas that both think that they lead cannot both write, and what
// the slower one still sends is refused. status.control also names all nodes that take part: one that was seen to record is asked
// before it is told anything, so that an agent that lost its data is not told to begin anew and taken for whole. It holds what names in
// filters stood for at the start, and why the capture ends where the agents cannot tell.
//
// # Limits of all nodes together
//
// They are shared out (shares.go): what a node may use is written to the object before the node is told, all of it never sums up to
// more than the limit, and it is taken back only when the node itself has said, in answer to the last request, that it no longer
// holds it, or that it has ended. A node that is alone has the whole limit and reaches it exactly. With several, half is kept back at
// first, a node that goes without gets the rest, then half of what others do not use; the capture ends when a node goes without and
// less than a sixty-fourth is left, or nothing that a node that answers could give back.
//
// # Trust
//
// An agent's answer about pods of another namespace, or known to be on another node, is no answer. Times of agents are believed within
// what is possible. Rights of the requester (Secrets, packets to be copied, pods in their nodes' network, what filters name) are asked for when they
// are needed, at most 10 s old; a static pod counts as one in its node's network, since its identity is in annotations. Secrets are
// read when they are needed, with rights that a namespace has to give, and kept nowhere.
//
// What agents hold without an object is deleted: every minute they are asked for all that they hold, and the store is asked before
// anything is deleted.
package captures
