package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
