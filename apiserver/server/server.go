package server

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/agents"
	"github.com/networkobservability/networkobservability/apiserver/certificates"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/networkflows"
	"github.com/networkobservability/networkobservability/apiserver/registry/nodenetworkstats"
	"github.com/networkobservability/networkobservability/apiserver/registry/podnetworkstats"
)

const name = "networkobservability-apiserver"

// Run wires the parts together and serves until ctx ends and everything has drained.
func Run(ctx context.Context, o *Options) error {
	config, err := genericConfig(o)
	if err != nil {
		return err
	}
	cluster, err := newClients(config.ClientConfig)
	if err != nil {
		return err
	}
	manager, err := certificates.New(certificates.Config{
		Client: cluster.kubernetes, Aggregator: cluster.aggregator, Identity: o.Identity,
		CALifetime: o.CALifetime, CAPropagation: o.CAPropagation,
	})
	if err != nil {
		return err
	}
	if config.SecureServing.Cert == nil {
		config.SecureServing.Cert = manager.ServingCertificate()
	}
	fleet, err := agents.New(agents.Config{
		Client: cluster.kubernetes, TLS: manager, NodeTimeout: o.AgentTimeout, ReadTimeout: o.ReadTimeout,
	})
	if err != nil {
		return err
	}
	pods := podnetworkstats.NewREST(cluster.kubernetes, fleetReader{fleet}, o.WatchInterval)
	nodes := nodenetworkstats.NewREST(cluster.kubernetes, fleetReader{fleet}, o.WatchInterval)

	names, err := directory.New(directory.Config{Client: cluster.kubernetes})
	if err != nil {
		return err
	}
	pods.Observe(names)
	flowReader, err := agents.NewFlows(fleet, nil)
	if err != nil {
		return err
	}
	flows, err := networkflows.NewREST(networkflows.Config{Source: flowSource{flowReader}, Names: names})
	if err != nil {
		return err
	}

	capturing, err := newCapturing(o, config, cluster.kubernetes, fleet, names, expectation{pods, nodes})
	if err != nil {
		return err
	}

	telling, err := newTelling(o, config, cluster.kubernetes, fleet, names)
	if err != nil {
		return err
	}
	stored := maps.Clone(capturing.storage)
	maps.Copy(stored, telling.storage)

	server, err := newServer(config, pods, nodes, flows, stored,
		healthz.NamedCheck("certificates", func(*http.Request) error { return manager.Ready() }),
		healthz.NamedCheck("captures", func(*http.Request) error { return capturing.controller.Synced() }))
	if err != nil {
		return err
	}
	return serve(ctx, server, manager.Run, fleet.Run, pods.Run, nodes.Run, names.Run, flows.Run,
		func(ctx context.Context) { capturing.run(ctx, manager.Ready) },
		func(ctx context.Context) { telling.run(ctx, manager.Ready) })
}

// newServer makes the generic server with our group, ready when the resources and the further checks are. stored holds
// what is stored, and may be nil.
func newServer(config *genericapiserver.RecommendedConfig, pods, nodes *live.REST, flows *networkflows.REST, stored map[string]rest.Storage, checks ...healthz.HealthChecker) (*genericapiserver.GenericAPIServer, error) {
	server, err := config.Complete().New(name, genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("making the server: %w", err)
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(v1alpha1.GroupName, scheme, parameterCodec, codecs)
	group.NegotiatedSerializer = config.Serializer
	resources := map[string]rest.Storage{"podnetworkstats": pods, "nodenetworkstats": nodes, "networkflows": flows}
	maps.Copy(resources, stored)
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = resources
	if err := server.InstallAPIGroup(&group); err != nil {
		return nil, fmt.Errorf("installing %s: %w", v1alpha1.GroupName, err)
	}
	checks = append(checks,
		healthz.NamedCheck("pods", func(*http.Request) error { return pods.Synced() }),
		healthz.NamedCheck("nodes", func(*http.Request) error { return nodes.Synced() }),
		healthz.NamedCheck("directory", func(*http.Request) error { return flows.Synced() }),
	)
	if err := server.AddReadyzChecks(checks...); err != nil {
		return nil, fmt.Errorf("adding readiness checks: %w", err)
	}
	return server, nil
}

// serve runs the server, and beside it the parts that it needs from before its first request until after its last.
func serve(ctx context.Context, server *genericapiserver.GenericAPIServer, parts ...func(context.Context)) error {
	lifetime, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, part := range parts {
		running.Go(func() { part(lifetime) })
	}
	if err := server.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

type clients struct {
	kubernetes kubernetes.Interface
	aggregator aggregator.Interface
}

// newClients speak protobuf, a third of JSON for pods, and are fast enough to approve the certificates of a
// thousand nodes that come at once.
func newClients(config *restclient.Config) (clients, error) {
	config = restclient.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	kubernetesClient, err := kubernetes.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the cluster: %w", err)
	}
	aggregatorClient, err := aggregator.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the cluster: %w", err)
	}
	return clients{kubernetesClient, aggregatorClient}, nil
}
