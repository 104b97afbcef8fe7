package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// A mountStep is one change of a machine's mount namespace.
type mountStep struct {
	why            string
	source, target string
	fstype         string
	flags          uintptr
	data           string
	then           func(MachineSpec) error // prepares what later steps need; may be nil
}

// machineMounts turns a copy of the host's mounts into a machine of its own: what programs keep below
// /var/lib, /var/log and /run, and the file systems that show a namespace (/proc, /sys), are the machine's.
// The order matters: /run is new before the cgroups are parked there while /sys changes.
func machineMounts(spec MachineSpec) []mountStep {
	const parked = "/run/cgroup"
	steps := []mountStep{
		{why: "cutting the mounts off from the host's", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE, then: forgetNamespaces},
		{why: "showing the machine's processes", source: "proc", target: "/proc", fstype: "proc"},
		{why: "giving it /run", source: "tmpfs", target: "/run", fstype: "tmpfs", data: "mode=755", then: prepareRun},
		{why: "giving it /var/lib", source: spec.LibDir, target: "/var/lib", flags: unix.MS_BIND},
		{why: "giving it /var/log", source: spec.LogDir, target: "/var/log", flags: unix.MS_BIND},
		{why: "parking the cgroups", source: "/sys/fs/cgroup", target: parked, flags: unix.MS_BIND | unix.MS_REC},
		{why: "showing the machine's interfaces in /sys", source: "sysfs", target: "/sys", fstype: "sysfs"},
		{why: "putting the cgroups back", source: parked, target: "/sys/fs/cgroup", flags: unix.MS_MOVE},
		{why: "giving it a bpffs", source: "bpf", target: "/sys/fs/bpf", fstype: "bpf", data: "mode=700"},
	}
	for _, file := range slices.Sorted(maps.Keys(spec.Sysctls)) {
		steps = append(steps, mountStep{why: "pinning " + file, source: sysctlFile(file),
			target: filepath.Join("/proc/sys", file), flags: unix.MS_BIND})
	}
	// Volumes with mount propagation need shared mounts, which runc and kubelet take for granted.
	return append(steps, mountStep{why: "sharing mounts with containers", target: "/", flags: unix.MS_REC | unix.MS_SHARED})
}

// mountMachine runs in the machine's mount namespace.
func mountMachine(spec MachineSpec) error {
	for _, step := range machineMounts(spec) {
		if err := step.apply(); err != nil {
			return fmt.Errorf("%s (mounting %s on %s): %w", step.why, step.source, step.target, err)
		}
		if step.then == nil {
			continue
		}
		if err := step.then(spec); err != nil {
			return err
		}
	}
	return nil
}

func (s mountStep) apply() error { return unix.Mount(s.source, s.target, s.fstype, s.flags, s.data) }

// forgetNamespaces unmounts the copies of the host's named network namespaces, which would keep them alive.
// Only after the mounts are cut off from the host's: before, the host would lose its own.
func forgetNamespaces(MachineSpec) error {
	err := unix.Unmount(netnsDir, unix.MNT_DETACH)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount, or not there
		return nil
	}
	return fmt.Errorf("letting go of the host's network namespaces: %w", err)
}

// prepareRun makes what later steps mount from the new /run.
func prepareRun(spec MachineSpec) error {
	for _, dir := range []string{"/run/cgroup", "/run/lock", "/run/netns", "/run/sysctl", "/run/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for file, value := range spec.Sysctls {
		name := sysctlFile(file)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func sysctlFile(file string) string { return filepath.Join("/run/sysctl", file) }
