package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

var (
	// ErrReplaced is wrapped when an agent ended a stream because another one has begun.
	ErrReplaced = errors.New("another stream has begun")
	// ErrTelemetryUnknown is wrapped when an agent is too old to be told about telemetry, or has it switched off.
	ErrTelemetryUnknown = errors.New("the agent does not know telemetry")
)

const (
	// telemetryPause is the longest time between two reports (agent.proto), without what is on the way. An update that the
	// agent takes no notice of for as long is as bad.
	telemetryPause = 10 * time.Second
	// maxExporters is far beyond what a NetworkTelemetry may have.
	maxExporters = 64
)

// Telemetry opens the streams by which a Fleet's agents are told what shall leave them beside answers. Its methods are
// safe for concurrent use. A stream uses the connection that reads use, so that there is one to an agent.
type Telemetry struct {
	fleet   *Fleet
	streams *metrics.CounterVec
	// pause is telemetryPause but in tests.
	pause time.Duration
}

// NewTelemetry makes one. register takes its metrics; nil means legacyregistry.Register.
func NewTelemetry(fleet *Fleet, register func(metrics.Registerable) error) (*Telemetry, error) {
	if register == nil {
		register = legacyregistry.Register
	}
	t := &Telemetry{fleet: fleet, pause: telemetryPause, streams: metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace: "networkobservability", Subsystem: "apiserver", Name: "agent_telemetry_streams_total", StabilityLevel: metrics.ALPHA,
		Help: "Streams that configure the telemetry of node agents that ended, by result.",
	}, []string{"result"})}
	if err := register(t.streams); err != nil {
		return nil, fmt.Errorf("registering metrics of telemetry: %w", err)
	}
	return t, nil
}

// Nodes are those for which the control plane names an agent, in no order.
func (t *Telemetry) Nodes() []string {
	t.fleet.mu.Lock()
	defer t.fleet.mu.Unlock()
	nodes := make([]string, 0, len(t.fleet.agents))
	for node := range t.fleet.agents {
		nodes = append(nodes, node)
	}
	return nodes
}

// APIServers are where the Kubernetes API is served; empty while that is not known.
func (t *Telemetry) APIServers() []string { return t.fleet.api.addresses() }

// A TelemetryStream is one ConfigureTelemetry. One goroutine may Send while another one receives.
type TelemetryStream struct {
	telemetry  *Telemetry
	agent      *agent
	conn       *connection
	place      string
	generation int

	// ctx is the stream's, and ends with it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// release undoes what ties the stream to the fleet and the connection.
	release func()
	stream  grpc.BidiStreamingClient[agentv1.TelemetryUpdate, agentv1.TelemetryReport]

	once sync.Once
	err  error
}

// Configure begins a stream to the agent of a node; it fails when the agent cannot be reached within NodeTimeout, or is known
// not to answer. It ends when ctx does, by Close, or with an error of Recv, after which it must be closed all the same. Errors
// begin with the node's name and wrap ErrNoAgent, ErrReplaced, ErrTelemetryUnknown or ErrInvalid where that is the reason.
func (t *Telemetry) Configure(ctx context.Context, node string) (*TelemetryStream, error) {
	if err := t.fleet.awaitSync(ctx); err != nil {
		return nil, err
	}
	a, err := t.agent(node)
	if err != nil {
		return nil, err
	}
	conn, place, generation, err := t.fleet.connect(a)
	if err != nil {
		return nil, err
	}
	s := &TelemetryStream{telemetry: t, agent: a, conn: conn, place: place, generation: generation}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	stopped := context.AfterFunc(t.fleet.alive, func() { s.cancel(errStopped) })
	closed := context.AfterFunc(conn.closed, func() { s.cancel(context.Cause(conn.closed)) })
	s.release = func() { stopped(); closed() }

	timer := s.patience(t.fleet.nodeTimeout)
	s.stream, err = conn.ConfigureTelemetry(s.ctx)
	timer.Stop()
	if err != nil {
		err = s.fail(err)
		s.Close()
		return nil, err
	}
	return s, nil
}

func (t *Telemetry) agent(node string) (*agent, error) {
	t.fleet.mu.Lock()
	defer t.fleet.mu.Unlock()
	a := t.fleet.agents[node]
	if a == nil {
		return nil, noAgent(node)
	}
	return a, a.breaker.refusal()
}

// patience ends the stream after a time.
func (s *TelemetryStream) patience(limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() { s.cancel(errTimeout) })
}

// Send sends an update. It fails only when the stream has ended, of which Recv tells the reason; it may wait for the agent
// to read, for 10 s and NodeTimeout at most.
func (s *TelemetryStream) Send(update *agentv1.TelemetryUpdate) error {
	defer s.patience(s.telemetry.pause + s.telemetry.fleet.nodeTimeout).Stop()
	if err := s.stream.Send(update); err != nil {
		return fmt.Errorf("%s: the stream to the agent has ended", s.agent.node)
	}
	return nil
}

// Recv waits for the agent's next report, for 10 s and NodeTimeout at most. Texts in it are fit to be shown, counts are
// possible ones, and there are no more addresses than allowed.
func (s *TelemetryStream) Recv() (*agentv1.TelemetryReport, error) {
	timer := s.patience(s.telemetry.pause + s.telemetry.fleet.nodeTimeout)
	report, err := s.stream.Recv()
	timer.Stop()
	if errors.Is(err, io.EOF) {
		err = violation("the agent ended the stream")
	}
	if err == nil {
		err = checkReport(report)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return report, nil
}

// Close ends the stream.
func (s *TelemetryStream) Close() {
	s.cancel(nil)
	s.release()
	s.once.Do(func() {
		s.telemetry.streams.WithLabelValues(string(resultCanceled)).Inc()
		s.err = fmt.Errorf("%s: the stream was closed", s.agent.node)
	})
}

// fail says why the stream ended, the first time that it is asked.
func (s *TelemetryStream) fail(err error) error {
	s.once.Do(func() {
		out := judge(s.ctx, s.agent.node, s.place, Reply{}, err)
		s.telemetry.streams.WithLabelValues(string(out.result)).Inc()
		s.telemetry.ended(s, out)
		s.err = out.err
		if out.result == resultRefused {
			s.err = s.refusal(err)
		}
		s.cancel(nil)
	})
	return s.err
}

// ended gives the connection up that did not carry the stream. The breaker is left to reads: an agent that answers them is not
// kept from them because it says nothing about telemetry.
func (t *Telemetry) ended(s *TelemetryStream, out outcome) {
	t.fleet.mu.Lock()
	var old *connection
	if s.generation == s.agent.generation {
		old = t.fleet.settle(s.agent, out, s.conn)
	}
	t.fleet.mu.Unlock()
	if old != nil {
		old.giveUp()
	}
}

// refusal is the typed error for an agent's own.
func (s *TelemetryStream) refusal(err error) error {
	state := status.Convert(err)
	switch state.Code() {
	case codes.Aborted:
		return fmt.Errorf("%s: %w", s.agent.node, ErrReplaced)
	case codes.Unimplemented:
		return fmt.Errorf("%s: %w%s", s.agent.node, ErrTelemetryUnknown, s.version())
	case codes.InvalidArgument:
		return fmt.Errorf("%s: %w: %s", s.agent.node, ErrInvalid, printable(state.Message()))
	}
	return fmt.Errorf("%s: the agent at %s refused: %s: %s", s.agent.node, s.place, state.Code(), printable(state.Message()))
}

// version asks the agent for its own, as it is to be shown; empty when it does not say.
func (s *TelemetryStream) version() string {
	replies, err := s.telemetry.fleet.Read(s.ctx, map[string]Query{s.agent.node: {Node: true}})
	if err != nil {
		return ""
	}
	if version := replies[s.agent.node].Node.GetAgent().GetVersion(); version != "" {
		return ", version " + version
	}
	return ""
}

// checkReport makes what an agent says of its telemetry fit to be stored and shown, and fails where it is impossible.
func checkReport(report *agentv1.TelemetryReport) error {
	switch {
	case len(report.WantedAddresses) > agentv1.MaxWantedAddresses:
		return violation("more addresses than may be asked for")
	case len(report.Exporters) > maxExporters:
		return violation("more exporters than there can be")
	case len(report.Lacking) > agentv1.MaxTelemetryLacks:
		return violation("more that is lacking than may be said")
	case report.Revision < 0, report.Generation < 0, outside(report.Series, report.Folded):
		return violation("a negative or impossible count")
	}
	for _, address := range report.WantedAddresses {
		if !addressSized(address) {
			return violation("an address that is none")
		}
	}
	report.Refused, report.Unkept = printable(report.Refused), printable(report.Unkept)
	for _, lack := range report.Lacking {
		lack.What, lack.Why = printable(lack.What), printable(lack.Why)
	}
	for _, exporter := range report.Exporters {
		if outside(exporter.Sent, exporter.Dropped) {
			return violation("a negative or impossible count")
		}
		exporter.Name, exporter.Message = printable(exporter.Name), printable(exporter.Message)
	}
	return nil
}
