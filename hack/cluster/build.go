package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// kubernetesVersion is that of the module in hack/tools/kubernetes. A test holds the two together.
const kubernetesVersion = "v1.37.2"

// A batch is what one call of go build makes of one module: whatever its programs share is compiled once, and while the one is
// linked the next is compiled.
type batch struct {
	module   string // folder, from the root of the repository
	programs []program
	ldflags  string
	hint     string // what to expect of a first build
}

type program struct{ name, pkg string }

// thirdParty are the programs that change only when their go.mod does.
func thirdParty() []batch {
	var kubernetes []program
	for _, name := range []string{"kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"} {
		kubernetes = append(kubernetes, program{name, "k8s.io/kubernetes/cmd/" + name})
	}
	return []batch{
		{"hack/tools/etcd", []program{{"etcd", "go.etcd.io/etcd/server/v3"}}, "-s -w", "about 1 min the first time"},
		{"hack/tools/kubernetes", kubernetes, kubernetesFlags(), "about 8 min the first time"},
		{"hack/tools/coredns", []program{{"coredns", "."}}, "-s -w", "about 1 min the first time"},
	}
}

// ours are the small programs of this repository that go into images. Go itself knows when they change.
func ours() batch {
	return batch{module: ".", ldflags: "-s -w", programs: []program{
		{"pause", "./hack/cluster/pause"}, {"traffic", "./test/traffic"}, {"images", "./artifacts/images"},
	}}
}

// kubernetesFlags stamp the version; unstamped, servers report none and kubectl refuses to compare.
func kubernetesFlags() string {
	const version = "k8s.io/component-base/version."
	parts := strings.SplitN(strings.TrimPrefix(kubernetesVersion, "v"), ".", 3)
	return fmt.Sprintf("-s -w -X %sgitVersion=%s -X %sgitMajor=%s -X %sgitMinor=%s",
		version, kubernetesVersion, version, parts[0], version, parts[1])
}

// build builds every program into Bin and writes the images of the cluster's own pods.
func (c *Cluster) build(ctx context.Context) error {
	for _, b := range thirdParty() {
		if err := c.buildThirdParty(ctx, b); err != nil {
			return err
		}
	}
	return c.Step("building the images of the cluster's own pods", func() error {
		if err := c.goBuild(ctx, ours()); err != nil {
			return err
		}
		args := append([]string{"-bin", c.Bin, "-out", c.ImageDir}, ownImages...)
		return run(ctx, filepath.Join(c.Bin, "images"), args...)
	})
}

// buildThirdParty builds a batch unless it was built from the same sources with the same flags. Asking Go instead would
// take seconds for each.
func (c *Cluster) buildThirdParty(ctx context.Context, b batch) error {
	stamp, err := c.stamp(b)
	if err != nil {
		return err
	}
	stampFile := filepath.Join(c.Bin, ".stamp", filepath.Base(b.module))
	was, err := os.ReadFile(stampFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if string(was) == stamp && c.hasAll(b) {
		return nil
	}
	what := fmt.Sprintf("building %s (%s)", strings.Join(b.names(), ", "), b.hint)
	if err := c.Step(what, func() error { return c.goBuild(ctx, b) }); err != nil {
		return err
	}
	return writeFile(stampFile, []byte(stamp), 0o644)
}

func (b batch) names() []string {
	var names []string
	for _, p := range b.programs {
		names = append(names, p.name)
	}
	return names
}

func (c *Cluster) hasAll(b batch) bool {
	for _, p := range b.programs {
		if !fileExists(filepath.Join(c.Bin, p.name)) {
			return false
		}
	}
	return true
}

// letFinish makes the end of the context an interrupt, on which the program can put its things in order.
func letFinish(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
}

// stamp changes with whatever the batch is built from.
func (c *Cluster) stamp(b batch) (string, error) {
	files, err := filepath.Glob(filepath.Join(c.Root, b.module, "*"))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, b.programs, b.ldflags)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, filepath.Base(file), len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// goBuild builds a batch into Bin. Go names programs after their folders when there are several, so these have to agree.
func (c *Cluster) goBuild(ctx context.Context, b batch) error {
	out := c.Bin + string(filepath.Separator)
	if len(b.programs) == 1 {
		out += b.programs[0].name
	}
	args := []string{"build", "-ldflags", b.ldflags, "-o", out}
	for _, p := range b.programs {
		args = append(args, p.pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(c.Root, b.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	letFinish(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s in %s: %w\n%s", strings.Join(cmd.Args, " "), cmd.Dir, err, bytes.TrimSpace(out))
	}
	return nil
}
