package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/capture"
	"github.com/networkobservability/networkobservability/nodeagent/collectors"
	"github.com/networkobservability/networkobservability/nodeagent/export"
	"github.com/networkobservability/networkobservability/nodeagent/flowlog"
	"github.com/networkobservability/networkobservability/nodeagent/metrics"
	"github.com/networkobservability/networkobservability/nodeagent/own"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
	"github.com/networkobservability/networkobservability/nodeagent/retina"
	"github.com/networkobservability/networkobservability/nodeagent/scrape"
	"github.com/networkobservability/networkobservability/nodeagent/telemetry"
)

// flushFor is how long what waits for exporters may take to go when the agent ends.
const flushFor = 3 * time.Second

// outgoing is what leaves the agent beside answers: metrics that are scraped, and what is sent.
type outgoing struct {
	told      *telemetry.State
	metrics   *metrics.Metrics
	own       *own.Metrics
	peers     *peers.Counters
	logger    *flowlog.Logger
	exporters *export.Exporters
	// able says what there is to do a configuration with.
	able func() ability
	// all gathers everything.
	all prometheus.Gatherer
}

// newOutgoing makes it; nothing leaves before run.
func newOutgoing(o options, reader *reader, pods *podmap.Map, set *collectors.Set, captures *capture.Manager) (*outgoing, error) {
	out := &outgoing{able: func() ability {
		return newAbility(set.States(), o.configuration.DNS.Names, reader.endpoint.unserved())
	}}
	var err error
	out.told, err = telemetry.Open(telemetry.Config{
		Dir: o.dataDir, Report: out.report, APIServers: set.APIServers, Failed: func(err error) { klog.ErrorS(err, "Telemetry has a problem") },
	})
	if err != nil {
		return nil, err
	}
	out.peers = peers.New(peers.Config{Flows: set.Flows(), Telemetry: out.told})
	out.metrics = metrics.New(metrics.Config{
		Pods: pods.Pods, Read: func() metrics.Reading { return &reading{reader, set.Counters()} }, Telemetry: out.told, Peers: out.peers,
	})
	out.exporters = export.New(export.Config{
		Node: o.nodeName, Cluster: o.clusterName, Version: programVersion(), LogsDir: o.logsDir, Stdout: os.Stdout,
		Metrics: func() ([]*dto.MetricFamily, error) { return out.all.Gather() }, Failed: logExporter,
	})
	out.logger = flowlog.New(flowlog.Config{Flows: set.Flows(), Telemetry: out.told, Log: out.exporters.Log})
	out.own, err = own.New(out.ownConfig(o, reader, set, captures))
	if err != nil {
		return nil, fmt.Errorf("registering the agent's own metrics: %w", err)
	}
	out.all = own.Join(out.metrics, out.own)
	return out, nil
}

func (out *outgoing) ownConfig(o options, reader *reader, set *collectors.Set, captures *capture.Manager) own.Config {
	config := own.Config{
		Version: reader.about.GetVersion(), Kernel: reader.about.GetKernelVersion(), Start: time.Unix(0, reader.about.GetStartUnixNano()),
		Node: out.metrics.Node, Hooks: set.Hooks, Disabled: o.configuration.Disabled, Telemetry: out.told, Others: []prometheus.Collector{out.exporters},
		Series: func() (int64, map[string]int64) {
			offered, _ := out.metrics.Series()
			return offered, out.metrics.Folded()
		},
		Lost: map[string]func() int64{"peer_names": out.told.Unasked, "peers": out.peers.Lost},
	}
	for _, stage := range []string{flowlog.StageHistory, flowlog.StageEnd, flowlog.StagePod} {
		config.Lost["flow_logs_"+stage] = func() int64 { return out.logger.Lost()[stage] }
	}
	if flows := set.Flows(); flows != nil {
		config.Tables = map[string]func() (entries, capacity int64){
			"flows_ipv4": func() (int64, int64) { return flows.Table(4) }, "flows_ipv6": func() (int64, int64) { return flows.Table(6) },
		}
	}
	if captures != nil {
		config.Captures = func() own.Captures { return own.Captures(captures.Totals()) }
	}
	return config
}

// report tells the API server how exporters and series do.
func (out *outgoing) report(report *v1alpha1.TelemetryReport) {
	report.Exporters = out.exporters.States()
	report.Series, report.Folded = out.metrics.Series()
	report.Lacking = out.able().lacking(out.told.Config())
}

// run lets out what is configured until the context ends.
func (out *outgoing) run(ctx context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { out.told.Run(ctx); return nil })
	group.Go(func() error { out.peers.Run(ctx); return nil })
	group.Go(func() error { out.logger.Run(ctx); return nil })
	group.Go(func() error { out.apply(ctx); return nil })
	_ = group.Wait()
	flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushFor)
	defer cancel()
	if err := out.exporters.Close(flushing); err != nil {
		klog.ErrorS(err, "Exporters were not closed well")
	}
}

// apply has exporters be as configured.
func (out *outgoing) apply(ctx context.Context) {
	for {
		changed := out.told.Changed()
		out.exporters.Apply(out.told.Config())
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// serve offers metrics at an endpoint until the context ends.
func (out *outgoing) serve(ctx context.Context, at *endpoint, client kubernetes.Interface, certificate func() *tls.Certificate) {
	timed := out.own.Timed(out.all)
	server := scrape.New(scrape.Config{
		Client: client, Certificate: certificate, Failed: func(err error) { klog.ErrorS(err, "A scrape failed") },
		Pages: []scrape.Page{
			{Path: "/metrics", Gatherer: timed},
			{Path: "/metrics/retina", Gatherer: retina.New(timed), Off: out.retinaOff},
		},
	})
	at.run(ctx, func(listener net.Listener) error { return server.Serve(ctx, listener) })
}

// retinaOff says why /metrics/retina is not offered.
func (out *outgoing) retinaOff() string {
	if out.told.Config().GetRetinaMetrics() {
		return ""
	}
	return "Retina's names are off; spec.retinaMetrics of the NetworkTelemetry \"cluster\" switches them on"
}

func logExporter(exporter string, err error) {
	if err == nil {
		klog.InfoS("Exporter works", "exporter", exporter)
		return
	}
	klog.ErrorS(err, "Exporter fails", "exporter", exporter)
}
