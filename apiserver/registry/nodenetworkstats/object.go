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
		object.Drops = live.DropsOf(stats.GetDrops())
		object.Connections = live.ConnectionsOf(stats.GetConnections())
		object.DNS = live.DNSOf(stats.GetDns())
		object.APIServer = live.APIServerOf(stats.GetApiServer())
		object.Additional = live.AdditionalOf(stats.GetAdditional())
		fillNode(object, stats)
	}
}

// fillNode fills in what only nodes have.
func fillNode(object *v1alpha1.NodeNetworkStats, stats *agentv1.NodeStats) {
	if f := stats.GetFlows(); f != nil {
		object.Flows = &v1alpha1.FlowTableStats{
			Present: f.GetPresent(), Capacity: f.GetCapacity(), Created: f.GetCreated(), Evicted: f.GetEvicted(),
			Recorded: f.GetRecorded(), HistoryCapacity: f.GetHistoryCapacity(), Oldest: live.MicroTime(f.GetOldestUnixNano()),
		}
	}
	if c := stats.GetConntrack(); c != nil {
		object.Conntrack = &v1alpha1.ConntrackStats{
			Entries: c.GetEntries(), Limit: c.GetLimit(), InsertFailed: c.GetInsertFailed(), Dropped: c.GetDropped(),
			EarlyDropped: c.GetEarlyDropped(), Invalid: c.GetInvalid(),
		}
	}
	if m := stats.GetSocketMemory(); m != nil {
		object.SocketMemory = &v1alpha1.SocketMemoryStats{
			Sockets: m.GetSockets(), TCPBytes: m.GetTcpBytes(), TCPLimitBytes: m.GetTcpLimitBytes(), TCPOrphans: m.GetTcpOrphans(),
			UDPBytes: m.GetUdpBytes(), UDPLimitBytes: m.GetUdpLimitBytes(), FragmentBytes: m.GetFragmentBytes(),
		}
	}
	if s := stats.GetSoftnet(); s != nil {
		object.Softnet = &v1alpha1.SoftnetStats{
			Processed: s.GetProcessed(), Dropped: s.GetDropped(), Squeezed: s.GetSqueezed(),
			ReceivedRPS: s.GetReceivedRps(), FlowLimited: s.GetFlowLimited(),
		}
	}
	for _, port := range stats.GetInfiniband() {
		object.InfiniBand = append(object.InfiniBand, v1alpha1.InfiniBandPort{
			Device: port.GetDevice(), Port: port.GetPort(), State: port.GetState(), Counters: namedOf(port.GetCounters()),
		})
	}
}

// namedOf leaves out names that repeat: a client that applies would refuse the list.
func namedOf(counters []*agentv1.Counter) []v1alpha1.NamedCounter {
	var all []v1alpha1.NamedCounter
	seen := map[string]bool{}
	for _, counter := range counters {
		if !seen[counter.GetName()] {
			seen[counter.GetName()] = true
			all = append(all, v1alpha1.NamedCounter{Name: counter.GetName(), Value: counter.GetValue()})
		}
	}
	return all
}

func queueOf(queue *agentv1.Queue) *v1alpha1.QueueStats {
	if queue == nil {
		return nil
	}
	return &v1alpha1.QueueStats{
		Kind: queue.GetKind(), Drops: queue.GetDrops(), Overlimits: queue.GetOverlimits(), Requeues: queue.GetRequeues(),
		BacklogBytes: queue.GetBacklogBytes(),
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
			SpeedMegabits: one.GetSpeedMegabits(), CarrierChanges: one.GetCarrierChanges(),
			Queue: queueOf(one.GetQueue()), Driver: namedOf(one.GetDriver()),
		})
	}
	return all
}

func countersOf(counters *agentv1.InterfaceCounters) v1alpha1.InterfaceCounters {
	bytes, packets := live.RatesOf(counters.GetRates())
	return v1alpha1.InterfaceCounters{
		Bytes: counters.GetBytes(), Packets: counters.GetPackets(),
		Errors: counters.GetErrors(), Dropped: counters.GetDropped(),
		Missed: counters.GetMissed(), Overruns: counters.GetOverruns(),
		ChecksumErrors: counters.GetChecksumErrors(), Multicast: counters.GetMulticast(),
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
	total.Missed += part.Missed
	total.Overruns += part.Overruns
	total.ChecksumErrors += part.ChecksumErrors
	total.Multicast += part.Multicast
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
