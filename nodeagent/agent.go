package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture"
	"github.com/networkobservability/networkobservability/nodeagent/capture/outputs"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/interfaces"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
	"github.com/networkobservability/networkobservability/nodeagent/serve"
)

const (
	// drainFor is how long reads under way may take when the agent is told to end.
	drainFor = 5 * time.Second
	// settledAfter is when everything that starting needs has run.
	settledAfter = 10 * time.Second
)

// run is the agent. What it attached stays when it ends.
func run(ctx context.Context, o options) error {
	klog.InfoS("Starting", "version", programVersion(), "node", o.nodeName)
	client, err := newClient(o.kubeconfig)
	if err != nil {
		return err
	}
	environment := o.environment()
	set := collectors.New(environment, o.configuration.Options)
	defer set.Close()
	var captures *capture.Manager // nil when they are switched off
	pods, err := podmap.New(podmap.Config{OwnKey: o.podUID, Changed: func(pods []*podmap.Pod) {
		set.Follow(pods)
		if captures != nil {
			captures.Follow(pods)
		}
	}})
	if err != nil {
		return err
	}
	if o.configuration.Captures.Enabled {
		uploads := outputs.New(outputs.Config{VolumesDir: o.volumesDir})
		if captures, err = newCaptures(o, environment.NodeIPs, pods, uploads); err != nil {
			uploads.Close()
			return err
		}
		defer func() {
			uploads.Close() // it reads what captures hold
			if err := captures.Close(); err != nil {
				klog.ErrorS(err, "Captures were not closed well")
			}
		}()
	}
	certificate := serve.NewCertificate(client, o.nodeName, o.caDir, o.dataDir, func(err error) {
		klog.ErrorS(err, "The serving certificate is not in order; trying again")
	})
	reader := newReader(pods, set, newEndpoint(o.metricsAddress))
	out, err := newOutgoing(o, reader, pods, set, captures)
	if err != nil {
		return err
	}
	server := serve.NewServer(serve.Config{
		Reader: reader, Flows: flowReader(set), Captures: captureKeeper(captures), Telemetry: out.told, Observer: out.own,
		Transport: serve.Transport(o.caDir, certificate.Current),
	})
	health := &serve.Health{}
	looked := make(chan struct{})

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return pods.Run(ctx, func() { close(looked) }) })
	group.Go(func() error { set.Run(ctx); return nil })
	group.Go(func() error { return runCaptures(ctx, captures, looked) })
	group.Go(func() error { logStates(ctx, set); return nil })
	group.Go(func() error { giveBackSpare(ctx); return nil })
	group.Go(func() error { out.run(ctx); return nil })
	group.Go(func() error { return certificate.Run(ctx) })
	group.Go(func() error { return serveHealth(ctx, o.healthAddress, health) })
	group.Go(func() error {
		if err := awaitStart(ctx, looked, certificate); err != nil {
			return nil
		}
		group.Go(func() error { out.serve(ctx, reader.endpoint, client, certificate.Current); return nil })
		return serveAPI(ctx, o.listen, server, health)
	})
	err = group.Wait()
	klog.InfoS("Ended; counting goes on")
	return err
}

// newCaptures finds what earlier agents recorded. Its problems beside calls are logged.
func newCaptures(o options, nodeIPs []netip.Addr, pods *podmap.Map, uploads *outputs.Uploader) (*capture.Manager, error) {
	return capture.New(capture.Config{
		Options: o.configuration.Captures, Node: o.nodeName, Dir: o.capturesDir(), Pods: pods,
		Uplinks: func() ([]string, error) { return interfaces.Uplinks(nodeIPs) }, Outputs: uploads,
		Failed: func(err error) { klog.ErrorS(err, "A capture has a problem") },
	})
}

// captureKeeper is nil when captures are switched off.
func captureKeeper(captures *capture.Manager) serve.CaptureKeeper {
	if captures == nil {
		return nil
	}
	return captures
}

// runCaptures goes on with captures when it is known which pods there are.
func runCaptures(ctx context.Context, captures *capture.Manager, looked <-chan struct{}) error {
	select {
	case <-ctx.Done():
	case <-looked:
		if captures != nil {
			captures.Run(ctx)
		}
	}
	return nil
}

// cleanup removes what agents have left in place.
func cleanup(ctx context.Context, o options, out io.Writer) error {
	var found []*podmap.Pod
	pods, err := podmap.New(podmap.Config{OwnKey: o.podUID, Changed: func(pods []*podmap.Pod) { found = pods }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var removed []string
	var problem error
	err = pods.Run(ctx, func() {
		removed, problem = traffic.Cleanup(o.bpffs, o.nodeName, found)
		cancel()
	})
	packets := o.capturesDir()
	if _, missing := os.Stat(packets); missing == nil {
		problem = errors.Join(problem, os.RemoveAll(packets))
		removed = append(removed, packets)
	}
	for _, what := range removed {
		fmt.Fprintln(out, "removed", what)
	}
	fmt.Fprintf(out, "removed %d in all\n", len(removed))
	return errors.Join(err, problem)
}

func newClient(kubeconfig string) (kubernetes.Interface, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("preparing to reach Kubernetes: %w", err)
	}
	config.UserAgent = "networkobservability-nodeagent/" + programVersion()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to reach Kubernetes: %w", err)
	}
	return client, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// reader answers the service from the pods and the collectors.
type reader struct {
	pods  *podmap.Map
	set   *collectors.Set
	about v1alpha1.AgentInfo
	// endpoint is where metrics are served: the node's row says while they are not.
	endpoint *endpoint
}

func newReader(pods *podmap.Map, set *collectors.Set, metrics *endpoint) *reader {
	r := &reader{pods: pods, set: set, endpoint: metrics}
	r.about.Version = programVersion()
	r.about.StartUnixNano = time.Now().UnixNano()
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.about.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

// flowReader is the history of flows; nil when flows are switched off.
func flowReader(set *collectors.Set) serve.FlowReader {
	if history := set.Flows(); history != nil {
		return history
	}
	return nil
}

// Read implements serve.Reader.
func (r *reader) Read(apiServers []string) serve.Reading {
	r.set.APIServers(apiServers)
	return r.begin()
}

func (r *reader) begin() *reading { return &reading{reader: r, rows: r.set.Read()} }

// reading is one answer.
type reading struct {
	*reader
	rows *collectors.Reading
}

// Pod implements serve.Reading.
func (r *reading) Pod(key string) *v1alpha1.PodStats {
	if pod, ok := r.pods.Lookup(key); ok {
		return r.rows.Pod(pod)
	}
	return &v1alpha1.PodStats{Key: key, Measurement: &v1alpha1.Measurement{
		State: v1alpha1.State_STATE_NOT_FOUND, Message: "no process of the pod was found on this node",
		TimeUnixNano: time.Now().UnixNano(),
	}}
}

// PodOnly implements metrics.Reading.
func (r *reading) PodOnly(pod *podmap.Pod, collectors ...string) *v1alpha1.PodStats {
	return r.rows.PodOnly(pod, collectors...)
}

// Node implements serve.Reading.
func (r *reading) Node() *v1alpha1.NodeStats {
	node := r.rows.Node()
	node.Agent.Version, node.Agent.StartUnixNano, node.Agent.KernelVersion = r.about.Version, r.about.StartUnixNano, r.about.KernelVersion
	node.Agent.Collectors = append(node.Agent.Collectors, r.endpoint.state()...)
	return node
}

// logStates logs each collector's state when it changes.
func logStates(ctx context.Context, set *collectors.Set) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := map[string]string{}
	for {
		for _, c := range set.States() {
			if state := c.State.String() + " " + c.Message; last[c.Name] != state {
				last[c.Name] = state
				klog.InfoS("Collector changed", "collector", c.Name, "state", c.State, "message", c.Message)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func awaitStart(ctx context.Context, looked <-chan struct{}, certificate *serve.Certificate) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-looked:
	}
	klog.InfoS("Looked for pods; waiting for a serving certificate")
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for certificate.Current() == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func serveAPI(ctx context.Context, address string, server *grpc.Server, health *serve.Health) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	klog.InfoS("Serving", "address", listener.Addr().String())
	health.SetReady(true)
	settled := time.AfterFunc(settledAfter, func() {
		if err := giveBack(); err != nil {
			klog.ErrorS(err, "Memory that only starting needed is kept")
		}
	})
	defer settled.Stop()
	defer context.AfterFunc(ctx, func() {
		health.SetReady(false)
		force := time.AfterFunc(drainFor, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})()
	if err := server.Serve(listener); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

func serveHealth(ctx context.Context, address string, health *serve.Health) error {
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--health-address: %w", err)
	}
	server := health.Server()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
