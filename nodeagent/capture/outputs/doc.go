// Package outputs copies what a node recorded of a capture to where its user asked for: to stores that speak the protocol
// of Amazon S3, to Azure Blob Storage, to Google Cloud Storage, and to volumes that the operator has mounted.
//
//	outputs.go   the Uploader: captures, and their outputs
//	job.go       one output of one capture: tries, patience, parts
//	store.go     what a store can do, and how far an object is
//	s3.go azure.go gcs.go volume.go  the stores
//	egress.go    connections to addresses that were checked; requests
//	identity.go  credentials that were given, and those of the agents' own identity
//	roots.go     certificate authorities
//	validate.go  what may become part of a path, a URL or a header
//	failure.go   what went wrong, in words of our own
//
// A file is sent in parts of 8 MiB. What is stored of it is remembered until it is forgotten, so that the next try goes on
// with the part that failed. Each part carries a checksum, which the store checks, and what the store says of it is
// compared; in the end so are size and checksum of the whole. Failures that may pass are tried again for ten minutes after
// the last part that got through, those that will hardly pass three times.
//
// Credentials are in memory only. Nothing that a store, a library or a name server says is repeated, but for the number of
// the status and a code of letters and digits.
package outputs
