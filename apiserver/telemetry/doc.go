// Package telemetry has the agents do what the NetworkTelemetry says, in the replica that holds the Lease
// networkobservability-telemetry, and writes into its status what came of it. PROTOCOL.md (ConfigureTelemetry) says how the two
// programs speak.
//
// # Parts
//
// A term (term.go) is the time for which this replica leads. It has three tasks beside its streams: to steer (spec.go, desired.go,
// secrets.go) is to find out what agents shall do; to attend is to keep a stream to each node that has an agent (node.go);
// to report is to write the status (status.go). What is said on a stream is decided by a conversation (conversation.go, pods.go,
// names.go, outbox.go), which does no I/O: what is wanted, the pods and owners around, and reports go in; messages come out.
// Its tests are the stories in testdata.
//
// # Revisions
//
// A revision is a resourceVersion of the host at which the spec was what it is: of the object as it was read when
// this leader first saw the spec, or of the list that had none. It is read from the store and not from a cache; informers only say
// when to look. Hence two revisions of different specs are in the order of the specs, deletions and new creations included,
// whichever replica read them. The resourceVersion at which a spec changed is not kept anywhere, because writing the status
// moves it, and it need not be: a leader that begins may send the same spec under a higher revision, and
// agents take it over as the same. A dispute, which is an agent that has a higher revision than it is sent, is settled by the store:
// see conversation.
//
// # Secrets
//
// Those that exporters name are read when the spec changes and every minute, with the right to get just them. Their values are
// in memory here, on the wire, and in the agents' memory. One that is not there, may not be read, has a key that is no header
// or a client's certificate that cannot be used now is a problem that is sent in place of what should be in it: the exporter
// fails with it, on every node, until it is mended.
//
// # Bounds
//
// A node takes two goroutines, two more of gRPC, some 80 bytes for each of its pods, and some 80 for each address
// that its agent has asked for (20,000 at most, which is 1.6 MB; some hundreds, mostly). Every second each stream looks at its node's
// pods, which costs a comparison each unless something has changed, and at answers given before: at 200 or more of them, two
// hundred thousand for all streams together, some 0.3 us each. So changes are told within a second where agents ask for 200
// addresses, or where all ask for 200,000 together; a thousand agents with 20,000 each are told after 100 s at most. Streams
// are opened 128 at a time. Messages are at most MaxTelemetryBytes.
package telemetry
