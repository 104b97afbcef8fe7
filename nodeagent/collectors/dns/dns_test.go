package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/dns"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A machine has what outlives agents: pins, and programs that hand packets on.
type machine struct {
	t      testing.TB
	root   string
	shared map[string]*ebpf.Map
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, root: pins.Root(fakepod.BPFFS(t), "node.test")}
	var err error
	if m.shared, err = pins.Shared(m.root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pins.CloseAll(m.shared) })
	return m
}

// programs are those of bpf/traffic for one pod, to receive and to transmit.
func (m *machine) programs(key string, hook traffic.Hook) (programs [2]*ebpf.Program) {
	m.t.Helper()
	totals, err := traffic.NewMap(traffic.Notes{})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { totals.Close() })
	for _, direction := range []traffic.Direction{traffic.Receive, traffic.Transmit} {
		beyond := traffic.Beyond{Pod: headers.PodNumber(key), Shared: m.shared}
		if programs[direction], err = traffic.NewProgram(totals, hook, direction, beyond); err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(func() { programs[direction].Close() })
	}
	return programs
}

// A pod is joined to a peer as eth0; what crosses that is handed on.
type pod struct {
	*fakepod.Namespace
	key        string
	peer       *fakepod.Namespace
	ipv4, ipv6 string // of the peer
	programs   [2]*ebpf.Program
}

func (m *machine) newPod(subnet int) pod {
	m.t.Helper()
	p := pod{
		Namespace: fakepod.NewNamespace(m.t), key: fakepod.UID(), peer: fakepod.NewNamespace(m.t),
		ipv4: fmt.Sprintf("10.99.%d.2", subnet), ipv6: fmt.Sprintf("fd99:%d::2", subnet),
	}
	fakepod.Connect(p.Namespace, p.peer, "eth0", "host0", subnet)
	p.programs = m.programs(p.key, traffic.Ether)
	p.Do(func() {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			m.t.Error(err)
			return
		}
		for direction, kind := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			attached, err := link.AttachTCX(link.TCXOptions{Interface: iface.Index, Program: p.programs[direction], Attach: kind})
			if errors.Is(err, link.ErrNotSupported) {
				m.t.Skip("the kernel has no tcx")
			}
			if err != nil {
				m.t.Errorf("attaching: %v", err)
				return
			}
			m.t.Cleanup(func() { attached.Close() })
		}
	})
	return p
}

// An agent is a collector that runs.
type agent struct {
	*Collector
	t    testing.TB
	stop func()
}

func (m *machine) start(patience time.Duration) *agent {
	m.t.Helper()
	return m.startWith(Config{Root: m.root, Shared: m.shared, Names: 20}, patience)
}

func (m *machine) startWith(config Config, patience time.Duration) *agent {
	m.t.Helper()
	c := New(config)
	c.patience = patience
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	a := &agent{Collector: c, t: m.t}
	a.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		c.Close()
	})
	m.t.Cleanup(a.stop)
	if state, message := c.State(); state != v1alpha1.Collector_STATE_RUNNING {
		m.t.Fatalf("state %v: %s", state, message)
	}
	return a
}

func (a *agent) row(key string) *v1alpha1.DNS {
	a.t.Helper()
	var row v1alpha1.PodStats
	if err := a.ReadPod(&podmap.Pod{Key: key}, &row); err != nil {
		a.t.Fatal(err)
	}
	return row.Dns
}

func (a *agent) node() *v1alpha1.DNS {
	a.t.Helper()
	var row v1alpha1.NodeStats
	if err := a.ReadNode(&row); err != nil {
		a.t.Fatal(err)
	}
	return row.Dns
}

// named waits until so many exchanges have been named.
func (a *agent) named(key string, want int64) {
	a.t.Helper()
	fakepod.Eventually(a.t, fmt.Sprintf("naming %d exchanges", want), func() bool {
		var named int64
		for _, one := range a.row(key).Names {
			named += one.Count
		}
		return named == want
	}, func() string { return a.row(key).String() })
}

func answered(row *v1alpha1.DNS) (sum int64) {
	for _, count := range row.Latency.GetCounts() {
		sum += count
	}
	return sum
}

// expect compares all but names and latency.
func expect(t testing.TB, got, want *v1alpha1.DNS) {
	t.Helper()
	got = proto.CloneOf(got)
	got.Names, got.Latency = nil, nil
	if !proto.Equal(got, want) {
		t.Errorf("counted %v\nwant    %v", got, want)
	}
}

const (
	typeA    = int32(dnsmessage.TypeA)
	typeAAAA = int32(dnsmessage.TypeAAAA)
	typeTXT  = int32(dnsmessage.TypeTXT)
)

// What a scripted server answers is what is counted, and latency is between what the server held back and what the
// client has seen.
func TestScriptedServer(t *testing.T) {
	m := newMachine(t)
	for i, test := range []struct {
		network string
		address func(pod) string
	}{
		{"udp", func(p pod) string { return p.ipv4 }},
		{"udp", func(p pod) string { return p.ipv6 }},
		{"tcp", func(p pod) string { return p.ipv4 }},
		{"tcp", func(p pod) string { return p.ipv6 }},
	} {
		p := m.newPod(i + 1)
		address := test.address(p)
		t.Run(test.network+" "+address, func(t *testing.T) {
			server := serve(t, p.peer, address)
			a := m.start(100 * time.Second)
			defer a.stop() // the next agent reads the same ring buffer
			c := dial(t, p.Namespace, test.network, net.JoinHostPort(address, "53"))
			for range 10 {
				c.ask("ok.Example.com.", dnsmessage.TypeA)
				c.ask("alias.example.com.", dnsmessage.TypeAAAA)
				c.ask("nx.example.com.", dnsmessage.TypeA)
			}
			for range 3 {
				c.ask("fail.example.com.", dnsmessage.TypeTXT)
				c.ask("refused.example.com.", dnsmessage.TypeAAAA)
				c.ask("slow.example.com.", dnsmessage.TypeA)
			}
			c.send("silent.example.com.", dnsmessage.TypeA)
			a.named(p.key, 39)

			row := a.row(p.key)
			expect(t, row, &v1alpha1.DNS{
				Queries: []*v1alpha1.DNSQueries{{Type: typeA, Count: 24}, {Type: typeTXT, Count: 3}, {Type: typeAAAA, Count: 13}},
				Responses: []*v1alpha1.DNSResponses{
					{Type: typeA, Code: 0, Count: 13}, {Type: typeA, Code: 3, Count: 10}, {Type: typeTXT, Code: 2, Count: 3},
					{Type: typeAAAA, Code: 0, Count: 10}, {Type: typeAAAA, Code: 5, Count: 3},
				},
			})
			checkLatency(t, row, server, c)
			checkNames(t, row)
			for address, want := range map[string]string{
				"192.0.2.2": "ok.example.com", "192.0.2.4": "slow.example.com", "2001:db8::5": "alias.example.com", "192.0.2.9": "",
			} {
				if got := a.PeerName(headers.PodNumber(p.key), netip.MustParseAddr(address)); got != want {
					t.Errorf("%s is %q, want %q", address, got, want)
				}
			}
		})
	}
}

func checkLatency(t *testing.T, row *v1alpha1.DNS, s *server, c *client) {
	t.Helper()
	var took time.Duration
	for _, one := range c.took {
		took += one
	}
	if sum := time.Duration(row.Latency.SumNano); sum < s.heldInAll() || sum > took {
		t.Errorf("latencies are %v in all: the server held answers back for %v, and the client waited %v", sum, s.heldInAll(), took)
	}
	if got := answered(row); got != int64(len(c.took)) {
		t.Errorf("%d latencies, want %d", got, len(c.took))
	}
	least := int32(headers.Slot(uint64(slow)) + headers.LowestBucket)
	most := int32(headers.Slot(uint64(slices.Max(c.took))) + headers.LowestBucket)
	var late int64
	for i, index := range row.Latency.Indexes {
		if index > most {
			t.Errorf("a latency in bucket %d, but the client never waited longer than %v", index, slices.Max(c.took))
		}
		if index >= least {
			late += row.Latency.Counts[i]
		}
	}
	if late < 3 {
		t.Errorf("%d latencies of %v or more, want 3", late, slow)
	}
}

func checkNames(t *testing.T, row *v1alpha1.DNS) {
	t.Helper()
	var names []string
	for _, one := range row.Names {
		names = append(names, fmt.Sprintf("%s %d %d %d", one.Name, one.Count, one.Error, one.Failed))
	}
	want := []string{
		"alias.example.com 10 0 0", "nx.example.com 10 0 10", "ok.example.com 10 0 0",
		"fail.example.com 3 0 3", "refused.example.com 3 0 3", "slow.example.com 3 0 0",
	}
	if !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
}

func TestUnanswered(t *testing.T) {
	m := newMachine(t)
	p := m.newPod(1)
	serve(t, p.peer, p.ipv4)
	a := m.start(time.Millisecond)
	c := dial(t, p.Namespace, "udp", p.ipv4+":53")
	for range 7 {
		c.send("silent.example.com.", dnsmessage.TypeA)
	}
	fakepod.Eventually(t, "giving up", func() bool { return a.row(p.key).Unanswered == 7 })
	a.named(p.key, 7)
	row := a.row(p.key)
	expect(t, row, &v1alpha1.DNS{Queries: []*v1alpha1.DNSQueries{{Type: typeA, Count: 7}}, Unanswered: 7})
	if got := row.Names[0]; got.Name != "silent.example.com" || got.Failed != 7 {
		t.Errorf("names %v", row.Names)
	}
	if answered(row) != 0 {
		t.Errorf("latency %v", row.Latency)
	}
}

// Nothing that the kernel counts is lost while no agent runs, and the next one goes on.
func TestRestart(t *testing.T) {
	m := newMachine(t)
	p := m.newPod(1)
	serve(t, p.peer, p.ipv4)
	c := func() *client { return dial(t, p.Namespace, "udp", p.ipv4+":53") }
	a := m.start(100 * time.Second)
	first := c()
	for range 5 {
		first.ask("ok.example.com.", dnsmessage.TypeA)
	}
	a.named(p.key, 5)
	a.stop()
	second := c()
	for range 7 {
		second.ask("nx.example.com.", dnsmessage.TypeA)
	}
	a = m.start(100 * time.Second)
	a.named(p.key, 7) // they waited in the ring buffer
	third := c()
	third.ask("ok.example.com.", dnsmessage.TypeAAAA)
	a.named(p.key, 8)
	row := a.row(p.key)
	expect(t, row, &v1alpha1.DNS{
		Queries: []*v1alpha1.DNSQueries{{Type: typeA, Count: 12}, {Type: typeAAAA, Count: 1}},
		Responses: []*v1alpha1.DNSResponses{
			{Type: typeA, Code: 0, Count: 5}, {Type: typeA, Code: 3, Count: 7}, {Type: typeAAAA, Code: 0, Count: 1},
		},
	})
	if answered(row) != 13 {
		t.Errorf("%d latencies", answered(row))
	}
}

// The node's row is the sum of its pods, and stays when they go.
func TestNodeIsTheSum(t *testing.T) {
	m := newMachine(t)
	a := m.start(100 * time.Second)
	var pods []pod
	for i := range 2 {
		p := m.newPod(i + 1)
		pods = append(pods, p)
		serve(t, p.peer, p.ipv4)
		c := dial(t, p.Namespace, "udp", p.ipv4+":53")
		c.ask("ok.example.com.", dnsmessage.TypeA)
		c.ask("nx.example.com.", []dnsmessage.Type{dnsmessage.TypeTXT, dnsmessage.TypeAAAA}[i])
		a.named(p.key, 2)
	}
	want := &v1alpha1.DNS{
		Queries: []*v1alpha1.DNSQueries{{Type: typeA, Count: 2}, {Type: typeTXT, Count: 1}, {Type: typeAAAA, Count: 1}},
		Responses: []*v1alpha1.DNSResponses{
			{Type: typeA, Code: 0, Count: 2}, {Type: typeTXT, Code: 3, Count: 1}, {Type: typeAAAA, Code: 3, Count: 1},
		},
	}
	expect(t, a.node(), want)
	before := a.node()

	// One pod goes. Its state stays for a while, in case that it comes back.
	live := map[uint64]bool{headers.PodNumber(pods[1].key): true, departed: true, headers.Node: true}
	now := time.Now()
	a.forget(live, now)
	expect(t, a.row(pods[0].key), &v1alpha1.DNS{
		Queries:   []*v1alpha1.DNSQueries{{Type: typeA, Count: 1}, {Type: typeTXT, Count: 1}},
		Responses: []*v1alpha1.DNSResponses{{Type: typeA, Code: 0, Count: 1}, {Type: typeTXT, Code: 3, Count: 1}},
	})
	a.forget(live, now.Add(linger))
	expect(t, a.row(pods[0].key), &v1alpha1.DNS{})
	if names := a.row(pods[0].key).Names; names != nil {
		t.Errorf("names of a pod that has gone: %v", names)
	}
	if after := a.node(); !proto.Equal(after, before) {
		t.Errorf("the node had %v, and then %v", before, after)
	}
	if name := a.PeerName(headers.PodNumber(pods[0].key), netip.MustParseAddr("192.0.2.2")); name != "" {
		t.Errorf("the pod is forgotten, but its address is %q", name)
	}
	if name := a.PeerName(headers.PodNumber(pods[1].key), netip.MustParseAddr("192.0.2.2")); name != "ok.example.com" {
		t.Errorf("the other pod's address is %q", name)
	}
}

// What pods lose for want of a budget is the node's loss as well, whether their rows are read or not, and stays so when
// they go and when the agent is another one.
func TestNodeLosesWhatPodsLose(t *testing.T) {
	m := newMachine(t)
	a := m.start(100 * time.Second)
	p, quiet := m.newPod(1), m.newPod(2)
	for _, one := range []pod{p, quiet} {
		serve(t, one.peer, one.ipv4)
	}
	clients := make([]*client, 8) // one alone may wait so long for each answer, on a busy machine, that the budget does for all
	for i := range clients {
		clients[i] = dial(t, p.Namespace, "udp", p.ipv4+":53")
	}
	var lost int64
	fakepod.Eventually(t, "a second with more answers than the budget", func() bool {
		var asking sync.WaitGroup
		for _, c := range clients {
			asking.Go(func() {
				for range bpf.MaxEvents / 2 {
					c.ask("ok.example.com.", dnsmessage.TypeA)
				}
			})
		}
		asking.Wait()
		now := a.node().Lost
		if now < lost {
			t.Errorf("the node had lost %d, and then %d", lost, now)
		}
		lost = now
		return lost > 0
	})
	dial(t, quiet.Namespace, "udp", quiet.ipv4+":53").ask("ok.example.com.", dnsmessage.TypeA)
	if of := a.row(p.key).Lost; of != lost || a.row(quiet.key).Lost != 0 {
		t.Errorf("the pod has lost %d, and the node %d", of, lost)
	}

	now := time.Now()
	live := map[uint64]bool{headers.PodNumber(quiet.key): true, departed: true, headers.Node: true}
	a.forget(live, now)
	a.forget(live, now.Add(linger))
	if got := a.node().Lost; got != lost || a.row(p.key).Lost != 0 {
		t.Errorf("the pod has gone, and the node has lost %d, want %d", got, lost)
	}
	a.stop()
	if got := m.start(100 * time.Second).node().Lost; got != lost {
		t.Errorf("the next agent says that the node has lost %d, want %d", got, lost)
	}
}

// A pod in the node's network is seen by its sockets: there the answer's address is another one than the query's when a
// Service is between them.
func TestHostNetwork(t *testing.T) {
	unified := fakepod.Unified(t)
	m := newMachine(t)
	node, peer := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, peer, "eth0", "host0", 1)
	node.RunInput("table ip nat { chain output { type nat hook output priority -100; ip daddr 10.96.0.10 dnat to 10.99.1.2\n}\n}\n", "nft", "-f", "-")
	node.Run("ip", "route", "add", "10.96.0.0/16", "via", "10.99.1.2")
	serve(t, peer, "10.99.1.2", "fd99:1::2")

	process := fakepod.Sleep(t, 0)
	key := fakepod.UID()
	path := fakepod.Prefix() + "/pod" + key
	fakepod.Cgroup(t, unified, path, process.PID)
	programs := m.programs(key, traffic.Cgroup)
	for direction, kind := range []ebpf.AttachType{ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress} {
		attached, err := link.AttachCgroup(link.CgroupOptions{Path: filepath.Join(unified, path), Attach: kind, Program: programs[direction]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { attached.Close() })
	}
	a := m.start(100 * time.Second)
	asking := func(network, address string) {
		t.Helper()
		var c *client
		inCgroup(t, filepath.Join(unified, path), func() { c = dial(t, node, network, address) })
		c.ask("ok.example.com.", dnsmessage.TypeA)
	}
	asking("udp", "10.96.0.10:53")
	asking("tcp", "10.96.0.10:53")
	asking("udp", "10.99.1.2:53")
	asking("udp", "[fd99:1::2]:53")
	asking("tcp", "[fd99:1::2]:53")
	dial(t, node, "udp", "10.96.0.10:53").ask("nx.example.com.", dnsmessage.TypeA) // not of the pod
	a.named(key, 5)
	row := a.row(key)
	expect(t, row, &v1alpha1.DNS{
		Queries:   []*v1alpha1.DNSQueries{{Type: typeA, Count: 5}},
		Responses: []*v1alpha1.DNSResponses{{Type: typeA, Code: 0, Count: 5}},
	})
	if answered(row) != 5 {
		t.Errorf("%d of 5 answers were paired", answered(row))
	}
}

// inCgroup opens sockets as a process of a cgroup would: a socket belongs to the cgroup that its maker is in.
func inCgroup(t *testing.T, cgroup string, do func()) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := "/"
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = path
		}
	}
	move := func(path string) {
		if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatalf("moving between cgroups: %v", err)
		}
	}
	move(cgroup)
	defer move(filepath.Join(fakepod.Unified(t), home))
	do()
}

// A flood of responses that a pod did not ask for is counted, costs the agent nothing, and another pod's numbers stay
// exact. A flood of exchanges loses names, which are counted.
func TestFlood(t *testing.T) {
	m := newMachine(t)
	victim, other := m.newPod(1), m.newPod(2)
	serve(t, victim.peer, victim.ipv4)
	serve(t, other.peer, other.ipv4)
	a := m.start(100 * time.Second)
	c := dial(t, other.Namespace, "udp", other.ipv4+":53")

	const packets = 50_000
	var flood net.PacketConn
	victim.peer.Do(func() {
		var err error
		if flood, err = net.ListenPacket("udp", "[fd99:1::2]:53"); err != nil {
			t.Error(err)
		}
	})
	if flood == nil {
		t.FailNow()
	}
	defer flood.Close()
	to := &net.UDPAddr{IP: net.ParseIP("fd99:1::1"), Port: 40000}
	for i := range packets {
		message := packQuery(t, uint16(i), fmt.Sprintf("spoofed-%d.example.", i), dnsmessage.Type(i%5000+1))
		message[2] |= 0x80
		message[3] |= byte(i % 4)
		if _, err := flood.WriteTo(message, to); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			c.ask("ok.example.com.", dnsmessage.TypeA)
		}
	}
	row := a.row(victim.key)
	expect(t, row, &v1alpha1.DNS{Responses: []*v1alpha1.DNSResponses{
		{Type: otherTypes, Code: 0, Count: packets / 4}, {Type: otherTypes, Code: 1, Count: packets / 4},
		{Type: otherTypes, Code: 2, Count: packets / 4}, {Type: otherTypes, Code: 3, Count: packets / 4},
	}})
	if answered(row) != 0 || row.Names != nil {
		t.Errorf("spoofed responses were taken for answers: %v", row)
	}

	const exchanges = 3000
	mine := dial(t, victim.Namespace, "udp", victim.ipv4+":53")
	for i := range exchanges {
		mine.ask(fmt.Sprintf("ok.%d.example.", i), dnsmessage.TypeA)
	}
	row = a.row(victim.key)
	if answered(row) != exchanges || row.Queries[0].Count != exchanges {
		t.Errorf("%d queries, %d answers, want %d", row.Queries[0].Count, answered(row), exchanges)
	}
	fakepod.Eventually(t, "naming what was not lost", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		asked := a.asked[headers.PodNumber(victim.key)]
		if asked == nil {
			return false // no event has been read yet
		}
		var named int64
		for _, e := range asked.entries {
			named += e.count
		}
		return named == exchanges-row.Lost && len(asked.entries) <= asked.places
	})
	a.named(other.key, packets/1000)
	row = a.row(other.key)
	expect(t, row, &v1alpha1.DNS{
		Queries:   []*v1alpha1.DNSQueries{{Type: typeA, Count: packets / 1000}},
		Responses: []*v1alpha1.DNSResponses{{Type: typeA, Code: 0, Count: packets / 1000}},
	})
}

func TestWithoutNames(t *testing.T) {
	m := newMachine(t)
	p := m.newPod(1)
	serve(t, p.peer, p.ipv4)
	config := Config{Root: m.root, Shared: m.shared}
	a := m.startWith(config, time.Millisecond)
	c := dial(t, p.Namespace, "udp", p.ipv4+":53")
	c.send("silent.example.com.", dnsmessage.TypeA)
	fakepod.Eventually(t, "giving up", func() bool { return a.row(p.key).Unanswered == 1 })
	a.stop()
	a = m.startWith(config, 100*time.Second) // an answer takes longer than a millisecond, too
	c.ask("ok.example.com.", dnsmessage.TypeA)
	row := a.row(p.key)
	expect(t, row, &v1alpha1.DNS{
		Queries:    []*v1alpha1.DNSQueries{{Type: typeA, Count: 2}},
		Responses:  []*v1alpha1.DNSResponses{{Type: typeA, Code: 0, Count: 1}},
		Unanswered: 1,
	})
	if row.Names != nil || a.PeerName(headers.PodNumber(p.key), netip.MustParseAddr("192.0.2.2")) != "" {
		t.Errorf("names are kept: %v", row.Names)
	}
}

func TestNoMaps(t *testing.T) {
	c := New(Config{Names: 20})
	defer c.Close()
	if state, message := c.State(); state != v1alpha1.Collector_STATE_OFF || message == "" {
		t.Errorf("state %v: %s", state, message)
	}
	var podRow v1alpha1.PodStats
	var nodeRow v1alpha1.NodeStats
	c.Follow(nil)
	c.Run(context.Background())
	if err := errors.Join(c.ReadPod(&podmap.Pod{}, &podRow), c.ReadNode(&nodeRow)); err != nil || podRow.Dns != nil || nodeRow.Dns != nil {
		t.Errorf("rows %v and %v (%v)", podRow.Dns, nodeRow.Dns, err)
	}
}

// Each hook can be missing; the rest works, and the state says what is not there.
func TestMissingHooks(t *testing.T) {
	m := newMachine(t)
	full := New(Config{Root: m.root, Shared: m.shared, Names: 20})
	full.Close()
	for hook, want := range map[string]v1alpha1.Collector_State{
		"inspectors": v1alpha1.Collector_STATE_DEGRADED, "cgroup_inspectors": v1alpha1.Collector_STATE_DEGRADED,
		"syscall": v1alpha1.Collector_STATE_DEGRADED,
	} {
		t.Run(hook, func(t *testing.T) {
			c := New(Config{Root: m.root, Shared: m.shared, Names: 20, Without: []string{hook}})
			defer c.Close()
			if state, message := c.State(); state != want || !strings.Contains(message, hook) {
				t.Errorf("state %v: %s", state, message)
			}
			if array := m.shared[hook]; array != nil {
				var id uint32
				if err := array.Lookup(headers.InspectDNS, &id); !errors.Is(err, ebpf.ErrKeyNotExist) {
					t.Errorf("the former program is still there: %d (%v)", id, err)
				}
			}
		})
	}
	c := New(Config{Root: m.root, Shared: m.shared, Without: []string{"inspectors", "cgroup_inspectors"}})
	defer c.Close()
	if state, message := c.State(); state != v1alpha1.Collector_STATE_OFF || message == "" {
		t.Errorf("state %v: %s", state, message)
	}
}

// BenchmarkRead is what the rows of a full node cost.
func BenchmarkRead(b *testing.B) {
	m := newMachine(b)
	c := New(Config{Root: m.root, Shared: m.shared, Names: 20})
	defer c.Close()
	var pods []*podmap.Pod
	for range 110 {
		p := &podmap.Pod{Key: fakepod.UID()}
		pods = append(pods, p)
		counted := bpf.Pod{TypeMarks: [bpf.Types]uint32{1 | 1<<16, 28 | 1<<16}}
		counted.Queries[0], counted.Responses[0][0] = 1, 1
		if err := c.maps[bpf.Pods].Put(headers.PodNumber(p.Key), &counted); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	for b.Loop() {
		for _, p := range pods {
			if err := c.ReadPod(p, &v1alpha1.PodStats{}); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.ReadNode(&v1alpha1.NodeStats{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExchange is what a packet of DNS costs in the kernel, with its counting and with pairing behind it. Times are
// the kernel's own, of each of the two programs.
func BenchmarkExchange(b *testing.B) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skipf("the kernel does not measure programs: %v", err)
	}
	defer stats.Close()
	m := newMachine(b)
	p := m.newPod(1)
	serve(b, p.peer, p.ipv4)
	c := dial(b, p.Namespace, "udp", p.ipv4+":53")
	measure := func(b *testing.B) {
		var before [2]*ebpf.ProgramStats
		for direction, program := range p.programs {
			if before[direction], err = program.Stats(); err != nil {
				b.Fatal(err)
			}
		}
		for b.Loop() {
			c.ask("ok.my-namespace.svc.cluster.local.", dnsmessage.TypeA)
		}
		for direction, unit := range []string{"receive-ns/packet", "transmit-ns/packet"} {
			after, err := p.programs[direction].Stats()
			if err != nil {
				b.Fatal(err)
			}
			spent, count := after.Runtime-before[direction].Runtime, after.RunCount-before[direction].RunCount
			b.ReportMetric(float64(spent.Nanoseconds())/float64(count), unit)
		}
	}
	b.Run("counted only", measure)
	collector := New(Config{Root: m.root, Shared: m.shared, Names: 20})
	defer collector.Close()
	b.Run("paired", measure)
}
