package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
)

const (
	maxSlots = 16 // clusters on one machine
	maxNodes = 16 // nodes in one cluster

	clusterDomain = "cluster.local"
)

// stateRoot holds what a cluster's machines keep on disk. It is short on purpose, since paths of unix
// sockets end at 108 bytes, and it is outside the checkout, so that a checkout may live on any file system.
const stateRoot = "/var/lib/netobs-clusters"

// A Plan says what a cluster is made of, and where everything goes. It is pure: equal plans give equal
// names and addresses, and nothing here touches the machine.
//
// Addresses come from 198.18.0.0/15, which is set aside for benchmarks and never routed, and from one
// private IPv6 prefix. Slot numbers the clusters of a machine, so that no two share an address.
type Plan struct {
	Name   string // prefix of every name that the cluster gives
	Slot   int    // 0 to maxSlots-1, unique on the machine
	Nodes  int
	Output string // absolute; kubeconfig and logs are below it
}

// Role tells the machine of the control plane from those that run pods.
type Role string

const (
	RoleControl Role = "control"
	RoleNode    Role = "node"
)

// A Machine is one member of the cluster: a set of namespaces with a process 1 of its own.
type Machine struct {
	Name  string // on the machine and in Kubernetes: demo-node-1
	Short string // within the cluster: node-1
	Role  Role
	Addrs Pair // of eth0
	Index int  // of a node, from 1
}

// A Pair is an address of each family.
type Pair struct{ V4, V6 netip.Addr }

// A Subnets is a prefix of each family.
type Subnets struct{ V4, V6 netip.Prefix }

func (p Pair) Strings() []string { return []string{p.V4.String(), p.V6.String()} }
func (p Pair) String() string    { return p.V4.String() + "," + p.V6.String() }
func (s Subnets) String() string { return s.V4.String() + "," + s.V6.String() }

// nameFormat keeps every derived name within 15 bytes, the limit for network interfaces, and without a
// hyphen, so that no cluster's names begin like another's.
var nameFormat = regexp.MustCompile(`^[a-z][a-z0-9]{0,9}$`)

// Validate reports why no cluster can be made from the plan.
func (p Plan) Validate() error {
	if !nameFormat.MatchString(p.Name) {
		return fmt.Errorf("cluster name %q: want 1 to 10 lower-case letters and digits, a letter first", p.Name)
	}
	if p.Nodes < 1 || p.Nodes > maxNodes {
		return fmt.Errorf("%d nodes: want 1 to %d", p.Nodes, maxNodes)
	}
	if p.Slot < 0 || p.Slot >= maxSlots {
		return fmt.Errorf("slot %d: want 0 to %d", p.Slot, maxSlots-1)
	}
	return nil
}

// Machines lists the control plane's machine and then the nodes.
func (p Plan) Machines() []Machine {
	all := []Machine{{Name: p.Name + "-control", Short: "control", Role: RoleControl, Addrs: p.host(2)}}
	for i := 1; i <= p.Nodes; i++ {
		all = append(all, p.node(i))
	}
	return all
}

// NodeMachines lists the nodes alone.
func (p Plan) NodeMachines() []Machine { return p.Machines()[1:] }

// Control is the machine of the control plane.
func (p Plan) Control() Machine { return p.Machines()[0] }

func (p Plan) node(i int) Machine {
	short := fmt.Sprintf("node-%d", i)
	return Machine{Name: p.Name + "-" + short, Short: short, Role: RoleNode, Addrs: p.host(10 + i), Index: i}
}

// Switch names the namespace with the bridge that joins the machines.
func (p Plan) Switch() string { return p.Name + "-switch" }

// HostLink names the interface by which the machine's own network namespace joins the cluster's.
func (p Plan) HostLink() string { return p.Name + "-host" }

// MachineNet is the network between the machines: .1 the switch, .2 the control plane, .3 the host, .11 on
// the nodes.
func (p Plan) MachineNet() Subnets {
	return Subnets{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(p.Slot), 0}), 24),
		V6: netip.PrefixFrom(p.v6(0, 0), 64),
	}
}

// PodNet holds the pod networks of all nodes.
func (p Plan) PodNet() Subnets {
	return Subnets{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(p.Slot * maxNodes), 0}), 20),
		V6: netip.PrefixFrom(p.v6(0x100, 0), 56),
	}
}

// NodePodNet is the part of PodNet whose pods run on one node.
func (p Plan) NodePodNet(m Machine) Subnets {
	return Subnets{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(p.Slot*maxNodes + m.Index - 1), 0}), 24),
		V6: netip.PrefixFrom(p.v6(uint16(0x100+m.Index-1), 0), 64),
	}
}

// ServiceNet holds the cluster addresses of Services.
func (p Plan) ServiceNet() Subnets {
	return Subnets{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(128 + p.Slot), 0}), 24),
		V6: netip.PrefixFrom(p.v6(0xffff, 0), 112),
	}
}

// SwitchAddrs are the default gateway of every machine. Behind it is nothing.
func (p Plan) SwitchAddrs() Pair { return p.host(1) }

// HostAddrs are those of HostLink.
func (p Plan) HostAddrs() Pair { return p.host(3) }

// APIService and DNSService are the addresses of the two Services that every cluster has.
func (p Plan) APIService() Pair { return p.service(1) }
func (p Plan) DNSService() Pair { return p.service(10) }

// APIServer is the URL by which everything outside a pod reaches kube-apiserver.
func (p Plan) APIServer() string { return fmt.Sprintf("https://%s:6443", p.Control().Addrs.V4) }

func (p Plan) host(n int) Pair {
	return Pair{
		V4: netip.AddrFrom4([4]byte{198, 18, byte(p.Slot), byte(n)}),
		V6: p.v6(0, byte(n)),
	}
}

func (p Plan) service(n int) Pair {
	return Pair{
		V4: netip.AddrFrom4([4]byte{198, 18, byte(128 + p.Slot), byte(n)}),
		V6: p.v6(0xffff, byte(n)),
	}
}

// v6 is an address of fd6e:6f62:SLOT::/48 ("nob").
func (p Plan) v6(subnet uint16, last byte) netip.Addr {
	a := [16]byte{0: 0xfd, 1: 0x6e, 2: 0x6f, 3: 0x62, 5: byte(p.Slot), 15: last}
	a[6], a[7] = byte(subnet>>8), byte(subnet)
	return netip.AddrFrom16(a)
}

// StateDir is removed with the cluster.
func (p Plan) StateDir() string { return filepath.Join(stateRoot, p.Name) }

// MachineDir holds what one machine sees as its own /var/lib, and more.
func (p Plan) MachineDir(m Machine) string { return filepath.Join(p.StateDir(), m.Short) }

// LibDir is what the machine sees as /var/lib.
func (p Plan) LibDir(m Machine) string { return filepath.Join(p.MachineDir(m), "lib") }

// LogDir is what the machine sees as /var/log. It outlives the cluster.
func (p Plan) LogDir(m Machine) string { return filepath.Join(p.Output, "log", m.Short) }

// Kubeconfig is for people and tests.
func (p Plan) Kubeconfig() string { return filepath.Join(p.Output, "kubeconfig") }
