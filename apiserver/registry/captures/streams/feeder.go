package streams

import (
	"context"
	"errors"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// firstPause and longestPause lie between two attempts to follow a node.
	firstPause, longestPause = 50 * time.Millisecond, 2 * time.Second
	// patienceAtEnd is for how long a node that does not answer is asked when the capture has ended.
	patienceAtEnd = 10 * time.Second
)

// A feeder reads what nodes send into a merge.
type feeder struct {
	source Source
	clock  clock.WithTicker
	// request is what is asked of each node.
	request agentv1.ReadCaptureRequest
	events  chan<- event
	// ended is closed when the capture has ended everywhere. Feeders that follow then stop to wait for agents.
	ended <-chan struct{}
	// holds says, when ended is closed, whether a node has packets.
	holds func(node string) bool
}

// feed reads a node once, to the end.
func (f *feeder) feed(ctx context.Context, in *input) {
	f.send(ctx, event{from: in, err: f.once(ctx, in, f.ask())})
}

func (f *feeder) ask() *agentv1.ReadCaptureRequest {
	return &agentv1.ReadCaptureRequest{
		Uid: f.request.Uid, Namespace: f.request.Namespace, Pod: f.request.Pod,
		HeadersOnly: f.request.HeadersOnly, Follow: f.request.Follow, FromUnixNano: f.request.FromUnixNano,
	}
}

func (f *feeder) send(ctx context.Context, e event) bool {
	select {
	case f.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// once makes one call.
func (f *feeder) once(ctx context.Context, in *input, request *agentv1.ReadCaptureRequest) error {
	return f.source.ReadCapture(ctx, in.node, request, cap(in.taken), func(batch *agentv1.ReadCaptureResponse) error {
		if !f.send(ctx, event{from: in, response: batch}) {
			return context.Cause(ctx)
		}
		select {
		case <-in.taken:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// follow reads a node until it says that the capture has ended. An agent that is not there, does not know the capture yet
// or goes away is asked again, from where it was, for as long as the capture has not ended; and then for a while, if it
// has packets. The input must have been made for one batch at a time: then nothing of it is with the merge when a call ends.
func (f *feeder) follow(ctx context.Context, in *input) {
	var giveUp <-chan time.Time
	ended := f.ended
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		before := in.received
		err := f.once(ctx, in, f.resume(in))
		nothing := ended == nil && in.received == 0 && !f.holds(in.node) && errors.Is(err, ErrNotFound)
		if err == nil || nothing {
			f.send(ctx, event{from: in})
			return
		}
		if errors.Is(err, ErrOvertaken) || expired(giveUp) {
			f.send(ctx, event{from: in, err: err})
			return
		}
		if !f.send(ctx, event{from: in, broken: true, again: f.request.HeadersOnly}) {
			return
		}
		if in.received > before {
			klog.FromContext(ctx).Info("Packets of a node stopped coming; asking again", "node", in.node, "err", err)
			pause = firstPause
		}
		if over, ok := f.sleep(ctx, pause, ended); !ok {
			return
		} else if over {
			// Another attempt at once: the agent may just have come.
			ended, giveUp, pause = nil, f.clock.After(patienceAtEnd), firstPause
		}
	}
}

func expired(timer <-chan time.Time) bool {
	select {
	case <-timer:
		return true
	default:
		return false
	}
}

// sleep waits for a while, or until the capture is over. It is not ok when ctx ends first.
func (f *feeder) sleep(ctx context.Context, pause time.Duration, ended <-chan struct{}) (over, ok bool) {
	timer := f.clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C():
		return false, true
	case <-ended:
		return true, true
	case <-ctx.Done():
		return false, false
	}
}

// resume asks for what comes behind that which there is already. Packets that are cut cannot be sought: all come again.
func (f *feeder) resume(in *input) *agentv1.ReadCaptureRequest {
	request := f.ask()
	if in.received > 0 && !request.HeadersOnly {
		request.FromUnixNano = in.place
	}
	return request
}
