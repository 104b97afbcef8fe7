package networkflows

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/directory"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
)

// A place is where a flow is: in which instance of which node's history, and at which position.
type place struct {
	node               string
	instance, position int64
}

// hashBytes is how much of a hash of the node's name is in a flow's name.
const hashBytes = 4

func nodeHash(node string) string {
	sum := sha256.Sum256([]byte(node))
	return hex.EncodeToString(sum[:hashBytes])
}

// name is the flow's name, a DNS label.
func (p place) name() string {
	return nodeHash(p.node) + "-" + strconv.FormatInt(p.instance, 10) + "-" + strconv.FormatInt(p.position, 10)
}

// parseName reads what name wrote; of the node it gives the hash.
func parseName(name string) (hash string, instance, position int64, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[0]) != 2*hashBytes {
		return "", 0, 0, false
	}
	instance, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || instance < 0 {
		return "", 0, 0, false
	}
	position, err = strconv.ParseInt(parts[2], 10, 64)
	if err != nil || position <= 0 {
		return "", 0, 0, false
	}
	if (place{instance: instance, position: position}).name()[2*hashBytes:] != name[2*hashBytes:] {
		return "", 0, 0, false // Another spelling, as with leading zeros.
	}
	return parts[0], instance, position, true
}

// uidSpace is the name space (RFC 9562, section 6.6) of our UIDs, a random number chosen once and for ever.
var uidSpace = []byte{0x1b, 0xd0, 0x6a, 0x77, 0x43, 0x90, 0x4c, 0x2e, 0xa8, 0x0b, 0x5f, 0x19, 0xe3, 0x6c, 0x74, 0xd2}

// uid is of version 8 (RFC 9562, section 5.8): the same on every replica.
func uid(node, name string) types.UID {
	sum := sha256.Sum256([]byte(string(uidSpace) + node + "/" + name))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}

// meta is the metadata of a flow of a pod.
func (p place) meta(pod *live.Record, began time.Time) metav1.ObjectMeta {
	name := p.name()
	return metav1.ObjectMeta{
		Name: name, Namespace: pod.Namespace, UID: uid(p.node, name), Labels: maps.Clone(pod.Labels),
		CreationTimestamp: metav1.NewTime(began.Truncate(time.Second)),
	}
}

// makeObject is the API object of a row that the agent of a node sent about a pod. It fails for a row that makes no sense.
func makeObject(names Names, at place, pod *live.Record, flow *agentv1.Flow) (*v1alpha1.NetworkFlow, error) {
	own, ok := netip.AddrFromSlice(flow.PodAddress)
	if !ok {
		return nil, fmt.Errorf("the pod's address has %d bytes", len(flow.PodAddress))
	}
	peer, ok := netip.AddrFromSlice(flow.PeerAddress)
	if !ok {
		return nil, fmt.Errorf("the peer's address has %d bytes", len(flow.PeerAddress))
	}
	began := time.Unix(0, flow.StartUnixNano).UTC()
	object := &v1alpha1.NetworkFlow{
		ObjectMeta: at.meta(pod, began),
		Pod: v1alpha1.FlowPod{
			Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.HostUID), Workload: workloadOf(pod),
			Address: own.Unmap().String(), Port: flow.PodPort,
		},
		Protocol:       protocolOf(flow.Protocol),
		Direction:      directions[flow.Direction],
		Verdict:        verdicts[flow.Verdict],
		DroppedPackets: flow.Dropped,
		DropReason:     flow.DropReason,
		Receive:        countersOf(flow.Receive, flow.Protocol, flow.ReceiveFlags),
		Transmit:       countersOf(flow.Transmit, flow.Protocol, flow.TransmitFlags),
		StartTime:      microTime(flow.StartUnixNano),
		LastTime:       microTime(flow.LastUnixNano),
		Ended:          flow.Ended,
		NodeName:       at.node,
	}
	if flow.Dropped > 0 {
		object.DropClass = dropClasses[flow.DropClass]
	}
	if flow.HandshakeNano > 0 {
		object.Handshake = &metav1.Duration{Duration: time.Duration(flow.HandshakeNano)}
	}
	object.Peer = peerOf(names, peer, flow.PeerPort, object.Protocol, began)
	object.Peer.DNSName = flow.PeerName
	if translated, ok := netip.AddrFromSlice(flow.TranslatedAddress); ok {
		to := peerOf(names, translated, flow.TranslatedPort, object.Protocol, began)
		object.Translated = &to
	}
	return object, nil
}

// peerOf says what an address was at a time. Of a pod in another namespace no more is told than here.
func peerOf(names Names, address netip.Addr, port int32, protocol string, at time.Time) v1alpha1.FlowPeer {
	peer := v1alpha1.FlowPeer{Kind: v1alpha1.PeerExternal, Address: address.Unmap().String(), Port: port}
	owner, ok := names.Owner(address.Unmap(), at)
	switch {
	case !ok:
	case owner.Pod != nil:
		peer.Kind, peer.Namespace, peer.Name = v1alpha1.PeerPod, owner.Pod.Namespace, owner.Pod.Name
		peer.Workload, peer.Node = workloadOf(owner.Pod), owner.Pod.Node
	case owner.Service != nil:
		peer.Kind, peer.Namespace, peer.Name = v1alpha1.PeerService, owner.Service.Namespace, owner.Service.Name
		peer.PortName = owner.Service.PortName(protocol, port)
	default:
		peer.Kind, peer.Name, peer.Node = v1alpha1.PeerNode, owner.Node, owner.Node
	}
	return peer
}

func workloadOf(pod *live.Record) *v1alpha1.FlowWorkload {
	kind, name := directory.Workload(pod)
	if kind == "" {
		return nil
	}
	return &v1alpha1.FlowWorkload{Kind: kind, Name: name}
}

var (
	directions = map[agentv1.Direction]v1alpha1.FlowDirection{
		agentv1.Direction_DIRECTION_TRANSMIT: v1alpha1.Egress, agentv1.Direction_DIRECTION_RECEIVE: v1alpha1.Ingress,
	}
	verdicts = map[agentv1.Verdict]v1alpha1.FlowVerdict{
		agentv1.Verdict_VERDICT_FORWARDED: v1alpha1.Forwarded, agentv1.Verdict_VERDICT_DROPPED: v1alpha1.Dropped,
		agentv1.Verdict_VERDICT_REJECTED: v1alpha1.Rejected,
	}
	dropClasses = map[agentv1.Drop_Class]v1alpha1.DropClass{
		agentv1.Drop_CLASS_POLICY: v1alpha1.DropPolicy, agentv1.Drop_CLASS_BUFFER: v1alpha1.DropBuffer,
		agentv1.Drop_CLASS_NO_SOCKET: v1alpha1.DropNoSocket, agentv1.Drop_CLASS_ROUTING: v1alpha1.DropRouting,
		agentv1.Drop_CLASS_TTL: v1alpha1.DropTTL, agentv1.Drop_CLASS_MTU: v1alpha1.DropMTU,
		agentv1.Drop_CLASS_CHECKSUM: v1alpha1.DropChecksum, agentv1.Drop_CLASS_MALFORMED: v1alpha1.DropMalformed,
		agentv1.Drop_CLASS_PROTOCOL: v1alpha1.DropProtocol, agentv1.Drop_CLASS_OTHER: v1alpha1.DropOther,
		agentv1.Drop_CLASS_BENIGN: v1alpha1.DropBenign, agentv1.Drop_CLASS_UNSPECIFIED: v1alpha1.DropOther,
	}
)

func protocolOf(number int32) string {
	for name, known := range v1alpha1.FlowProtocols {
		if known == number {
			return name
		}
	}
	return strconv.Itoa(int(number))
}

// flags are TCP's, from the lowest bit of the header's byte upwards.
var flags = []v1alpha1.FlowTCPFlag{
	v1alpha1.FlagFIN, v1alpha1.FlagSYN, v1alpha1.FlagRST, v1alpha1.FlagPSH, v1alpha1.FlagACK, v1alpha1.FlagURG, v1alpha1.FlagECE, v1alpha1.FlagCWR,
}

func countersOf(counters *agentv1.Counters, protocol, seen int32) v1alpha1.FlowCounters {
	result := v1alpha1.FlowCounters{Packets: counters.GetPackets(), Bytes: counters.GetBytes()}
	if protocol != v1alpha1.FlowProtocols["TCP"] {
		return result
	}
	for bit, flag := range flags {
		if seen&(1<<bit) != 0 {
			result.TCPFlags = append(result.TCPFlags, flag)
		}
	}
	return result
}

func microTime(unixNano int64) *metav1.MicroTime {
	if unixNano == 0 {
		return nil
	}
	return &metav1.MicroTime{Time: time.Unix(0, unixNano).UTC()}
}
