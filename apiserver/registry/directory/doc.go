// Package directory knows who held an address at a time: pods, Services and nodes, those included that went in the
// last 35 minutes, for the history of the agents names addresses of half an hour ago.
//
//	directory.go  who there is, and for how long one that went is remembered
//	spans.go      who held an address when
//	follow.go     where it learns of pods, Services and nodes
//
// # Whose is an address
//
// The control plane tells a pod's address some time after the pod has it, and that a pod is gone some time after its
// address is free. So a pod is taken to hold its address from its creation on, or from when the pod that had the
// address before was seen to be gone or ended, whichever is later; one that appears on an address while another seems
// to have it still takes it over at that moment. Who held it at the asked time is answered, never who holds it now.
// Times are the node's on one side and the control plane's and this server's on the other: clocks that are
// apart by more than a few seconds can name the wrong one of two pods that follow each other on an address.
//
// Pods in their node's network hold no address: it is the node's. Of a Service count the cluster's addresses and the
// load balancer's, which control loops assign, and not spec.externalIPs, which anybody who may write Services could
// set to an address that is not theirs. The first two addresses of a node's pod CIDR are the node's ends of bridges and
// tunnels by the convention of the plugins that use such ranges, and are the node's unless a pod has them.
//
// # What pods were
//
// Changes of pods' labels and owners are remembered for ten minutes, the last 10,000, for watches that select by them and go on from
// a version.
//
// # Memory
//
// Pods are the records of registry/podnetworkstats, shared with it, and 370 bytes more each. One that went takes some 1,100
// bytes with its record; at most 200,000 are kept, the latest, which is 215 MB in a cluster that deletes 95 pods a second. A
// pod may have a megabyte of labels: of those that went 128 MiB of labels are kept, and of those that changed 32 MiB.
package directory
