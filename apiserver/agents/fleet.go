package agents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Query is what to read of one node.
type Query struct {
	// PodKeys are keys as in agentv1.ReadStatsRequest, but any number of them. Keys that no agent would take
	// have no row in the Reply.
	PodKeys []string
	// Ahead are keys that the caller will probably ask for within a second. They are read with the others if the
	// agent has to be asked, so that it need not be asked again; the Reply does not hold them.
	Ahead []string
	// Node asks for the node's own counters.
	Node bool
}

// Reply is what one node answered. What it points to is shared with other readers and must not be written.
type Reply struct {
	// Pods holds rows of asked keys only. A key that the agent left out, against the protocol, is not in it.
	Pods map[string]*agentv1.PodStats
	// Node is nil when it was not asked for, and when the agent left it out against the protocol.
	Node *agentv1.NodeStats
	// Err says why the node did not answer, its name first; there are rows only when it is nil.
	Err error
}

// ErrNoAgents is wrapped by Read's error when the telemetry as a whole is down.
var ErrNoAgents = errors.New("no node agent answers")

// ErrNoAgent is wrapped by errors about a node for which the control plane names no agent.
var ErrNoAgent = errors.New("no agent runs on this node")

var (
	errTimeout = errors.New("did not answer in time")
	errStopped = errors.New("the reader of agents has stopped")
)

const (
	// sweepEvery is how often what waits for time to pass is looked at: pauses of breakers, old answers.
	sweepEvery = 250 * time.Millisecond
	// maxProbes bounds the probes under way. A dead node holds one for a deadline, so with its pause 680 silent agents
	// are each probed as often as their breakers want.
	maxProbes = 256
	// answersFor is how long an agent that answered is presumed to answer still.
	answersFor = time.Minute
	// witnesses is how many agents that were not asked are, before all are said to be down.
	witnesses = 3
)

// Config is what a Fleet needs. Client and TLS must be set; zero values elsewhere mean the default.
type Config struct {
	// Client lists and watches EndpointSlices in the agents' namespace and, of the Kubernetes API itself, Service and
	// EndpointSlices in the namespace default. It does nothing else.
	Client kubernetes.Interface
	// TLS is asked at each handshake.
	TLS TLSSource
	// NodeTimeout is the time that an agent has to answer, connecting included; 3 s by default.
	NodeTimeout time.Duration
	// ReadTimeout is the longest that Read takes; nodes that were not reached by then have an error. 8 s by
	// default, so that kubectl answers within 10.
	ReadTimeout time.Duration
	// Workers bounds the calls under way, of all reads together; 128 by default. A quarter is kept for reads of few
	// nodes, and another for those of many.
	Workers int
	// Clock drives all but the deadlines on the wire.
	Clock clock.WithTicker
	// Register takes the fleet's metrics; by default legacyregistry.Register, which the generic server shows.
	Register func(metrics.Registerable) error
}

// Fleet is all agents of the cluster. Its methods are safe for concurrent use.
type Fleet struct {
	source      TLSSource
	nodeTimeout time.Duration
	readTimeout time.Duration
	workers     int
	clock       clock.WithTicker
	metrics     *fleetMetrics

	informer cache.SharedIndexInformer
	api      kubernetesAPI
	changed  chan struct{}
	synced   chan struct{}
	alive    context.Context
	stop     context.CancelCauseFunc
	calls    sync.WaitGroup

	// mu is never held over I/O and guards everything below, with what it points to.
	mu      sync.Mutex
	agents  map[string]*agent
	queues  [widths][]*agent
	running [widths]int
	probing int
}

// agent is what is known of the agent of one node.
type agent struct {
	node   string
	places []place
	// conn is nil until the first call, and after it was given up.
	conn    *connection
	breaker breaker
	flights flights
	// queued says in which of the fleet's queues the agent is.
	queued [widths]bool
	// generation rises when places change; what ends later says nothing about the new ones.
	generation int
	// answered is when the agent last answered a call; zero after one that it did not.
	answered time.Time
	// logged is whether the breaker was open when it was last logged.
	logged bool
}

// New makes a Fleet, which answers once Run is called.
func New(cfg Config) (*Fleet, error) {
	if cfg.Client == nil || cfg.TLS == nil {
		return nil, errors.New("a fleet of agents needs a client and a source of certificates")
	}
	if cfg.Register == nil {
		cfg.Register = legacyregistry.Register
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	m, err := newMetrics(cfg.Register)
	if err != nil {
		return nil, err
	}
	f := &Fleet{
		source:      cfg.TLS,
		nodeTimeout: orDefault(cfg.NodeTimeout, 3*time.Second),
		readTimeout: orDefault(cfg.ReadTimeout, 8*time.Second),
		workers:     orDefault(cfg.Workers, 128),
		clock:       cfg.Clock,
		metrics:     m,
		informer:    informerFor(cfg.Client),
		api:         newKubernetesAPI(cfg.Client),
		changed:     make(chan struct{}, 1),
		synced:      make(chan struct{}),
		agents:      map[string]*agent{},
	}
	f.alive, f.stop = context.WithCancelCause(context.Background())
	return f, f.watch()
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// informerFor sees the EndpointSlices of the agents' Service and nothing else.
func informerFor(client kubernetes.Interface) cache.SharedIndexInformer {
	return discoveryinformers.NewFilteredEndpointSliceInformer(client, agentv1.Namespace, 0, cache.Indexers{},
		func(options *metav1.ListOptions) {
			options.LabelSelector = labels.Set{discoveryv1.LabelServiceName: agentv1.ServiceName}.String()
		})
}

func (f *Fleet) watch() error {
	notify := func() {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	_, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		return fmt.Errorf("watching the EndpointSlices of the agents: %w", err)
	}
	return nil
}

// Run follows the agents and probes the silent ones until ctx ends; then it ends all calls and connections.
// It may be called once.
func (f *Fleet) Run(ctx context.Context) {
	var informer sync.WaitGroup
	informer.Go(func() { f.informer.RunWithContext(ctx) })
	informer.Go(func() { f.api.run(ctx) })
	defer informer.Wait()
	defer f.shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), f.informer.HasSynced) {
		return
	}
	f.refresh()
	close(f.synced)
	klog.FromContext(ctx).Info("Found the node agents", "agents", f.known())

	ticker := f.clock.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
			f.refresh()
		case <-ticker.C():
			f.sweep()
			f.logTransitions(klog.FromContext(ctx))
		}
	}
}

func (f *Fleet) known() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.agents)
}

// refresh takes over where the agents are now.
func (f *Fleet) refresh() {
	endpointSlices, err := discoverylisters.NewEndpointSliceLister(f.informer.GetIndexer()).List(labels.Everything())
	if err != nil {
		return // Listing from the informer's memory with a selector of everything has no way to fail.
	}
	for _, old := range f.move(placesByNode(endpointSlices)) {
		old.giveUp()
	}
}

// move takes over places and returns the connections to give up.
func (f *Fleet) move(nodes map[string][]place) (old []*connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for node, a := range f.agents {
		if conn := f.moveAgent(a, nodes[node]); conn != nil {
			old = append(old, conn)
		}
		if len(a.places) == 0 {
			delete(f.agents, node)
		}
	}
	for node, places := range nodes {
		if f.agents[node] == nil {
			f.agents[node] = &agent{node: node, places: places}
		}
	}
	f.metrics.known.Set(float64(len(f.agents)))
	return old
}

// sweep does what is due: it sends probes and lets old answers go.
func (f *Fleet) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	open := map[string]bool{}
	for node, a := range f.agents {
		a.flights.expire(now)
		if a.breaker.open {
			open[node] = true
		}
	}
	f.metrics.breakers(open)
	for _, a := range f.longestDue() {
		if f.probing < maxProbes && a.breaker.probeDue(now) {
			f.probing++
			f.calls.Go(func() { f.probe(a) })
		}
	}
}

// longestDue are the agents behind open breakers, those that have waited longest for their probe first: where there are
// more silent ones than probes, one that is back must not wait for its luck.
func (f *Fleet) longestDue() []*agent {
	var waiting []*agent
	for _, a := range f.agents {
		if a.breaker.open && !a.breaker.probing {
			waiting = append(waiting, a)
		}
	}
	slices.SortFunc(waiting, func(a, b *agent) int { return a.breaker.probeAt.Compare(b.breaker.probeAt) })
	return waiting
}

// logTransitions logs whose breakers opened or closed since it was last called.
func (f *Fleet) logTransitions(logger klog.Logger) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.agents {
		if a.breaker.open == a.logged {
			continue
		}
		a.logged = a.breaker.open
		if a.logged {
			logger.Info("Node agent does not answer and is probed", "node", a.node, "reason", a.breaker.reason)
		} else {
			logger.Info("Node agent answers again", "node", a.node)
		}
	}
}

// shutdown ends every call and connection, and waits for the calls.
func (f *Fleet) shutdown() {
	f.stop(errStopped)
	for _, old := range f.move(nil) {
		old.giveUp()
	}
	f.calls.Wait()
}
