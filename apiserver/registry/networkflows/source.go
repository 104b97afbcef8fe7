package networkflows

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// ErrGone is wrapped by a Source when an agent can no longer go on from where a request says.
var ErrGone = errors.New("the flows are gone")

// A Source reads the flow histories of nodes. It hands over what an agent answers, batch by batch, and returns nil
// when the answer is complete, the error of take when that fails, and otherwise why the node gave no answer, its name
// first. A request that follows ends only with an error. An answer has at least one batch, which tells the revision.
type Source interface {
	Read(ctx context.Context, node string, request *agentv1.ReadFlowsRequest, take func(*agentv1.ReadFlowsResponse) error) error
}

// Names tells who is who. Records are shared and must not be changed.
type Names interface {
	// Synced fails until the cluster's objects are known.
	Synced() error
	// Pod is the pod of an agent's key, also one that went lately.
	Pod(key string) (*live.Record, bool)
	// Pods are those of a namespace, or of all when it is empty, with those that went lately, and whether they are there.
	Pods(namespace string) iter.Seq2[*live.Record, bool]
	// PodsOn are those of a node.
	PodsOn(node string) iter.Seq2[*live.Record, bool]
	// Arrivals is another number than before when a pod has come to a node.
	Arrivals(node string) uint64
	// Relabelled is how often the labels of a pod, or what it belongs to, have changed.
	Relabelled() uint64
	// RelabelledAfter are the pods of the changes after the first so many, as they were before, oldest first, as far as they are known
	// still. all says that these are all.
	RelabelledAfter(changes uint64) (before []*live.Record, all bool)
	// RelabelledBy is Relabelled at a time, as far as that is known still.
	RelabelledBy(at time.Time) uint64
	// Nodes are the names of all nodes, in order.
	Nodes() []string
	// Owner is who held an address at a time.
	Owner(address netip.Addr, at time.Time) (directory.Owner, bool)
}

var _ Names = &directory.Directory{}
