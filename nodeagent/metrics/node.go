package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// A node makes series of the node's rows. It remembers where counters began that do not outlive the agent as they are.
type node struct {
	processed, dropped, squeezed            rising
	insertFailed, discarded, early, invalid wrapping
	// counting is since when connections are counted, looked since when there is what is shown from the first look on.
	counting, looked *timestamppb.Timestamp
}

// rising is a counter of which a former agent may have shown a higher value, or one as high: what is shown is what was
// added since the first look, so that it begins at 0.
type rising struct {
	first, now int64
	began      bool
}

// see takes a value over. All of it is new when whole says so.
func (r *rising) see(value int64, whole bool) {
	if !r.began && !whole {
		r.first = value
	}
	r.began, r.now = true, max(r.now, value)
}

func (r *rising) value() int64 { return max(0, r.now-r.first) }

// wrapping is the same for a sum of counters of 32 bits, each of which begins again at 0 behind its end.
type wrapping struct {
	last, sum int64
	began     bool
}

func (w *wrapping) see(value int64) {
	grown := value - w.last
	if grown < -1<<31 {
		grown += 1 << 32
	}
	if grown < 0 { // it fell by less, or by more: it began anew, as with its module
		grown = value
	}
	if w.began {
		w.sum += grown
	}
	w.began, w.last = true, value
}

// A writer adds series of the node.
type writer struct {
	out *output
	// shared are labels that many series have.
	shared map[[2]string]*dto.LabelPair
	// began is since when what is written counts; nil where that is not known.
	began *timestamppb.Timestamp
}

// add adds a series; labels are names and values by turns, in the order of names.
func (w *writer) add(id family, value float64, labels ...string) {
	pairs := make([]*dto.LabelPair, 0, len(labels)/2)
	for i := 0; i < len(labels); i += 2 {
		key := [2]string{labels[i], labels[i+1]}
		if w.shared[key] == nil {
			w.shared[key] = pair(key[0], key[1])
		}
		pairs = append(pairs, w.shared[key])
	}
	w.out.value(id, pairs, value, w.began)
}

func (w *writer) count(id family, value int64, labels ...string) {
	w.add(id, float64(value), labels...)
}

// series makes all series of the node. What the row lacks has none.
func (n *node) series(out *output, row *v1alpha1.NodeStats, now time.Time) {
	w := &writer{out: out, shared: map[[2]string]*dto.LabelPair{}}
	w.interfaces(row.Interfaces)
	w.infiniband(row.Infiniband)
	w.drops(row.Drops)
	w.protocols(row.Protocols)
	w.dns(row.Dns)
	w.flows(row.Flows)
	w.memory(row.SocketMemory)

	n.counting = since1970(n.counting, row.GetConnections().GetStartUnixNano())
	w.began = n.counting
	w.connections(row.Connections)
	w.api(row.ApiServer)

	if n.looked == nil {
		n.looked = timestamppb.New(now)
	}
	w.began = n.looked
	n.conntrack(w, row.Conntrack)
	n.softnet(w, row.Softnet)
}

// interfaces leaves out the host's ends of pods' interfaces: pods have series of their own.
func (w *writer) interfaces(rows []*v1alpha1.Interface) {
	rows = slices.SortedFunc(slices.Values(rows), func(a, b *v1alpha1.Interface) int { return cmp.Compare(a.Name, b.Name) })
	for _, i := range rows {
		if !i.Uplink && (i.Kind == "veth" || i.Kind == "netkit") {
			continue
		}
		w.ofInterface(i)
	}
}

func (w *writer) ofInterface(i *v1alpha1.Interface) {
	for _, d := range []struct {
		name string
		of   *v1alpha1.InterfaceCounters
	}{{receive, i.Receive}, {transmit, i.Transmit}} {
		w.count(nodeInterfaceBytes, d.of.GetBytes(), "direction", d.name, "interface", i.Name)
		w.count(nodeInterfacePackets, d.of.GetPackets(), "direction", d.name, "interface", i.Name)
		w.count(nodeInterfaceErrors, d.of.GetErrors(), "direction", d.name, "interface", i.Name)
		w.count(nodeInterfaceDropped, d.of.GetDropped()+d.of.GetMissed(), "direction", d.name, "interface", i.Name)
	}
	if i.Queue != nil {
		w.count(nodeInterfaceQueueDropped, i.Queue.Drops, "interface", i.Name)
	}
	w.count(nodeInterfaceCarrierChanges, i.CarrierChanges, "interface", i.Name)
	w.add(nodeInterfaceInfo, 1, "interface", i.Name, "kind", i.Kind, "state", i.State, "uplink", strconv.FormatBool(i.Uplink))
	if i.SpeedMegabits > 0 {
		w.add(nodeInterfaceSpeed, float64(i.SpeedMegabits)*1e6/8, "interface", i.Name)
	}
	if i.Uplink {
		for _, c := range i.Driver {
			w.count(nodeInterfaceDriver, c.Value, "counter", c.Name, "interface", i.Name)
		}
	}
}

func (w *writer) infiniband(ports []*v1alpha1.InfiniBandPort) {
	for _, p := range ports {
		for _, c := range p.Counters {
			w.count(nodeInfiniBand, c.Value, "counter", c.Name, "device", p.Device, "port", strconv.Itoa(int(p.Port)))
		}
	}
}

func (w *writer) drops(row *v1alpha1.Drops) {
	if row == nil {
		return
	}
	for _, d := range byReason(row.Drops) {
		w.count(nodeDropped, d.packets, "class", d.class, "direction", d.direction, "reason", d.reason)
	}
	w.count(nodeDropsUnsorted, row.Unsorted)
}

func (w *writer) connections(c *v1alpha1.Connections) {
	if c == nil {
		return
	}
	for _, s := range []struct {
		state string
		count int64
	}{
		{"close_wait", c.CloseWait}, {"closing", c.Closing}, {"established", c.Established}, {"fin_wait1", c.FinWait1},
		{"fin_wait2", c.FinWait2}, {"last_ack", c.LastAck}, {"listen", c.Listen}, {"syn_received", c.SynReceived},
		{"syn_sent", c.SynSent}, {"time_wait", c.TimeWait},
	} {
		w.count(nodeTCPConnections, s.count, "state", s.state)
	}
	w.count(nodeTCPOpened, c.OpenedActively, "side", "client")
	w.count(nodeTCPOpened, c.OpenedPassively, "side", "server")
	w.count(nodeTCPFailed, c.FailedAbandoned, "reason", "abandoned")
	w.count(nodeTCPFailed, c.FailedOther, "reason", other)
	w.count(nodeTCPFailed, c.FailedRefused, "reason", "refused")
	w.count(nodeTCPFailed, c.FailedTimeout, "reason", "timeout")
	w.count(nodeTCPFailed, c.FailedUnreachable, "reason", "unreachable")
	w.count(nodeTCPResets, c.ResetsReceived, "direction", receive)
	w.count(nodeTCPResets, c.ResetsSent, "direction", transmit)
	w.out.histogram(nodeTCPRTT, nil, c.ClosedSmoothedRtt, w.began)
}

// protocols are the kernel's counters. Of each group only those are taken that count no packet twice.
func (w *writer) protocols(p *v1alpha1.Protocols) {
	if t := p.GetTcp(); t != nil {
		w.count(nodeTCPSegments, t.InSegments, "direction", receive)
		w.count(nodeTCPSegments, t.OutSegments, "direction", transmit)
		w.count(nodeTCPRetransmitted, t.RetransmittedSegments)
		w.count(nodeTCPEvents, t.ListenDrops, "event", "listen_drops")
		w.count(nodeTCPEvents, t.ListenOverflows, "event", "listen_overflows")
		w.count(nodeTCPEvents, t.InErrors, "event", "receive_errors")
		w.count(nodeTCPEvents, t.RequestQueueDrops, "event", "request_queue_drops")
		w.count(nodeTCPEvents, t.SynCookiesSent, "event", "syn_cookies_sent")
		w.count(nodeTCPEvents, t.ZeroWindowDrops, "event", "zero_window_drops")
		w.count(nodeTCPEvents, t.ZeroWindowsSent, "event", "zero_windows_sent")
	}
	if u := p.GetUdp(); u != nil {
		w.count(nodeUDPDatagrams, u.InDatagrams, "direction", receive)
		w.count(nodeUDPDatagrams, u.OutDatagrams, "direction", transmit)
		w.count(nodeUDPErrors, u.ChecksumErrors, "reason", "checksum")
		w.count(nodeUDPErrors, u.NoPorts, "reason", "no_port")
		w.count(nodeUDPErrors, u.ReceiveBufferErrors, "reason", "receive_buffer")
		w.count(nodeUDPErrors, u.SendBufferErrors, "reason", "send_buffer")
	}
	w.ip("ipv4", p.GetIpv4(), p.GetIcmpv4())
	w.ip("ipv6", p.GetIpv6(), p.GetIcmpv6())
}

func (w *writer) ip(version string, ip *v1alpha1.IP, icmp *v1alpha1.ICMP) {
	if ip != nil {
		w.count(nodeIPPackets, ip.InReceives, "direction", receive, "family", version)
		w.count(nodeIPPackets, ip.OutRequests, "direction", transmit, "family", version)
		w.count(nodeIPForwarded, ip.Forwarded, "family", version)
		w.count(nodeIPErrors, ip.InAddressErrors, "family", version, "reason", "address")
		w.count(nodeIPErrors, ip.InHeaderErrors, "family", version, "reason", "header")
		w.count(nodeIPErrors, ip.NoRoutes, "family", version, "reason", "no_route")
		w.count(nodeIPErrors, ip.ReassemblyFails, "family", version, "reason", "reassembly")
		w.count(nodeIPErrors, ip.InDiscards, "family", version, "reason", "receive_discarded")
		w.count(nodeIPErrors, ip.OutDiscards, "family", version, "reason", "transmit_discarded")
	}
	if icmp != nil {
		w.count(nodeICMPMessages, icmp.InMessages, "direction", receive, "family", version)
		w.count(nodeICMPMessages, icmp.OutMessages, "direction", transmit, "family", version)
	}
}

func (w *writer) dns(row *v1alpha1.DNS) {
	if row == nil {
		return
	}
	queries, responses := sortDNS(row)
	for i, name := range dnsTypeNames {
		if queries[i] > 0 {
			w.count(nodeDNSQueries, queries[i], "type", name)
		}
	}
	for code, codeName := range dnsCodeNames {
		for kind, typeName := range dnsTypeNames {
			if count := responses[kind][code]; count > 0 {
				w.count(nodeDNSResponses, count, "code", codeName, "type", typeName)
			}
		}
	}
	w.count(nodeDNSUnanswered, row.Unanswered)
	w.out.histogram(nodeDNSLatency, nil, row.Latency, w.began)
}

func (w *writer) api(a *v1alpha1.APIServer) {
	if a == nil {
		return
	}
	w.count(nodeAPIConnections, a.Connected, "result", "connected")
	w.count(nodeAPIConnections, a.Failed, "result", "failed")
	w.count(nodeAPIOpen, a.Open)
	w.out.histogram(nodeAPIHandshake, nil, a.Handshake, w.began)
	w.out.histogram(nodeAPIRTT, nil, a.ClosedRtt, w.began)
}

func (w *writer) flows(f *v1alpha1.FlowTable) {
	if f == nil {
		return
	}
	w.count(nodeFlows, f.Present)
	w.count(nodeFlowsCapacity, f.Capacity)
	w.count(nodeFlowsCreated, f.Created)
	w.count(nodeFlowsEvicted, f.Evicted)
}

func (w *writer) memory(s *v1alpha1.SocketMemory) {
	if s == nil {
		return
	}
	w.count(nodeSockets, s.Sockets)
	w.count(nodeSocketMemory, s.FragmentBytes, "protocol", "ip_fragments")
	w.count(nodeSocketMemory, s.TcpBytes, "protocol", "tcp")
	w.count(nodeSocketMemory, s.UdpBytes, "protocol", "udp")
	if s.TcpLimitBytes > 0 { // it is not shown in every namespace
		w.count(nodeSocketMemoryLimit, s.TcpLimitBytes, "protocol", "tcp")
	}
	if s.UdpLimitBytes > 0 {
		w.count(nodeSocketMemoryLimit, s.UdpLimitBytes, "protocol", "udp")
	}
}

func (n *node) conntrack(w *writer, c *v1alpha1.Conntrack) {
	if c == nil {
		return
	}
	w.count(nodeConntrackEntries, c.Entries)
	w.count(nodeConntrackLimit, c.Limit)
	for _, e := range []struct {
		event string
		seen  *wrapping
		value int64
	}{
		{"dropped", &n.discarded, c.Dropped}, {"early_dropped", &n.early, c.EarlyDropped},
		{"insert_failed", &n.insertFailed, c.InsertFailed}, {"invalid", &n.invalid, c.Invalid},
	} {
		e.seen.see(e.value)
		w.count(nodeConntrackEvents, e.seen.sum, "event", e.event)
	}
}

func (n *node) softnet(w *writer, s *v1alpha1.Softnet) {
	if s == nil {
		return
	}
	n.processed.see(s.Processed, false)
	n.dropped.see(s.Dropped, false)
	n.squeezed.see(s.Squeezed, false)
	w.count(nodeSoftnetProcessed, n.processed.value())
	w.count(nodeSoftnetDropped, n.dropped.value())
	w.count(nodeSoftnetSqueezed, n.squeezed.value())
}
