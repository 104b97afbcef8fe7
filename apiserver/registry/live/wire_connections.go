package live

import (
	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// ConnectionsOf is nil when the agent does not follow connections.
func ConnectionsOf(c *agentv1.Connections) *v1alpha1.ConnectionStats {
	if c == nil {
		return nil
	}
	return &v1alpha1.ConnectionStats{
		StartTime: MicroTime(c.GetStartUnixNano()),
		States: v1alpha1.ConnectionStates{
			SynSent: c.GetSynSent(), SynReceived: c.GetSynReceived(), Established: c.GetEstablished(),
			FinWait1: c.GetFinWait1(), FinWait2: c.GetFinWait2(), TimeWait: c.GetTimeWait(), CloseWait: c.GetCloseWait(),
			LastAck: c.GetLastAck(), Closing: c.GetClosing(), Listen: c.GetListen(),
		},
		OpenedActively: c.GetOpenedActively(), OpenedPassively: c.GetOpenedPassively(),
		Failed: v1alpha1.ConnectionFailures{
			Refused: c.GetFailedRefused(), Timeout: c.GetFailedTimeout(), Unreachable: c.GetFailedUnreachable(),
			Abandoned: c.GetFailedAbandoned(), Other: c.GetFailedOther(),
		},
		ResetsSent: c.GetResetsSent(), ResetsReceived: c.GetResetsReceived(),
		BytesAcked: c.GetBytesAcked(), BytesReceived: c.GetBytesReceived(),
		SegmentsSent: c.GetSegmentsSent(), SegmentsReceived: c.GetSegmentsReceived(), SegmentsRetransmitted: c.GetSegmentsRetransmitted(),
		Open:   v1alpha1.RoundTrips{Smoothed: LatencyOf(c.GetOpenSmoothedRtt()), Minimum: LatencyOf(c.GetOpenMinimumRtt())},
		Closed: v1alpha1.RoundTrips{Smoothed: LatencyOf(c.GetClosedSmoothedRtt()), Minimum: LatencyOf(c.GetClosedMinimumRtt())},
	}
}

// APIServerOf is nil when the agent does not know.
func APIServerOf(a *agentv1.APIServer) *v1alpha1.APIServerStats {
	if a == nil {
		return nil
	}
	return &v1alpha1.APIServerStats{
		Handshake: LatencyOf(a.GetHandshake()), RTT: LatencyOf(a.GetRtt()),
		Connected: a.GetConnected(), Failed: a.GetFailed(), Open: a.GetOpen(),
	}
}

// ConnectionFailures is how many attempts to connect failed in all.
func ConnectionFailures(f *v1alpha1.ConnectionFailures) int64 {
	return f.Refused + f.Timeout + f.Unreachable + f.Abandoned + f.Other
}

// AdditionalOf are the counters of collectors without messages of their own.
func AdditionalOf(counters []*agentv1.Counter) []v1alpha1.CollectorCounter {
	var all []v1alpha1.CollectorCounter
	seen := map[[2]string]bool{}
	for _, counter := range counters {
		key := [2]string{counter.GetCollector(), counter.GetName()}
		if seen[key] {
			continue // a client that applies would refuse the list
		}
		seen[key] = true
		all = append(all, v1alpha1.CollectorCounter{Collector: counter.GetCollector(), Name: counter.GetName(), Value: counter.GetValue()})
	}
	return all
}
