// Package captures makes Captures and ClusterCaptures happen: it finds out which pods on which nodes match, tells the agents
// there to record, follows how far they are, ends, seals and stores what was recorded, and deletes it when its time is over.
package captures
