// Package softnet reads how the kernel's processing of received packets copes, from /proc/net/softnet_stat. It is of the
// whole kernel, in whichever network namespace it is read.
package softnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Collector reads softnet statistics. Its methods are safe for concurrent use.
//
// The kernel's numbers have 32 bits, which a busy CPU goes through in minutes, so that they are followed beyond. What
// they went through before the agent started is not known.
type Collector struct {
	path string

	mu     sync.Mutex
	before []cpu
	sum    v1alpha1.Softnet
}

// A cpu is one line of the file.
type cpu struct {
	number                                             int
	processed, dropped, squeezed, receivedRPS, limited uint32
}

// New makes a collector that reads below proc, where procfs is mounted.
func New(proc string) *Collector {
	// The thread is named because the process's first one may be on a visit to a pod.
	return &Collector{path: filepath.Join(proc, "thread-self/net/softnet_stat")}
}

// Name is how users know the collector.
func (*Collector) Name() string { return "softnet" }

// State is always Running: the kernel has these counters everywhere.
func (*Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// Sample reads the numbers often enough that none passes its beginning twice.
func (c *Collector) Sample(time.Time) {
	_ = c.ReadNode(&v1alpha1.NodeStats{}) // a reader learns why when it fails too
}

// ReadNode fills in the sums over all CPUs.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := os.ReadFile(c.path) // under the lock, so that the numbers come in their order
	if err != nil {
		return fmt.Errorf("reading softnet_stat: %w", err)
	}
	now, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("parsing softnet_stat: %w", err)
	}
	c.follow(now)
	node.Softnet = &v1alpha1.Softnet{
		Processed: c.sum.Processed, Dropped: c.sum.Dropped, Squeezed: c.sum.Squeezed,
		ReceivedRps: c.sum.ReceivedRps, FlowLimited: c.sum.FlowLimited,
	}
	return nil
}

// follow adds by how much the numbers rose, modulo 2^32. A CPU that is taken out and put back goes on with its numbers.
func (c *Collector) follow(now []cpu) {
	for _, line := range now {
		old := c.last(line.number)
		c.sum.Processed += int64(line.processed - old.processed)
		c.sum.Dropped += int64(line.dropped - old.dropped)
		c.sum.Squeezed += int64(line.squeezed - old.squeezed)
		c.sum.ReceivedRps += int64(line.receivedRPS - old.receivedRPS)
		c.sum.FlowLimited += int64(line.limited - old.limited)
		*old = line
	}
}

func (c *Collector) last(number int) *cpu {
	for i := range c.before {
		if c.before[i].number == number {
			return &c.before[i]
		}
	}
	c.before = append(c.before, cpu{number: number})
	return &c.before[len(c.before)-1]
}

const (
	// mostCPUs is more than Linux can be built for.
	mostCPUs = 8192
	// numberColumn has had the CPU's number since Linux 5.10. Before, lines were counted.
	numberColumn = 12
)

// parse reads one line of hexadecimal numbers for each CPU: processed, dropped, squeezed, five that are always zero,
// collisions (gone since 4.7), packets by RPS (since 2.6.35), flow limit (since 3.11), and others.
func parse(text string) (cpus []cpu, err error) {
	for line := range strings.Lines(text) {
		var columns [numberColumn + 1]uint32
		columns[numberColumn] = uint32(len(cpus))
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return nil, fmt.Errorf("%d columns are too few", len(fields))
		}
		for i, field := range fields[:min(len(fields), len(columns))] {
			value, err := strconv.ParseUint(field, 16, 32)
			if err != nil {
				return nil, fmt.Errorf("column %d: %w", i, err)
			}
			columns[i] = uint32(value)
		}
		if len(cpus) == mostCPUs || columns[numberColumn] >= mostCPUs {
			return nil, fmt.Errorf("more than %d CPUs", mostCPUs)
		}
		cpus = append(cpus, cpu{
			number: int(columns[numberColumn]), processed: columns[0], dropped: columns[1], squeezed: columns[2],
			receivedRPS: columns[9], limited: columns[10],
		})
	}
	if len(cpus) == 0 {
		return nil, errors.New("there is no CPU")
	}
	return cpus, nil
}
