package export

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
)

const (
	defaultQueueBytes = 8 << 20
	defaultInterval   = 30 * time.Second
	// askedAtMost is how long a destination may ask to wait.
	askedAtMost = 5 * time.Minute
)

// A destination is one exporter of the configuration, under one name and of one kind.
type destination struct {
	config    Config
	name      string
	made      time.Time // since when it counts
	queue     *queue
	gathering atomic.Int64

	telling sync.Mutex // one call of Failed at a time

	mu       sync.Mutex // of the fields below
	wanted   *v1alpha1.TelemetryExporter
	run      *run
	outcomes [signals]outcome
	told     bool // whether Failed knows that it fails
}

// outcome is what became of the last request of a signal.
type outcome struct {
	known  bool
	err    error
	notice string // beside success: what the destination did not want
}

// A run is a destination with one configuration.
type run struct {
	exporter Exporter
	wanted   *v1alpha1.TelemetryExporter
	held     bool // nothing is sent with this configuration
	ctx      context.Context
	cancel   context.CancelFunc
	draining chan struct{} // closed: end when nothing waits any more
	done     chan struct{} // closed when the exporter is closed
}

func newDestination(config Config, wanted *v1alpha1.TelemetryExporter) *destination {
	d := &destination{config: config, name: wanted.GetName(), made: time.Now(), queue: newQueue(queueLimit(wanted))}
	d.start(wanted)
	return d
}

func queueLimit(wanted *v1alpha1.TelemetryExporter) int64 {
	if limit := wanted.GetOtlp().GetQueueBytes(); limit > 0 {
		return limit
	}
	return defaultQueueBytes
}

// wants tells whether a signal is sent.
func wants(wanted *v1alpha1.TelemetryExporter, s Signal) bool {
	if s == Metrics {
		return wanted.GetMetrics()
	}
	return wanted.GetFlowLogs()
}

// takes tells whether the destination can be changed into what is wanted: what waits is encoded for its kind.
func (d *destination) takes(wanted *v1alpha1.TelemetryExporter) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.name == wanted.GetName() && kindOf(d.wanted) == kindOf(wanted)
}

// change puts another configuration in force. What waits goes on waiting, and is sent as the new one says.
func (d *destination) change(wanted *v1alpha1.TelemetryExporter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if proto.Equal(d.wanted, wanted) {
		return
	}
	d.queue.resize(queueLimit(wanted))
	d.start(wanted)
}

// start replaces the run. d.mu is held, or nobody knows the destination yet.
func (d *destination) start(wanted *v1alpha1.TelemetryExporter) {
	previous := d.run
	exporter, err := open(d.config, wanted)
	ctx, cancel := context.WithCancel(context.Background())
	d.wanted, d.outcomes = wanted, [signals]outcome{}
	d.run = &run{exporter: exporter, wanted: wanted, held: err != nil, ctx: ctx, cancel: cancel, draining: make(chan struct{}), done: make(chan struct{})}
	for s := range signals {
		if err != nil && wants(wanted, s) {
			d.outcomes[s] = outcome{known: true, err: err}
		}
	}
	if previous != nil {
		previous.cancel()
	}
	go d.work(previous, d.run)
}

// work runs until the run is cancelled, or drained and empty. Two runs never take from the queue at once.
func (d *destination) work(previous, r *run) {
	defer close(r.done)
	if previous != nil {
		<-previous.done
	}
	d.tell()
	var group sync.WaitGroup
	for s := range signals {
		if !wants(r.wanted, s) {
			d.queue.empty(s, reasonRemoved)
			continue
		}
		group.Go(func() { d.send(r, s) })
	}
	if r.wanted.GetMetrics() && d.config.Metrics != nil && !r.held {
		group.Go(func() { d.gather(r) })
	}
	group.Wait()
	_ = r.exporter.Close() // all that it was to send is settled
}

// log encodes records and lets them wait.
func (d *destination) log(records []*flowlog.Record) {
	d.mu.Lock()
	wanted, exporter := d.wanted.GetFlowLogs(), d.run.exporter
	d.mu.Unlock()
	if !wanted {
		return
	}
	for len(records) > 0 {
		some := records[:min(len(records), recordsAtOnce)]
		records = records[len(some):]
		d.queue.put(0, Batch{Signal: FlowLogs, Payload: exporter.EncodeLogs(some), Items: int64(len(some))})
	}
}

// gather lets metrics wait, once an interval. Nodes begin at different times.
func (d *destination) gather(r *run) {
	interval := time.Duration(r.wanted.GetOtlp().GetIntervalNano())
	if interval <= 0 {
		interval = defaultInterval
	}
	timer := time.NewTimer(rand.N(interval))
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.draining:
			return
		case now := <-timer.C:
			timer.Reset(interval)
			families, err := d.config.Metrics()
			if err != nil && len(families) == 0 { // what is missing of others shows in themselves
				d.settled(r, Metrics, outcome{known: true, err: fmt.Errorf("gathering metrics: %w", err)})
			}
			d.queue.put(d.gathering.Add(1), r.exporter.EncodeMetrics(families, now)...)
		}
	}
}

// probes tells whether a destination is asked for before there is something to send: flows may be rare, and one that cannot be
// reached, or written to, is to be known at once. Metrics come soon by themselves.
func (r *run) probes(s Signal) bool { return s == FlowLogs && !r.held }

// send sends what waits of a signal, oldest first.
func (d *destination) send(r *run, s Signal) {
	failures := 0
	probe := r.probes(s)
	for {
		batch, ok := d.queue.take(s)
		if !ok && probe {
			if probe, ok = d.probe(r, s, &failures); !ok {
				return
			}
			continue
		}
		if !ok {
			select {
			case <-r.ctx.Done():
				return
			case <-r.draining:
				return
			case <-d.queue.more[s]:
			}
			continue
		}
		probe = false // a batch tells more, and what was rejected of it would be forgotten
		rejected, err := r.exporter.Send(r.ctx, batch)
		var retry *Retry
		switch {
		case err == nil:
			failures = 0
			d.queue.settle(s, rejected, reasonRejected)
			d.settled(r, s, outcome{known: true, notice: noticeOf(rejected, batch.Items)})
			continue
		case r.ctx.Err() != nil:
			d.queue.putBack(s)
			return
		case errors.As(err, &retry):
			d.queue.putBack(s)
		default:
			d.queue.settle(s, batch.Items, reasonOf(err))
		}
		d.settled(r, s, outcome{known: true, err: err})
		if retry == nil {
			continue
		}
		failures++
		if !d.pause(r, d.backoff(failures, retry.After)) {
			return
		}
	}
}

// probe sends an empty batch, of which nothing is counted. again says that it has to be tried again, ok is false when the run
// has ended.
func (d *destination) probe(r *run, s Signal, failures *int) (again, ok bool) {
	select {
	case <-r.draining:
		return false, false // nothing waits
	default:
	}
	_, err := r.exporter.Send(r.ctx, Batch{Signal: s})
	if r.ctx.Err() != nil {
		return false, false
	}
	d.settled(r, s, outcome{known: true, err: err})
	var retry *Retry
	if !errors.As(err, &retry) {
		*failures = 0
		return false, true
	}
	*failures++
	return true, d.pause(r, d.backoff(*failures, retry.After))
}

func noticeOf(rejected, of int64) string {
	if rejected <= 0 {
		return ""
	}
	return fmt.Sprintf("the destination rejected %d of the last %d items", min(rejected, of), of)
}

// backoff is how long to wait after so many failures in a row: exponential, and different on each node. A destination that asks
// for less than the first pause, as for a nanosecond, would be asked again without an end.
func (d *destination) backoff(failures int, asked time.Duration) time.Duration {
	if asked > 0 {
		return min(max(asked, d.config.RetryAfter), askedAtMost)
	}
	wait := d.config.RetryAtMost
	if failures < 16 {
		wait = min(wait, d.config.RetryAfter<<(failures-1))
	}
	return wait/2 + rand.N(wait/2+1)
}

// pause waits, less long when the run is told to drain; false when it has ended.
func (d *destination) pause(r *run, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	draining := r.draining
	select {
	case <-draining: // already: every further attempt waits
		draining = nil
	default:
	}
	select {
	case <-r.ctx.Done():
		return false
	case <-draining:
	case <-timer.C:
	}
	return true
}

// settled notes what became of a request.
func (d *destination) settled(r *run, s Signal, o outcome) {
	d.mu.Lock()
	if d.run == r {
		d.outcomes[s] = o
	}
	d.mu.Unlock()
	d.tell()
}

// tell calls Failed when that changed. What is not known yet is no change.
func (d *destination) tell() {
	d.telling.Lock()
	defer d.telling.Unlock()
	d.mu.Lock()
	reaching, _, err := d.health()
	failing := err != nil && !errors.Is(err, errNeedsSecret)
	changed := failing != d.told && (failing || reaching)
	if changed {
		d.told = failing
	}
	d.mu.Unlock()
	if !changed {
		return
	}
	if !failing {
		err = nil
	}
	d.config.Failed(d.name, err)
}

// health sums the signals up: whether the last requests were answered well, or else why not. d.mu is held.
func (d *destination) health() (reaching bool, notice string, err error) {
	for s := range signals {
		if !wants(d.wanted, s) || !d.outcomes[s].known {
			continue
		}
		if d.outcomes[s].err != nil {
			return false, "", d.outcomes[s].err
		}
		reaching = true
		if d.outcomes[s].notice != "" {
			notice = d.outcomes[s].notice
		}
	}
	return reaching, notice, nil
}

// state is for the report to the API server.
func (d *destination) state() *v1alpha1.TelemetryExporterState {
	d.mu.Lock()
	reaching, notice, err := d.health()
	d.mu.Unlock()
	state := &v1alpha1.TelemetryExporterState{Name: d.name, Reaching: reaching, Message: notice}
	if err != nil {
		state.Failing, state.Message = !errors.Is(err, errNeedsSecret), printable(err.Error(), messageBytes)
	}
	for s := range signals {
		c, _, _ := d.queue.snapshot(s)
		state.Sent += c.sent
		for _, n := range c.dropped {
			state.Dropped += n
		}
	}
	return state
}

// stop ends the destination; what waits is dropped. The channel is closed when it has ended.
func (d *destination) stop(reason string) <-chan struct{} {
	d.mu.Lock()
	r := d.run
	d.mu.Unlock()
	d.queue.close()
	r.cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-r.done
		for s := range signals {
			d.queue.empty(s, reason)
		}
	}()
	return ended
}

// flush sends what waits while the context lasts, and ends the destination.
func (d *destination) flush(ctx context.Context) error {
	d.mu.Lock()
	r := d.run
	d.mu.Unlock()
	d.queue.close()
	close(r.draining)
	if !r.held { // otherwise nothing would be sent
		select {
		case <-r.done:
		case <-ctx.Done():
		}
	}
	var waiting int64
	for s := range signals {
		_, n, _ := d.queue.snapshot(s)
		waiting += n
	}
	<-d.stop(reasonShutdown)
	if waiting > 0 {
		return fmt.Errorf("exporter %s: %d records and points were not sent in time", d.name, waiting)
	}
	return nil
}

func (d *destination) collect(to chan<- prometheus.Metric) {
	d.mu.Lock()
	wanted := d.wanted
	reaching, _, err := d.health()
	d.mu.Unlock()
	var bytes int64
	for s := range signals {
		var c counts
		c, _, bytes = d.queue.snapshot(s)
		if wants(wanted, s) || c.given > 0 {
			to <- prometheus.MustNewConstMetricWithCreatedTimestamp(sentTotal, prometheus.CounterValue, float64(c.sent), d.made, d.name, s.String())
		}
		for reason, n := range c.dropped {
			to <- prometheus.MustNewConstMetricWithCreatedTimestamp(droppedTotal, prometheus.CounterValue, float64(n), d.made, d.name, s.String(), reason)
		}
	}
	to <- prometheus.MustNewConstMetric(queueBytes, prometheus.GaugeValue, float64(bytes), d.name)
	switch { // nothing is known of a destination for which there has been nothing to send
	case reaching:
		to <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, 1, d.name)
	case err != nil:
		to <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, 0, d.name)
	}
}
