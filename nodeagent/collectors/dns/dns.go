// Package dns is being built.
package dns

import (
	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// Config is what New needs.
type Config struct {
	// Root is the folder of this node's pins (nodeagent/pins).
	Root string
	// Shared are the maps of bpf/headers.
	Shared map[string]*ebpf.Map
	// Without names hooks that shall be taken for missing.
	Without []string
}

// Collector is being built.
type Collector struct{}

// New makes a collector.
func New(Config) *Collector { return &Collector{} }

// Name is how users know the collector.
func (*Collector) Name() string { return "dns" }

// State says whether it works.
func (*Collector) State() (v1alpha1.Collector_State, string) {
	return v1alpha1.Collector_STATE_DEGRADED, "is being built"
}
