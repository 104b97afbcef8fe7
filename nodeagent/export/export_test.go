package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A collector that ends and begins again misses nothing that fits into the queue.
func TestCollectorIsAway(t *testing.T) {
	// Over HTTP too, with a real collector: test/collector.
	s := newSink()
	stop := s.serveGRPC(t, aside, nil)
	address := strings.TrimPrefix(s.url, "http://")
	e := exporters(t, nil)
	e.Apply(configOf(toSink(s, false)))
	e.Log(flows(0, 100))
	e.settled(t, "collector", FlowLogs) // what was not answered yet would be sent once more
	stop()
	for i := range int64(10) {
		e.Log(flows(100+100*i, 100))
	}
	s.serveGRPC(t, address, nil)
	s.await(t, "the others", func() bool { return len(s.records) == 1100 })
	seen := map[string]bool{}
	for _, number := range s.records {
		seen[number] = true
	}
	if len(seen) != 1100 {
		t.Errorf("%d records, %d of them different", len(s.records), len(seen))
	}
	if c := e.settled(t, "collector", FlowLogs); c.sent != 1100 || c.droppedInAll() != 0 {
		t.Errorf("sent %d, dropped %v", c.sent, c.dropped)
	}
}

// What is beyond the bound is counted, record by record.
func TestBound(t *testing.T) {
	s := newSink()
	stop := s.serveGRPC(t, aside, nil)
	address := strings.TrimPrefix(s.url, "http://")
	stop()
	wanted := toSink(s, false)
	wanted.GetOtlp().QueueBytes = 200 << 10
	e := exporters(t, nil)
	e.Apply(configOf(wanted))
	for i := range int64(100) {
		e.Log(flows(20*i, 20))
	}
	c, waiting := e.tally("collector", FlowLogs)
	if c.given != 2000 || c.sent != 0 || c.dropped[reasonQueueFull] != 2000-waiting || waiting < 60 || waiting > 200 {
		t.Fatalf("given %d, sent %d, dropped %v, %d wait", c.given, c.sent, c.dropped, waiting)
	}
	s.serveGRPC(t, address, nil)
	s.await(t, "what waited", func() bool { return int64(len(s.records)) == waiting })
	// The oldest make room, but for those that are being sent at the moment: so there may be a gap, and never a step back.
	last := -1
	for _, text := range s.records {
		number, err := strconv.Atoi(text)
		if err != nil || number <= last {
			t.Fatalf("%q comes after %d", text, last)
		}
		last = number
	}
	if last < 1000 {
		t.Errorf("the newest record is %d of 1999", last)
	}
}

// Log returns although nobody takes anything.
func TestLogDoesNotBlock(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // which accepts nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	reader, writer := io.Pipe() // which nobody reads
	defer func() { _ = reader.Close() }()
	stalled := &sink{url: "http://" + listener.Addr().String()}
	var config []*v1alpha1.TelemetryExporter
	for i, overHTTP := range []bool{false, true} {
		wanted := toSink(stalled, overHTTP)
		wanted.Name = fmt.Sprint("stalled-", i)
		wanted.GetOtlp().QueueBytes = 100 << 10
		config = append(config, wanted)
	}
	config = append(config, &v1alpha1.TelemetryExporter{Name: "stdout", FlowLogs: true, To: &v1alpha1.TelemetryExporter_Stdout{Stdout: &v1alpha1.StdoutDestination{}}})
	e := exporters(t, func(c *Config) { c.Stdout = writer })
	e.Apply(configOf(config...))
	for i := range int64(20) {
		e.Log(flows(200*i, 200))
	}
	for _, wanted := range config {
		if c, waiting := e.tally(wanted.Name, FlowLogs); c.given != 4000 || c.sent != 0 || c.given != c.droppedInAll()+waiting {
			t.Errorf("%s: given %d, sent %d, dropped %v, %d wait", wanted.Name, c.given, c.sent, c.dropped, waiting)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Close(ctx); err == nil {
		t.Error("closed without a word of what was not sent")
	}
	for _, wanted := range config {
		if c, waiting := e.tally(wanted.Name, FlowLogs); waiting != 0 || c.given != c.sent+c.droppedInAll() || c.given != 4000 {
			t.Errorf("%s: given %d, sent %d, dropped %v, %d wait", wanted.Name, c.given, c.sent, c.dropped, waiting)
		}
	}
}

func TestCloseFlushes(t *testing.T) {
	s := newSink()
	s.serveGRPC(t, "127.0.0.1:0", nil)
	e := exporters(t, nil)
	e.Apply(configOf(toSink(s, false)))
	e.Log(flows(0, 2000))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
	if len(s.records) != 2000 {
		t.Errorf("%d arrived", len(s.records))
	}
	e.Log(flows(0, 7))
	if c, _ := e.tally("collector", FlowLogs); c.dropped[reasonShutdown] != 7 {
		t.Errorf("dropped %v", c.dropped)
	}
	e.Apply(configOf()) // does nothing
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
}

// What waits survives a change of where and how it is sent, and not a change of what it is.
func TestApply(t *testing.T) {
	s := newSink()
	s.serveHTTP(t, "/below", nil)
	nowhere := toSink(&sink{url: "http://127.0.0.1:1"}, false)
	var stdout bytes.Buffer
	var mu sync.Mutex
	e := exporters(t, func(c *Config) { c.Stdout = &locked{mu: &mu, to: &stdout} })
	e.Apply(configOf(nowhere))
	before := e.all()[0]
	e.Log(flows(0, 10))
	same := proto.CloneOf(nowhere)
	run := before.run
	e.Apply(configOf(same))
	if e.all()[0] != before || before.run != run {
		t.Error("a configuration that says the same disturbed the destination")
	}
	e.Apply(configOf(toSink(s, true))) // elsewhere, by another protocol
	s.await(t, "what waited", func() bool { return len(s.records) == 10 })
	if e.all()[0] != before {
		t.Error("another destination")
	}
	other := &v1alpha1.TelemetryExporter{Name: "collector", FlowLogs: true, To: &v1alpha1.TelemetryExporter_Stdout{Stdout: &v1alpha1.StdoutDestination{}}}
	e.Apply(configOf(other, other))
	if len(e.all()) != 1 || e.all()[0] == before {
		t.Error("a name is one destination, of one kind")
	}
	e.Log(flows(0, 2))
	e.settled(t, "collector", FlowLogs)
	mu.Lock()
	if n := bytes.Count(stdout.Bytes(), []byte("\n")); n != 2 {
		t.Errorf("%d lines", n)
	}
	mu.Unlock()
	e.Apply(configOf())
	if len(e.States()) != 0 {
		t.Errorf("%v", e.States())
	}
	e.Log(flows(0, 2))
}

type locked struct {
	mu *sync.Mutex
	to io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

// A signal that is no longer wanted leaves nothing behind.
func TestSignalRemoved(t *testing.T) {
	nowhere := toSink(&sink{url: "http://127.0.0.1:1"}, false)
	e := exporters(t, nil)
	e.Apply(configOf(nowhere))
	e.Log(flows(0, 10))
	without := proto.CloneOf(nowhere)
	without.FlowLogs, without.Metrics = false, true
	e.Apply(configOf(without))
	if c := e.settled(t, "collector", FlowLogs); c.dropped[reasonRemoved] != 10 {
		t.Errorf("dropped %v", c.dropped)
	}
	e.Log(flows(0, 10))
	if c, _ := e.tally("collector", FlowLogs); c.given != 10 {
		t.Errorf("given %d", c.given)
	}
}

// Without its headers a destination waits, says so, and is not a failure; with a problem it is one.
func TestHeadersThatAreNotThere(t *testing.T) {
	s := newSink()
	s.serveGRPC(t, "127.0.0.1:0", nil)
	wanted := toSink(s, false)
	wanted.Metrics, wanted.GetOtlp().NeedsHeaders = true, true
	told := make(chan error, 10)
	e := exporters(t, func(c *Config) { c.Failed = func(_ string, err error) { told <- err } })
	e.Apply(configOf(wanted))
	e.Log(flows(0, 10))
	if state := e.States()[0]; state.Failing || state.Reaching || !strings.Contains(state.Message, "waiting for headers") {
		t.Errorf("%v", state)
	}
	problem := proto.CloneOf(wanted)
	problem.GetOtlp().Problem = "the Secret networkobservability-telemetry is not there"
	e.Apply(configOf(problem))
	if state := e.States()[0]; !state.Failing || state.Message != problem.GetOtlp().GetProblem() {
		t.Errorf("%v", state)
	}
	if err := <-told; err == nil || err.Error() != problem.GetOtlp().GetProblem() {
		t.Errorf("told %v", err)
	}
	complete := proto.CloneOf(wanted)
	complete.GetOtlp().Headers = map[string]string{"authorization": "Bearer x"}
	e.Apply(configOf(complete))
	s.await(t, "what waited", func() bool { return len(s.records) == 10 })
	if err := <-told; err != nil {
		t.Errorf("told %v", err)
	}
}

// A gathering that fails shows, and what is gathered later arrives.
func TestGatheringFails(t *testing.T) {
	s := newSink()
	s.serveGRPC(t, "127.0.0.1:0", nil)
	wanted := toSink(s, false)
	wanted.FlowLogs, wanted.Metrics = false, true
	told := make(chan error, 10)
	var fallen atomic.Bool
	fallen.Store(true)
	e := exporters(t, func(c *Config) {
		c.Metrics = func() ([]*dto.MetricFamily, error) {
			if fallen.Load() {
				return nil, errors.New("a collector fell")
			}
			return families(1), nil
		}
		c.Failed = func(_ string, err error) { told <- err }
	})
	e.Apply(configOf(wanted))
	if err := <-told; err == nil || !strings.Contains(err.Error(), "a collector fell") {
		t.Errorf("told %v", err)
	}
	fallen.Store(false)
	s.await(t, "points", func() bool { return s.points > 0 })
	if err := <-told; err != nil {
		t.Errorf("told %v", err)
	}
}

// The counters that the agent offers of itself.
func TestCounters(t *testing.T) {
	s := newSink()
	s.rejects = 2
	s.serveGRPC(t, "127.0.0.1:0", nil)
	e := exporters(t, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	e.Apply(configOf(toSink(s, false)))
	e.Log(flows(0, 10))
	e.settled(t, "collector", FlowLogs)
	for !e.States()[0].GetReaching() { // which is noted right after it is counted
		runtime.Gosched()
	}
	want := `
# HELP networkobservability_agent_exporter_dropped_total Records of flows and points of metrics that a destination did not get, by reason.
# TYPE networkobservability_agent_exporter_dropped_total counter
networkobservability_agent_exporter_dropped_total{exporter="collector",reason="rejected",signal="flow_logs"} 2
# HELP networkobservability_agent_exporter_queue_bytes Size of what waits to be sent, encoded and not compressed.
# TYPE networkobservability_agent_exporter_queue_bytes gauge
networkobservability_agent_exporter_queue_bytes{exporter="collector"} 0
# HELP networkobservability_agent_exporter_sent_total Records of flows and points of metrics that a destination took.
# TYPE networkobservability_agent_exporter_sent_total counter
networkobservability_agent_exporter_sent_total{exporter="collector",signal="flow_logs"} 8
# HELP networkobservability_agent_exporter_up 1 when the last request to a destination was answered well, 0 when it was not.
# TYPE networkobservability_agent_exporter_up gauge
networkobservability_agent_exporter_up{exporter="collector"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	e.await(t, "what was rejected to be told", func(states []*v1alpha1.TelemetryExporterState) bool {
		state := states[0]
		return state.Sent == 8 && state.Dropped == 2 && strings.Contains(state.Message, "rejected 2 of the last 10")
	})
}

// Collectors are asked for before there is a flow to send, and nothing of that is counted. One that waits for its headers is
// down without being asked.
func TestUpIsKnownBeforeThereIsSomethingToSend(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		s := newSink()
		s.serve(t, overHTTP, nil)
		e := exporters(t, nil)
		there, away, headless := toSink(s, overHTTP), toSink(s, overHTTP), toSink(s, overHTTP)
		away.Name, away.GetOtlp().Endpoint = "away", "http://127.0.0.1:1"
		headless.Name, headless.GetOtlp().NeedsHeaders = "headless", true
		file := &v1alpha1.TelemetryExporter{Name: "file", FlowLogs: true, To: &v1alpha1.TelemetryExporter_File{File: &v1alpha1.FileDestination{}}}
		e.Apply(configOf(there, away, headless, file))
		e.await(t, "answers", func(states []*v1alpha1.TelemetryExporterState) bool {
			return states[0].Reaching && states[1].Failing && states[3].Reaching
		})
		want := `
# HELP networkobservability_agent_exporter_up 1 when the last request to a destination was answered well, 0 when it was not.
# TYPE networkobservability_agent_exporter_up gauge
networkobservability_agent_exporter_up{exporter="away"} 0
networkobservability_agent_exporter_up{exporter="collector"} 1
networkobservability_agent_exporter_up{exporter="file"} 1
networkobservability_agent_exporter_up{exporter="headless"} 0
`
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(e)
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "networkobservability_agent_exporter_up"); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"collector", "away"} {
			if c, waiting := e.tally(name, FlowLogs); c.given != 0 || c.sent != 0 || c.droppedInAll() != 0 || waiting != 0 {
				t.Errorf("%s counts %+v", name, c)
			}
		}
	})
}

// await waits until the states are as they should be.
func (e *Exporters) await(t *testing.T, what string, satisfied func([]*v1alpha1.TelemetryExporterState) bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !satisfied(e.States()); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, e.States())
		}
	}
}

// Everything at once, for the race detector.
func TestConcurrently(t *testing.T) {
	s := newSink()
	s.serveGRPC(t, "127.0.0.1:0", nil)
	e := exporters(t, nil)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range int64(20) {
				e.Log(flows(i, 5))
				e.States()
				wanted := toSink(s, false)
				wanted.Metrics, wanted.GetOtlp().Gzip, wanted.GetOtlp().IntervalNano = i%3 == 0, i%2 == 0, int64(time.Millisecond)
				e.Apply(configOf(wanted, &v1alpha1.TelemetryExporter{Name: fmt.Sprint("file-", i%2), FlowLogs: true, To: &v1alpha1.TelemetryExporter_File{File: &v1alpha1.FileDestination{}}}))
			}
		})
	}
	group.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
	for _, d := range e.all() {
		checkQueue(t, d.queue)
	}
}
