// Package export sends metrics and records of flows to where a cluster's NetworkTelemetry says: to collectors by the
// OpenTelemetry protocol, to files and to standard output as lines of JSON. docs/exporters.md says what arrives there.
//
//	export.go       Exporters: which destinations there are
//	destination.go  one destination: what waits for it, and who sends it
//	queue.go        what waits: bounded in bytes, and counted
//	exporter.go     the interface by which a destination is spoken to, and what its errors mean
//	otlp.go         what is common to OTLP over gRPC (grpc.go) and over HTTP (http.go)
//	metrics.go      families of metrics as OTLP, by the names in names.go
//	flows.go        records of flows as attributes; as OTLP and as lines of JSON (json.go)
//	file.go         rotating files
//	sums.go         sums over series that come and go, which never fall
//	open.go         an exporter of each kind from its configuration
//	roots.go        certificate authorities
//	proto.go        the few lines that write protobuf
package export
