// Package sockets reads how much memory sockets use, and where the kernel begins to refuse it, from
// /proc/net/sockstat{,6} and /proc/sys/net/ipv4/{tcp,udp}_mem.
//
// Memory of TCP and UDP, its limits, and TCP's orphans are the whole kernel's. The number of sockets and the fragments
// that wait for others are the network namespace's.
package sockets

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
	version4 = "thread-self/net/sockstat"
	version6 = "thread-self/net/sockstat6"
	tcpLimit = "sys/net/ipv4/tcp_mem"
	udpLimit = "sys/net/ipv4/udp_mem"
)

// Collector reads socket memory. It has no state of its own and is safe for concurrent use.
type Collector struct {
	proc string
	// page is the kernel's unit of socket memory, in bytes.
	page int64
}

// New makes a collector that reads below proc, where procfs is mounted.
func New(proc string) *Collector { return &Collector{proc: proc, page: int64(os.Getpagesize())} }

// Name is how users know the collector.
func (*Collector) Name() string { return "sockets" }

// State is always Running. The message says when there are no limits to be read.
func (c *Collector) State() (v1alpha1.Collector_State, string) {
	message := ""
	if _, err := os.Stat(filepath.Join(c.proc, tcpLimit)); errors.Is(err, fs.ErrNotExist) {
		message = "the limits are shown in the first network namespace only"
	}
	return v1alpha1.Collector_STATE_RUNNING, message
}

// ReadNode fills in the node's socket memory.
func (c *Collector) ReadNode(node *v1alpha1.NodeStats) error {
	row := &v1alpha1.SocketMemory{}
	text, err := os.ReadFile(filepath.Join(c.proc, version4))
	if err != nil {
		return fmt.Errorf("reading sockstat: %w", err)
	}
	if err := c.addUse(row, string(text)); err != nil {
		return fmt.Errorf("parsing sockstat: %w", err)
	}
	text, err = os.ReadFile(filepath.Join(c.proc, version6))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // IPv6 is switched off
		return fmt.Errorf("reading sockstat6: %w", err)
	}
	if err := c.addUse(row, string(text)); err != nil {
		return fmt.Errorf("parsing sockstat6: %w", err)
	}
	node.SocketMemory = row
	var tcpError, udpError error
	row.TcpLimitBytes, tcpError = c.limit(tcpLimit)
	row.UdpLimitBytes, udpError = c.limit(udpLimit)
	return errors.Join(tcpError, udpError)
}

// addUse reads lines of a group, a colon, and names each with its value.
func (c *Collector) addUse(row *v1alpha1.SocketMemory, text string) error {
	for line := range strings.Lines(text) {
		group, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields)%2 != 0 {
			return fmt.Errorf("%q is no group of names with values", line)
		}
		for i := 0; i < len(fields); i += 2 {
			to, unit := c.field(row, group+" "+fields[i])
			if to == nil {
				continue
			}
			value, err := strconv.ParseInt(fields[i+1], 10, 32)
			if fields[i] == "memory" { // of fragments, in bytes
				value, err = strconv.ParseInt(fields[i+1], 10, 64)
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", group, fields[i], err)
			}
			// What CPUs have not yet added up can make a sum come out below zero.
			*to += max(0, value) * unit
		}
	}
	return nil
}

func (c *Collector) field(row *v1alpha1.SocketMemory, name string) (to *int64, unit int64) {
	switch name {
	case "sockets used":
		return &row.Sockets, 1
	case "TCP mem":
		return &row.TcpBytes, c.page
	case "TCP orphan":
		return &row.TcpOrphans, 1
	case "UDP mem":
		return &row.UdpBytes, c.page
	case "FRAG memory", "FRAG6 memory":
		return &row.FragmentBytes, 1
	}
	return nil, 0
}

// limit is the third of three numbers of pages, in bytes; 0 where the kernel does not show it.
func (c *Collector) limit(name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(c.proc, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", name, err)
	}
	pages, err := parseLimit(string(text))
	if err != nil {
		return 0, fmt.Errorf("parsing %s: %w", name, err)
	}
	return pages * c.page, nil
}

func parseLimit(text string) (pages int64, err error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return 0, fmt.Errorf("%d numbers, not 3", len(fields))
	}
	number, err := strconv.ParseUint(fields[2], 10, 45) // so that it is a number of bytes, too
	return int64(number), err
}
