// Package sandbox runs a benchmark in network, process and mount namespaces of its own: the program starts itself
// again as process 1 in them. When that ends, for whatever reason, the kernel ends every other process in there and
// removes the interfaces, the mounts and what is on them. So nothing needs to be cleaned up, and nothing can be left.
//
//	sandbox.go  the namespaces
//	process.go  programs that run in them, and what they use
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// marker is in the environment of the program that runs inside.
const marker = "NETWORKOBSERVABILITY_SANDBOX"

// Main runs the program: run inside, as root, until it returns or a signal ends its context. Its error becomes the
// exit code. Then after, which may be nil, is called outside, for what is in no namespace. It does not return.
func Main(name string, run func(context.Context) error, after func() error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := errors.New("needs root: namespaces")
	switch {
	case os.Getenv(marker) != "":
		if err = arrange(); err == nil {
			err = run(ctx)
		}
	case os.Geteuid() == 0:
		err = startInside(ctx)
		if after != nil {
			err = errors.Join(err, after())
		}
	}
	if err != nil {
		if ctx.Err() == nil || os.Getenv(marker) == "" {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// startInside starts this program again in new namespaces and waits for it.
func startInside(ctx context.Context) error {
	// The kernel ends the child when the thread that started it ends.
	runtime.LockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var inside *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case errors.As(err, &inside):
		return errors.New("ended without a result")
	}
	return err
}

// arrange makes the namespaces habitable: /proc shows the own processes, loopback is up.
func arrange() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts apart: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return nil
}

// TempDir mounts a tmpfs on a folder, which it makes if needed, for the sandbox alone to see.
func TempDir(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
		return "", fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return path, nil
}
