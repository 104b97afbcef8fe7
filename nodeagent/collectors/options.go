package collectors

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// hooks are what WithoutHooks may name: those of drops, of tcp and of dns.
var hooks = []string{
	"kfree_skb",
	"inet_sock_set_state", "tcp_send_reset", "tcp_receive_reset", "bpf_sk_storage_map", "tcp",
	"inspectors", "cgroup_inspectors", "syscall",
}

// Options is what operators choose: the fields at the top of the agents' configuration, which docs/configuration.md
// describes.
type Options struct {
	// Disabled are the names of collectors that are off. All others are on.
	Disabled []string `json:"disabled"`
	// WithoutHooks names hooks of the kernel that shall be taken for missing, as inet_sock_set_state.
	WithoutHooks []string `json:"withoutHooks"`

	Traffic TrafficOptions `json:"traffic"`
	DNS     DNSOptions     `json:"dns"`
	Flows   FlowsOptions   `json:"flows"`
}

// TrafficOptions tune the collector traffic.
type TrafficOptions struct {
	// Hook is auto, tcx or clsact.
	Hook traffic.Hook `json:"hook"`
}

// DNSOptions tune the collector dns.
type DNSOptions struct {
	// Names is how many names a row shows, up to 100. With 0 no names are kept, nor those of addresses.
	Names int `json:"names"`
}

// FlowsOptions tune the history of flows.
type FlowsOptions struct {
	// History is how many flows are kept that have ended.
	History int `json:"history"`
	// MaxAge is for how long a flow is kept after its last packet, as "30m".
	MaxAge metav1.Duration `json:"maxAge"`
}

// Defaults are the options of an empty file.
func Defaults() Options {
	return Options{
		Traffic: TrafficOptions{Hook: traffic.Auto},
		DNS:     DNSOptions{Names: 20},
		Flows:   FlowsOptions{History: flows.DefaultHistory, MaxAge: metav1.Duration{Duration: flows.DefaultAge}},
	}
}

// Validate names every problem with the field that has it.
func (o *Options) Validate() (problems []error) {
	for i, name := range o.Disabled {
		if !slices.Contains(Names(), name) {
			problems = append(problems, fmt.Errorf("disabled[%d]: %q is none of %s", i, name, strings.Join(Names(), ", ")))
		}
	}
	for i, name := range o.WithoutHooks {
		if !slices.Contains(hooks, name) {
			problems = append(problems, fmt.Errorf("withoutHooks[%d]: %q is none of %s", i, name, strings.Join(hooks, ", ")))
		}
	}
	if !slices.Contains([]traffic.Hook{traffic.Auto, traffic.TCX, traffic.Clsact}, o.Traffic.Hook) {
		problems = append(problems, fmt.Errorf("traffic.hook: %q is none of auto, tcx and clsact", o.Traffic.Hook))
	}
	if o.DNS.Names < 0 || o.DNS.Names > 100 {
		problems = append(problems, fmt.Errorf("dns.names: %d is not between 0 and 100", o.DNS.Names))
	}
	return append(problems, o.Flows.validate()...)
}

func (o *FlowsOptions) validate() (problems []error) {
	if o.History < flows.MinHistory || o.History > flows.MaxHistory {
		problems = append(problems, fmt.Errorf("flows.history: %d is not between %d and %d", o.History, flows.MinHistory, flows.MaxHistory))
	}
	if o.MaxAge.Duration < flows.MinAge || o.MaxAge.Duration > flows.MaxAge {
		problems = append(problems, fmt.Errorf("flows.maxAge: %v is not between %v and %v", o.MaxAge.Duration, flows.MinAge, flows.MaxAge))
	}
	return problems
}

func (o *Options) enabled(name string) bool { return !slices.Contains(o.Disabled, name) }

// off is why a collector is off; empty when it is on.
func (o *Options) off(name string) string {
	if o.enabled(name) {
		return ""
	}
	return "is switched off by configuration"
}

// needsMaps is true when a collector is on that serves all pods with one program.
func (o *Options) needsMaps() bool {
	return slices.ContainsFunc([]string{"drops", "tcp", "dns", "flows"}, o.enabled)
}
