package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// methods are of the services that opentelemetry/proto/collector declares.
var methods = [signals]string{
	Metrics:  "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	FlowLogs: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

// grpcExporter speaks OTLP/gRPC.
type grpcExporter struct {
	*collector
	connection *grpc.ClientConn
	outgoing   metadata.MD
	options    []grpc.CallOption
}

// newGRPC does not connect yet.
func newGRPC(c *collector) (Exporter, error) {
	if c.endpoint.Path != "" && c.endpoint.Path != "/" {
		return nil, errInvalid("otlp.endpoint", errors.New("over gRPC it must not have a path"))
	}
	transport := insecure.NewCredentials()
	if c.tls != nil {
		transport = credentials.NewTLS(c.tls)
	}
	// The queue's worker tries again, and counts; gRPC only keeps the connection.
	pauses := backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second}
	connection, err := grpc.NewClient("dns:///"+c.endpoint.Host,
		grpc.WithTransportCredentials(transport),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: c.timeout}),
		// Pings are as rare as servers want them by default; with them what is sent has to be acknowledged in time.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: deadAfter}),
		grpc.WithUserAgent(c.agent), grpc.WithMaxHeaderListSize(answerBytes))
	if err != nil {
		return nil, errInvalid("otlp.endpoint", c.failure("%v", err))
	}
	e := &grpcExporter{collector: c, connection: connection, outgoing: metadata.MD{}}
	e.options = []grpc.CallOption{grpc.ForceCodecV2(encoded{}), grpc.MaxCallRecvMsgSize(answerBytes)}
	if c.gzip {
		e.options = append(e.options, grpc.UseCompressor(gzip.Name))
	}
	for name, values := range c.headers {
		e.outgoing.Set(name, values...)
	}
	return e, nil
}

// Send implements Exporter.
func (e *grpcExporter) Send(ctx context.Context, batch Batch) (int64, error) {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, e.outgoing), e.timeout)
	defer cancel()
	var answer []byte
	if err := e.connection.Invoke(ctx, methods[batch.Signal], batch.Payload, &answer, e.options...); err != nil {
		answer := status.Convert(err)
		if answer.Code() != codes.Unavailable && answer.Code() != codes.DeadlineExceeded {
			e.answered.Store(true)
		}
		return 0, e.classify(answer)
	}
	e.answered.Store(true)
	rejected, _, err := rejectedOf(answer)
	if err != nil {
		return 0, nil // it was taken; what was said beside that cannot be read
	}
	return rejected, nil
}

// Close implements Exporter.
func (e *grpcExporter) Close() error { return e.connection.Close() }

// classify sorts by the table of the OTLP specification (Failures of OTLP/gRPC).
func (e *grpcExporter) classify(answer *status.Status) error {
	err := e.failure("%s%s", describe(answer.Code()), e.said(answer.Message()))
	if answer.Code() == codes.Unavailable {
		err = e.unavailable(answer.Message())
	}
	after, asked := retryInfo(answer)
	switch answer.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return &Retry{Err: err, After: after}
	case codes.ResourceExhausted:
		if asked {
			return &Retry{Err: err, After: after}
		}
		return &Refused{Err: err, Reason: reasonTooLarge}
	case codes.Unauthenticated, codes.PermissionDenied:
		return &Refused{Err: err, Reason: reasonUnauthorized}
	}
	return &Refused{Err: err}
}

const (
	// noAddress is what gRPC says of a name that does not exist.
	noAddress = "name resolver error: produced zero addresses"
	// notConnected comes before what gRPC says of a connection that could not be made, in quotes.
	notConnected = "connection error: desc = "
)

// unavailable tells our own side, which says why there is no connection, from a collector that says that it is unavailable.
func (e *grpcExporter) unavailable(message string) error {
	quoted, failed := strings.CutPrefix(strings.TrimPrefix(message, "last connection error: "), notConnected)
	if why, err := strconv.Unquote(quoted); failed && err == nil {
		for _, layer := range []string{"transport: ", "Error while dialing: ", "authentication handshake failed: "} {
			why = strings.TrimPrefix(why, layer)
		}
		return e.failure("the collector cannot be reached%s: %s", e.unanswered(), why)
	}
	switch {
	case message == noAddress:
		return e.failure("the collector cannot be reached: DNS has no address for %s", e.endpoint.Hostname())
	case slices.ContainsFunc([]string{"connection error: ", "name resolver error: ", "last connection error: ", "no children to pick from", "produced zero addresses"},
		func(ours string) bool { return strings.HasPrefix(message, ours) }):
		return e.failure("the collector cannot be reached%s: %s", e.unanswered(), message)
	}
	return e.failure("the collector cannot be reached, or is overloaded (Unavailable)%s%s", e.unanswered(), e.said(message))
}

func describe(code codes.Code) string {
	switch code {
	case codes.DeadlineExceeded:
		return "the collector did not answer within otlp.timeoutSeconds"
	case codes.Unimplemented:
		return "the collector does not take this signal over gRPC (Unimplemented)"
	case codes.Unauthenticated:
		return "the collector wants other headers (Unauthenticated)"
	case codes.PermissionDenied:
		return "the collector does not allow it (PermissionDenied)"
	case codes.ResourceExhausted:
		return "the collector has no room, or takes smaller requests only (ResourceExhausted)"
	}
	return fmt.Sprintf("the collector answered %v", code)
}

// retryInfo is how long the collector asks to wait.
func retryInfo(answer *status.Status) (after time.Duration, ok bool) {
	for _, detail := range answer.Details() {
		if info, is := detail.(*errdetails.RetryInfo); is {
			return max(info.GetRetryDelay().AsDuration(), 0), true
		}
	}
	return 0, false
}

// encoded is a codec of messages that are encoded already.
type encoded struct{}

var _ encoding.CodecV2 = encoded{}

// Name is the content type's part behind application/grpc+.
func (encoded) Name() string { return "proto" }

func (encoded) Marshal(v any) (mem.BufferSlice, error) {
	payload, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not encoded", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(payload)}, nil
}

func (encoded) Unmarshal(data mem.BufferSlice, v any) error {
	answer, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("an answer does not fit into a %T", v)
	}
	*answer = data.Materialize()
	return nil
}
