package serve

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/telemetry"
)

// TelemetryKeeper takes over what telemetry is configured. Errors are those of telemetry.State.
type TelemetryKeeper interface {
	Follow(ctx context.Context, receive func() (*v1alpha1.TelemetryUpdate, error), send func(*v1alpha1.TelemetryReport) error) error
}

var _ TelemetryKeeper = &telemetry.State{}

// ConfigureTelemetry implements the service.
func (a *agent) ConfigureTelemetry(stream grpc.BidiStreamingServer[v1alpha1.TelemetryUpdate, v1alpha1.TelemetryReport]) error {
	if a.telemetry == nil {
		return status.Error(codes.Unimplemented, "this agent sends no telemetry")
	}
	receive := func() (*v1alpha1.TelemetryUpdate, error) {
		update, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if size := proto.Size(update); size > v1alpha1.MaxTelemetryBytes {
			return nil, status.Errorf(codes.InvalidArgument, "the message has %d bytes, at most %d are allowed", size, v1alpha1.MaxTelemetryBytes)
		}
		return update, validateAPIServers(update.GetApiServers())
	}
	return telemetryStatus(a.telemetry.Follow(stream.Context(), receive, stream.Send))
}

// telemetryStatus makes the end of a stream fit for the wire.
func telemetryStatus(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, telemetry.ErrReplaced):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, telemetry.ErrEnding):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return err
}
