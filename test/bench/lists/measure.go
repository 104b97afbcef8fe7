package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	restclient "k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

const (
	// sharedFor is how long answers of agents are shared, and a little more (apiserver/agents/flight.go).
	sharedFor = time.Second + 50*time.Millisecond
	// leastTurns are made even beyond the budget.
	leastTurns = 5
)

// A series is one list, measured many times.
type series struct {
	milliseconds []float64
	last         answer
	partial      int
	// cpu is the processor time that each program used, of all turns together.
	cpu map[string]time.Duration
}

// A result compares the lists of one scope: of plain pods, ours read fresh, and ours again at once.
type result struct {
	scope                string
	plain, fresh, shared series
}

// measure measures the lists of one namespace and of all.
func (w *world) measure(ctx context.Context, turns int, budget time.Duration, profile string) ([]result, error) {
	l, err := newLister(w.clients.config)
	if err != nil {
		return nil, err
	}
	if err := w.warmUp(ctx, l); err != nil {
		return nil, err
	}
	var results []result
	for _, scope := range []struct {
		name, profile string
		namespaces    []string
	}{{"one namespace", "one", w.namespaces}, {"all namespaces", "all", []string{""}}} {
		fmt.Printf("lists: measuring %s with %d agents and %d pods\n", scope.name, w.nodes, w.pods)
		finish, err := w.takeProfile(ctx, profile, scope.profile)
		if err != nil {
			return nil, err
		}
		r, err := w.compare(ctx, l, scope.namespaces, turns, budget)
		if err = errors.Join(err, finish()); err != nil {
			return nil, err
		}
		r.scope = scope.name
		results = append(results, *r)
	}
	return results, nil
}

// warmUp lists until all agents answer: our API server connects to an agent when it first needs to.
func (w *world) warmUp(ctx context.Context, l *lister) error {
	return sandbox.Await(ctx, startDeadline, "all agents to answer", func() error {
		for _, k := range []kind{plain, ours} {
			switch got, err := l.list(ctx, k.path("")); {
			case err != nil:
				return err
			case got.rows != w.pods:
				return fmt.Errorf("%d rows for %d pods", got.rows, w.pods)
			case got.partial > 0:
				return fmt.Errorf("%d chunks are partial", got.partial)
			}
		}
		return nil
	})
}

// compare takes turns over the namespaces: ours, then plain pods, or the other way round.
func (w *world) compare(ctx context.Context, l *lister, namespaces []string, turns int, budget time.Duration) (*result, error) {
	r := &result{}
	listed := map[string]time.Time{}
	ends := time.Now().Add(budget)
	for turn := 0; turn < turns && (turn < leastTurns || time.Now().Before(ends)); turn++ {
		namespace := namespaces[turn%len(namespaces)]
		ourTurn := func() error {
			if err := waitUntil(ctx, listed[namespace].Add(sharedFor)); err != nil {
				return err
			}
			if err := w.take(ctx, l, ours.path(namespace), &r.fresh); err != nil {
				return err
			}
			err := w.take(ctx, l, ours.path(namespace), &r.shared)
			listed[namespace] = time.Now()
			return err
		}
		both := []func() error{ourTurn, func() error { return w.take(ctx, l, plain.path(namespace), &r.plain) }}
		if turn%2 == 1 {
			slices.Reverse(both)
		}
		for _, one := range both {
			if err := one(); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

func waitUntil(ctx context.Context, when time.Time) error {
	timer := time.NewTimer(time.Until(when))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take adds one list to a series.
func (w *world) take(ctx context.Context, l *lister, path string, into *series) error {
	before, err := w.cpu()
	if err != nil {
		return err
	}
	if into.last, err = l.list(ctx, path); err != nil {
		return err
	}
	after, err := w.cpu()
	if err != nil {
		return err
	}
	into.milliseconds = append(into.milliseconds, float64(into.last.took.Microseconds())/1000)
	into.partial += into.last.partial
	if into.cpu == nil {
		into.cpu = map[string]time.Duration{}
	}
	for name := range after {
		into.cpu[name] += after[name] - before[name]
	}
	return nil
}

func (w *world) cpu() (map[string]time.Duration, error) {
	self := &sandbox.Process{Name: "client", PID: os.Getpid()}
	used := map[string]time.Duration{}
	for _, p := range []*sandbox.Process{w.apiserver, w.kubeAPIServer, w.etcd, w.agents, self} {
		var err error
		if used[p.Name], err = p.CPU(); err != nil {
			return nil, fmt.Errorf("reading the time that %s used: %w", p.Name, err)
		}
	}
	return used, nil
}

// takeProfile has our API server profile itself for the next 30 seconds, and writes its heap after that.
func (w *world) takeProfile(ctx context.Context, dir, name string) (finish func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	client, err := w.direct()
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- fetch(ctx, client, "profile?seconds=30", filepath.Join(dir, name+".cpu")) }()
	return func() error {
		return errors.Join(<-ended, fetch(ctx, client, "heap", filepath.Join(dir, name+".heap")))
	}, nil
}

// direct is a client of our API server that does not go through kube-apiserver.
func (w *world) direct() (*http.Client, error) {
	config := restclient.CopyConfig(w.clients.config)
	config.CAFile = w.file("serving-ca.crt")
	config.ServerName = serverName
	tlsConfig, err := restclient.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	tlsConfig.MinVersion = tls.VersionTLS13
	return &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}, nil
}

func fetch(ctx context.Context, client *http.Client, what, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+serverAddress+":10250/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("fetching a profile: %s: %s", response.Status, text)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
