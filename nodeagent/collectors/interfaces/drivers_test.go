package interfaces

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

func named(t *testing.T, row *v1alpha1.NodeStats, name string) *v1alpha1.Interface {
	t.Helper()
	for _, iface := range row.Interfaces {
		if iface.Name == name {
			return iface
		}
	}
	t.Fatalf("no interface %s in %v", name, row.Interfaces)
	return nil
}

// A veth's driver names its peer and its speed, so that an answer can be told from another interface's.
func TestDriverOfUplink(t *testing.T) {
	fakepod.NeedRoot(t)
	node, outside, pod := fakepod.NewNamespace(t), fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, outside, "eth0", "a", 1)
	fakepod.Connect(node, pod, "veth1", "eth0", 2)
	node.Run("ip", "route", "add", "default", "via", "10.99.1.2")
	c := New(nil)
	var row *v1alpha1.NodeStats
	var eth0 *v1alpha1.Interface
	fakepod.Eventually(t, "the driver's answer", func() bool { // which a read does not wait for longer than a moment
		row = read(t, node, c)
		eth0 = named(t, row, "eth0")
		return eth0.Driver != nil
	})
	var peer string
	for _, c := range eth0.Driver {
		if c.Name == "peer_ifindex" {
			peer = fmt.Sprint(c.Value)
		}
		if c.Value == 0 || c.Collector != "" {
			t.Errorf("counter %v", c)
		}
	}
	if a := outside.Run("cat", "/proc/net/dev_snmp6/a"); !slices.Contains(strings.Fields(a), peer) || peer == "" {
		t.Errorf("the driver says that its peer is %q; that one has %s", peer, strings.SplitN(a, "\n", 2)[0])
	}
	if !slices.IsSortedFunc(eth0.Driver, func(a, b *v1alpha1.Counter) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("not sorted: %v", eth0.Driver)
	}
	if eth0.SpeedMegabits != 10_000 {
		t.Errorf("speed %d, a veth's is 10000", eth0.SpeedMegabits)
	}
	if pods := named(t, row, "veth1"); pods.Driver != nil || pods.SpeedMegabits != 0 {
		t.Errorf("the driver of a pod's interface was asked: %v", pods)
	}
}

func TestCarrierChanges(t *testing.T) {
	fakepod.NeedRoot(t)
	node, outside := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, outside, "eth0", "a", 1)
	c := New(nil)
	before := named(t, read(t, node, c), "eth0").CarrierChanges
	for range 3 {
		outside.Run("ip", "link", "set", "dev", "a", "down")
		outside.Run("ip", "link", "set", "dev", "a", "up")
	}
	if after := named(t, read(t, node, c), "eth0").CarrierChanges; after != before+6 {
		t.Errorf("%d changes before, %d after 6 more", before, after)
	}
}

// A queue of ten packets that sends one in ten seconds drops what is beyond them.
func TestQueue(t *testing.T) {
	fakepod.NeedRoot(t)
	node, outside := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, outside, "eth0", "a", 1)
	c := New(nil)
	if queue := named(t, read(t, node, c), "eth0").Queue; queue != nil {
		t.Errorf("a veth has no queue of itself, but %v", queue)
	}
	node.Run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "800bit", "burst", "1100", "limit", "10200")
	node.Do(func() { sendUDP(t, "10.99.1.2:7000", 40, 972) })
	var queue *v1alpha1.Queue
	fakepod.Eventually(t, "the same numbers from tc", func() bool { // the namespace sends packets of its own, too
		queue = named(t, read(t, node, c), "eth0").Queue
		shown := node.Run("tc", "-s", "qdisc", "show", "dev", "eth0", "root")
		return strings.Contains(shown, fmt.Sprintf("dropped %d, overlimits %d requeues %d", queue.GetDrops(), queue.GetOverlimits(), queue.GetRequeues()))
	})
	if queue.GetKind() != "tbf" || queue.Drops < 25 || queue.Overlimits == 0 || queue.BacklogBytes < 5000 {
		t.Errorf("queue %v", queue)
	}
}

func TestReaderDoesNotWaitForStuckDriver(t *testing.T) {
	c := New(nil)
	c.asking <- struct{}{} // as while a driver is asked
	if found, missing := c.drivers([]string{"eth0"}); len(found) != 0 || missing != "a driver has not yet answered an earlier reader" {
		t.Errorf("got %v, %q", found, missing)
	}
}

func TestTooManyDriversAreNamed(t *testing.T) {
	_, missing := New(nil).drivers(make([]string, mostDrivers+3))
	if missing != "the drivers of 3 of 11 interfaces are not asked" {
		t.Error(missing)
	}
}

func strings32(names ...string) (padded []byte) {
	for _, name := range names {
		padded = append(padded, name...)
		padded = append(padded, make([]byte, lengthOfName-len(name))...)
	}
	return padded
}

func TestCountersOfDriver(t *testing.T) {
	got, leftOut := counters(strings32("zero", "b", strings.Repeat("a", lengthOfName), "\xff", "", "large"), []uint64{0, 1, 2, 3, 4, math.MaxUint64, 9})
	want := []string{strings.Repeat("a", lengthOfName) + "=2", "b=1", fmt.Sprint("large=", math.MaxInt64), "?=3"}
	slices.Sort(want)
	var shown []string
	for _, c := range got {
		shown = append(shown, fmt.Sprint(c.Name, "=", c.Value))
	}
	if !slices.Equal(shown, want) || leftOut != 0 {
		t.Errorf("got %q, %d left out, want %q", shown, leftOut, want)
	}
}

func TestCountersOfTroubleStay(t *testing.T) {
	var names []string
	var values []uint64
	for i := range 300 {
		names, values = append(names, fmt.Sprint("rx", i, "_packets")), append(values, 1)
	}
	names, values = append(names, "zz_discards"), append(values, 7)
	got, leftOut := counters(strings32(names...), values)
	if len(got) != mostCounters || leftOut != 301-mostCounters || got[mostCounters-1].Name != "zz_discards" {
		t.Errorf("%d counters, %d left out, last %v", len(got), leftOut, got[len(got)-1])
	}
}

// The largest row leaves a third of a batch to the other collectors.
func TestLargestRowFitsTheWire(t *testing.T) {
	const large = 1 << 60
	counters := func() *v1alpha1.InterfaceCounters {
		return &v1alpha1.InterfaceCounters{
			Bytes: large, Packets: large, Errors: 1 << 30, Dropped: 1 << 30, Missed: 1 << 30, Multicast: 1 << 40,
			Rates: &v1alpha1.Rates{MilliBytes: 1 << 45, MilliPackets: 1 << 40},
		}
	}
	row := &v1alpha1.NodeStats{}
	for i := range most {
		iface := &v1alpha1.Interface{
			Name: "interface-name1", Kind: "openvswitch", State: "lowerlayerdown", Mtu: 9000, Receive: counters(), Transmit: counters(),
			Queue:          &v1alpha1.Queue{Kind: "fq_codel", Drops: math.MaxUint32, Overlimits: math.MaxUint32, Requeues: math.MaxUint32},
			CarrierChanges: 1 << 20,
		}
		for n := 0; i < mostDrivers && n < mostCounters; n++ {
			iface.Driver = append(iface.Driver, &v1alpha1.Counter{Name: strings.Repeat("n", lengthOfName), Value: large})
		}
		row.Interfaces = append(row.Interfaces, iface)
	}
	if size := proto.Size(row); size > v1alpha1.MaxBatchBytes*2/3 {
		t.Errorf("%d bytes, of %d", size, v1alpha1.MaxBatchBytes)
	}
}

// qdisc is a message as the kernel sends it.
func qdisc(index int32, parent uint32, kind string, numbers ...uint32) []byte {
	message := (&nl.TcMsg{Ifindex: index, Parent: parent}).Serialize()
	message = append(slices.Clone(message), nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(kind)).Serialize()...)
	var statistics []byte
	for _, number := range numbers {
		statistics = binary.NativeEndian.AppendUint32(statistics, number)
	}
	nested := nl.NewRtAttr(nl.TCA_STATS2, nil)
	nested.AddRtAttr(1, bytes.Repeat([]byte{9}, 16))
	nested.AddRtAttr(statisticsOfQueue, statistics)
	return append(message, nested.Serialize()...)
}

func TestParseQueue(t *testing.T) {
	const root = netlink.HANDLE_ROOT
	index, queue := parseQueue(qdisc(7, root, "fq_codel", 1, 2, 3, 4, math.MaxUint32))
	if index != 7 || queue.GetKind() != "fq_codel" || queue.BacklogBytes != 2 || queue.Drops != 3 || queue.Requeues != 4 || queue.Overlimits != math.MaxUint32 {
		t.Errorf("interface %d: %v", index, queue)
	}
	for what, message := range map[string][]byte{
		"a child":          qdisc(7, 0x10001, "fq_codel", 1, 2, 3, 4, 5),
		"clsact":           qdisc(7, netlink.HANDLE_CLSACT, "clsact", 1, 2, 3, 4, 5),
		"noqueue":          qdisc(7, root, "noqueue", 1, 2, 3, 4, 5),
		"short statistics": qdisc(7, root, "fq_codel", 1, 2, 3, 4),
		"nothing":          nil,
	} {
		if _, queue := parseQueue(message); queue != nil {
			t.Errorf("%s is %v", what, queue)
		}
	}
}

func FuzzParseQueue(f *testing.F) {
	f.Add(qdisc(7, netlink.HANDLE_ROOT, "fq_codel", 1, 2, 3, 4, 5))
	f.Add(append(qdisc(7, netlink.HANDLE_ROOT, "pfifo"), 5, 0, 1, 0, 'x'))
	f.Fuzz(func(t *testing.T, message []byte) {
		if _, queue := parseQueue(message); queue != nil && min(queue.Drops, queue.Overlimits, queue.Requeues, queue.BacklogBytes) < 0 {
			t.Errorf("a number below zero: %v", queue)
		}
	})
}

func FuzzCountersOfDriver(f *testing.F) {
	f.Add(strings32("rx_drops", "\xff\xfe"), uint64(1))
	f.Add([]byte("short"), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, names []byte, value uint64) {
		values := slices.Repeat([]uint64{value}, len(names)/lengthOfName+1)
		found, leftOut := counters(names, values)
		if len(found) > mostCounters || len(found)+leftOut > len(values) {
			t.Errorf("%d counters and %d left out, of %d", len(found), leftOut, len(values))
		}
	})
}
