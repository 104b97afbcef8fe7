// Package conntrack reads how full the connection tracking table of the node is, and what it could not take in, from
// /proc/sys/net/netfilter/nf_conntrack_{count,max} and /proc/net/stat/nf_conntrack.
package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Below the mount of procfs. The thread is named because the process's first one may be on a visit to a pod.
const (
	count      = "sys/net/netfilter/nf_conntrack_count"
	limit      = "sys/net/netfilter/nf_conntrack_max"
	statistics = "thread-self/net/stat/nf_conntrack"
)

// Collector reads connection tracking. It has no state of its own and is safe for concurrent use.
type Collector struct{ proc string }

// New makes a collector that reads below proc, where procfs is mounted.
func New(proc string) *Collector { return &Collector{proc: proc} }

// Name is how users know the collector.
func (*Collector) Name() string { return "conntrack" }

// State is Running everywhere. The message says what this node does not have.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	message := ""
	if c.lacks(count) {
		message = "the node does not track connections"
	} else if c.lacks(statistics) {
		message = "the kernel does not show statistics of connection tracking"
	}
	return v1alpha1.Collector_STATE_RUNNING, message
}

func (c *Collector) lacks(name string) bool {
	_, err := os.Stat(filepath.Join(c.proc, name))
	return errors.Is(err, fs.ErrNotExist)
}

// ReadNode fills in the table's numbers, unless there is none.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) (err error) {
	row := &v1alpha1.Conntrack{}
	row.Entries, err = c.number(count)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if row.Limit, err = c.number(limit); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(c.proc, statistics))
	if err == nil {
		err = addStatistics(string(text), row)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Without the row: counters of 0 would be taken for counters that began again.
		return fmt.Errorf("reading the statistics: %w", err)
	}
	node.Conntrack = row
	return nil
}

func (c *Collector) number(name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(c.proc, name))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", name, err)
	}
	number, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("parsing %s: %w", name, err)
	}
	return int64(number), nil
}

// addStatistics adds up the rows, one for each CPU, of hexadecimal numbers below a line of names. Kernels differ in the
// columns. Each number has 32 bits in the kernel and begins again at 0 beyond.
func addStatistics(text string, row *v1alpha1.Conntrack) error {
	header, rest, _ := strings.Cut(text, "\n")
	names := strings.Fields(header)
	if len(names) == 0 {
		return errors.New("there are no names of columns")
	}
	for line := range strings.Lines(rest) {
		values := strings.Fields(line)
		if len(values) != len(names) {
			return fmt.Errorf("%d values in %d columns", len(values), len(names))
		}
		for i, name := range names {
			to := column(row, name)
			if to == nil {
				continue
			}
			value, err := strconv.ParseUint(values[i], 16, 32)
			if err != nil {
				return fmt.Errorf("parsing %s: %w", name, err)
			}
			*to += int64(value)
		}
	}
	return nil
}

func column(row *v1alpha1.Conntrack, name string) *int64 {
	switch name {
	case "insert_failed":
		return &row.InsertFailed
	case "drop":
		return &row.Dropped
	case "early_drop":
		return &row.EarlyDropped
	case "invalid":
		return &row.Invalid
	}
	return nil
}
