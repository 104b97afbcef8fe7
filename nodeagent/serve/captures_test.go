package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture"
)

// keeper answers every call with its error, and reads with batches that it makes in the same memory.
type keeper struct {
	CaptureKeeper
	err error
}

func (k keeper) Ensure(context.Context, *v1alpha1.EnsureCaptureRequest) (*v1alpha1.CaptureState, error) {
	return &v1alpha1.CaptureState{Uid: "u"}, k.err
}

func (k keeper) Read(_ context.Context, _ *v1alpha1.ReadCaptureRequest, send func(*v1alpha1.ReadCaptureResponse) error) error {
	memory := make([]byte, 1000)
	for i := range 200 {
		for n := range memory {
			memory[n] = byte(i)
		}
		if err := send(&v1alpha1.ReadCaptureResponse{Blocks: memory}); err != nil {
			return err
		}
	}
	return k.err
}

// capturesOf dials a server of captures, which may be nil.
func capturesOf(t *testing.T, captures CaptureKeeper) v1alpha1.AgentClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(Config{Captures: captures, Transport: insecure.NewCredentials()})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-ended
	})
	return v1alpha1.NewAgentClient(conn)
}

func TestErrorsOfCaptures(t *testing.T) {
	for _, test := range []struct {
		err  error
		code codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("%w: uid", capture.ErrInvalid), codes.InvalidArgument},
		{capture.ErrNotFound, codes.NotFound},
		{fmt.Errorf("%w: it runs", capture.ErrPrecondition), codes.FailedPrecondition},
		{capture.ErrExhausted, codes.ResourceExhausted},
		{capture.ErrLost, codes.DataLoss},
		{capture.ErrEnding, codes.Unavailable},
		{context.Canceled, codes.Canceled},
		{errors.New("else"), codes.Internal},
	} {
		client := capturesOf(t, keeper{err: test.err})
		state, err := client.EnsureCapture(context.Background(), &v1alpha1.EnsureCaptureRequest{})
		if status.Code(err) != test.code || err == nil && state.Uid != "u" {
			t.Errorf("%v: %v", test.err, err)
		}
	}
}

func TestCapturesSwitchedOff(t *testing.T) {
	client := capturesOf(t, nil)
	if _, err := client.EnsureCapture(context.Background(), &v1alpha1.EnsureCaptureRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("ensuring: %v", err)
	}
	if _, err := client.DeleteCapture(context.Background(), &v1alpha1.DeleteCaptureRequest{}); err != nil {
		t.Errorf("deleting: %v", err)
	}
	list, err := client.ListCaptures(context.Background(), &v1alpha1.ListCapturesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("listing: %v", err)
	}
}

// What a reader sends is its own again as soon as it was sent.
func TestMemoryIsUsedAgain(t *testing.T) {
	stream, err := capturesOf(t, keeper{}).ReadCapture(context.Background(), &v1alpha1.ReadCaptureRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		batch, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batch.Blocks {
			if b != byte(i) {
				t.Fatalf("batch %d holds what is of batch %d", i, b)
			}
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
}
