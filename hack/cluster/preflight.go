package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	gib = 1 << 30

	// What a first build and a running cluster of two nodes take, measured and rounded up.
	wantDisk    = 8 * gib
	wantMemory  = 3 * gib
	wantMemNode = gib / 2 // for each node after the second
)

// packages are Debian's that the cluster runs or calls, each with a file that tells whether it is there.
var packages = []struct{ name, file string }{
	{"containerd", "/usr/bin/containerd"},
	{"runc", "/usr/sbin/runc"},
	{"containernetworking-plugins", cniPlugins + "/bridge"},
	{"iproute2", "/usr/sbin/ip|/sbin/ip|/usr/bin/ip"},
	{"iptables", "/usr/sbin/iptables"}, // the portmap plugin calls it
	{"nftables", "/usr/sbin/nft"},
	{"util-linux", "/usr/bin/nsenter"},
	{"busybox-static", "/bin/busybox"},
}

// preflight finds out before anything is made whether the machine can run the cluster.
func (c *Cluster) preflight(ctx context.Context) error {
	if err := checkRoot(); err != nil {
		return err
	}
	if err := c.checkPlace(); err != nil {
		return err
	}
	if err := checkKernel(); err != nil {
		return err
	}
	if err := c.checkRoom(); err != nil {
		return err
	}
	if c.fresh {
		if err := checkInotify(10+10*c.Nodes, openInotify); err != nil {
			return err
		}
	}
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("the go command is not in the PATH: it builds what the cluster runs")
	}
	return c.installPackages(ctx)
}

func checkRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces, mounts and control groups need root: run it as root, or with `sudo -E`")
	}
	return nil
}

// checkPlace refuses folders that a machine covers with its own: it would not find its programs.
func (c *Cluster) checkPlace() error {
	for _, covered := range []string{"/var/lib", "/var/log", "/run", "/sys", "/proc"} {
		if strings.HasPrefix(c.Bin+"/", covered+"/") {
			return fmt.Errorf("%s is below %s, which each machine of the cluster has for itself: use a checkout elsewhere", c.Bin, covered)
		}
	}
	return nil
}

// checkKernel looks for what cannot be installed.
func checkKernel() error {
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for _, fs := range []string{"bpf", "overlay", "tmpfs"} {
		if !bytes.Contains(filesystems, []byte("\t"+fs+"\n")) {
			return fmt.Errorf("the kernel has no %s file system: load its module, or use another kernel", fs)
		}
	}
	for _, ns := range []string{"mnt", "net", "pid", "uts", "ipc"} {
		if !fileExists("/proc/self/ns/" + ns) {
			return fmt.Errorf("the kernel has no %s namespaces", ns)
		}
	}
	if !fileExists("/proc/sys/net/ipv6") {
		return errors.New("the kernel has no IPv6, and pods have addresses of both families")
	}
	if !fileExists("/proc/sys/net/bridge") {
		return errors.New("bridged packets do not reach the firewall: run `modprobe br_netfilter` (Services need it)")
	}
	_, err = hierarchies()
	return err
}

// checkRoom compares what is free with what a cluster takes.
func (c *Cluster) checkRoom() error {
	for _, dir := range []string{filepath.Dir(stateRoot), c.Root} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return fmt.Errorf("asking for the free space of %s: %w", dir, err)
		}
		if free := int64(fs.Bavail) * fs.Bsize; free < wantDisk {
			return fmt.Errorf("%.1f GiB are free at %s, and builds and nodes take up to %d GiB: make room", float64(free)/gib, dir, wantDisk/gib)
		}
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	free, err := parseAvailable(meminfo)
	if err != nil {
		return err
	}
	if want := wantMemory + max(c.Nodes-2, 0)*wantMemNode; free < want {
		return fmt.Errorf("%.1f GiB of memory are available, and %d nodes want %.1f: end something, or ask for fewer --nodes",
			float64(free)/gib, c.Nodes, float64(want)/gib)
	}
	return nil
}

// checkInotify finds out by trying whether so many inotify instances are left to root. Kubernetes uses about
// ten a machine, and Debian allows 128 in all: four clusters.
func checkInotify(want int, open func() (int, error)) error {
	for got := range want {
		fd, err := open()
		if errors.Is(err, unix.EMFILE) {
			return fmt.Errorf("%d inotify instances are left to root, and the cluster wants %d: "+
				"take another cluster down, or run `sysctl fs.inotify.max_user_instances=512`", got, want)
		}
		if err != nil {
			return fmt.Errorf("trying inotify: %w", err)
		}
		defer unix.Close(fd)
	}
	return nil
}

func openInotify() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) }

// parseAvailable reads MemAvailable of /proc/meminfo, in bytes.
func parseAvailable(meminfo []byte) (int, error) {
	for line := range strings.Lines(string(meminfo)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, err := strconv.Atoi(fields[1])
			return kib * 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo says nothing of available memory")
}

// installPackages installs the Debian packages that are missing, and says so.
func (c *Cluster) installPackages(ctx context.Context) error {
	missing := missingPackages(fileExists)
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these are missing and there is no apt-get to install them: %s", list)
	}
	return c.Step("installing Debian packages: "+list, func() error {
		if err := aptGet(ctx, "update", "-qq"); err != nil {
			return err
		}
		return aptGet(ctx, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...)
	})
}

func missingPackages(exists func(string) bool) []string {
	var missing []string
	for _, p := range packages {
		found := false
		for file := range strings.SplitSeq(p.file, "|") {
			found = found || exists(file)
		}
		if !found {
			missing = append(missing, p.name)
		}
	}
	return missing
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	letFinish(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w", strings.Join(cmd.Args, " "), explain(err, out))
	}
	return nil
}
