package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Images of the cluster's own pods, as artifacts/images writes them.
var ownImages = []string{"pause", "coredns", "toolbox"}

const pauseImage = "localhost/pause:dev"

// waitContainerd waits until a node's containerd answers.
func (c *Cluster) waitContainerd(ctx context.Context, m Machine) error {
	return poll(ctx, 30*time.Second, "containerd", func() error {
		_, err := c.ctr(ctx, m, nil, "version")
		return err
	})
}

// loadImage imports a docker archive on a node, returns when kubelet can use it, and removes images that it
// has taken the name of.
func (c *Cluster) loadImage(ctx context.Context, m Machine, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	ids, err := imageIDs(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", archive, err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := c.ctr(ctx, m, file, "images", "import", "-"); err != nil {
		return fmt.Errorf("importing %s on %s: %w", filepath.Base(archive), m.Name, err)
	}
	if err := poll(ctx, 10*time.Second, "containerd to notice "+filepath.Base(archive), func() error {
		return c.noticeImages(ctx, m, ids)
	}); err != nil {
		return err
	}
	return c.pruneImages(ctx, m)
}

// managed is the label by which containerd's CRI half knows images that it has looked at.
const managed = "io.cri-containerd.image"

// noticeImages is nil when the CRI half of containerd has recorded the images by their IDs. It learns of an
// import by an event, but does not look again at a name that it knows, unless the label is gone.
func (c *Cluster) noticeImages(ctx context.Context, m Machine, ids []string) error {
	images, err := c.images(ctx, m)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, known := images["sha256:"+id]; known {
			continue
		}
		for name := range images {
			if strings.HasPrefix(name, "sha256:") {
				continue
			}
			if _, err := c.ctr(ctx, m, nil, "images", "label", name, managed+"="); err != nil {
				return err
			}
		}
		return fmt.Errorf("image %s is not recorded yet", id)
	}
	return nil
}

// pruneImages removes images that are recorded by their ID alone: their name has gone to a later build.
func (c *Cluster) pruneImages(ctx context.Context, m Machine) error {
	images, err := c.images(ctx, m)
	if err != nil {
		return err
	}
	for _, name := range unnamed(images) {
		if _, err := c.ctr(ctx, m, nil, "images", "rm", name); err != nil {
			return fmt.Errorf("removing image %s from %s: %w", name, m.Name, err)
		}
	}
	return nil
}

// unnamed lists the IDs in a map of names and IDs to digests whose digest has no name.
func unnamed(images map[string]string) []string {
	named := map[string]bool{}
	for name, digest := range images {
		if !strings.HasPrefix(name, "sha256:") {
			named[digest] = true
		}
	}
	var ids []string
	for name, digest := range images {
		if !named[digest] {
			ids = append(ids, name)
		}
	}
	return ids
}

// images maps the names and the IDs of a node's images to the digests of their manifests.
func (c *Cluster) images(ctx context.Context, m Machine) (map[string]string, error) {
	out, err := c.ctr(ctx, m, nil, "images", "list")
	return parseImages(out), err
}

// parseImages reads a table with the columns REF, TYPE and DIGEST first.
func parseImages(table []byte) map[string]string {
	images := map[string]string{}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] != "REF" {
			images[fields[0]] = fields[2]
		}
	}
	return images
}

// imageIDs returns the IDs of the images in a docker archive: the digests of their configurations.
func imageIDs(archive io.Reader) ([]string, error) {
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if err == io.EOF {
			return nil, errors.New("no manifest.json in it: want what `docker save` or artifacts/images writes")
		}
		if err != nil {
			return nil, err
		}
		if header.Name != "manifest.json" {
			continue
		}
		var manifest []struct{ Config string }
		if err := json.NewDecoder(r).Decode(&manifest); err != nil {
			return nil, err
		}
		var ids []string
		for _, image := range manifest {
			ids = append(ids, strings.TrimSuffix(path.Base(image.Config), ".json"))
		}
		return ids, nil
	}
}

// ctr runs containerd's client on a node and returns what it prints.
func (c *Cluster) ctr(ctx context.Context, m Machine, input io.Reader, args ...string) ([]byte, error) {
	cmd, err := c.inMachine(ctx, m, "ctr", append([]string{"--address", containerd, "--namespace", "k8s.io"}, args...)...)
	if err != nil {
		return nil, err
	}
	cmd.Stdin = input
	out, err := cmd.CombinedOutput()
	return out, explain(err, out)
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
