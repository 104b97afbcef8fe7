// Package example is the worked example of docs/collectors.md: it counts the neighbours (ARP entries) that each pod
// knows. The agent does not run it.
package example

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Collector counts neighbours. It has no state and is safe for concurrent use.
type Collector struct{}

// New makes a collector.
func New() *Collector { return &Collector{} }

// Name is how users know the collector.
func (*Collector) Name() string { return "neighbours" }

// State is always Running: the file is there wherever there is IPv4.
func (*Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_RUNNING, ""
}

// ReadPod adds how many neighbours the pod knows, and how many did not answer. Pods in the node's network have the
// node's neighbours, so that these are not theirs.
func (c *Collector) ReadPod(pod *podmap.Pod, row *v1alpha1.PodStats) error {
	if pod.HostNetwork {
		return nil
	}
	text, err := pod.ReadFile("net/arp", nil)
	if err != nil {
		return fmt.Errorf("reading the neighbours: %w", err)
	}
	known, unanswered, err := count(text)
	if err != nil {
		return fmt.Errorf("parsing the neighbours: %w", err)
	}
	row.Additional = append(row.Additional,
		&v1alpha1.Counter{Collector: c.Name(), Name: "known", Value: known},
		&v1alpha1.Counter{Collector: c.Name(), Name: "unanswered", Value: unanswered},
	)
	return nil
}

// complete is the flag of an entry with a link-layer address: ATF_COM of <linux/if_arp.h>.
const complete = 0x2

// count reads a line of titles, and one a neighbour: address, type of hardware, flags and others.
func count(text []byte) (known, unanswered int64, err error) {
	_, text, _ = bytes.Cut(text, []byte("\n"))
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 3 {
			return 0, 0, fmt.Errorf("%q has no flags", line)
		}
		flags, err := strconv.ParseUint(string(fields[2]), 0, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("flags: %w", err)
		}
		if flags&complete != 0 {
			known++
		} else {
			unanswered++
		}
	}
	return known, unanswered, nil
}
