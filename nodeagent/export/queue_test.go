package export

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

func logsOf(size int, items int64) Batch {
	return Batch{Signal: FlowLogs, Payload: bytes.Repeat([]byte{1}, size), Items: items}
}

func metricsOf(size int, items int64) Batch {
	return Batch{Signal: Metrics, Payload: bytes.Repeat([]byte{2}, size), Items: items}
}

// checkQueue checks that nothing is lost uncounted, and that the bound holds.
func checkQueue(t *testing.T, q *queue) {
	t.Helper()
	var bytes int64
	for s := range signals {
		c, waiting, all := q.snapshot(s)
		if difference := c.given - c.sent - c.droppedInAll() - waiting; difference != 0 {
			t.Fatalf("%v: given %d - sent %d - dropped %v - waiting %d = %d", s, c.given, c.sent, c.dropped, waiting, difference)
		}
		for _, b := range q.waiting[s] {
			bytes += int64(len(b.Payload))
		}
		if s == signals-1 && (all != bytes || all > q.limit) {
			t.Fatalf("%d bytes are said to wait, %d do, %d may", all, bytes, q.limit)
		}
	}
}

// Whatever happens in whatever order, every item is sent, dropped or waiting.
func TestQueueIsExact(t *testing.T) {
	for seed := range uint64(200) {
		source := rand.New(rand.NewPCG(seed, 1))
		q := newQueue(1000)
		gathering := int64(0)
		for range 300 {
			s := Signal(source.IntN(int(signals)))
			switch source.IntN(8) {
			case 0, 1, 2:
				q.put(0, logsOf(source.IntN(300), source.Int64N(5)))
			case 3:
				gathering++
				q.put(gathering, metricsOf(source.IntN(300), source.Int64N(5)), metricsOf(source.IntN(300), source.Int64N(5)))
			case 4:
				if q.taken[s] == 0 {
					q.take(s)
				}
			case 5:
				q.putBack(s)
			case 6:
				q.settle(s, source.Int64N(7)-1, reasonRejected)
			case 7:
				if source.IntN(20) == 0 {
					q.empty(s, reasonRemoved)
				}
			}
			checkQueue(t, q)
		}
	}
}

func TestQueueReplacesTheOldest(t *testing.T) {
	q := newQueue(100)
	for i := range int64(5) {
		q.put(0, logsOf(40, 1<<i))
	}
	c, waiting, size := q.snapshot(FlowLogs)
	if waiting != 8+16 || c.dropped[reasonQueueFull] != 1+2+4 || size != 80 {
		t.Errorf("%d wait in %d bytes, dropped %v", waiting, size, c.dropped)
	}
	// What is being sent keeps its place, until it is put back.
	batch, _ := q.take(FlowLogs)
	if batch.Items != 24 || len(batch.Payload) != 80 {
		t.Errorf("took %d items of %d bytes", batch.Items, len(batch.Payload))
	}
	q.put(0, logsOf(40, 32))
	if c, _, _ = q.snapshot(FlowLogs); c.dropped[reasonQueueFull] != 7+32 {
		t.Errorf("dropped %v: the new one had no room", c.dropped)
	}
	q.putBack(FlowLogs)
	q.put(0, logsOf(40, 64))
	if c, waiting, _ = q.snapshot(FlowLogs); c.dropped[reasonQueueFull] != 7+32+8 || waiting != 16+64 {
		t.Errorf("%d wait, dropped %v", waiting, c.dropped)
	}
	checkQueue(t, q)
}

// Old metrics give way to newer ones and to flow logs, the newest only when there is nothing else.
func TestQueueSupersedesMetrics(t *testing.T) {
	q := newQueue(1000)
	for gathering := range int64(5) {
		q.put(gathering+1, metricsOf(100, 10), metricsOf(100, 1))
	}
	c, waiting, _ := q.snapshot(Metrics)
	if waiting != metricsKept*11 || c.dropped[reasonSuperseded] != 2*11 {
		t.Errorf("%d points wait, dropped %v", waiting, c.dropped)
	}
	q.put(0, logsOf(800, 7))
	c, waiting, _ = q.snapshot(Metrics)
	if waiting != 11 || c.dropped[reasonSuperseded] != 4*11 {
		t.Errorf("%d points wait, dropped %v", waiting, c.dropped)
	}
	q.put(0, logsOf(900, 8))
	if c, _, _ := q.snapshot(FlowLogs); c.dropped[reasonQueueFull] != 7 {
		t.Errorf("dropped %v: the older flow logs", c.dropped)
	}
	if c, waiting, _ = q.snapshot(Metrics); waiting != 1 || c.dropped[reasonQueueFull] != 10 {
		t.Errorf("%d points wait, dropped %v", waiting, c.dropped)
	}
	q.resize(950)
	checkQueue(t, q)
	q.close()
	q.put(0, logsOf(1, 3))
	if c, _, _ := q.snapshot(FlowLogs); c.dropped[reasonShutdown] != 3 {
		t.Errorf("dropped %v", c.dropped)
	}
	checkQueue(t, q)
}

// A queue that is full of small batches does not make requests of all of them.
func TestQueueJoinsLittle(t *testing.T) {
	q := newQueue(8 << 20)
	for range 100 {
		q.put(0, logsOf(10<<10, 1))
	}
	batch, _ := q.take(FlowLogs)
	if len(batch.Payload) > joinedBytes || batch.Items != joinedBytes/(10<<10) {
		t.Errorf("%d items in %d bytes", batch.Items, len(batch.Payload))
	}
}

// What cannot fit takes no other's place: it would be in vain.
func TestQueueKeepsWhatWaits(t *testing.T) {
	q := newQueue(100)
	q.put(0, logsOf(30, 1), logsOf(30, 2))
	q.put(0, logsOf(101, 4))
	if c, waiting, _ := q.snapshot(FlowLogs); waiting != 3 || c.dropped[reasonQueueFull] != 4 {
		t.Errorf("%d wait, dropped %v: a batch that is larger than the queue", waiting, c.dropped)
	}
	q.take(FlowLogs)
	q.put(1, metricsOf(30, 1))
	q.put(0, logsOf(50, 8))
	if c, waiting, _ := q.snapshot(FlowLogs); waiting != 3 || c.dropped[reasonQueueFull] != 4+8 {
		t.Errorf("%d wait, dropped %v: a batch for which what is being sent leaves no room", waiting, c.dropped)
	}
	if c, waiting, _ := q.snapshot(Metrics); waiting != 1 {
		t.Errorf("%d points wait, dropped %v", waiting, c.dropped)
	}
	checkQueue(t, q)
}

// The smallest queue that can be configured takes a batch of each signal, however long the names in it are.
func TestBatchesFitIntoTheSmallestQueue(t *testing.T) {
	const smallest = 1 << 20
	short, long := strings.Repeat("n", 63), strings.Repeat("n", 253)
	record := flow(1)
	for _, end := range []*flowlog.Endpoint{&record.Local, &record.Peer, &record.Translated} {
		*end = flowlog.Endpoint{Address: netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7777"), Port: 65535, Namespace: short, Pod: long,
			WorkloadKind: "ReplicationController", WorkloadName: long, ServiceNamespace: short, Service: short, Node: long}
	}
	record.DNSName = long
	nowhere := toSink(&sink{url: "http://127.0.0.1:1"}, false)
	nowhere.GetOtlp().QueueBytes, nowhere.GetOtlp().NeedsHeaders = smallest, true
	e := exporters(t, nil)
	e.Apply(configOf(nowhere))
	e.Log(slices.Repeat([]*flowlog.Record{record}, 512))
	if c, waiting := e.tally("collector", FlowLogs); waiting == 0 || c.given != 512 {
		t.Errorf("%d of %d records wait: no batch fits", waiting, c.given)
	}

	var peers []*dto.Metric
	for i := range 10_000 {
		peers = append(peers, counter(float64(i), "namespace", short, "pod", long, "workload", long, "direction", "receive", "dns_name", long, "peer_namespace", short,
			"peer_workload", long, "port", strconv.Itoa(i), "protocol", "TCP", "service", short, "service_namespace", short))
	}
	made := otlpEncoder{here}.EncodeMetrics([]*dto.MetricFamily{family(ours+"pod_peer_bytes_total", dto.MetricType_COUNTER, peers...)}, now)
	var items int64
	for _, batch := range made {
		if items += batch.Items; len(batch.Payload) > smallest*3/4 {
			t.Errorf("a batch of %d points has %d bytes", batch.Items, len(batch.Payload))
		}
	}
	all := decodeMetrics(t, made)
	if got := len(all[here.Node+"."+short+"."+long]["networkobservability.pod.peer.io"].GetSum().GetDataPoints()); got != 10_000 || items != 10_000 {
		t.Errorf("%d points are in batches that say %d", got, items)
	}
}
