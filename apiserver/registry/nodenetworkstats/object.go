package nodenetworkstats

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// Object is part of live.Kind.
func (kind) Object(record *live.Record, reading live.Reading) live.Object {
	object := &v1alpha1.NodeNetworkStats{}
	fill(object, record, reading)
	return object
}

// List is part of live.Kind.
func (kind) List(list metav1.ListMeta, records []*live.Record, readings []live.Reading) runtime.Object {
	items := make([]v1alpha1.NodeNetworkStats, len(records))
	for i := range items {
		fill(&items[i], records[i], readings[i])
		items[i].ResourceVersion = list.ResourceVersion
	}
	return &v1alpha1.NodeNetworkStatsList{ListMeta: list, Items: items}
}

func fill(object *v1alpha1.NodeNetworkStats, record *live.Record, reading live.Reading) {
	stats := reading.Node
	object.ObjectMeta = record.Meta()
	object.NodeIPs = slices.Clone(record.IPs)
	object.Measurement = live.MeasurementOf(record, reading, stats.GetMeasurement())
	if stats == nil {
		return
	}
	object.Agent = agentOf(stats.GetAgent())
	if live.HasCounters(object.State) {
		object.Interfaces = interfacesOf(stats.GetInterfaces())
		object.Traffic = uplinks(object.Interfaces)
		object.Protocols = live.ProtocolsOf(stats.GetProtocols())
	}
}

func interfacesOf(interfaces []*agentv1.Interface) []v1alpha1.InterfaceStats {
	var all []v1alpha1.InterfaceStats
	for _, one := range interfaces {
		all = append(all, v1alpha1.InterfaceStats{
			Name: one.GetName(), Kind: one.GetKind(), State: one.GetState(), MTU: one.GetMtu(), Uplink: one.GetUplink(),
			InterfaceTraffic: v1alpha1.InterfaceTraffic{
				Receive:  countersOf(one.GetReceive()),
				Transmit: countersOf(one.GetTransmit()),
			},
		})
	}
	return all
}

func countersOf(counters *agentv1.InterfaceCounters) v1alpha1.InterfaceCounters {
	bytes, packets := live.RatesOf(counters.GetRates())
	return v1alpha1.InterfaceCounters{
		Bytes: counters.GetBytes(), Packets: counters.GetPackets(),
		Errors: counters.GetErrors(), Dropped: counters.GetDropped(),
		BytesPerSecond: bytes, PacketsPerSecond: packets,
	}
}

// uplinks sums the interfaces that lead out of the node; nil when there is none.
func uplinks(interfaces []v1alpha1.InterfaceStats) *v1alpha1.InterfaceTraffic {
	var total *v1alpha1.InterfaceTraffic
	for i := range interfaces {
		if !interfaces[i].Uplink {
			continue
		}
		if total == nil {
			total = &v1alpha1.InterfaceTraffic{}
		}
		add(&total.Receive, &interfaces[i].Receive)
		add(&total.Transmit, &interfaces[i].Transmit)
	}
	return total
}

func add(total, part *v1alpha1.InterfaceCounters) {
	total.Bytes += part.Bytes
	total.Packets += part.Packets
	total.Errors += part.Errors
	total.Dropped += part.Dropped
	total.BytesPerSecond = live.AddRates(total.BytesPerSecond, part.BytesPerSecond)
	total.PacketsPerSecond = live.AddRates(total.PacketsPerSecond, part.PacketsPerSecond)
}

func agentOf(agent *agentv1.AgentInfo) *v1alpha1.AgentStatus {
	if agent == nil {
		return nil
	}
	status := &v1alpha1.AgentStatus{
		Version:       agent.GetVersion(),
		StartTime:     metav1.MicroTime{Time: time.Unix(0, agent.GetStartUnixNano()).UTC()},
		KernelVersion: agent.GetKernelVersion(),
		Pods:          agent.GetPods(),
	}
	for _, collector := range agent.GetCollectors() {
		status.Collectors = append(status.Collectors, v1alpha1.CollectorStatus{
			Name: collector.GetName(), State: collectorState(collector.GetState()), Message: collector.GetMessage(),
		})
	}
	return status
}

func collectorState(state agentv1.Collector_State) v1alpha1.CollectorState {
	switch state {
	case agentv1.Collector_STATE_RUNNING:
		return v1alpha1.CollectorRunning
	case agentv1.Collector_STATE_OFF:
		return v1alpha1.CollectorOff
	default:
		return v1alpha1.CollectorDegraded
	}
}
