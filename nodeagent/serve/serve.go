// Package serve answers the API server over gRPC, as apis/agent/v1alpha1/PROTOCOL.md describes.
//
//	serve.go        the service: limits, rows into batches
//	flows.go        the same for flows
//	captures.go     the same for captures
//	observe.go      telling of streams
//	telemetry.go    the stream that configures telemetry
//	tls.go          who may dial: TLS 1.3, the client CA as it is now, the one common name
//	certificate.go  the agent's own certificate, asked for and renewed through certificates.k8s.io
//	health.go       answers to the kubelet's probes
package serve

import (
	"context"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Reader begins answers.
type Reader interface {
	// Read begins one; apiServers are where the Kubernetes API is served, as the request says.
	Read(apiServers []string) Reading
}

// Reading makes the rows of one answer, at the moment of the call.
type Reading interface {
	// Pod makes the row of one key, whatever the key is.
	Pod(key string) *v1alpha1.PodStats
	Node() *v1alpha1.NodeStats
}

const (
	maxKeyBytes = 253
	// maxReads is how many reads may be under way.
	maxReads = 8
	// maxStreams is how many streams a connection may have.
	maxStreams = 128
)

// Config is what NewServer answers from, and whom.
type Config struct {
	Reader Reader
	// Flows, Captures and Telemetry are nil when they are switched off.
	Flows     FlowReader
	Captures  CaptureKeeper
	Telemetry TelemetryKeeper
	// Transport decides who is let in.
	Transport credentials.TransportCredentials
	// Observer is told of streams; nil when nobody is.
	Observer Observer
}

// NewServer makes a server.
func NewServer(config Config) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.Creds(config.Transport),
		grpc.MaxRecvMsgSize(v1alpha1.MaxCaptureRequestBytes),
		grpc.MaxConcurrentStreams(maxStreams),
	}
	if config.Observer != nil {
		options = append(options, observed(config.Observer))
	}
	server := grpc.NewServer(options...)
	v1alpha1.RegisterAgentServer(server, &agent{
		reader: config.Reader, flows: config.Flows, captures: config.Captures, telemetry: config.Telemetry,
		reads: make(chan struct{}, maxReads), follows: make(chan struct{}, maxFollowers),
	})
	return server
}

type agent struct {
	v1alpha1.UnimplementedAgentServer
	reader    Reader
	flows     FlowReader
	captures  CaptureKeeper
	telemetry TelemetryKeeper
	// reads holds a token for each read under way, and follows for each follower of flows.
	reads, follows chan struct{}
}

// ReadStats implements the service.
func (a *agent) ReadStats(request *v1alpha1.ReadStatsRequest, stream grpc.ServerStreamingServer[v1alpha1.ReadStatsResponse]) error {
	if err := validate(request); err != nil {
		return err
	}
	select {
	case a.reads <- struct{}{}:
		defer func() { <-a.reads }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d reads are under way", maxReads)
	}
	return a.send(request, stream)
}

func validate(request *v1alpha1.ReadStatsRequest) error {
	if err := validateKeys(request.GetPodKeys()); err != nil {
		return err
	}
	return validateAPIServers(request.GetApiServers())
}

func validateAPIServers(addresses []string) error {
	if n := len(addresses); n > v1alpha1.MaxAPIServers {
		return status.Errorf(codes.InvalidArgument, "api_servers has %d addresses, at most %d may be given", n, v1alpha1.MaxAPIServers)
	}
	for i, address := range addresses {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return status.Errorf(codes.InvalidArgument, "api_servers[%d]: %v", i, err)
		}
	}
	return nil
}

func validateKeys(keys []string) error {
	if n := len(keys); n > v1alpha1.MaxPodKeys {
		return status.Errorf(codes.InvalidArgument, "pod_keys has %d keys, at most %d may be asked for", n, v1alpha1.MaxPodKeys)
	}
	for i, key := range keys {
		if key == "" || len(key) > maxKeyBytes {
			return status.Errorf(codes.InvalidArgument, "pod_keys[%d] has %d bytes, 1 to %d are allowed", i, len(key), maxKeyBytes)
		}
	}
	return nil
}

func (a *agent) send(request *v1alpha1.ReadStatsRequest, stream grpc.ServerStreamingServer[v1alpha1.ReadStatsResponse]) error {
	batch := batcher{send: stream.Send}
	reading := a.reader.Read(request.GetApiServers())
	if request.GetNode() {
		batch.response.Node = reading.Node()
		batch.size = proto.Size(&batch.response)
	}
	answered := make(map[string]bool, len(request.GetPodKeys()))
	for _, key := range request.GetPodKeys() {
		if answered[key] {
			continue // a key has one row, however often it was asked for
		}
		answered[key] = true
		if err := context.Cause(stream.Context()); err != nil {
			return status.FromContextError(err).Err()
		}
		if err := batch.add(reading.Pod(key)); err != nil {
			return err
		}
	}
	return batch.flush()
}

// A batcher gathers rows into messages below the limit.
type batcher struct {
	send     func(*v1alpha1.ReadStatsResponse) error
	response v1alpha1.ReadStatsResponse
	size     int
}

// frame is more than a row's tag and length take in its message.
const frame = 16

func (b *batcher) add(row *v1alpha1.PodStats) error {
	size := proto.Size(row) + frame
	if b.size+size > v1alpha1.MaxBatchBytes {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.response.Pods = append(b.response.Pods, row)
	b.size += size
	return nil
}

func (b *batcher) flush() error {
	if b.size == 0 {
		return nil
	}
	err := b.send(&v1alpha1.ReadStatsResponse{Pods: b.response.Pods, Node: b.response.Node})
	b.response.Pods, b.response.Node, b.size = nil, nil, 0
	return err
}
