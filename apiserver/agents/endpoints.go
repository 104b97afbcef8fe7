package agents

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// rank says how much is to be expected of an endpoint; the highest of a node are used and the others are not.
type rank int

const (
	unusable rank = iota
	// known endpoints are not ready: the agent starts, or its node has lost touch with the control plane, which
	// is not to say with us.
	known
	// serving endpoints answer, though not ready: most often because they are terminating.
	serving
	ready
)

// place is one address of an agent, as the control plane states it.
type place struct {
	address netip.AddrPort
	// pod is the UID of the agent's pod: agents share their node's network, so a new pod has the old address.
	pod  string
	rank rank
}

// placesByNode reads where the agents are out of the EndpointSlices of their Service. A node with two address
// families, or for a moment with two agents, has several places, best first and otherwise in a fixed order.
func placesByNode(slicesOfService []*discoveryv1.EndpointSlice) map[string][]place {
	nodes := map[string][]place{}
	for _, slice := range slicesOfService {
		port := portOf(slice)
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if endpoint.NodeName == nil || *endpoint.NodeName == "" {
				continue
			}
			nodes[*endpoint.NodeName] = append(nodes[*endpoint.NodeName], placesOf(endpoint, port)...)
		}
	}
	for node, places := range nodes {
		if nodes[node] = best(places); len(nodes[node]) == 0 {
			delete(nodes, node)
		}
	}
	return nodes
}

func placesOf(endpoint *discoveryv1.Endpoint, port uint16) []place {
	r := rankOf(endpoint.Conditions)
	if r == unusable {
		return nil
	}
	var pod string
	if endpoint.TargetRef != nil {
		pod = string(endpoint.TargetRef.UID)
	}
	var places []place
	for _, text := range endpoint.Addresses {
		// Slices of type FQDN do not parse: an agent is never found through DNS.
		if address, err := netip.ParseAddr(text); err == nil {
			places = append(places, place{netip.AddrPortFrom(address.Unmap(), port), pod, r})
		}
	}
	return places
}

// best keeps the places of the highest rank, without repetitions: one endpoint may be in two slices while it
// moves between them.
func best(places []place) []place {
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), a.address.Compare(b.address), cmp.Compare(a.pod, b.pod))
	})
	places = slices.Compact(places)
	for i := range places {
		if places[i].rank < places[0].rank {
			return places[:i]
		}
	}
	return places
}

// rankOf follows discovery.k8s.io/v1: an unknown ready means true, an unknown serving means the same as ready.
func rankOf(c discoveryv1.EndpointConditions) rank {
	isReady := c.Ready == nil || *c.Ready
	if isReady {
		return ready
	}
	if c.Serving != nil && *c.Serving {
		return serving
	}
	if c.Terminating != nil && *c.Terminating {
		return unusable
	}
	return known
}

// portName is what the Service calls the port for the API server; it has another one for metrics.
const portName = "grpc"

// portOf is the port of that name or, without one, the first.
func portOf(slice *discoveryv1.EndpointSlice) uint16 {
	var first uint16
	for _, p := range slice.Ports {
		tcp := p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
		if !tcp || p.Port == nil || *p.Port <= 0 || *p.Port > 65535 {
			continue
		}
		if p.Name != nil && *p.Name == portName {
			return uint16(*p.Port)
		}
		if first == 0 {
			first = uint16(*p.Port)
		}
	}
	if first == 0 {
		return agentv1.Port
	}
	return first
}
