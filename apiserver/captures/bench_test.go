package captures

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// BenchmarkDecide decides about one capture of 10,000 pods on 1,000 nodes that all record.
func BenchmarkDecide(b *testing.B) {
	c := &v1alpha1.Capture{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", ResourceVersion: "1", CreationTimestamp: metav1.NewTime(epoch)}}
	s, err := subjectOf(c)
	if err != nil {
		b.Fatal(err)
	}
	m := newMachine(s, &selection{})
	var targets []*target
	for i := range 10_000 {
		name := fmt.Sprintf("p%05d", i)
		targets = append(targets, &target{
			Match: Match{Node: fmt.Sprintf("n%04d", i%1000), Namespace: "shop", Pod: name, UID: types.UID(name)}, key: name, running: true,
			addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
		})
	}
	m.setTargets(targets)
	m.compiled(&Program{Ethernet: make([]uint64, 100)}, nil, nil)
	for _, call := range m.decide(epoch).calls {
		a := &storyAgent{}
		a.ensure(call.ensure, epoch)
		m.answer(call.node, a.state, epoch)
		m.done(call.node, epoch)
	}
	if len(m.members) != 1000 {
		b.Fatalf("%d nodes take part", len(m.members))
	}
	for _, call := range m.decide(epoch.Add(peersEvery)).calls {
		state := atRevision(m.members[call.node].state, call.ensure.Revision)
		m.answer(call.node, state, epoch.Add(peersEvery))
		m.done(call.node, epoch.Add(peersEvery))
	}
	for b.Loop() {
		if calls := m.decide(epoch.Add(peersEvery)).calls; len(calls) > 0 {
			b.Fatalf("%d calls are to be made", len(calls))
		}
	}
}

func atRevision(state *agentv1.CaptureState, revision int64) *agentv1.CaptureState {
	state = copied(state)
	state.Revision = revision
	return state
}
