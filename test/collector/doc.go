// Program collector is a real OpenTelemetry Collector, made of the parts that a test needs: the receiver of OTLP over gRPC
// and HTTP with TLS, a check of the header "authorization", and an exporter that writes what arrived to a file, a line of
// OTLP/JSON a request. Its tests send to it by nodeagent/export, kill it, and count.
//
//	collector --grpc ADDRESS --http ADDRESS [--cert FILE --key FILE] [--token-file FILE] --output FILE
//
// It prints "ready" to standard output once it listens. It is a module of its own, so that what a collector is made of is in
// no go.mod of our programs. The versions are the newest whose modules the Go module proxy serves whole.
//
//	main.go            flags, configuration, which parts there are
//	parts.go           the exporter to a file, the check of the header
//	collector_test.go  what arrives, and what is counted when it does not
package main
