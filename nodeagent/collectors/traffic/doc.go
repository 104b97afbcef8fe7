// Package traffic counts what crosses the interfaces of each pod, in the kernel, by the programs of bpf/traffic.
//
// The collector follows the pods of this node: for each it opens or makes the map of the pod's totals, attaches two
// programs to each interface that leads out of the pod, and pins map and links, so that counting goes on while no
// agent runs and an agent that starts finds everything in place. Reading a pod is one lookup in its map.
//
//	collector.go   which pods are counted, and reading them
//	target.go      one pod: its interfaces or its cgroup
//	hooks.go       tcx, clsact and cgroup_skb
//	pins.go        what outlives the agent, layouts of earlier releases, sweeping
package traffic
