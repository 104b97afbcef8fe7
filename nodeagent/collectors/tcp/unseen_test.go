package tcp

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// watchSoftirqs answers with a function that says how many softirqs there were since, at least, in which the kernel did
// not run the programs that trace it, though none of them was running. Mainline kernels do that to none. There are
// kernels of virtual machines that keep tracing programs away while a task that they protect is the current one: a
// softirq that interrupts such a task is not seen by any program, and no counter of the programs says so. Timers of TCP
// fire in softirqs.
func watchSoftirqs(t testing.TB) (unseen func() int64) {
	t.Helper()
	statistics, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return func() int64 { return 0 }
	}
	must(t, err)
	t.Cleanup(func() { statistics.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "softirq_entry", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { program.Close() })
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	must(t, err)
	t.Cleanup(func() { attached.Close() })
	seen := func() int64 {
		statistics, err := program.Stats()
		must(t, err)
		return int64(statistics.RunCount + statistics.RecursionMisses)
	}
	// All of the kernel's count lies within the program's. Each CPU may have counted one that the program has not seen yet.
	seenBefore := seen()
	before := softirqs(t)
	return func() int64 {
		ran := softirqs(t) - before
		return max(0, ran-(seen()-seenBefore)-int64(runtime.NumCPU()))
	}
}

// softirqs is how many the kernel has run, on all CPUs.
func softirqs(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	must(t, err)
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "softirq" {
			n, err := strconv.ParseInt(string(fields[1]), 10, 64)
			must(t, err)
			return n
		}
	}
	t.Fatal("/proc/stat does not tell of softirqs")
	return 0
}
