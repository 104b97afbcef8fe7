package agents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// capturing is how an agent answers about captures.
type capturing struct {
	ensure   func(*agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error)
	stop     func(context.Context, *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error)
	list     func(*agentv1.ListCapturesRequest, grpc.ServerStreamingServer[agentv1.CaptureState]) error
	describe func(*agentv1.DescribeCaptureRequest, grpc.ServerStreamingServer[agentv1.DescribeCaptureResponse]) error
}

// captureAnswers are the agents' answers about captures, by *fakeAgent.
var captureAnswers sync.Map

func (a *fakeAgent) capturesNow(t *testing.T, answers capturing) {
	captureAnswers.Store(a, answers)
	t.Cleanup(func() { captureAnswers.Delete(a) })
}

func (a *fakeAgent) capturing() capturing {
	answers, _ := captureAnswers.Load(a)
	found, _ := answers.(capturing)
	return found
}

func (a *fakeAgent) EnsureCapture(_ context.Context, r *agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error) {
	return a.capturing().ensure(r)
}

func (a *fakeAgent) StopCapture(ctx context.Context, r *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error) {
	return a.capturing().stop(ctx, r)
}

func (a *fakeAgent) ListCaptures(r *agentv1.ListCapturesRequest, s grpc.ServerStreamingServer[agentv1.CaptureState]) error {
	return a.capturing().list(r, s)
}

func (a *fakeAgent) DescribeCapture(r *agentv1.DescribeCaptureRequest, s grpc.ServerStreamingServer[agentv1.DescribeCaptureResponse]) error {
	return a.capturing().describe(r, s)
}

func capturesOf(t *testing.T, w *world, change ...func(*Config)) *Captures {
	t.Helper()
	captures, err := NewCaptures(w.fleet(change...), w.registry.Register)
	if err != nil {
		t.Fatal(err)
	}
	return captures
}

func stateOf(uid string) *agentv1.CaptureState {
	return &agentv1.CaptureState{Uid: uid, Phase: agentv1.CaptureState_PHASE_RUNNING}
}

func TestEnsureCapture(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").capturesNow(t, capturing{ensure: func(r *agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error) {
		state := stateOf(r.Uid)
		// Larger than any batch of counters.
		for i := range uint32(3000) {
			state.Parts = append(state.Parts, &agentv1.CapturePart{Number: i, Interface: "eth0", Pod: strings.Repeat("p", 200), Message: "a\x1b[31mb"})
		}
		return state, nil
	}})
	captures := capturesOf(t, w)
	state, err := captures.Ensure(t.Context(), "n1", &agentv1.EnsureCaptureRequest{Uid: "u"})
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Parts) != 3000 || state.Parts[0].Message != "a [31mb" || state.Parts[0].Counts == nil {
		t.Errorf("got %d parts, the first %v", len(state.Parts), state.Parts[0])
	}
	if _, err := captures.Ensure(t.Context(), "n2", &agentv1.EnsureCaptureRequest{Uid: "u"}); !errors.Is(err, ErrNoAgent) || !strings.HasPrefix(err.Error(), "n2: ") {
		t.Errorf("a node without an agent: %v", err)
	}
}

// TestRefusedCapture: what an agent refuses has its type, and the agent's text without control characters.
func TestRefusedCapture(t *testing.T) {
	w := newWorld(t)
	var code codes.Code
	w.agent("n1").capturesNow(t, capturing{ensure: func(*agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error) {
		return nil, status.Error(code, "be\x07cause")
	}})
	captures := capturesOf(t, w)
	for _, test := range []struct {
		code codes.Code
		want error
	}{
		{codes.NotFound, ErrNotFound},
		{codes.FailedPrecondition, ErrPrecondition},
		{codes.InvalidArgument, ErrInvalid},
		{codes.Unimplemented, ErrPrecondition},
		{codes.ResourceExhausted, nil},
	} {
		code = test.code
		_, err := captures.Ensure(t.Context(), "n1", &agentv1.EnsureCaptureRequest{Uid: "u"})
		if err == nil || !strings.HasPrefix(err.Error(), "n1: ") || !strings.HasSuffix(err.Error(), "be cause") {
			t.Errorf("%v: %v", code, err)
		}
		for _, kind := range []error{ErrNotFound, ErrPrecondition, ErrInvalid, ErrNoAgent} {
			if errors.Is(err, kind) != (kind == test.want) {
				t.Errorf("%v: %v is %v: %t", code, err, kind, errors.Is(err, kind))
			}
		}
	}
}

// TestImpossibleStates: no answer against the protocol is taken.
func TestImpossibleStates(t *testing.T) {
	for name, change := range map[string]func(*agentv1.CaptureState){
		"another capture":  func(s *agentv1.CaptureState) { s.Uid = "v" },
		"no phase":         func(s *agentv1.CaptureState) { s.Phase = 0 },
		"sealed but runs":  func(s *agentv1.CaptureState) { s.Sealed, s.Digest = true, make([]byte, 32) },
		"negative count":   func(s *agentv1.CaptureState) { s.Parts[0].Counts = &agentv1.CaptureCounts{Packets: -1} },
		"impossible count": func(s *agentv1.CaptureState) { s.Parts[0].Counts = &agentv1.CaptureCounts{Bytes: 1 << 62} },
		"impossible sum": func(s *agentv1.CaptureState) {
			for i := range uint32(9) {
				s.Parts = append(s.Parts, &agentv1.CapturePart{Number: 1 + i, Counts: &agentv1.CaptureCounts{Bytes: maxCount}})
			}
		},
		"vast number":      func(s *agentv1.CaptureState) { s.Parts[0].Number = 1<<32 - 1 },
		"repeated part":    func(s *agentv1.CaptureState) { s.Parts = append(s.Parts, &agentv1.CapturePart{}) },
		"nameless missing": func(s *agentv1.CaptureState) { s.Missing = []*agentv1.CaptureMissing{{}} },
	} {
		state := stateOf("u")
		state.Parts = []*agentv1.CapturePart{{}}
		change(state)
		if err := checkState(state); err == nil && state.Uid == "u" {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestListCaptures(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var asked []int
	w.agent("n1").capturesNow(t, capturing{list: func(r *agentv1.ListCapturesRequest, s grpc.ServerStreamingServer[agentv1.CaptureState]) error {
		mu.Lock()
		asked = append(asked, len(r.Uids))
		mu.Unlock()
		uids := r.Uids
		if len(uids) == 0 {
			uids = []string{"a", "b"}
		}
		for _, uid := range append(uids, "foreign") {
			if err := s.Send(stateOf(uid)); err != nil {
				return err
			}
		}
		return nil
	}})
	captures := capturesOf(t, w)
	uids := make([]string, 1500)
	for i := range uids {
		uids[i] = fmt.Sprintf("u%04d", i)
	}
	got, err := captures.List(t.Context(), "n1", uids)
	if err != nil || len(got) != 1500 || got["foreign"] != nil {
		t.Errorf("got %d, %v", len(got), err)
	}
	all, err := captures.List(t.Context(), "n1", nil)
	if err != nil || len(all) != 3 {
		t.Errorf("got %d of all, %v", len(all), err)
	}
	if none, err := captures.List(t.Context(), "n1", []string{}); err != nil || len(none) != 0 {
		t.Errorf("got %d of none, %v", len(none), err)
	}
	if want := []int{1000, 500, 0}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

func TestDescribeCapture(t *testing.T) {
	w := newWorld(t)
	w.agent("n1").capturesNow(t, capturing{describe: func(r *agentv1.DescribeCaptureRequest, s grpc.ServerStreamingServer[agentv1.DescribeCaptureResponse]) error {
		if err := s.Send(&agentv1.DescribeCaptureResponse{State: stateOf(r.Uid)}); err != nil {
			return err
		}
		return s.Send(&agentv1.DescribeCaptureResponse{Addresses: [][]byte{{192, 0, 2, 1}}})
	}})
	captures := capturesOf(t, w)
	batches := 0
	err := captures.Describe(t.Context(), "n1", "u", func(*agentv1.DescribeCaptureResponse) error { batches++; return nil })
	if err != nil || batches != 2 {
		t.Errorf("took %d, %v", batches, err)
	}
	enough := errors.New("enough")
	if err := captures.Describe(t.Context(), "n1", "u", func(*agentv1.DescribeCaptureResponse) error { return enough }); err != enough {
		t.Errorf("the taker's error is lost: %v", err)
	}
	if checkPackets(&agentv1.ReadCaptureResponse{Parts: []*agentv1.CapturePart{{Number: 1<<32 - 1}}}, "u") == nil {
		t.Error("a part of a vast number is taken")
	}
	if checkDescription(&agentv1.DescribeCaptureResponse{Addresses: [][]byte{{1}}}, "u") == nil {
		t.Error("an address of one byte is taken")
	}
}

// TestVastDescription: what a capture may have is bounded in all batches together.
func TestVastDescription(t *testing.T) {
	name := &agentv1.CaptureName{Address: []byte{192, 0, 2, 1}, Names: []string{"web"}}
	long := &agentv1.CaptureName{Address: []byte{192, 0, 2, 1}, Names: []string{strings.Repeat("x", 100_000)}}
	batches := map[string]*agentv1.DescribeCaptureResponse{ // by the UID of the capture
		"addresses": {Addresses: slices.Repeat([][]byte{{192, 0, 2, 1}}, 200)},
		"names":     {Names: slices.Repeat([]*agentv1.CaptureName{name}, 200)},
		"longnames": {Names: []*agentv1.CaptureName{long}},
	}
	w := newWorld(t)
	w.agent("n1").capturesNow(t, capturing{describe: func(r *agentv1.DescribeCaptureRequest, s grpc.ServerStreamingServer[agentv1.DescribeCaptureResponse]) error {
		for range 100 {
			if err := s.Send(batches[r.Uid]); err != nil {
				return err
			}
		}
		return nil
	}})
	captures := capturesOf(t, w)
	for uid := range batches {
		err := captures.Describe(t.Context(), "n1", uid, func(*agentv1.DescribeCaptureResponse) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "more addresses or names than a capture may have") {
			t.Errorf("%s: %v", uid, err)
		}
	}
}

// TestVastList: a list is bounded by what it takes in memory.
func TestVastList(t *testing.T) {
	list := &states{byUID: map[string]*agentv1.CaptureState{}}
	list.ask(nil)
	for i := range maxListRows/maxParts + 1 {
		state := stateOf(fmt.Sprint(i))
		for number := range uint32(maxParts) {
			state.Parts = append(state.Parts, &agentv1.CapturePart{Number: number})
		}
		if err := list.take(state); (err != nil) != (i == maxListRows/maxParts) {
			t.Fatalf("state %d: %v", i, err)
		}
		state.Parts = nil
	}
}

// TestSlowCapture: an agent that stops a capture slowly is asked about others meanwhile, one that does not answer a
// short question is not asked again at once.
func TestSlowCapture(t *testing.T) {
	w := newWorld(t)
	stopping := make(chan struct{})
	w.agent("n1").capturesNow(t, capturing{
		stop: func(ctx context.Context, r *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error) {
			close(stopping)
			<-ctx.Done()
			return nil, ctx.Err()
		},
		list: func(r *agentv1.ListCapturesRequest, s grpc.ServerStreamingServer[agentv1.CaptureState]) error {
			if slices.Contains(r.Uids, "silent") {
				<-s.Context().Done()
				return s.Context().Err()
			}
			return s.Send(stateOf(r.Uids[0]))
		},
	})
	captures := capturesOf(t, w, quick, still)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := captures.Stop(ctx, "n1", &agentv1.StopCaptureRequest{Uid: "u"})
		done <- err
	}()
	<-stopping
	if got, err := captures.List(t.Context(), "n1", []string{"v"}); err != nil || got["v"] == nil {
		t.Errorf("beside a slow stop: %v, %v", got, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the stop ended with %v", err)
	}
	if _, err := captures.List(t.Context(), "n1", []string{"silent"}); !errors.Is(err, errTimeout) {
		t.Errorf("a silent agent: %v", err)
	}
	if _, err := captures.List(t.Context(), "n1", []string{"v"}); err == nil || !strings.Contains(err.Error(), "not asked again") {
		t.Errorf("after a silent call: %v", err)
	}
}
