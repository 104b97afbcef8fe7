package telemetry

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Pauses before another stream: the first one, which doubles to the last one while agents are not heard of; that after another
// stream, which is somebody else's who leads; and that before an agent is asked again that does not know telemetry.
const (
	firstPause, lastPause = 500 * time.Millisecond, 5 * time.Second
	replacedPause         = 5 * time.Second
	unknownPause          = 30 * time.Second
)

// A node is one that has an agent.
type node struct {
	*term
	name  string
	leave context.CancelFunc

	mu   sync.Mutex
	seen view
}

// A view is what is known of a node.
type view struct {
	name string
	// open: there is a stream, and the agent has said something on it. lost is when the last one ended.
	open bool
	lost time.Time
	// inForce is the revision of the spec that the agent does as it last said; 0 for another one. refusing is since when it
	// refuses another one.
	inForce  int64
	refusing time.Time
	// report is the last one, of whatever stream; nil before the first. It does not change.
	report *agentv1.TelemetryReport
	// chose is what any pod of the node has by the selection chosen; nil while the agent was told of no pods.
	chosen *selection
	chose  choice
	// failure is why there is no stream; empty before the first attempt has ended. unknown says that the agent does not know
	// telemetry.
	failure string
	unknown bool
}

func (n *node) view() view {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.seen
	v.name = n.name
	return v
}

// serve has one stream after the other, until ctx ends.
func (n *node) serve(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		heard, err := n.converse(ctx)
		if heard {
			pause = firstPause
		}
		n.ended(err)
		rest := pause
		switch {
		case errors.Is(err, ErrReplaced):
			rest = replacedPause
		case errors.Is(err, ErrUnknown):
			rest = unknownPause
		default:
			pause = min(2*pause, lastPause)
		}
		if !n.sleep(ctx, wait.Jitter(rest, 0.5)) {
			return
		}
	}
}

// open opens a stream when it is this node's turn.
func (n *node) open(ctx context.Context) (Stream, error) {
	if err := n.opening.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer n.opening.Release(1)
	return n.cfg.Agents.Configure(ctx, n.name)
}

// converse has one stream to its end, and says whether the agent was heard of.
func (n *node) converse(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.open(ctx)
	if err != nil {
		return false, err
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	defer stream.Close()
	reports, ended := make(chan *agentv1.TelemetryReport), make(chan error, 1)
	receiving.Go(func() { ended <- receive(ctx, stream, reports) })

	c := &conversation{}
	ticker := n.cfg.Clock.NewTicker(everySecond)
	defer ticker.Stop()
	// Between two looks at everything, only what was asked for is answered.
	for all := true; ; {
		want, replaced := n.next()
		c.want = want
		if !n.say(stream, c, all) {
			return heard, reason(reports, ended)
		}
		select {
		case report := <-reports:
			heard = true
			if c.hears(report) {
				n.lookAgain()
			}
			all = !c.pods.complete
			n.heard(c)
		case err := <-ended:
			return heard, err
		case <-replaced:
			all = true
		case <-ticker.C():
			all = true
		}
	}
}

// receive hands reports over until the stream ends.
func receive(ctx context.Context, stream Stream, reports chan<- *agentv1.TelemetryReport) error {
	for {
		report, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case reports <- report:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reason is why a stream ended on which nothing can be sent any more.
func reason(reports <-chan *agentv1.TelemetryReport, ended <-chan error) error {
	for {
		select {
		case <-reports:
		case err := <-ended:
			return err
		}
	}
}

// say sends what is to be sent now. It fails when the stream has ended.
func (n *node) say(stream Stream, c *conversation, all bool) bool {
	for _, update := range c.says(n.around(all)) {
		if stream.Send(update) != nil {
			return false
		}
		n.metrics.updates.Inc()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.pods.chosen != nil { // on a new stream, what the former one told still holds
		n.seen.chosen, n.seen.chose = c.pods.chosen, c.pods.chose
	}
	return true
}

// around is what is known now. Without all there are no pods in it, and earlier answers are not looked at again.
func (n *node) around(all bool) *surroundings {
	now := n.cfg.Clock.Now()
	s := &surroundings{
		now: now, synced: n.cfg.Synced() == nil, namespace: n.namespaces.of, version: n.namespaces.at(),
		owner: func(address netip.Addr) Owner { return n.cfg.Owner(address, now) },
	}
	if all {
		s.pods, s.budget = n.cfg.Pods(n.name), n.budget()
		if n.cfg.APIServers != nil {
			s.apiServers = n.cfg.APIServers()
		}
	}
	return s
}

// heard notes what a report says.
func (n *node) heard(c *conversation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen.open, n.seen.failure, n.seen.unknown, n.seen.report = true, "", false, c.report
	n.seen.inForce = c.inForce()
	switch {
	case c.report.Refused == "":
		n.seen.refusing = time.Time{}
	case n.seen.refusing.IsZero():
		n.seen.refusing = n.cfg.Clock.Now()
	}
}

// ended notes why there is no stream.
func (n *node) ended(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen.open {
		n.seen.lost = n.cfg.Clock.Now()
	}
	n.seen.open = false
	n.seen.unknown = errors.Is(err, ErrUnknown)
	n.seen.failure = steady(strings.TrimPrefix(err.Error(), n.name+": "))
}
