package agents

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/networkobservability/networkobservability/apis/agent/pcapng"
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

type packetsFunc func(*agentv1.ReadCaptureRequest, grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error

// packetAnswers are the agents' answers to ReadCapture, by *fakeAgent.
var packetAnswers sync.Map

func (a *fakeAgent) ReadCapture(r *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
	answer, ok := packetAnswers.Load(a)
	if !ok {
		return status.Error(codes.NotFound, "no such capture")
	}
	return answer.(packetsFunc)(r, s)
}

func (a *fakeAgent) packetsNow(t *testing.T, answer packetsFunc) {
	packetAnswers.Store(a, answer)
	t.Cleanup(func() { packetAnswers.Delete(a) })
}

func streamsOf(t *testing.T, w *world, fleet *Fleet) *CaptureStreams {
	t.Helper()
	streams, err := NewCaptureStreams(fleet, w.registry.Register)
	if err != nil {
		t.Fatal(err)
	}
	return streams
}

func endOf(uid string) *agentv1.CaptureState {
	return &agentv1.CaptureState{Uid: uid, Phase: agentv1.CaptureState_PHASE_ENDED}
}

// TestReadCapture reads the largest batch that there is: 256 KiB and one packet.
func TestReadCapture(t *testing.T) {
	w := newWorld(t)
	block := pcapng.AppendPacket(nil, 0, 1, make([]byte, 1000), 1000, pcapng.Inbound)
	blocks := bytes.Repeat(block, agentv1.MaxBatchBytes/len(block))
	blocks = pcapng.AppendPacket(blocks, 0, 1, make([]byte, 262_144), 262_144, pcapng.Inbound)
	w.agent("n1").packetsNow(t, func(r *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
		if r.FromUnixNano != 7 || r.Pod != "web" {
			return status.Error(codes.InvalidArgument, "not what was asked")
		}
		part := &agentv1.CapturePart{Interface: "eth\x1b0"}
		return errors.Join(
			s.Send(&agentv1.ReadCaptureResponse{Parts: []*agentv1.CapturePart{part}, SkippedBytes: 12}),
			s.Send(&agentv1.ReadCaptureResponse{Blocks: blocks}),
			s.Send(&agentv1.ReadCaptureResponse{End: endOf(r.Uid)}))
	})
	var got []*agentv1.ReadCaptureResponse
	err := streamsOf(t, w, w.fleet()).ReadCapture(t.Context(), "n1", &agentv1.ReadCaptureRequest{Uid: "u", Pod: "web", FromUnixNano: 7}, 2,
		func(batch *agentv1.ReadCaptureResponse) error {
			got = append(got, batch)
			return nil
		})
	if err != nil || len(got) != 3 {
		t.Fatalf("%d batches: %v", len(got), err)
	}
	if got[0].Parts[0].Interface != "eth 0" || got[0].SkippedBytes != 12 || !bytes.Equal(got[1].Blocks, blocks) || got[2].End == nil {
		t.Errorf("%v, %d bytes, %v", got[0], len(got[1].Blocks), got[2])
	}
	if bytes := w.metric("networkobservability_apiserver_agent_capture_bytes_total", nil); bytes != float64(len(blocks)) {
		t.Errorf("%v bytes are counted", bytes)
	}
}

func TestReadCaptureFails(t *testing.T) {
	own := errors.New("enough")
	for _, test := range []struct {
		name   string
		node   string
		answer packetsFunc
		is     error
		says   string
	}{
		{"no agent", "n2", nil, ErrNoAgent, "n2: no agent runs on this node"},
		{"no capture", "n1", nil, ErrNotFound, "n1: "},
		{"overtaken", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return status.Error(codes.DataLoss, "gone")
		}, ErrOvertaken, "n1: "},
		{"too many", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return status.Error(codes.ResourceExhausted, "32 reads\x1b are under way")
		}, nil, "32 reads  are under way"},
		{"early end", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return s.Send(&agentv1.ReadCaptureResponse{})
		}, nil, "ended before the capture"},
		{"late batch", "n1", func(r *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return errors.Join(s.Send(&agentv1.ReadCaptureResponse{End: endOf(r.Uid)}), s.Send(&agentv1.ReadCaptureResponse{}))
		}, nil, "behind the last one"},
		{"another capture", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return s.Send(&agentv1.ReadCaptureResponse{End: endOf("other")})
		}, nil, "another capture"},
		{"vast batch", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return s.Send(&agentv1.ReadCaptureResponse{Blocks: make([]byte, agentv1.MaxCaptureStateBytes)})
		}, nil, "not valid"},
		{"enough", "n1", func(_ *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
			return errors.Join(s.Send(&agentv1.ReadCaptureResponse{SkippedBytes: 99}), s.Send(&agentv1.ReadCaptureResponse{}))
		}, own, "enough"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			agent := w.agent("n1")
			if test.answer != nil {
				agent.packetsNow(t, test.answer)
			}
			err := streamsOf(t, w, w.fleet()).ReadCapture(t.Context(), test.node, &agentv1.ReadCaptureRequest{Uid: "u", Follow: true}, 1,
				func(batch *agentv1.ReadCaptureResponse) error {
					if batch.SkippedBytes == 99 {
						return own
					}
					return nil
				})
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("failed with %v, want %q", err, test.says)
			}
		})
	}
}

// TestStalledReaders wants telemetry to go on beside readers of packets that do not read, more of them than an agent takes
// in all; no more than a little to be sent to them; and the agent to hear of it when they go.
func TestStalledReaders(t *testing.T) {
	const readers, batch, enough = 40, 64 << 10, 1 << 20
	w := newWorld(t)
	agent := w.agent("n1")
	var sent [readers]atomic.Int64
	var next, gone atomic.Int64
	agent.packetsNow(t, func(r *agentv1.ReadCaptureRequest, s grpc.ServerStreamingServer[agentv1.ReadCaptureResponse]) error {
		mine := &sent[next.Add(1)-1]
		defer gone.Add(1)
		for {
			if err := s.Send(&agentv1.ReadCaptureResponse{Blocks: make([]byte, batch)}); err != nil {
				return err
			}
			mine.Add(batch)
		}
	})
	fleet := w.fleet()
	streams := streamsOf(t, w, fleet)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reading sync.WaitGroup
	var stalled atomic.Int64
	for range readers {
		reading.Go(func() {
			err := streams.ReadCapture(ctx, "n1", &agentv1.ReadCaptureRequest{Uid: "u", Follow: true}, 1, func(*agentv1.ReadCaptureResponse) error {
				stalled.Add(1)
				<-ctx.Done()
				return ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	eventually(t, time.Minute, "all readers stall", func() bool { return stalled.Load() == readers })
	replies, err := fleet.Read(t.Context(), map[string]Query{"n1": {PodKeys: keysOf("n1", 500), Node: true}})
	if err != nil || replies["n1"].Err != nil || len(replies["n1"].Pods) != 500 {
		t.Errorf("reading counters beside them: %v, %v", err, replies["n1"].Err)
	}
	cancel()
	eventually(t, time.Minute, "the agent hears that they are gone", func() bool { return gone.Load() == readers })
	reading.Wait()
	for i := range sent {
		if bytes := sent[i].Load(); bytes > enough {
			t.Errorf("the agent sent %d bytes to a reader that does not read, want %d at most", bytes, enough)
		}
	}
}
