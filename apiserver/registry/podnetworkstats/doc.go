// Package podnetworkstats serves podnetworkstats: for each pod of the cluster what its interfaces and sockets did.
//
// pods.go says which pods there are and what is kept of them, object.go makes the API object of a pod and its
// agent's answer, table.go what kubectl prints. Everything else is in registry/live.
package podnetworkstats
