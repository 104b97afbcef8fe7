package metrics

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// linger is for how long a pod without a live process keeps its series, with their last values: while its sandbox is made
// anew it has none. The series of a pod that the API server says is gone end at once.
const linger = 30 * time.Second

// A pod is one that has series.
type pod struct {
	called *v1alpha1.TelemetryPod
	// appeared numbers pods in the order in which they were first seen.
	appeared uint64
	// process is nil while there is none; seen is when there last was.
	process *podmap.Pod
	seen    time.Time
	// has are the groups in force of which the pod has series.
	has     groupSet
	account *account

	// What was read last, of each group.
	traffic     *v1alpha1.Traffic
	drops       *v1alpha1.Drops
	connections *v1alpha1.Connections
	dns         *v1alpha1.DNS
	api         *v1alpha1.APIServer
	peers       []peers.Counter
	// newest is when the newest of peers began that was looked at.
	newest time.Time
	// began is since when the counters of each group count; nil where that is not known.
	began [groupCount]*timestamppb.Timestamp

	bypassed rising
	ports    *ports
	names    *names
}

// groupCount is one more than the largest v1alpha1.TelemetryGroupName.
const groupCount = int(v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER) + 1

type groupSet [groupCount]bool

// Short names for those of the wire.
const (
	traffic   = v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC
	drops     = v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DROPS
	tcp       = v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TCP
	dns       = v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS
	apiServer = v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER
)

// groups are by v1alpha1.TelemetryGroupName: their name in the catalogue, and the collector that reads them.
var groups = [groupCount]struct{ name, collector string }{
	traffic:   {groupTraffic, "traffic"},
	drops:     {groupDrops, "drops"},
	tcp:       {groupTCP, "tcp"},
	dns:       {groupDNS, "dns"},
	apiServer: {groupAPIServer, "tcp"},
}

// A group is one that the configuration asks for.
type group struct {
	*v1alpha1.TelemetryGroup
	// read is when it was last read.
	read time.Time
}

// fresh is for how long values are not read again: a tenth less than the interval. Scrapes that are as far apart come a
// moment too early half of the time, and would have the old values then.
func (g *group) fresh() time.Duration {
	return time.Duration(g.IntervalNano - g.IntervalNano/10)
}

func (g *group) labelled(label v1alpha1.TelemetryLabel) bool {
	return g != nil && slices.Contains(g.Labels, label)
}

// labelledAs says whether series have the same labels as with another group. What a pod has counted by them goes on then.
func (g *group) labelledAs(another *group) bool {
	return g != nil && another != nil && slices.Equal(g.Labels, another.Labels) && g.LabelValuesLimit == another.LabelValuesLimit
}

// limit is how many combinations of values a pod has.
func (g *group) limit() int { return int(max(1, g.LabelValuesLimit)) }

// defaultSeriesLimit is that of an API server that sends none.
const defaultSeriesLimit = 50_000

// configure puts a configuration in force. All places are given away anew when groups or limits have changed.
func (m *Metrics) configure(config *v1alpha1.TelemetryConfig) {
	if m.ledger != nil && m.configured == config {
		return
	}
	former := m.configured
	m.configured = config
	if m.ledger != nil && former.SeriesLimit == config.SeriesLimit && slices.EqualFunc(former.Groups, config.Groups,
		func(a, b *v1alpha1.TelemetryGroup) bool { return proto.Equal(a, b) }) {
		return
	}
	before := m.groups
	m.groups = [groupCount]*group{}
	for _, g := range config.Groups {
		if g.Name > 0 && int(g.Name) < groupCount {
			m.groups[g.Name] = &group{TelemetryGroup: g}
		}
	}
	limit := int(config.SeriesLimit)
	if limit <= 0 {
		limit = defaultSeriesLimit
	}
	m.ledger = newLedger(limit, m.offers, m.added)
	for _, p := range m.pods {
		p.begin()
		p.has = groupSet{}
		for name := range groups {
			if !m.groups[name].labelledAs(before[name]) {
				p.forget(v1alpha1.TelemetryGroupName(name))
			}
		}
	}
}

// offers says whether pods have series of a family.
func (m *Metrics) offers(id family) bool {
	switch id {
	case podPeerBytes, podPeerPackets:
		return m.peersWanted()
	case podDNSNameQueries, podDNSNameFailures:
		return m.groups[dns].labelled(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME)
	case podInfo:
		return true
	}
	return slices.ContainsFunc(m.groups[:], func(g *group) bool {
		return g != nil && groups[g.Name].name == catalogue[id].Group
	})
}

func (m *Metrics) peersWanted() bool {
	return m.config.Peers != nil && m.groups[traffic] != nil && len(m.groups[traffic].Labels) > 0
}

// added are the labels that the configuration adds to a family.
func (m *Metrics) added(id family) (names []string) {
	for _, g := range m.groups {
		if g == nil || groups[g.Name].name != catalogue[id].Group {
			continue
		}
		for _, label := range g.Labels {
			for _, name := range labelNames[label] {
				if slices.Contains(catalogue[id].Optional, name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

var labelNames = map[v1alpha1.TelemetryLabel][]string{
	v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD: {"peer_namespace", "peer_workload"},
	v1alpha1.TelemetryLabel_TELEMETRY_LABEL_SERVICE:       {"service_namespace", "service"},
	v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT:          {"protocol", "port"},
	v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME:      {"dns_name"},
}

// begin makes the pod's series anew.
func (p *pod) begin() {
	workload := p.called.WorkloadName
	if workload == "" {
		workload = p.called.Name
	}
	p.account = newAccount(p.called.Namespace, p.called.Name, workload)
}

// follow brings the pods up to date, and gives them in the order of their namespaces and names.
func (m *Metrics) follow(now time.Time) []*pod {
	for _, p := range m.pods {
		p.process = nil
	}
	var fresh []*pod
	for _, process := range m.config.Pods() {
		called := m.config.Telemetry.Pod(process.Key)
		if called == nil {
			continue
		}
		p := m.pods[process.Key]
		if p == nil {
			p = &pod{called: called}
			p.begin()
			m.pods[process.Key] = p
			fresh = append(fresh, p)
		}
		p.process, p.seen = process, now
	}
	slices.SortFunc(fresh, byName)
	for _, p := range fresh {
		m.appeared++
		p.appeared = m.appeared
	}
	for key, p := range m.pods {
		called := m.config.Telemetry.Pod(key)
		if called == nil || now.Sub(p.seen) > linger {
			m.ledger.release(p.account, every)
			delete(m.pods, key)
			continue
		}
		m.update(p, called)
	}
	return m.distinct(slices.SortedFunc(maps.Values(m.pods), byName))
}

func every(family) bool { return true }

func byName(a, b *pod) int {
	return cmp.Or(
		cmp.Compare(a.called.Namespace, b.called.Namespace), cmp.Compare(a.called.Name, b.called.Name),
		cmp.Compare(a.appeared, b.appeared),
	)
}

// update takes over what the API server says of a pod.
func (m *Metrics) update(p *pod, called *v1alpha1.TelemetryPod) {
	if p.called != called {
		before := p.called
		p.called = called
		if before.Namespace != called.Namespace || before.Name != called.Name || before.Uid != called.Uid ||
			before.WorkloadName != called.WorkloadName || before.WorkloadKind != called.WorkloadKind {
			m.ledger.release(p.account, every)
			p.begin()
		}
	}
	var has groupSet
	for _, name := range called.Groups {
		if name > 0 && int(name) < groupCount { // a newer API server may know more
			has[name] = m.groups[name] != nil
		}
	}
	for name := range has {
		if p.has[name] && !has[name] {
			m.ledger.release(p.account, func(id family) bool { return catalogue[id].Group == groups[name].name })
			p.account.known[name] = false
			p.forget(v1alpha1.TelemetryGroupName(name))
		}
	}
	p.has = has
}

// forget drops what was read of a group.
func (p *pod) forget(name v1alpha1.TelemetryGroupName) {
	switch name {
	case traffic:
		p.traffic, p.peers = nil, nil
	case drops:
		p.drops, p.ports = nil, nil
	case tcp:
		p.connections = nil
	case dns:
		p.dns, p.names = nil, nil
	case apiServer:
		p.api = nil
	}
}

// distinct leaves out pods without a group, and of pods of the same name all but the one that appeared last: its
// predecessor has not gone yet, and two cannot have the same series.
func (m *Metrics) distinct(sorted []*pod) []*pod {
	kept := sorted[:0]
	for i, p := range sorted {
		next := i+1 < len(sorted) && sorted[i+1].called.Namespace == p.called.Namespace && sorted[i+1].called.Name == p.called.Name
		if p.has == (groupSet{}) || next {
			m.ledger.release(p.account, every)
			p.account.admitted = false
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// read reads what is due of each pod.
func (m *Metrics) read(reading Reading, pods []*pod, now time.Time) {
	var due groupSet
	for name, g := range m.groups {
		if g != nil && (g.read.IsZero() || now.Sub(g.read) >= g.fresh()) {
			due[name], g.read = true, now
		}
	}
	var asked []string
	for _, p := range pods {
		var wanted groupSet
		asked = asked[:0]
		for name := range groups {
			wanted[name] = p.has[name] && (due[name] || !p.knows(v1alpha1.TelemetryGroupName(name)))
			if wanted[name] && !slices.Contains(asked, groups[name].collector) {
				asked = append(asked, groups[name].collector)
			}
		}
		if len(asked) > 0 && p.process != nil {
			m.take(p, wanted, reading.PodOnly(p.process, asked...), now)
		}
	}
	if due[traffic] && m.peersWanted() {
		m.readPeers(pods)
	}
}

// knows says whether a group of the pod was ever read.
func (p *pod) knows(name v1alpha1.TelemetryGroupName) bool {
	switch name {
	case traffic:
		return p.traffic != nil
	case drops:
		return p.drops != nil
	case tcp:
		return p.connections != nil
	case dns:
		return p.dns != nil
	}
	return p.api != nil
}

// take keeps the wanted groups of a row.
func (m *Metrics) take(p *pod, wanted groupSet, row *v1alpha1.PodStats, now time.Time) {
	if wanted[traffic] {
		p.traffic = row.Traffic
		p.dates(traffic, row.GetMeasurement().GetStartUnixNano())
		if transmit := row.GetTraffic().GetTransmit(); transmit != nil && transmit.Bypassed != nil {
			// Of a pod that was counted before this process began, former ones may have shown a few more.
			p.bypassed.see(*transmit.Bypassed, row.GetMeasurement().GetStartUnixNano() >= m.began.UnixNano())
		}
	}
	if wanted[drops] {
		p.drops = row.Drops
		if p.drops != nil && m.groups[drops].labelled(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT) {
			if p.ports == nil {
				p.ports = newPorts(m.groups[drops].limit())
			}
			p.ports.take(p.drops.Drops, now)
		}
	}
	if wanted[tcp] {
		p.connections = row.Connections
		p.dates(tcp, row.GetConnections().GetStartUnixNano())
	}
	if wanted[dns] {
		p.dns = row.Dns
		if p.dns != nil && m.groups[dns].labelled(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME) {
			if p.names == nil {
				p.names = newNames(m.groups[dns].limit())
			}
			p.names.take(p.dns, now)
		}
	}
	if wanted[apiServer] {
		p.api = row.ApiServer
		p.dates(apiServer, row.GetConnections().GetStartUnixNano()) // they are in the same row of the kernel's
	}
}

// dates notes since when a group counts, in nanoseconds since the Unix epoch; 0 where that is not known. One message serves
// until it changes.
func (p *pod) dates(name v1alpha1.TelemetryGroupName, nano int64) {
	p.began[name] = since1970(p.began[name], nano)
}

func since1970(before *timestamppb.Timestamp, nano int64) *timestamppb.Timestamp {
	switch {
	case nano <= 0:
		return nil
	case before != nil && before.AsTime().UnixNano() == nano:
		return before
	}
	return timestamppb.New(time.Unix(0, nano))
}

// readPeers takes over what all pods have exchanged. Counters of the same labels are added up: a peer may be called other.
func (m *Metrics) readPeers(pods []*pod) {
	for _, p := range pods {
		p.peers = p.peers[:0]
	}
	m.config.Peers.Read(func(c peers.Counter) bool {
		if p := m.pods[c.PodKey]; p != nil && p.has[traffic] {
			p.peers = append(p.peers, c)
		}
		return true
	})
	for _, p := range pods {
		slices.SortFunc(p.peers, func(a, b peers.Counter) int { return compareLabels(&a.Labels, &b.Labels) })
		sums := p.peers[:0]
		for _, c := range p.peers {
			if last := len(sums) - 1; last >= 0 && sums[last].Labels == c.Labels {
				if c.Began.AsTime().Before(sums[last].Began.AsTime()) {
					sums[last].Began = c.Began
				}
				for i := range c.Bytes {
					sums[last].Bytes[i] += c.Bytes[i]
					sums[last].Packets[i] += c.Packets[i]
				}
				continue
			}
			sums = append(sums, c)
		}
		p.peers = sums
	}
}

func byAppearance(a, b *pod) int { return cmp.Compare(a.appeared, b.appeared) }
