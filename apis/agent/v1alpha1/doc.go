// Package v1alpha1 is the wire between the API server and the node agents: the messages and service that
// agent.proto generates, and the names on which both sides agree. PROTOCOL.md describes it.
package v1alpha1

import "strings"

const (
	// Namespace is where both programs run.
	Namespace = "network-observability"
	// ServiceName is the headless Service whose EndpointSlices name the agents and their nodes.
	ServiceName = "networkobservability-nodeagent"
	// ServiceAccountName is the service account of the agents.
	ServiceAccountName = "networkobservability-nodeagent"
	// Port is the TCP port on the node at which an agent serves by default.
	Port = 10261

	// SignerName is the certificates.k8s.io signer of the agents' serving certificates.
	SignerName = "networkobservability.k8s.io/agent-serving"
	// SubjectPrefix and a node's name make the common name of its agent's certificate.
	SubjectPrefix = "system:networkobservability:agent:"
	// SubjectOrganization is the organization of every agent's certificate.
	SubjectOrganization = "networkobservability:agents"
	// ClientCommonName is the common name of the API server's client certificate.
	ClientCommonName = "networkobservability-apiserver"

	// CAConfigMapName is the ConfigMap that carries both CA bundles to the agents.
	CAConfigMapName = "networkobservability-ca"
	// ClientCAKey is the key of the bundle by which agents check the API server.
	ClientCAKey = "client-ca.crt"
	// ServingCAKey is the key of the bundle by which the API server checks agents.
	ServingCAKey = "serving-ca.crt"

	// MaxPodKeys is the largest number of keys in one ReadStatsRequest.
	MaxPodKeys = 2000
	// MaxAPIServers is the largest number of addresses in one ReadStatsRequest.
	MaxAPIServers = 64
	// MaxPeers is the largest number of addresses of peers in one ReadFlowsRequest.
	MaxPeers = 2000
	// MaxRequestBytes is the largest request that the API server sends, but for those that have a limit of their own below.
	MaxRequestBytes = 1 << 20
	// MaxBatchBytes is the largest ReadStatsResponse.
	MaxBatchBytes = 256 << 10
	// MaxCaptureUIDs is the largest number of captures in one ListCapturesRequest.
	MaxCaptureUIDs = 1000
	// MaxCaptureRequestBytes is the largest EnsureCaptureRequest or SealCaptureRequest.
	MaxCaptureRequestBytes = 4 << 20
	// MaxCaptureTargets and MaxCapturePeers are the largest numbers of them in one EnsureCaptureRequest.
	MaxCaptureTargets, MaxCapturePeers = 1000, 20_000
	// MaxCaptureNames is the largest number of addresses in one SealCaptureRequest, MaxNamesPerAddress of names of one.
	MaxCaptureNames, MaxNamesPerAddress = 10_000, 16
	// MaxTelemetryBytes is the largest TelemetryUpdate, and MaxWantedAddresses how many addresses a TelemetryReport has at most.
	MaxTelemetryBytes, MaxWantedAddresses = 1 << 20, 1000
	// MaxTelemetryLacks is how many parts of a configuration a TelemetryReport says to be lacking at most.
	MaxTelemetryLacks = 32
	// MetricsPort is the TCP port on the node at which an agent offers metrics by default, over HTTPS.
	MetricsPort = 10263
	// MetricsDNSName is the second name in the certificate of every agent, by which who scrapes it by address checks it.
	MetricsDNSName = ServiceName + "." + Namespace + ".svc"
	// MaxCaptureStateBytes is the largest CaptureState, and the largest message that has one.
	MaxCaptureStateBytes = 2 << 20
)

const dnsSuffix = ".agent.networkobservability.k8s.io"

// DNSName is the first subject alternative name in the certificate of a node's agent, by which the API server checks it.
func DNSName(node string) string { return node + dnsSuffix }

// NodeOfDNSName is the inverse of DNSName; ok is false for a name that no agent has.
func NodeOfDNSName(name string) (node string, ok bool) {
	node, ok = strings.CutSuffix(name, dnsSuffix)
	return node, ok && node != ""
}
