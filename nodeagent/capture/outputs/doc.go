// Package outputs copies what a node recorded of a capture to where its user asked for: to stores that speak the protocol
// of Amazon S3, to Azure Blob Storage, to Google Cloud Storage, and to volumes that the operator has mounted.
package outputs
