package interfaces

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(t *testing.T, n *fakepod.Namespace, c *Collector) *v1alpha1.NodeStats {
	t.Helper()
	row := &v1alpha1.NodeStats{Measurement: &v1alpha1.Measurement{}}
	n.Do(func() {
		if err := c.ReadNode(row); err != nil {
			t.Error(err)
		}
	})
	return row
}

func uplinks(row *v1alpha1.NodeStats) (names []string) {
	for _, iface := range row.Interfaces {
		if iface.Uplink {
			names = append(names, iface.Name)
		}
	}
	slices.Sort(names)
	return names
}

// A node like many: two uplinks, a bridge for pods, a pod's end, a tunnel.
func TestUplinks(t *testing.T) {
	fakepod.NeedRoot(t)
	node, outside, pod := fakepod.NewNamespace(t), fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, outside, "eth0", "a", 1)
	fakepod.Connect(node, outside, "eth1", "b", 2)
	fakepod.Connect(node, pod, "veth1", "eth0", 3)
	node.Run("ip", "link", "add", "name", "cni0", "type", "bridge")
	node.Run("ip", "addr", "add", "10.244.0.1/24", "dev", "cni0")
	node.Run("ip", "link", "set", "dev", "veth1", "master", "cni0")
	node.Run("ip", "link", "add", "name", "vxlan0", "type", "vxlan", "id", "1", "dstport", "4789", "local", "10.99.1.1")
	node.Run("ip", "link", "add", "name", "mac0", "link", "eth0", "type", "macvlan")
	node.Run("ip", "addr", "add", "10.98.0.1/24", "dev", "mac0")
	node.Run("ip", "route", "add", "default", "via", "10.99.1.2")

	ip := netip.MustParseAddr
	for _, test := range []struct {
		name    string
		nodeIPs []netip.Addr
		want    []string
	}{
		{"the default route's", nil, []string{"eth0"}},
		{"the node's address on another", []netip.Addr{ip("10.99.2.1")}, []string{"eth0", "eth1"}},
		{"the node's IPv6 address on another", []netip.Addr{ip("fd99:2::1")}, []string{"eth0", "eth1"}},
		{"the node's address upon an uplink", []netip.Addr{ip("10.98.0.1")}, []string{"eth0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := uplinks(read(t, node, New(test.nodeIPs))); !slices.Equal(got, test.want) {
				t.Errorf("uplinks %v, want %v", got, test.want)
			}
		})
	}

	node.Run("ip", "route", "del", "default")
	node.Run("ip", "-6", "route", "add", "default", "nexthop", "via", "fd99:1::2", "nexthop", "via", "fd99:2::2")
	if got := uplinks(read(t, node, New(nil))); !slices.Equal(got, []string{"eth0", "eth1"}) {
		t.Errorf("with an IPv6 default route of two paths: uplinks %v", got)
	}
}

func TestBridgeUponUplinkIsNotCountedTwice(t *testing.T) {
	link := func(index, master, parent int) netlink.Link {
		attrs := netlink.NewLinkAttrs()
		attrs.Index, attrs.MasterIndex, attrs.ParentIndex = index, master, parent
		return &netlink.GenericLink{LinkAttrs: attrs, LinkType: "device"}
	}
	// 1 and 2 are ports of bond 3, which lies under VLAN 4 and in bridge 5.
	links := []netlink.Link{link(1, 3, 0), link(2, 3, 0), link(3, 5, 0), link(4, 0, 3), link(5, 0, 0)}
	for _, test := range []struct{ candidates, want []int }{
		{[]int{5}, []int{5}},
		{[]int{3, 5}, []int{3}},
		{[]int{1, 5}, []int{1}},
		{[]int{4, 3}, []int{3}},
		{[]int{4, 5}, []int{4, 5}},
	} {
		candidates := map[int]bool{}
		for _, index := range test.candidates {
			candidates[index] = true
		}
		var got []int
		for index := range lowest(links, candidates) {
			got = append(got, index)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("of %v: %v, want %v", test.candidates, got, test.want)
		}
	}
}

func TestCountersAndRates(t *testing.T) {
	fakepod.NeedRoot(t)
	const age, sent, size = 6 * time.Second, 40, 972 // a sample that is older than 10 s serves no longer
	node, peer := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, peer, "eth0", "eth0", 1)
	c := New(nil)
	eth0 := func() (row *v1alpha1.NodeStats, found *v1alpha1.Interface) {
		row = read(t, node, c)
		for _, iface := range row.Interfaces {
			if iface.Name == "eth0" {
				found = iface
			}
		}
		return row, found
	}
	var first *v1alpha1.Interface
	fakepod.Eventually(t, "eth0 going up", func() bool { // the kernel takes up to a second to say so
		_, first = eth0()
		return first != nil && first.State == "up"
	})
	var sampled time.Time
	var row *v1alpha1.NodeStats
	var last *v1alpha1.Interface
	for late := true; late; late = time.Since(sampled) >= rates.Longest-age {
		sampled = time.Now()
		node.Do(func() { c.Sample(sampled.Add(-age)) })
		peer.Do(func() { sendUDP(t, "10.99.1.1:7000", sent, size) })
		row, last = eth0()
	}
	if last.Kind != "veth" || last.Mtu != 1500 {
		t.Fatalf("eth0 = %v", last)
	}
	if last.Receive.Packets < sent || last.Receive.Bytes < sent*(14+28+size) {
		t.Errorf("received %v, want at least %d packets of %d bytes", last.Receive, sent, 14+28+size)
	}
	window := time.Duration(row.Measurement.WindowNano)
	if window < age || window > age+time.Since(sampled) {
		t.Errorf("window %v, want %v and what has passed since the sample", window, age)
	}
	// The peer may have sent something by itself since the first row: before the sample or after it.
	most := last.Receive.Packets - first.Receive.Packets
	if got := float64(last.Receive.Rates.GetMilliPackets()) * window.Seconds() / 1000; got < sent-1 || got > float64(most) {
		t.Errorf("%v packets in the window, want %d", got, sent)
	}
}

func sendUDP(t *testing.T, to string, count, size int) {
	socket, err := net.Dial("udp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer socket.Close()
	for sent := 0; sent < count; {
		if _, err := socket.Write(make([]byte, size)); err == nil {
			sent++ // nobody listens, and a write that is told of it sends nothing
		}
	}
}

func BenchmarkNodeOf110Pods(b *testing.B) {
	fakepod.NeedRoot(b)
	node, pods := fakepod.NewNamespace(b), fakepod.NewNamespace(b)
	for i := range 110 {
		node.Run("ip", "link", "add", "name", fmt.Sprint("veth", i), "type", "veth", "peer", "name", fmt.Sprint("eth", i), "netns", fmt.Sprint(pods.PID))
	}
	c := New(nil)
	node.Do(func() {
		for b.Loop() {
			if err := c.ReadNode(&v1alpha1.NodeStats{Measurement: &v1alpha1.Measurement{}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The kernel takes any bytes for a name, and the wire only UTF-8.
func TestNameThatIsNoText(t *testing.T) {
	fakepod.NeedRoot(t)
	node, outside := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, outside, "eth0", "a", 1)
	node.Run("ip", "link", "set", "dev", "eth0", "name", "eth\xff")
	row := read(t, node, New(nil))
	named(t, row, "eth?")
	if _, err := proto.Marshal(row); err != nil {
		t.Errorf("%v", err)
	}
}
