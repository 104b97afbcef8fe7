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

// A program is built from a package of a module.
type program struct {
	name    string
	module  string // folder, from the root of the repository
	pkg     string
	ldflags string
	hint    string // what to expect of a first build; empty when it is quick
}

// thirdParty are the programs that change only when their go.mod does.
func thirdParty() []program {
	kubernetes := func(name, hint string) program {
		return program{name: name, module: "hack/tools/kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name, ldflags: kubernetesFlags(), hint: hint}
	}
	return []program{
		{name: "etcd", module: "hack/tools/etcd", pkg: "go.etcd.io/etcd/server/v3", ldflags: "-s -w", hint: "about 1 min the first time"},
		kubernetes("kube-apiserver", "about 6 min the first time"),
		kubernetes("kubelet", "about 2 min the first time"),
		kubernetes("kube-controller-manager", "about 1 min the first time"),
		kubernetes("kube-scheduler", "about half a minute the first time"),
		kubernetes("kube-proxy", "about half a minute the first time"),
		kubernetes("kubectl", "about half a minute the first time"),
		{name: "coredns", module: "hack/tools/coredns", pkg: ".", ldflags: "-s -w", hint: "about 1 min the first time"},
	}
}

// ours are the small programs of this repository that go into images. Go itself knows when they change.
func ours() []program {
	return []program{
		{name: "pause", module: ".", pkg: "./hack/cluster/pause", ldflags: "-s -w"},
		{name: "traffic", module: ".", pkg: "./test/traffic", ldflags: "-s -w"},
		{name: "images", module: ".", pkg: "./artifacts/images", ldflags: "-s -w"},
	}
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
	for _, p := range thirdParty() {
		if err := c.buildThirdParty(ctx, p); err != nil {
			return err
		}
	}
	return c.Step("building the images of the cluster's own pods", func() error {
		for _, p := range ours() {
			if err := c.goBuild(ctx, p); err != nil {
				return err
			}
		}
		args := append([]string{"-bin", c.Bin, "-out", c.ImageDir}, ownImages...)
		return run(ctx, filepath.Join(c.Bin, "images"), args...)
	})
}

// buildThirdParty builds a program unless it was built from the same sources with the same flags. Asking Go
// instead would take seconds for each.
func (c *Cluster) buildThirdParty(ctx context.Context, p program) error {
	stamp, err := c.stamp(p)
	if err != nil {
		return err
	}
	stampFile := filepath.Join(c.Bin, ".stamp", p.name)
	was, err := os.ReadFile(stampFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if string(was) == stamp && fileExists(filepath.Join(c.Bin, p.name)) {
		return nil
	}
	what := fmt.Sprintf("building %s (%s)", p.name, p.hint)
	if err := c.Step(what, func() error { return c.goBuild(ctx, p) }); err != nil {
		return err
	}
	return writeFile(stampFile, []byte(stamp), 0o644)
}

// letFinish makes the end of the context an interrupt, on which the program can put its things in order.
func letFinish(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
}

// stamp changes with whatever the program is built from.
func (c *Cluster) stamp(p program) (string, error) {
	files, err := filepath.Glob(filepath.Join(c.Root, p.module, "*"))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, p.pkg, p.ldflags)
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

func (c *Cluster) goBuild(ctx context.Context, p program) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", p.ldflags, "-o", filepath.Join(c.Bin, p.name), p.pkg)
	cmd.Dir = filepath.Join(c.Root, p.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	letFinish(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s in %s: %w\n%s", strings.Join(cmd.Args, " "), cmd.Dir, err, bytes.TrimSpace(out))
	}
	return nil
}
