package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// What is pinned, below <bpffs>/networkobservability/<node>:
//
//	<namespace cookie>/<ifindex>/{receive,transmit}  links of a pod's interfaces
//	cgroup-<cgroup id>/{receive,transmit}            links of a pod in the node's network
//	<layout>/<pod key>                               the map of a pod's totals
//
// Links have no version: an agent of any version replaces the program in them. Maps are found by the pod's key and
// not by its namespace, so counters go on when the pod's sandbox is made anew.

func (c *Collector) namespacePins(cookie uint64) string {
	return filepath.Join(c.root, strconv.FormatUint(cookie, 10))
}

func (c *Collector) interfacePins(cookie uint64, ifindex int) string {
	return filepath.Join(c.namespacePins(cookie), strconv.Itoa(ifindex))
}

func (c *Collector) cgroupPins(id uint64) string {
	return filepath.Join(c.root, "cgroup-"+strconv.FormatUint(id, 10))
}

func (c *Collector) mapPin(layout, key string) string {
	return filepath.Join(c.root, layout, key)
}

// A Layout is a form in which totals were once kept. Maps in it are no longer written to, and are added to the
// newer ones.
type Layout struct {
	// Name is the folder in which its maps are pinned.
	Name string
	// Read and ReadNotes translate its map.
	Read      func(*ebpf.Map) (bpf.Totals, error)
	ReadNotes func(*ebpf.Map) (bpf.Notes, error)
}

// earlier are the layouts of former releases, the latest first. A release that changes bpf.Layout adds the one that it
// leaves.
var earlier = []Layout{{Name: "totals-v1", Read: readVersion1, ReadNotes: readNotesVersion1}}

// In totals-v1 there were the cells alone; the notes began as they do now.

func readVersion1(m *ebpf.Map) (sum bpf.Totals, err error) {
	var perCPU []bpf.Cells
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return sum, err
	}
	for i := range perCPU {
		sum.Add(&bpf.Totals{Cells: perCPU[i]})
	}
	return sum, nil
}

func readNotesVersion1(m *ebpf.Map) (bpf.Notes, error) {
	var perCPU []struct {
		StartUnixNano, TransmitBase int64
		_                           [28]uint64
	}
	if err := m.Lookup(uint32(1), &perCPU); err != nil {
		return bpf.Notes{}, fmt.Errorf("reading notes of layout totals-v1: %w", err)
	}
	return bpf.Notes{StartUnixNano: perCPU[0].StartUnixNano, TransmitBase: perCPU[0].TransmitBase}, nil
}

// A ledger is all that was ever counted for one pod: its map, and those of earlier layouts.
type ledger struct {
	totals  *ebpf.Map
	earlier []earlierMap
}

type earlierMap struct {
	*ebpf.Map
	layout Layout
}

func (l *ledger) close() {
	l.totals.Close()
	for _, old := range l.earlier {
		old.Close()
	}
}

// read sums the layouts. Earlier maps are read each time and not once: a program of the former agent may still be
// running on another CPU at the moment in which it is replaced.
func (l *ledger) read() (bpf.Totals, error) {
	sum, err := bpf.Read(l.totals)
	if err != nil {
		return sum, err
	}
	for _, old := range l.earlier {
		totals, err := old.layout.Read(old.Map)
		if err != nil {
			return sum, fmt.Errorf("reading totals of layout %s: %w", old.layout.Name, err)
		}
		sum.Add(&totals)
	}
	return sum, nil
}

// openLedger opens the pinned maps of a pod, or makes the first one.
func (c *Collector) openLedger(key string) (*ledger, error) {
	notes := bpf.Notes{StartUnixNano: time.Now().UnixNano()}
	l := &ledger{}
	for _, layout := range c.earlier {
		old, err := ebpf.LoadPinnedMap(c.mapPin(layout.Name, key), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening totals of layout %s: %w", layout.Name, err)
		}
		l.earlier = append(l.earlier, earlierMap{Map: old, layout: layout})
	}
	if len(l.earlier) > 0 {
		var err error
		if notes, err = l.earlier[0].layout.ReadNotes(l.earlier[0].Map); err != nil {
			return nil, err
		}
	}
	var err error
	l.totals, err = openOrMake(c.mapPin(bpf.Layout, key), notes)
	return l, err
}

func openOrMake(path string, notes bpf.Notes) (*ebpf.Map, error) {
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return pinned, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of totals: %w", err)
	}
	made, err := bpf.NewMap(notes)
	if err != nil {
		return nil, err
	}
	if err := made.Pin(path); err != nil {
		made.Close()
		return nil, fmt.Errorf("pinning totals: %w", err)
	}
	return made, nil
}

// removePins removes a folder of pins with all in it; links that nothing else holds are thereby detached.
func removePins(folder string) error {
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("removing pins: %w", err)
	}
	return nil
}

// sweepLinks removes the links of namespaces and cgroups that are in none of the folders to keep, and the folders of
// interfaces that are gone from those that are kept.
func (c *Collector) sweepLinks(keep map[string]bool) error {
	folders, err := os.ReadDir(c.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing pins: %w", err)
	}
	var problems []error
	for _, folder := range folders {
		path := filepath.Join(c.root, folder.Name())
		switch {
		case !isLinks(folder.Name()):
		case !keep[path]:
			problems = append(problems, removePins(path))
		default:
			problems = append(problems, sweepInterfaces(path))
		}
	}
	return errors.Join(problems...)
}

// isLinks tells folders of links from those of maps, and of other collectors.
func isLinks(folder string) bool {
	_, err := strconv.ParseUint(strings.TrimPrefix(folder, "cgroup-"), 10, 64)
	return err == nil
}

// sweepTotals removes the totals of pods that are gone for long: keep says whose stay.
func (c *Collector) sweepTotals(keep func(key string) bool) error {
	maps, err := filepath.Glob(filepath.Join(c.root, "totals-*", "*"))
	if err != nil {
		return fmt.Errorf("listing totals: %w", err)
	}
	var problems []error
	for _, path := range maps {
		if !keep(filepath.Base(path)) {
			problems = append(problems, os.Remove(path))
		}
	}
	return errors.Join(problems...)
}

func sweepInterfaces(namespace string) error {
	interfaces, err := os.ReadDir(namespace)
	if err != nil {
		return fmt.Errorf("listing pins: %w", err)
	}
	var problems []error
	for _, entry := range interfaces {
		path := filepath.Join(namespace, entry.Name())
		if !entry.IsDir() {
			continue // a link of a cgroup
		}
		if pinned, err := link.LoadPinnedLink(filepath.Join(path, bpf.Receive.String()), nil); err == nil {
			dead := !alive(pinned)
			pinned.Close()
			if dead {
				problems = append(problems, removePins(path))
			}
		}
	}
	return errors.Join(problems...)
}

// Forget removes what the collector, which is switched off, has left in the kernel when it was on: links, and totals. The filters
// of clsact are in the pods, see ForgetIn.
func Forget(bpffs, node string) error {
	c := New(Config{BPFFS: bpffs, Node: node})
	return errors.Join(c.sweepLinks(nil), c.sweepTotals(func(string) bool { return false }))
}

// ForgetIn removes the filters of clsact that the collector has left in pods.
func ForgetIn(pods []*podmap.Pod) error {
	var problems []error
	for _, pod := range pods {
		if pod.HostNetwork {
			continue
		}
		if _, err := removeFilters(pod); err != nil && !errors.Is(err, podmap.ErrGone) {
			problems = append(problems, fmt.Errorf("pod %s: %w", pod.Key, err))
		}
	}
	return errors.Join(problems...)
}

// Cleanup removes every pin of a node, which detaches what was attached through pinned links, and the filters of
// clsact from the namespaces of the given pods. It reports what it removed.
func Cleanup(bpffs, node string, pods []*podmap.Pod) (removed []string, err error) {
	folder := pins.Root(bpffs, node)
	var problems []error
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			removed = append(removed, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, fmt.Errorf("listing pins: %w", err))
	}
	problems = append(problems, removePins(folder))
	for _, pod := range pods {
		if pod.HostNetwork {
			continue
		}
		filters, err := removeFilters(pod)
		removed, problems = append(removed, filters...), append(problems, err)
	}
	// Other nodes of this kernel may have folders beside this one.
	if err := os.Remove(filepath.Dir(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		problems = append(problems, fmt.Errorf("removing the folder of all nodes: %w", err))
	}
	return removed, errors.Join(problems...)
}

func removeFilters(pod *podmap.Pod) (removed []string, err error) {
	err = pod.Enter(func() error {
		links, err := listInterfaces()
		if err != nil {
			return fmt.Errorf("listing interfaces: %w", err)
		}
		for _, iface := range links {
			count, err := (clsactHook{}).detach(iface)
			if err != nil {
				return err
			}
			for range count {
				removed = append(removed, fmt.Sprintf("a filter of %q in pod %s", iface.Attrs().Name, pod.Key))
			}
		}
		return nil
	})
	return removed, err
}
