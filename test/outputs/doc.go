// Package outputs copies captures to real stand-ins for object stores, with faults between: programs that speak the
// protocols of Amazon S3 (two of them), Azure Blob Storage and Google Cloud Storage. It is a module of its own, so that
// what the stand-ins are made of is in no go.mod of our programs.
//
//	standins_test.go  the stand-ins, and what differs between them
//	proxy_test.go     what goes wrong on the way to them
//	outputs_test.go   what has to become of it
package outputs
