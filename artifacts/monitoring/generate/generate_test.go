package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// folder is artifacts/monitoring.
const folder = ".."

// A rule is one of a file of rules.
type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

// A unit is a file of promtool tests.
type unit struct {
	Tests []struct {
		Name  string
		Exprs []struct {
			Expr    string
			Samples []struct{ Labels string } `json:"exp_samples"`
		} `json:"promql_expr_test"`
	}
}

// rules are those of all files, in order.
func rules(t *testing.T) []rule {
	t.Helper()
	var all []rule
	for _, path := range glob(t, "rules/*.yaml") {
		var file struct {
			Groups []struct {
				Rules []rule
			}
		}
		read(t, path, &file)
		for _, group := range file.Groups {
			all = append(all, group.Rules...)
		}
	}
	return all
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no file is like %s: %v", pattern, err)
	}
	return paths
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
}

// queries are those of all boards by where they are.
func queries() map[string]string {
	found := map[string]string{}
	for _, b := range boards() {
		for _, row := range b.rows {
			for _, p := range row.panels {
				for i, q := range p.queries {
					found[fmt.Sprintf("%s, %s, query %d", b.uid, p.title, i+1)] = q.expr
				}
			}
		}
	}
	return found
}

func TestCurrent(t *testing.T) {
	files, err := generate(folder)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		if got, err := os.ReadFile(filepath.Join(folder, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what boards.go and rules/ say (%v): go run ./artifacts/monitoring/generate", path, err)
		}
	}
	for _, below := range []string{"", chart} {
		for _, path := range glob(t, below+"dashboards/*.json") {
			if _, ok := files[below+"dashboards/"+filepath.Base(path)]; !ok {
				t.Errorf("%s is of a board that is gone", path)
			}
		}
	}
	listed, err := os.ReadFile(filepath.Join(folder, "dashboards/kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for path := range files {
		if name := filepath.Base(path); strings.HasSuffix(name, ".json") && !bytes.Contains(listed, []byte("["+name+"]")) {
			t.Errorf("%s is not in dashboards/kustomization.yaml", name)
		}
	}
}

// TestBoards holds every board to what readers and Grafana expect.
func TestBoards(t *testing.T) {
	used := regexp.MustCompile(`\$\{?(\w+)`)
	uids := map[string]bool{}
	for _, b := range boards() {
		if uids[b.uid] || len(b.uid) > 40 || b.title == "" || b.description == "" {
			t.Errorf("board %q: its uid is not unique or longer than 40, or it has no title or description", b.uid)
		}
		uids[b.uid] = true
		known := map[string]bool{"datasource": true, "__rate_interval": true}
		for _, v := range b.variables {
			for _, name := range used.FindAllStringSubmatch(v.of, -1) {
				if !known[name[1]] {
					t.Errorf("%s: variable %s depends on %s, which does not come before it", b.uid, v.name, name[1])
				}
			}
			known[v.name] = true
		}
		for _, row := range b.rows {
			titles := map[string]bool{}
			for _, p := range row.panels {
				if p.title == "" || p.description == "" || p.unit == "" || p.width < 1 || p.width > 24 || titles[p.title] {
					t.Errorf("%s, %q: it needs a title that no other in its row has, a description, a unit and a width", b.uid, p.title)
				}
				titles[p.title] = true
				for _, q := range p.queries {
					for _, name := range used.FindAllStringSubmatch(q.expr, -1) {
						if !known[name[1]] {
							t.Errorf("%s, %s: $%s is no variable of the board", b.uid, p.title, name[1])
						}
					}
				}
			}
		}
	}
}

// promtool runs it, and skips the test where there is none.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skipf("%v: hack/prerequisites.sh installs it", err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestQueriesParse has promtool parse every query of every board, as if each were a rule.
func TestQueriesParse(t *testing.T) {
	var asRules []object
	found := queries()
	for _, where := range slices.Sorted(maps.Keys(found)) {
		expr := chosen(found[where])
		// The label tells promtool's complaints, and rules of equal names, apart.
		asRules = append(asRules, object{"record": "query", "expr": expr, "labels": object{"at": where}})
	}
	text, err := yaml.Marshal(object{"groups": []object{{"name": "boards", "rules": asRules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}

// chosen is a query with all variables chosen.
func chosen(expr string) string {
	return regexp.MustCompile(`\$(cluster|node|namespace|workload|pod)\b`).ReplaceAllString(strings.ReplaceAll(expr, "$__rate_interval", "5m"), ".*")
}

// TestBoardTests demands that promtool's tests of boards' queries are of queries that there are.
func TestBoardTests(t *testing.T) {
	var file unit
	read(t, filepath.Join(folder, "rules/tests/boards.yaml"), &file)
	known := map[string]bool{}
	for _, expr := range queries() {
		known[chosen(expr)] = true
	}
	for _, expr := range file.Tests[0].Exprs {
		if !known[expr.Expr] {
			t.Errorf("no board asks %s", expr.Expr)
		}
	}
}

// TestRules has promtool check and run what it can.
func TestRules(t *testing.T) {
	promtool(t, append([]string{"check", "rules"}, glob(t, "rules/*.yaml")...)...)
	promtool(t, append([]string{"test", "rules"}, glob(t, "rules/tests/*.yaml")...)...)
}

// TestAlerts demands of each alert what who is woken by it needs, and of promtool's tests that they see it fire, and that
// it does not fire.
func TestAlerts(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	name := regexp.MustCompile(`alertname="(\w+)"`)
	for _, path := range glob(t, "rules/tests/*.yaml") {
		var file unit
		read(t, path, &file)
		for _, test := range file.Tests {
			expected := map[string]bool{}
			for _, expr := range test.Exprs {
				for _, sample := range expr.Samples {
					for _, match := range name.FindAllStringSubmatch(sample.Labels, -1) {
						expected[match[1]] = true
					}
				}
			}
			for _, expr := range test.Exprs {
				if strings.HasPrefix(expr.Expr, "ALERTS{") && len(expr.Samples) == 0 {
					maps.Copy(silent, expected)
				}
			}
			maps.Copy(fires, expected)
		}
	}
	pages := map[string]bool{"README.md": true}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		pages[r.Alert+".md"] = true
		if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s: severity is %q", r.Alert, r.Labels["severity"])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: no summary or description", r.Alert)
		}
		if want := "https://github.com/networkobservability/networkobservability/blob/main/docs/runbooks/" + r.Alert + ".md"; r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: promtool's tests see it fire: %v, and not fire: %v", r.Alert, fires[r.Alert], silent[r.Alert])
		}
		page, err := os.ReadFile(filepath.Join("../../../docs/runbooks", r.Alert+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range []string{"# " + r.Alert + "\n", "\n## First look\n", "\n## Causes\n", "\n## What to do\n", "kubectl "} {
			if !bytes.Contains(page, []byte(want)) {
				t.Errorf("docs/runbooks/%s.md has no %q", r.Alert, want)
			}
		}
	}
	found, err := filepath.Glob("../../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if !pages[filepath.Base(path)] {
			t.Errorf("%s is of an alert that is gone", path)
		}
	}
}

// TestMetrics demands that every metric and label that a board or a rule asks for is in docs/metrics.md or docs/self-metrics.md, or
// recorded by a rule.
func TestMetrics(t *testing.T) {
	known := documented(t)
	exprs := queries()
	for _, r := range rules(t) {
		exprs["rule "+r.Record+r.Alert] = r.Expr
		if r.Record != "" {
			known[r.Record] = labelsOf(r.Expr)
		}
	}
	metric := regexp.MustCompile(`[a-z:]*\bnetworkobservability_\w+(:\w+)?`)
	for where, expr := range exprs {
		labels := map[string]bool{}
		for _, label := range targetLabels {
			labels[label] = true
		}
		for _, name := range metric.FindAllString(expr, -1) {
			family := name
			if known[family] == nil {
				family = regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
			}
			if known[family] == nil {
				t.Errorf("%s: %s is in no table of docs/metrics.md and docs/self-metrics.md", where, name)
			}
			for _, label := range known[family] {
				labels[label] = true
			}
		}
		for _, label := range labelsOf(expr) {
			if !labels[label] && strings.Contains(expr, prefix) {
				t.Errorf("%s: none of its metrics has the label %s", where, label)
			}
		}
	}
}

// targetLabels are those that scraping, Prometheus and histograms bring.
var targetLabels = []string{"cluster", "node", "job", "instance", "le", "alertname", "alertstate"}

// labelsOf are the labels that an expression selects or groups by.
func labelsOf(expr string) []string {
	labels := []string{}
	for _, match := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`).FindAllStringSubmatch(expr, -1) {
		labels = append(labels, match[1])
	}
	for _, match := range regexp.MustCompile(`\b(?:by|on|ignoring|without|group_left) \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(match[1], ",") {
			if label = strings.TrimSpace(label); label != "" {
				labels = append(labels, label)
			}
		}
	}
	return labels
}

// documented are the metrics that have a row in a table of docs/metrics.md or docs/self-metrics.md, each with the words in code
// style of its row, labels among them.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	metrics := map[string][]string{}
	row, code := regexp.MustCompile("^\\| `\\w+` \\| (gauge|counter|histogram) \\|"), regexp.MustCompile("`(\\w+)`")
	for _, page := range []string{"metrics.md", "self-metrics.md"} {
		text, err := os.ReadFile("../../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !row.MatchString(line) {
				continue
			}
			words := []string{}
			for _, span := range code.FindAllStringSubmatch(line, -1) {
				words = append(words, span[1])
			}
			name, labels := words[0], words[1:]
			switch {
			case strings.HasPrefix(name, prefix+"pod_"):
				labels = append(labels, "namespace", "pod", "workload") // which the page says once for all
			case !strings.HasPrefix(name, prefix):
				name = prefix + "agent_" + name // and this, too
			}
			metrics[name] = labels
		}
	}
	return metrics
}
