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

	t.Run("secret-token", func(t *testing.T) {
		both := kustomization(t, "kind: Kustomization\ncomponents:\n- COMPONENT\n- COMPONENT/secret-token\n", component)
		accepted := c.kubectl(t, "apply", "--dry-run=server", "--warnings-as-errors", "-o", "yaml", "-k", both)
		if strings.Contains(accepted, "bearerTokenFile:") || strings.Count(accepted, " authorization:\n") != 2 {
			t.Errorf("monitors send something else than the Secret's token:\n%s", accepted)
		}
	})

	// Else the above would prove nothing.
	t.Run("wrong field", func(t *testing.T) {
		wrong := kustomization(t, `kind: Kustomization
components: [COMPONENT]
patches:
- target: {kind: ServiceMonitor}
  patch: '[{op: add, path: /spec/endpoints/0/honourLabels, value: true}]'
`, component)
		if r := c.kubectlFails(t, "apply", "--dry-run=server", "-k", wrong); !strings.Contains(r.stderr, "honourLabels") {
			t.Errorf("a field that the operator does not know is refused with %q", r.stderr)
		}
	})
}

// kustomization is a folder with a kustomization, in which COMPONENT stands for another folder.
func kustomization(t *testing.T, text, component string) string {
	t.Helper()
	folder := t.TempDir()
	path, err := filepath.Abs(component)
	if err == nil {
		path, err = filepath.Rel(folder, path)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(strings.ReplaceAll(text, "COMPONENT", path)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
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
