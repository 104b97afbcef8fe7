package collectors

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/conntrack"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/dns"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/drops"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/infiniband"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/interfaces"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/protocols"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/sockets"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/softnet"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/tcp"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podindex"
)

// Environment is what the collectors find on this node.
type Environment struct {
	// BPFFS is where the BPF file system is mounted.
	BPFFS string
	// Node is the name of this node.
	Node string
	// NodeIPs are its addresses as Kubernetes knows them.
	NodeIPs []netip.Addr
	// CgroupRoot is where cgroup version 2 is mounted; empty where it is not.
	CgroupRoot string
}

// A registration names a collector and makes it.
type registration struct {
	name string
	make func(*maker) collector
}

// list is all collectors there are, in the order in which they are read and shown. A new one is a line here.
var list = []registration{
	{"traffic", func(m *maker) collector {
		return traffic.New(traffic.Config{
			BPFFS: m.BPFFS, Node: m.Node, CgroupRoot: m.CgroupRoot, Hook: m.options.Traffic.Hook,
			Shared: m.shared, Flows: m.options.enabled("flows") && m.shared != nil,
		})
	}},
	{"protocols", func(*maker) collector { return protocols.New() }},
	{"interfaces", func(m *maker) collector { return interfaces.New(m.NodeIPs) }},
	{"conntrack", func(*maker) collector { return conntrack.New("/proc") }},
	{"sockets", func(*maker) collector { return sockets.New("/proc") }},
	{"softnet", func(*maker) collector { return softnet.New("/proc") }},
	{"infiniband", func(*maker) collector { return infiniband.New("/sys") }},
	{"drops", func(m *maker) collector {
		c := drops.New(drops.Config{
			Root: m.root, Shared: m.shared, Without: m.options.WithoutHooks, Flows: m.options.enabled("flows"),
		})
		m.dropReason = c.Reason
		return c
	}},
	{"tcp", func(m *maker) collector {
		return tcp.New(tcp.Config{Root: m.root, Shared: m.shared, Without: m.options.WithoutHooks})
	}},
	{"dns", func(m *maker) collector {
		c := dns.New(dns.Config{
			Root: m.root, Shared: m.shared, Without: m.options.WithoutHooks, Names: m.options.DNS.Names,
		})
		m.peerName = c.PeerName
		return c
	}},
	{"flows", func(m *maker) collector {
		return flows.New(flows.Config{
			Root: m.root, Shared: m.shared, History: m.options.Flows.History, MaxAge: m.options.Flows.MaxAge.Duration,
			Reason: m.dropReason, PeerName: m.peerName,
		})
	}},
}

// Names are those of all collectors.
func Names() []string {
	var names []string
	for _, one := range list {
		names = append(names, one.name)
	}
	return names
}

// A maker is what constructors choose from.
type maker struct {
	Environment
	options Options
	root    string
	shared  map[string]*ebpf.Map

	// What collectors offer to those after them; nil when they are off.
	dropReason func(uint16) (string, v1alpha1.Drop_Class)
	peerName   func(pod uint64, peer netip.Addr) string
}

// New makes the collectors.
func New(environment Environment, options Options) *Set {
	s := &Set{}
	m := &maker{Environment: environment, options: options, root: pins.Root(environment.BPFFS, environment.Node)}
	if options.needsMaps() {
		var err error
		if m.shared, err = pins.Shared(m.root); err != nil {
			s.preparing = fmt.Errorf("opening the maps of this node: %w", err)
		} else {
			s.shared = m.shared
			s.index = podindex.New(m.shared, environment.CgroupRoot)
		}
	}
	for _, one := range list {
		e := entry{collector: nothing(one.name), off: options.off(one.name)}
		if e.off == "" {
			e.collector = one.make(m)
		} else if err := s.forget(m, one.name); err != nil {
			s.preparing = errors.Join(s.preparing, err)
		}
		s.entries = append(s.entries, e)
		if f, ok := e.collector.(*flows.Collector); ok {
			s.flows = f
		}
	}
	return s
}

// forget removes what a collector that is off has left in the kernel when it was on.
func (s *Set) forget(m *maker, name string) error {
	if name == "traffic" {
		s.forgetIn = traffic.ForgetIn
		return traffic.Forget(m.BPFFS, m.Node)
	}
	return pins.Forget(m.root, m.shared, name)
}

// Close lets go of what the collectors hold. What is attached goes on counting, and new collectors find it.
func (s *Set) Close() {
	each(s, func(c interface{ Close() }) { c.Close() })
	pins.CloseAll(s.shared)
}
