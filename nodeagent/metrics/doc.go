// Package metrics makes families of metrics, as Prometheus has them, out of what the collectors read of the node and of
// its pods. docs/metrics.md names them all.
//
// A gather reads the node's row, and of pods what the groups need that the configuration asks for. Nothing is read
// between gathers, and what is kept between them is bounded by the number of pods and of series.
//
//	catalogue.go  the table of all families
//	metrics.go    a gather from beginning to end
//	pods.go       which pods there are, and reading them
//	node.go       series of the node's row
//	groups.go     series of a pod's row
//	series.go     which series are offered, and adding up the others in series called "other"
//	ports.go      drops by port: which ports have series
//	names.go      DNS by name: which names have series
//	places.go     which values of labels have a place, and when they lose it
//	build.go      the messages that are encoded
//
// # Counters
//
// A counter must not come to a lower value other than by beginning at 0 again: whoever computes a rate takes a lower
// value for what was counted since a restart. Counters of the kernel's maps and of /proc outlive the agent and are
// offered as they are. Those that begin anew with the agent begin at 0. Those that the agent has to continue by itself,
// because the kernel's have but 32 bits a CPU and begin again, are offered as what was added since the agent's first
// look (rising): their sum after a restart would be lower, but not 0. The same goes for what is added up in "other".
package metrics
