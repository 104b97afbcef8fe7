package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

// Signal is what is sent.
type Signal int

// The signals.
const (
	Metrics Signal = iota
	FlowLogs
	signals
)

// String is the value of the label signal.
func (s Signal) String() string { return [...]string{"metrics", "flow_logs"}[s] }

// A Batch is a piece of what is sent, encoded.
type Batch struct {
	Signal  Signal
	Payload []byte
	// Items is how many records of flows or points of metrics are in the payload.
	Items int64
}

// An Exporter speaks to a destination. What waits, when to try again, and what is counted is not its business.
type Exporter interface {
	Encoder
	// Send sends a batch and returns how many of its items the destination took note of but did not want. An error means that
	// nothing of it arrived, or that nobody knows: Send is called again with the batch when the error is a Retry, otherwise
	// the batch is dropped. A batch of flow logs without items asks whether the destination is there. Batches of flow logs that waited together are sent as one, their payloads appended. It must end
	// with the context. It is called by at most one goroutine a signal.
	Send(ctx context.Context, batch Batch) (rejected int64, err error)
	// Close lets go of connections and files. Nothing is called afterwards.
	Close() error
}

// An Encoder makes payloads. It is called by several goroutines, and keeps neither records nor families.
type Encoder interface {
	// EncodeLogs makes a payload of records. Payloads of two calls, appended, are a payload.
	EncodeLogs(records []*flowlog.Record) []byte
	// EncodeMetrics makes batches that the destination takes. Nil where metrics cannot be sent.
	EncodeMetrics(families []*dto.MetricFamily, at time.Time) []Batch
}

// Retry is an error after which the same batch may be sent again.
type Retry struct {
	Err error
	// After is how long the destination asked to wait; 0 when it did not.
	After time.Duration
}

func (r *Retry) Error() string { return r.Err.Error() }

// Unwrap returns what went wrong.
func (r *Retry) Unwrap() error { return r.Err }

// Refused is an error after which a batch is dropped. Reason is a short word that the drop is counted by; without a
// Refused it is "refused".
type Refused struct {
	Err    error
	Reason string
}

func (r *Refused) Error() string { return r.Err.Error() }

// Unwrap returns what went wrong.
func (r *Refused) Unwrap() error { return r.Err }

// Reasons why something was dropped.
const (
	reasonQueueFull    = "queue_full"   // there was no room, and it was the oldest
	reasonSuperseded   = "superseded"   // metrics: newer values of the same waited
	reasonRefused      = "refused"      // the destination does not want it, and would not later
	reasonRejected     = "rejected"     // the destination took the rest of the batch
	reasonRemoved      = "removed"      // the destination, or its signal, is no longer configured
	reasonShutdown     = "shutdown"     // the agent ended
	reasonUnauthorized = "unauthorized" // the destination does not know us, or does not allow it
	reasonTooLarge     = "too_large"    // the destination does not take batches of this size
)

// reasonOf is what a drop by an error is counted by.
func reasonOf(err error) string {
	var refused *Refused
	if errors.As(err, &refused) && refused.Reason != "" {
		return refused.Reason
	}
	return reasonRefused
}

// waiting is an Exporter that cannot send yet.
type waiting struct {
	Encoder
	err error
}

func (w waiting) Send(context.Context, Batch) (int64, error) { return 0, &Retry{Err: w.err} }
func (w waiting) Close() error                               { return nil }

// errNeedsSecret is no failure: the API server sends it with the configuration when it has connected.
var errNeedsSecret = errors.New("waiting for headers or client certificate, which are in a Secret and not kept over restarts of the agent")

func errInvalid(field string, err error) error { return fmt.Errorf("%s: %w", field, err) }
