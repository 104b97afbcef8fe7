package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A hierarchy is one mounted tree of control groups.
type hierarchy struct {
	mount   string
	unified bool // version 2
}

// systemGroup holds process 1 of a machine and its services, beside kubelet's kubepods.
const systemGroup = "system"

// parseHierarchies reads /proc/self/mountinfo. Beside version 1 there may be a version 2 tree without
// controllers; runc puts containers there too.
func parseHierarchies(mountinfo []byte) []hierarchy {
	var all []hierarchy
	for scanner := bufio.NewScanner(bytes.NewReader(mountinfo)); scanner.Scan(); {
		before, after, found := strings.Cut(scanner.Text(), " - ")
		fields := strings.Fields(before)
		if !found || len(fields) < 5 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			continue
		}
		switch fstype, _, _ := strings.Cut(after, " "); fstype {
		case "cgroup":
			all = append(all, hierarchy{mount: fields[4]})
		case "cgroup2":
			all = append(all, hierarchy{mount: fields[4], unified: true})
		}
	}
	return all
}

func hierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	all := parseHierarchies(b)
	if len(all) == 0 {
		return nil, errors.New("no control groups are mounted below /sys/fs/cgroup")
	}
	return all, nil
}

// makeCgroups makes the machine's groups in every hierarchy; kubelet wants them beforehand.
func makeCgroups(m Machine) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		for _, dir := range []string{m.Name, filepath.Join(m.Name, systemGroup)} {
			if err := h.make(dir); err != nil {
				return fmt.Errorf("making control group %s in %s: %w", dir, h.mount, err)
			}
		}
	}
	return nil
}

func (h hierarchy) make(dir string) error {
	path := filepath.Join(h.mount, dir)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if h.unified {
		return h.delegate(filepath.Dir(path))
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new group, and then nothing can join it
		value, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not the cpuset hierarchy
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(path, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate lets the groups below a version 2 group have the controllers that the group has.
func (h hierarchy) delegate(path string) error {
	controllers, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("delegating %s: %w", controller, err)
		}
	}
	return nil
}

// joinCgroups moves a process into the machine's system group.
func joinCgroups(m Machine, pid int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		file := filepath.Join(h.mount, m.Name, systemGroup, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("joining control group: %w", err)
		}
	}
	return nil
}

// removeCgroups removes every group of the machine, deepest first. Their processes must be gone.
func removeCgroups(ctx context.Context, m Machine) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		// The kernel lets go of a group a moment after its last process.
		err := poll(ctx, 10*time.Second, "control groups of "+m.Name+" to be free", func() error {
			return removeTree(filepath.Join(h.mount, m.Name))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	return nil
}
