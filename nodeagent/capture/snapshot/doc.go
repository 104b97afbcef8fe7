// Package snapshot records the state of a network namespace: what ip, nft, ss and sysctl would print, read through netlink
// and /proc. No program is run, and nothing is said of processes.
//
//	snapshot.go  the whole, its sections and their bounds
//	rtnetlink.go links, addresses, neighbours, routes, rules
//	nftables.go  tables, chains, rules, sets and their elements
//	sockets.go   sockets of TCP and UDP, and how many there are by state
//	proc.go      sysctls and the counters below /proc/net
//
// The answer is a JSON object. Its members are "version" (1), "time" (RFC 3339), "truncated" (whether a section had to
// leave something out) and the sections below. A section is an object with "items", an array, and, where they apply,
// "omitted", how many items there was no room for, and "error", why not everything could be read. Numbers that the kernel
// has no value for are left out. Names of fields do not change within a version; new ones may come.
//
//	links       index, name, kind, type, mtu, flags, state, address, alias, parent, master, txQueueLength, queues, statistics
//	addresses   link, address, peer, broadcast, label, scope, flags, validSeconds, preferredSeconds
//	neighbours  link, address, linkLayer, state, flags
//	routes      family, type, table, destination, source, gateway, link, scope, protocol, priority, mtu, advertisedMSS, hops
//	rules       family, priority, table, source, destination, mark, mask, inputLink, outputLink, protocol, sourcePorts,
//	            destinationPorts, not, goto
//	nftables    what: "table", "chain", "rule", "set" or "element"; family, table, chain, name, handle, hook, hookPriority,
//	            policy, type, device, flags, comment, expressions (type, and what it has), set, key, keyEnd, value
//	sockets     protocol, family, state, local, remote, link, receiveQueue, sendQueue, retransmits
//	socketCounts protocol, family, state, count: of all sockets, those that were omitted included
//	sysctls     name, value
//	counters    name, value: /proc/net/{snmp,snmp6,netstat,sockstat,sockstat6}, as in "Tcp.RetransSegs", and conntrack
package snapshot
