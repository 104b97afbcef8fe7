// Package peers counts what pods exchange with whom: bytes and packets by the labels that group Traffic has only when
// they are asked for.
//
//	peers.go   following the flows of pods while labels are asked for
//	labels.go  what a flow's labels are
//	table.go   counters by pod and labels, and what is folded
//
// Counters are fed from flows (nodeagent/flows), up to five seconds late; what the kernel's tables pushed out before it
// was read is in none. They begin at 0 with the agent, and anew when other labels are asked for; they end with the pod, or
// when they have been idle and other labels of the pod want their place.
package peers
