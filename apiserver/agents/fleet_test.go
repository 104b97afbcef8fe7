package agents

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	testclock "k8s.io/utils/clock/testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// soon is a deadline that an honest agent keeps even on a busy machine, handshake and race detector included.
const soon = 5 * time.Second

func quick(c *Config) { c.NodeTimeout = soon }

// still is a clock that stands: reads share a call however late they come, and nobody is probed.
func still(c *Config) { c.Clock = testclock.NewFakeClock(epoch) }

func ask(nodes ...string) map[string]Query {
	queries := map[string]Query{}
	for _, node := range nodes {
		queries[node] = Query{PodKeys: keysOf(node, 3), Node: true}
	}
	return queries
}

func mustRead(t testing.TB, f *Fleet, queries map[string]Query) map[string]Reply {
	t.Helper()
	replies, err := f.Read(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	if len(replies) != len(queries) {
		t.Fatalf("%d replies to %d queries", len(replies), len(queries))
	}
	return replies
}

func wantError(t testing.TB, reply Reply, parts ...string) {
	t.Helper()
	if reply.Err == nil {
		t.Fatalf("no error, but rows %v", reply.Pods)
	}
	if reply.Pods != nil || reply.Node != nil {
		t.Errorf("rows beside the error %v", reply.Err)
	}
	for _, p := range parts {
		if !strings.Contains(reply.Err.Error(), p) {
			t.Errorf("error is %q and should say %q", reply.Err, p)
		}
	}
}

func TestReadAnswersForEachNode(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	w.agent("b")
	f := w.fleet()
	queries := ask("a", "b", "gone")
	queries["a"] = Query{PodKeys: keysOf("a", 250)}
	replies := mustRead(t, f, queries)
	if a := replies["a"]; a.Err != nil || len(a.Pods) != 250 || a.Node != nil {
		t.Errorf("a: %d rows, node %v, error %v", len(a.Pods), a.Node, a.Err)
	}
	if b := replies["b"]; b.Err != nil || len(b.Pods) != 3 || b.Node == nil {
		t.Errorf("b: %d rows, node %v, error %v", len(b.Pods), b.Node, b.Err)
	}
	wantError(t, replies["gone"], "gone: no agent runs on this node")
}

func TestManyKeysTakeSeveralCalls(t *testing.T) {
	w := newWorld(t)
	a := w.agent("a")
	replies := mustRead(t, w.fleet(), map[string]Query{"a": {PodKeys: keysOf("a", 2*agentv1.MaxPodKeys+1), Node: true}})
	if got := replies["a"]; got.Err != nil || len(got.Pods) != 2*agentv1.MaxPodKeys+1 || got.Node == nil {
		t.Errorf("%d rows, node %v, error %v", len(got.Pods), got.Node, got.Err)
	}
	if a.calls.Load() != 3 {
		t.Errorf("%d calls", a.calls.Load())
	}
}

func TestOnlyTheNodesOwnCertificateIsAccepted(t *testing.T) {
	w := newWorld(t)
	w.agent("honest")
	server := x509.ExtKeyUsageServerAuth
	for _, test := range []struct {
		node string
		from ca
		dns  string
		key  x509.ExtKeyUsage
		want string
	}{
		{"another-node", w.serving, agentv1.DNSName("honest"), server, "certificate is valid for honest.agent"},
		{"client-ca", w.client, agentv1.DNSName("client-ca"), server, "certificate signed by unknown authority"},
		{"wildcard-above", w.serving, "*.networkobservability.k8s.io", server, "certificate is valid for"},
		{"client-usage", w.serving, agentv1.DNSName("client-usage"), x509.ExtKeyUsageClientAuth, "incompatible key usage"},
	} {
		t.Run(test.node, func(t *testing.T) {
			a := w.start(test.node, test.from.issue(t, "any", test.key, test.dns), "127.0.0.1:0")
			w.publish(test.node, a.address, "pod")
			f := w.fleet(func(c *Config) { c.Register = newWorld(t).registry.Register })
			replies := mustRead(t, f, ask("honest", test.node))
			wantError(t, replies[test.node], test.node+": connecting to the agent at", test.want)
			if replies["honest"].Err != nil {
				t.Error(replies["honest"].Err)
			}
			if a.calls.Load() != 0 {
				t.Error("the agent got a request")
			}
		})
	}
}

func TestHandshakesUseTheBundleOfTheMoment(t *testing.T) {
	w := newWorld(t)
	w.agent("before")
	f := w.fleet()
	mustRead(t, f, ask("before"))

	// The authority changes. The connection that is there goes on, new ones go by the new bundle.
	old := w.serving
	w.mu.Lock()
	w.serving = newCA(t, "next")
	w.roots = w.serving.pool()
	w.mu.Unlock()
	w.agent("after")
	late := w.start("late", old.issue(t, "any", x509.ExtKeyUsageServerAuth, agentv1.DNSName("late")), "127.0.0.1:0")
	w.publish("late", late.address, "pod")
	eventually(t, patience, "the news of the endpoints", func() bool { return f.known() == 3 })
	replies := mustRead(t, f, ask("before", "after", "late"))
	if err := errors.Join(replies["before"].Err, replies["after"].Err); err != nil {
		t.Error(err)
	}
	wantError(t, replies["late"], "certificate signed by unknown authority")
}

func TestSilentAgentCostsItsTimeoutOnceAndComesBack(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	b := w.agent("b")
	b.now(silent)
	f := w.fleet(quick)

	replies := mustRead(t, f, ask("a", "b"))
	wantError(t, replies["b"], "b: the agent at 127.0.0.1:", "did not answer in time")

	before := b.calls.Load()
	began := time.Now()
	replies = mustRead(t, f, ask("a", "b"))
	if took := time.Since(began); took >= soon {
		t.Errorf("the second list took %v, as long as waiting once more", took)
	}
	wantError(t, replies["b"], "did not answer in time", "not asked again")
	if replies["a"].Err != nil {
		t.Error(replies["a"].Err)
	}
	eventually(t, patience, "a probe", func() bool { return b.calls.Load() > before })
	if open := w.metric("networkobservability_apiserver_agent_breakers_open", nil); open != 1 {
		t.Errorf("%v breakers are open", open)
	}
	named := func(node string) float64 {
		return w.metric("networkobservability_apiserver_agent_breaker_open", map[string]string{"node": node})
	}
	if named("a") != 0 || named("b") != 1 {
		t.Errorf("the breakers of a and b are shown as %v and %v", named("a"), named("b"))
	}

	b.now(honest)
	eventually(t, patience, "recovery", func() bool { return mustRead(t, f, ask("b", "a"))["b"].Err == nil })
	eventually(t, patience, "the metric", func() bool { return w.metric("networkobservability_apiserver_agent_breakers_open", nil) == 0 })
	eventually(t, patience, "the node's metric to go", func() bool { return named("b") == 0 })
}

func TestOpenBreakersThatAreNamedAreBounded(t *testing.T) {
	m, err := newMetrics(func(metrics.Registerable) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	for i := range 3 * maxNamed {
		open[fmt.Sprint("n", i)] = true
	}
	m.breakers(open)
	if len(m.named) != maxNamed {
		t.Errorf("%d nodes are named", len(m.named))
	}
	m.breakers(map[string]bool{"n1": true})
	if len(m.named) != 1 || !m.named["n1"] {
		t.Errorf("%v are named, of which one is open", m.named)
	}
}

func TestSlowAgentAnswersInTime(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.agent("slow").now(func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
		<-release
		return honest(r, s)
	})
	f := w.fleet()
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	if reply := mustRead(t, f, ask("slow"))["slow"]; reply.Err != nil {
		t.Error(reply.Err)
	}
}

func TestStoppedAgent(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	b := w.agent("b")
	b.server.Stop()
	f := w.fleet()
	for range failuresToOpen {
		wantError(t, mustRead(t, f, ask("a", "b"))["b"], "b: connecting to the agent at", "connection refused")
	}
	wantError(t, mustRead(t, f, ask("a", "b"))["b"], "connection refused", "not asked again")
}

// TestBlackHole dials an address whose listener accepts and says nothing, as a stopped process does.
func TestBlackHole(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	w.publish("hole", netip.MustParseAddrPort(listener.Addr().String()), "pod")
	wantError(t, mustRead(t, w.fleet(quick), ask("a", "hole"))["hole"], "did not answer in time")
}

func TestMovedAgentIsDialledAtOnce(t *testing.T) {
	w := newWorld(t)
	first := w.agent("a")
	first.now(silent)
	f := w.fleet()
	second := w.start("a", w.serving.issue(t, "any", x509.ExtKeyUsageServerAuth, agentv1.DNSName("a")), "127.0.0.1:0")

	// The read is under way at the old address when the endpoint moves, and is answered from the new one.
	done := make(chan Reply)
	go func() { done <- mustRead(t, f, ask("a"))["a"] }()
	eventually(t, patience, "the call", func() bool { return first.calls.Load() == 1 })
	w.republish("a", second.address, "new")
	if reply := <-done; reply.Err != nil {
		t.Error(reply.Err)
	}
	eventually(t, patience, "the end of the old call", func() bool { return first.ended.Load() == 1 })
}

func TestNewPodAtTheOldAddressClosesTheBreaker(t *testing.T) {
	w := newWorld(t)
	w.agent("b")
	a := w.agent("a")
	a.now(silent)
	f := w.fleet(quick, still)
	mustRead(t, f, ask("a", "b"))
	wantError(t, mustRead(t, f, ask("a", "b"))["a"], "not asked again")
	a.now(honest)
	w.republish("a", a.address, "restarted")
	eventually(t, patience, "an answer", func() bool { return mustRead(t, f, ask("a", "b"))["a"].Err == nil })
}

func TestVanishedEndpointClosesItsConnection(t *testing.T) {
	w := newWorld(t)
	w.agent("b")
	a := w.agent("a")
	a.now(silent)
	f := w.fleet()
	done := make(chan Reply)
	go func() { done <- mustRead(t, f, ask("a", "b"))["a"] }()
	eventually(t, patience, "the call", func() bool { return a.calls.Load() == 1 })
	if err := w.kube.DiscoveryV1().EndpointSlices(agentv1.Namespace).Delete(t.Context(), "agent-a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-done, "a: no agent runs on this node")
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", w.serving.issue(t, "any", x509.ExtKeyUsageServerAuth, agentv1.DNSName("a")), "[::1]:0")
	w.publish("a", a.address, "pod")
	if reply := mustRead(t, w.fleet(), ask("a"))["a"]; reply.Err != nil {
		t.Error(reply.Err)
	}
}

func TestEqualReadsShareOneCall(t *testing.T) {
	w := newWorld(t)
	a := w.agent("a")
	release := make(chan struct{})
	a.now(func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
		<-release
		return honest(r, s)
	})
	f := w.fleet(still)
	var readers sync.WaitGroup
	const n = 50
	for range n {
		readers.Go(func() {
			if reply := mustRead(t, f, ask("a"))["a"]; reply.Err != nil {
				t.Error(reply.Err)
			}
		})
	}
	coalesced := func() float64 { return w.metric("networkobservability_apiserver_agent_reads_coalesced_total", nil) }
	eventually(t, patience, "coalescing", func() bool { return coalesced() == n-1 })
	close(release)
	readers.Wait()
	if a.calls.Load() != 1 {
		t.Errorf("%d calls for %d equal reads", a.calls.Load(), n)
	}
}

func TestOneReaderLeavesAndTheOthersAreServed(t *testing.T) {
	w := newWorld(t)
	a := w.agent("a")
	release := make(chan struct{})
	a.now(func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
		select {
		case <-release:
			return honest(r, s)
		case <-s.Context().Done():
			return s.Context().Err()
		}
	})
	f := w.fleet(still)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := f.Read(ctx, ask("a"))
		left <- err
	}()
	eventually(t, patience, "the call", func() bool { return a.calls.Load() == 1 })
	stays := make(chan Reply)
	go func() { stays <- mustRead(t, f, ask("a"))["a"] }()
	eventually(t, patience, "joining", func() bool {
		return w.metric("networkobservability_apiserver_agent_reads_coalesced_total", nil) == 1
	})
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the reader that left got %v", err)
	}
	close(release)
	if reply := <-stays; reply.Err != nil {
		t.Error(reply.Err)
	}
}

func TestCallEndsWhenNobodyWaits(t *testing.T) {
	w := newWorld(t)
	a := w.agent("a")
	a.now(silent)
	f := w.fleet()
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := f.Read(ctx, ask("a"))
		left <- err
	}()
	eventually(t, patience, "the call", func() bool { return a.calls.Load() == 1 })
	cancel()
	<-left
	eventually(t, patience, "the end of the call", func() bool { return a.ended.Load() == 1 })
	// That nobody waited says nothing about the agent.
	a.now(honest)
	if reply := mustRead(t, f, ask("a"))["a"]; reply.Err != nil {
		t.Error(reply.Err)
	}
}

func TestLiar(t *testing.T) {
	w := newWorld(t)
	keys := keysOf("liar", 3)
	w.agent("liar").now(func(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
		first, second := row(keys[0]), row(keys[0])
		first.Measurement.Message = "\x1b[2Jcleared" + strings.Repeat("x", 2000)
		second.Measurement.TimeUnixNano = 7
		return s.Send(&agentv1.ReadStatsResponse{
			Pods: []*agentv1.PodStats{first, second, row("of another node"), row(keys[1])},
			Node: &agentv1.NodeStats{},
		})
	})
	reply := mustRead(t, w.fleet(), map[string]Query{"liar": {PodKeys: keys}})["liar"]
	if reply.Err != nil || len(reply.Pods) != 2 || reply.Node != nil {
		t.Fatalf("rows %v, node %v, error %v", reply.Pods, reply.Node, reply.Err)
	}
	if m := reply.Pods[keys[0]].Measurement; m.TimeUnixNano == 7 || len(m.Message) > maxMessageBytes || strings.Contains(m.Message, "\x1b") {
		t.Errorf("the row is %v", m)
	}
	for reason, want := range map[string]float64{rowNotAsked: 2, rowRepeated: 1, rowMissing: 1} {
		if got := w.metric("networkobservability_apiserver_agent_rows_rejected_total", map[string]string{"reason": reason}); got != want {
			t.Errorf("%v rows are counted as %s, want %v", got, reason, want)
		}
	}
}

func TestHostileAnswersEnd(t *testing.T) {
	for name, test := range map[string]struct {
		answer answerFunc
		want   string
	}{
		"batch over the size limit": {func(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			big := row("x")
			big.Measurement.Message = strings.Repeat("x", agentv1.MaxBatchBytes)
			return s.Send(&agentv1.ReadStatsResponse{Pods: []*agentv1.PodStats{big}})
		}, "a batch over 262144 bytes"},
		"endless batches": {func(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			for {
				if err := s.Send(&agentv1.ReadStatsResponse{}); err != nil {
					return err
				}
			}
		}, "more batches than rows were asked for"},
		"endless rows": {func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			batch := &agentv1.ReadStatsResponse{}
			for range 60 {
				batch.Pods = append(batch.Pods, &agentv1.PodStats{Key: r.PodKeys[0]})
			}
			for {
				if err := s.Send(batch); err != nil {
					return err
				}
			}
		}, "many more rows than were asked for"},
		"bytes without end": {func(_ *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			filler := row("x")
			filler.Measurement.Message = strings.Repeat("x", agentv1.MaxBatchBytes/2)
			for {
				if err := s.Send(&agentv1.ReadStatsResponse{Pods: []*agentv1.PodStats{filler}}); err != nil {
					return err
				}
			}
		}, "more bytes than the asked rows can have"},
		"a batch and then nothing": {func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			if err := s.Send(&agentv1.ReadStatsResponse{Pods: []*agentv1.PodStats{row(r.PodKeys[0])}}); err != nil {
				return err
			}
			return silent(r, s)
		}, "did not answer in time"},
		"an error after all rows": {func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			if err := honest(r, s); err != nil {
				return err
			}
			return status.Error(codes.Internal, "map \x1b[31m gone")
		}, "refused: Internal: map  [31m gone"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.agent("honest")
			a := w.agent("a")
			a.now(test.answer)
			f := w.fleet(func(c *Config) {
				if name == "a batch and then nothing" {
					quick(c)
				}
			})
			wantError(t, mustRead(t, f, ask("a", "honest"))["a"], test.want)
			eventually(t, patience, "the end of the call", func() bool { return a.ended.Load() == a.calls.Load() })
		})
	}
}

func TestNoAgents(t *testing.T) {
	w := newWorld(t)
	w.agent("a").now(silent)
	b := w.agent("b")
	f := w.fleet(quick)

	// b was not asked and nothing is known of it: it is asked before all are said to be down.
	wantError(t, mustRead(t, f, ask("a"))["a"], "did not answer in time")
	if b.calls.Load() != 1 {
		t.Errorf("b was asked %d times", b.calls.Load())
	}
	b.server.Stop()
	_, err := f.Read(t.Context(), ask("a", "b", "c"))
	if !errors.Is(err, ErrNoAgents) || !strings.Contains(err.Error(), "3 asked, none answered: a: ") {
		t.Errorf("with all agents down the error is %v", err)
	}
}

func TestNoEndpointsAtAll(t *testing.T) {
	f := newWorld(t).fleet()
	if _, err := f.Read(t.Context(), ask("a")); !errors.Is(err, ErrNoAgents) {
		t.Errorf("without agents the error is %v", err)
	}
	if replies, err := f.Read(t.Context(), nil); err != nil || len(replies) != 0 {
		t.Errorf("a read of nothing gives %v, %v", replies, err)
	}
}

func TestReadAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	w.agent("a").now(silent)
	f, err := New(Config{Client: w.kube, TLS: w, Register: w.registry.Register, NodeTimeout: patience, ReadTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Run(ctx) }()
	done := make(chan error)
	go func() {
		_, err := f.Read(t.Context(), ask("a"))
		done <- err
	}()
	eventually(t, patience, "the call", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.running[narrow] == 1
	})
	cancel()
	<-ended
	if err := <-done; !errors.Is(err, ErrNoAgents) {
		t.Errorf("a read that the end cut short gives %v", err)
	}
	if _, err := f.Read(t.Context(), ask("a")); err == nil {
		t.Error("a read after the end succeeds")
	}
}

func TestWorkersBoundTheCallsUnderWay(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var now, most int
	var nodes []string
	for i := range 20 {
		node := fmt.Sprintf("n%d", i)
		nodes = append(nodes, node)
		w.agent(node).now(func(r *agentv1.ReadStatsRequest, s grpc.ServerStreamingServer[agentv1.ReadStatsResponse]) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			defer func() { mu.Lock(); now--; mu.Unlock() }()
			return honest(r, s)
		})
	}
	f := w.fleet(func(c *Config) { c.Workers = 4 })
	for node, reply := range mustRead(t, f, ask(nodes...)) {
		if reply.Err != nil {
			t.Errorf("%s: %v", node, reply.Err)
		}
	}
	if most > 4 {
		t.Errorf("%d calls were under way with 4 workers", most)
	}
}

func TestReadTimeoutBoundsAReadOfManySilentNodes(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	var nodes []string
	for i := range 8 {
		node := fmt.Sprintf("n%d", i)
		nodes = append(nodes, node)
		w.agent(node).now(silent)
	}
	f := w.fleet(func(c *Config) {
		c.Workers, c.NodeTimeout, c.ReadTimeout = 1, soon, 2*soon+soon/2
	})
	mustRead(t, f, ask("a"))
	began := time.Now()
	notReached := 0
	for _, reply := range mustRead(t, f, ask(nodes...)) {
		if reply.Err != nil && strings.Contains(reply.Err.Error(), "not reached within 12.5s") {
			notReached++
		}
	}
	if took := time.Since(began); took > 4*soon || notReached == 0 {
		t.Errorf("the read took %v, %d nodes were not reached", took, notReached)
	}
}
