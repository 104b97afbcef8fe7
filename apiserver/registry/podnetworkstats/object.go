package podnetworkstats

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// Object is part of live.Kind.
func (kind) Object(record *live.Record, reading live.Reading) live.Object {
	object := &v1alpha1.PodNetworkStats{}
	fill(object, record, reading)
	return object
}

// List is part of live.Kind.
func (kind) List(list metav1.ListMeta, records []*live.Record, readings []live.Reading) runtime.Object {
	items := make([]v1alpha1.PodNetworkStats, len(records))
	for i := range items {
		fill(&items[i], records[i], readings[i])
		items[i].ResourceVersion = list.ResourceVersion
	}
	return &v1alpha1.PodNetworkStatsList{ListMeta: list, Items: items}
}

func fill(object *v1alpha1.PodNetworkStats, record *live.Record, reading live.Reading) {
	stats := reading.Pod
	object.ObjectMeta = record.Meta()
	object.NodeName = record.Node
	object.PodIPs = slices.Clone(record.IPs)
	object.HostNetwork = record.HostNetwork
	object.Measurement = live.MeasurementOf(record, reading, stats.GetMeasurement())
	if live.HasCounters(object.State) {
		object.Traffic = trafficOf(stats.GetTraffic())
		object.Protocols = live.ProtocolsOf(stats.GetProtocols())
		object.Drops = live.DropsOf(stats.GetDrops())
		object.Connections = live.ConnectionsOf(stats.GetConnections())
		object.DNS = live.DNSOf(stats.GetDns())
		object.APIServer = live.APIServerOf(stats.GetApiServer())
		object.Flows = live.CoverageOf(stats.GetFlows(), object.Traffic)
		object.Additional = live.AdditionalOf(stats.GetAdditional())
	}
}

func trafficOf(traffic *agentv1.Traffic) *v1alpha1.TrafficStats {
	if traffic == nil {
		return nil
	}
	return &v1alpha1.TrafficStats{
		Receive:  directionOf(traffic.GetReceive()),
		Transmit: directionOf(traffic.GetTransmit()),
	}
}

func directionOf(direction *agentv1.DirectionTraffic) v1alpha1.DirectionTraffic {
	ipv4 := familyOf(direction.GetIpv4Unicast(), direction.GetIpv4NonUnicast())
	ipv6 := familyOf(direction.GetIpv6Unicast(), direction.GetIpv6NonUnicast())
	bytes, packets := live.RatesOf(direction.GetRates())
	result := v1alpha1.DirectionTraffic{
		TrafficCounters:  sum(ipv4.Unicast, ipv4.NonUnicast, ipv6.Unicast, ipv6.NonUnicast),
		BytesPerSecond:   bytes,
		PacketsPerSecond: packets,
		IPv4:             ipv4,
		IPv6:             ipv6,
		NonIP:            countersOf(direction.GetNonIp()),
	}
	if direction != nil && direction.Bypassed != nil {
		bypassed := *direction.Bypassed
		result.Bypassed = &bypassed
	}
	return result
}

func familyOf(unicast, nonUnicast *agentv1.Counters) v1alpha1.FamilyTraffic {
	return v1alpha1.FamilyTraffic{Unicast: countersOf(unicast), NonUnicast: countersOf(nonUnicast)}
}

func countersOf(counters *agentv1.Counters) v1alpha1.TrafficCounters {
	return v1alpha1.TrafficCounters{Packets: counters.GetPackets(), Bytes: counters.GetBytes(), Buffers: counters.GetBuffers()}
}

func sum(parts ...v1alpha1.TrafficCounters) (total v1alpha1.TrafficCounters) {
	for _, part := range parts {
		total.Packets += part.Packets
		total.Bytes += part.Bytes
		total.Buffers += part.Buffers
	}
	return total
}
