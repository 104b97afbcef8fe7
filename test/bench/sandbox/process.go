package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Process is a program in the sandbox. It ends with the sandbox at the latest.
type Process struct {
	Name string
	PID  int
	log  string
}

// Start runs a program, its output in DIR/NAME.log. When it ends before ctx does, died is called with the reason.
func Start(ctx context.Context, died func(error), dir, name, path string, environment []string, args ...string) (*Process, error) {
	p := &Process{Name: name, log: filepath.Join(dir, name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), environment...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.PID = cmd.Process.Pid
	go func() {
		err := cmd.Wait()
		if ctx.Err() == nil {
			died(fmt.Errorf("%s ended: %w\n%s", name, err, p.LastWords()))
		}
	}()
	return p, nil
}

// LastWords is the end of the log.
func (p *Process) LastWords() string {
	const lines = 15
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// CPU is the processor time that the process has used, in user and kernel mode (proc_pid_stat(5)), to 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses, and may hold blanks.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const userTime, systemTime, tick = 11, 12, 10 * time.Millisecond
	var ticks int64
	for _, field := range []int{userTime, systemTime} {
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the time that %s used: %w", p.Name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// Memory is what the process has resident now, and at most had, in bytes (proc_pid_status(5)).
func (p *Process) Memory() (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = kib << 10
		case "VmHWM":
			peak = kib << 10
		}
	}
	return now, peak, nil
}

// Await calls check until it returns nil, and gives up at the deadline with check's last word on why not.
func Await(ctx context.Context, deadline time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (%w)", what, context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}
