// Package traffic counts what crosses the interfaces of each pod, in the kernel, by the programs of bpf/traffic.
//
// The collector follows the pods of this node: for each it opens or makes the map of the pod's totals, attaches two
// programs to each interface that leads out of the pod, and pins map and links, so that counting goes on while no
// agent runs and an agent that starts finds everything in place. Reading a pod is one lookup in its map.
//
// The programs add each packet to a flow, too, in tables that the whole node shares, and hand packets of DNS on
// (bpf/headers). nodeagent/flows reads the tables; the flows of a pod and its packets that could not be parsed are
// together its packets of IPv4 and IPv6, unless entries were pushed out. Where the kernel refuses a program that does
// all of this, one that does less is loaded, and the state says so.
//
//	collector.go   which pods are counted, and reading them
//	target.go      one pod: its interfaces or its cgroup
//	hooks.go       tcx, clsact and cgroup_skb
//	pins.go        what outlives the agent, layouts of earlier releases, sweeping
package traffic
