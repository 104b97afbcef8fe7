package livetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// Agents answer for every node and every pod. A pod's counters are all its number, which Count sets.
type Agents struct {
	mu     sync.Mutex
	counts map[string]int64
	states map[string]agentv1.State
	silent map[string]error
	down   error
	asked  []map[string]live.Query
}

var _ live.Reader = &Agents{}

// NewAgents answer with zeros.
func NewAgents() *Agents {
	return &Agents{counts: map[string]int64{}, states: map[string]agentv1.State{}, silent: map[string]error{}}
}

// Count sets the number of a pod, by its key, or of a node, by its name.
func (a *Agents) Count(key string, number int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[key] = number
}

// State sets the state of a pod, by its key.
func (a *Agents) State(key string, state agentv1.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[key] = state
}

// Silence makes a node give no answer, for a cause; an empty one makes it answer again.
func (a *Agents) Silence(node, cause string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cause == "" {
		delete(a.silent, node)
		return
	}
	a.silent[node] = fmt.Errorf("%s: %s", node, cause)
}

// Down makes every read fail, for a cause; an empty one ends that.
func (a *Agents) Down(cause string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = nil
	if cause != "" {
		a.down = errors.New(cause)
	}
}

// Asked is what was asked since it was last called.
func (a *Agents) Asked() []map[string]live.Query {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

// Read is part of live.Reader.
func (a *Agents) Read(_ context.Context, queries map[string]live.Query) (map[string]live.Reply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, maps.Clone(queries))
	if a.down != nil {
		return nil, a.down
	}
	replies := map[string]live.Reply{}
	for node, query := range queries {
		replies[node] = a.reply(node, query)
	}
	return replies, nil
}

func (a *Agents) reply(node string, query live.Query) live.Reply {
	if err := a.silent[node]; err != nil {
		return live.Reply{Err: err}
	}
	reply := live.Reply{Pods: map[string]*agentv1.PodStats{}}
	for _, key := range query.PodKeys {
		reply.Pods[key] = PodStats(key, a.state(key), a.counts[key])
	}
	if query.Node {
		reply.Node = &agentv1.NodeStats{
			Measurement: measurement(agentv1.State_STATE_MEASURED),
			Protocols:   &agentv1.Protocols{Tcp: &agentv1.TCP{RetransmittedSegments: a.counts[node]}},
			Agent:       &agentv1.AgentInfo{Version: "v0.1.0", KernelVersion: "6.18.0", Pods: 3},
		}
	}
	return reply
}

func (a *Agents) state(key string) agentv1.State {
	if state, ok := a.states[key]; ok {
		return state
	}
	return agentv1.State_STATE_MEASURED
}

func measurement(state agentv1.State) *agentv1.Measurement {
	return &agentv1.Measurement{State: state, TimeUnixNano: 1_800_000_000_000_000_000, WindowNano: 10_000_000_000, StartUnixNano: 1_700_000_000_000_000_000}
}

// PodStats are an agent's row whose counters are all the same number.
func PodStats(key string, state agentv1.State, number int64) *agentv1.PodStats {
	stats := &agentv1.PodStats{Key: key, Measurement: measurement(state)}
	if state != agentv1.State_STATE_MEASURED && state != agentv1.State_STATE_DEGRADED {
		return stats
	}
	direction := func() *agentv1.DirectionTraffic {
		counters := func() *agentv1.Counters {
			return &agentv1.Counters{Packets: number, Bytes: number, Buffers: number}
		}
		return &agentv1.DirectionTraffic{
			Ipv4Unicast: counters(), Ipv4NonUnicast: counters(), Ipv6Unicast: counters(), Ipv6NonUnicast: counters(), NonIp: counters(),
			Rates: &agentv1.Rates{MilliBytes: number, MilliPackets: number},
		}
	}
	stats.Traffic = &agentv1.Traffic{Receive: direction(), Transmit: direction()}
	stats.Protocols = &agentv1.Protocols{
		Tcp: &agentv1.TCP{CurrentlyEstablished: number, RetransmittedSegments: number, EstablishedResets: number, AttemptFails: number},
		Udp: &agentv1.UDP{}, Ipv4: &agentv1.IP{},
	}
	return stats
}
