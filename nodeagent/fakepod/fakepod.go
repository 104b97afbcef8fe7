// Package fakepod makes what the agent takes for pods, for tests: processes in cgroups that are named as the kubelet
// names them, in network namespaces of their own, joined to a peer namespace by veth. All that it makes, it removes
// when the test ends. Tests that use it need root.
package fakepod

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips a test that cannot be without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and BPF")
	}
}

// UID makes a new UID.
func UID() string {
	var random [16]byte
	_, _ = rand.Read(random[:])
	text := hex.EncodeToString(random[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// A Namespace is a network namespace with a process that only sleeps in it.
type Namespace struct {
	t       testing.TB
	process *exec.Cmd
	PID     int
}

// NewNamespace makes a network namespace, with its loopback interface up.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n := Sleep(t, unix.CLONE_NEWNET)
	n.Run("ip", "link", "set", "dev", "lo", "up")
	return n
}

// Sleep starts a process that does nothing, with the namespaces that flags ask for. It ends with the test.
func Sleep(t testing.TB, flags uintptr) *Namespace {
	t.Helper()
	process := exec.Command("sleep", "600")
	process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if err := process.Start(); err != nil {
		t.Fatalf("starting a process: %v", err)
	}
	n := &Namespace{t: t, process: process, PID: process.Process.Pid}
	t.Cleanup(n.End)
	return n
}

// End ends the process, and with it the namespace if nothing else holds it.
func (n *Namespace) End() {
	_ = n.process.Process.Kill()
	_ = n.process.Wait()
}

// Run runs a program in the namespace and fails the test if it fails.
func (n *Namespace) Run(name string, arguments ...string) string {
	n.t.Helper()
	output, err := n.Command(name, arguments...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// RunInput is Run with text for the program to read.
func (n *Namespace) RunInput(input, name string, arguments ...string) {
	n.t.Helper()
	command := n.Command(name, arguments...)
	command.Stdin = strings.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, output)
	}
}

// Command prepares a program to run in the namespace.
func (n *Namespace) Command(name string, arguments ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", n.PID), name}, arguments...)...)
}

// Do runs do on a thread in the namespace. Sockets that it opens stay there.
func (n *Namespace) Do(do func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine unless it is unlocked. The first thread of a program cannot end, and is what
		// /proc/self shows: left behind in a namespace, it would lead others astray.
		runtime.LockOSThread()
		err := visit(fmt.Sprintf("/proc/%d/ns/net", n.PID), do)
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("entering a namespace: %v", err)
	}
}

func visit(namespace string, do func()) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	do()
	return unix.Setns(home, unix.CLONE_NEWNET)
}

// Connect joins two namespaces by veth, each with an address of 10.99.SUBNET.0/24 and fd99:SUBNET::/64: the first has
// .1, the second .2. They know each other's link-layer address, so nothing is sent to find it out.
func Connect(a, b *Namespace, nameA, nameB string, subnet int) {
	a.t.Helper()
	mac := func(end int) string { return fmt.Sprintf("02:99:00:00:%02x:%02x", subnet, end) }
	a.Run("ip", "link", "add", "name", nameA, "address", mac(1), "type", "veth",
		"peer", "name", nameB, "address", mac(2), "netns", fmt.Sprint(b.PID))
	connectEnd(a, nameA, subnet, 1, 2, mac(2))
	connectEnd(b, nameB, subnet, 2, 1, mac(1))
}

func connectEnd(n *Namespace, name string, subnet, own, other int, otherMAC string) {
	n.t.Helper()
	for _, format := range []string{"10.99.%d.%d", "fd99:%d::%d"} {
		length := map[bool]string{true: "/64", false: "/24"}[strings.Contains(format, "::")]
		// IPv4 knows no duplicate address detection, and takes the flag for nothing.
		n.Run("ip", "addr", "add", fmt.Sprintf(format, subnet, own)+length, "dev", name, "nodad")
		n.Run("ip", "neigh", "add", fmt.Sprintf(format, subnet, other), "lladdr", otherMAC, "dev", name, "nud", "permanent")
	}
	n.Run("ip", "link", "set", "dev", name, "up")
}

var made atomic.Int32

// Hierarchy is a mounted cgroup hierarchy in which tests can make cgroups.
func Hierarchy(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil {
			return path
		}
	}
	t.Skip("no cgroup hierarchy is mounted")
	return ""
}

// Unified is the mount of cgroup version 2.
func Unified(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var stat unix.Statfs_t
		if unix.Statfs(path, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC {
			return path
		}
	}
	t.Skip("cgroup version 2 is not mounted")
	return ""
}

// Cgroup makes a cgroup below a hierarchy, with all its parents, and moves a process into it.
func Cgroup(t testing.TB, hierarchy, path string, pid int) {
	t.Helper()
	full := filepath.Join(hierarchy, path)
	for _, parent := range parents(hierarchy, full) {
		if err := os.Mkdir(parent, 0o755); err != nil && !os.IsExist(err) {
			t.Fatalf("making a cgroup: %v", err)
		}
		t.Cleanup(func() { remove(hierarchy, parent) })
	}
	if err := os.WriteFile(filepath.Join(full, "cgroup.procs"), fmt.Appendf(nil, "%d", pid), 0); err != nil {
		t.Fatalf("moving a process: %v", err)
	}
}

func parents(hierarchy, path string) []string {
	var all []string
	for ; path != hierarchy; path = filepath.Dir(path) {
		all = append([]string{path}, all...)
	}
	return all
}

// remove removes a cgroup. Processes that are still in it go to the root of the hierarchy: they end later than this.
func remove(hierarchy, path string) {
	pids, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return // another test has removed it
	}
	for _, pid := range strings.Fields(string(pids)) {
		_ = os.WriteFile(filepath.Join(hierarchy, "cgroup.procs"), []byte(pid), 0)
	}
	_ = unix.Rmdir(path) // it stays while another test has cgroups below it
}

// Prefix is a kubelet's root cgroup that no other test uses.
func Prefix() string {
	return fmt.Sprintf("/networkobservability-test-%d-%d/kubepods", os.Getpid(), made.Add(1))
}

// A Pod is a namespace whose process is in a pod's cgroup.
type Pod struct {
	*Namespace
	UID string
}

// New makes a pod below a prefix.
func New(t testing.TB, prefix string) *Pod {
	t.Helper()
	n := NewNamespace(t)
	pod := &Pod{Namespace: n, UID: UID()}
	Cgroup(t, Hierarchy(t), prefix+"/burstable/pod"+pod.UID+"/sandbox", n.PID)
	return pod
}

// BPFFS mounts a BPF file system for the time of a test.
func BPFFS(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	path := t.TempDir()
	if err := unix.Mount("bpffs", path, "bpf", 0, ""); err != nil {
		t.Fatalf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// patience is how long to wait for what happens in the background, on a machine that is busy and slow.
const patience = time.Minute

// Eventually waits for a condition, and says what explain finds when it does not come.
func Eventually(t testing.TB, what string, condition func() bool, explain ...func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if condition() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, e := range explain {
		t.Log(e())
	}
	t.Fatalf("%s: not within %v", what, patience)
}
