// Package pins keeps what belongs to a whole node in the BPF file system, so that it goes on while no agent runs:
// maps, and programs that trace the kernel. What belongs to one pod is kept by the collector that made it.
//
// Below <bpffs>/networkobservability/<node>:
//
//	shared-<layout>/<map>     maps that several programs use (bpf/headers)
//	<collector>-<layout>/...  maps and links of one collector
package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/networkobservability/networkobservability/bpf/headers"
)

// Root is the folder of one node's pins. The BPF file system refuses dots; node names have no underscores.
func Root(bpffs, node string) string {
	return filepath.Join(bpffs, "networkobservability", strings.ReplaceAll(node, ".", "_"))
}

// sharedLayout names the meaning of the bytes in the shared maps.
const sharedLayout = "shared-v1"

// Shared opens the maps that several programs use, or makes them. The caller closes them.
func Shared(root string) (map[string]*ebpf.Map, error) {
	return Maps(filepath.Join(root, sharedLayout), headers.MapSpecs())
}

// Maps opens maps that are pinned in a folder by their names, or makes and pins them. The folder's name tells layouts
// apart. The caller closes them.
func Maps(folder string, specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("making a folder of pins: %w", err)
	}
	opened := map[string]*ebpf.Map{}
	for name, spec := range specs {
		spec = spec.Copy()
		spec.Name, spec.Pinning = name, ebpf.PinByName
		m, err := ebpf.NewMapWithOptions(spec, ebpf.MapOptions{PinPath: folder})
		if err != nil {
			CloseAll(opened)
			return nil, fmt.Errorf("opening or making the map %s: %w", name, err)
		}
		opened[name] = m
	}
	return opened, nil
}

// Forget removes what a collector that is switched off has left in the kernel when it was on: its links and maps, of
// all layouts, and its place among the programs that look closer at packets.
func Forget(root string, shared map[string]*ebpf.Map, collector string) error {
	folders, err := filepath.Glob(filepath.Join(root, collector+"-v*"))
	if err != nil {
		return fmt.Errorf("listing pins: %w", err)
	}
	var problems []error
	for _, folder := range folders {
		problems = append(problems, os.RemoveAll(folder))
	}
	if slot, ok := headers.Inspectors[collector]; ok {
		for _, name := range []string{"inspectors", "cgroup_inspectors"} {
			if array := shared[name]; array != nil {
				if err := array.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					problems = append(problems, err)
				}
			}
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("removing what %s had left: %w", collector, err)
	}
	return nil
}

// CloseAll closes maps; pinned ones stay.
func CloseAll(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// Traced is a set of programs that trace the kernel, and their maps.
type Traced struct {
	Maps map[string]*ebpf.Map
	// Problems says which hooks are not there, and why. Everything else works.
	Problems map[string]error
	// Iterators are programs that are run on request, by name. One whose hook is not there is in Problems instead.
	Iterators map[string]*ebpf.Program
	own       []*ebpf.Map
	hooks     []string
}

// Hooks says of each hook that the programs want whether it is there.
func (t *Traced) Hooks() map[string]bool {
	hooks := map[string]bool{}
	for _, hook := range t.hooks {
		hooks[hook] = t.Problems[hook] == nil
	}
	return hooks
}

// Trace loads the programs of spec, each on its own, and attaches those that are not iterators. Maps that shared has
// are taken from there, others are pinned in the folder. Programs that are attached already, with the same instructions and maps,
// stay as they are. without names hooks that shall be taken for missing.
func Trace(folder string, spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, without []string) (*Traced, error) {
	own := map[string]*ebpf.MapSpec{}
	replacements := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		switch {
		case shared[name] != nil:
			replacements[name] = shared[name]
		case !strings.HasPrefix(name, "."):
			own[name] = m
		}
	}
	made, err := Maps(folder, own)
	if err != nil {
		return nil, err
	}
	t := &Traced{Maps: made, Problems: map[string]error{}, Iterators: map[string]*ebpf.Program{}}
	for name, m := range made {
		replacements[name] = m
		t.own = append(t.own, m)
	}
	for name, program := range spec.Programs {
		t.hooks = append(t.hooks, program.AttachTo)
		if slices.Contains(without, program.AttachTo) {
			t.Problems[program.AttachTo] = errors.New("taken for missing, as configured")
			err := os.Remove(filepath.Join(folder, name)) // of an agent that was configured otherwise
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Problems[program.AttachTo] = err
			}
			continue
		}
		if err := t.start(folder, name, spec, replacements); err != nil {
			t.Problems[program.AttachTo] = err
		}
	}
	return t, nil
}

// Close lets go of maps and programs. What is attached goes on.
func (t *Traced) Close() {
	for _, m := range t.own {
		m.Close()
	}
	for _, program := range t.Iterators {
		program.Close()
	}
}

func (t *Traced) start(folder, name string, spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) error {
	program, err := load(name, spec, maps)
	if err != nil {
		return err
	}
	if spec.Programs[name].AttachType == ebpf.AttachTraceIter {
		t.Iterators[name] = program
		return nil
	}
	defer program.Close() // its link keeps it
	path := filepath.Join(folder, name)
	pinned, err := link.LoadPinnedLink(path, nil)
	switch {
	case err == nil:
		defer pinned.Close()
		if runs(pinned, program) {
			return nil
		}
		// The kernel cannot swap the program in a link of this kind. For the moment in between, nothing is counted.
		if err := pinned.Unpin(); err != nil {
			return fmt.Errorf("removing the former program: %w", err)
		}
		pinned.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("opening the pin %s: %w", path, err)
	}
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return fmt.Errorf("attaching to %s: %w", spec.Programs[name].AttachTo, err)
	}
	defer attached.Close()
	if err := attached.Pin(path); err != nil {
		return fmt.Errorf("pinning a link: %w", err)
	}
	return nil
}

// load loads one program: one that the kernel refuses does not take others with it.
func load(name string, spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	alone := spec.Copy()
	for other := range alone.Programs {
		if other != name {
			delete(alone.Programs, other)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(alone, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", name, err)
	}
	defer collection.Close()
	return collection.DetachProgram(name), nil
}

// runs says whether a link's program is the same as another one, with the same maps.
func runs(l link.Link, program *ebpf.Program) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	running, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false
	}
	defer running.Close()
	before, err1 := running.Info()
	after, err2 := program.Info()
	if err1 != nil || err2 != nil || before.Tag != after.Tag {
		return false
	}
	oldMaps, _ := before.MapIDs()
	newMaps, _ := after.MapIDs()
	slices.Sort(oldMaps)
	slices.Sort(newMaps)
	return slices.Equal(oldMaps, newMaps)
}
