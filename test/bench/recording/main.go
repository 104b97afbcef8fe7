// Command recording measures what it costs to record packets, against tcpdump in the same run: the processor time that a
// packet takes from the kernel's ring to a file, and the highest rate that is recorded without loss. Both have the same
// memory for their ring, and write to the same tmpfs. Frames come from the kernel's XDP live frames, which hand them to
// the network stack as a driver would; they are generated, received and copied into the ring on one processor, and
// recorded on the others. Everything is in a sandbox (test/bench/sandbox).
//
//	main.go       flags, and what is measured
//	generator.go  frames
//	recorders.go  tcpdump, and ourselves as another process
//	record.go     what that process does: a ring, encoded and written as agents do
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/test/bench/paired"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

// ringBytes is the memory of each ring.
const ringBytes = 8 << 20

type options struct {
	output string
	pairs  int
	steps  int
}

// A load is frames of one size.
type load struct {
	size, snap int
	// frames of a run, many times what a ring holds.
	frames int
	// steady is the rate a second at which processor time is measured: both record it without loss.
	steady float64
}

var loads = []load{{64, 128, 1_000_000, 500_000}, {1400, 262_144, 200_000, 100_000}}

func main() {
	if len(os.Args) > 1 && os.Args[1] == recordArgument {
		if err := record(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "recording:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.output, "output", "_output/bench", "folder for the files")
	flag.IntVar(&o.pairs, "pairs", 5, "pairs of runs for the processor time")
	flag.IntVar(&o.steps, "steps", 5, "steps in which the highest rate without loss is looked for, when it is not the generator's")
	flag.Parse()
	sandbox.Main("recording", func(ctx context.Context) error { return run(ctx, o) }, nil)
}

func run(ctx context.Context, o options) error {
	dir, err := sandbox.TempDir(filepath.Join(o.output, "recording"))
	if err != nil {
		return err
	}
	// The scheduler's signal would end a run of the generator early.
	runtime.LockOSThread()
	var mask unix.Sigset_t
	mask.Val[0] = 1 << (uint(unix.SIGURG) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		return fmt.Errorf("masking a signal: %w", err)
	}
	for _, l := range loads {
		if err := measure(ctx, o, l, filepath.Join(dir, "packets")); err != nil {
			return fmt.Errorf("frames of %d bytes: %w", l.size, err)
		}
	}
	return nil
}

// measure compares the recorders with one load.
func measure(ctx context.Context, o options, l load, file string) error {
	g, err := newGenerator(l.size)
	if err != nil {
		return err
	}
	defer g.close()
	alone, err := g.send(l.frames, 0)
	if err != nil {
		return err
	}
	fmt.Printf("frames of %d bytes, at most %d kept; when nobody records, %s\n", l.size, l.snap, alone)

	tcpdump := &recorder{name: "tcpdump -w", command: tcpdumpCommand, load: l, file: file}
	own := &recorder{name: "ring", command: ownCommand, load: l, file: file}
	time := func(r *recorder) func() (float64, error) {
		return func() (float64, error) { return r.nanoseconds(ctx, g) }
	}
	comparison, err := paired.Measure(o.pairs, time(tcpdump), time(own))
	if err != nil {
		return err
	}
	fmt.Printf("  processor time a packet at %s, ns: tcpdump %.0f, ring %.0f, ratio %.2f (%d pairs)\n", perSecond(l.steady),
		paired.Percentile(comparison.Base, 50), paired.Percentile(comparison.Changed, 50), comparison.Ratio(), o.pairs)

	var found [2]best
	for i, r := range []*recorder{tcpdump, own} {
		if found[i], err = r.highest(ctx, g, o.steps); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Printf("  highest rate without loss, %-10s  %s\n", r.name, found[i])
	}
	// Where the generator sets a limit, the rates are its.
	if found[0].limited && found[0].rate > 0 {
		fmt.Printf("  ratio of rates, ring to tcpdump: %.2f%s\n", found[1].rate/found[0].rate, map[bool]string{false: " at least"}[found[1].limited])
	}
	return nil
}

func perSecond(rate float64) string {
	if rate >= 1e6 {
		return fmt.Sprintf("%.2f M/s", rate/1e6)
	}
	return fmt.Sprintf("%.0f k/s", rate/1e3)
}
