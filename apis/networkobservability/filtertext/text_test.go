package filtertext

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

func resolve(kind Kind, namespace, name string) ([]netip.Addr, error) {
	switch fmt.Sprintf("%s %s/%s", kind, namespace, name) {
	case "pod shop/web-0":
		return []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("2001:db8::7")}, nil
	case "service shop/db":
		return []netip.Addr{netip.MustParseAddr("::ffff:10.96.0.9")}, nil
	case "service shop/headless":
		return nil, nil
	}
	return nil, errors.New("there is none")
}

func end(port int32) *int32 { return &port }

var (
	web, db = &v1alpha1.CapturePeerName{Namespace: "shop", Name: "web-0"}, &v1alpha1.CapturePeerName{Namespace: "shop", Name: "db"}

	texts = []struct {
		filter string
		match  []v1alpha1.CaptureMatch
		want   string
	}{
		{want: ""},
		{filter: " \n", want: ""},
		{filter: " tcp or udp\n", want: "tcp or udp"},
		{match: []v1alpha1.CaptureMatch{{Direction: "Ingress"}}, want: "inbound"},
		{match: []v1alpha1.CaptureMatch{{Direction: "Egress"}}, want: "outbound"},
		{match: []v1alpha1.CaptureMatch{{Protocols: []v1alpha1.CaptureProtocol{"TCP", "UDP", "SCTP", "ICMP", "ICMPv6"}}}, want: "(tcp or udp or sctp or icmp or icmp6)"},
		{match: []v1alpha1.CaptureMatch{{Ports: []v1alpha1.CapturePort{{Port: 80}, {Port: 8000, EndPort: end(8080)}, {Port: 9, EndPort: end(9)}}}}, want: "(port 80 or portrange 8000-8080 or port 9)"},
		{match: []v1alpha1.CaptureMatch{{Direction: "Ingress", Peers: []v1alpha1.CapturePeer{{CIDR: "192.0.2.0/24"}}}}, want: "inbound and src net 192.0.2.0/24"},
		{match: []v1alpha1.CaptureMatch{{Direction: "Egress", Peers: []v1alpha1.CapturePeer{{CIDR: "2001:DB8:0::1"}}}}, want: "outbound and dst net 2001:db8::1/128"},
		{match: []v1alpha1.CaptureMatch{{Peers: []v1alpha1.CapturePeer{{Service: db}}}}, want: "((inbound and src net 10.96.0.9/32) or (outbound and dst net 10.96.0.9/32))"},
		{
			match: []v1alpha1.CaptureMatch{{Direction: "Ingress", Peers: []v1alpha1.CapturePeer{{Pod: web}, {CIDR: "0.0.0.0/0"}}}},
			want:  "inbound and (src net 10.0.0.7/32 or src net 2001:db8::7/128 or src net 0.0.0.0/0)",
		},
		{
			filter: "vlan 5",
			match:  []v1alpha1.CaptureMatch{{Protocols: []v1alpha1.CaptureProtocol{"TCP"}, Ports: []v1alpha1.CapturePort{{Port: 80}}}, {Direction: "Egress"}},
			want:   "(vlan 5) and ((tcp and port 80) or (outbound))",
		},
		// An item that lets everything pass leaves nothing to be said.
		{filter: "udp", match: []v1alpha1.CaptureMatch{{Direction: "Egress"}, {}}, want: "udp"},
	}
)

func TestText(t *testing.T) {
	for _, test := range texts {
		text, err := Text(&v1alpha1.CaptureSettings{Filter: test.filter, Match: test.match}, resolve)
		if err != nil || text != test.want {
			t.Errorf("%q with %+v is %q, %v, want %q", test.filter, test.match, text, err, test.want)
		}
	}
}

func TestUnresolved(t *testing.T) {
	for _, test := range []struct {
		peer v1alpha1.CapturePeer
		want string
	}{
		{v1alpha1.CapturePeer{Pod: &v1alpha1.CapturePeerName{Namespace: "shop", Name: "db"}}, `spec.match[1].peers[1].pod: Invalid value: "shop/db": there is none`},
		{v1alpha1.CapturePeer{Service: &v1alpha1.CapturePeerName{Namespace: "shop", Name: "headless"}}, `spec.match[1].peers[1].service: Invalid value: "shop/headless": service shop/headless has no address`},
		{v1alpha1.CapturePeer{CIDR: "10.0.0.1/8"}, `spec.match[1].peers[1].cidr: Invalid value: "10.0.0.1/8": has bits set behind its prefix; write 10.0.0.0/8 for the range or 10.0.0.1 for the address`},
	} {
		_, err := Text(&v1alpha1.CaptureSettings{Match: []v1alpha1.CaptureMatch{{Direction: "Ingress"}, {Peers: []v1alpha1.CapturePeer{{CIDR: "10.0.0.1"}, test.peer}}}}, resolve)
		var at *field.Error
		if !errors.As(err, &at) || err.Error() != test.want {
			t.Errorf("the error is %v, want %s", err, test.want)
		}
	}
}

// compile asks tcpdump, which is where the grammar comes from.
func compile(t *testing.T, text string) error {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "tcpdump", "-i", "lo", "-ddd", text).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// words are all that texts are made of, whatever values match has.
var words = regexp.MustCompile(`^([()]|(and|or|inbound|outbound|tcp|udp|sctp|icmp|icmp6)\b|port [0-9]+|portrange [0-9]+-[0-9]+|(src|dst) net [0-9a-f:.]+/[0-9]+| )*$`)

// TestCompiles: tcpdump compiles whatever filter and match say.
func TestCompiles(t *testing.T) {
	if err := compile(t, "tcp"); err != nil {
		t.Skipf("there is no tcpdump that may open lo: %v", err)
	}
	for _, test := range texts {
		if err := compile(t, test.want); err != nil {
			t.Errorf("%q: %v", test.want, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	all := []v1alpha1.CapturePeer{
		{CIDR: "192.0.2.0/24"}, {CIDR: "0.0.0.0/0"}, {CIDR: "10.1.2.3"}, {CIDR: "2001:db8::/32"}, {CIDR: "::/0"}, {CIDR: "fe80::1"},
		{Pod: web}, {Service: db},
	}
	for range 150 {
		settings := &v1alpha1.CaptureSettings{Filter: []string{"", "tcp", "vlan 5 or arp", "not host 10.0.0.1 or udp"}[random.IntN(4)]}
		for range random.IntN(4) {
			item := v1alpha1.CaptureMatch{Direction: []v1alpha1.CaptureDirection{"", "Ingress", "Egress"}[random.IntN(3)]}
			for _, protocol := range slices.Sorted(maps.Keys(protocolWords)) {
				if random.IntN(3) == 0 {
					item.Protocols = append(item.Protocols, protocol)
				}
			}
			for range random.IntN(4) {
				item.Peers = append(item.Peers, all[random.IntN(len(all))])
			}
			for range random.IntN(3) {
				item.Ports = append(item.Ports, v1alpha1.CapturePort{Port: 1 + random.Int32N(30000), EndPort: end(30000 + random.Int32N(35536))})
			}
			settings.Match = append(settings.Match, item)
		}
		text, err := Text(settings, resolve)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is both TCP and ARP, and tcpdump says so when it can tell.
		if err := compile(t, text); err != nil && !strings.Contains(err.Error(), "expression rejects all packets") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzText: what is written holds nothing but what we write.
func FuzzText(f *testing.F) {
	f.Add("192.0.2.0/24", "2001:db8::/32", "web-0", "TCP", "Ingress", int32(80), int32(90), uint8(0xff))
	f.Add("0.0.0.0/0 or tcp", "::ffff:1.2.3.4/120", "web-0) or (tcp", "tcp or udp", "in) or (", int32(-1), int32(0), uint8(0x5a))
	f.Add("fe80::1%eth0", "1.2.3.4/8", "", "ICMPv6", "Egress", int32(65535), int32(65536), uint8(3))
	f.Fuzz(func(t *testing.T, one, two, name, protocol, direction string, port, last int32, shape uint8) {
		pick := func(bit uint8) bool { return shape&(1<<bit) != 0 }
		var item v1alpha1.CaptureMatch
		if pick(0) {
			item.Direction = v1alpha1.CaptureDirection(direction)
		}
		if _, known := protocolWords[v1alpha1.CaptureProtocol(protocol)]; known && pick(1) {
			item.Protocols = []v1alpha1.CaptureProtocol{v1alpha1.CaptureProtocol(protocol)}
		}
		if pick(2) {
			item.Peers = append(item.Peers, v1alpha1.CapturePeer{CIDR: one})
		}
		if pick(3) {
			item.Peers = append(item.Peers, v1alpha1.CapturePeer{CIDR: two})
		}
		if pick(4) {
			item.Peers = append(item.Peers, v1alpha1.CapturePeer{Pod: &v1alpha1.CapturePeerName{Namespace: "shop", Name: name}})
		}
		if port > 0 && port <= last && last <= 65535 && pick(5) {
			item.Ports = []v1alpha1.CapturePort{{Port: port, EndPort: &last}, {Port: port}}
		}
		settings := &v1alpha1.CaptureSettings{Match: []v1alpha1.CaptureMatch{item}}
		if pick(6) {
			settings.Match = append(settings.Match, v1alpha1.CaptureMatch{Direction: v1alpha1.CaptureIngress})
		}
		text, err := Text(settings, resolve)
		if err != nil {
			return
		}
		if !words.MatchString(text) {
			t.Errorf("%+v became %q", settings.Match, text)
		}
		if strings.Count(text, "(") != strings.Count(text, ")") {
			t.Errorf("parentheses of %q", text)
		}
	})
}
