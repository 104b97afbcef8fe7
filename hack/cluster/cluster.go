package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

// A Cluster is a plan together with the checkout that it is made from.
type Cluster struct {
	Plan
	*Progress
	Root     string               // of the repository
	Bin      string               // built programs
	ImageDir string               // built images
	fresh    bool                 // nothing of the cluster was there when this program began
	booted   map[string]time.Time // machines that this program has started
}

func newCluster(name string, nodes int, out io.Writer) (*Cluster, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	output := filepath.Join(root, "_output")
	c := &Cluster{
		Plan:     Plan{Name: name, Nodes: nodes, Output: filepath.Join(output, name)},
		Progress: newProgress(out),
		Root:     root,
		Bin:      filepath.Join(output, "bin"),
		ImageDir: filepath.Join(output, "images"),
		booted:   map[string]time.Time{},
	}
	return c, c.Validate()
}

// findRoot returns the top of the checkout that the working folder is in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if fileExists(filepath.Join(dir, "hack/cluster/main.go")) {
			return dir, nil
		}
	}
	return "", errors.New("the working folder is outside the repository")
}

// load takes the plan of the cluster that is there.
func (c *Cluster) load() error {
	have, err := loadPlan(c.Name)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no cluster %s: run `up` first", c.Name)
	}
	c.Plan = have
	return err
}

// eachNode calls f for all nodes at once and waits for all.
func (c *Cluster) eachNode(f func(Machine) error) error {
	nodes := c.NodeMachines()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, m := range nodes {
		wg.Go(func() { errs[i] = f(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// explainFailure adds to an error what the logs say last, those first that were written to last.
func (c *Cluster) explainFailure(err error) error {
	const logs, lines = 3, 12
	var b strings.Builder
	for _, log := range recentLogs(filepath.Join(c.Output, "log"), c.start)[:] {
		if b.Len() > 0 && strings.Count(b.String(), "\n==> ") >= logs {
			break
		}
		if tail := tailLines(log, lines); tail != "" {
			fmt.Fprintf(&b, "\n==> %s\n%s", log, tail)
		}
	}
	return fmt.Errorf("%w\n%s\nThe cluster is left for you to look at; `down` removes it. Logs: %s",
		err, b.String(), filepath.Join(c.Output, "log"))
}

// recentLogs lists the logs written to since a time, latest first.
func recentLogs(dir string, since time.Time) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*.log")) // the pattern is a good one
	written := map[string]time.Time{}
	var recent []string
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(since) && info.Size() > 0 {
			written[file] = info.ModTime()
			recent = append(recent, file)
		}
	}
	sort.Slice(recent, func(i, j int) bool { return written[recent[i]].After(written[recent[j]]) })
	return recent
}

func tailLines(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n") + "\n"
}
