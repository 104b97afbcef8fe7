package telemetry

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Why a stream ends by itself.
var (
	ErrReplaced = errors.New("another stream has begun")
	ErrEnding   = errors.New("the agent is ending")
)

const (
	// lookEvery is how often a report is compared with the last one, and aliveEvery how often one is sent even when nothing
	// has changed.
	lookEvery  = time.Second
	aliveEvery = 5 * time.Second
	// gatherFor is how long addresses are gathered before they are asked for.
	gatherFor = 50 * time.Millisecond
)

// Follow is the agent's end of a ConfigureTelemetry stream: it takes over what receive gives and tells send what is in
// force, until the context ends or either fails, another stream begins (ErrReplaced), or the agent ends (ErrEnding).
// receive has to fail when the context that Follow was called with has ended.
func (s *State) Follow(ctx context.Context, receive func() (*v1alpha1.TelemetryUpdate, error), send func(*v1alpha1.TelemetryReport) error) error {
	replaced, number, end := s.begin()
	defer end()
	applied := make(chan struct{}, 1)
	received := make(chan error, 1)
	// It ends with the stream, which ends when this function has.
	go func() { received <- s.receive(replaced, receive, applied) }()

	r := reporter{state: s, send: send, stream: number}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	gather := time.NewTimer(0)
	defer gather.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-replaced.Done():
			return context.Cause(replaced)
		case err = <-received:
			return err
		case <-applied:
			err = r.tell(true)
		case <-look.C:
			err = r.tell(false)
		case <-s.addresses.wake:
			gather.Reset(gatherFor)
		case <-gather.C:
			err = r.ask()
		}
		if err != nil {
			return err
		}
	}
}

// begin ends the stream before. number is that of this one's addresses; end has to be called when it is over.
func (s *State) begin() (replaced context.Context, number uint64, end func()) {
	replaced, cancel := context.WithCancelCause(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		s.stream()
	}
	number = s.addresses.begin()
	s.streams = number
	s.stream = func() {
		if s.ended {
			cancel(ErrEnding)
		}
		cancel(ErrReplaced)
	}
	if s.ended {
		cancel(ErrEnding)
	}
	return replaced, number, func() {
		cancel(nil)
		s.addresses.signal() // it may have been woken in the place of one that has begun meanwhile
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams == number {
			s.stream = nil
		}
	}
}

// receive applies messages until there are no more.
func (s *State) receive(replaced context.Context, next func() (*v1alpha1.TelemetryUpdate, error), applied chan<- struct{}) error {
	named := map[string]bool{}
	for {
		update, err := next()
		if err != nil {
			return err
		}
		if err := s.apply(replaced, update, named); err != nil {
			return err
		}
		if update.GetConfig() != nil {
			select {
			case applied <- struct{}{}:
			default:
			}
		}
	}
}

// A reporter sends the reports of a stream.
type reporter struct {
	state  *State
	stream uint64
	send   func(*v1alpha1.TelemetryReport) error
	last   *v1alpha1.TelemetryReport
	sent   time.Time
}

// tell sends a report if anything but a count has changed, if one is due, or always.
func (r *reporter) tell(always bool) error {
	report := r.state.report()
	if !always && time.Since(r.sent) < aliveEvery && proto.Equal(withoutCounts(report), r.last) {
		return nil
	}
	r.last, r.sent = withoutCounts(report), time.Now()
	return r.send(report)
}

// ask sends addresses whose names are wanted.
func (r *reporter) ask() error {
	for more := true; more; {
		var wanted [][]byte
		if wanted, more = r.state.addresses.take(r.stream); len(wanted) == 0 {
			return nil
		}
		report := r.state.report()
		report.WantedAddresses = wanted
		if err := r.send(report); err != nil {
			return err
		}
	}
	return nil
}

// withoutCounts is a report without what changes all the time.
func withoutCounts(report *v1alpha1.TelemetryReport) *v1alpha1.TelemetryReport {
	report = proto.CloneOf(report)
	report.Series = 0
	for _, exporter := range report.GetExporters() {
		exporter.Sent, exporter.Dropped = 0, 0
	}
	return report
}
