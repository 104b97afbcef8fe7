package agents

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

type telemetryServer = grpc.BidiStreamingServer[agentv1.TelemetryUpdate, agentv1.TelemetryReport]

// telemetryAnswers are the agents' ends of ConfigureTelemetry, by *fakeAgent.
var telemetryAnswers sync.Map

func (a *fakeAgent) ConfigureTelemetry(s telemetryServer) error {
	answer, ok := telemetryAnswers.Load(a)
	if !ok {
		return status.Error(codes.Unimplemented, "unknown method ConfigureTelemetry")
	}
	return answer.(func(telemetryServer) error)(s)
}

func (a *fakeAgent) telemetryNow(t *testing.T, answer func(telemetryServer) error) {
	telemetryAnswers.Store(a, answer)
	t.Cleanup(func() { telemetryAnswers.Delete(a) })
}

// obedient reports every configuration as in force.
func obedient(s telemetryServer) error {
	for {
		update, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&agentv1.TelemetryReport{Revision: update.Config.GetRevision(), Refused: "a\x1b[31mb"}); err != nil {
			return err
		}
	}
}

func telemetryOf(t *testing.T, w *world, change ...func(*Config)) *Telemetry {
	t.Helper()
	telemetry, err := NewTelemetry(w.fleet(change...), w.registry.Register)
	if err != nil {
		t.Fatal(err)
	}
	return telemetry
}

func configure(t *testing.T, telemetry *Telemetry, node string) *TelemetryStream {
	t.Helper()
	stream, err := telemetry.Configure(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stream.Close)
	return stream
}

func TestConfigureTelemetry(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").telemetryNow(t, obedient)
	telemetry := telemetryOf(t, w)
	stream := configure(t, telemetry, "n1")
	for revision := range int64(3) {
		if err := stream.Send(&agentv1.TelemetryUpdate{Config: &agentv1.TelemetryConfig{Revision: revision}}); err != nil {
			t.Fatal(err)
		}
		if report, err := stream.Recv(); err != nil || report.Revision != revision || report.Refused != "a [31mb" {
			t.Fatalf("got %v, %v", report, err)
		}
	}
	// The connection is that of reads, and a stream that is closed leaves it.
	if replies, err := telemetry.fleet.Read(t.Context(), map[string]Query{"n1": {Node: true}}); err != nil || replies["n1"].Err != nil {
		t.Errorf("read %v, %v", replies, err)
	}
	stream.Close()
	if _, err := stream.Recv(); err == nil {
		t.Error("a stream that is closed goes on")
	}
	if err := stream.Send(&agentv1.TelemetryUpdate{}); err == nil {
		t.Error("a stream that is closed takes updates")
	}
	if got := w.metric("networkobservability_apiserver_agent_telemetry_streams_total", map[string]string{"result": "canceled"}); got != 1 {
		t.Errorf("%v streams were counted", got)
	}
	if nodes := telemetry.Nodes(); len(nodes) != 1 || nodes[0] != "n1" {
		t.Errorf("the nodes are %v", nodes)
	}
	if _, err := telemetry.Configure(t.Context(), "n2"); !errors.Is(err, ErrNoAgent) || err.Error() != "n2: no agent runs on this node" {
		t.Errorf("a node without an agent: %v", err)
	}
}

// TestTelemetryRefused: the reason is told, and the breaker stays closed.
func TestTelemetryRefused(t *testing.T) {
	refuse := func(code codes.Code, text string) func(telemetryServer) error {
		return func(telemetryServer) error { return status.Error(code, text) }
	}
	wanted := func(many int, address []byte) func(telemetryServer) error {
		return func(s telemetryServer) error {
			report := &agentv1.TelemetryReport{}
			for range many {
				report.WantedAddresses = append(report.WantedAddresses, address)
			}
			return s.Send(report)
		}
	}
	for name, test := range map[string]struct {
		answer func(telemetryServer) error
		is     error
		says   string
	}{
		"replaced": {refuse(codes.Aborted, "another"), ErrReplaced, "n1: another stream has begun"},
		"too much": {refuse(codes.InvalidArgument, "2\n1"), ErrInvalid, "n1: the agent does not accept the request: 2 1"},
		"refused":  {refuse(codes.Internal, "no"), nil, "refused: Internal: no"},
		"ended":    {func(telemetryServer) error { return nil }, nil, "the agent ended the stream"},
		"greedy":   {wanted(agentv1.MaxWantedAddresses+1, make([]byte, 4)), nil, "more addresses than may be asked for"},
		"nonsense": {wanted(1, make([]byte, 5)), nil, "an address that is none"},
		"too much is lacking": {func(s telemetryServer) error {
			return s.Send(&agentv1.TelemetryReport{Lacking: make([]*agentv1.TelemetryLack, agentv1.MaxTelemetryLacks+1)})
		}, nil, "more that is lacking than may be said"},
		"negative": {func(s telemetryServer) error { return s.Send(&agentv1.TelemetryReport{Folded: -1}) }, nil, "a negative or impossible count"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.agent("n1").telemetryNow(t, test.answer)
			telemetry := telemetryOf(t, w)
			for range failuresToOpen + 1 {
				_, err := configure(t, telemetry, "n1").Recv()
				if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !errors.Is(err, test.is) {
					t.Fatalf("got %v", err)
				}
			}
			if replies, err := telemetry.fleet.Read(t.Context(), map[string]Query{"n1": {Node: true}}); err != nil || replies["n1"].Err != nil {
				t.Errorf("read %v, %v", replies, err)
			}
		})
	}
}

// TestTelemetryUnknown: an agent that is too old says its version.
func TestTelemetryUnknown(t *testing.T) {
	w := newWorld(t)
	a := w.agent("n1")
	a.now(func(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
		return s.Send(&agentv1.ReadStatsResponse{Node: &agentv1.NodeStats{Agent: &agentv1.AgentInfo{Version: "v0.4.0"}}})
	})
	telemetry := telemetryOf(t, w)
	if _, err := configure(t, telemetry, "n1").Recv(); !errors.Is(err, ErrTelemetryUnknown) || err.Error() != "n1: the agent does not know telemetry, version v0.4.0" {
		t.Errorf("got %v", err)
	}
	a.now(silent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if stream, err := telemetry.Configure(ctx, "n1"); err == nil {
		defer stream.Close()
		if _, err := stream.Recv(); err == nil {
			t.Error("a caller that is gone is answered")
		}
	}
}

// TestTelemetrySilence: a stream ends when the agent says nothing.
func TestTelemetrySilence(t *testing.T) {
	w := newWorld(t)
	ended := make(chan struct{}, 1)
	w.agent("n1").telemetryNow(t, func(s telemetryServer) error {
		<-s.Context().Done()
		ended <- struct{}{}
		return s.Context().Err()
	})
	telemetry := telemetryOf(t, w, quick)
	telemetry.pause = time.Millisecond
	stream := configure(t, telemetry, "n1")
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("a silent agent: %v", err)
	}
	<-ended
}

// TestTelemetryMoves: a stream ends when the fleet gives its connection up, and another one goes to the new place.
func TestTelemetryMoves(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").telemetryNow(t, obedient)
	telemetry := telemetryOf(t, w)
	stream := configure(t, telemetry, "n1")
	received := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		received <- err
	}()
	next := w.start("n1", w.serving.issue(t, agentv1.SubjectPrefix+"n1", x509.ExtKeyUsageServerAuth, agentv1.DNSName("n1")), "127.0.0.1:0")
	next.telemetryNow(t, obedient)
	w.republish("n1", next.address, "next")
	if err := <-received; err == nil {
		t.Error("the stream goes on")
	}
	stream = configure(t, telemetry, "n1")
	if err := stream.Send(&agentv1.TelemetryUpdate{Config: &agentv1.TelemetryConfig{Revision: 7}}); err != nil {
		t.Fatal(err)
	}
	if report, err := stream.Recv(); err != nil || report.Revision != 7 {
		t.Errorf("got %v, %v", report, err)
	}
}
