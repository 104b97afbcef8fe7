// Command lists measures how long lists take through a real kube-apiserver, for growing numbers of agents, and beside
// each the same list of plain pods in the same moment.
//
// In a sandbox of its own (test/bench/sandbox) run etcd, kube-apiserver, our API server behind the aggregator, and one
// process with all agents: each a gRPC listener at an address of its own, with the agents' real serving code and
// certificate checks, whose counters are made up. Nodes and pods are objects without kubelets. Pods of a namespace are
// spread over the nodes at random, as a scheduler does: that decides how many agents a list has to ask.
//
//	main.go     flags, and the order of things
//	keys.go     certificates
//	cluster.go  etcd, kube-apiserver and our API server
//	agents.go   the agents
//	objects.go  nodes, pods, endpoints
//	client.go   lists as kubectl asks for them
//	measure.go  turns, and what they cost
//	report.go   tables
//
// A read is fresh when the agents were asked for it. Agents' answers are shared for a second, so what is listed again
// within that is measured apart.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

type options struct {
	bin, output, profile string
	steps                steps
	turns                int
	budget               time.Duration
}

// A step is how far the cluster has grown when it is measured. Namespaces have podsPerNamespace pods each.
type step struct{ nodes, podsPerNode int }

// steps can be set by a flag.
type steps []step

// full is what the aims are for. The default ends with a fifth of its pods, which are made in minutes.
const full = "1x100,10x100,100x100,1000x100"

func (s *steps) String() string {
	var texts []string
	for _, one := range *s {
		texts = append(texts, fmt.Sprintf("%dx%d", one.nodes, one.podsPerNode))
	}
	return strings.Join(texts, ",")
}

func (s *steps) Set(text string) error {
	*s = nil
	var last step
	for _, part := range strings.Split(text, ",") {
		var next step
		if _, err := fmt.Sscanf(part, "%dx%d", &next.nodes, &next.podsPerNode); err != nil {
			return fmt.Errorf("%q is not like 100x100: %w", part, err)
		}
		if added := (next.nodes - last.nodes) * next.podsPerNode; next.nodes > 1000 || added <= 0 || added%podsPerNamespace != 0 {
			return fmt.Errorf("%q: want more nodes than before, at most 1000, and %d more pods or a multiple of that", part, podsPerNamespace)
		}
		*s = append(*s, next)
		last = next
	}
	return nil
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == agentsCommand {
		count, err := strconv.Atoi(os.Args[3])
		if err == nil {
			err = runAgents(os.Args[2], count)
		}
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
	o := options{steps: steps{{1, 100}, {10, 100}, {100, 100}, {1000, 10}}}
	flag.StringVar(&o.bin, "bin", "_output/bin", "folder with etcd, kube-apiserver (of hack/cluster) and networkobservability-apiserver")
	flag.StringVar(&o.output, "output", "_output/bench", "folder for logs")
	flag.StringVar(&o.profile, "profile", "", "folder for profiles of our API server, taken while it is measured last")
	flag.Var(&o.steps, "steps", "how the cluster grows: nodes, and pods on each that is new; the aims are for "+full)
	flag.IntVar(&o.turns, "turns", 100, "how often each list is measured at most")
	flag.DurationVar(&o.budget, "budget", time.Minute, "how long each list is measured at most")
	flag.Parse()
	sandbox.Main("lists", func(ctx context.Context) error { return run(ctx, o) }, nil)
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w, err := newWorld(ctx, cancel, o)
	if err != nil {
		return err
	}
	fmt.Printf("lists: starting etcd, kube-apiserver and our API server (logs in %s)\n", o.output)
	if err := w.start(ctx); err != nil {
		return because(ctx, err)
	}
	if err := w.startAgents(ctx, o.steps[len(o.steps)-1].nodes); err != nil {
		return because(ctx, err)
	}
	report := newReport()
	for i, s := range o.steps {
		if err := w.grow(ctx, s); err != nil {
			return because(ctx, err)
		}
		profile := ""
		if i == len(o.steps)-1 {
			profile = o.profile
		}
		results, err := w.measure(ctx, o.turns, o.budget, profile)
		if err != nil {
			return because(ctx, err)
		}
		report.add(w, results)
	}
	report.print(os.Stdout)
	return nil
}

// because names the program that died, if that is why everything else failed.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// A world is everything that runs in the sandbox.
type world struct {
	options
	// dir is a tmpfs, for keys and etcd's data; logs outlives the sandbox.
	dir, logs string
	died      func(error)

	etcd, kubeAPIServer, apiserver, agents *sandbox.Process

	authority *authority
	clients   clients
	nodes     int
	pods      int
	// namespaces are those that came with the last step.
	namespaces []string
}

func newWorld(ctx context.Context, died context.CancelCauseFunc, o options) (*world, error) {
	for _, name := range []string{"etcd", "kube-apiserver", "networkobservability-apiserver"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return nil, fmt.Errorf("finding %s: %w (make demo builds everything)", name, err)
		}
	}
	w := &world{options: o, died: died, logs: filepath.Join(o.output, "lists")}
	if err := os.MkdirAll(w.logs, 0o755); err != nil {
		return nil, err
	}
	var err error
	if w.dir, err = sandbox.TempDir(filepath.Join(o.output, "run")); err != nil {
		return nil, err
	}
	return w, addAddresses()
}

// run starts a program of o.bin.
func (w *world) run(ctx context.Context, name string, environment []string, args ...string) (*sandbox.Process, error) {
	return sandbox.Start(ctx, w.died, w.logs, name, filepath.Join(w.bin, name), environment, args...)
}
