package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// history is a FlowReader that answers with one batch and then err; followers are held until they leave.
type history struct {
	err       error
	following atomic.Int32
}

func (h *history) Read(ctx context.Context, request *v1alpha1.ReadFlowsRequest, send func(*v1alpha1.ReadFlowsResponse) error) error {
	if err := send(&v1alpha1.ReadFlowsResponse{Instance: 5, Flows: []*v1alpha1.Flow{{PodKey: request.PodKeys[0]}}}); err != nil {
		return err
	}
	if request.Follow && h.err == nil {
		h.following.Add(1)
		defer h.following.Add(-1)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return h.err
}

func askFlows(t *testing.T, client v1alpha1.AgentClient, request *v1alpha1.ReadFlowsRequest) (flows int, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.ReadFlows(ctx, request)
	if err != nil {
		return 0, err
	}
	for {
		batch, err := stream.Recv()
		if err == io.EOF {
			return flows, nil
		}
		if err != nil {
			return flows, err
		}
		flows += len(batch.Flows)
	}
}

func TestFlowsSwitchedOff(t *testing.T) {
	client := newSetup(t, &rows{}).asAPIServer()
	if _, err := askFlows(t, client, &v1alpha1.ReadFlowsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v, want FailedPrecondition", err)
	}
}

func TestFlowRequests(t *testing.T) {
	client := newSetupWithFlows(t, &rows{}, &history{}).asAPIServer()
	peers := func(n, size int) [][]byte {
		all := make([][]byte, n)
		for i := range all {
			all[i] = make([]byte, size)
		}
		return all
	}
	for _, test := range []struct {
		name    string
		request *v1alpha1.ReadFlowsRequest
		problem string // empty when it is answered
	}{
		{"as large as allowed", &v1alpha1.ReadFlowsRequest{
			PodKeys: keys(v1alpha1.MaxPodKeys), Peers: peers(v1alpha1.MaxPeers, 16), Ports: make([]int32, maxPorts), Protocols: []int32{0, 255},
			Verdicts: []v1alpha1.Verdict{1, 2, 3}, Direction: 2, Limit: 1, AfterPosition: 1, SinceUnixNano: 1, UntilUnixNano: 1, Instance: -1,
		}, ""},
		{"more keys", &v1alpha1.ReadFlowsRequest{PodKeys: keys(v1alpha1.MaxPodKeys + 1)}, "pod_keys has 2001 keys"},
		{"an empty key", &v1alpha1.ReadFlowsRequest{PodKeys: []string{""}}, "pod_keys[0] has 0 bytes"},
		{"a long key", &v1alpha1.ReadFlowsRequest{PodKeys: []string{strings.Repeat("k", 254)}}, "pod_keys[0] has 254 bytes"},
		{"more peers", &v1alpha1.ReadFlowsRequest{Peers: peers(v1alpha1.MaxPeers+1, 4)}, "peers has 2001 addresses"},
		{"half a peer", &v1alpha1.ReadFlowsRequest{Peers: [][]byte{make([]byte, 4), make([]byte, 8)}}, "peers[1] has 8 bytes"},
		{"more ports", &v1alpha1.ReadFlowsRequest{Ports: make([]int32, maxPorts+1)}, "ports has 257 numbers"},
		{"a large port", &v1alpha1.ReadFlowsRequest{Ports: []int32{65536}}, "ports[0]: 65536"},
		{"a negative port", &v1alpha1.ReadFlowsRequest{Ports: []int32{-1}}, "ports[0]: -1"},
		{"a large protocol", &v1alpha1.ReadFlowsRequest{Protocols: []int32{6, 256}}, "protocols[1]: 256"},
		{"no verdict", &v1alpha1.ReadFlowsRequest{Verdicts: []v1alpha1.Verdict{0}}, "verdicts[0]: 0"},
		{"an unknown verdict", &v1alpha1.ReadFlowsRequest{Verdicts: []v1alpha1.Verdict{4}}, "verdicts[0]: 4"},
		{"an unknown direction", &v1alpha1.ReadFlowsRequest{Direction: 3}, "direction: 3"},
		{"a negative limit", &v1alpha1.ReadFlowsRequest{Limit: -1}, "limit is negative"},
		{"a negative position", &v1alpha1.ReadFlowsRequest{AfterPosition: -1}, "after_position is negative"},
		{"a negative time", &v1alpha1.ReadFlowsRequest{SinceUnixNano: -1}, "since_unix_nano is negative"},
		{"a revision without following", &v1alpha1.ReadFlowsRequest{AfterRevision: 1}, "after_revision"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.request.PodKeys == nil {
				test.request.PodKeys = keys(1)
			}
			flows, err := askFlows(t, client, test.request)
			if test.problem == "" {
				if err != nil || flows != 1 {
					t.Errorf("%d flows, %v", flows, err)
				}
				return
			}
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%v, want %q", err, test.problem)
			}
		})
	}
}

func TestFlowErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("reading: %w", flows.ErrOutOfRange), codes.OutOfRange},
		{flows.ErrEnding, codes.Unavailable},
		{errors.New("the maps could not be opened"), codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{status.Error(codes.Aborted, "sending"), codes.Aborted},
	} {
		client := newSetupWithFlows(t, &rows{}, &history{err: test.err}).asAPIServer()
		if n, err := askFlows(t, client, &v1alpha1.ReadFlowsRequest{PodKeys: keys(1)}); status.Code(err) != test.want || n != 1 {
			t.Errorf("%v became %v, want %v", test.err, err, test.want)
		}
	}
}

// TestFollowers: as many as allowed may follow, beside reads; one more is refused until another leaves.
func TestFollowers(t *testing.T) {
	reader := &history{}
	client := newSetupWithFlows(t, &rows{}, reader).asAPIServer()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range maxFollowers {
		if _, err := client.ReadFlows(ctx, &v1alpha1.ReadFlowsRequest{PodKeys: keys(1), Follow: true}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "as many followers as allowed", func() bool { return reader.following.Load() == maxFollowers })
	_, err := askFlows(t, client, &v1alpha1.ReadFlowsRequest{PodKeys: keys(1), Follow: true})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v, want ResourceExhausted", err)
	}
	if n, err := askFlows(t, client, &v1alpha1.ReadFlowsRequest{PodKeys: keys(1)}); n != 1 || err != nil {
		t.Errorf("a read beside them: %d flows, %v", n, err)
	}
	leave()
	eventually(t, "all have left", func() bool { return reader.following.Load() == 0 })
	eventually(t, "another may follow", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := client.ReadFlows(ctx, &v1alpha1.ReadFlowsRequest{PodKeys: keys(1), Follow: true})
		if err != nil {
			return false
		}
		_, err = stream.Recv()
		return err == nil
	})
}
