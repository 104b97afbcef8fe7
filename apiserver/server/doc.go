// Package server is where the parts of the API server meet, and the only place that knows all of them.
//
//	command.go    the program: flags in, logs set up, Run
//	options.go    flags, their defaults and checks
//	config.go     what the generic server of k8s.io/apiserver is told: who may call, admission, OpenAPI, shutdown
//	server.go     the wiring, to be read first
//	admission.go  which admission plugins the cluster can feed
//	quota.go      ResourceQuotas count captures
//	fleet.go      the agents as the registry wants to see them
//	captures.go   captures: storage, controller, streams, and the agents as these want to see them
//	telemetry.go  telemetry: its controller, and the agents and owners as it wants to see them
//	filters.go    filters from text to what agents take
//	expectation.go what a capture would see, from live statistics
//	shutdown.go   how connections move to the other replica before this one stops
//
// # How a request goes
//
// kube-apiserver's aggregator brings it over TLS, vouching for the caller in headers that are believed from its
// certificate only. The generic server asks kube-apiserver whether the caller may (a SubjectAccessReview, cached
// for 10 s, for everybody, system:masters too), queues it by the cluster's priority and fairness, and calls the
// REST of the resource in apiserver/registry. That asks apiserver/agents for counters and makes objects of them.
//
// # Ready and alive
//
// Ready means that the cluster's pods and nodes are known, that there are certificates, and that discovery and
// OpenAPI are complete. It does not mean that agents answer: a cluster whose APIs are unready cannot delete
// namespaces, and would be the worse for our outage. Silent agents are a Warning and a metric.
//
// # Stopping
//
// On SIGTERM readyz fails at once and everything is served on for --shutdown-delay-duration, while the endpoint is
// taken out everywhere; each answer asks the connection to move (GOAWAY). Then requests under way end, watches are
// closed one by one within --shutdown-watch-termination-grace-period, and the Lease is given back. The pod's
// terminationGracePeriodSeconds must exceed the sum and 10 s more.
package server
