package live

import (
	"cmp"
	"slices"
	"strconv"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// DropsOf is nil when the agent does not count drops.
func DropsOf(drops *agentv1.Drops) *v1alpha1.DropStats {
	if drops == nil {
		return nil
	}
	stats := &v1alpha1.DropStats{Packets: drops.GetUnsorted(), Unsorted: drops.GetUnsorted()}
	classes := map[v1alpha1.DropClass]int64{}
	for _, drop := range drops.GetDrops() {
		count := v1alpha1.DropCount{
			Reason: drop.GetReason(), Class: DropClassOf(drop.GetClass()), Direction: DirectionOf(drop.GetDirection()),
			AttributedBy: attributionOf(drop.GetAttribution()), Protocol: ProtocolName(drop.GetProtocol()),
			Port: drop.GetPort(), Packets: drop.GetPackets(),
		}
		stats.Reasons = append(stats.Reasons, count)
		classes[count.Class] += count.Packets
		if count.Class == v1alpha1.DropBenign {
			stats.Benign += count.Packets
		} else {
			stats.Packets += count.Packets
		}
	}
	for class, packets := range classes {
		stats.ByClass = append(stats.ByClass, v1alpha1.DropClassCount{Class: class, Packets: packets})
	}
	slices.SortFunc(stats.ByClass, func(a, b v1alpha1.DropClassCount) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Class, b.Class))
	})
	return stats
}

// DropClassOf is DropOther for classes that this server does not know.
func DropClassOf(class agentv1.Drop_Class) v1alpha1.DropClass {
	switch class {
	case agentv1.Drop_CLASS_POLICY:
		return v1alpha1.DropPolicy
	case agentv1.Drop_CLASS_BUFFER:
		return v1alpha1.DropBuffer
	case agentv1.Drop_CLASS_NO_SOCKET:
		return v1alpha1.DropNoSocket
	case agentv1.Drop_CLASS_ROUTING:
		return v1alpha1.DropRouting
	case agentv1.Drop_CLASS_TTL:
		return v1alpha1.DropTTL
	case agentv1.Drop_CLASS_MTU:
		return v1alpha1.DropMTU
	case agentv1.Drop_CLASS_CHECKSUM:
		return v1alpha1.DropChecksum
	case agentv1.Drop_CLASS_MALFORMED:
		return v1alpha1.DropMalformed
	case agentv1.Drop_CLASS_PROTOCOL:
		return v1alpha1.DropProtocol
	case agentv1.Drop_CLASS_BENIGN:
		return v1alpha1.DropBenign
	default:
		return v1alpha1.DropOther
	}
}

// DirectionOf is empty for a direction that is not known.
func DirectionOf(direction agentv1.Direction) v1alpha1.Direction {
	switch direction {
	case agentv1.Direction_DIRECTION_RECEIVE:
		return v1alpha1.Receive
	case agentv1.Direction_DIRECTION_TRANSMIT:
		return v1alpha1.Transmit
	default:
		return ""
	}
}

func attributionOf(attribution agentv1.Drop_Attribution) v1alpha1.DropAttribution {
	switch attribution {
	case agentv1.Drop_ATTRIBUTION_SOCKET:
		return v1alpha1.AttributedBySocket
	case agentv1.Drop_ATTRIBUTION_ADDRESS:
		return v1alpha1.AttributedByAddress
	default:
		return v1alpha1.AttributedByInterface
	}
}

// ProtocolName names a protocol above IP as users know it; empty for 0, which stands for an unknown one.
func ProtocolName(number int32) string {
	switch number {
	case 0:
		return ""
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	}
	return strconv.Itoa(int(number))
}

// DropsCell is the number of drops, but for benign ones.
func DropsCell(drops *v1alpha1.DropStats) string {
	if drops == nil {
		return Unknown
	}
	return CountCell(drops.Packets)
}
