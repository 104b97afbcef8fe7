// Package filtertext writes what a capture chooses packets by, its filter and its match, as one expression in the
// grammar of tcpdump (pcap-filter(7)). Servers compile it when a capture is created, to refuse what cannot be, and
// again when it starts, with the addresses of that moment.
package filtertext

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A Kind is what a name is of.
type Kind string

const (
	Pod     Kind = "pod"
	Service Kind = "service"
	// Host is a name that stands in a filter without saying of what it is: of a Service, or if there is none of a pod.
	Host Kind = "host"
)

// Resources are those of the core API that a name of this kind may be of: its addresses are for who may get them all.
func (k Kind) Resources() []string {
	switch k {
	case Pod:
		return []string{"pods"}
	case Service:
		return []string{"services"}
	}
	return []string{"services", "pods"}
}

// Resolve answers with the addresses of a pod, or the cluster addresses of a Service. It is an error that there is
// none by that name, or that it has no address, and the error says so in words for users.
type Resolve func(kind Kind, namespace, name string) ([]netip.Addr, error)

// Text is the expression of settings that are valid: "" for every packet. Errors are of resolve alone, each a
// *field.Error at the peer's path below spec. Names inside settings.Filter stay names.
//
// The filter comes first, so that what it says of VLAN tags and MPLS labels holds for match too, and in parentheses.
// Callers have to know that it compiles by itself, or it could close them.
func Text(settings *v1alpha1.CaptureSettings, resolve Resolve) (string, error) {
	match, err := anyOf(settings.Match, resolve)
	if err != nil {
		return "", err
	}
	filter := strings.TrimSpace(settings.Filter)
	switch {
	case match == "":
		return filter, nil
	case filter == "":
		return match, nil
	}
	return "(" + filter + ") and (" + match + ")", nil
}

// anyOf is "" when an item, or the absence of all, lets every packet pass.
func anyOf(items []v1alpha1.CaptureMatch, resolve Resolve) (string, error) {
	var texts []string
	everything := len(items) == 0
	for i := range items {
		text, err := allOf(&items[i], resolve, field.NewPath("spec", "match").Index(i))
		if err != nil {
			return "", err
		}
		everything = everything || text == ""
		texts = append(texts, text)
	}
	if everything {
		return "", nil
	}
	return disjunction(texts), nil
}

// allOf is one item: its fields joined by and.
func allOf(item *v1alpha1.CaptureMatch, resolve Resolve, path *field.Path) (string, error) {
	var texts []string
	if len(item.Protocols) > 0 {
		texts = append(texts, parenthesized(protocols(item.Protocols)))
	}
	if len(item.Ports) > 0 {
		texts = append(texts, parenthesized(ports(item.Ports)))
	}
	nets, err := peers(item.Peers, resolve, path.Child("peers"))
	if err != nil {
		return "", err
	}
	if text := remote(item.Direction, nets); text != "" {
		texts = append(texts, text)
	}
	return strings.Join(texts, " and "), nil
}

// remote says which way packets go and who the other end is: the source of what comes in, the destination of what
// goes out. Without the direction, an address range that holds both ends would match everything.
func remote(direction v1alpha1.CaptureDirection, nets []string) string {
	in, out := "inbound", "outbound"
	if len(nets) > 0 {
		in += " and " + parenthesized(prefixed("src net ", nets))
		out += " and " + parenthesized(prefixed("dst net ", nets))
	}
	switch {
	case direction == v1alpha1.CaptureIngress:
		return in
	case direction == v1alpha1.CaptureEgress:
		return out
	case len(nets) == 0:
		return ""
	}
	return "((" + in + ") or (" + out + "))"
}

var protocolWords = map[v1alpha1.CaptureProtocol]string{
	v1alpha1.CaptureTCP: "tcp", v1alpha1.CaptureUDP: "udp", v1alpha1.CaptureSCTP: "sctp",
	v1alpha1.CaptureICMP: "icmp", v1alpha1.CaptureICMPv6: "icmp6",
}

func protocols(all []v1alpha1.CaptureProtocol) []string {
	words := make([]string, 0, len(all))
	for _, one := range all {
		words = append(words, protocolWords[one])
	}
	return words
}

func ports(all []v1alpha1.CapturePort) []string {
	words := make([]string, 0, len(all))
	for _, one := range all {
		first := strconv.Itoa(int(one.Port))
		if one.EndPort == nil || *one.EndPort == one.Port {
			words = append(words, "port "+first)
			continue
		}
		words = append(words, "portrange "+first+"-"+strconv.Itoa(int(*one.EndPort)))
	}
	return words
}

// peers are the address ranges of all peers, as netip writes them, so that nothing of a user's own text gets through.
func peers(all []v1alpha1.CapturePeer, resolve Resolve, path *field.Path) ([]string, error) {
	var nets []string
	for i, peer := range all {
		prefixes, err := peerPrefixes(peer, resolve, path.Index(i))
		if err != nil {
			return nil, err
		}
		for _, prefix := range prefixes {
			nets = append(nets, prefix.String())
		}
	}
	return nets, nil
}

func peerPrefixes(peer v1alpha1.CapturePeer, resolve Resolve, path *field.Path) ([]netip.Prefix, error) {
	switch {
	case peer.Pod != nil:
		return resolved(Pod, peer.Pod, resolve, path.Child("pod"))
	case peer.Service != nil:
		return resolved(Service, peer.Service, resolve, path.Child("service"))
	}
	prefix, err := ParseCIDR(peer.CIDR)
	if err != nil {
		return nil, field.Invalid(path.Child("cidr"), peer.CIDR, err.Error())
	}
	return []netip.Prefix{prefix}, nil
}

func resolved(kind Kind, name *v1alpha1.CapturePeerName, resolve Resolve, path *field.Path) ([]netip.Prefix, error) {
	addresses, err := resolve(kind, name.Namespace, name.Name)
	if err == nil && len(addresses) == 0 {
		err = fmt.Errorf("%s %s/%s has no address", kind, name.Namespace, name.Name)
	}
	if err != nil {
		return nil, field.Invalid(path, name.Namespace+"/"+name.Name, err.Error())
	}
	prefixes := make([]netip.Prefix, 0, len(addresses))
	for _, address := range addresses {
		address = address.Unmap().WithZone("")
		prefixes = append(prefixes, netip.PrefixFrom(address, address.BitLen()))
	}
	return prefixes, nil
}

// ParseCIDR reads an address or a range of them. The error says what to write instead.
func ParseCIDR(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" && !address.Is4In6() {
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil || prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("must be an address or a range such as 192.0.2.0/24 or 2001:db8::/32")
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits set behind its prefix; write %s for the range or %s for the address", prefix.Masked(), prefix.Addr())
	}
	return prefix, nil
}

func prefixed(prefix string, words []string) []string {
	all := make([]string, 0, len(words))
	for _, word := range words {
		all = append(all, prefix+word)
	}
	return all
}

// disjunction joins conjunctions.
func disjunction(texts []string) string {
	if len(texts) == 1 {
		return texts[0]
	}
	return "(" + strings.Join(texts, ") or (") + ")"
}

// parenthesized joins terms by or.
func parenthesized(terms []string) string {
	if len(terms) == 1 {
		return terms[0]
	}
	return "(" + strings.Join(terms, " or ") + ")"
}
