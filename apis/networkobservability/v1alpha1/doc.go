// Package v1alpha1 holds the resources of networkobservability.k8s.io/v1alpha1: network telemetry of
// pods and nodes as Kubernetes objects. Every read is answered live by the agents on the nodes and nothing is
// stored, but for captures and the NetworkTelemetry: their specification and status are. Packets stay on the nodes.
//
// # What a number means
//
// A packet is a packet on the wire: a buffer that the kernel carries as one and segments later (GSO), or
// that it put together from several (GRO), counts as its segments. Bytes are IP-level bytes, from the
// first byte of the IP header to the last of its payload, with the headers repeated for each segment.
// The buffers themselves are counted beside them. Traffic on a loopback interface is not in the totals.
//
// All counters are int64 and rise only: from startTime, over restarts and upgrades of the agent.
//
// +k8s:deepcopy-gen=package
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=io.k8s.networkobservability.v1alpha1
// +groupName=networkobservability.k8s.io
package v1alpha1
