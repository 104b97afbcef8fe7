// Command reads measures what reading a node costs the node: the real agent, with 110 pods, asked over its real
// connection, and scraped as Prometheus does. Pods are processes in network namespaces and cgroups as the kubelet names
// them, each joined to the node by veth, with some traffic behind them. Everything is in a sandbox (test/bench/sandbox).
//
//	main.go     flags, and the order of things
//	pods.go     pods
//	agent.go    the agent and its keys
//	bpf.go      the kernel's memory for its maps and programs
//	load.go     sockets and flows, and what the agent has resident with them
//	asks.go     reads
//	talk.go     what pods do for all groups of metrics to have series
//	scrapes.go  scrapes of metrics, and the cluster that allows them
//	churn.go    pods that come and go, and what they leave behind
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/paired"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

type options struct {
	bin, output string
	pods, reads int
	// sockets and flows are how many there are in all.
	sockets, flows int
	idle           time.Duration
	// churn is how many pods come and go.
	churn int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "_output/bin", "folder with networkobservability-nodeagent")
	flag.StringVar(&o.output, "output", "_output/bench", "folder for logs")
	flag.IntVar(&o.pods, "pods", 110, "pods on the node")
	flag.IntVar(&o.reads, "reads", 300, "how often each read, and each scrape, is measured")
	flag.IntVar(&o.sockets, "sockets", 10_000, "open TCP sockets in all pods together")
	flag.IntVar(&o.flows, "flows", 100_000, "flows of all pods together, which come after the first reads")
	flag.DurationVar(&o.idle, "idle", 15*time.Second, "how long the agent is watched while nobody asks")
	flag.IntVar(&o.churn, "churn", 2000, "pods that come and go in the end")
	flag.Parse()
	sandbox.Main("reads", func(ctx context.Context) error { return run(ctx, o) }, removeCgroups)
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dir, err := sandbox.TempDir(filepath.Join(o.output, "run"))
	if err != nil {
		return err
	}
	began := time.Now()
	keys, err := makePods(ctx, 0, o.pods)
	if err != nil {
		return err
	}
	fmt.Printf("reads: made %d pods in %v; starting the agent\n", o.pods, time.Since(began).Round(100*time.Millisecond))
	began = time.Now()
	a, err := startAgent(ctx, cancel, o, dir)
	if err != nil {
		return err
	}
	err = sandbox.Await(ctx, time.Minute, "the agent to count all pods", func() error { return a.countsAll(ctx, o.pods) })
	if err != nil {
		return fmt.Errorf("%w\n%s", err, a.process.LastWords())
	}
	fmt.Printf("reads: all pods are counted after %v; scraping and reading, with %d sockets at last\n", time.Since(began).Round(100*time.Millisecond), o.sockets)
	l, err := newLoad(keys)
	if err != nil {
		return err
	}
	if err := a.talk(ctx, l); err != nil {
		return err
	}
	configured, err := a.offerEverything(ctx, keys)
	if err != nil {
		return fmt.Errorf("configuring telemetry: %w", err)
	}
	few, err := a.measureScrapes(ctx, "the pods' own sockets", o.pods, o.reads)
	if err != nil {
		return fmt.Errorf("scraping: %w", err)
	}
	if err := l.openSockets(o.sockets); err != nil {
		return err
	}
	results, err := a.measureAll(ctx, keys, o.reads)
	if err != nil {
		return err
	}
	many, err := a.measureScrapes(ctx, fmt.Sprintf("%d sockets", o.sockets), o.pods, o.reads)
	if err != nil {
		return fmt.Errorf("scraping: %w", err)
	}
	fmt.Printf("reads: watching the agent for %v while nobody asks\n", o.idle)
	idle, err := a.idle(ctx, o.idle)
	if err != nil {
		return err
	}
	if err := reportScrapes([]*scraped{few, many}, o); err != nil {
		return err
	}
	if err := a.report(results, idle, o); err != nil {
		return err
	}
	if err := a.reportFlows(ctx, l, keys, idle, o); err != nil {
		return err
	}
	return a.churn(ctx, configured, o)
}

func (a *agent) report(results []result, idle float64, o options) error {
	fmt.Printf("\nReads of a node with %d pods, one after the other. Processor time is the agent's, user and kernel; bytes are those of\n"+
		"the TLS stream, both ways.\n\n", o.pods)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "ASKED FOR\tREADS\tP50 ms\tP99 ms\tCPU us A READ\tBYTES SENT\tBYTES RECEIVED\t")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%.0f\t%d\t%d\t\n", r.what, len(r.milliseconds),
			paired.Percentile(r.milliseconds, 50), paired.Percentile(r.milliseconds, 99), r.cpu, r.sent, r.received)
	}
	table.Flush()
	whole := results[0]
	fmt.Printf("\n%.1f us and %d bytes a pod. Watched every 10 s, reading takes %.2f%% of a core; idle, the agent takes %.2f%%.\n",
		whole.cpu/float64(o.pods), whole.received/int64(o.pods), whole.cpu/1e5, 100*idle)
	return a.reportMemory()
}

// reportFlows makes flows, and says what they cost the agent.
func (a *agent) reportFlows(ctx context.Context, l *load, keys []string, idleBefore float64, o options) error {
	if o.flows == 0 {
		return nil
	}
	fmt.Printf("reads: making %d flows, and watching the agent for %v\n", o.flows, o.idle)
	if err := a.awaitFlows(ctx, l, o.flows); err != nil {
		return err
	}
	idle, err := a.idle(ctx, o.idle)
	if err != nil {
		return err
	}
	r, err := a.measure(ctx, &agentv1.ReadStatsRequest{PodKeys: keys, Node: true}, max(1, o.reads/3))
	if err != nil {
		return err
	}
	fmt.Printf("\nWith %d flows: idle, the agent takes %.2f%% of a core, and %.1f ms more for each drain, every %v; a read of everything\n"+
		"takes %.0f us of processor time, P50 %.2f ms.\n", o.flows, 100*idle, 1e3*(idle-idleBefore)*drainEvery.Seconds(), drainEvery,
		r.cpu, paired.Percentile(r.milliseconds, 50))
	return a.reportMemory()
}

// drainEvery is how often the agent looks at all flows while nobody reads.
const drainEvery = 5 * time.Second

func (a *agent) reportMemory() error {
	resident, err := a.residence()
	if err != nil {
		return err
	}
	bpf, err := a.bpfMemory()
	if err != nil {
		return err
	}
	fmt.Printf("Agent: %v (budget 60). BPF: %v (budget 40 MiB).\n", resident, bpf)
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
