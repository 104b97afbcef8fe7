// Package certificates makes and keeps the trust between the API server, the agents and the aggregator, as
// apis/agent/v1alpha1/PROTOCOL.md describes it.
//
// # Two authorities in one Secret
//
// The serving authority signs the certificates of the agents and of the API server; the client authority
// signs the one certificate by which the API server is known to agents. They are different keys, so no agent
// can act as the API server. Both live in the Secret networkobservability-ca, made by whichever replica comes
// first and watched by all (trust.go). An authority (authority.go) is a list of generations: a new one is
// trusted for an hour before it signs, and an old one stays trusted until it expires, so no rotation breaks a
// handshake. One that was made while a clock was ahead is trusted, but signs only when it is valid: until then another one
// is made beside it. Deleting the Secret makes new authorities at once; agents then need the few minutes that a
// ConfigMap takes to reach them, and a new certificate each.
//
// # What every replica does
//
// From the authorities each [Manager] mints two leaves in memory (leaf.go), its serving certificate and its
// client certificate, and renews them at two thirds of their day. They are never stored.
//
// # What the leader does
//
// One replica holds the Lease and has the duties (leader.go): it rotates the authorities, keeps the bundles in
// the ConfigMap for agents and in the APIService for the aggregator (publish.go), and approves or denies and
// signs the agents' CertificateSigningRequests (requests.go). The duties are level-triggered and idempotent:
// each looks at what is there and mends what differs.
//
// The rules by which a request is judged are one function without I/O, judge in rules.go.
package certificates
