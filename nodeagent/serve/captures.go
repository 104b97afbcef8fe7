package serve

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture"
)

// CaptureKeeper has the captures of this node. Errors are those of capture.Manager; it validates what requests hold.
type CaptureKeeper interface {
	Ensure(context.Context, *v1alpha1.EnsureCaptureRequest) (*v1alpha1.CaptureState, error)
	Stop(context.Context, *v1alpha1.StopCaptureRequest) (*v1alpha1.CaptureState, error)
	Seal(context.Context, *v1alpha1.SealCaptureRequest) (*v1alpha1.CaptureState, error)
	Store(context.Context, *v1alpha1.StoreCaptureRequest) (*v1alpha1.CaptureState, error)
	Delete(context.Context, *v1alpha1.DeleteCaptureRequest) error
	List(*v1alpha1.ListCapturesRequest, func(*v1alpha1.CaptureState) error) error
	Describe(context.Context, *v1alpha1.DescribeCaptureRequest, func(*v1alpha1.DescribeCaptureResponse) error) error
	// Read may use what it sent again as soon as send has returned.
	Read(context.Context, *v1alpha1.ReadCaptureRequest, func(*v1alpha1.ReadCaptureResponse) error) error
}

var _ CaptureKeeper = &capture.Manager{}

var errCapturesOff = status.Error(codes.FailedPrecondition, "captures are switched off by the agent's configuration (captures.enabled)")

// EnsureCapture implements the service.
func (a *agent) EnsureCapture(ctx context.Context, request *v1alpha1.EnsureCaptureRequest) (*v1alpha1.CaptureState, error) {
	if a.captures == nil {
		return nil, errCapturesOff
	}
	state, err := a.captures.Ensure(ctx, request)
	return state, captureStatus(err)
}

// StopCapture implements the service.
func (a *agent) StopCapture(ctx context.Context, request *v1alpha1.StopCaptureRequest) (*v1alpha1.CaptureState, error) {
	if a.captures == nil {
		return nil, errCapturesOff
	}
	state, err := a.captures.Stop(ctx, request)
	return state, captureStatus(err)
}

// SealCapture implements the service.
func (a *agent) SealCapture(ctx context.Context, request *v1alpha1.SealCaptureRequest) (*v1alpha1.CaptureState, error) {
	if a.captures == nil {
		return nil, errCapturesOff
	}
	state, err := a.captures.Seal(ctx, request)
	return state, captureStatus(err)
}

// StoreCapture implements the service.
func (a *agent) StoreCapture(ctx context.Context, request *v1alpha1.StoreCaptureRequest) (*v1alpha1.CaptureState, error) {
	if a.captures == nil {
		return nil, errCapturesOff
	}
	state, err := a.captures.Store(ctx, request)
	return state, captureStatus(err)
}

// DeleteCapture implements the service. An agent without captures has none to delete.
func (a *agent) DeleteCapture(ctx context.Context, request *v1alpha1.DeleteCaptureRequest) (*v1alpha1.DeleteCaptureResponse, error) {
	if a.captures == nil {
		return &v1alpha1.DeleteCaptureResponse{}, nil
	}
	if err := a.captures.Delete(ctx, request); err != nil {
		return nil, captureStatus(err)
	}
	return &v1alpha1.DeleteCaptureResponse{}, nil
}

// ListCaptures implements the service.
func (a *agent) ListCaptures(request *v1alpha1.ListCapturesRequest, stream grpc.ServerStreamingServer[v1alpha1.CaptureState]) error {
	if a.captures == nil {
		return nil
	}
	return captureStatus(a.captures.List(request, stream.Send))
}

// DescribeCapture implements the service.
func (a *agent) DescribeCapture(request *v1alpha1.DescribeCaptureRequest, stream grpc.ServerStreamingServer[v1alpha1.DescribeCaptureResponse]) error {
	if a.captures == nil {
		return errCapturesOff
	}
	return captureStatus(a.captures.Describe(stream.Context(), request, stream.Send))
}

// ReadCapture implements the service. A message is encoded before Send returns, so its memory may be used again.
func (a *agent) ReadCapture(request *v1alpha1.ReadCaptureRequest, stream grpc.ServerStreamingServer[v1alpha1.ReadCaptureResponse]) error {
	if a.captures == nil {
		return errCapturesOff
	}
	return captureStatus(a.captures.Read(stream.Context(), request, stream.Send))
}

// captureStatus makes what went wrong fit for the wire.
func captureStatus(err error) error {
	if _, isStatus := status.FromError(err); err == nil || isStatus {
		return err
	}
	for _, known := range []struct {
		err  error
		code codes.Code
	}{
		{capture.ErrInvalid, codes.InvalidArgument}, {capture.ErrNotFound, codes.NotFound},
		{capture.ErrPrecondition, codes.FailedPrecondition}, {capture.ErrExhausted, codes.ResourceExhausted},
		{capture.ErrLost, codes.DataLoss}, {capture.ErrEnding, codes.Unavailable},
		{context.Canceled, codes.Canceled}, {context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, known.err) {
			return status.Error(known.code, cutMessage(err))
		}
	}
	return status.Error(codes.Internal, cutMessage(err))
}

// cutMessage keeps an error within the limit of the wire.
func cutMessage(err error) string {
	text := err.Error()
	return text[:min(len(text), 1<<10)]
}
