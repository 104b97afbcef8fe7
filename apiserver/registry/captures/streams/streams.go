package streams

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// Errors that a Source wraps.
var (
	// ErrNotFound: the node's agent does not know the capture, or there is no agent.
	ErrNotFound = errors.New("the node has nothing of the capture")
	// ErrOvertaken: a ring of files let packets go that a follower had not read.
	ErrOvertaken = errors.New("packets were let go before they were read")
)

// A Source is the agents. Errors begin with the node's name. Methods must be safe for concurrent use.
type Source interface {
	// ReadCapture hands over packets, batch by batch, and holds no more than one while take does not return. The memory of a
	// batch is used again so many batches later, when take has returned from the one before that. It ends within a second of
	// ctx.
	ReadCapture(ctx context.Context, node string, request *agentv1.ReadCaptureRequest, batches int, take func(*agentv1.ReadCaptureResponse) error) error
	// DescribeCapture hands over what is needed to read a capture.
	DescribeCapture(ctx context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error
}

// A Match is a pod on its node, or a node when Pod is empty.
type Match struct{ Node, Namespace, Pod string }

// Config is what streams need. What has no default must be set.
type Config struct {
	// Captures and ClusterCaptures give the objects as they are stored.
	Captures, ClusterCaptures rest.Getter
	Source                    Source
	// Authorizer is asked when a stream opens and every 3 s while it is open. It must not keep answers, and nobody may be
	// allowed by it for being in a group (SubjectAccessReviews).
	Authorizer Authorizer
	// Matches are the pods and nodes that a capture that runs would record now. It is asked every second for each stream
	// that is live, and has to answer from memory.
	Matches func(capture runtime.Object) ([]Match, error)
	// Names are what an address is called now, at most a few; from memory.
	Names func(address netip.Addr) []string
	// Stopping is closed when the server begins to stop. Streams that are still open StopGrace (10 s by default) later are
	// ended, visibly.
	Stopping  <-chan struct{}
	StopGrace time.Duration
	// PerUser (10) and InAll (100) bound the streams that are open, Memory (384 MiB) what they may hold of nodes' packets.
	PerUser, InAll int
	Memory         int64
	// Window is how long a live packet waits for other nodes'; 250 ms by default.
	Window time.Duration
	// Clock is the real one by default.
	Clock clock.WithTicker
	// Register takes the metrics; by default legacyregistry.Register.
	Register func(metrics.Registerable) error
}

// LongRunning are the subresources that the generic server has to treat as long-running: they are neither ended by its
// timeout, nor counted among its requests in flight, nor waited for when it stops. They bound and end themselves.
var LongRunning = []string{"pcap", "headers", "attach"}

// Streams are the subresources of both kinds of captures that answer with packets.
type Streams struct {
	Config
	limits  limits
	metrics streamMetrics
}

// New checks the configuration and registers metrics.
func New(config Config) (*Streams, error) {
	if config.Captures == nil || config.ClusterCaptures == nil || config.Source == nil || config.Authorizer == nil || config.Matches == nil || config.Names == nil {
		return nil, errors.New("streams of packets need stores, a source, an authorizer, matches and names")
	}
	s := &Streams{Config: config, metrics: newMetrics()}
	s.StopGrace = orDefault(s.StopGrace, 10*time.Second)
	s.Window = orDefault(s.Window, 250*time.Millisecond)
	s.limits = limits{
		perUser: orDefault(s.PerUser, 10), inAll: orDefault(s.InAll, 100), memory: orDefault(s.Memory, 384<<20),
		byUser: map[string]int{},
	}
	if s.Clock == nil {
		s.Clock = clock.RealClock{}
	}
	if s.Register == nil {
		s.Register = legacyregistry.Register
	}
	return s, s.metrics.register(s.Register)
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Storage are the subresources by their paths below the group's version.
func (s *Streams) Storage() map[string]rest.Storage {
	storage := map[string]rest.Storage{}
	for resource, getter := range map[string]rest.Getter{"captures": s.Captures, "clustercaptures": s.ClusterCaptures} {
		for subresource, serve := range map[string]serveFunc{
			"pcap":    (*session).serveFile,
			"headers": (*session).serveFile,
			"attach":  (*session).serveLive,
		} {
			storage[resource+"/"+subresource] = &REST{streams: s, getter: getter, resource: resource, subresource: subresource, serve: serve}
		}
	}
	return storage
}

// A serveFunc writes an answer. Its error is sent as the answer if nothing was written yet, and else breaks it off.
type serveFunc func(*session, context.Context, *output) error

// REST is one subresource.
type REST struct {
	streams               *Streams
	getter                rest.Getter
	resource, subresource string
	serve                 serveFunc
}

var (
	_ rest.Connecter       = &REST{}
	_ rest.StorageMetadata = &REST{}
)

// New implements rest.Storage.
func (r *REST) New() runtime.Object { return &v1alpha1.CaptureReadOptions{} }

// Destroy implements rest.Storage.
func (r *REST) Destroy() {}

// NewConnectOptions implements rest.Connecter.
func (r *REST) NewConnectOptions() (options runtime.Object, subpath bool, subpathParameter string) {
	return &v1alpha1.CaptureReadOptions{}, false, ""
}

// ConnectMethods implements rest.Connecter.
func (r *REST) ConnectMethods() []string { return []string{http.MethodGet} }

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *REST) ProducesMIMETypes(string) []string { return []string{contentType} }

// ProducesObject implements rest.StorageMetadata.
func (r *REST) ProducesObject(string) any { return "" }

// Connect implements rest.Connecter. Everything that can fail with an answer is done by the handler.
func (r *REST) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	read, ok := options.(*v1alpha1.CaptureReadOptions)
	if !ok {
		return nil, fmt.Errorf("options of type %T", options)
	}
	if err := checkNarrowing(read, genericrequest.NamespaceValue(ctx)); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if read.HeadersOnly && r.subresource != "attach" {
		return nil, apierrors.NewBadRequest("parameter headersOnly is for attach; read the subresource headers instead")
	}
	if (read.Offset != 0 || read.Digest != "") && r.subresource == "attach" {
		return nil, apierrors.NewBadRequest("attach begins at the beginning: it knows neither offset nor digest")
	}
	user, ok := genericrequest.UserFrom(ctx)
	if !ok {
		return nil, errors.New("there is no user in the request")
	}
	return &session{
		REST: r, name: name, namespace: genericrequest.NamespaceValue(ctx), options: read, user: user, responder: responder,
	}, nil
}
