package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// operator is Prometheus Operator's own module, of which only the definitions of its resources are taken: the newest version that
// the module proxy serves whole. Its types are judged in test/monitoring, where they are newer.
const operator = "github.com/prometheus-operator/prometheus-operator@v0.94.0"

// TestMonitoringOperator has kube-apiserver judge the component for Prometheus Operator, by the operator's definitions of its
// resources. Nothing of it is kept.
func TestMonitoringOperator(t *testing.T) {
	c := newCluster(t)
	c.applyDefinitions(t, operatorDefinitions(t))
	const component = monitoring + "/prometheus-operator"
	c.kubectl(t, "apply", "--dry-run=server", "--warnings-as-errors", "-k", component)

	// Else the above would prove nothing.
	wrong := t.TempDir()
	for name, text := range map[string]string{
		"kustomization.yaml": "kind: Component\nresources: [monitor.yaml]\n",
		"monitor.yaml":       strings.ReplaceAll(readFile(t, component+"/apiserver.yaml"), "honorLabels:", "honourLabels:"),
	} {
		if err := os.WriteFile(filepath.Join(wrong, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if r := c.kubectlFails(t, "apply", "--dry-run=server", "-k", wrong); !strings.Contains(r.stderr, "honourLabels") {
		t.Errorf("a field that the operator does not know is refused with %q", r.stderr)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// operatorDefinitions are files with the definitions of the resources that the component has. They come from Go's module cache, and
// are downloaded (5 MB) if they are not there; without them and without a proxy the test is skipped.
func operatorDefinitions(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", operator)
	cmd.Dir = t.TempDir() // in no module, whose go.sum would get a line
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if decoding := json.Unmarshal(out, &module); decoding != nil || module.Error != "" {
		t.Skipf("%s cannot be had: %s (%v)", operator, module.Error, err)
	}
	folder := filepath.Join(module.Dir, "example", "prometheus-operator-crd")
	return []string{
		filepath.Join(folder, "monitoring.coreos.com_servicemonitors.yaml"),
		filepath.Join(folder, "monitoring.coreos.com_prometheusrules.yaml"),
	}
}

// applyDefinitions makes definitions of resources known until the test ends.
func (c *cluster) applyDefinitions(t *testing.T, files []string) {
	t.Helper()
	for _, file := range files {
		c.kubectl(t, "apply", "--server-side", "-f", file)
		t.Cleanup(func() {
			if out, err := c.kubectlCommand(context.Background(), "delete", "-f", file).CombinedOutput(); err != nil {
				t.Errorf("deleting %s: %v: %s", file, err, out)
			}
		})
		c.kubectl(t, "wait", "--for=condition=Established", "-f", file, "--timeout=60s")
	}
}
