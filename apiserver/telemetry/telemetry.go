package telemetry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	informers "github.com/networkobservability/networkobservability/apis/generated/informers/externalversions/networkobservability/v1alpha1"
)

// Errors of Agents and Streams, to be wrapped where they apply.
var (
	// ErrReplaced: another stream to this agent has begun.
	ErrReplaced = errors.New("another stream has begun")
	// ErrUnknown: the agent is too old for telemetry, or has it switched off.
	ErrUnknown = errors.New("the agent does not know telemetry")
)

// Agents are those of all nodes. Errors are fit to be shown and begin with the node's name.
type Agents interface {
	// Nodes are those that have an agent.
	Nodes() []string
	// Configure begins a stream to the agent of a node, which ends when ctx does.
	Configure(ctx context.Context, node string) (Stream, error)
}

// A Stream is one ConfigureTelemetry. Send and Recv are called by one goroutine each.
type Stream interface {
	// Send fails when the stream has ended, and does not wait for ever for an agent that does not read. Recv says why.
	Send(*agentv1.TelemetryUpdate) error
	// Recv fails when the stream has ended, or the agent has been silent for too long. Reports are checked.
	Recv() (*agentv1.TelemetryReport, error)
	Close()
}

// A Pod is one on a node. Nothing that it points to may change.
type Pod struct {
	// Key is the name by which the agent knows it.
	Key                  string
	Namespace, Name, UID string
	Labels               map[string]string
	// WorkloadKind and WorkloadName are the pod's controller, or its Deployment; both are empty for a pod of its own.
	WorkloadKind, WorkloadName string
	Created                    time.Time
	// Record is equal (==) as long as nothing of the pod has changed.
	Record any
}

// OwnerKind says what holds an address.
type OwnerKind int

// Kinds of owners.
const (
	Nobody OwnerKind = iota
	PodOwner
	ServiceOwner
	NodeOwner
)

// An Owner is who holds an address. The zero value is nobody that is known.
type Owner struct {
	Kind OwnerKind
	// Namespace is empty for a node.
	Namespace, Name string
	// WorkloadKind, WorkloadName and Created are of a pod, as in Pod.
	WorkloadKind, WorkloadName string
	Created                    time.Time
	// Since is when it came to hold the address; zero where that is not known.
	Since time.Time
}

// Config is what a Controller stands on. What has no default must be set.
type Config struct {
	// Own is a client of this server itself, that may read NetworkTelemetries and write their status.
	Own versioned.Interface
	// Client is one of the cluster. It watches namespaces, holds a Lease in our namespace, and gets Secrets there.
	Client kubernetes.Interface
	// Identity names this replica in the Lease; the name of its pod.
	Identity string
	Agents   Agents
	// Pods are those of a node that are there and have not ended. It is called every second for each node.
	Pods func(node string) iter.Seq[Pod]
	// Owner is who holds an address at a time.
	Owner func(netip.Addr, time.Time) Owner
	// APIServers are where the Kubernetes API is served ("192.0.2.1:6443"); empty while that is not known, nil where nobody
	// knows.
	APIServers func() []string
	// Synced fails until Pods and Owner know the cluster. Nothing is said of pods and addresses before.
	Synced func() error
	// Clock drives everything but the Lease. The real one by default.
	Clock clock.WithTicker
	// Register takes the metrics; by default legacyregistry.Register, which the generic server shows.
	Register func(metrics.Registerable) error
}

// Controller has agents do what the NetworkTelemetry says, in that replica that leads.
type Controller struct {
	cfg        Config
	informer   cache.SharedIndexInformer
	namespaces *namespaces
	metrics    *controllerMetrics
}

// New makes a Controller, which acts once Run is called.
func New(cfg Config) (*Controller, error) {
	if cfg.Own == nil || cfg.Client == nil || cfg.Agents == nil || cfg.Pods == nil || cfg.Owner == nil || cfg.Synced == nil || cfg.Identity == "" {
		return nil, errors.New("a controller of telemetry needs clients, agents, a directory and an identity")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Register == nil {
		cfg.Register = legacyregistry.Register
	}
	m, err := newMetrics(cfg.Register)
	if err != nil {
		return nil, err
	}
	namespaces, err := newNamespaces(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("following namespaces: %w", err)
	}
	return &Controller{
		cfg: cfg, metrics: m, namespaces: namespaces,
		informer: informers.NewNetworkTelemetryInformer(cfg.Own, 0, cache.Indexers{}),
	}, nil
}

// Run follows the NetworkTelemetry and the namespaces until ctx ends, and stands for leader; the Lease is released on return.
// It may be called once. The server that Config.Own is a client of need not serve yet.
func (c *Controller) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { c.informer.RunWithContext(ctx) })
	running.Go(func() { c.namespaces.informer.RunWithContext(ctx) })
	if cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced, c.namespaces.synced) {
		c.lead(ctx)
	}
}
