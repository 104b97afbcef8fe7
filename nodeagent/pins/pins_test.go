package pins

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/bpf/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

const hook = "inet_sock_set_state"

// spec is that of a real collector, and which of its programs has the hook.
func spec(t *testing.T) (*ebpf.CollectionSpec, string) {
	t.Helper()
	spec, err := tcp.Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range spec.Programs {
		if program.AttachTo == hook {
			return spec, name
		}
	}
	t.Fatalf("no program is for %s", hook)
	return nil, ""
}

func linkID(t *testing.T, path string) link.ID {
	t.Helper()
	pinned, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

// TestTrace: what is attached stays when the same program comes again, with its maps; another program replaces it; a
// hook that is missing takes nothing else with it, and what was attached there goes.
func TestTrace(t *testing.T) {
	root := Root(fakepod.BPFFS(t), "node.with.dots")
	shared, err := Shared(root)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll(shared)
	folder := filepath.Join(root, "tcp-v1")
	programs, name := spec(t)
	path := filepath.Join(folder, name)
	trace := func(programs *ebpf.CollectionSpec, without ...string) *Traced {
		t.Helper()
		traced, err := Trace(folder, programs, shared, without)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(traced.Close)
		return traced
	}
	first := trace(programs)
	if len(first.Problems) > 0 || len(first.Iterators) == 0 {
		t.Fatalf("%v, %d iterators", first.Problems, len(first.Iterators))
	}
	id := linkID(t, path)
	trace(programs)
	if got := linkID(t, path); got != id {
		t.Errorf("the same program was attached anew: link %d became %d", id, got)
	}

	changed, _ := spec(t)
	instructions := changed.Programs[name].Instructions
	last := len(instructions) - 1
	changed.Programs[name].Instructions = append(slices.Clone(instructions[:last]), asm.Mov.Imm(asm.R0, 0), instructions[last])
	if traced := trace(changed); len(traced.Problems) > 0 {
		t.Fatal(traced.Problems)
	}
	if got := linkID(t, path); got == id {
		t.Error("the former program goes on beside a changed one")
	}

	missing := trace(programs, hook)
	if missing.Problems[hook] == nil || len(missing.Problems) != 1 || len(missing.Iterators) != len(first.Iterators) {
		t.Errorf("without %s: %v, %d iterators", hook, missing.Problems, len(missing.Iterators))
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("what was attached to the missing hook is still there")
	}
}

// TestForget: nothing of a collector that is switched off stays.
func TestForget(t *testing.T) {
	root := Root(fakepod.BPFFS(t), "n")
	shared, err := Shared(root)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll(shared)
	programs, name := spec(t)
	for _, layout := range []string{"tcp-v1", "tcp-v2"} {
		traced, err := Trace(filepath.Join(root, layout), programs, shared, nil)
		if err != nil {
			t.Fatal(err)
		}
		traced.Close()
		linkID(t, filepath.Join(root, layout, name))
	}
	if err := Forget(root, shared, "tcp"); err != nil {
		t.Fatal(err)
	}
	if err := Forget(root, shared, "dns"); err != nil {
		t.Errorf("forgetting what was never there: %v", err)
	}
	left, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != sharedLayout {
		t.Errorf("left are %v", left)
	}
	if Forget(root, nil, "dns") != nil {
		t.Error("without shared maps there is nothing to forget")
	}
	if headers.Inspectors["dns"] != headers.InspectDNS {
		t.Error("the collector dns has another slot")
	}
}
