package traffic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
)

var directions = []bpf.Direction{bpf.Receive, bpf.Transmit}

// A hook puts programs on an interface of the calling thread's network namespace, in place of earlier ones of ours,
// and reports whether it found none.

// tcxHook attaches through links that are pinned, so that counting goes on while no agent runs.
type tcxHook struct{}

func (tcxHook) attach(iface netlink.Link, pins string, programs [2]*ebpf.Program) (bool, error) {
	// An agent of ours that ran with the other hook would count everything twice.
	if _, err := (clsactHook{}).detach(iface); err != nil {
		return false, err
	}
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return false, fmt.Errorf("making the folder of pins: %w", err)
	}
	fresh := true
	for _, direction := range directions {
		isHere := func(l link.Link) bool { return isOn(iface, direction, l) }
		replaced, err := replaceOrPin(filepath.Join(pins, direction.String()), programs[direction], isHere, func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{
				Interface: iface.Attrs().Index, Program: programs[direction], Attach: tcxKind(direction), Anchor: link.Head(),
			})
		})
		if err != nil {
			return false, err
		}
		fresh = fresh && !replaced
	}
	return fresh, nil
}

func tcxKind(direction bpf.Direction) ebpf.AttachType {
	if direction == bpf.Transmit {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func (tcxHook) isAttached(iface netlink.Link, pins string) bool {
	for _, direction := range directions {
		pinned, err := link.LoadPinnedLink(filepath.Join(pins, direction.String()), nil)
		if err != nil {
			return false
		}
		here := isOn(iface, direction, pinned)
		pinned.Close()
		if !here {
			return false
		}
	}
	return true
}

// isOn says whether a link is one of an interface of the calling thread's network namespace.
func isOn(iface netlink.Link, direction bpf.Direction, l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: iface.Attrs().Index, Attach: tcxKind(direction)})
	if err != nil {
		return false
	}
	return slices.ContainsFunc(result.Programs, func(attached link.AttachedProgram) bool {
		id, ok := attached.LinkID()
		return ok && id == info.ID
	})
}

// replaceOrPin puts a program into the link that is pinned at path if it is where it should be, or attaches one and pins it
// there.
func replaceOrPin(path string, program *ebpf.Program, isHere func(link.Link) bool, attach func() (link.Link, error)) (replaced bool, err error) {
	pinned, err := link.LoadPinnedLink(path, nil)
	switch {
	case err == nil:
		defer pinned.Close()
		if isHere(pinned) {
			if err := pinned.Update(program); err != nil {
				return false, fmt.Errorf("replacing the program at %s: %w", path, err)
			}
			return true, nil
		}
		if err := pinned.Unpin(); err != nil {
			return false, fmt.Errorf("removing a dead pin: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return false, fmt.Errorf("opening the pin %s: %w", path, err)
	}
	attached, err := attach()
	if err != nil {
		return false, err
	}
	defer attached.Close() // the pin keeps it
	if err := attached.Pin(path); err != nil {
		return false, fmt.Errorf("pinning a link: %w", err)
	}
	return false, nil
}

// alive is false for a link whose interface or cgroup is gone: the pin is left behind.
func alive(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex != 0
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		return cgroup.CgroupId != 0
	}
	return true
}

// clsactHook attaches direct-action filters, for kernels before 6.6. A filter stays as long as its interface.
type clsactHook struct{}

const (
	// Our filters are known by their handle and priority together; nobody else's is ever touched. The lowest priority
	// is seen first: a filter that ends the walk before us would hide packets.
	filterHandle   = 0x6e6f6273 // "nobs"
	filterPriority = 1
	filterName     = "networkobservability"
)

func (clsactHook) attach(iface netlink.Link, pins string, programs [2]*ebpf.Program) (bool, error) {
	if err := removePins(pins); err != nil {
		return false, err
	}
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: iface.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("adding the clsact qdisc: %w", err)
	}
	fresh := true
	for _, direction := range directions {
		filter := newFilter(iface, direction)
		found, err := hasFilter(iface, filter)
		if err != nil {
			return false, err
		}
		fresh = fresh && !found
		filter.Fd, filter.Name, filter.DirectAction = programs[direction].FD(), filterName, true
		if err := netlink.FilterReplace(filter); err != nil {
			return false, fmt.Errorf("adding the %s filter: %w", direction, err)
		}
	}
	return fresh, nil
}

func (clsactHook) isAttached(iface netlink.Link) bool {
	for _, direction := range directions {
		if found, err := hasFilter(iface, newFilter(iface, direction)); err != nil || !found {
			return false
		}
	}
	return true
}

func newFilter(iface netlink.Link, direction bpf.Direction) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if direction == bpf.Transmit {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: iface.Attrs().Index, Parent: parent,
		Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}}
}

func hasFilter(iface netlink.Link, ours *netlink.BpfFilter) (bool, error) {
	filters, err := netlink.FilterList(iface, ours.Parent)
	if err != nil {
		return false, fmt.Errorf("listing filters: %w", err)
	}
	for _, filter := range filters {
		attrs := filter.Attrs()
		if attrs.Handle == ours.Handle && attrs.Priority == ours.Priority && filter.Type() == "bpf" {
			return true, nil
		}
	}
	return false, nil
}

// detach removes our filters, and says how many there were. The qdisc stays: others may use it.
func (clsactHook) detach(iface netlink.Link) (removed int, err error) {
	for _, direction := range directions {
		filter := newFilter(iface, direction)
		found, err := hasFilter(iface, filter)
		if err != nil || !found {
			continue // mostly there is not even a qdisc
		}
		if err := netlink.FilterDel(filter); err != nil {
			return removed, fmt.Errorf("removing the %s filter: %w", direction, err)
		}
		removed++
	}
	return removed, nil
}

// attachCgroup puts programs on a pod's cgroup of version 2.
func attachCgroup(path, pins string, programs [2]*ebpf.Program) error {
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return fmt.Errorf("making the folder of pins: %w", err)
	}
	for _, direction := range directions {
		kind := ebpf.AttachCGroupInetIngress
		if direction == bpf.Transmit {
			kind = ebpf.AttachCGroupInetEgress
		}
		if _, err := replaceOrPin(filepath.Join(pins, direction.String()), programs[direction], alive, func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: kind, Program: programs[direction]})
		}); err != nil {
			return err
		}
	}
	return nil
}
