package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

// cgroupName is that of the fake kubelet's cgroup. Cgroups are in no namespace of ours, so they are found by name.
const cgroupName = "networkobservability-bench"

// makers make pods at a time: the kernel takes up to a second until a new link carries anything.
const makers = 32

// hierarchy is a mount of cgroups in which cgroups can be made, whatever their version.
func hierarchy() (string, error) {
	for _, path := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no cgroup hierarchy is mounted")
}

// removeCgroups removes what makePods made. The processes have ended by then.
func removeCgroups() error {
	root, err := hierarchy()
	if err != nil {
		return err
	}
	kubepods := filepath.Join(root, cgroupName, "kubepods")
	pods, err := filepath.Glob(filepath.Join(kubepods, "pod*"))
	if err != nil {
		return err
	}
	return sandbox.Await(context.Background(), 10*time.Second, "the pods' cgroups to be empty", func() error {
		var errs []error
		for _, path := range append(pods, kubepods, filepath.Dir(kubepods)) {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// makePods makes pods with some traffic behind them, and returns their keys. They are numbered from first on, and their
// processes end with ctx.
func makePods(ctx context.Context, first, count int) ([]string, error) {
	root, err := hierarchy()
	if err != nil {
		return nil, err
	}
	server, err := net.Listen("tcp", ":8080")
	if err != nil {
		return nil, err
	}
	defer server.Close()
	go echo(server)
	keys := make([]string, count)
	var group errgroup.Group
	group.SetLimit(makers)
	for i := range keys {
		keys[i] = newUID()
		group.Go(func() error {
			if err := makePod(ctx, filepath.Join(root, cgroupName, "kubepods", "pod"+keys[i]), first+i); err != nil {
				return fmt.Errorf("making pod %d: %w", first+i, err)
			}
			return nil
		})
	}
	return keys, group.Wait()
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func makePod(ctx context.Context, cgroup string, i int) error {
	process := exec.CommandContext(ctx, "sleep", "infinity")
	process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := process.Start(); err != nil {
		return err
	}
	go func() { _ = process.Wait() }() // it ends with ctx
	pid := process.Process.Pid
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		return fmt.Errorf("moving a process: %w", err)
	}
	outside := fmt.Sprintf("pod%d", i)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outside}, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding an interface: %w", err)
	}
	if err := setUp(outside, address(i, 1)...); err != nil {
		return err
	}
	return inNamespace(pid, func() error {
		if err := errors.Join(setUp("lo"), setUp("eth0", address(i, 2)...)); err != nil {
			return err
		}
		return converse(i)
	})
}

// address is that of an end of a pod's link: 1 for the node's, 2 for the pod's.
func address(i, end int) []string {
	return []string{fmt.Sprintf("10.88.%d.%d/24", i, end), fmt.Sprintf("fd88:%x::%d/64", i, end)}
}

func setUp(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		address.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("adding %s to %s: %w", text, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// inNamespace calls do on a thread in the network namespace of a process.
func inNamespace(pid int, do func() error) error {
	var group errgroup.Group
	group.Go(func() error {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return err
		}
		defer namespace.Close()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a namespace: %w", err)
		}
		return do()
	})
	return group.Wait()
}

// converse sends the node something over each family and has it sent back.
func converse(i int) error {
	for _, target := range []string{fmt.Sprintf("10.88.%d.1:8080", i), fmt.Sprintf("[fd88:%x::1]:8080", i)} {
		if err := send(target, make([]byte, 64<<10)); err != nil {
			return err
		}
	}
	return nil
}

// send sends a message to an echo and waits for it.
func send(target string, message []byte) error {
	conn, err := net.DialTimeout("tcp", target, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, message); err != nil {
		return fmt.Errorf("reading from the node: %w", err)
	}
	return nil
}

func echo(server net.Listener) {
	for {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}
