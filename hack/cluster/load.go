package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Images of the cluster's own pods, as artifacts/images writes them.
var ownImages = []string{"pause", "coredns", "toolbox"}

const pauseImage = "localhost/pause:dev"

// ctr is containerd's client, talking to the machine's containerd about what kubelet sees.
func ctrArgs(args ...string) []string {
	return append([]string{"--address", containerd, "--namespace", "k8s.io"}, args...)
}

// waitContainerd waits until a node's containerd answers.
func (c *Cluster) waitContainerd(ctx context.Context, m Machine) error {
	return poll(ctx, 30*time.Second, "containerd of "+m.Name, func() error {
		cmd, err := c.inMachine(ctx, m, "ctr", ctrArgs("version")...)
		if err != nil {
			return err
		}
		out, err := cmd.CombinedOutput()
		return explain(err, out)
	})
}

// loadImage imports a docker archive on a node.
func (c *Cluster) loadImage(ctx context.Context, m Machine, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd, err := c.inMachine(ctx, m, "ctr", ctrArgs("images", "import", "-")...)
	if err != nil {
		return err
	}
	cmd.Stdin = file
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("importing %s on %s: %w", filepath.Base(archive), m.Name, explain(err, out))
	}
	return nil
}

// loadOwnImages gives a node the images that its first pods need.
func (c *Cluster) loadOwnImages(ctx context.Context, m Machine) error {
	if err := c.waitContainerd(ctx, m); err != nil {
		return err
	}
	for _, name := range ownImages {
		if err := c.loadImage(ctx, m, filepath.Join(c.ImageDir, name+".tar")); err != nil {
			return err
		}
	}
	return nil
}

// Load is the sub-command: import archives on every node.
func (c *Cluster) Load(ctx context.Context, archives []string) error {
	if len(archives) == 0 {
		return fmt.Errorf("no archive named: want files that `docker save` or artifacts/images writes")
	}
	for _, archive := range archives {
		what := fmt.Sprintf("loading %s on %d nodes", filepath.Base(archive), c.Nodes)
		if err := c.Step(what, func() error {
			return c.eachNode(func(m Machine) error { return c.loadImage(ctx, m, archive) })
		}); err != nil {
			return err
		}
	}
	return nil
}

// explain adds what a program said to its error.
func explain(err error, output []byte) error {
	said := strings.TrimSpace(string(bytes.TrimSpace(output)))
	if err == nil || said == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, said)
}
