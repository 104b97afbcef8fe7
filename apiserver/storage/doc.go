// Package storage keeps captures and the NetworkTelemetry, for the generic server's Store, in one of two places.
//
// By default each object is in an envelope, a custom resource of the host cluster in our own namespace
// (artifacts/deploy/storage), so that there is nothing to operate. With --etcd-servers it is in an etcd of the operator's,
// by the generic server's own storage.
//
//	options.go   flags, and the RESTOptionsGetter of either
//	envelope.go  the custom resource and its client
//	names.go     keys of objects and names of envelopes
//	store.go     create, read, update and delete
//	list.go      lists, in pages
//	watch.go     the one watch
//	stats.go     how many objects there are, and how large
//	cached.go    the generic server's cache in front
//	errors.go    what the host says of envelopes, as what we say of objects
//
// # What an envelope holds
//
// The object as JSON text, whole but for its resourceVersion, which is the envelope's: both are the host's, comparable,
// and guard updates. The text is opaque to the host. The envelope's labels are the object's, so that the host selects by
// labels; it selects by namespace through spec.namespace. Envelopes have no owners and no finalizers: those of the object
// are in the text, and are minded by the Store, the garbage collector and the namespace controller through our own API.
//
// # Who answers what
//
// Lists and reads that have to be new go to the host, which answers them from its own cache. Watches, and lists that may be
// stale, are served from the generic server's cache in this process, which one list and one watch of the host feed. A
// connection or two carry all, whatever the number of clients.
//
// # When the host is away
//
// Reads and writes fail with 500 and a time to try again; the watches of clients stay open, and go on from where they were
// when the host is back. When it has forgotten what happened meanwhile, they end with 410 and clients list anew.
package storage
