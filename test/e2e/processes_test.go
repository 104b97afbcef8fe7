package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// processes are all processes of a pod, as this machine numbers them. The kubelet names a pod's control
// group by its UID.
func processes(t *testing.T, pod *corev1.Pod) []int {
	t.Helper()
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, group := range groups {
		content, err := os.ReadFile(group)
		if err != nil || !bytes.Contains(content, []byte("pod"+string(pod.UID))) {
			continue // another's, or gone
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(group)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// process is the process of a pod that runs a program, such as traffic.
func process(t *testing.T, pod *corev1.Pod, program string) int {
	t.Helper()
	for _, pid := range processes(t, pod) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		if path, _, _ := bytes.Cut(command, []byte{0}); filepath.Base(string(path)) == program {
			return pid
		}
	}
	t.Fatalf("pod %s/%s has no process that runs %s", pod.Namespace, pod.Name, program)
	return 0
}

// signal sends a signal to a process of a pod.
func signal(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Errorf("sending %v to process %d: %v", s, pid, err)
	}
}

// A netns is a network namespace, by a path that leads to it.
type netns string

// podNetns is that of a running pod; for an agent it is the node's.
func podNetns(t *testing.T, pod *corev1.Pod) netns {
	t.Helper()
	pids := processes(t, pod)
	if len(pids) == 0 {
		t.Fatalf("pod %s/%s has no process on this machine", pod.Namespace, pod.Name)
	}
	return netns(fmt.Sprintf("/proc/%d/ns/net", pids[0]))
}

// pid is the process whose namespace it is.
func (n netns) pid() string { return strings.Split(string(n), "/")[2] }

// exists says whether its process is there.
func (n netns) exists() bool {
	_, err := os.Lstat(string(n))
	return err == nil
}

// command prepares a program of this machine that is to run in the namespace.
func (n netns) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + string(n), name}, args...)...)
}

// run runs a program in the namespace and returns its output.
func (n netns) run(t *testing.T, input, name string, args ...string) string {
	t.Helper()
	return runCommand(t, n.command(t.Context(), name, args...), input)
}

func runCommand(t *testing.T, cmd *exec.Cmd, input string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running %s: %v: %s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	return string(out)
}

func isIPv6(address string) bool { return net.ParseIP(address).To4() == nil }
