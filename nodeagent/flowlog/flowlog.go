package flowlog

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// Telemetry is the configuration in force and the names of pods and peers (nodeagent/telemetry).
type Telemetry interface {
	// Config is never nil and must not be changed; Changed is closed when there is another one.
	Config() *v1alpha1.TelemetryConfig
	Changed() <-chan struct{}
	// Pod is nil while a pod is not known.
	Pod(key string) *v1alpha1.TelemetryPod
	// Name is nil while it is not known who has an address; to ask is to want to know.
	Name(address netip.Addr) *v1alpha1.TelemetryName
}

// Config is what New needs.
type Config struct {
	// Flows is the history of the node's flows; nil where none is kept: nothing is logged.
	Flows     *flows.Collector
	Telemetry Telemetry
	// Log takes records over, at most 512 at a time. It must not block.
	Log func([]*Record)
}

const (
	// nameWithin is for how long records wait for the names of pod and peer. What has no name then is logged without it,
	// but for the pod itself: without knowing it, it is not known whether its flows are to be logged.
	nameWithin = 15 * time.Second
	// silent is how long a flow that goes on must have been silent for its next record to wait for its end: after a
	// minute of silence it will have ended.
	silent = 30 * time.Second
	// soon is when to look again for what may come at any time.
	soon = time.Second
	// clocks is how far the clocks of nodes may be apart, when it is judged who had an address.
	clocks = 2 * time.Second
	// lookEvery is the least pause between looks: a little less than that between drains.
	lookEvery = 4 * time.Second
	// retry is the pause after the history could not be read.
	retry = 10 * time.Second
	// together is how many records are given away at a time.
	together = 512
	// keepPod is how long a pod is remembered that the API server does not know any more: its flows end later.
	keepPod = 3 * time.Minute
)

// Logger makes records of flows. Its methods are safe for concurrent use, but Run must run only once at a time.
type Logger struct {
	config Config

	pause time.Duration // between looks, at least

	mu     sync.Mutex
	lost   map[string]int64
	logged int64
}

// New makes a logger, which does nothing before Run.
func New(config Config) *Logger {
	return &Logger{config: config, pause: lookEvery, lost: map[string]int64{}}
}

// Stages at which something is lost, as Lost names them.
const (
	// StageHistory is the history of flows: flows were pushed out of it by others before all of them was logged.
	StageHistory = "history"
	// StageEnd is the same for flows of which only the end was not logged.
	StageEnd = "end"
	// StagePod is for flows of pods that the API server did not name in time.
	StagePod = "pod"
)

// Lost counts, by stage, flows of which something was not logged.
func (l *Logger) Lost() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := map[string]int64{StageHistory: 0, StageEnd: 0, StagePod: 0}
	for stage, n := range l.lost {
		lost[stage] = n
	}
	return lost
}

// Logged counts records.
func (l *Logger) Logged() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.logged
}

func (l *Logger) lose(stage string, n int64) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost[stage] += n
}

// Run logs flows while the configuration asks for it, until the context ends; then it logs what has passed since the
// last records, and returns.
func (l *Logger) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := l.config.Telemetry.Changed()
		var again <-chan time.Time
		if l.config.Flows != nil && l.config.Telemetry.Config().GetFlowLogs() != nil {
			if l.follow(ctx) == nil {
				continue
			}
			again = time.After(retry) // the collector's own state says what is wrong
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		}
	}
}

// follow logs flows until the context ends or the configuration does not ask for it any more.
func (l *Logger) follow(ctx context.Context) error {
	watch, err := l.config.Flows.Watch()
	if err != nil {
		return err
	}
	defer watch.Close()
	s := newSession(l)
	for {
		changed := l.config.Telemetry.Changed()
		asked := l.config.Telemetry.Config().GetFlowLogs()
		if asked == nil {
			return nil
		}
		s.begin(asked, time.Now())
		if err := watch.Look(s.now, s.visit); err != nil {
			return err
		}
		s.end(watch)
		watch.Wait(ctx, changed, l.pause)
		if ctx.Err() != nil {
			return s.finish(watch)
		}
	}
}

// finish logs what has passed since the last records, whatever is not known yet: the next agent begins with what passes
// from its start on.
func (s *session) finish(watch *flows.Watch) error {
	_ = watch.Refresh() // what was read before can be logged all the same
	s.begin(s.asked, time.Now())
	s.last = true
	err := watch.LookAtAll(s.now, s.visit)
	s.end(watch)
	return err
}
