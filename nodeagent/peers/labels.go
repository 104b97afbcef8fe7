package peers

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
)

// Labels are those of a counter. What is not asked for is empty.
//
// Peers that are no pods have no PeerNamespace, and as PeerWorkload one of the constants below; a pod without a
// controller is its own workload. Service is the one whose address the pod used, empty when it used another. Protocol is
// TCP, UDP, SCTP, ICMP, ICMPv6 or a number; Port is the server's, empty for protocols without ports. DNSName is the name
// under which the pod looked the peer up, empty when it did not. There is never an address.
type Labels struct {
	PeerNamespace, PeerWorkload string
	ServiceNamespace, Service   string
	Protocol, Port              string
	DNSName                     string
}

// Values of PeerWorkload for peers that are no pods.
const (
	// PeerNode is a node of the cluster.
	PeerNode = "node"
	// PeerExternal has an address of nobody in the cluster.
	PeerExternal = "external"
	// PeerMulticast is whoever listens to a multicast address, or to the broadcast one.
	PeerMulticast = "multicast"
	// PeerUnknown could not be found out in time, or is behind a Service of which it is not known where it leads.
	PeerUnknown = "unknown"
)

// Other stands for all values beyond the limit.
const Other = "other"

// asked is which labels are.
type asked struct{ peer, service, port, dnsName bool }

// askedOf reads the configuration; limit is of combinations a pod, total of those of the node.
func askedOf(config *v1alpha1.TelemetryConfig) (a asked, limit, total int) {
	for _, group := range config.GetGroups() {
		if group.GetName() != v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC {
			continue
		}
		has := func(label v1alpha1.TelemetryLabel) bool { return slices.Contains(group.GetLabels(), label) }
		a = asked{
			peer:    has(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD),
			service: has(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_SERVICE),
			port:    has(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT),
			dnsName: has(v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME),
		}
		limit = int(group.GetLabelValuesLimit())
	}
	return a, limit, int(config.GetSeriesLimit() / seriesOfCounter)
}

// labels are those of a flow; known is false while names are being asked for, and labels then say what to use without.
func (a asked) labels(c *flows.Change, name func(netip.Addr) *v1alpha1.TelemetryName) (l Labels, known bool) {
	known = true
	if a.service {
		owner, answered := ownerOf(c, c.Peer.Addr(), name)
		known = answered
		l.ServiceNamespace, l.Service = owner.GetService().GetNamespace(), owner.GetService().GetName()
	}
	if a.peer {
		known = l.setPeer(c, name) && known
	}
	if a.port {
		l.Protocol, l.Port = protocolName(c.Protocol), serverPort(c)
	}
	if a.dnsName {
		l.DNSName = c.PeerName
	}
	return l, known
}

// setPeer fills in who the peer is behind address translation, and says whether that is known.
func (l *Labels) setPeer(c *flows.Change, name func(netip.Addr) *v1alpha1.TelemetryName) (known bool) {
	address := c.Peer.Addr()
	if c.Translated.IsValid() {
		address = c.Translated.Addr()
	}
	if noOnes(address) {
		l.PeerWorkload = PeerMulticast
		return true
	}
	owner, known := ownerOf(c, address, name)
	pod := owner.GetPod()
	switch {
	case pod != nil:
		l.PeerNamespace, l.PeerWorkload = pod.GetNamespace(), pod.GetWorkloadName()
		if l.PeerWorkload == "" {
			l.PeerWorkload = pod.GetName()
		}
	case owner.GetNode() != "":
		l.PeerWorkload = PeerNode
	case owner == nil, owner.GetService() != nil:
		l.PeerWorkload = PeerUnknown
	default:
		l.PeerWorkload = PeerExternal
	}
	return known
}

// clocks is how far the clocks of nodes may be apart, when it is judged who had an address.
const clocks = 2 * time.Second

// ownerOf is who had an address when the flow's last packet passed; nil while that is not known, and when somebody else
// has it now.
func ownerOf(c *flows.Change, address netip.Addr, name func(netip.Addr) *v1alpha1.TelemetryName) (owner *v1alpha1.TelemetryName, known bool) {
	if noOnes(address) {
		return nil, true
	}
	owner = name(address)
	if owner != nil && c.Last.Add(clocks).Before(time.Unix(0, owner.GetSinceUnixNano())) {
		return nil, true
	}
	return owner, owner != nil
}

// noOnes says whether an address belongs to no one host.
func noOnes(address netip.Addr) bool {
	return address.IsMulticast() || address == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// serverPort is the port of the end that did not open the flow. Of a TCP connection that was open when counting began
// that is not known: the lower port is taken.
func serverPort(c *flows.Change) string {
	if !flows.HasPorts(c.Protocol) {
		return ""
	}
	const syn = 1 << 1
	port := c.Peer.Port()
	switch {
	case c.Protocol == unix.IPPROTO_TCP && (c.Flags[0]|c.Flags[1])&syn == 0:
		port = min(c.Local.Port(), c.Peer.Port())
	case c.Direction == v1alpha1.Direction_DIRECTION_RECEIVE:
		port = c.Local.Port()
	}
	return strconv.Itoa(int(port))
}

func protocolName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "TCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	case unix.IPPROTO_SCTP:
		return "SCTP"
	case unix.IPPROTO_ICMP:
		return "ICMP"
	case unix.IPPROTO_ICMPV6:
		return "ICMPv6"
	}
	return strconv.Itoa(int(number))
}
