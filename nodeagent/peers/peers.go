package peers

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// Telemetry is the configuration in force and the names of pods and peers (nodeagent/telemetry).
type Telemetry interface {
	// Config is never nil and must not be changed; Changed is closed when there is another one.
	Config() *v1alpha1.TelemetryConfig
	Changed() <-chan struct{}
	// Pod is nil while a pod is not known.
	Pod(key string) *v1alpha1.TelemetryPod
	// Name is nil while it is not known who has an address; to ask is to want to know.
	Name(address netip.Addr) *v1alpha1.TelemetryName
}

// Config is what New needs.
type Config struct {
	// Flows is the history of the node's flows; nil where none is kept: nothing is counted.
	Flows     *flows.Collector
	Telemetry Telemetry
}

const (
	// nameWithin is for how long what passed is not counted while names of pod or peer are asked for. Then it is counted
	// under PeerUnknown, or not at all when it is not known whether the pod is to be counted.
	nameWithin = 15 * time.Second
	// soon is when to look again for what may come at any time.
	soon = time.Second
	// lookEvery is the least pause between looks: a little less than that between drains.
	lookEvery = 4 * time.Second
	// retry is the pause after the history could not be read.
	retry = 10 * time.Second
)

// Counters counts what pods exchange. Its methods are safe for concurrent use, but Run must run only once at a time.
type Counters struct {
	config Config
	pause  time.Duration // between looks, at least

	mu     sync.Mutex
	tables *tables // nil while no labels are asked for
	lost   int64
}

// New makes counters, which count nothing before Run.
func New(config Config) *Counters { return &Counters{config: config, pause: lookEvery} }

// Read gives every counter, by pod and then in order of appearance; the one of what is folded is among them. Nothing is
// locked while yield runs.
func (c *Counters) Read(yield func(Counter) bool) {
	var some []Counter
	for _, pod := range c.pods() {
		some = c.appendOf(pod, some[:0])
		for i := range some {
			if !yield(some[i]) {
				return
			}
		}
	}
}

// pods are the keys of those that have counters.
func (c *Counters) pods() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.tables.pods))
}

// appendOf appends a pod's counters, if it still has any.
func (c *Counters) appendOf(pod string, to []Counter) []Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables == nil || c.tables.pods[pod] == nil {
		return to
	}
	return append(to, c.tables.pods[pod].counters...)
}

// Folded is how many combinations of labels are in others now. Of a pod it is counted up to 1,000.
func (c *Counters) Folded() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables == nil {
		return 0
	}
	return int64(c.tables.folded)
}

// Lost counts flows, of whatever pod, of which something was pushed out of the history before it was counted.
func (c *Counters) Lost() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// Run counts while the configuration asks for labels, until the context ends.
func (c *Counters) Run(ctx context.Context) {
	defer c.replace(nil)
	for ctx.Err() == nil {
		changed := c.config.Telemetry.Changed()
		var again <-chan time.Time
		if a, limit, total := askedOf(c.config.Telemetry.Config()); c.config.Flows != nil && a != (asked{}) {
			c.replace(newTables(a, limit, total))
			if c.follow(ctx, a) == nil {
				continue
			}
			again = time.After(retry) // the collector's own state says what is wrong
		} else {
			c.replace(nil)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		}
	}
}

func (c *Counters) replace(t *tables) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tables = t
}

// follow counts until the context ends or other labels are asked for.
func (c *Counters) follow(ctx context.Context, a asked) error {
	watch, err := c.config.Flows.Watch()
	if err != nil {
		return err
	}
	defer watch.Close()
	s := session{Counters: c, asked: a}
	for {
		changed := c.config.Telemetry.Changed()
		now, limit, total := askedOf(c.config.Telemetry.Config())
		if now != a {
			return nil
		}
		c.limit(limit, total)
		if err := s.look(watch, time.Now()); err != nil {
			return err
		}
		watch.Wait(ctx, changed, c.pause)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// limit takes over other limits. Who has a place keeps it.
func (c *Counters) limit(limit, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tables.limit, c.tables.total = limit, total
}

// A session is the time while the same labels are asked for. It is for one goroutine.
type session struct {
	*Counters
	asked asked
	now   time.Time
	watch *flows.Watch
	sofar int64 // what the watch has lost, as far as it has been added
}

// look counts what has passed since the last look, and forgets pods that have ended.
func (s *session) look(watch *flows.Watch, now time.Time) error {
	s.watch, s.now = watch, now
	s.mu.Lock()
	s.tables.now = now
	s.tables.heal()
	s.mu.Unlock()
	if err := watch.Look(now, s.visit); err != nil {
		return err
	}
	lost, _ := watch.Lost()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += lost - s.sofar
	s.sofar = lost
	for pod := range s.tables.pods {
		if !s.counts(s.config.Telemetry.Pod(pod)) || !watch.Live(pod) {
			s.tables.forget(pod)
		}
	}
	return nil
}

// visit counts what has passed in a flow, or says when it may be time to.
func (s *session) visit(c *flows.Change) (again time.Time) {
	patient := s.now.Sub(c.Since) < nameWithin
	pod := s.config.Telemetry.Pod(c.PodKey)
	switch {
	case pod == nil && patient:
		return s.now.Add(soon)
	case !s.counts(pod):
		return time.Time{}
	}
	labels, known := s.asked.labels(c, s.config.Telemetry.Name)
	if !known && patient {
		return s.now.Add(soon)
	}
	if c.Packets == ([2]int64{}) || s.tables.pods[c.PodKey] == nil && !s.watch.Live(c.PodKey) {
		return time.Time{} // it has only ended, or dropped something; or its pod has ended
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables.add(c.PodKey, labels, c.Bytes, c.Packets)
	return time.Time{}
}

// counts says whether a pod's exchanges are counted.
func (s *session) counts(pod *v1alpha1.TelemetryPod) bool {
	return slices.Contains(pod.GetGroups(), v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
}
