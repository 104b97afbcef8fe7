package ring

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxInstructions is the longest classic filter that the kernel takes (BPF_MAXINSNS).
const MaxInstructions = 4096

// A FilterSizeError says that a filter needs more memory than a socket may have. While a filter is replaced, both
// count.
type FilterSizeError struct {
	Instructions int
	// Limit is net.core.optmem_max in bytes, 0 when it cannot be read.
	Limit int
}

func (e *FilterSizeError) Error() string {
	return fmt.Sprintf("a filter of %d instructions needs more memory than a socket may have (sysctl net.core.optmem_max is %d bytes): make the filter shorter, or raise the limit on the node",
		e.Instructions, e.Limit)
}

// accept is the filter of no filter.
var accept = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: MaxSnapLength}}

// refuse is a filter that nothing passes.
var refuse = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

// cut is a filter that accepts no more than snap bytes of a packet. What a filter accepts by its accumulator is cut
// later.
func cut(filter []unix.SockFilter, snap int) []unix.SockFilter {
	if len(filter) == 0 {
		filter = accept
	}
	short := make([]unix.SockFilter, len(filter))
	for i, instruction := range filter {
		if instruction.Code == unix.BPF_RET|unix.BPF_K {
			instruction.K = min(instruction.K, uint32(snap))
		}
		short[i] = instruction
	}
	return short
}

// attach gives a socket a filter, in place of the one that it has. No packet is judged by neither or by both.
func attach(socket int, filter []unix.SockFilter, limit int) error {
	if len(filter) > MaxInstructions {
		return fmt.Errorf("a filter of %d instructions: the kernel takes at most %d", len(filter), MaxInstructions)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if errors.Is(err, unix.ENOMEM) {
		return &FilterSizeError{Instructions: len(filter), Limit: limit}
	}
	if err != nil {
		return fmt.Errorf("attaching a filter of %d instructions: %w", len(filter), err)
	}
	return nil
}

// optionMemory is net.core.optmem_max of the thread's network namespace, 0 when it cannot be read.
func optionMemory() int {
	text, err := os.ReadFile("/proc/sys/net/core/optmem_max")
	if err != nil {
		return 0
	}
	limit, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return limit
}
