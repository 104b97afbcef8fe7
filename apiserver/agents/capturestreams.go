package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// ErrOvertaken is wrapped when a ring of files let packets go that a follower had not read.
var ErrOvertaken = errors.New("the ring of files has overtaken the reader")

const (
	// captureWindow is how much an agent can send ahead of our reading of a capture. gRPC takes nothing smaller. Each quarter
	// of it is told to the agent, which is a system call or more at both ends: readers of few nodes have wideWindow, and read
	// wideAhead from the system at a time.
	captureWindow = 64 << 10
	wideWindow    = 512 << 10
	wideAhead     = 128 << 10
	// captureReadBuffer: packets are many small records where telemetry is few large ones.
	captureReadBuffer = 32 << 10
	// capturePause is the longest time between two batches of packets, without what is on the way.
	capturePause = 10 * time.Second
)

// CaptureStreams reads packets of captures from a Fleet's agents. Its methods are safe for concurrent use.
//
// Each read has a connection of its own. Packets are many and readers slow: on the connection that telemetry uses, they
// would fill the agent's few streams and stand before rows in its queue, and a read of rows that takes too long would
// end them with the connection.
type CaptureStreams struct {
	fleet *Fleet
	reads *metrics.CounterVec
	bytes *metrics.Counter
}

// NewCaptureStreams makes a reader of a fleet's captures. register takes its metrics; nil means legacyregistry.Register.
func NewCaptureStreams(fleet *Fleet, register func(metrics.Registerable) error) (*CaptureStreams, error) {
	if register == nil {
		register = legacyregistry.Register
	}
	const namespace, subsystem = "networkobservability", "apiserver"
	s := &CaptureStreams{
		fleet: fleet,
		reads: metrics.NewCounterVec(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_capture_reads_total", StabilityLevel: metrics.ALPHA,
			Help: "Reads of packets of captures from node agents that ended, by result.",
		}, []string{"result"}),
		bytes: metrics.NewCounter(&metrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "agent_capture_bytes_total", StabilityLevel: metrics.ALPHA,
			Help: "Bytes of packets of captures that node agents sent.",
		}),
	}
	for _, metric := range []metrics.Registerable{s.reads, s.bytes} {
		if err := register(metric); err != nil {
			return nil, fmt.Errorf("registering metrics of captures: %w", err)
		}
	}
	return s, nil
}

// ReadCapture asks the agent of a node for packets and hands over what it answers, batch by batch. batches, at least 1, says for
// how many of them there is memory: that of a batch is used again so many batches later, when take has returned from the one
// before that. The agent sends no more than a window (64 KiB, and 640 KiB of memory when batches is more than 1) and a batch
// ahead of take. It returns nil when the agent ended the answer as it should, the error
// of take when that fails, and otherwise an error that begins with the node's name and wraps ErrNoAgent, ErrNotFound,
// ErrInvalid or ErrOvertaken where that is the reason. An agent that says nothing for 10 s and NodeTimeout fails, a
// follower's too; how long take needs does not matter. When ReadCapture returns, its connection is closed.
func (s *CaptureStreams) ReadCapture(ctx context.Context, node string, request *agentv1.ReadCaptureRequest, batches int, take func(*agentv1.ReadCaptureResponse) error) error {
	if err := s.fleet.awaitSync(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.fleet.alive, func() { cancel(errStopped) })()
	conn, at, err := s.dial(node, batches)
	if err != nil {
		return err
	}
	defer conn.giveUp()

	var notTaken error
	err = s.exchange(ctx, cancel, conn, request, func(batch *agentv1.ReadCaptureResponse) error {
		notTaken = take(batch)
		return notTaken
	})
	if notTaken != nil {
		s.reads.WithLabelValues(string(resultCanceled)).Inc()
		return notTaken
	}
	out := judge(ctx, node, at, Reply{}, err)
	s.reads.WithLabelValues(string(out.result)).Inc()
	switch {
	case status.Code(err) == codes.DataLoss:
		return fmt.Errorf("%s: %w", node, ErrOvertaken)
	case out.result == resultRefused:
		return refusal(node, at, err)
	}
	return out.err
}

// dial connects to the agent of a node, unless it is known not to answer.
func (s *CaptureStreams) dial(node string, batches int) (conn *connection, at string, err error) {
	places, err := s.places(node)
	if err != nil {
		return nil, "", err
	}
	window, ahead := int32(captureWindow), 0
	if batches > 1 {
		window, ahead = wideWindow, wideAhead
	}
	conn, err = dial(node, places, s.fleet.source,
		grpc.WithTransportCredentials(&handshaker{node: node, source: s.fleet.source, ahead: ahead}),
		grpc.WithReadBufferSize(captureReadBuffer),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(agentv1.MaxCaptureStateBytes), grpc.MaxCallSendMsgSize(agentv1.MaxRequestBytes),
			grpc.ForceCodecV2(newBatchCodec(batches))))
	if err != nil {
		return nil, "", err
	}
	return conn, places[0].address.String(), nil
}

func (s *CaptureStreams) places(node string) ([]place, error) {
	s.fleet.mu.Lock()
	defer s.fleet.mu.Unlock()
	a := s.fleet.agents[node]
	if a == nil || len(a.places) == 0 {
		return nil, noAgent(node)
	}
	return a.places, a.breaker.refusal()
}

// exchange makes one call. The time limit is on each wait for the agent: not on how long a batch takes to be used.
func (s *CaptureStreams) exchange(ctx context.Context, cancel context.CancelCauseFunc, conn *connection, request *agentv1.ReadCaptureRequest, take func(*agentv1.ReadCaptureResponse) error) error {
	timer := time.AfterFunc(s.fleet.nodeTimeout, func() { cancel(errTimeout) })
	defer timer.Stop()
	stream, err := conn.ReadCapture(ctx, request)
	if err != nil {
		return err
	}
	ended := false
	for {
		timer.Reset(capturePause + s.fleet.nodeTimeout)
		batch, err := stream.Recv()
		timer.Stop()
		switch {
		case errors.Is(err, io.EOF) && request.Follow && !ended:
			return violation("a follower's stream ended before the capture")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ended:
			return violation("a batch behind the last one")
		}
		if err := checkPackets(batch, request.Uid); err != nil {
			return err
		}
		s.bytes.Add(float64(len(batch.Blocks)))
		ended = batch.End != nil
		if err := take(batch); err != nil {
			return err
		}
	}
}

// checkPackets makes what comes with packets fit to be shown. The packets are checked where they are used.
func checkPackets(batch *agentv1.ReadCaptureResponse, uid string) error {
	if len(batch.Parts) > maxParts {
		return violation("too many parts")
	}
	if outside(batch.SkippedBytes) {
		return violation("a negative or impossible size")
	}
	for _, part := range batch.Parts {
		if err := checkPart(part); err != nil {
			return err
		}
	}
	if batch.End == nil {
		return nil
	}
	if batch.End.Uid != uid {
		return violation("the end of another capture")
	}
	return checkState(batch.End)
}
