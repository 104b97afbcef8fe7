package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// bpfMemory is what the kernel charges for maps and programs (memlock in proc_pid_fdinfo(5)), in bytes.
type bpfMemory struct {
	maps, programs         int
	mapBytes, programBytes uint64
}

func (m bpfMemory) String() string {
	return fmt.Sprintf("%.1f MiB, in %d maps %.1f and in %d programs %.1f", mib(int64(m.mapBytes+m.programBytes)),
		m.maps, mib(int64(m.mapBytes)), m.programs, mib(int64(m.programBytes)))
}

// bpfMemory finds what the agent has pinned: all of its maps, and its programs through their links.
func (a *agent) bpfMemory() (bpfMemory, error) {
	var m bpfMemory
	seen := map[ebpf.ProgramID]bool{}
	err := filepath.WalkDir(a.bpffs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) == ".debug" { // the file system's own
			return err
		}
		pinned, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err == nil {
			defer pinned.Close()
			return m.addMap(pinned)
		}
		attached, linkErr := link.LoadPinnedLink(path, nil)
		if linkErr != nil {
			return fmt.Errorf("opening %s: %w", path, errors.Join(err, linkErr))
		}
		defer attached.Close()
		info, err := attached.Info()
		if err != nil || seen[info.Program] {
			return err
		}
		seen[info.Program] = true
		return m.addProgram(info.Program)
	})
	if err != nil {
		return m, fmt.Errorf("looking at what the agent has pinned: %w", err)
	}
	return m, nil
}

func (m *bpfMemory) addMap(pinned *ebpf.Map) error {
	info, err := pinned.Info()
	if err != nil {
		return err
	}
	bytes, _ := info.Memlock()
	m.maps++
	m.mapBytes += bytes
	return nil
}

func (m *bpfMemory) addProgram(id ebpf.ProgramID) error {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return err
	}
	bytes, _ := info.Memlock()
	m.programs++
	m.programBytes += bytes
	return nil
}
