package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// bed is what the tests of exactness send between: a sink and two senders, one on the sink's node.
type bed struct {
	sink, near, far counted
}

func newBed(t *testing.T, c *cluster) bed {
	t.Helper()
	namespace, nodes := c.namespace(t), c.nodes(t)
	pods := c.start(t, namespace, sink("sink", nodes[0]), sink("near", nodes[0]), sink("far", nodes[1]))
	from := map[string]string{}
	for _, sender := range pods[1:] {
		from["from_"+sender.Name+"_ipv4"] = "ip saddr " + address(t, sender, "ipv4")
		from["from_"+sender.Name+"_ipv6"] = "ip6 saddr " + address(t, sender, "ipv6") + " ip6 nexthdr != icmpv6"
	}
	b := bed{c.count(t, pods[0], from), c.count(t, pods[1], nil), c.count(t, pods[2], nil)}
	// Neighbours are found before anything is counted: while they are not, datagrams are dropped on the way.
	for _, sender := range []counted{b.near, b.far} {
		for _, family := range []string{"ipv4", "ipv6"} {
			c.exec(t, sender.Pod, "/bin/traffic", "tcp", target(t, b.sink.Pod, family), "1")
		}
	}
	return b
}

// sender is the pod that is on the sink's node, or the one that is not.
func (b bed) sender(near bool) counted {
	if near {
		return b.near
	}
	return b.far
}

// TestExactness sends known amounts, one packet a buffer, and demands that every counter of both pods rises
// exactly as nftables' counters in the same network namespaces.
func TestExactness(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	for _, pod := range []counted{b.near, b.far} {
		pod.netns.run(t, "", "ip", "link", "set", "eth0", "gso_max_segs", "1")
	}
	before := c.snapshot(t, b.sink, b.near, b.far)
	for _, protocol := range []string{"udp", "tcp"} {
		for _, family := range []string{"ipv4", "ipv6"} {
			for _, near := range []bool{true, false} {
				place := map[bool]string{true: "same node", false: "other node"}[near]
				t.Run(fmt.Sprintf("%s over %s to the %s", protocol, family, place), func(t *testing.T) {
					after := b.send(t, c, protocol, family, near)
					b.checkSent(t, protocol, family, near, before, after)
					before = after
				})
			}
		}
	}
	for name, stats := range before.stats {
		if bypassed := stats.Traffic.Transmit.Bypassed; bypassed == nil || *bypassed != 0 {
			t.Errorf("nothing bypasses the hooks of %s, and the statistics say %v", name, bypassed)
		}
	}
}

const (
	datagrams    = 3000
	datagramSize = 700
	streamBytes  = 1 << 20
)

func (b bed) send(t *testing.T, c *cluster, protocol, family string, near bool) snapshot {
	t.Helper()
	amount := []string{strconv.Itoa(datagrams), strconv.Itoa(datagramSize)}
	if protocol == "tcp" {
		amount = []string{strconv.Itoa(streamBytes)}
	}
	command := append([]string{"/bin/traffic", protocol, target(t, b.sink.Pod, family)}, amount...)
	c.exec(t, b.sender(near).Pod, command...)
	return c.snapshot(t, b.sink, b.near, b.far)
}

func (b bed) checkSent(t *testing.T, protocol, family string, near bool, before, after snapshot) {
	t.Helper()
	for _, pod := range []counted{b.sink, b.near, b.far} {
		changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
	}
	sender, digit := b.sender(near), family[3:]
	sent, got := changeOf(sender.Name, before, after), changeOf("sink", before, after)
	arrived := got.nft["from_"+sender.Name+"_"+family]
	if left := sent.withoutDiscovery(digit); left != arrived {
		t.Errorf("%s sent %+v by its statistics, and %+v of it arrived at the sink by nftables", sender.Name, left, arrived)
	}
	switch headers := map[string]int64{"ipv4": 20, "ipv6": 40}[family] + 8; {
	case protocol == "udp":
		if want := (count{datagrams, datagrams * (datagramSize + headers)}); arrived != want {
			t.Errorf("%+v arrived at the sink by nftables, and %+v was sent", arrived, want)
		}
	default:
		if got.stats["receive"+digit].Bytes < streamBytes {
			t.Errorf("the sink received %+v, and a stream of %d bytes was sent", got.stats["receive"+digit], streamBytes)
		}
	}
}

// TestExactnessOnTheWire sends what the kernel cuts after nftables in the sender has seen it: super-packets of TCP,
// and datagrams larger than the link takes. The sink's interface gets super-packets cut by the node, so that
// nftables in the sink counts what a wire would have carried.
func TestExactnessOnTheWire(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	c.segmentBefore(t, b.sink)
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, near := range []bool{true, false} {
			t.Run(fmt.Sprintf("super-packets over %s, same node %v", family, near), func(t *testing.T) {
				left, buffers := b.sendCut(t, c, family, near, "tcp", "16777216")
				if left.Buffers != buffers.Packets || left.Buffers >= left.Packets {
					t.Errorf("sent were %+v by the statistics, and %+v buffers by nftables", left, buffers)
				}
			})
			t.Run(fmt.Sprintf("fragments over %s, same node %v", family, near), func(t *testing.T) {
				left, datagrams := b.sendCut(t, c, family, near, "udp", "500", "4000")
				if left.Buffers != left.Packets || left.Packets < 3*500 || datagrams.Packets < 500 {
					t.Errorf("sent were %+v by the statistics, and %+v whole datagrams by nftables", left, datagrams)
				}
			})
		}
	}
}

// sendCut sends, and demands that the sender's statistics say what arrived at the sink by nftables. It returns what
// was sent by the statistics and by nftables in the sender.
func (b bed) sendCut(t *testing.T, c *cluster, family string, near bool, protocol string, amount ...string) (v1alpha1.TrafficCounters, count) {
	t.Helper()
	sender, digit := b.sender(near), family[3:]
	before := c.snapshot(t, b.sink, b.near, b.far)
	c.exec(t, sender.Pod, append([]string{"/bin/traffic", protocol, target(t, b.sink.Pod, family)}, amount...)...)
	after := c.snapshot(t, b.sink, b.near, b.far)
	got, sent := changeOf("sink", before, after), changeOf(sender.Name, before, after)
	got.checkEqual(t, "sink", wireCells()...)
	left, arrived := sent.withoutDiscovery(digit), got.nft["from_"+sender.Name+"_"+family]
	if left != arrived {
		t.Errorf("%s sent %+v by its statistics, and %+v arrived by nftables", sender.Name, left, arrived)
	}
	return sent.stats["transmit"+digit], sent.nft["transmit"+digit]
}

// segmentBefore makes the node cut super-packets before they enter a pod.
func (c *cluster) segmentBefore(t *testing.T, pod counted) {
	t.Helper()
	type link struct {
		Name  string `json:"ifname"`
		Index int    `json:"ifindex"`
		Peer  int    `json:"link_index"`
	}
	read := func(out string) (links []link) {
		if err := json.Unmarshal([]byte(out), &links); err != nil {
			t.Fatalf("reading links: %v", err)
		}
		return links
	}
	node := podNetns(t, c.agents(t)[pod.Spec.NodeName])
	inside := read(pod.netns.run(t, "", "ip", "-json", "link", "show", "dev", "eth0"))
	for _, l := range read(node.run(t, "", "ip", "-json", "link", "show", "type", "veth")) {
		if l.Index == inside[0].Peer {
			node.run(t, "", "ip", "link", "set", "dev", l.Name, "gso_max_segs", "1")
			return
		}
	}
	t.Fatalf("node %s has no veth with index %d", pod.Spec.NodeName, inside[0].Peer)
}

// TestExactnessTwoCPUs sends from two processors at once: counters are per processor, and nothing may be lost
// in adding them up.
func TestExactnessTwoCPUs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	const each = 60000
	before := c.snapshot(t, b.sink, b.near)
	group, ctx := errgroup.WithContext(t.Context())
	for cpu := range 2 {
		group.Go(func() error { return b.sendFrom(ctx, t, cpu, each) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	after := c.snapshot(t, b.sink, b.near)
	for _, pod := range []counted{b.sink, b.near} {
		changeOf(pod.Name, before, after).checkEqual(t, pod.Name, wireCells()...)
	}
	if sent := changeOf("near", before, after).stats["transmit4"]; sent.Packets != 2*each {
		t.Errorf("two processors sent %d datagrams each, and the statistics count %d", each, sent.Packets)
	}
}

// sendFrom runs the pod's own program on one processor in the pod's network namespace.
func (b bed) sendFrom(ctx context.Context, t *testing.T, cpu, datagrams int) error {
	program := fmt.Sprintf("/proc/%d/root/bin/traffic", process(t, b.near.Pod, "traffic"))
	cmd := b.near.netns.command(ctx, "taskset", "--cpu-list", strconv.Itoa(cpu), program, "udp", target(t, b.sink.Pod, "ipv4"), strconv.Itoa(datagrams), "100")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sending on processor %d: %w: %s", cpu, err, out)
	}
	return nil
}

// TestLoopbackIsNotCounted sends over loopback inside a pod, which is in no total.
func TestLoopbackIsNotCounted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.count(t, c.start(t, c.namespace(t), sink("alone", c.nodes(t)[0]))[0], nil)
	before := c.snapshot(t, pod)
	c.exec(t, pod.Pod, "/bin/traffic", "udp", net.JoinHostPort("127.0.0.1", sinkPort), "1000", "100")
	after := c.snapshot(t, pod)
	moved := changeOf(pod.Name, before, after)
	moved.checkEqual(t, pod.Name, wireCells()...)
	if sent := moved.stats["transmit4"]; sent.Packets > 10 {
		t.Errorf("loopback traffic is in the totals: %+v", sent)
	}
	old, now := before.stats[pod.Name].Protocols.UDP, after.stats[pod.Name].Protocols.UDP
	if received := now.InDatagrams - old.InDatagrams + now.InErrors - old.InErrors; received != 1000 {
		t.Errorf("the kernel's own statistics should show 1000 datagrams, and show %d", received)
	}
}

// TestFloodedFrames sends to an address behind the bridge of which the bridge does not know the port, so that every
// pod of the node gets the frames. They are nobody's.
func TestFloodedFrames(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBed(t, c)
	absent := net.ParseIP(address(t, b.sink.Pod, "ipv4")).To4()
	absent[3] = 250
	c.pretend(t, b.sink.Spec.NodeName, absent.String())
	before := c.snapshot(t, b.sink, b.near)
	const sent = 500
	c.exec(t, b.far.Pod, "/bin/traffic", "udp", net.JoinHostPort(absent.String(), sinkPort), strconv.Itoa(sent), "100")
	after := c.snapshot(t, b.sink, b.near)
	for _, pod := range []counted{b.sink, b.near} {
		moved := changeOf(pod.Name, before, after)
		moved.checkEqual(t, pod.Name, wireCells()...)
		if flooded := moved.nft["receive4flooded"]; flooded.Packets < sent {
			t.Errorf("%d frames were flooded, and %s got %d of them: the test has proven nothing", sent, pod.Name, flooded.Packets)
		}
	}
}

// pretend makes a node believe that an address of its pods is there, with a link-layer address that nobody has.
func (c *cluster) pretend(t *testing.T, node, address string) {
	t.Helper()
	var routes []struct{ Dev string }
	ns := podNetns(t, c.agents(t)[node])
	if err := json.Unmarshal([]byte(ns.run(t, "", "ip", "-json", "route", "get", address)), &routes); err != nil || len(routes) != 1 {
		t.Fatalf("%d routes lead to %s: %v", len(routes), address, err)
	}
	ns.run(t, "", "ip", "neigh", "replace", address, "lladdr", "02:00:00:00:e2:e2", "nud", "permanent", "dev", routes[0].Dev)
	t.Cleanup(func() {
		out, err := ns.command(context.Background(), "ip", "neigh", "del", address, "dev", routes[0].Dev).CombinedOutput()
		if err != nil {
			t.Errorf("forgetting the neighbour: %v: %s", err, out)
		}
	})
}
