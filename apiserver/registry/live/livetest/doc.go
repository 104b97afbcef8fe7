// Package livetest holds what tests of live resources stand on: a [Cluster] of pods in memory whose views can lag,
// break and be compacted, and [Agents] that can fall silent. Only tests import it.
package livetest
