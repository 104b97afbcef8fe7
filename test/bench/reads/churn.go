package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

const (
	// passing is the namespace of pods that come and go, atATime how many of them there are together.
	passing = "passing"
	atATime = 100
	// lingering is longer than agents keep the totals of a pod without a process, whose sandbox may be made anew.
	lingering = 4 * time.Minute
	// slack is by how many files and goroutines an agent may differ from itself: connections come and go.
	slack = 10
	// slackBytes is by how much its memory may: it is collected when it has grown by half.
	slackBytes = 6 << 20
)

// A remainder is what an agent has for its pods.
type remainder struct {
	page           page
	files          int
	maps, programs int // pinned
	resident       residence
}

// remains looks at what the agent has now.
func (a *agent) remains(ctx context.Context) (r remainder, err error) {
	compressed, err := a.scraper.scrape(ctx)
	if err != nil {
		return r, err
	}
	if r.page, err = readPage(compressed); err != nil {
		return r, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.process.PID))
	if err != nil {
		return r, err
	}
	r.files = len(open)
	pinned, err := a.bpfMemory()
	if err != nil {
		return r, err
	}
	r.maps, r.programs = pinned.maps, pinned.programs
	r.resident, err = a.residence()
	return r, err
}

// churn has pods come and go, each with a network namespace, a cgroup, a process, connections and all groups of metrics, and
// fails when anything of theirs stays behind.
func (a *agent) churn(ctx context.Context, configured agentv1.Agent_ConfigureTelemetryClient, o options) error {
	if o.churn == 0 {
		return nil
	}
	fmt.Printf("reads: having %d pods come and go, %d at a time\n", o.churn, min(atATime, o.churn))
	before, err := a.remains(ctx)
	if err != nil {
		return err
	}
	var first, last remainder
	began, most := time.Now(), 0
	for done := 0; done < o.churn; done += atATime {
		series, err := a.wave(ctx, configured, o.pods, min(atATime, o.churn-done))
		if err != nil {
			return fmt.Errorf("pods from %d on: %w", done, err)
		}
		most = max(most, series)
		if done == 0 {
			if first, err = a.remains(ctx); err != nil {
				return err
			}
		}
	}
	took := time.Since(began)
	err = sandbox.Await(ctx, lingering, "what is pinned for pods to go", func() error {
		pinned, err := a.bpfMemory()
		if err == nil && (pinned.maps > before.maps || pinned.programs > before.programs) {
			err = fmt.Errorf("%d maps and %d programs are pinned, and were %d and %d", pinned.maps, pinned.programs, before.maps, before.programs)
		}
		return err
	})
	if err != nil {
		return err
	}
	if last, err = a.remains(ctx); err != nil {
		return err
	}
	fmt.Printf("\n%d pods came and went in %v; at most %d series of pods were offered. (Aim: nothing stays, and nothing grows.)\n\n",
		o.churn, took.Round(time.Second), most)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tPODS\tSERIES OF PODS\tOF THOSE THAT WENT\tPINNED MAPS\tPROGRAMS\tFILES\tGOROUTINES\tANONYMOUS MiB\t")
	for _, row := range []struct {
		when string
		remainder
	}{{"before", before}, {"after the first", first}, {"after the last", last}} {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t\n", row.when, row.page.pods, row.page.series, row.page.passing,
			row.maps, row.programs, row.files, row.page.goroutines, mib(row.resident.anonymous))
	}
	return errors.Join(table.Flush(), grown(first, last))
}

// grown says what has grown from one time to another at which the same pods were there.
func grown(first, last remainder) error {
	switch {
	case last.files > first.files+slack:
		return fmt.Errorf("%d files are open, and %d were", last.files, first.files)
	case last.page.goroutines > first.page.goroutines+slack:
		return fmt.Errorf("%d goroutines run, and %d did", last.page.goroutines, first.page.goroutines)
	case last.resident.anonymous > first.resident.anonymous+slackBytes:
		return fmt.Errorf("%.1f MiB are resident and anonymous, and %.1f were", mib(last.resident.anonymous), mib(first.resident.anonymous))
	}
	return nil
}

// wave has pods come beside those that stay, be scraped, and go. It returns when none of their series is left.
func (a *agent) wave(ctx context.Context, configured agentv1.Agent_ConfigureTelemetryClient, stay, come int) (series int, err error) {
	alive, end := context.WithCancel(ctx)
	defer end()
	keys, err := makePods(alive, stay, come)
	if err != nil {
		return 0, err
	}
	update := &agentv1.TelemetryUpdate{Pods: called(keys)}
	for _, pod := range update.Pods {
		pod.Namespace = passing
	}
	if err := configured.Send(update); err != nil {
		return 0, err
	}
	if series, err = a.awaitPods(ctx, stay+come, func(p page) bool { return p.passing >= come }); err != nil {
		return 0, err
	}
	end()
	if err := configured.Send(&agentv1.TelemetryUpdate{GonePods: keys}); err != nil {
		return 0, err
	}
	if err := awaitEnd(ctx, stay, keys); err != nil {
		return 0, err
	}
	_, err = a.awaitPods(ctx, stay, func(p page) bool { return p.passing == 0 })
	return series, err
}

// awaitPods scrapes until so many pods are offered, and satisfied.
func (a *agent) awaitPods(ctx context.Context, pods int, satisfied func(page) bool) (series int, err error) {
	err = sandbox.Await(ctx, time.Minute, fmt.Sprintf("%d pods to be scraped", pods), func() error {
		compressed, err := a.scraper.scrape(ctx)
		if err != nil {
			return err
		}
		p, err := readPage(compressed)
		if err == nil && (p.pods != pods || !satisfied(p)) {
			err = fmt.Errorf("there are %d, and %d series of those that come and go", p.pods, p.passing)
		}
		series = p.series
		return err
	})
	return series, err
}

// awaitEnd removes the cgroups of pods whose processes were told to end, and waits until the kernel has removed their links.
func awaitEnd(ctx context.Context, first int, keys []string) error {
	root, err := hierarchy()
	if err != nil {
		return err
	}
	return sandbox.Await(ctx, time.Minute, "pods to end", func() error {
		for i, key := range keys {
			if err := os.Remove(filepath.Join(root, cgroupName, "kubepods", "pod"+key)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			var missing netlink.LinkNotFoundError
			if _, err := netlink.LinkByName(fmt.Sprintf("pod%d", first+i)); !errors.As(err, &missing) {
				return fmt.Errorf("the link of pod %d is there (%w)", first+i, err)
			}
		}
		return nil
	})
}
