package flowlog

import (
	"net/netip"
	"slices"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// A session is the time from when flow logs are asked for until they are not. It is for one goroutine.
type session struct {
	*Logger
	asked *v1alpha1.TelemetryFlowLogs
	now   time.Time
	last  bool // nothing is waited for any more
	pods  map[string]*pod
	// records have not been given away yet.
	records []*Record
	// Of the watch, as far as it has been added to what was lost.
	lostFlows, lostEnds int64
}

// A pod as the API server last named it.
type pod struct {
	*v1alpha1.TelemetryPod
	named time.Time
}

func newSession(l *Logger) *session { return &session{Logger: l, pods: map[string]*pod{}} }

// begin is for a look at the flows.
func (s *session) begin(asked *v1alpha1.TelemetryFlowLogs, now time.Time) {
	s.asked, s.now = asked, now
}

// end gives away what the look has found, and takes over what the watch has lost.
func (s *session) end(watch *flows.Watch) {
	s.flush()
	s.forgetPods()
	lost, ends := watch.Lost()
	s.lose(StageHistory, lost-s.lostFlows)
	s.lose(StageEnd, ends-s.lostEnds)
	s.lostFlows, s.lostEnds = lost, ends
}

// forgetPods forgets those that the API server has not known for a while.
func (s *session) forgetPods() {
	for key, p := range s.pods {
		if s.now.Sub(p.named) > keepPod {
			delete(s.pods, key)
		}
	}
}

// flush gives records away.
func (s *session) flush() {
	if len(s.records) == 0 {
		return
	}
	s.mu.Lock()
	s.logged += int64(len(s.records))
	s.mu.Unlock()
	s.config.Log(s.records)
	s.records = nil
}

// visit logs what has passed in a flow, or says when it may be time to.
func (s *session) visit(c *flows.Change) (again time.Time) {
	waited := s.now.Sub(c.Since)
	patient := !s.last && waited < nameWithin
	of := s.pod(c.PodKey)
	switch {
	case of == nil && patient:
		return s.now.Add(soon)
	case of == nil:
		s.lose(StagePod, 1)
		return time.Time{}
	case !of.FlowLogs || !sampled(c, s.asked.GetSampleOneIn()):
		return time.Time{}
	}
	wanted := len(s.asked.GetVerdicts()) == 0 || slices.Contains(s.asked.GetVerdicts(), c.Verdict)
	named := true
	var peer, translated Endpoint
	if wanted { // names are asked for as early as possible
		var both [2]bool
		peer, both[0] = s.endpoint(c, c.Peer)
		translated, both[1] = s.endpoint(c, c.Translated)
		named = both[0] && both[1]
	}
	switch due := c.Since.Add(time.Duration(s.asked.GetIntervalNano())); {
	case !c.Ended && !s.last && due.After(s.now):
		return due
	case !c.Ended && !s.last && s.now.Sub(c.Last) >= silent:
		return s.now.Add(silent)
	case !wanted:
		return time.Time{}
	case !named && patient:
		return s.now.Add(soon)
	}
	s.log(c, of.TelemetryPod, peer, translated)
	return time.Time{}
}

// pod is who has a key, or had it a while ago; nil while that is not known.
func (s *session) pod(key string) *pod {
	of := s.pods[key]
	if now := s.config.Telemetry.Pod(key); now != nil {
		if of == nil {
			of = &pod{}
			s.pods[key] = of
		}
		of.TelemetryPod, of.named = now, s.now
	}
	return of
}

// endpoint is who has an address, and whether that is known. An address that is not valid has nobody.
func (s *session) endpoint(c *flows.Change, of netip.AddrPort) (e Endpoint, known bool) {
	if !of.IsValid() {
		return e, true
	}
	e = Endpoint{Address: of.Addr(), Port: port(c, of)}
	if e.Address.IsMulticast() {
		return e, true
	}
	name := s.config.Telemetry.Name(e.Address)
	if name == nil {
		return e, false
	}
	if c.Last.Add(clocks).Before(time.Unix(0, name.GetSinceUnixNano())) {
		return e, true // whoever has it now did not have it then
	}
	if of := name.GetPod(); of != nil {
		e.Namespace, e.Pod, e.WorkloadKind, e.WorkloadName = of.GetNamespace(), of.GetName(), of.GetWorkloadKind(), of.GetWorkloadName()
	}
	e.ServiceNamespace, e.Service = name.GetService().GetNamespace(), name.GetService().GetName()
	e.Node = name.GetNode()
	return e, true
}

// port is that of an end, but for protocols whose flows have other numbers in its place.
func port(c *flows.Change, of netip.AddrPort) int32 {
	if !flows.HasPorts(c.Protocol) {
		return 0
	}
	return int32(of.Port())
}

// log makes a record.
func (s *session) log(c *flows.Change, of *v1alpha1.TelemetryPod, peer, translated Endpoint) {
	s.records = append(s.records, &Record{
		Time: s.now, Start: c.Start, Last: c.Last, Flow: c.Flow, Ended: c.Ended, Direction: c.Direction, Protocol: int32(c.Protocol),
		Local: Endpoint{
			Address: c.Local.Addr(), Port: port(c, c.Local), Namespace: of.GetNamespace(), Pod: of.GetName(),
			WorkloadKind: of.GetWorkloadKind(), WorkloadName: of.GetWorkloadName(),
		},
		Peer: peer, Translated: translated, DNSName: c.PeerName,
		ReceivedPackets: c.Packets[0], ReceivedBytes: c.Bytes[0], TransmittedPackets: c.Packets[1], TransmittedBytes: c.Bytes[1],
		DroppedPackets: c.Dropped, Verdict: c.Verdict, DropReason: c.DropReason,
		ReceivedFlags: int32(c.Flags[0]), TransmittedFlags: int32(c.Flags[1]), Handshake: c.Handshake,
		SampledOneIn: max(1, s.asked.GetSampleOneIn()),
	})
	if len(s.records) == together {
		s.flush()
	}
}
