package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	bpf "github.com/networkobservability/networkobservability/bpf/dns"
	"github.com/networkobservability/networkobservability/bpf/headers"
)

const (
	// readEvery is how long events may wait. The kernel wakes the reader earlier when many have gathered.
	readEvery = 250 * time.Millisecond
	// sweepEvery is how often queries are given up that have waited too long.
	sweepEvery = time.Second
)

// Run reads events and gives up queries until the context ends.
func (c *Collector) Run(ctx context.Context) {
	if c.off != nil {
		return
	}
	// Reading stops at once when the context ends.
	stop := context.AfterFunc(ctx, func() { _ = c.reader.Flush() })
	defer stop()
	var record ringbuf.Record
	var swept time.Time
	var problem error
	for ctx.Err() == nil {
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			c.report(errors.Join(problem, c.giveUp()))
			problem = nil
		}
		c.reader.SetDeadline(time.Now().Add(readEvery))
		for ctx.Err() == nil && time.Since(swept) < sweepEvery {
			err := c.reader.ReadInto(&record)
			if err == nil {
				c.take(record.RawSample)
				continue
			}
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, ringbuf.ErrFlushed) {
				problem = err
			}
			break
		}
	}
}

func (c *Collector) report(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweeping = err
}

func (c *Collector) giveUp() error {
	if c.sweep == nil {
		return nil // State says so
	}
	return bpf.RunSweep(c.sweep, c.patience)
}

// An event is bpf.Event.
type event struct {
	pod        uint64
	code       uint8
	unanswered bool
	message    []byte
}

// headerOfEvent is how many bytes of bpf.Event are before its message.
const headerOfEvent = 24

func parseEvent(sample []byte) (event, bool) {
	if len(sample) < headerOfEvent {
		return event{}, false
	}
	length := int(binary.NativeEndian.Uint16(sample[18:]))
	if length > len(sample)-headerOfEvent {
		return event{}, false
	}
	return event{
		pod: binary.NativeEndian.Uint64(sample), code: sample[20], unanswered: sample[21] == bpf.Unanswered,
		message: sample[headerOfEvent : headerOfEvent+length],
	}, true
}

// take takes what an event tells. The sample is used again afterwards.
func (c *Collector) take(sample []byte) {
	e, ok := parseEvent(sample)
	if !ok || c.config.Names == 0 { // a former agent may have wanted names
		return
	}
	var name string
	var answers []answer
	if e.unanswered {
		name, ok = nameText(e.message)
	} else {
		name, answers, ok = readResponse(e.message)
	}
	if !ok {
		return
	}
	failed := e.unanswered || e.code != 0
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, number := range []uint64{e.pod, headers.Node} {
		if c.asked[number] == nil {
			c.asked[number] = newRanking(c.config.Names)
		}
		c.asked[number].add(name, failed)
	}
	for _, a := range answers {
		c.peers.add(e.pod, a, name, now)
	}
}

// PeerName is the name under which a pod looked up an address; empty when it did not, or long ago. pod is its number
// (headers.PodNumber).
func (c *Collector) PeerName(pod uint64, address netip.Addr) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peers.name(pod, address.Unmap(), time.Now())
}
