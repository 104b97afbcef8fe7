package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spareEvery is how often memory that is free is looked for.
	spareEvery = time.Minute
	// spareFrom is how much has to be free to be given back, in bytes.
	spareFrom = 1 << 20
)

// giveBackSpare lets the kernel have what bursts of reads have left free on the heap, until the context ends. Go keeps a tenth
// more than the heap had at most lately and gives the rest back over minutes; at a few megabytes, finding and taking back pages
// costs milliseconds a minute.
func giveBackSpare(ctx context.Context) {
	ticker := time.NewTicker(spareEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if spare() >= spareFrom {
				debug.FreeOSMemory()
			}
		}
	}
}

// spare is how much of the heap is free and not given back, in bytes.
func spare() uint64 {
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(free)
	return free[0].Value.Uint64()
}

// giveBack lets the kernel have what only starting needed: pages of the program that will hardly be run again (they come
// back from the file when they are), and what the heap had at most. The history of flows is beyond the heap, so the heap is
// small, and collecting it twice as often costs next to nothing. It halves the agent's memory.
func giveBack() error {
	debug.SetGCPercent(50)
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("finding the own program: %w", err)
	}
	mappings, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("reading the own mappings: %w", err)
	}
	for line := range strings.Lines(string(mappings)) {
		fields := strings.Fields(line) // 00400000-01b6a000 r-xp 00000000 fe:00 10027372 /path
		if len(fields) < 6 || fields[5] != program || strings.Contains(fields[1], "w") {
			continue // what can be written may differ from the file
		}
		from, to, _ := strings.Cut(fields[0], "-")
		begin, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("reading the own mappings: %w", err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("giving back pages of the program: %w", errno)
		}
	}
	return nil
}
