package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestGrafanaTypes has TypeScript's compiler hold every board to Grafana's own types: unknown, missing and wrong fields are errors.
func TestGrafanaTypes(t *testing.T) {
	modules, err := filepath.Abs("../../../hack/tools/grafana/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skipf("%v: TypeScript's compiler needs it", err)
	}
	if _, err := os.Stat(filepath.Join(modules, ".installed")); err != nil {
		t.Skip("Grafana's types are not installed: run hack/prerequisites.sh, which needs npm")
	}
	all := boards()
	sources := map[string]string{}
	for _, b := range all {
		sources[b.uid+".ts"] = typed(t, dashboard(b, all))
	}
	if complaints := compile(t, modules, sources); complaints != "" {
		t.Errorf("what Grafana does not know:\n%s", complaints)
	}

	// Else the above would prove nothing.
	wrong := dashboard(all[0], all)
	wrong["panels"].([]object)[1]["titel"] = "misspelt"
	if complaints := compile(t, modules, map[string]string{"wrong.ts": typed(t, wrong)}); !strings.Contains(complaints, "titel") {
		t.Errorf("a misspelt field brings only %q", complaints)
	}
}

// typed is a board as a TypeScript program: the board and each of its panels are constants of the types of testdata/grafana.ts.
func typed(t *testing.T, board object) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("import type { Board, PanelOf } from \"./grafana\";\n")
	write := func(name, kind string, value any) {
		encoded, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "export const %s: %s = %s;\n", name, kind, encoded)
	}
	for i, p := range board["panels"].([]object) {
		write(fmt.Sprintf("panel%d", i), fmt.Sprintf("PanelOf[%q]", p["type"]), p)
	}
	board = maps.Clone(board)
	delete(board, "panels")
	write("board", "Board", board)
	return text.String()
}

// compile returns what the compiler complains about.
func compile(t *testing.T, modules string, sources map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	types, err := os.ReadFile("testdata/grafana.ts")
	if err != nil {
		t.Fatal(err)
	}
	sources["grafana.ts"] = string(types)
	args := []string{filepath.Join(modules, "typescript", "bin", "tsc"), "--strict", "--noEmit", "--skipLibCheck", "--allowImportingTsExtensions",
		"--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"}
	for name, text := range sources {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	if err := os.Symlink(modules, filepath.Join(folder, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", args...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatalf("running TypeScript's compiler: %v", err)
	}
	return string(out)
}

// units are those that panels use, all of which are in Grafana's list: of another it would write the name behind the number.
var units = []string{"short", "percentunit", "s", "bytes", "Bps", "pps", "cps", "reqps"}

// TestRulesOfLint holds boards to what dashboard-linter asks for, which many operators run, and which is no Go module that can be
// required. Left out is what is not for us: variables job and instance, since the prefix of a metric says the job, and that boards cannot be edited.
func TestRulesOfLint(t *testing.T) {
	counter := regexp.MustCompile(`\w+_total\b`)
	ranged := regexp.MustCompile(`\b(i?rate|increase)\([^\[\]]*\[([^\]]*)\]`)
	for where, expr := range queries() {
		for _, at := range counter.FindAllStringIndex(expr, -1) {
			if before := expr[:at[0]]; !strings.HasSuffix(before, "rate(") && !strings.HasSuffix(before, "increase(") {
				t.Errorf("%s: counter %s is shown as it is", where, expr[at[0]:at[1]])
			}
		}
		for _, match := range ranged.FindAllStringSubmatch(expr, -1) {
			if match[1] != "increase" && match[2] != "$__rate_interval" {
				t.Errorf("%s: a rate over %s, not over $__rate_interval", where, match[2])
			}
		}
	}
	for _, b := range boards() {
		for _, row := range b.rows {
			for _, p := range row.panels {
				if !slices.Contains(units, p.unit) || len(p.queries) == 0 {
					t.Errorf("%s, %s: the unit %q is none of Grafana's, or there is no query", b.uid, p.title, p.unit)
				}
			}
		}
	}
}
