package metrics

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const page = "../../docs/metrics.md"

// table is a table of the page, behind a line that names the group of its families.
var table = regexp.MustCompile(`(?m)^<!-- families: (\w+) -->\n(?:\|.*\n)*`)

// The tables in the page are made from the catalogue. -rewrite writes them.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	want := table.ReplaceAllStringFunc(string(text), func(found string) string {
		group := table.FindStringSubmatch(found)[1]
		seen[group] = true
		return "<!-- families: " + group + " -->\n" + tableOf(group)
	})
	for _, f := range Families() {
		if !seen[f.Group] {
			t.Errorf("docs/metrics.md has no table of group %s", f.Group)
			seen[f.Group] = true
		}
	}
	if *rewrite {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Error("docs/metrics.md is not what the catalogue says; go test ./nodeagent/metrics -rewrite writes it")
	}
}

func tableOf(group string) string {
	var lines strings.Builder
	ofPods := group != groupNode
	lines.WriteString("| name | type | labels | what it is |")
	if ofPods {
		lines.WriteString(" series a pod |")
	}
	lines.WriteString("\n|---|---|---|---|")
	if ofPods {
		lines.WriteString("---|")
	}
	lines.WriteString("\n")
	for _, f := range Families() {
		if f.Group != group {
			continue
		}
		labels := f.Labels
		if ofPods {
			labels = labels[len(podLabels):]
		}
		fmt.Fprintf(&lines, "| `%s` | %s | %s | %s |", f.Name, strings.ToLower(f.Type.String()), listed(labels, f.Optional), f.Help)
		if ofPods {
			lines.WriteString(" " + bound(&f) + " |")
		}
		lines.WriteString("\n")
	}
	return lines.String()
}

// listed writes labels that are there when they are asked for in brackets.
func listed(labels, optional []string) string {
	var all []string
	for _, label := range labels {
		all = append(all, "`"+label+"`")
	}
	for _, label := range optional {
		all = append(all, "[`"+label+"`]")
	}
	return strings.Join(all, ", ")
}

func bound(f *Family) string {
	switch {
	case f.Most == 0 && slices.Contains(f.Labels, "direction"):
		return "2 x (limit + 1)"
	case f.Most == 0:
		return "limit + 1"
	case f.Type == histogram:
		return fmt.Sprintf("%d; 1 as a native histogram", f.Most)
	case len(f.Optional) > 0:
		return fmt.Sprintf("%d; with labels limit + 1 for each reason", f.Most)
	}
	return fmt.Sprint(f.Most)
}

// The page says how many series a pod has at most.
func TestPageStatesTheBound(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	sum, native := 0, 0
	for _, f := range Families() {
		sum += f.Most
		if f.Type == histogram && f.Group != groupNode {
			native += f.Most - 1
		}
	}
	if want := fmt.Sprintf("at most %d series", sum); !strings.Contains(string(text), want) {
		t.Errorf("docs/metrics.md does not say %q", want)
	}
	if want := fmt.Sprintf("%d with native histograms", sum-native); !strings.Contains(string(text), want) {
		t.Errorf("docs/metrics.md does not say %q", want)
	}
}
