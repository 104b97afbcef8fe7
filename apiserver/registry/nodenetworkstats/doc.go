// Package nodenetworkstats serves nodenetworkstats: for each node of the cluster what its own interfaces and
// protocols did, and how its agent is.
//
// nodes.go says which nodes there are, object.go makes the API object of a node and its agent's answer, table.go
// what kubectl prints. Everything else is in registry/live.
package nodenetworkstats
