package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/client-go/kubernetes"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	restclient "k8s.io/client-go/rest"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/agents"
	controller "github.com/networkobservability/networkobservability/apiserver/captures"
	"github.com/networkobservability/networkobservability/apiserver/registry/captures"
	"github.com/networkobservability/networkobservability/apiserver/registry/captures/streams"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
)

// readPolicy reads what the operator decides about captures; without a file, packets stay on the nodes.
func readPolicy(file string) (captures.Policy, error) {
	if file == "" {
		return captures.Policy{}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return captures.Policy{}, fmt.Errorf("--config: %w", err)
	}
	policy, err := captures.ParsePolicy(text)
	if err != nil {
		return captures.Policy{}, fmt.Errorf("--config: %s: %w", file, err)
	}
	return policy, nil
}

// capturing is everything about captures: what is served of them, and what makes them happen.
type capturing struct {
	controller *controller.Controller
	storage    map[string]rest.Storage
}

// newCapturing wires captures. The server's own address in config has to be settled.
func newCapturing(o *Options, config *genericapiserver.RecommendedConfig, client kubernetes.Interface, fleet *agents.Fleet, known *directory.Directory, live expectation) (*capturing, error) {
	policy, err := readPolicy(o.Config)
	if err != nil {
		return nil, err
	}
	own, err := versioned.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("making a client of the server itself: %w", err)
	}
	calls, err := agents.NewCaptures(fleet, nil)
	if err != nil {
		return nil, err
	}
	reads, err := agents.NewCaptureStreams(fleet, nil)
	if err != nil {
		return nil, err
	}
	reviews, err := newReviews(config.ClientConfig)
	if err != nil {
		return nil, err
	}
	names := func(address netip.Addr) []string { return namesOf(known, address, time.Now()) }
	c := &capturing{}
	c.controller, err = controller.New(controller.Config{
		Captures: own, Client: client, Identity: o.Identity, Agents: captureAgents{calls},
		Compile: programFor, Names: names, Allow: policy.Allow,
	})
	if err != nil {
		return nil, err
	}
	stored, err := captures.NewStorage(captures.Config{
		Scheme: scheme, Getter: config.RESTOptionsGetter, Policy: policy, Authorizer: config.Authorization.Authorizer,
		Resolve: c.controller.Resolve, Compile: describe, Matches: c.matches, Expect: live.of, Fresh: c.refresh,
	})
	if err != nil {
		return nil, err
	}
	payload, err := streams.New(streams.Config{
		Captures: stored.Captures.Store, ClusterCaptures: stored.ClusterCaptures.Store, Source: captureSource{reads, calls},
		Authorizer: streams.SubjectAccessReviews{Client: reviews},
		Matches:    c.places, Names: names, Stopping: config.ShutdownInitiatedNotify(), StopGrace: o.ShutdownDelay,
	})
	if err != nil {
		return nil, err
	}
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString(streams.LongRunning...))
	c.storage = payload.Storage()
	c.storage["captures"], c.storage["captures/status"] = stored.Captures, stored.CapturesStatus
	c.storage["clustercaptures"], c.storage["clustercaptures/status"] = stored.ClusterCaptures, stored.ClusterCapturesStatus
	return c, nil
}

// newReviews is a client of its own: a hundred open streams ask 67 times a second, and must not wait for others.
func newReviews(config *restclient.Config) (authorizationclient.SubjectAccessReviewInterface, error) {
	config = restclient.CopyConfig(config)
	config.QPS, config.Burst = 200, 400
	client, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for reviews: %w", err)
	}
	return client.SubjectAccessReviews(), nil
}

// run makes captures happen, from when this server can be called over TLS on.
func (c *capturing) run(ctx context.Context, ready func() error) {
	if wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) { return ready() == nil, nil }) == nil {
		c.controller.Run(ctx)
	}
}

// matches is what a capture would record, as the registry wants to see it.
func (c *capturing) matches(capture runtime.Object) ([]captures.Match, error) {
	found, err := c.controller.Matches(capture)
	matches := make([]captures.Match, len(found))
	for i, one := range found {
		matches[i] = captures.Match{Node: one.Node, Namespace: one.Namespace, Pod: one.Pod, HostNetwork: one.HostNetwork}
	}
	return matches, err
}

// places is the same, as streams want to see it.
func (c *capturing) places(capture runtime.Object) ([]streams.Match, error) {
	found, err := c.controller.Matches(capture)
	matches := make([]streams.Match, len(found))
	for i, one := range found {
		matches[i] = streams.Match{Node: one.Node, Namespace: one.Namespace, Pod: one.Pod}
	}
	return matches, err
}

// refresh brings the status of a copy up to date.
func (c *capturing) refresh(ctx context.Context, capture runtime.Object) {
	status, err := c.controller.Fresh(ctx, capture)
	if err != nil {
		return // what is stored is shown
	}
	switch o := capture.(type) {
	case *v1alpha1.Capture:
		o.Status = *status
	case *v1alpha1.ClusterCapture:
		o.Status = *status
	}
}

// captureAgents are the agents as the controller wants to see them; neither knows the other's errors.
type captureAgents struct {
	*agents.Captures
}

var _ controller.Agents = captureAgents{}

// translated also is what the error means to the controller.
func translated(err error) error {
	for _, pair := range [][2]error{
		{agents.ErrNotFound, controller.ErrNotFound}, {agents.ErrPrecondition, controller.ErrPrecondition},
		{agents.ErrInvalid, controller.ErrInvalid}, {agents.ErrNoAgent, controller.ErrNoAgent},
	} {
		if errors.Is(err, pair[0]) {
			return meaning{err, pair[1]}
		}
	}
	return err
}

// A meaning reads as an error and is another as well.
type meaning struct {
	error
	also error
}

// Unwrap makes it both.
func (m meaning) Unwrap() []error { return []error{m.error, m.also} }

// Ensure implements controller.Agents.
func (a captureAgents) Ensure(ctx context.Context, node string, request *agentv1.EnsureCaptureRequest) (*agentv1.CaptureState, error) {
	state, err := a.Captures.Ensure(ctx, node, request)
	return state, translated(err)
}

// Stop implements controller.Agents.
func (a captureAgents) Stop(ctx context.Context, node string, request *agentv1.StopCaptureRequest) (*agentv1.CaptureState, error) {
	state, err := a.Captures.Stop(ctx, node, request)
	return state, translated(err)
}

// Seal implements controller.Agents.
func (a captureAgents) Seal(ctx context.Context, node string, request *agentv1.SealCaptureRequest) (*agentv1.CaptureState, error) {
	state, err := a.Captures.Seal(ctx, node, request)
	return state, translated(err)
}

// Store implements controller.Agents.
func (a captureAgents) Store(ctx context.Context, node string, request *agentv1.StoreCaptureRequest) (*agentv1.CaptureState, error) {
	state, err := a.Captures.Store(ctx, node, request)
	return state, translated(err)
}

// Delete implements controller.Agents.
func (a captureAgents) Delete(ctx context.Context, node, uid string) error {
	return translated(a.Captures.Delete(ctx, node, uid))
}

// List implements controller.Agents.
func (a captureAgents) List(ctx context.Context, node string, uids []string) (map[string]*agentv1.CaptureState, error) {
	states, err := a.Captures.List(ctx, node, uids)
	return states, translated(err)
}

// Describe implements controller.Agents.
func (a captureAgents) Describe(ctx context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error {
	return translated(a.Captures.Describe(ctx, node, uid, take))
}

// captureSource is the agents as streams want to see them.
type captureSource struct {
	reads *agents.CaptureStreams
	calls *agents.Captures
}

var _ streams.Source = captureSource{}

// ReadCapture implements streams.Source.
func (s captureSource) ReadCapture(ctx context.Context, node string, request *agentv1.ReadCaptureRequest, batches int, take func(*agentv1.ReadCaptureResponse) error) error {
	return streamError(s.reads.ReadCapture(ctx, node, request, batches, take))
}

// DescribeCapture implements streams.Source.
func (s captureSource) DescribeCapture(ctx context.Context, node, uid string, take func(*agentv1.DescribeCaptureResponse) error) error {
	return streamError(s.calls.Describe(ctx, node, uid, take))
}

func streamError(err error) error {
	switch {
	case errors.Is(err, agents.ErrNotFound), errors.Is(err, agents.ErrNoAgent):
		return meaning{err, streams.ErrNotFound}
	case errors.Is(err, agents.ErrOvertaken):
		return meaning{err, streams.ErrOvertaken}
	}
	return err
}
