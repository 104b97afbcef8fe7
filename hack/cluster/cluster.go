package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// eachNode calls f for all nodes at once and waits for all. Errors say which node they are about.
func (c *Cluster) eachNode(f func(Machine) error) error {
	nodes := c.NodeMachines()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, m := range nodes {
		wg.Go(func() { errs[i] = about(m, f(m)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// about says which machine an error is about, if it is one.
func about(m Machine, err error) error {
	if err == nil {
		return nil
	}
	return &MachineError{Machine: m, Err: err}
}

// A MachineError is what went wrong with one machine, whose logs then tell why.
type MachineError struct {
	Machine Machine
	Err     error
}

func (e *MachineError) Error() string { return e.Machine.Name + ": " + e.Err.Error() }
func (e *MachineError) Unwrap() error { return e.Err }

// explainFailure adds to an error what the logs of the machine that it is about say last.
func (c *Cluster) explainFailure(err error) error {
	var b strings.Builder
	var at *MachineError
	if errors.As(err, &at) {
		const logs, lines = 3, 12
		for i, log := range recentLogs(c.LogDir(at.Machine), c.start) {
			if i == logs {
				break
			}
			fmt.Fprintf(&b, "\n==> %s\n%s", log, tailLines(log, lines))
		}
	}
	return fmt.Errorf("%w\n%s\nwhat was made is left for you to look at; `down` removes it. Logs: %s",
		err, b.String(), filepath.Join(c.Output, "log"))
}

// recentLogs lists the logs in a folder that were written to since a time, latest first.
func recentLogs(dir string, since time.Time) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is a good one
	written := map[string]time.Time{}
	var recent []string
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(since) && info.Size() > 0 {
			written[file] = info.ModTime()
			recent = append(recent, file)
		}
	}
	slices.SortFunc(recent, func(a, b string) int { return written[b].Compare(written[a]) })
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
