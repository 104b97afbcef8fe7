package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// bootMachine starts a machine unless it runs, and notes when.
func (c *Cluster) bootMachine(ctx context.Context, m Machine) error {
	pid, err := c.findMachine(m)
	if err != nil || pid != 0 {
		return err
	}
	return c.Step("starting "+m.Name, func() error {
		if err := c.makeMachineNetns(ctx, m); err != nil {
			return err
		}
		if err := removeCgroups(ctx, m); err != nil { // what a crash has left
			return err
		}
		if err := makeCgroups(m); err != nil {
			return err
		}
		c.booted[m.Name] = time.Now()
		return about(m, c.startMachine(m))
	})
}

// lastWord is the time since when a node's kubelet must have spoken to be taken for alive.
func (c *Cluster) lastWord(m Machine) time.Time {
	if booted, now := c.booted[m.Name]; now {
		return booted
	}
	return time.Now().Add(-leaseDuration)
}

// startMachine starts process 1 of a machine in the machine's network namespace and in new namespaces of the
// other kinds. The process outlives this program.
func (c *Cluster) startMachine(m Machine) error {
	if err := os.MkdirAll(c.LogDir(m), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.LogDir(m), "machine.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := c.machineArgs(m)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	spec, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := inNetns(m.Name, cmd.Start); err != nil {
		return fmt.Errorf("starting process 1: %w", err)
	}
	go cmd.Wait() // no zombie, should it end while this program runs
	return c.releaseMachine(m, cmd.Process, spec)
}

// releaseMachine lets process 1 go ahead once it is in its control groups, and ends it if that cannot be.
func (c *Cluster) releaseMachine(m Machine, process *os.Process, spec io.WriteCloser) error {
	err := joinCgroups(m, process.Pid)
	if err == nil {
		err = json.NewEncoder(spec).Encode(c.machineSpec(m, c.Bin))
	}
	err = errors.Join(err, spec.Close())
	if err != nil {
		_ = process.Kill() // it may have ended by itself, which is the error then
	}
	return err
}

// installProgram copies this program to where machines run it from, so that a rebuild does not touch them.
func (c *Cluster) installProgram() error {
	if pids, err := c.running(); err != nil || len(pids) > 0 {
		return err // in use, and as it was when the machines were made
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return writeFile(c.machineProgram(), self, 0o755)
}

// running maps the names of the machines that run to their processes 1.
func (p Plan) running() (map[string]int, error) {
	pids := map[string]int{}
	for _, m := range p.Machines() {
		pid, err := p.findMachine(m)
		if err != nil {
			return nil, err
		}
		if pid != 0 {
			pids[m.Name] = pid
		}
	}
	return pids, nil
}

// inMachine prepares a program that is to run in the mount and network namespaces of a machine.
func (c *Cluster) inMachine(ctx context.Context, m Machine, name string, args ...string) (*exec.Cmd, error) {
	pid, err := c.findMachine(m)
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return nil, fmt.Errorf("%s does not run", m.Name)
	}
	enter := []string{fmt.Sprintf("--target=%d", pid), "--mount", "--net", "--uts", name}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...), nil
}
