package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/networkobservability/networkobservability/test/bench/paired"
)

// What is aimed at with 1,000 agents and 100,000 pods.
const (
	aimAgents, aimPods = 1000, 100_000
	aimOneNamespace    = 300.0  // milliseconds, of 99 in 100
	aimAllNamespaces   = 2000.0 // milliseconds, of half
	aimResident        = 512 << 20
)

type report struct {
	rows, processors, aims []string
}

func newReport() *report { return &report{} }

// add notes the results of one step, and says them at once: the next step takes long.
func (r *report) add(w *world, results []result) {
	now, peak, err := w.apiserver.Memory()
	if err != nil {
		r.aims = append(r.aims, fmt.Sprintf("memory could not be read: %v", err))
	}
	for _, one := range results {
		row := one.row(w)
		r.rows = append(r.rows, fmt.Sprintf("%s\t%d / %d", row, now>>20, peak>>20))
		line := fmt.Sprintf("%d agents, %d pods, %s:", w.nodes, w.pods, one.scope)
		for _, s := range []struct {
			name string
			series
		}{{"plain", one.plain}, {"fresh", one.fresh}, {"shared", one.shared}} {
			line += "\n    " + s.name + ": " + s.processor()
		}
		r.processors = append(r.processors, line)
		fmt.Printf("lists:   plain p50 %.1f ms, ours p50 %.1f ms, p99 %.1f ms\n",
			paired.Percentile(one.plain.milliseconds, 50), paired.Percentile(one.fresh.milliseconds, 50), paired.Percentile(one.fresh.milliseconds, 99))
	}
	if w.nodes == aimAgents && w.pods == aimPods {
		r.judge(results, peak)
	}
}

func (r result) row(w *world) string {
	cells := []any{w.nodes, w.pods, r.scope, len(r.fresh.milliseconds)}
	for _, s := range []series{r.plain, r.fresh} {
		cells = append(cells, paired.Percentile(s.milliseconds, 50), paired.Percentile(s.milliseconds, 99))
	}
	turns := paired.Comparison{Base: r.plain.milliseconds, Changed: r.fresh.milliseconds}
	cells = append(cells, turns.Ratio(),
		paired.Percentile(r.shared.milliseconds, 50), paired.Percentile(r.shared.milliseconds, 99),
		kib(r.plain.last), kib(r.fresh.last), r.fresh.partial+r.shared.partial)
	return fmt.Sprintf("%d\t%d\t%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.1f\t%.1f\t%s\t%s\t%d", cells...)
}

func kib(a answer) string { return fmt.Sprintf("%d (%d)", a.body>>10, a.wire>>10) }

// processor is the mean processor time of a list, by program, the largest first.
func (s series) processor() string {
	type use struct {
		name string
		mean time.Duration
	}
	var uses []use
	for name, total := range s.cpu {
		uses = append(uses, use{name, total / time.Duration(len(s.milliseconds))})
	}
	slices.SortFunc(uses, func(a, b use) int { return int(b.mean - a.mean) })
	var parts []string
	for _, u := range uses {
		parts = append(parts, fmt.Sprintf("%s %.1f ms", u.name, float64(u.mean.Microseconds())/1000))
	}
	return strings.Join(parts, ", ")
}

func (r *report) judge(results []result, peak int64) {
	for _, one := range results {
		switch one.scope {
		case "one namespace":
			r.aim(one.scope+", p99", paired.Percentile(one.fresh.milliseconds, 99), aimOneNamespace, "ms")
		case "all namespaces":
			r.aim(one.scope+", p50", paired.Percentile(one.fresh.milliseconds, 50), aimAllNamespaces, "ms")
		}
	}
	r.aim("memory of our API server, peak", float64(peak>>20), aimResident>>20, "MiB")
}

func (r *report) aim(what string, value, aim float64, unit string) {
	verdict := "met"
	if value > aim {
		verdict = "MISSED"
	}
	r.aims = append(r.aims, fmt.Sprintf("%s: %.0f %s, aim %.0f %s: %s", what, value, unit, aim, unit, verdict))
}

func (r *report) print(to io.Writer) {
	fmt.Fprint(to, "\nLists through kube-apiserver as kubectl asks for them: tables, in chunks of 500. Milliseconds, without what the\n"+
		"client does between chunks. Fresh: the agents were asked. Shared: again within a second. KiB are those of the\n"+
		"answer, and in parentheses what was sent of it compressed. Partial: answers in which a node was missing.\n\n")
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "AGENTS\tPODS\tLIST\tTURNS\tPODS P50\tP99\tFRESH P50\tP99\tRATIO\tSHARED P50\tP99\tPODS KiB\tOURS KiB\tPARTIAL\tRSS / PEAK MiB\t")
	for _, row := range r.rows {
		fmt.Fprintln(table, row+"\t")
	}
	table.Flush()
	fmt.Fprintln(to, "\nProcessor time of one list, in the mean; all programs share this machine's processors:")
	for _, line := range r.processors {
		fmt.Fprintln(to, "  "+line)
	}
	for _, aim := range r.aims {
		fmt.Fprintln(to, "aim:", aim)
	}
}
