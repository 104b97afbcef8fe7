// Package networkflows serves networkflows: what passed between pods and their peers, read from the flow histories of
// the node agents when it is asked for, and followed for watches. Nothing is stored.
//
//	source.go     the roles that the agents and the directory of pods play
//	object.go     names, and the API object of an agent's row
//	selection.go  which flows a request is about, and what of that agents can filter
//	merge.go      many nodes' flows as one list
//	token.go      where a list goes on
//	rest.go       get and list
//	version.go    resourceVersions
//	hub.go        following nodes, once for all watchers
//	book.go       what is remembered of what clients were told
//	watch.go      watch, one client's side
//	table.go      what kubectl prints
//	metrics.go    watches, feeds and rejected rows
//
// # Who sees what
//
// A flow is seen by the node of the pod at its end, and its object is in that pod's namespace; between two pods there are
// two. Who may read networkflows in a namespace sees those of its pods, and of their peers in other namespaces the name,
// namespace, workload, node and address at the time. An agent is asked for the pods of its node by their keys; rows
// of pods that are not on its node are dropped and counted, so a stolen agent can lie about its own node only.
//
// # Lists
//
// A node's flows have positions, in the order in which it recorded them. A list takes of the nodes' next flows always the
// one that began first. So flows are in order of time, but for those that their node noticed late, and where a page
// ends one position of each node says all: the token holds these (18 bytes a node), and no flow that is there during
// the whole list is lost or comes twice, whatever else happens. When the agent of a listed node begins a new history (it was
// restarted), its positions mean nothing any more and the list ends with 410 Expired. Pages are at most 10,000 long
// and are sent after 5 s with what there is, be that nothing.
//
// Memory is bounded by asking nodes for chunks: a page holds its own flows, and of each node what of its last chunk was
// selected; chunks grow only while less than half is. 150,000 flows may be under way in all lists, more are told 429.
//
// # resourceVersions
//
// A version is a time in microseconds, made to rise. What a watch that begins at version V is sent depends on what this
// replica remembers:
//
//   - V is of a list that ended on this replica in the last minute, or of an event or bookmark that it sent in the
//     last five, and the nodes have been followed since (they are for a minute after the last watch ended): exactly
//     what has happened since V, with what has left the histories.
//   - V is another replica's, and less than a minute old: all flows that had packets since 5 s before V. Flows that the
//     client knows may come again, as MODIFIED. Flows that left a history between V and the watch's beginning
//     are not told of: an informer that was moved between replicas keeps those until it lists again. So it is with flows that left the
//     selection meanwhile by their pod's labels.
//   - Otherwise, when an agent has begun a new history or remembers less than was asked for, and when labels of more than
//     10,000 pods have changed since, of a selection by labels: 410 Expired, and the
//     client lists again.
//
// # Watches
//
// ADDED, MODIFIED and DELETED are as for any resource: a flow whose verdict changes can come into a selection and leave it.
// Labels are those that the pod has when the event happens. When a pod's labels, or what it belongs to, change, watches that select by
// them say ADDED of its flows that come into the selection by it, and DELETED of those that leave it; others say nothing. These flows
// are not tracked: which pods changed is remembered (registry/directory), so are the flows of which clients have been told, and what
// comes in is read from its node. Some may be told of twice. DELETED says that a flow left its node's history, or the
// selection; of one that left the history only the metadata and the pod are known. Its deletionTimestamp is set,
// and Tables have no row for it, so that kubectl get -w writes each flow when it changes and not when it is forgotten.
// A watch that goes on from a version, with selectors on what can change, says DELETED also of flows from before it that
// change and are not selected, when it cannot tell by their name, protocol, ports or beginning that they never were: nobody knows
// whether the client has them. It says so, too, of such flows that leave their node's history before they change. Clients pass over
// flows that they do not know.
//
// A watch that cannot keep up with 20,000 events, that takes longer than a minute to read what it missed on a node, or that
// selects by what changes and knows of more than 100,000 flows, ends with 410 Expired. All books together hold a million flows (40 MB).
package networkflows
