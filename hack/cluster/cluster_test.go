package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Who reads a failure sees the end of the right logs, and of no others.
func TestExplainFailure(t *testing.T) {
	c := &Cluster{Plan: Plan{Name: "demo", Nodes: 2, Output: t.TempDir()}, Progress: newProgress(io.Discard)}
	long := strings.Repeat("earlier\n", 100) + "the last line\n"
	for path, content := range map[string]string{"node-1/kubelet.log": long, "node-1/containerd.log": "", "node-2/kubelet.log": "of another node\n"} {
		if err := writeFile(filepath.Join(c.Output, "log", path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(c.LogDir(c.node(1)), "kube-proxy.log")
	if err := writeFile(old, []byte("of last week\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Time{}, c.start.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("connection refused")
	err := c.explainFailure(errors.Join(about(c.node(1), cause)))
	if !errors.Is(err, cause) {
		t.Errorf("%v does not wrap its cause", err)
	}
	got := err.Error()
	for text, want := range map[string]int{"demo-node-1: connection refused": 1, "the last line": 1, "earlier": 11, "another node": 0, "last week": 0, "containerd.log": 0} {
		if n := strings.Count(got, text); n != want {
			t.Errorf("%q is there %d times, want %d:\n%s", text, n, want, got)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // part of the error
	}{
		{"sideways", `unknown command "sideways"`},
		{"up extra", "takes no arguments"},
		{"partition node-1 --name demo", "flags go before arguments"},
		{"up --name Demo", "cluster name"},
		{"up --nodes 0", "0 nodes"},
	} {
		err := runCommand(context.Background(), strings.Fields(test.args))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.args, err, test.want)
		}
	}
}

func TestMachineNamed(t *testing.T) {
	p := Plan{Name: "demo", Nodes: 2}
	for name, want := range map[string]string{"demo-node-2": "demo-node-2", "node-1": "demo-node-1", "control": "demo-control", "node-3": "", "": ""} {
		m, err := p.machineNamed(name)
		if m.Name != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, error %v; want %q", name, m.Name, err, want)
		}
	}
}

func TestLossRules(t *testing.T) {
	m := Machine{Name: "demo-node-2", Short: "node-2"}
	for percent, want := range map[int][]string{
		0: {"add table netdev loss-node-2", "delete table netdev loss-node-2", ""},
		100: {"add table netdev loss-node-2", "delete table netdev loss-node-2", "add table netdev loss-node-2",
			`add chain netdev loss-node-2 ingress { type filter hook ingress device "node-2" priority 0; }`,
			"add rule netdev loss-node-2 ingress numgen random mod 100 < 100 counter drop",
			`add chain netdev loss-node-2 egress { type filter hook egress device "node-2" priority 0; }`,
			"add rule netdev loss-node-2 egress numgen random mod 100 < 100 counter drop", ""},
	} {
		if got := lossRules(m, percent); got != strings.Join(want, "\n") {
			t.Errorf("%d%%:\n%s", percent, got)
		}
	}
}
