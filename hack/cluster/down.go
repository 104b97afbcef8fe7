package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Down is the sub-command: it removes every trace but the programs and the logs.
func (c *Cluster) Down(ctx context.Context) error {
	if err := checkRoot(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Output, 0o755); err != nil {
		return err
	}
	release, err := lock(c.Output)
	if err != nil {
		return err
	}
	defer release()
	have, err := loadPlan(c.Name)
	switch {
	case err == nil && have.Output != c.Output:
		abandoned, err := have.abandoned()
		if err != nil {
			return err
		}
		if !abandoned && fileExists(have.Output) {
			return fmt.Errorf("cluster %s runs for %s: take it down from there", c.Name, have.Output)
		}
		c.Plan = have
	case err == nil:
		c.Plan = have
	case !errors.Is(err, fs.ErrNotExist):
		c.Say("the plan is unreadable (%v): removing by name", err)
	}
	return c.Step("removing cluster "+c.Name, func() error { return c.remove(ctx) })
}

// remove takes everything away by name: processes, then what they held. It does not matter what is there.
func (c *Cluster) remove(ctx context.Context) error {
	// Half a plan may know fewer nodes than were made.
	all := c.Plan
	all.Nodes = maxNodes
	if err := all.stopMachines(ctx); err != nil {
		return err
	}
	if err := c.deleteNetwork(ctx); err != nil {
		return fmt.Errorf("removing the network: %w", err)
	}
	for _, m := range all.Machines() {
		if err := removeCgroups(ctx, m); err != nil {
			return err
		}
	}
	return c.removeFiles()
}

// stopMachines ends every machine that runs.
func (p Plan) stopMachines(ctx context.Context) error {
	for _, m := range p.Machines() {
		if err := p.stopMachine(ctx, m); err != nil {
			return fmt.Errorf("stopping %s: %w", m.Name, err)
		}
	}
	return nil
}

// removeFiles removes the state folder, the plan in it last of all, and the kubeconfig.
func (p Plan) removeFiles() error {
	if err := p.checkUnmounted(); err != nil {
		return err
	}
	if err := os.RemoveAll(p.Kubeconfig()); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.StateDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == stateFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.StateDir(), entry.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.StateDir()); err != nil {
		return err
	}
	if err := unix.Rmdir(stateRoot); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing %s: %w", stateRoot, err)
	}
	return nil
}

// checkUnmounted refuses to remove files below a mount point. Machines mount in namespaces of their own, so
// such a mount is somebody else's.
func (p Plan) checkUnmounted() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], p.StateDir()+"/") {
			return fmt.Errorf("%s is mounted below the cluster's state folder, and not by this program: unmount it first", fields[4])
		}
	}
	return nil
}
