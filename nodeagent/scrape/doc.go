// Package scrape offers metrics over HTTPS to whom Kubernetes lets read them.
//
// Who scrapes sends a bearer token. kube-apiserver says whose it is (TokenReview) and whether they may get the path
// (SubjectAccessReview of a nonResourceURL), as it does for the kubelet and for every component of its own. Client
// certificates are not asked for: those of the cluster's CA would need that CA on every node, and Prometheus has a token
// wherever it runs as a pod.
//
// An agent is on every node, and all who reach the node reach its port. So that nobody can load kube-apiserver or the agent
// through it:
//
//   - A yes is good for two minutes, a no for ten seconds. While kube-apiserver does not answer, a yes is good for one more
//     minute, and everybody else gets 503. A right that was taken away thus ends within two minutes, or three.
//   - What is asked at the same time about the same token and path is asked once.
//   - Questions are limited, those about tokens that had no yes apart from those about tokens that had one: a flood of the
//     former gets 429, and scrapers go on.
//   - Tokens are kept as hashes, so many at most, and a no never takes the place of a yes.
//   - Connections, the size of headers, the time of each step, the scrapes under way and the answers that are being read are
//     bounded. It is HTTP/1.1 only,
//     where a connection has one request at a time, and a request that is refused ends its connection.
//
// The authentication and authorization of k8s.io/apiserver do the same in general. Linked into the agent they took 9.3 MB
// of program and 1.8 MB of memory more than this package.
//
//	scrape.go    the server: TLS, limits, pages
//	reviews.go   who may: the two questions, and the answers that are kept
//	text.go      the text format at little cost
//	compress.go  gzip at little cost
package scrape
