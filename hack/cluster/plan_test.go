package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPlanAddresses(t *testing.T) {
	for _, test := range []struct {
		name string
		plan Plan
		got  func(Plan) string
		want string
	}{
		{"first slot, machines", Plan{Slot: 0}, func(p Plan) string { return p.MachineNet().String() }, "198.18.0.0/24,fd6e:6f62::/64"},
		{"first slot, pods", Plan{Slot: 0}, func(p Plan) string { return p.PodNet().String() }, "198.19.0.0/20,fd6e:6f62:0:100::/56"},
		{"first slot, services", Plan{Slot: 0}, func(p Plan) string { return p.ServiceNet().String() }, "198.18.128.0/24,fd6e:6f62:0:ffff::/112"},
		{"last slot, machines", Plan{Slot: 15}, func(p Plan) string { return p.MachineNet().String() }, "198.18.15.0/24,fd6e:6f62:f::/64"},
		{"last slot, pods", Plan{Slot: 15}, func(p Plan) string { return p.PodNet().String() }, "198.19.240.0/20,fd6e:6f62:f:100::/56"},
		{"last slot, services", Plan{Slot: 15}, func(p Plan) string { return p.ServiceNet().String() }, "198.18.143.0/24,fd6e:6f62:f:ffff::/112"},
		{"last node's pods", Plan{Slot: 15, Nodes: 16}, func(p Plan) string { return p.NodePodNet(p.node(16)).String() }, "198.19.255.0/24,fd6e:6f62:f:10f::/64"},
		{"control plane", Plan{Slot: 1}, func(p Plan) string { return p.Control().Addrs.String() }, "198.18.1.2,fd6e:6f62:1::2"},
		{"second node", Plan{Slot: 1, Nodes: 2}, func(p Plan) string { return p.node(2).Addrs.String() }, "198.18.1.12,fd6e:6f62:1::c"},
		{"API service", Plan{Slot: 2}, func(p Plan) string { return p.APIService().String() }, "198.18.130.1,fd6e:6f62:2:ffff::1"},
		{"DNS service", Plan{Slot: 2}, func(p Plan) string { return p.DNSService().String() }, "198.18.130.10,fd6e:6f62:2:ffff::a"},
		{"API server", Plan{Slot: 3}, Plan.APIServer, "https://198.18.3.2:6443"},
	} {
		if got := test.got(test.plan); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// No two networks of any two clusters overlap, and pods of a node are within the cluster's pod network.
func TestPlanNetworksAreDisjoint(t *testing.T) {
	var seen []netip.Prefix
	for slot := range maxSlots {
		p := Plan{Slot: slot, Nodes: maxNodes}
		for _, s := range []Subnets{p.MachineNet(), p.PodNet(), p.ServiceNet()} {
			for _, prefix := range []netip.Prefix{s.V4, s.V6} {
				for _, other := range seen {
					if prefix.Overlaps(other) {
						t.Errorf("slot %d: %s overlaps %s", slot, prefix, other)
					}
				}
				seen = append(seen, prefix)
			}
		}
		for _, m := range p.NodeMachines() {
			if pods := p.NodePodNet(m); !p.PodNet().V4.Contains(pods.V4.Addr()) || !p.PodNet().V6.Contains(pods.V6.Addr()) {
				t.Errorf("slot %d: pods of %s (%s) are outside %s", slot, m.Short, pods, p.PodNet())
			}
		}
	}
}

func TestPlanNames(t *testing.T) {
	p := Plan{Name: "demo", Nodes: 2, Output: "/out/demo"}
	var names []string
	for _, m := range p.Machines() {
		names = append(names, m.Name)
	}
	if got, want := strings.Join(names, " "), "demo-control demo-node-1 demo-node-2"; got != want {
		t.Errorf("machines: %s, want %s", got, want)
	}
	longest := Plan{Name: strings.Repeat("a", 10)}
	if n := len(longest.HostLink()); n > 15 {
		t.Errorf("interface name %s: %d bytes, the kernel allows 15", longest.HostLink(), n)
	}
}

func TestPlanValidate(t *testing.T) {
	for _, test := range []struct {
		plan Plan
		want string // part of the error; empty for none
	}{
		{Plan{Name: "demo", Nodes: 2}, ""},
		{Plan{Name: "e2e", Nodes: 16, Slot: 15}, ""},
		{Plan{Name: "", Nodes: 2}, "cluster name"},
		{Plan{Name: "two-words", Nodes: 2}, "cluster name"},
		{Plan{Name: "elevenchars", Nodes: 2}, "cluster name"},
		{Plan{Name: "2e2", Nodes: 2}, "cluster name"},
		{Plan{Name: "demo", Nodes: 0}, "0 nodes"},
		{Plan{Name: "demo", Nodes: 17}, "17 nodes"},
		{Plan{Name: "demo", Nodes: 2, Slot: 16}, "slot 16"},
	} {
		err := test.plan.Validate()
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%+v: %v", test.plan, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+v: error %v, want one with %q", test.plan, err, test.want)
		}
	}
}
