package live

import (
	"math"

	"k8s.io/apimachinery/pkg/api/resource"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// CoverageOf compares the flows of a pod with its counters of IPv4 and IPv6. It is nil when flows are not recorded.
func CoverageOf(flows *agentv1.FlowTotals, traffic *v1alpha1.TrafficStats) *v1alpha1.FlowCoverage {
	if flows == nil {
		return nil
	}
	coverage := &v1alpha1.FlowCoverage{
		Packets: flows.GetPackets(), Bytes: flows.GetBytes(), Created: flows.GetCreated(), Unparsed: flows.GetUnparsed(),
	}
	if traffic == nil {
		return coverage
	}
	if all := traffic.Receive.Packets + traffic.Transmit.Packets; all > 0 {
		part := math.Floor(1000 * float64(coverage.Packets) / float64(all))
		coverage.Coverage = resource.NewMilliQuantity(int64(min(part, 1000)), resource.DecimalSI)
	}
	return coverage
}
