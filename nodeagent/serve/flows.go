package serve

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// FlowReader has the history of flows.
type FlowReader interface {
	// Read sends what a valid request asks for. Errors are those of flows.Collector.
	Read(context.Context, *v1alpha1.ReadFlowsRequest, func(*v1alpha1.ReadFlowsResponse) error) error
}

const (
	// maxFollowers is how many may follow flows, beside the reads under way.
	maxFollowers = 8
	// maxPorts is how many ports, and how many protocols, a request may name.
	maxPorts = 256
)

// ReadFlows implements the service.
func (a *agent) ReadFlows(request *v1alpha1.ReadFlowsRequest, stream grpc.ServerStreamingServer[v1alpha1.ReadFlowsResponse]) error {
	if err := validateFlows(request); err != nil {
		return err
	}
	if a.flows == nil {
		return status.Error(codes.FailedPrecondition, "flows are switched off")
	}
	tokens, what := a.reads, "reads are under way"
	if request.GetFollow() {
		tokens, what = a.follows, "follow already"
	}
	select {
	case tokens <- struct{}{}:
		defer func() { <-tokens }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d %s", cap(tokens), what)
	}
	return flowsStatus(a.flows.Read(stream.Context(), request, stream.Send))
}

// flowsStatus makes what went wrong fit for the wire.
func flowsStatus(err error) error {
	if _, isStatus := status.FromError(err); err == nil || isStatus {
		return err
	}
	switch {
	case errors.Is(err, flows.ErrOutOfRange):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, flows.ErrEnding):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

func validateFlows(request *v1alpha1.ReadFlowsRequest) error {
	if err := validateKeys(request.GetPodKeys()); err != nil {
		return err
	}
	for _, field := range []struct {
		name  string
		value int64
	}{
		{"since_unix_nano", request.GetSinceUnixNano()}, {"until_unix_nano", request.GetUntilUnixNano()},
		{"after_position", request.GetAfterPosition()}, {"after_revision", request.GetAfterRevision()},
		{"limit", int64(request.GetLimit())},
	} {
		if field.value < 0 {
			return status.Errorf(codes.InvalidArgument, "%s is negative", field.name)
		}
	}
	if !request.GetFollow() && request.GetAfterRevision() != 0 {
		return status.Error(codes.InvalidArgument, "after_revision is for followers only")
	}
	if _, known := v1alpha1.Direction_name[int32(request.GetDirection())]; !known {
		return status.Errorf(codes.InvalidArgument, "direction: %d is none", request.GetDirection())
	}
	for i, verdict := range request.GetVerdicts() {
		if _, known := v1alpha1.Verdict_name[int32(verdict)]; !known || verdict == v1alpha1.Verdict_VERDICT_UNSPECIFIED {
			return status.Errorf(codes.InvalidArgument, "verdicts[%d]: %d is none", i, verdict)
		}
	}
	if err := validateNumbers("protocols", request.GetProtocols(), 255); err != nil {
		return err
	}
	if err := validateNumbers("ports", request.GetPorts(), 65535); err != nil {
		return err
	}
	return validatePeers(request.GetPeers())
}

func validateNumbers(name string, numbers []int32, largest int32) error {
	if len(numbers) > maxPorts {
		return status.Errorf(codes.InvalidArgument, "%s has %d numbers, at most %d may be given", name, len(numbers), maxPorts)
	}
	for i, number := range numbers {
		if number < 0 || number > largest {
			return status.Errorf(codes.InvalidArgument, "%s[%d]: %d is not between 0 and %d", name, i, number, largest)
		}
	}
	return nil
}

func validatePeers(peers [][]byte) error {
	if n := len(peers); n > v1alpha1.MaxPeers {
		return status.Errorf(codes.InvalidArgument, "peers has %d addresses, at most %d may be given", n, v1alpha1.MaxPeers)
	}
	for i, peer := range peers {
		if len(peer) != 4 && len(peer) != 16 {
			return status.Errorf(codes.InvalidArgument, "peers[%d] has %d bytes, 4 or 16 are allowed", i, len(peer))
		}
	}
	return nil
}
