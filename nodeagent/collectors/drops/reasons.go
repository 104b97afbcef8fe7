package drops

import (
	"fmt"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/drops"
)

const (
	policy    = v1alpha1.Drop_CLASS_POLICY
	buffer    = v1alpha1.Drop_CLASS_BUFFER
	noSocket  = v1alpha1.Drop_CLASS_NO_SOCKET
	routing   = v1alpha1.Drop_CLASS_ROUTING
	ttl       = v1alpha1.Drop_CLASS_TTL
	mtu       = v1alpha1.Drop_CLASS_MTU
	checksum  = v1alpha1.Drop_CLASS_CHECKSUM
	malformed = v1alpha1.Drop_CLASS_MALFORMED
	protocol  = v1alpha1.Drop_CLASS_PROTOCOL
	other     = v1alpha1.Drop_CLASS_OTHER
	benign    = v1alpha1.Drop_CLASS_BENIGN
)

// classes are judged by what include/net/dropreason-core.h says of each reason, and by where the kernel gives it.
// Reasons that are not here are other. Benign are those for which nobody misses anything: what the packet brought had
// come before, or was taken from it before it was dropped, or was meant for somebody else.
var classes = map[string]v1alpha1.Drop_Class{
	// Somebody decided. Rules of nftables and iptables that reject answer the sender and then give NETFILTER_DROP too.
	"NETFILTER_DROP":      policy,
	"BPF_CGROUP_EGRESS":   policy,
	"XDP":                 policy,
	"TC_EGRESS":           policy,
	"TC_INGRESS":          policy,
	"TC_COOKIE_ERROR":     policy,
	"TC_CHAIN_NOTFOUND":   policy,
	"TC_RECLASSIFY_LOOP":  policy,
	"SOCKET_FILTER":       policy, // programs on sockets, and those of cgroups on what comes in
	"SECURITY_HOOK":       policy,
	"XFRM_POLICY":         policy,
	"TAP_FILTER":          policy,
	"TAP_TXFILTER":        policy,
	"ARP_PVLAN_DISABLE":   policy,
	"PSP_INPUT":           policy,
	"PSP_OUTPUT":          policy,
	"TCP_AUTH_HDR":        policy,
	"TCP_MD5NOTFOUND":     policy,
	"TCP_MD5UNEXPECTED":   policy,
	"TCP_MD5FAILURE":      policy,
	"TCP_AONOTFOUND":      policy,
	"TCP_AOUNEXPECTED":    policy,
	"TCP_AOKEYNOTFOUND":   policy,
	"TCP_AOFAILURE":       policy,
	"IPV6_NDISC_FRAG":     policy, // suppress_frag_ndisc
	"TCP_MINTTL":          ttl,    // below what the socket asks for (IP_MINTTL)
	"SOCKET_RCVBUFF":      buffer,
	"SOCKET_BACKLOG":      buffer,
	"PROTO_MEM":           buffer,
	"TCP_ZEROWINDOW":      buffer, // the reader is behind, and the sender did not heed it
	"TCP_LISTEN_OVERFLOW": buffer,
	"TCP_OFO_QUEUE_PRUNE": buffer,
	"NEIGH_QUEUEFULL":     buffer,
	"QDISC_DROP":          buffer,
	"QDISC_OVERLIMIT":     buffer,
	"QDISC_CONGESTED":     buffer,
	"CAKE_FLOOD":          buffer,
	"FQ_BAND_LIMIT":       buffer,
	"FQ_HORIZON_LIMIT":    buffer,
	"FQ_FLOW_LIMIT":       buffer,
	"DUALPI2_STEP_DROP":   buffer,
	"CPU_BACKLOG":         buffer,
	"FULL_RING":           buffer,
	"NOMEM":               buffer,
	"PFMEMALLOC":          buffer,

	"NO_SOCKET":  noSocket,
	"IP_NOPROTO": noSocket,

	"IP_RPFILTER":             routing,
	"IP_OUTNOROUTES":          routing,
	"IP_INNOROUTES":           routing,
	"IP_INADDRERRORS":         routing,
	"IP_LOCAL_SOURCE":         routing,
	"IP_INVALID_SOURCE":       routing,
	"IP_LOCALNET":             routing,
	"IP_INVALID_DEST":         routing,
	"IPV6DISABLED":            routing,
	"NEIGH_CREATEFAIL":        routing,
	"NEIGH_FAILED":            routing,
	"NEIGH_DEAD":              routing,
	"NEIGH_HH_FILLFAIL":       routing,
	"UNICAST_IN_L2_MULTICAST": routing,
	"NO_TX_TARGET":            routing,
	"VXLAN_VNI_NOT_FOUND":     routing,
	"LOCAL_MAC":               routing,
	"TUNNEL_TXINFO":           routing,
	"RECURSION_LIMIT":         routing,

	"PKT_TOO_BIG": mtu,

	"TCP_CSUM":  checksum,
	"UDP_CSUM":  checksum,
	"IP_CSUM":   checksum,
	"ICMP_CSUM": checksum,
	"SKB_CSUM":  checksum,

	"PKT_TOO_SMALL":            malformed,
	"IP_INHDR":                 malformed, // with a TTL that has expired: ttl, see Reason
	"HDR_TRUNC":                malformed,
	"DEV_HDR":                  malformed,
	"IPV6_BAD_EXTHDR":          malformed,
	"IPV6_NDISC_HOP_LIMIT":     malformed, // an attempt from beyond the link
	"IPV6_NDISC_BAD_CODE":      malformed,
	"IPV6_NDISC_BAD_OPTIONS":   malformed,
	"VXLAN_INVALID_HDR":        malformed,
	"MAC_INVALID_SOURCE":       malformed,
	"IP_TUNNEL_ECN":            malformed,
	"CAN_RX_INVALID_FRAME":     malformed,
	"CANFD_RX_INVALID_FRAME":   malformed,
	"CANXL_RX_INVALID_FRAME":   malformed,
	"TCP_FLAGS":                malformed,
	"INVALID_PROTO":            protocol,
	"UNHANDLED_PROTO":          protocol,
	"TCP_ABORT_ON_DATA":        protocol, // data for a socket that was closed: lost
	"TCP_OVERWINDOW":           protocol,
	"TCP_RFC7323_PAWS":         protocol,
	"TCP_RFC7323_TW_PAWS":      protocol,
	"TCP_RFC7323_TSECR":        protocol,
	"TCP_INVALID_SEQUENCE":     protocol,
	"TCP_INVALID_END_SEQUENCE": protocol,
	"TCP_INVALID_ACK_SEQUENCE": protocol,
	"TCP_INVALID_SYN":          protocol,
	"TCP_CLOSE":                protocol,
	"TCP_FASTOPEN":             protocol,
	"TCP_TOO_OLD_ACK":          protocol,
	"TCP_ACK_UNSENT_DATA":      protocol,
	"FRAG_REASM_TIMEOUT":       protocol,
	"FRAG_TOO_FAR":             protocol,

	"TCP_OLD_DATA":            benign, // received before: a retransmission that was not needed
	"TCP_OLD_SEQUENCE":        benign, // the same, by its sequence number alone
	"TCP_OFOMERGE":            benign, // received before, and still waiting for what comes before it
	"TCP_OFO_DROP":            benign, // received before, meanwhile in order
	"TCP_OLD_ACK":             benign, // in the window, but overtaken by a later one
	"TCP_RFC7323_PAWS_ACK":    benign, // the same, by its timestamp
	"TCP_RESET":               benign, // a reset did what it should; resets are counted as such
	"DUP_FRAG":                benign,
	"QUEUE_PURGE":             benign, // left in a queue when its owner ended: of each closed connection the peer's FIN
	"OTHERHOST":               benign, // a bridge floods what it does not know
	"IPV6_NDISC_NS_OTHERHOST": benign, // asks for somebody else's address
	"VXLAN_ENTRY_EXISTS":      benign,
	"UNIX_DISCONNECT":         benign,
	"UNIX_SKIP_OOB":           benign,
}

// leftOut are the reasons for which no packet was lost: the last one is that of a packet socket without space, as our
// own captures are, and concerns a copy.
var leftOut = []string{"SKB_NOT_DROPPED_YET", "SKB_CONSUMED", "PACKET_SOCK_ERROR"}

// subsystems are those whose reasons have numbers only, by enum skb_drop_reason_subsys: their names are not in the
// kernel's own type information but in that of modules.
var subsystems = map[uint32]string{1: "MAC80211_UNUSABLE", 2: "OPENVSWITCH"}

// Reason is the name of a reason, as in the rows of drops and of flows, and its class. It is safe for concurrent use.
func (c *Collector) Reason(number uint16) (name string, class v1alpha1.Drop_Class) {
	return reasonOf(c.kernel.Reasons, bpf.Code(number))
}

func reasonOf(names map[uint32]string, code bpf.Code) (name string, class v1alpha1.Drop_Class) {
	number := code.Number()
	if name = names[number]; name == "" {
		name = unknown(number)
	}
	switch class, known := classes[name]; {
	case code.Expired():
		return name, ttl
	case code.Stray():
		return name, benign
	case known:
		return name, class
	}
	return name, other
}

func unknown(number uint32) string {
	if subsystem, known := subsystems[number>>16]; known {
		return fmt.Sprintf("%s_%d", subsystem, number&0xffff)
	}
	return fmt.Sprintf("REASON_%d", number)
}

// settings are what programs need to know of the running kernel's reasons.
func settings(names map[uint32]string, flows bool) bpf.SettingsOf {
	var s bpf.SettingsOf
	if flows {
		s.Flows = 1
	}
	byName := map[string]bpf.Verdict{
		"IP_INHDR": bpf.Expires,
		// The last acknowledgments of connections, of which one end may have been closed or reset before the other.
		"NOT_SPECIFIED": bpf.Strays, "NO_SOCKET": bpf.Strays, "TCP_CLOSE": bpf.Strays,
	}
	for name, class := range classes {
		if class == benign {
			byName[name] = bpf.Benign
		}
	}
	for _, name := range leftOut {
		byName[name] = bpf.LeftOut
	}
	for number, name := range names {
		if number < uint32(len(s.Verdicts)) {
			s.Verdicts[number] = byName[name]
		}
	}
	return s
}
