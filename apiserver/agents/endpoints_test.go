package agents

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

func objectRef(uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", UID: uid}
}

func TestPlacesByNode(t *testing.T) {
	yes, no := new(true), new(false)
	endpoint := func(node, pod string, c discoveryv1.EndpointConditions, addresses ...string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: &node, TargetRef: objectRef(types.UID(pod)), Conditions: c, Addresses: addresses}
	}
	ports := func(p int32) []discoveryv1.EndpointPort { return []discoveryv1.EndpointPort{{Port: &p}} }
	isReady := discoveryv1.EndpointConditions{Ready: yes, Serving: yes, Terminating: no}
	terminating := discoveryv1.EndpointConditions{Ready: no, Serving: yes, Terminating: yes}
	notServing := discoveryv1.EndpointConditions{Ready: no, Serving: no}
	ended := discoveryv1.EndpointConditions{Ready: no, Serving: no, Terminating: yes}

	for _, test := range []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"no slices", nil, ""},
		{"both families", []*discoveryv1.EndpointSlice{
			{AddressType: discoveryv1.AddressTypeIPv6, Ports: ports(1), Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", isReady, "fd00::1")}},
			{AddressType: discoveryv1.AddressTypeIPv4, Ports: ports(1), Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", isReady, "10.0.0.1")}},
		}, "n=10.0.0.1:1/p,[fd00::1]:1/p"},
		{"the port for metrics, too", []*discoveryv1.EndpointSlice{{
			Ports:     []discoveryv1.EndpointPort{{Name: new("metrics"), Port: new(int32(2))}, {Name: new("grpc"), Port: new(int32(1))}},
			Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", isReady, "10.0.0.1")},
		}}, "n=10.0.0.1:1/p"},
		{"ready before serving", []*discoveryv1.EndpointSlice{{Ports: ports(1), Endpoints: []discoveryv1.Endpoint{
			endpoint("n", "old", terminating, "10.0.0.1"), endpoint("n", "new", isReady, "10.0.0.2"),
		}}}, "n=10.0.0.2:1/new"},
		{"serving when none is ready", []*discoveryv1.EndpointSlice{{Ports: ports(1), Endpoints: []discoveryv1.Endpoint{
			endpoint("n", "old", terminating, "10.0.0.1"), endpoint("n", "new", notServing, "10.0.0.2"),
		}}}, "n=10.0.0.1:1/old"},
		{"not serving, as far as the control plane knows", []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{
			endpoint("n", "p", notServing, "10.0.0.1")}}}, "n=10.0.0.1:10261/p"},
		{"ended", []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", ended, "10.0.0.1")}}}, ""},
		{"unknown conditions", []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", discoveryv1.EndpointConditions{}, "10.0.0.1")}}},
			"n=10.0.0.1:10261/p"},
		{"in two slices at once", []*discoveryv1.EndpointSlice{
			{Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", isReady, "10.0.0.1")}},
			{Endpoints: []discoveryv1.Endpoint{endpoint("n", "p", isReady, "10.0.0.1")}},
		}, "n=10.0.0.1:10261/p"},
		{"without a node, or with a name for an address", []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}}, endpoint("", "p", isReady, "10.0.0.2"), endpoint("n", "p", isReady, "agent.example"),
		}}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for node, places := range placesByNode(test.slices) {
				var texts []string
				for _, p := range places {
					texts = append(texts, fmt.Sprintf("%v/%s", p.address, p.pod))
				}
				got = append(got, node+"="+strings.Join(texts, ","))
			}
			slices.Sort(got)
			if text := strings.Join(got, " "); text != test.want {
				t.Errorf("places are %q, want %q", text, test.want)
			}
		})
	}
}
