package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
	"github.com/networkobservability/networkobservability/apiserver/agents"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/networktelemetry"
	"github.com/networkobservability/networkobservability/apiserver/telemetry"
)

// telling is everything about telemetry: what is served of it, and what has agents do it.
type telling struct {
	controller *telemetry.Controller
	storage    map[string]rest.Storage
}

// newTelling wires telemetry. The server's own address in config has to be settled.
func newTelling(o *Options, config *genericapiserver.RecommendedConfig, client kubernetes.Interface, fleet *agents.Fleet, known *directory.Directory) (*telling, error) {
	own, err := versioned.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("making a client of the server itself: %w", err)
	}
	streams, err := agents.NewTelemetry(fleet, nil)
	if err != nil {
		return nil, err
	}
	controller, err := telemetry.New(telemetry.Config{
		Own: own, Client: client, Identity: o.Identity, Agents: telemetryAgents{streams},
		Pods: func(node string) iter.Seq[telemetry.Pod] { return podsOn(known, node) },
		Owner: func(address netip.Addr, at time.Time) telemetry.Owner {
			owner, since, _ := known.OwnerSince(address, at)
			return telemetryOwner(owner, since)
		},
		APIServers: streams.APIServers, Synced: known.Synced,
	})
	if err != nil {
		return nil, err
	}
	stored, err := networktelemetry.NewStorage(networktelemetry.Config{
		Scheme: scheme, Getter: config.RESTOptionsGetter, Authorizer: config.Authorization.Authorizer,
	})
	if err != nil {
		return nil, err
	}
	return &telling{controller, map[string]rest.Storage{
		"networktelemetries": stored.NetworkTelemetries, "networktelemetries/status": stored.Status,
	}}, nil
}

// run has agents told, from when this server can be called over TLS on.
func (t *telling) run(ctx context.Context, ready func() error) {
	if wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) { return ready() == nil, nil }) == nil {
		t.controller.Run(ctx)
	}
}

// podsOn are the pods of a node as telemetry wants to see them.
func podsOn(known *directory.Directory, node string) iter.Seq[telemetry.Pod] {
	return func(yield func(telemetry.Pod) bool) {
		for pod, there := range known.PodsOn(node) {
			if !there || pod.Ended {
				continue
			}
			kind, name := directory.Workload(pod)
			if !yield(telemetry.Pod{
				Key: pod.PodKey, Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.HostUID), Labels: pod.Labels,
				WorkloadKind: kind, WorkloadName: name, Created: pod.Created.Time, Record: pod,
			}) {
				return
			}
		}
	}
}

func telemetryOwner(owner directory.Owner, since time.Time) telemetry.Owner {
	switch {
	case owner.Pod != nil:
		return podOwner(owner.Pod, since)
	case owner.Service != nil:
		return telemetry.Owner{Kind: telemetry.ServiceOwner, Namespace: owner.Service.Namespace, Name: owner.Service.Name, Since: since}
	case owner.Node != "":
		return telemetry.Owner{Kind: telemetry.NodeOwner, Name: owner.Node, Since: since}
	}
	return telemetry.Owner{}
}

func podOwner(pod *live.Record, since time.Time) telemetry.Owner {
	kind, name := directory.Workload(pod)
	return telemetry.Owner{
		Kind: telemetry.PodOwner, Namespace: pod.Namespace, Name: pod.Name, WorkloadKind: kind, WorkloadName: name, Created: pod.Created.Time, Since: since,
	}
}

// telemetryAgents are the agents as the controller wants to see them; neither knows the other's errors.
type telemetryAgents struct{ *agents.Telemetry }

var _ telemetry.Agents = telemetryAgents{}

// Configure implements telemetry.Agents.
func (a telemetryAgents) Configure(ctx context.Context, node string) (telemetry.Stream, error) {
	stream, err := a.Telemetry.Configure(ctx, node)
	if err != nil {
		return nil, telemetryError(err)
	}
	return telemetryStream{stream}, nil
}

type telemetryStream struct{ *agents.TelemetryStream }

// Send implements telemetry.Stream.
func (s telemetryStream) Send(update *agentv1.TelemetryUpdate) error {
	return telemetryError(s.TelemetryStream.Send(update))
}

// Recv implements telemetry.Stream.
func (s telemetryStream) Recv() (*agentv1.TelemetryReport, error) {
	report, err := s.TelemetryStream.Recv()
	return report, telemetryError(err)
}

func telemetryError(err error) error {
	for _, pair := range [][2]error{{agents.ErrReplaced, telemetry.ErrReplaced}, {agents.ErrTelemetryUnknown, telemetry.ErrUnknown}} {
		if errors.Is(err, pair[0]) {
			return meaning{err, pair[1]}
		}
	}
	return err
}
