package peers

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// telemetry is a fake of the agent's state.
type telemetry struct {
	mu      sync.Mutex
	config  *v1alpha1.TelemetryConfig
	changed chan struct{}
	pods    map[string]*v1alpha1.TelemetryPod
	names   map[netip.Addr]*v1alpha1.TelemetryName
}

func newTelemetry(pods ...string) *telemetry {
	t := &telemetry{
		config: &v1alpha1.TelemetryConfig{}, changed: make(chan struct{}),
		pods: map[string]*v1alpha1.TelemetryPod{}, names: map[netip.Addr]*v1alpha1.TelemetryName{},
	}
	for _, key := range pods {
		t.setPod(key, v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
	}
	return t
}

func (t *telemetry) Config() *v1alpha1.TelemetryConfig {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.config
}

func (t *telemetry) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *telemetry) replace(config *v1alpha1.TelemetryConfig) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config = config
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *telemetry) Pod(key string) *v1alpha1.TelemetryPod {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[key]
}

func (t *telemetry) setPod(key string, groups ...v1alpha1.TelemetryGroupName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pods[key] = &v1alpha1.TelemetryPod{Key: key, Groups: groups}
}

func (t *telemetry) Name(address netip.Addr) *v1alpha1.TelemetryName {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.names[address]
}

func podName(namespace, name, workload string) *v1alpha1.TelemetryName {
	return &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Pod{Pod: &v1alpha1.TelemetryPeerPod{Namespace: namespace, Name: name, WorkloadName: workload}}}
}

func serviceName(namespace, name string) *v1alpha1.TelemetryName {
	return &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Service{Service: &v1alpha1.TelemetryService{Namespace: namespace, Name: name}}}
}

// labels asks for labels, with a limit of combinations a pod.
func labels(limit int64, which ...v1alpha1.TelemetryLabel) *v1alpha1.TelemetryConfig {
	return &v1alpha1.TelemetryConfig{SeriesLimit: 50_000, Groups: []*v1alpha1.TelemetryGroup{
		{Name: v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS, Labels: []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME}, LabelValuesLimit: 1},
		{Name: v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC, Labels: which, LabelValuesLimit: limit},
	}}
}

const (
	labelPeer    = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD
	labelService = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_SERVICE
	labelPort    = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT
	labelDNSName = v1alpha1.TelemetryLabel_TELEMETRY_LABEL_DNS_NAME
)

// undated is a counter without when it began, to be compared.
func undated(c Counter) Counter {
	c.Began = nil
	return c
}

func TestAskedOf(t *testing.T) {
	a, limit, total := askedOf(labels(7, labelPeer, labelPort))
	if a != (asked{peer: true, port: true}) || limit != 7 || total != 12_500 {
		t.Errorf("asked are %+v, limits %d and %d", a, limit, total)
	}
	if a, _, _ := askedOf(&v1alpha1.TelemetryConfig{}); a != (asked{}) {
		t.Errorf("asked are %+v without a configuration", a)
	}
}

// TestLabels: who the peer is, which Service was used, and which port is the server's.
func TestLabels(t *testing.T) {
	state := newTelemetry()
	begun := time.Unix(1_800_000_000, 0)
	state.names[netip.MustParseAddr("10.1.0.9")] = podName("data", "db-0", "db")
	state.names[netip.MustParseAddr("10.1.0.8")] = podName("data", "alone", "")
	state.names[netip.MustParseAddr("10.96.0.1")] = serviceName("data", "db-service")
	state.names[netip.MustParseAddr("192.0.2.1")] = &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Node{Node: "n1"}}
	state.names[netip.MustParseAddr("198.51.100.1")] = &v1alpha1.TelemetryName{}
	reused := podName("data", "new-0", "new")
	reused.SinceUnixNano = begun.Add(3 * time.Second).UnixNano()
	state.names[netip.MustParseAddr("10.1.0.7")] = reused
	all := asked{true, true, true, true}
	const out, in = v1alpha1.Direction_DIRECTION_TRANSMIT, v1alpha1.Direction_DIRECTION_RECEIVE
	for _, test := range []struct {
		name, local, peer, translated string
		protocol                      uint8
		direction                     v1alpha1.Direction
		flags                         [2]uint8
		want                          Labels
		unknown                       bool
	}{
		{"a pod through its Service", "10.1.0.2:40000", "10.96.0.1:80", "10.1.0.9:5432", 6, out, [2]uint8{18, 2}, Labels{"data", "db", "data", "db-service", "TCP", "80", "x"}, false},
		{"a pod", "10.1.0.2:40000", "10.1.0.9:5432", "", 6, out, [2]uint8{18, 2}, Labels{"data", "db", "", "", "TCP", "5432", "x"}, false},
		{"a pod that opened the flow", "10.1.0.2:8080", "10.1.0.9:40000", "", 6, in, [2]uint8{2, 18}, Labels{"data", "db", "", "", "TCP", "8080", "x"}, false},
		{"a connection that was open before", "10.1.0.2:8080", "10.1.0.9:40000", "", 6, out, [2]uint8{16, 16}, Labels{"data", "db", "", "", "TCP", "8080", "x"}, false},
		{"UDP", "10.1.0.2:8080", "10.1.0.9:40000", "", 17, out, [2]uint8{}, Labels{"data", "db", "", "", "UDP", "40000", "x"}, false},
		{"a pod without a controller", "10.1.0.2:40000", "10.1.0.8:1", "", 132, out, [2]uint8{}, Labels{"data", "alone", "", "", "SCTP", "1", "x"}, false},
		{"a Service that leads nowhere", "10.1.0.2:40000", "10.96.0.1:80", "", 6, out, [2]uint8{0, 2}, Labels{"", PeerUnknown, "data", "db-service", "TCP", "80", "x"}, false},
		{"a node", "10.1.0.2:40000", "192.0.2.1:10250", "", 6, out, [2]uint8{18, 2}, Labels{"", PeerNode, "", "", "TCP", "10250", "x"}, false},
		{"outside", "10.1.0.2:40000", "198.51.100.1:443", "", 6, out, [2]uint8{18, 2}, Labels{"", PeerExternal, "", "", "TCP", "443", "x"}, false},
		{"not known yet", "10.1.0.2:40000", "198.51.100.2:443", "", 6, out, [2]uint8{18, 2}, Labels{"", PeerUnknown, "", "", "TCP", "443", "x"}, true},
		{"not known yet behind a Service", "10.1.0.2:40000", "10.96.0.1:80", "10.1.0.3:1", 6, out, [2]uint8{18, 2}, Labels{"", PeerUnknown, "data", "db-service", "TCP", "80", "x"}, true},
		{"an address that is another's now", "10.1.0.2:40000", "10.1.0.7:443", "", 6, out, [2]uint8{18, 2}, Labels{"", PeerUnknown, "", "", "TCP", "443", "x"}, false},
		{"multicast", "[fd00::2]:5353", "[ff02::fb]:5353", "", 17, out, [2]uint8{}, Labels{"", PeerMulticast, "", "", "UDP", "5353", "x"}, false},
		{"broadcast", "10.1.0.2:68", "255.255.255.255:67", "", 17, out, [2]uint8{}, Labels{"", PeerMulticast, "", "", "UDP", "67", "x"}, false},
		{"ICMP", "10.1.0.2:77", "10.1.0.9:2048", "", 1, out, [2]uint8{}, Labels{"data", "db", "", "", "ICMP", "", "x"}, false},
		{"ICMPv6", "[fd00::2]:77", "[ff02::1]:2048", "", 58, out, [2]uint8{}, Labels{"", PeerMulticast, "", "", "ICMPv6", "", "x"}, false},
		{"GRE", "10.1.0.2:0", "10.1.0.9:0", "", unix.IPPROTO_GRE, out, [2]uint8{}, Labels{"data", "db", "", "", "47", "", "x"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &flows.Change{
				Local: netip.MustParseAddrPort(test.local), Peer: netip.MustParseAddrPort(test.peer), Protocol: test.protocol,
				Direction: test.direction, Flags: test.flags, PeerName: "x", Last: begun,
			}
			if test.translated != "" {
				c.Translated = netip.MustParseAddrPort(test.translated)
			}
			got, known := all.labels(c, state.Name)
			if got != test.want || known == test.unknown {
				t.Errorf("labels are %+v (known %v), want %+v", got, known, test.want)
			}
			if got, _ := (asked{}).labels(c, nil); got != (Labels{}) {
				t.Errorf("labels that were not asked for are %+v", got)
			}
		})
	}
}

// TestTables: the first combinations keep their places, the others are added up in one, and what is folded is counted.
func TestTables(t *testing.T) {
	tables := newTables(asked{peer: true, service: true, port: true, dnsName: true}, 3, 5)
	one := [2]int64{1, 2}
	for round := range 2 {
		for i := range 10 {
			tables.add("a", Labels{Port: fmt.Sprint(i)}, [2]int64{10, 20}, one)
		}
		if tables.folded != 7 || tables.counters != 3 {
			t.Errorf("round %d: %d are folded, %d are not", round, tables.folded, tables.counters)
		}
	}
	var all []Counter
	for _, c := range tables.pods["a"].counters {
		if since := time.Since(c.Began.AsTime()); since < 0 || since > time.Hour {
			t.Errorf("a counter began at %v", c.Began.AsTime())
		}
		all = append(all, undated(c))
	}
	other := Labels{Other, Other, Other, Other, Other, Other, Other}
	if len(all) != 4 || all[0] != (Counter{"a", Labels{Port: "0"}, [2]int64{20, 40}, [2]int64{2, 4}, nil}) ||
		all[3] != (Counter{"a", other, [2]int64{140, 280}, [2]int64{14, 28}, nil}) {
		t.Errorf("counters are %+v", all)
	}
	for i := range 10 {
		tables.add("b", Labels{Port: fmt.Sprint(i)}, one, one)
	}
	if len(tables.pods["b"].counters) != 3 || tables.folded != 15 { // the node's limit
		t.Errorf("counters of the second pod are %+v, %d folded", tables.pods["b"].counters, tables.folded)
	}
	tables.forget("a")
	tables.forget("a")
	for i := range 3 * maxFolded {
		tables.add("b", Labels{Port: fmt.Sprint(i)}, one, one)
	}
	if tables.folded != maxFolded || tables.counters != 3 || len(tables.pods["b"].counters) != 4 {
		t.Errorf("%d are folded, %d are not: %+v", tables.folded, tables.counters, tables.pods["b"].counters)
	}
}

// A node's tables of flows are filled by the test.
type node struct {
	t         testing.TB
	flows     *ebpf.Map
	history   *flows.Collector
	telemetry *telemetry
	counters  *Counters
	begun     uint64
}

func newNode(t testing.TB, pods ...string) *node {
	t.Helper()
	shared := map[string]*ebpf.Map{}
	specs := headers.MapSpecs()
	for _, name := range []string{"flows4", "flows6", "flow_table"} {
		m, err := ebpf.NewMap(specs[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		shared[name] = m
	}
	n := &node{t: t, flows: shared["flows4"], telemetry: newTelemetry(pods...), begun: monotonic(t)}
	n.history = flows.New(flows.Config{Root: pins.Root(fakepod.BPFFS(t), "n"), Shared: shared})
	t.Cleanup(n.history.Close)
	n.counters = New(Config{Flows: n.history, Telemetry: n.telemetry})
	n.counters.pause = 0
	n.follow(pods...)
	return n
}

func (n *node) follow(pods ...string) {
	var all []*podmap.Pod
	for _, key := range pods {
		all = append(all, &podmap.Pod{Key: key})
	}
	n.history.Follow(all)
}

func monotonic(t testing.TB) uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// put makes a flow of a pod from one port to port 80 of 10.0.0.PEER, with so many packets each way.
func (n *node) put(pod string, port uint16, peer byte, packets uint64) {
	n.t.Helper()
	k := headers.FlowKey4{Pod: headers.PodNumber(pod), Local: [4]byte{10, 0, 1, 1}, Remote: [4]byte{10, 0, 0, peer}, RemotePort: [2]byte{0, 80}, Protocol: unix.IPPROTO_UDP}
	binary.BigEndian.PutUint16(k.LocalPort[:], port)
	f := headers.Flow{First: n.begun, Last: n.begun, BegunByTransmit: 1}
	f.Receive.Packets, f.Receive.Bytes, f.Transmit.Packets, f.Transmit.Bytes = packets, packets*10, packets, packets*20
	if err := n.flows.Put(&k, &f); err != nil {
		n.t.Fatal(err)
	}
}

// run follows flows until the test ends, with the labels of a configuration.
func (n *node) run(config *v1alpha1.TelemetryConfig) {
	n.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { n.history.Run(ctx); ended <- struct{}{} }()
	go func() { n.counters.Run(ctx); ended <- struct{}{} }()
	n.t.Cleanup(func() { stop(); <-ended; <-ended })
	n.telemetry.replace(config)
	n.watching()
}

// watching waits until what passes is counted: a flow of a pod of its own is, once it grows.
func (n *node) watching() {
	n.t.Helper()
	n.telemetry.setPod("probe", v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
	n.telemetry.mu.Lock()
	n.telemetry.names[netip.MustParseAddr("10.0.0.99")] = podName("probe", "probe", "")
	n.telemetry.mu.Unlock()
	packets := uint64(0)
	n.await("anything to be counted", func(all map[string][]Counter) bool {
		packets++
		n.put("probe", 1, 99, packets)
		return len(all["probe"]) > 0
	})
}

// await drains until what is counted, by pod, is as it should be.
func (n *node) await(what string, right func(map[string][]Counter) bool) {
	n.t.Helper()
	var all map[string][]Counter
	fakepod.Eventually(n.t, what, func() bool {
		n.history.Snapshot()
		all = map[string][]Counter{}
		for c := range n.counters.Read {
			all[c.PodKey] = append(all[c.PodKey], undated(c))
		}
		return right(all)
	}, func() string { return fmt.Sprintf("%+v, %d folded", all, n.counters.Folded()) })
}

func (n *node) name(peer byte, name *v1alpha1.TelemetryName) {
	n.telemetry.mu.Lock()
	defer n.telemetry.mu.Unlock()
	n.telemetry.names[netip.AddrFrom4([4]byte{10, 0, 0, peer})] = name
}

// TestCounters: with the whole in place, what passes is counted under the labels that are asked for, from when they
// are; late names are waited for; other labels begin anew; a pod's counters end with it.
func TestCounters(t *testing.T) {
	n := newNode(t, "a", "b", "unasked", "late", "probe")
	n.telemetry.setPod("unasked", v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_DNS)
	delete(n.telemetry.pods, "late")
	n.name(1, podName("data", "db-0", "db"))
	n.name(2, podName("data", "db-1", "db"))
	n.put("a", 1, 1, 1000) // before
	n.run(labels(2, labelPeer))

	n.put("a", 1, 1, 1003)
	n.put("a", 2, 2, 4)
	n.put("a", 3, 3, 5) // not known yet
	n.put("unasked", 1, 1, 6)
	n.put("late", 1, 1, 7)
	db := Labels{PeerNamespace: "data", PeerWorkload: "db"}
	n.await("the known peer", func(all map[string][]Counter) bool {
		return len(all["a"]) == 1 && all["a"][0] == Counter{"a", db, [2]int64{70, 140}, [2]int64{7, 7}, nil}
	})
	n.name(3, &v1alpha1.TelemetryName{})
	n.telemetry.setPod("late", v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC)
	n.await("what was not known", func(all map[string][]Counter) bool {
		return len(all["a"]) == 2 && all["a"][1] == Counter{"a", Labels{PeerWorkload: PeerExternal}, [2]int64{50, 100}, [2]int64{5, 5}, nil} &&
			len(all["late"]) == 1 && all["late"][0].Packets == [2]int64{7, 7}
	})
	for i := range byte(5) {
		n.name(10+i, podName("more", fmt.Sprint("pod-", i), ""))
		n.put("a", 10+uint16(i), 10+i, 1)
	}
	n.await("what is beyond the limit", func(all map[string][]Counter) bool {
		return len(all["a"]) == 3 && all["a"][2] == Counter{"a", Labels{PeerNamespace: Other, PeerWorkload: Other}, [2]int64{50, 100}, [2]int64{5, 5}, nil} && n.counters.Folded() == 5
	})
	n.await("nothing of pods without the group", func(all map[string][]Counter) bool { return len(all["unasked"]) == 0 })

	n.telemetry.replace(labels(2, labelPort, labelService))
	n.await("the former counters to end", func(all map[string][]Counter) bool { return len(all) == 0 && n.counters.Folded() == 0 })
	n.watching()
	n.put("a", 1, 1, 2003)
	n.await("the other labels", func(all map[string][]Counter) bool {
		return len(all["a"]) == 1 && all["a"][0] == Counter{"a", Labels{Protocol: "UDP", Port: "80"}, [2]int64{10_000, 20_000}, [2]int64{1000, 1000}, nil}
	})
	n.follow("b", "late", "unasked", "probe") // a has ended
	n.await("the counters of a pod to end with it", func(all map[string][]Counter) bool { return len(all["a"]) == 0 && len(all["probe"]) == 1 })
	n.telemetry.replace(&v1alpha1.TelemetryConfig{})
	n.await("all to end with the configuration", func(all map[string][]Counter) bool { return len(all) == 0 })
	if n.counters.Lost() != 0 {
		t.Errorf("lost %d", n.counters.Lost())
	}
}

// TestUnknownInTheEnd: what has no name in time is counted all the same.
func TestUnknownInTheEnd(t *testing.T) {
	n := newNode(t, "a")
	watch, err := n.history.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	a, limit, total := askedOf(labels(5, labelPeer, labelDNSName))
	n.counters.replace(newTables(a, limit, total))
	s := session{Counters: n.counters, asked: a, watch: watch}
	change := &flows.Change{PodKey: "a", Peer: netip.MustParseAddrPort("192.0.2.1:1"), Since: time.Unix(100, 0), PeerName: "db.example", Packets: [2]int64{1, 0}}
	stranger := *change
	stranger.PodKey = "stranger"
	for _, test := range []struct {
		after time.Duration
		waits bool
	}{{0, true}, {nameWithin - 1, true}, {nameWithin, false}} {
		s.now = time.Unix(100, 0).Add(test.after)
		for _, c := range []*flows.Change{change, &stranger} {
			if again := s.visit(c); again.IsZero() == test.waits {
				t.Errorf("after %v flows of pod %q wait until %v", test.after, c.PodKey, again)
			}
		}
	}
	var all []Counter
	for c := range n.counters.Read {
		all = append(all, undated(c))
	}
	if !slices.Equal(all, []Counter{{"a", Labels{PeerWorkload: PeerUnknown, DNSName: "db.example"}, [2]int64{}, [2]int64{1, 0}, nil}}) {
		t.Errorf("counters are %+v", all)
	}
}

// TestRunEnds: whatever is asked for, and whether flows are kept or not.
func TestRunEnds(t *testing.T) {
	broken := flows.New(flows.Config{})
	defer broken.Close()
	for _, history := range []*flows.Collector{nil, broken} {
		c := New(Config{Flows: history, Telemetry: newTelemetry()})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); c.Run(ctx) }()
		c.config.Telemetry.(*telemetry).replace(labels(1, labelPeer))
		stop()
		<-ended
		for counter := range c.Read {
			t.Errorf("there is %+v", counter)
		}
	}
}
