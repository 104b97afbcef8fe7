package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// machineCommand is the sub-command that process 1 of a machine runs; people have no use for it.
const machineCommand = "machine"

// machineArgs is the whole command line of process 1 of a machine. It names the cluster's own copy of the
// program, so it cannot be anything else's, and processes are found by it: no process number is kept that
// could be stale after a crash or a restart.
func (p Plan) machineArgs(m Machine) []string {
	return []string{p.machineProgram(), machineCommand, m.Name}
}

func (p Plan) machineProgram() string { return filepath.Join(p.StateDir(), "machine") }

// findMachine returns process 1 of a machine as seen from here, 0 when it does not run.
func (p Plan) findMachine(m Machine) (int, error) {
	want := cmdline(p.machineArgs(m))
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		got, err := os.ReadFile(entry)
		if err != nil || !bytes.Equal(got, want) {
			continue // another's, or gone
		}
		return strconv.Atoi(filepath.Base(filepath.Dir(entry)))
	}
	return 0, nil
}

// cmdline is how /proc/PID/cmdline shows arguments.
func cmdline(args []string) []byte {
	var b []byte
	for _, arg := range args {
		b = append(append(b, arg...), 0)
	}
	return b
}

// stopMachine ends process 1 of a machine, and the kernel with it every process of the machine. It returns
// when they are gone.
func (p Plan) stopMachine(ctx context.Context, m Machine) error {
	pid, err := p.findMachine(m)
	if err != nil || pid == 0 {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The number may have changed hands before it was opened; from here on the descriptor holds the process.
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Equal(got, cmdline(p.machineArgs(m))) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending process %d of %s: %w", pid, m.Name, err)
	}
	return waitProcess(ctx, fd, m)
}

// waitProcess waits for the end of a process, which for process 1 of a PID namespace is after that of all others.
func waitProcess(ctx context.Context, fd int, m Machine) error {
	return poll(ctx, 30*time.Second, "processes of "+m.Name+" to end", func() error {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 500)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n == 0 {
			return errors.New("they still run")
		}
		return nil
	})
}
