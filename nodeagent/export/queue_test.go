package export

import (
	"bytes"
	"math/rand/v2"
	"testing"
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
