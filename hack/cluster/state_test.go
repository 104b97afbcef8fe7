package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFreeSlot(t *testing.T) {
	var all []int
	for slot := range maxSlots {
		all = append(all, slot)
	}
	for _, test := range []struct {
		name  string
		taken []int
		want  int
		fails bool
	}{
		{"first cluster", nil, 0, false},
		{"second cluster", []int{0}, 1, false},
		{"gap", []int{0, 2, 3}, 1, false},
		{"unordered", []int{2, 0, 1}, 3, false},
		{"full", all, 0, true},
	} {
		got, err := freeSlot(test.taken)
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("%s: slot %d, error %v; want %d, error %t", test.name, got, err, test.want, test.fails)
		}
	}
}

func TestGrowRefuses(t *testing.T) {
	have := Plan{Name: "demo", Nodes: 2, Output: "/a/_output/demo"}
	for _, test := range []struct {
		name string
		want Plan
		err  string // part of it; empty for none
	}{
		{"same", have, ""},
		{"fewer nodes", Plan{Name: "demo", Nodes: 1, Output: have.Output}, "cannot shrink"},
		{"another checkout", Plan{Name: "demo", Nodes: 2, Output: "/b/_output/demo"}, "runs for /a"},
	} {
		got, err := have.grow(test.want)
		switch {
		case test.err == "" && (err != nil || got != have):
			t.Errorf("%s: %+v, error %v", test.name, got, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.err)
		}
	}
}

// TestAbandoned: what a killed run has left may be removed by others, and nothing else may.
func TestAbandoned(t *testing.T) {
	output := t.TempDir()
	// Machines are found by name, those of other runs of this test too.
	p := Plan{Name: fmt.Sprint("abandoned-", os.Getpid()), Nodes: 1, Output: output}
	want := func(what string, want bool) {
		t.Helper()
		if got, err := p.abandoned(); got != want || err != nil {
			t.Errorf("%s: abandoned %t, error %v; want %t", what, got, err, want)
		}
	}
	want("nothing runs", true)
	want("asked again", true)

	unlock, err := lock(output)
	if err != nil {
		t.Fatal(err)
	}
	want("somebody works on it", false)
	unlock()

	all := p
	all.Nodes = maxNodes
	machine := &exec.Cmd{Path: "/proc/self/exe", Args: all.machineArgs(all.Machines()[maxNodes]), Env: append(os.Environ(), "HOLD=1")}
	in, err := machine.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	want("a machine runs", false)
	in.Close()
	if err := machine.Wait(); err != nil {
		t.Fatal(err)
	}
	want("its machine has ended", true)

	p.Output = filepath.Join(output, "gone")
	want("its folder is gone", true)
}

// TestMain makes this program hold the place of a machine.
func TestMain(m *testing.M) {
	if os.Getenv("HOLD") != "" {
		io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}
