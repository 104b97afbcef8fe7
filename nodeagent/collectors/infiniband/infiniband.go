// Package infiniband reads the counters of InfiniBand and RoCE ports from /sys/class/infiniband/DEVICE/ports/PORT. Which
// there are depends on the device: the standard ones are in counters, the driver's own in hw_counters.
//
// Devices are seen in the network namespace that they belong to, which for those shared by all namespaces is every one.
package infiniband

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// mostPorts is how many ports are reported, and mostCounters how many counters of each.
	mostPorts    = 8
	mostCounters = 128
	// longestName is that of a counter. Drivers' own are shorter.
	longestName = 64
)

// Collector reads InfiniBand ports. It has no state of its own and is safe for concurrent use.
type Collector struct{ devices string }

// New makes a collector that reads below sys, where sysfs is mounted.
func New(sys string) *Collector { return &Collector{devices: filepath.Join(sys, "class/infiniband")} }

// Name is how users know the collector.
func (*Collector) Name() string { return "infiniband" }

// State is Running everywhere. The message says when there is no device, and when there are too many ports.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	message := ""
	if ports, err := c.ports(); err != nil || len(ports) == 0 {
		message = "no InfiniBand device"
	} else if left := len(ports) - mostPorts; left > 0 {
		message = fmt.Sprintf("%d of %d ports are left out", left, len(ports))
	}
	return v1alpha1.Collector_STATE_RUNNING, message
}

// A port is where its files are.
type port struct {
	device string
	number int32
	path   string
}

// ports are sorted by device and number. Without a device there are none.
func (c *Collector) ports() (ports []port, err error) {
	devices, err := names(c.devices)
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		numbers, err := names(filepath.Join(c.devices, device, "ports"))
		if err != nil {
			return nil, err
		}
		for _, name := range numbers {
			if number, err := strconv.ParseInt(name, 10, 32); err == nil {
				ports = append(ports, port{device, int32(number), filepath.Join(c.devices, device, "ports", name)})
			}
		}
	}
	slices.SortStableFunc(ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.number, b.number))
	})
	return ports, nil
}

// names lists a directory, sorted; nothing where there is none.
func names(directory string) (names []string, err error) {
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing %s: %w", filepath.Base(directory), err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// ReadNode fills in the node's ports.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) error {
	ports, err := c.ports()
	if err != nil {
		return err
	}
	for _, p := range ports[:min(len(ports), mostPorts)] {
		counters, readError := p.counters()
		err = errors.Join(err, readError)
		state, _ := os.ReadFile(filepath.Join(p.path, "state")) // a device that is gone has no counters, either
		node.Infiniband = append(node.Infiniband, &v1alpha1.InfiniBandPort{
			Device: text(p.device), Port: p.number, State: parseState(string(state)), Counters: counters,
		})
	}
	return err
}

// counters are sorted by name, each name once.
func (p port) counters() (counters []*v1alpha1.Counter, err error) {
	for _, group := range []string{"counters", "hw_counters"} {
		directory := filepath.Join(p.path, group)
		files, err := names(directory)
		if err != nil {
			return nil, fmt.Errorf("port %d of %s: %w", p.number, p.device, err)
		}
		for _, name := range files {
			content, err := os.ReadFile(filepath.Join(directory, name))
			if err != nil {
				continue // devices refuse some of those that they list
			}
			if value, ok := parseCounter(name, string(content)); ok {
				counters = append(counters, &v1alpha1.Counter{Name: text(name), Value: value})
			}
		}
	}
	slices.SortStableFunc(counters, func(a, b *v1alpha1.Counter) int { return cmp.Compare(a.Name, b.Name) })
	counters = slices.CompactFunc(counters, func(a, b *v1alpha1.Counter) bool { return a.Name == b.Name })
	if left := len(counters) - mostCounters; left > 0 {
		return counters[:mostCounters], fmt.Errorf("port %d of %s: %d counters are left out", p.number, p.device, left)
	}
	return counters, nil
}

// parseCounter knows what counts nothing: lifespan, which is for how long the driver keeps values, and numbers that a
// device lacks, as "N/A (no PMA)".
func parseCounter(name, content string) (value int64, ok bool) {
	if name == "lifespan" || len(name) > longestName {
		return 0, false
	}
	number, err := strconv.ParseUint(strings.TrimSpace(content), 10, 63)
	return int64(number), err == nil
}

// parseState makes "active" of "4: ACTIVE".
func parseState(content string) string {
	_, state, _ := strings.Cut(content, ":")
	return text(strings.ToLower(state[:min(len(state), longestName)]))
}

func text(name string) string { return strings.ToValidUTF8(strings.TrimSpace(name), "?") }
