// Package live is what all resources have in common that are read from the nodes at the moment of a request and
// stored nowhere. A resource adds a [Kind]; see registry/podnetworkstats for the whole of one.
//
//	record.go     what is kept of a host's object, and our object's metadata
//	host.go       how the host's objects are followed
//	store.go      records in order of their keys, versions, and what changes
//	history.go    changes of a while ago
//	version.go    resourceVersions
//	selection.go  which objects a request is about
//	token.go      where a list goes on
//	rest.go       get and list
//	watch.go      watch, one client's side
//	readings.go   watch, the side of the nodes: one read for all clients
//	memory.go     what a node last said
//	reader.go     the role that the agents play, and what is said of silent ones
//	crowd.go      how much may be on its way to clients at once
//	ahead.go      what a client that takes page after page will want next
//	wire.go       from the agents' messages to the API's types; wire_*.go for each group of counters
//	metrics.go    how long reads take
//	table.go      cells
//
// # Which objects exist
//
// Those of the host: a pod's object is there as long as the pod is, whether its node answers or not. A node that
// is silent costs counters, never objects, so no informer sees a deletion that did not happen. A get of an object that
// is not known asks the host itself, which may have created it a moment ago.
//
// # resourceVersions
//
// A version is the resourceVersion of the host's last event that an answer reflects, followed by eight digits of a
// sequence. The first part is what replicas can compare: it says which creations and deletions a client knows. The
// second orders what one replica said since, for each answer reads new numbers. There is no clock in it, and it is
// as long as the host's version needs (some hosts use 64 bits), which KEP-5504 allows.
//
// What a replica knows of the host is more than its last event: a list, or a bookmark, shows that there was none
// since. So a store keeps two numbers. current.host is in what it sends; seen is up to where it reflects all. A
// client that comes with a version above current.host but not above seen, as from a replica that was started later
// and whose list named a later version, is served at once, and from its version on. Above seen it has to wait,
// for at most 3 s, and meanwhile the host is asked how far it is (see host.hurry); then it is told to come back.
//
// A watch goes on from a version with the changes since: the history holds those of single events. After a list
// (at the start, or because the host's watch broke) only the states at either end are known, so versions within
// are answered 410 Expired, as are those before the history's first. An empty answer there would leave a pod in a
// client's cache for ever that was deleted in between. Only changes of records are kept: numbers come anew with
// the next reading.
//
// # Watches
//
// One goroutine reads the union of what is watched every interval and hands the result to all watchers; each
// takes what it selected, in a goroutine of its own, behind a queue of bounded length. Nobody waits for a slow
// one: it is not sent readings that newer ones have overtaken, and it is closed when it is a thousand creations
// and deletions behind. MODIFIED is sent for objects whose numbers changed, and once when a node falls silent.
package live
