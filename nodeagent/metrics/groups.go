package metrics

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
)

// Values of the label direction.
const receive, transmit = "receive", "transmit"

// ofPod makes all series of a pod. Those of one family come in the order of their labels' values.
func (w *walk) ofPod(p *pod) {
	w.account = p.account
	if p.has == (groupSet{}) {
		return
	}
	if w.sizing || p.account.admitted {
		w.present(podInfo, 1, p.called.Uid, p.called.WorkloadKind)
	}
	for name, write := range [groupCount]func(*pod){
		traffic: w.trafficOf, drops: w.dropsOf, tcp: w.tcpOf, dns: w.dnsOf, apiServer: w.apiOf,
	} {
		w.group, w.began = v1alpha1.TelemetryGroupName(name), p.began[name]
		if write != nil && p.has[name] && p.knows(w.group) {
			write(p)
			p.account.known[name] = p.account.known[name] || !w.sizing
		}
	}
}

func (w *walk) trafficOf(p *pod) {
	receivedBytes, receivedPackets := totals(p.traffic.Receive)
	transmittedBytes, transmittedPackets := totals(p.traffic.Transmit)
	w.count(podBytes, receivedBytes, receive)
	w.count(podBytes, transmittedBytes, transmit)
	w.count(podPackets, receivedPackets, receive)
	w.count(podPackets, transmittedPackets, transmit)
	if bypassed := p.bypassed.value(); bypassed > 0 {
		w.count(podBypassed, bypassed, transmit)
	}
	if !w.sizing {
		w.endPeers(p)
	}
	for direction, name := range [...]string{receive, transmit} {
		for i := range p.peers {
			w.began = p.peers[i].Began
			w.peer(&p.peers[i], direction, name)
		}
	}
}

// endPeers removes the series of labels that have given their place to others, before these need series. When no counter
// is new nothing has ended.
func (w *walk) endPeers(p *pod) {
	newest := p.newest
	for i := range p.peers {
		if began := p.peers[i].Began.AsTime(); began.After(newest) {
			newest = began
		}
	}
	if newest.Equal(p.newest) || w.account.byPeer == 0 {
		p.newest = newest
		return
	}
	p.newest = newest
	for direction, name := range [...]string{receive, transmit} {
		for i := range p.peers {
			w.peerValues(&p.peers[i], name)
			w.key = appendValues(w.key[:0], w.values)
			for _, id := range [...]family{podPeerBytes, podPeerPackets} {
				if s := w.account.series[seriesKey{id, string(w.key)}]; s != nil && exchanged(&p.peers[i], direction) {
					s.walked = w.gather
				}
			}
		}
	}
	for key, s := range w.account.series {
		if ofPeers(key.family) && s.walked != w.gather {
			w.ledger.remove(w.account, key, s)
		}
	}
}

// totals are those of IPv4 and IPv6.
func totals(d *v1alpha1.DirectionTraffic) (bytes, packets int64) {
	for _, c := range [...]*v1alpha1.Counters{
		d.GetIpv4Unicast(), d.GetIpv4NonUnicast(), d.GetIpv6Unicast(), d.GetIpv6NonUnicast(),
	} {
		bytes += c.GetBytes()
		packets += c.GetPackets()
	}
	return bytes, packets
}

func (w *walk) peer(c *peers.Counter, direction int, name string) {
	if !exchanged(c, direction) {
		return
	}
	w.peerValues(c, name)
	w.count(podPeerBytes, c.Bytes[direction], w.values...)
	w.count(podPeerPackets, c.Packets[direction], w.values...)
}

// exchanged says whether there is something to count: only then there are series.
func exchanged(c *peers.Counter, direction int) bool {
	return c.Bytes[direction] != 0 || c.Packets[direction] != 0
}

// peerValues are those of the labels of a counter by peer, in w.values.
func (w *walk) peerValues(c *peers.Counter, direction string) {
	w.values = w.values[:0]
	for _, label := range w.ledger.own[podPeerBytes] {
		if label == "direction" {
			w.values = append(w.values, direction)
		} else {
			w.values = append(w.values, valueOf(&c.Labels, label))
		}
	}
}

func valueOf(l *peers.Labels, label string) string {
	switch label {
	case "dns_name":
		return l.DNSName
	case "peer_namespace":
		return l.PeerNamespace
	case "peer_workload":
		return l.PeerWorkload
	case "port":
		return l.Port
	case "protocol":
		return l.Protocol
	case "service":
		return l.Service
	}
	return l.ServiceNamespace
}

// compareLabels compares in the order of the names of labels.
func compareLabels(a, b *peers.Labels) int {
	return cmp.Or(
		cmp.Compare(a.DNSName, b.DNSName), cmp.Compare(a.PeerNamespace, b.PeerNamespace),
		cmp.Compare(a.PeerWorkload, b.PeerWorkload), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Service, b.Service), cmp.Compare(a.ServiceNamespace, b.ServiceNamespace),
	)
}

func (w *walk) dropsOf(p *pod) {
	if p.ports != nil {
		p.ports.each(func(of drop, port port, packets int64) {
			w.count(podDropped, packets, of.class, of.direction, port.port, port.protocol, of.reason)
		})
		w.endLost(&p.ports.ended, podDropped)
		return
	}
	for _, d := range byReason(p.drops.Drops) {
		w.count(podDropped, d.packets, d.class, d.direction, d.reason)
	}
}

// A drop is what packets have in common that were dropped for the same reason.
type drop struct{ class, direction, reason string }

func dropOf(d *v1alpha1.Drop) drop {
	return drop{class: classes[d.Class], direction: directionOf(d.Direction), reason: d.Reason}
}

func (d drop) compare(e drop) int {
	return cmp.Or(cmp.Compare(d.class, e.class), cmp.Compare(d.direction, e.direction), cmp.Compare(d.reason, e.reason))
}

type droppedPackets struct {
	drop
	packets int64
}

// byReason adds rows up, in the order of labels.
func byReason(rows []*v1alpha1.Drop) []droppedPackets {
	all := make([]droppedPackets, 0, len(rows))
	for _, row := range rows {
		all = append(all, droppedPackets{dropOf(row), row.Packets})
	}
	slices.SortFunc(all, func(a, b droppedPackets) int { return a.compare(b.drop) })
	sums := all[:0]
	for _, d := range all {
		if last := len(sums) - 1; last >= 0 && sums[last].drop == d.drop {
			sums[last].packets += d.packets
			continue
		}
		sums = append(sums, d)
	}
	return sums
}

func directionOf(d v1alpha1.Direction) string {
	if d == v1alpha1.Direction_DIRECTION_TRANSMIT {
		return transmit
	}
	return receive
}

// classes are values of the label class.
var classes = map[v1alpha1.Drop_Class]string{
	v1alpha1.Drop_CLASS_UNSPECIFIED: other,
	v1alpha1.Drop_CLASS_POLICY:      "policy",
	v1alpha1.Drop_CLASS_BUFFER:      "buffer",
	v1alpha1.Drop_CLASS_NO_SOCKET:   "no_socket",
	v1alpha1.Drop_CLASS_ROUTING:     "routing",
	v1alpha1.Drop_CLASS_TTL:         "ttl",
	v1alpha1.Drop_CLASS_MTU:         "mtu",
	v1alpha1.Drop_CLASS_CHECKSUM:    "checksum",
	v1alpha1.Drop_CLASS_MALFORMED:   "malformed",
	v1alpha1.Drop_CLASS_PROTOCOL:    "protocol",
	v1alpha1.Drop_CLASS_OTHER:       other,
	v1alpha1.Drop_CLASS_BENIGN:      benign,
}

// benign is the class of what every healthy network has.
const benign = "benign"

func (w *walk) tcpOf(p *pod) {
	c := p.connections
	w.present(podTCPConnections, c.CloseWait, "close_wait")
	w.present(podTCPConnections, c.Established, "established")
	w.present(podTCPConnections, c.Listen, "listen")
	w.present(podTCPConnections, c.SynSent, "syn_sent")
	w.present(podTCPConnections, c.TimeWait, "time_wait")
	w.count(podTCPOpened, c.OpenedActively, "client")
	w.count(podTCPOpened, c.OpenedPassively, "server")
	w.count(podTCPFailed, c.FailedAbandoned, "abandoned")
	w.count(podTCPFailed, c.FailedOther, other)
	w.count(podTCPFailed, c.FailedRefused, "refused")
	w.count(podTCPFailed, c.FailedTimeout, "timeout")
	w.count(podTCPFailed, c.FailedUnreachable, "unreachable")
	w.count(podTCPResets, c.ResetsReceived, receive)
	w.count(podTCPResets, c.ResetsSent, transmit)
	w.count(podTCPSegments, c.SegmentsReceived, receive)
	w.count(podTCPSegments, c.SegmentsSent, transmit)
	w.count(podTCPRetransmitted, c.SegmentsRetransmitted)
	w.distribution(podTCPRTT, c.ClosedSmoothedRtt)
}

func (w *walk) dnsOf(p *pod) {
	queries, responses := sortDNS(p.dns)
	for i, name := range dnsTypeNames {
		if queries[i] > 0 {
			w.count(podDNSQueries, queries[i], name)
		}
	}
	for code, codeName := range dnsCodeNames {
		for kind, typeName := range dnsTypeNames {
			if count := responses[kind][code]; count > 0 {
				w.count(podDNSResponses, count, codeName, typeName)
			}
		}
	}
	w.count(podDNSUnanswered, p.dns.Unanswered)
	w.distribution(podDNSLatency, p.dns.Latency)
	if p.names != nil {
		p.names.each(func(name string, queries, failures int64) {
			w.count(podDNSNameQueries, queries, name)
			if failures > 0 {
				w.count(podDNSNameFailures, failures, name)
			}
		})
		w.endLost(&p.names.ended, podDNSNameQueries, podDNSNameFailures)
	}
}

// endLost removes the series of families that were not given a value just now, when labels have lost their place.
func (w *walk) endLost(lost *bool, of ...family) {
	if !*lost {
		return
	}
	*lost = false
	for key, s := range w.account.series {
		if slices.Contains(of, key.family) && s.walked != w.gather {
			w.ledger.remove(w.account, key, s)
		}
	}
}

// Types and codes that have a name; all others are "other". Both are in the order of their names, in which "other" is last.
var (
	dnsTypes = [...]struct {
		number int32
		name   string
	}{{1, "A"}, {28, "AAAA"}, {5, "CNAME"}, {65, "HTTPS"}, {15, "MX"}, {2, "NS"}, {12, "PTR"}, {6, "SOA"}, {33, "SRV"}, {16, "TXT"}}
	dnsCodes = [...]struct {
		number int32
		name   string
	}{{1, "FORMERR"}, {0, "NOERROR"}, {4, "NOTIMP"}, {3, "NXDOMAIN"}, {5, "REFUSED"}, {2, "SERVFAIL"}}

	dnsTypeNames [len(dnsTypes) + 1]string
	dnsCodeNames [len(dnsCodes) + 1]string
)

func init() {
	for i, t := range dnsTypes {
		dnsTypeNames[i] = t.name
	}
	for i, c := range dnsCodes {
		dnsCodeNames[i] = c.name
	}
	dnsTypeNames[len(dnsTypes)], dnsCodeNames[len(dnsCodes)] = other, other
}

type (
	queriesByType    [len(dnsTypes) + 1]int64
	responsesByTypes [len(dnsTypes) + 1][len(dnsCodes) + 1]int64
)

// sortDNS gives counts in the order of the names of types and codes.
func sortDNS(row *v1alpha1.DNS) (queries queriesByType, responses responsesByTypes) {
	for _, q := range row.Queries {
		queries[placeOfType(q.Type)] += q.Count
	}
	for _, r := range row.Responses {
		responses[placeOfType(r.Type)][placeOfCode(r.Code)] += r.Count
	}
	return queries, responses
}

func placeOfType(number int32) int {
	for i := range dnsTypes {
		if dnsTypes[i].number == number {
			return i
		}
	}
	return len(dnsTypes)
}

func placeOfCode(number int32) int {
	for i := range dnsCodes {
		if dnsCodes[i].number == number {
			return i
		}
	}
	return len(dnsCodes)
}

// apiOf makes series only of pods that have talked to the Kubernetes API.
func (w *walk) apiOf(p *pod) {
	a := p.api
	if a.Connected == 0 && a.Failed == 0 && a.Open == 0 {
		return
	}
	w.count(podAPIConnections, a.Connected, "connected")
	w.count(podAPIConnections, a.Failed, "failed")
	w.distribution(podAPIHandshake, a.Handshake)
	w.distribution(podAPIRTT, a.ClosedRtt)
}

// protocolName is a value of the label protocol, as nodeagent/peers has it; nothing where it is not known.
func protocolName(number int32) string {
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
