package telemetry

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A replica is one that may think that it leads, and what it says to an agent.
type replica struct {
	want *desired
	c    *conversation
}

func (r *replica) look(s *store) {
	at, same := r.want.lookedAt(s.look())
	if same == nil {
		same = newDesired(at, nil)
	}
	r.want = same
}

// exchange has the agent take what there is to say, and answer. The answer may be lost with the stream.
func (r *replica) exchange(agent *modelAgent, lost bool) (look bool) {
	if r.c == nil {
		r.c, agent.named = &conversation{}, map[string]bool{}
	}
	r.c.want = r.want
	for _, update := range r.c.says(&surroundings{now: epoch, namespace: func(string) labels.Set { return nil }}) {
		agent.take(update)
	}
	if lost {
		r.c = nil
		return false
	}
	return r.c.hears(agent.report())
}

// TestRevisionsRise: whatever happens, and whichever replicas think that they lead, an agent never goes back to an earlier spec,
// and ends with the present one. The spec's seriesLimit counts specs.
func TestRevisionsRise(t *testing.T) {
	for seed := range uint64(2000) {
		if problem := revisions(rand.New(rand.NewPCG(seed, 1)), false); problem != "" {
			t.Fatalf("seed %d: %s", seed, problem)
		}
	}
}

// TestRestoredStores: with backups that are restored, it still ends with the present one.
func TestRestoredStores(t *testing.T) {
	for seed := range uint64(2000) {
		if problem := revisions(rand.New(rand.NewPCG(seed, 2)), true); problem != "" {
			t.Fatalf("seed %d: %s", seed, problem)
		}
	}
}

func revisions(random *rand.Rand, restores bool) (problem string) {
	s, agent, replicas := &store{version: 1000}, &modelAgent{}, make([]replica, 3)
	history := map[int64]int{} // which spec was stored when
	backup, specs, furthest := *s, 0, 0
	note := func() { history[s.version] = specs }
	note()
	change := func() {
		switch random.IntN(6) {
		case 0, 1:
			specs++
			s.apply(v1alpha1.NetworkTelemetrySpec{SeriesLimit: new(int32(specs))})
		case 2:
			if s.object == nil {
				return
			}
			specs++
			s.write(nil)
		case 3, 4:
			if s.object != nil {
				s.write(s.object.DeepCopy())
			} else {
				s.write(nil) // something else was written
			}
		case 5:
			if restores && random.IntN(3) == 0 {
				*s = backup
			} else {
				backup = *s
			}
			return
		}
		note()
	}
	for range 60 {
		r := &replicas[random.IntN(len(replicas))]
		switch random.IntN(8) {
		case 0, 1, 2:
			change()
		case 3:
			*r = replica{} // another process, or another term
		case 4, 5:
			r.look(s)
		default:
			if r.want == nil {
				r.look(s)
			}
			if r.exchange(agent, random.IntN(4) == 0) && random.IntN(2) == 0 {
				r.look(s)
			}
			if now := history[agent.config.GetRevision()]; !restores && now < furthest {
				return fmt.Sprintf("the agent went back from spec %d to %d, at revision %d", furthest, now, agent.config.GetRevision())
			} else {
				furthest = max(furthest, now)
			}
		}
	}
	leader := &replicas[0]
	leader.c = nil
	leader.look(s)
	for range 4 {
		if leader.exchange(agent, false) {
			leader.look(s)
		}
	}
	return compare(s, leader, agent)
}

func compare(s *store, leader *replica, agent *modelAgent) (problem string) {
	want := &agentv1.TelemetryConfig{}
	if s.object != nil {
		want.SeriesLimit, want.Generation = int64(*s.object.Spec.SeriesLimit), s.object.Generation
	}
	switch {
	case agent.config.GetSeriesLimit() != want.SeriesLimit || agent.config.GetGeneration() != want.Generation:
		return fmt.Sprintf("the agent has %v, the spec is %v", agent.config, want)
	case leader.c.inForce() != leader.want.revision:
		return fmt.Sprintf("the leader takes %d for in force, and wants %d", leader.c.inForce(), leader.want.revision)
	}
	return ""
}
