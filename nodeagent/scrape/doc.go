// Package scrape offers metrics over HTTPS to whom Kubernetes lets read them.
//
// Who scrapes sends a bearer token. kube-apiserver says whose it is (TokenReview) and whether they may get the path
// (SubjectAccessReview of a nonResourceURL), as it does for kubelets and for every component of its own. Client
// certificates are not looked at: those of the cluster's CA would need that CA on every node, and Prometheus has a token
// wherever it runs as a pod.
//
// An agent is on every node and its port is open to all who reach the node. So that nobody can load kube-apiserver
// through it, answers are kept for a short time, equal questions wait for one answer, and questions are limited, those
// about unknown tokens most of all.
//
//	scrape.go   the server: TLS, limits, pages
//	reviews.go  who may: the two questions, answers that are kept
//	cache.go    answers by what was asked, bounded
package scrape
