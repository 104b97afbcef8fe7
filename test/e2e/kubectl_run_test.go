package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// kubectlDeadline ends a kubectl that hangs.
const kubectlDeadline = time.Minute

// A run is what one kubectl did.
type run struct {
	stdout, stderr string
	err            error
	took           time.Duration
}

// kubectlPath is the cluster's own kubectl, or the machine's.
func (c *cluster) kubectlPath() string {
	built := filepath.Join(filepath.Dir(c.output), "bin", "kubectl")
	if _, err := os.Stat(built); err == nil {
		return built
	}
	return "kubectl"
}

func (c *cluster) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.kubectlPath(), append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

// pluginCommand is a command of kubectl that one of our plugins answers: flags come behind it, and the plugins are on PATH.
func (c *cluster) pluginCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.kubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "PATH="+filepath.Join(filepath.Dir(c.output), "bin")+":"+os.Getenv("PATH"))
	return cmd
}

// plugin runs a command of a plugin, whatever comes of it.
func (c *cluster) plugin(t *testing.T, args ...string) run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kubectlDeadline)
	defer cancel()
	cmd := c.pluginCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	return run{stdout.String(), stderr.String(), err, time.Since(start)}
}

// kubectlRun runs kubectl, whatever comes of it.
func (c *cluster) kubectlRun(t *testing.T, args ...string) run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kubectlDeadline)
	defer cancel()
	cmd := c.kubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	return run{stdout.String(), stderr.String(), err, time.Since(start)}
}

// kubectl runs kubectl, which must succeed, and returns its output.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	r := c.kubectlRun(t, args...)
	if r.err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), r.err, r.stderr)
	}
	return r.stdout
}

// kubectlFails runs kubectl, which must fail, and returns what it says about that.
func (c *cluster) kubectlFails(t *testing.T, args ...string) run {
	t.Helper()
	r := c.kubectlRun(t, args...)
	if r.err == nil {
		t.Fatalf("kubectl %s succeeded: %s", strings.Join(args, " "), r.stdout)
	}
	return r
}

// exec runs a command in a pod.
func (c *cluster) exec(t *testing.T, pod *corev1.Pod, command ...string) string {
	t.Helper()
	return c.kubectl(t, append([]string{"exec", "--namespace", pod.Namespace, pod.Name, "--"}, command...)...)
}
