package captures

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	informers "github.com/networkobservability/networkobservability/apis/generated/informers/externalversions/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// Errors of Agents, to be wrapped where they apply.
var (
	// ErrNotFound: the agent does not know the capture.
	ErrNotFound = errors.New("the agent does not know this capture")
	// ErrPrecondition: the agent was told something later, has deleted the capture, or captures are switched off.
	ErrPrecondition = errors.New("the agent is not in the state for it")
	// ErrInvalid: the agent will never take the request.
	ErrInvalid = errors.New("the agent does not accept the request")
	// ErrNoAgent: no agent runs on the node.
	ErrNoAgent = errors.New("no agent runs on this node")
)

// Agents are those of all nodes. Calls may be repeated. Their errors begin with the node's name and are fit to be shown;
// any that wraps none of those above is worth another try. Answers are shared and are not changed.
type Agents interface {
	Ensure(ctx context.Context, node string, request *agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error)
	Stop(ctx context.Context, node string, request *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error)
	Seal(ctx context.Context, node string, request *agentv1.SealCaptureRequest) (*agentv1.CaptureState, error)
	Store(ctx context.Context, node string, request *agentv1.StoreCaptureRequest) (*agentv1.CaptureState, error)
	Delete(ctx context.Context, node, uid string) error
	// List tells of the captures of these UIDs, of all when uids is nil.
	List(ctx context.Context, node string, uids []string) (map[string]*agentv1.CaptureState, error)
	Describe(ctx context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error
	// Nodes are those that have an agent.
	Nodes() []string
}

// Config is what a Controller stands on. What has no default must be set.
type Config struct {
	// Captures is a client of this server itself, that may do everything with captures.
	Captures versioned.Interface
	// Client is one of the cluster. It watches pods, namespaces, nodes and Services, holds a Lease in our namespace, asks for
	// reviews, writes Events, and reads those Secrets that namespaces let it read.
	Client kubernetes.Interface
	// Identity names this replica in the Lease; the name of its pod.
	Identity string
	Agents   Agents
	// Compile makes a program of a filter, whose names are those of namespace unless they say otherwise. resolve gives
	// the addresses of filtertext.Host, Pod and Service. Errors are for users.
	Compile func(namespace, text string, resolve filtertext.Resolve) (*Program, error)
	// Names are what an address is called now, for the file; none when nobody knows.
	Names func(netip.Addr) []string
	// Allow says whether the operator allows an output, and in which networks (CIDR) beside public ones its endpoint may
	// be. The error is for users.
	Allow func(*v1alpha1.CaptureOutput) (networks []string, err error)
	// Clock drives everything but the Lease. The real one by default.
	Clock clock.WithTicker
	// Register takes the metrics; by default legacyregistry.Register, which the generic server shows.
	Register func(metrics.Registerable) error
}

// Controller makes captures happen, in that replica that leads, and answers questions about them in all. Its methods are
// safe for concurrent use.
type Controller struct {
	cfg      Config
	cluster  *cluster
	captures [2]cache.SharedIndexInformer
	metrics  *controllerMetrics
}

// byUID is an index of the informers of captures.
const byUID = "uid"

// New makes a Controller, which acts once Run is called.
func New(cfg Config) (*Controller, error) {
	if cfg.Captures == nil || cfg.Client == nil || cfg.Agents == nil || cfg.Compile == nil || cfg.Names == nil || cfg.Allow == nil || cfg.Identity == "" {
		return nil, errors.New("a controller of captures needs clients, agents, a compiler, names, a policy and an identity")
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
	cluster, err := newCluster(cfg.Client)
	if err != nil {
		return nil, err
	}
	indexers := cache.Indexers{byUID: func(object any) ([]string, error) {
		s, err := subjectOf(object)
		if err != nil {
			return nil, err
		}
		return []string{string(s.uid())}, nil
	}}
	return &Controller{cfg: cfg, cluster: cluster, metrics: m, captures: [2]cache.SharedIndexInformer{
		informers.NewCaptureInformer(cfg.Captures, "", 0, indexers),
		informers.NewClusterCaptureInformer(cfg.Captures, 0, indexers),
	}}, nil
}

// Run follows captures and the cluster until ctx ends, and stands for leader; the Lease is released on return. It may be
// called once. The server that Config.Captures is a client of need not serve yet.
func (c *Controller) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { c.cluster.run(ctx) })
	for _, informer := range c.captures {
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), c.cluster.synced, c.captures[0].HasSynced, c.captures[1].HasSynced) {
		c.lead(ctx)
	}
}

// Synced fails until the cluster is known, which Matches and Resolve wait for.
func (c *Controller) Synced() error {
	if !c.cluster.synced() {
		return errNotSynced
	}
	return nil
}

// Matches are the pods on nodes, and the nodes, that a Capture or ClusterCapture matches now, in a fixed order.
func (c *Controller) Matches(capture runtime.Object) ([]Match, error) {
	return c.cluster.matches(capture)
}

// Resolve gives the addresses that a pod, a Service or what a name may stand for has now. Errors are for users.
func (c *Controller) Resolve(kind filtertext.Kind, namespace, name string) ([]netip.Addr, error) {
	if !c.cluster.synced() {
		return nil, errNotSynced
	}
	return c.cluster.resolve(kind, namespace, name)
}

// known says whether an object of this UID is in memory.
func (c *Controller) known(uid types.UID) bool {
	for _, informer := range c.captures {
		if found, err := informer.GetIndexer().ByIndex(byUID, string(uid)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

// kindOf is what an error of Agents means here.
func kindOf(err error) failure {
	switch {
	case errors.Is(err, ErrNoAgent):
		return failedNoAgent
	case errors.Is(err, ErrPrecondition):
		return failedPrecondition
	case errors.Is(err, ErrInvalid):
		return failedInvalid
	case errors.Is(err, ErrNotFound):
		return failedUnknown
	}
	return failedSilent
}

// aViolation is an agent's answer that cannot be.
func aViolation(node, text string) error {
	return fmt.Errorf("%s: the answer of the agent is not valid: %s", node, text)
}
