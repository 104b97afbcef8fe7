package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// maxKeyBytes is the longest key that an agent accepts (PROTOCOL.md, Limits).
	maxKeyBytes = 253
	// maxMessageBytes is where text from an agent is cut (PROTOCOL.md, Limits).
	maxMessageBytes = 1 << 10
	// rowBytes is what one row of an answer may need: 128 reasons of drops, seven histograms, names, and a message.
	rowBytes = 32 << 10
	// extraRows is how many rows beyond twice the asked ones are dropped before the answer is.
	extraRows = 100
)

// violation is an answer against the protocol.
type violation string

func (v violation) Error() string { return string(v) }

// usable leaves out of a query what no agent would take: a key comes from a pod's metadata in the end, and one
// bad key must not spoil the read of its node.
func usable(q Query) asked {
	a := asked{keys: make(map[string]struct{}, len(q.PodKeys)), node: q.Node, ahead: q.Ahead}
	for _, key := range q.PodKeys {
		if usableKey(key) {
			a.keys[key] = struct{}{}
		}
	}
	return a
}

func usableKey(key string) bool {
	return key != "" && len(key) <= maxKeyBytes && utf8.ValidString(key)
}

// exchange asks an agent, in as many calls as the limit of keys demands, and collects its answer.
func exchange(ctx context.Context, client agentv1.AgentClient, want asked, m *fleetMetrics) (Reply, error) {
	got := answer{want: want, reply: Reply{Pods: make(map[string]*agentv1.PodStats, len(want.keys))}}
	defer func() { got.count(m) }()
	request := &agentv1.ReadStatsRequest{Node: want.node, ApiServers: want.apiServers}
	for keys := range slices.Chunk(slices.Collect(maps.Keys(want.keys)), agentv1.MaxPodKeys) {
		request.PodKeys = keys
		if err := got.read(ctx, client, request); err != nil {
			return Reply{}, err
		}
		request = &agentv1.ReadStatsRequest{}
	}
	if len(want.keys) == 0 {
		if err := got.read(ctx, client, request); err != nil {
			return Reply{}, err
		}
	}
	got.complete = true
	return got.reply, nil
}

// answer collects the rows of one read and judges them.
type answer struct {
	want     asked
	reply    Reply
	complete bool
	notAsked int
	repeated int
}

// read makes one call and reads its stream to the end.
func (a *answer) read(ctx context.Context, client agentv1.AgentClient, request *agentv1.ReadStatsRequest) error {
	// Ends the stream on every return, also in the middle of an answer.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ReadStats(ctx, request)
	if err != nil {
		return err
	}
	limit := limitFor(len(request.PodKeys))
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := limit.take(batch); err != nil {
			return err
		}
		a.take(batch)
	}
}

// take takes over the rows of a batch that were asked for and are the first of their key.
func (a *answer) take(batch *agentv1.ReadStatsResponse) {
	for _, row := range batch.Pods {
		if _, ok := a.want.keys[row.Key]; !ok {
			a.notAsked++
		} else if _, ok := a.reply.Pods[row.Key]; ok {
			a.repeated++
		} else {
			clean(row.Measurement)
			cleanDrops(row.Drops)
			cleanCounters(row.Additional)
			a.reply.Pods[row.Key] = row
		}
	}
	switch {
	case batch.Node == nil:
	case !a.want.node:
		a.notAsked++
	case a.reply.Node != nil:
		a.repeated++
	default:
		cleanNode(batch.Node)
		a.reply.Node = batch.Node
	}
}

func (a *answer) count(m *fleetMetrics) {
	m.reject(rowNotAsked, a.notAsked)
	m.reject(rowRepeated, a.repeated)
	if !a.complete {
		return
	}
	missing := len(a.want.keys) - len(a.reply.Pods)
	if a.want.node && a.reply.Node == nil {
		missing++
	}
	m.reject(rowMissing, missing)
}

// limit is what is left of an answer's allowance. gRPC bounds the size of a batch, the deadline the time.
type limit struct {
	batches, rows, bytes int
	first                bool
}

// limitFor allows a batch a row and one for the node; a first batch of any legal size, and rowBytes for each
// row beyond it.
func limitFor(keys int) *limit {
	return &limit{batches: keys + 2, rows: 2*keys + extraRows, bytes: keys * rowBytes, first: true}
}

func (l *limit) take(batch *agentv1.ReadStatsResponse) error {
	l.batches--
	l.rows -= len(batch.Pods)
	if !l.first {
		l.bytes -= proto.Size(batch)
	}
	l.first = false
	switch {
	case l.batches < 0:
		return violation("more batches than rows were asked for")
	case l.rows < 0:
		return violation("many more rows than were asked for")
	case l.bytes < 0:
		return violation("more bytes than the asked rows can have")
	}
	return nil
}

func clean(m *agentv1.Measurement) {
	if m != nil {
		m.Message = printable(m.Message)
	}
}

// cleanDrops cleans the reasons, for whose names users ask by jsonpath, which escapes nothing.
func cleanDrops(drops *agentv1.Drops) {
	for _, one := range drops.GetDrops() {
		one.Reason = printable(one.Reason)
	}
}

func cleanCounters(counters []*agentv1.Counter) {
	for _, one := range counters {
		one.Collector, one.Name = printable(one.Collector), printable(one.Name)
	}
}

// cleanNode cleans every text that kubectl may print.
func cleanNode(node *agentv1.NodeStats) {
	clean(node.Measurement)
	cleanDrops(node.Drops)
	cleanCounters(node.Additional)
	for _, one := range node.Interfaces {
		one.Name, one.Kind, one.State = printable(one.Name), printable(one.Kind), printable(one.State)
		cleanCounters(one.Driver)
		if one.Queue != nil {
			one.Queue.Kind = printable(one.Queue.Kind)
		}
	}
	for _, port := range node.Infiniband {
		port.Device, port.State = printable(port.Device), printable(port.State)
		cleanCounters(port.Counters)
	}
	agent := node.Agent
	if agent == nil {
		return
	}
	agent.Version, agent.KernelVersion = printable(agent.Version), printable(agent.KernelVersion)
	for _, collector := range agent.Collectors {
		collector.Name, collector.Message = printable(collector.Name), printable(collector.Message)
	}
}

// printable makes text of an agent fit to be shown: cut, and without control characters.
func printable(text string) string {
	if len(text) > maxMessageBytes {
		text = text[:maxMessageBytes]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError {
			return -1
		}
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// outcome is how a call ended.
type outcome struct {
	result result
	reply  Reply
	// node is why the agent is not answering, in full.
	err error
}

// judge names how a call to an agent ended. ctx is the call's context.
func judge(ctx context.Context, node, place string, reply Reply, err error) outcome {
	if err == nil {
		return outcome{result: resultOK, reply: reply}
	}
	var broken violation
	state := status.Convert(err)
	switch {
	case errors.As(err, &broken):
		return outcome{result: resultInvalid, err: fmt.Errorf("%s: the answer of the agent at %s is not valid: %w", node, place, err)}
	case errors.Is(context.Cause(ctx), errTimeout), state.Code() == codes.DeadlineExceeded, isSilentHandshake(state):
		return outcome{result: resultTimeout, err: fmt.Errorf("%s: the agent at %s %w", node, place, errTimeout)}
	case ctx.Err() != nil:
		return outcome{result: resultCanceled, err: fmt.Errorf("%s: reading was ended: %w", node, context.Cause(ctx))}
	case state.Code() == codes.Unavailable:
		return outcome{result: resultNoDial, err: fmt.Errorf("%s: connecting to the agent at %s: %s", node, place, printable(state.Message()))}
	case state.Code() == codes.ResourceExhausted && strings.Contains(state.Message(), "larger than max"):
		return outcome{result: resultInvalid, err: fmt.Errorf("%s: the answer of the agent at %s is not valid: a batch over %d bytes", node, place, agentv1.MaxBatchBytes)}
	}
	return outcome{result: resultRefused, err: fmt.Errorf("%s: the agent at %s refused: %s: %s", node, place, state.Code(), printable(state.Message()))}
}

// isSilentHandshake tells a peer that takes the connection and then says nothing: the transport gives up on it by itself.
func isSilentHandshake(state *status.Status) bool {
	return state.Code() == codes.Unavailable && strings.Contains(state.Message(), context.DeadlineExceeded.Error())
}
