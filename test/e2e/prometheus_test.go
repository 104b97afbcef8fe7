package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// monitoring is the folder with what is shipped for Prometheus and Grafana.
const monitoring = "../../artifacts/monitoring"

// A prometheus is a server that hack/prometheus.sh started for the cluster.
type prometheus struct{ url string }

// A sample is one series of an instant query's answer.
type sample struct {
	Metric map[string]string `json:"metric"`
}

// An alert is one that is pending or fires.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// prometheusInterval is how often it scrapes and evaluates rules. A scrape that takes as long has failed.
const prometheusInterval = 2 * time.Second

// startPrometheus runs Prometheus with a folder of rules until the test ends, and returns when all targets are up.
func (c *cluster) startPrometheus(t *testing.T, rules string) prometheus {
	t.Helper()
	for _, program := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: hack/prerequisites.sh installs it", err)
		}
	}
	script := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "hack/prometheus.sh", append([]string{filepath.Base(c.output)}, args...)...)
		cmd.Dir, cmd.Env = "../..", append(os.Environ(), "RULES="+rules, "INTERVAL="+prometheusInterval.String())
		return cmd
	}
	t.Cleanup(func() {
		if out, err := script(context.Background(), "stop").CombinedOutput(); err != nil {
			t.Errorf("stopping Prometheus: %v: %s", err, out)
		}
	})
	out, err := script(t.Context()).CombinedOutput()
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(string(out))
	if err != nil || address == "" {
		t.Fatalf("starting Prometheus: %v: %s", err, out)
	}
	return prometheus{address}
}

// get asks for a path of Prometheus' HTTP API and decodes what is in data.
func (p prometheus) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, response.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

func (p prometheus) query(ctx context.Context, expr string) ([]sample, error) {
	var data struct {
		Result []sample `json:"result"`
	}
	err := p.get(ctx, "query?query="+url.QueryEscape(expr), &data)
	return data.Result, err
}

func (p prometheus) alerts(ctx context.Context) ([]alert, error) {
	var data struct {
		Alerts []alert `json:"alerts"`
	}
	err := p.get(ctx, "alerts", &data)
	return data.Alerts, err
}

// shortRules writes the shipped rules to a folder of their own, with windows and durations of seconds in place of minutes
// and hours. Nothing else is changed.
func shortRules(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	paths, err := filepath.Glob(monitoring + "/rules/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	windows := strings.NewReplacer(
		"[5m]", "[10s]", "[1d] offset 1h", "[40s] offset 20s", "offset 6h", "offset 30s", "[1h:1m]", "[60s:2s]",
		"interval: 30s", "interval: 2s", "interval: 2m", "interval: 2s")
	durations := regexp.MustCompile(`(?m)^( +for:) \d+m$`)
	left := regexp.MustCompile(`\[\d+[mhd]|offset \d+[mhd]|for: \d+[mhd]|interval: \d+m`)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		short := durations.ReplaceAllString(windows.Replace(string(text)), "$1 2s")
		if long := left.FindString(short); long != "" {
			t.Fatalf("%s: say what %q becomes in a test", path, long)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(path)), []byte(short), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// boardQueries are the expressions of all boards by where they are, with all variables chosen.
func boardQueries(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(monitoring + "/dashboards/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no boards: %v", err)
	}
	variables := regexp.MustCompile(`\$(cluster|node|namespace|workload|pod)\b`)
	queries := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Panels []struct {
				ID      int
				Title   string
				Targets []struct{ RefID, Expr string }
			}
		}
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "30s")
				queries[fmt.Sprintf("%s, panel %d %q, %s", filepath.Base(path), panel.ID, panel.Title, target.RefID)] = variables.ReplaceAllString(expr, ".*")
			}
		}
	}
	return queries
}
