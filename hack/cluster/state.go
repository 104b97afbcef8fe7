package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// stateFile, in the state folder, is the plan of the cluster that is there.
const stateFile = "cluster.json"

// loadPlan reads the plan of an existing cluster; fs.ErrNotExist when there is none.
func loadPlan(name string) (Plan, error) {
	var p Plan
	b, err := os.ReadFile(filepath.Join(stateRoot, name, stateFile))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("reading the plan of cluster %s: %w", name, err)
	}
	return p, p.Validate()
}

func (p Plan) save() error {
	if err := p.Validate(); err != nil {
		return err
	}
	return writeFile(filepath.Join(p.StateDir(), stateFile), encode(p), 0o644)
}

// claimPlan returns the plan of the cluster, and whether it is new. A new one gets the lowest slot that no
// cluster of this machine has.
func claimPlan(want Plan) (plan Plan, fresh bool, err error) {
	unlock, err := lock(filepath.Dir(stateRoot)) // exists and stays, whoever comes and goes
	if err != nil {
		return Plan{}, false, err
	}
	defer unlock()
	have, err := loadPlan(want.Name)
	switch {
	case err == nil:
		plan, err = have.grow(want)
		return plan, false, err
	case !errors.Is(err, fs.ErrNotExist):
		return Plan{}, false, err
	}
	taken, err := takenSlots()
	if err != nil {
		return Plan{}, false, err
	}
	if want.Slot, err = freeSlot(taken); err != nil {
		return Plan{}, false, err
	}
	return want, true, want.save()
}

// grow returns the plan of an existing cluster as it is to be. Nodes may be added, not taken away.
func (p Plan) grow(want Plan) (Plan, error) {
	if p.Output != want.Output {
		return p, fmt.Errorf("cluster %s runs for %s: take it down from there, or choose another --name", p.Name, p.Output)
	}
	if p.Nodes > want.Nodes {
		return p, fmt.Errorf("cluster %s has %d nodes and cannot shrink to %d: run `down` first", p.Name, p.Nodes, want.Nodes)
	}
	if p.Nodes == want.Nodes {
		return p, nil
	}
	p.Nodes = want.Nodes
	return p, p.save()
}

func takenSlots() ([]int, error) {
	entries, err := os.ReadDir(stateRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var taken []int
	for _, entry := range entries {
		p, err := loadPlan(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // half removed, and without addresses
		}
		if err != nil {
			return nil, err
		}
		taken = append(taken, p.Slot)
	}
	return taken, nil
}

func freeSlot(taken []int) (int, error) {
	for slot := range maxSlots {
		if !slices.Contains(taken, slot) {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%d clusters are on this machine, and there are no addresses for more: take one down", maxSlots)
}

// abandoned says that a cluster is what a run has left that was killed with all of its machines: none runs, and nobody
// works on it, as building its programs would be.
func (p Plan) abandoned() (bool, error) {
	all := p
	all.Nodes = maxNodes
	pids, err := all.running()
	if err != nil || len(pids) > 0 {
		return false, err
	}
	dir, err := os.Open(p.Output)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	switch err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("locking %s: %w", p.Output, err)
	}
	return true, nil
}

// lock waits until no other process holds the lock of an existing folder. The kernel lets go of it when this
// process ends.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		fmt.Fprintf(os.Stderr, "waiting for another process that works on %s\n", dir)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
	}
	return func() { f.Close() }, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
