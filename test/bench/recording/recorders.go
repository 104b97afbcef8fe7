package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A recorder is a program that writes the packets of device to a file.
type recorder struct {
	name    string
	command func(file string, snap int) []string
	load    load
	file    string
}

func tcpdumpCommand(file string, snap int) []string {
	return []string{"tcpdump", "-nn", "-i", device, "-s", strconv.Itoa(snap), "-B", strconv.Itoa(ringBytes >> 10), "-Z", "root", "-w", file}
}

func ownCommand(file string, snap int) []string {
	return []string{"/proc/self/exe", recordArgument, file, strconv.Itoa(snap)}
}

// A result is what a recorder did with a number of frames.
type result struct {
	sending
	captured, dropped int
	used              time.Duration // processor time of the recorder
}

// nanoseconds is the processor time that a recorder takes for a packet at the steady rate.
func (r *recorder) nanoseconds(ctx context.Context, g *generator) (float64, error) {
	got, err := r.run(ctx, g, r.load.frames, r.load.steady)
	if err != nil {
		return 0, err
	}
	if got.dropped > 0 {
		fmt.Printf("  %s dropped %d of %d frames at the steady rate: the machine is busy with other things\n", r.name, got.dropped, got.captured+got.dropped)
	}
	return float64(got.used) / float64(max(1, got.captured)), nil
}

// A best is the highest rate without loss that was found.
type best struct {
	rate float64
	// full is what happened at the highest rate of the generator, and limited says that it was too high.
	full    result
	limited bool
}

func (b best) String() string {
	remark := ", all that is made meanwhile"
	if b.limited {
		remark = fmt.Sprintf("; at the highest rate it drops %.0f%%", 100*float64(b.full.dropped)/float64(b.full.captured+b.full.dropped))
	}
	return fmt.Sprintf("%s%s (%s)", perSecond(b.rate), remark, b.full.sending)
}

// attempts is how often a rate is tried: on a machine that does other things too, loss may be theirs.
const attempts = 3

// highest looks for the highest rate that a recorder takes without loss.
func (r *recorder) highest(ctx context.Context, g *generator, steps int) (best, error) {
	full, err := r.least(ctx, g, 0)
	if err != nil {
		return best{}, err
	}
	if full.dropped == 0 {
		return best{rate: full.rate, full: full}, nil
	}
	found := best{full: full, limited: true}
	for low, high := 0.0, full.rate; steps > 0; steps-- {
		at := (low + high) / 2
		got, err := r.least(ctx, g, at)
		if err != nil {
			return best{}, err
		}
		if got.dropped == 0 {
			low, found.rate = at, max(found.rate, got.rate)
		} else {
			high = at
		}
	}
	return found, nil
}

// least is the run with the least loss of all attempts at a rate, the first without any.
func (r *recorder) least(ctx context.Context, g *generator, rate float64) (least result, err error) {
	for i := range attempts {
		got, err := r.run(ctx, g, r.load.frames, rate)
		if err != nil {
			return least, err
		}
		if i == 0 || got.dropped < least.dropped {
			least = got
		}
		if got.dropped == 0 {
			break
		}
	}
	return least, nil
}

// run records so many frames that come at a rate.
func (r *recorder) run(ctx context.Context, g *generator, frames int, rate float64) (got result, err error) {
	defer os.Remove(r.file)
	p, err := r.start(ctx)
	if err != nil {
		return got, fmt.Errorf("starting %s: %w", r.name, err)
	}
	defer p.end()
	before, err := p.processor()
	if err != nil {
		return got, err
	}
	if got.sending, err = g.send(frames, rate); err != nil {
		return got, err
	}
	if err := p.settle(ctx); err != nil {
		return got, err
	}
	after, err := p.processor()
	if err != nil {
		return got, err
	}
	got.used = after - before
	if got.captured, got.dropped, err = p.finish(); err != nil {
		return got, fmt.Errorf("ending %s: %w", r.name, err)
	}
	if total := got.captured + got.dropped; total < frames {
		return got, fmt.Errorf("%s tells of %d frames of %d", r.name, total, frames)
	}
	return got, nil
}

// A program is a recorder that runs.
type program struct {
	cmd    *exec.Cmd
	stderr *bufio.Reader
	file   string
}

// start starts a recorder on other processors than the generator's, where there are any, and waits until it listens.
func (r *recorder) start(ctx context.Context) (*program, error) {
	words := r.command(r.file, r.load.snap)
	p := &program{cmd: exec.CommandContext(ctx, words[0], words[1:]...), file: r.file}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	// A child has the mask of the thread that starts it.
	others, own := processors()
	if err := errors.Join(unix.SchedSetaffinity(0, &others), p.cmd.Start(), unix.SchedSetaffinity(0, &own)); err != nil {
		p.end()
		return nil, err
	}
	p.stderr = bufio.NewReader(stderr)
	var said strings.Builder
	for !strings.Contains(said.String(), "listening on") {
		line, err := p.stderr.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			p.end()
			return nil, fmt.Errorf("%w: %s", err, said.String())
		}
	}
	return p, nil
}

// processors are those of the recorders, and the generator's: the first, or any when there is only one.
func processors() (others, own unix.CPUSet) {
	for i := range runtime.NumCPU() {
		others.Set(i)
	}
	if runtime.NumCPU() == 1 {
		return others, others
	}
	others.Clear(0)
	own.Set(0)
	return others, own
}

func (p *program) end() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// processor is the processor time of all threads (pthread_getcpuclockid(3)).
func (p *program) processor() (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduler), &used); err != nil {
		return 0, fmt.Errorf("reading the time that a program used: %w", err)
	}
	return time.Duration(used.Nano()), nil
}

// settle waits until the program has nothing left to write: interrupted before, tcpdump leaves what is in its ring.
func (p *program) settle(ctx context.Context) error {
	const quiet = 1300 * time.Millisecond // tcpdump lets packets wait for a second
	last, since := int64(-1), time.Now()
	tick := time.NewTicker(quiet / 50)
	defer tick.Stop()
	for time.Since(since) < quiet {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		stat, err := os.Stat(p.file)
		if err != nil {
			return err
		}
		if stat.Size() != last {
			last, since = stat.Size(), time.Now()
		}
	}
	return nil
}

var counts = regexp.MustCompile(`(\d+) packets? (captured|dropped by kernel)`)

// finish interrupts the program and reads what it says at its end.
func (p *program) finish() (captured, dropped int, err error) {
	if err := p.cmd.Process.Signal(unix.SIGINT); err != nil {
		return 0, 0, err
	}
	said, err := io.ReadAll(p.stderr)
	if err = errors.Join(err, p.cmd.Wait()); err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, said)
	}
	found := counts.FindAllStringSubmatch(string(said), -1)
	if len(found) != 2 {
		return 0, 0, fmt.Errorf("it does not say how many packets it captured and dropped: %s", said)
	}
	captured, _ = strconv.Atoi(found[0][1])
	dropped, _ = strconv.Atoi(found[1][1])
	return captured, dropped, nil
}
