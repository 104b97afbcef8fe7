package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/rates"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An agent is the part of the agent that these tests need: a collector that follows the test's own pods only.
type agent struct {
	t         testing.TB
	collector *Collector
	pods      *podmap.Map
	stop      func()
}

func startAgent(t testing.TB, config Config, fakes ...*fakepod.Pod) *agent {
	t.Helper()
	return startWith(t, New(config), fakes...)
}

func startWith(t testing.TB, collector *Collector, fakes ...*fakepod.Pod) *agent {
	t.Helper()
	mine := map[string]bool{}
	for _, fake := range fakes {
		mine[fake.UID] = true
	}
	follow := func(pods []*podmap.Pod) {
		var own []*podmap.Pod
		for _, pod := range pods {
			if mine[pod.Key] {
				own = append(own, pod)
			}
		}
		collector.Follow(own)
	}
	pods, err := podmap.New(podmap.Config{Changed: follow})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- pods.Run(ctx, func() { close(ready) }) }()
	a := &agent{t: t, collector: collector, pods: pods}
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("following pods: %v", err)
		}
		collector.Close()
	})
	t.Cleanup(a.stop)
	<-ready
	for _, fake := range fakes {
		fakepod.Eventually(t, "counting pod "+fake.UID, func() bool { return a.interfaces(fake) > 0 }, func() string {
			state, message := collector.State()
			_, known := pods.Lookup(fake.UID)
			return fmt.Sprintf("the pod is known: %v, state %v: %s", known, state, message)
		})
	}
	return a
}

func (a *agent) interfaces(fake *fakepod.Pod) int {
	t := a.collector.snapshot()[fake.UID]
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.interfaces)
}

func (a *agent) totals(fake *fakepod.Pod) bpf.Totals {
	a.t.Helper()
	t := a.collector.snapshot()[fake.UID]
	if t == nil {
		a.t.Fatalf("pod %s is not counted", fake.UID)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	totals, err := t.ledger.read()
	if err != nil {
		a.t.Fatal(err)
	}
	return totals
}

func (a *agent) row(fake *fakepod.Pod) (*v1alpha1.PodStats, error) {
	a.t.Helper()
	pod, ok := a.pods.Lookup(fake.UID)
	if !ok {
		a.t.Fatalf("pod %s is not known", fake.UID)
	}
	row := &v1alpha1.PodStats{Measurement: &v1alpha1.Measurement{}}
	return row, a.collector.ReadPod(pod, row)
}

// An oracle counts with nftables in a namespace what crosses an interface, in the cells that the programs have.
type oracle struct{ *fakepod.Namespace }

var cellNames = []string{"ipv4_unicast", "ipv4_non_unicast", "ipv6_unicast", "ipv6_non_unicast", "non_ip"}

func newOracle(n *fakepod.Namespace, devices ...string) oracle {
	rules := []string{
		"ip daddr 224.0.0.0/4 counter name %s_ipv4_non_unicast accept",
		"ip daddr 255.255.255.255 counter name %s_ipv4_non_unicast accept",
		"ether type ip ether daddr ff:ff:ff:ff:ff:ff counter name %s_ipv4_non_unicast accept",
		"meta protocol ip counter name %s_ipv4_unicast accept",
		"ip6 daddr ff00::/8 counter name %s_ipv6_non_unicast accept",
		"meta protocol ip6 counter name %s_ipv6_unicast accept",
		"counter name %s_non_ip accept",
	}
	var text strings.Builder
	fmt.Fprintln(&text, "table netdev oracle {")
	for hook, direction := range map[string]string{"ingress": "receive", "egress": "transmit"} {
		for _, cell := range cellNames {
			fmt.Fprintf(&text, "counter %s_%s { }\n", direction, cell)
		}
		for i, device := range devices {
			fmt.Fprintf(&text, "chain %s%d {\ntype filter hook %s device %q priority 0; policy accept;\n", hook, i, hook, device)
			for _, rule := range rules {
				fmt.Fprintf(&text, rule+"\n", direction)
			}
			fmt.Fprintln(&text, "}")
		}
	}
	fmt.Fprintln(&text, "}")
	n.RunInput(text.String(), "nft", "-f", "-")
	return oracle{n}
}

// read gives packets as socket buffers, which is what nftables sees, and IP-level bytes: on egress it sees the
// Ethernet header too.
func (o oracle) read() bpf.Totals {
	var listing struct {
		Nftables []struct {
			Counter struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(o.Run("nft", "-j", "list", "counters")), &listing); err != nil {
		panic(err)
	}
	var totals bpf.Totals
	for _, entry := range listing.Nftables {
		for _, direction := range directions {
			for cell, name := range cellNames {
				if entry.Counter.Name != direction.String()+"_"+name {
					continue
				}
				bytes := entry.Counter.Bytes
				if direction == bpf.Transmit {
					bytes -= 14 * entry.Counter.Packets
				}
				totals.Cells[direction][cell] = bpf.Counters{Packets: entry.Counter.Packets, Bytes: bytes, Buffers: entry.Counter.Packets}
			}
		}
	}
	return totals
}

// both reads collector and oracle at a moment in which nothing is counted: the kernel sends some packets of its own.
func both(t testing.TB, a *agent, pod *fakepod.Pod, o oracle) (counted, oracled bpf.Totals) {
	t.Helper()
	fakepod.Eventually(t, "a quiet moment", func() bool {
		counted = a.totals(pod)
		oracled = o.read()
		return counted == a.totals(pod)
	})
	return counted, oracled
}

func minus(a, b bpf.Totals) bpf.Totals {
	for d := range a.Cells {
		for c := range a.Cells[d] {
			a.Cells[d][c].Packets -= b.Cells[d][c].Packets
			a.Cells[d][c].Bytes -= b.Cells[d][c].Bytes
			a.Cells[d][c].Buffers -= b.Cells[d][c].Buffers
		}
	}
	return a
}

// sendUDP sends count datagrams of size bytes from one namespace to an address.
func sendUDP(t testing.TB, from *fakepod.Namespace, to string, count, size int) {
	t.Helper()
	var socket net.Conn
	var err error
	from.Do(func() { socket, err = net.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	payload := make([]byte, size)
	for range count {
		if _, err := socket.Write(payload); err != nil && !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
	}
}

// sink receives and forgets datagrams, so that no ICMP error comes back.
func sink(t testing.TB, in *fakepod.Namespace, address string) {
	t.Helper()
	var socket net.PacketConn
	var err error
	in.Do(func() { socket, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		for {
			if _, _, err := socket.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { socket.Close(); <-done })
}

// transferTCP sends size bytes over one connection, and waits until both ends have closed it.
func transferTCP(t testing.TB, from, to *fakepod.Namespace, address string, size int) {
	t.Helper()
	var listener net.Listener
	var err error
	to.Do(func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	received := make(chan int64, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			received <- -1
			return
		}
		n, _ := io.Copy(io.Discard, connection)
		connection.Close()
		received <- n
	}()
	var connection net.Conn
	from.Do(func() { connection, err = net.Dial("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connection.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = connection.(*net.TCPConn).CloseWrite()
	if n := <-received; n != int64(size) {
		t.Fatalf("%d bytes arrived, %d were sent", n, size)
	}
	_, _ = io.Copy(io.Discard, connection) // until the other end's FIN
	connection.Close()
}

// hooksToTest are the ways of attaching: what one counts, the other must count.
func hooksToTest(t *testing.T, test func(t *testing.T, config Config)) {
	for _, hook := range []Hook{TCX, Clsact} {
		t.Run(string(hook), func(t *testing.T) {
			test(t, Config{BPFFS: fakepod.BPFFS(t), Node: "node-1.example", Hook: hook, CgroupRoot: fakepod.Unified(t)})
		})
	}
}

// pair is a pod eth0 joined to a peer, with permanent neighbours, so that nothing else is sent.
func pair(t *testing.T) (pod *fakepod.Pod, peer *fakepod.Namespace) {
	pod, peer = fakepod.New(t, fakepod.Prefix()), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "host0", 1)
	return pod, peer
}

func TestKnownAmountsAgainstNftables(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		pod, peer := pair(t)
		a := startAgent(t, config, pod)
		o := newOracle(pod.Namespace, "eth0")
		sink(t, peer, "10.99.1.2:7000")
		sink(t, peer, "[fd99:1::2]:7000")
		counted, oracled := both(t, a, pod, o)

		sendUDP(t, pod.Namespace, "10.99.1.2:7000", 1000, 700)
		sendUDP(t, pod.Namespace, "[fd99:1::2]:7000", 1000, 900)
		sendUDP(t, pod.Namespace, "10.99.1.2:7000", 10, 4000) // three fragments each
		sendUDP(t, peer, "10.99.1.1:7001", 300, 100)          // answered by ICMP, at a limited rate
		pod.Run("ip", "route", "add", "239.0.0.0/8", "dev", "eth0")
		sendUDP(t, pod.Namespace, "239.1.1.1:7000", 50, 100)

		countedAfter, oracledAfter := both(t, a, pod, o)
		got, want := minus(countedAfter, counted), minus(oracledAfter, oracled)
		if got != want {
			t.Errorf("counted  %v\nnftables %v", got, want)
		}
		least := bpf.Counters{Packets: 1000 + 30, Bytes: 1000*(700+28) + 10*(4000+8+3*20), Buffers: 1030}
		if u := got.Cells[bpf.Transmit][bpf.IPv4Unicast]; u.Packets < least.Packets || u.Bytes < least.Bytes {
			t.Errorf("IPv4 unicast sent = %v, want at least %v", u, least)
		}
		if m := got.Cells[bpf.Transmit][bpf.IPv4NonUnicast]; m != (bpf.Counters{Packets: 50, Bytes: 50 * 128, Buffers: 50}) {
			t.Errorf("IPv4 multicast sent = %v, want 50 packets of 128 bytes", m)
		}
	})
}

// A super-packet counts as its segments. The last hop lets none through, so the receiver sees what the wire would.
func TestSegmentsAgainstReceiver(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		sender, router := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix())
		receiver := fakepod.NewNamespace(t)
		fakepod.Connect(sender.Namespace, router.Namespace, "eth0", "eth0", 1)
		fakepod.Connect(router.Namespace, receiver, "eth1", "eth0", 2)
		router.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		router.Run("ip", "link", "set", "dev", "eth1", "gso_max_segs", "1")
		sender.Run("ip", "route", "add", "default", "via", "10.99.1.2")
		sender.Run("ip", "-6", "route", "add", "default", "via", "fd99:1::2")
		receiver.Run("ip", "route", "add", "default", "via", "10.99.2.1")
		receiver.Run("ip", "-6", "route", "add", "default", "via", "fd99:2::1")
		a := startAgent(t, config, sender, router)
		fakepod.Eventually(t, "both interfaces of the router", func() bool { return a.interfaces(router) == 2 })

		for _, test := range []struct {
			name, address, match string
			cell                 bpf.Cell
		}{
			{"IPv4", "10.99.2.2:7000", "meta nfproto ipv4", bpf.IPv4Unicast},
			{"IPv6", "[fd99:2::2]:7000", "meta nfproto ipv6", bpf.IPv6Unicast},
		} {
			t.Run(test.name, func(t *testing.T) {
				receiver.RunInput(fmt.Sprintf(`table inet wire {
					counter in { }
					counter out { }
					chain i { type filter hook prerouting priority 0; %[1]s tcp dport 7000 counter name in; }
					chain o { type filter hook output priority 0; %[1]s tcp sport 7000 counter name out; }
				}`, test.match), "nft", "-f", "-")
				defer receiver.Run("nft", "delete", "table", "inet", "wire")
				var sent, forwarded bpf.Totals
				withoutLoss(t, func() {
					receiver.Run("nft", "reset", "counters")
					sent, forwarded = a.totals(sender), a.totals(router)
					transferTCP(t, sender.Namespace, receiver, test.address, 20_000_000)
				})
				// The last acknowledgment may still be on its way through the sockets.
				var in, out, s, r bpf.Counters
				fakepod.Eventually(t, "equal counts", func() bool {
					in, out = wire(t, receiver)
					s = minus(a.totals(sender), sent).Cells[bpf.Transmit][test.cell]
					r = minus(a.totals(sender), sent).Cells[bpf.Receive][test.cell]
					return s.Packets >= in.Packets && r.Packets >= out.Packets
				}, func() string {
					return fmt.Sprintf("sender: sent %v, received %v; on the wire: sent %v, received %v; the router: %v",
						s, r, in, out, minus(a.totals(router), forwarded))
				})
				if s.Buffers*2 > s.Packets {
					t.Errorf("%d buffers for %d packets: there were no super-packets", s.Buffers, s.Packets)
				}
				check(t, "sender, transmitted", s, in)
				check(t, "sender, received", r, out)
				f := minus(a.totals(router), forwarded)
				check(t, "router, received", f.Cells[bpf.Receive][test.cell], plus(in, out))
				check(t, "router, transmitted", f.Cells[bpf.Transmit][test.cell], plus(in, out))
				t.Logf("%s: %d buffers, %d packets, %d bytes", test.name, s.Buffers, s.Packets, s.Bytes)
			})
		}
	})
}

// withoutLoss repeats do until the kernel dropped nothing meanwhile between the two ends of a veth: on a machine that is
// busy with other things it does, and what was lost there was sent but has not arrived.
func withoutLoss(t *testing.T, do func()) {
	t.Helper()
	for range 20 {
		before := dropped(t)
		do()
		if after := dropped(t); after == before {
			return
		}
	}
	t.Skip("this machine is too busy: packets were lost each of 20 times")
}

// dropped is the sum of the second column of /proc/net/softnet_stat: packets for which a CPU's backlog had no place.
func dropped(t *testing.T) (sum uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		count, err := strconv.ParseUint(strings.Fields(line)[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += count
	}
	return sum
}

func check(t *testing.T, what string, got, want bpf.Counters) {
	t.Helper()
	if got.Packets != want.Packets || got.Bytes != want.Bytes {
		t.Errorf("%s: %d packets, %d bytes; on the wire %d packets, %d bytes", what, got.Packets, got.Bytes, want.Packets, want.Bytes)
	}
}

func plus(a, b bpf.Counters) bpf.Counters {
	return bpf.Counters{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

func wire(t *testing.T, n *fakepod.Namespace) (in, out bpf.Counters) {
	t.Helper()
	var listing struct {
		Nftables []struct {
			Counter struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(n.Run("nft", "-j", "list", "counters")), &listing); err != nil {
		t.Fatal(err)
	}
	for _, entry := range listing.Nftables {
		switch entry.Counter.Name {
		case "in":
			in = bpf.Counters{Packets: entry.Counter.Packets, Bytes: entry.Counter.Bytes}
		case "out":
			out = bpf.Counters{Packets: entry.Counter.Packets, Bytes: entry.Counter.Bytes}
		}
	}
	return in, out
}

func TestTwoCPUs(t *testing.T) {
	pod, peer := pair(t)
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto}, pod)
	sink(t, peer, "10.99.1.2:7000")
	before := a.totals(pod)
	const senders, each = 4, 20_000
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			var set unix.CPUSet
			set.Set(i % 2)
			pod.Do(func() {
				if err := unix.SchedSetaffinity(0, &set); err != nil {
					t.Error(err)
				}
				socket, err := net.Dial("udp", "10.99.1.2:7000")
				if err != nil {
					t.Error(err)
					return
				}
				defer socket.Close()
				for range each {
					if _, err := socket.Write(make([]byte, 72)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		})
	}
	group.Wait()
	want := bpf.Counters{Packets: senders * each, Bytes: senders * each * 100, Buffers: senders * each}
	if got := minus(a.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// Agents come and go while a pod sends; what is attached goes on counting.
func TestRestartUnderTraffic(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		pod, peer := pair(t)
		sink(t, peer, "10.99.1.2:7000")
		first := startAgent(t, config, pod)
		row, err := first.row(pod)
		if err != nil {
			t.Fatal(err)
		}
		started := row.Measurement.StartUnixNano
		before := first.totals(pod)
		first.stop()

		done := make(chan struct{})
		const count = 100_000
		go func() {
			defer close(done)
			sendUDP(t, pod.Namespace, "10.99.1.2:7000", count, 72)
		}()
		restarts := 0
		for sending := true; sending; restarts++ {
			startAgent(t, config, pod).stop()
			select {
			case <-done:
				sending = false
			default:
			}
		}
		last := startAgent(t, config, pod)
		want := bpf.Counters{Packets: count, Bytes: count * 100, Buffers: count}
		if got := minus(last.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
			t.Errorf("after %d restarts: counted %v, want %v", restarts, got, want)
		}
		if row, err = last.row(pod); err != nil || row.Measurement.StartUnixNano != started {
			t.Errorf("counting began at %d, and after restarts at %d (%v)", started, row.Measurement.StartUnixNano, err)
		}
		if row.Traffic.Transmit.GetBypassed() != 0 {
			t.Errorf("bypassed = %d, want 0", row.Traffic.Transmit.GetBypassed())
		}
		t.Logf("%d restarts", restarts)
	})
}

func TestPinsGoWithThePod(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "node-1.example", Hook: TCX}
	pod, _ := pair(t)
	a := startAgent(t, config, pod)
	pins := func() (found []string) {
		_ = filepath.WalkDir(pins.Root(config.BPFFS, config.Node), func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && !strings.Contains(path, "totals-") {
				found = append(found, path)
			}
			return nil
		})
		return found
	}
	if n := len(pins()); n != 2 {
		t.Fatalf("%d links are pinned, want 2: %v", n, pins())
	}
	pod.End()
	fakepod.Eventually(t, "no pins", func() bool { return len(pins()) == 0 })
	if state, message := a.collector.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Errorf("state %v, %s", state, message)
	}
}

func TestInterfaceThatComesLaterIsCounted(t *testing.T) {
	pod, peer := pair(t)
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto}, pod)
	fakepod.Connect(pod.Namespace, peer, "net1", "host1", 2)
	fakepod.Eventually(t, "counting net1", func() bool { return a.interfaces(pod) == 2 })
	sink(t, peer, "10.99.2.2:7000")
	before := a.totals(pod)
	sendUDP(t, pod.Namespace, "10.99.2.2:7000", 100, 72)
	want := bpf.Counters{Packets: 100, Bytes: 10_000, Buffers: 100}
	if got := minus(a.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// An interface that was deleted and made anew with the same number, between two looks, is another one.
func TestInterfaceMadeAnewIsCounted(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		pod, peer := pair(t)
		a := startAgent(t, config, pod)
		before := a.totals(pod)
		pod.RunInput(fmt.Sprintf("link del eth0\nlink add name eth0 index %d type veth peer name host0 netns %d\n"+
			"address add 10.99.1.1/24 dev eth0\nneighbour add 10.99.1.2 lladdr 02:99:00:00:01:02 dev eth0\nlink set eth0 up\n",
			eth0(t, pod), peer.PID), "ip", "-batch", "-")
		peer.Run("ip", "link", "set", "dev", "host0", "up")
		fakepod.Eventually(t, "counting the new interface", func() bool {
			sendUDP(t, pod.Namespace, "10.99.1.2:7000", 1, 72)
			return minus(a.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast].Packets > 0
		})
		row, err := a.row(pod)
		if err != nil || row.Traffic.Transmit.Bypassed == nil {
			t.Errorf("bypassed is %v (%v)", row.Traffic.Transmit.Bypassed, err)
		}
	})
}

// A pod can make interfaces without end. What it is beyond the limit is said.
func TestTooManyInterfaces(t *testing.T) {
	pod, peer := pair(t)
	var commands strings.Builder
	for i := range mostInterfaces + 5 {
		fmt.Fprintf(&commands, "link add name v%d type veth peer name p%d netns %d\n", i, i, peer.PID)
	}
	pod.RunInput(commands.String(), "ip", "-batch", "-")
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto}, pod)
	if n := a.interfaces(pod); n != mostInterfaces {
		t.Errorf("%d interfaces are counted on, want %d", n, mostInterfaces)
	}
	if a.collector.snapshot()[pod.UID].interfaces[eth0(t, pod)] == nil {
		t.Error("the first interface is not counted on")
	}
	want := fmt.Sprintf("6 of %d interfaces are left out", mostInterfaces+6)
	if state, message := a.collector.State(); state != v1alpha1.Collector_STATE_DEGRADED || !strings.Contains(message, want) {
		t.Errorf("state %v: %s, want %s", state, message, want)
	}
}

// eth0 is the index of the pod's interface.
func eth0(t *testing.T, pod *fakepod.Pod) (index int) {
	t.Helper()
	pod.Do(func() {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		index = iface.Index
	})
	return index
}

func TestCleanupRemovesEverything(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		pod, _ := pair(t)
		a := startAgent(t, config, pod)
		known, _ := a.pods.Lookup(pod.UID)
		if _, err := Cleanup(config.BPFFS, config.Node, []*podmap.Pod{known}); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Join(config.BPFFS, "networkobservability")); err == nil {
			t.Errorf("left behind: %v", left)
		}
		for _, direction := range []string{"ingress", "egress"} {
			if out := pod.Run("tc", "filter", "show", "dev", "eth0", direction); out != "" {
				t.Errorf("left behind on %s: %s", direction, out)
			}
		}
	})
}

// The kernel takes nearly any byte in an interface's name; cleanup prints what it removed on a terminal.
func TestCleanupEscapesNames(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Clsact}
	pod, _ := pair(t)
	a := startAgent(t, config, pod)
	pod.Run("ip", "link", "set", "dev", "eth0", "down")
	pod.Run("ip", "link", "set", "dev", "eth0", "name", "\x1b[2J\xff")
	known, _ := a.pods.Lookup(pod.UID)
	removed, err := Cleanup(config.BPFFS, config.Node, []*podmap.Pod{known})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(removed, "\n"); !strings.Contains(text, `"\x1b[2J\xff"`) || strings.Contains(text, "\x1b") {
		t.Errorf("removed %q", text)
	}
}

func TestRates(t *testing.T) {
	const age, sent = 6 * time.Second, 800 // a sample that is older than 10 s serves no longer
	pod, peer := pair(t)
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto}, pod)
	sink(t, peer, "10.99.1.2:7000")
	first, err := a.row(pod)
	if err != nil || first.Measurement.WindowNano != 0 || first.Traffic.Transmit.Rates != nil {
		t.Errorf("the first row has rates %v over %d (%v)", first.Traffic.Transmit.Rates, first.Measurement.WindowNano, err)
	}
	var sampled time.Time
	var row *v1alpha1.PodStats
	for late := true; late; late = time.Since(sampled) >= rates.Longest-age {
		sampled = time.Now()
		a.collector.Sample(sampled.Add(-age))
		sendUDP(t, pod.Namespace, "10.99.1.2:7000", sent, 72)
		if row, err = a.row(pod); err != nil {
			t.Fatal(err)
		}
	}
	window := time.Duration(row.Measurement.WindowNano)
	if window < age || window > age+time.Since(sampled) {
		t.Errorf("window %v, want %v and what has passed since the sample", window, age)
	}
	// The pod may have sent something by itself since the first row: before the sample or after it.
	most := packetsOut(row) - packetsOut(first)
	if got := float64(row.Traffic.Transmit.Rates.GetMilliPackets()) * window.Seconds() / 1000; got < sent-1 || got > float64(most) {
		t.Errorf("%v packets in the window, want %d", got, sent)
	}
}

// packetsOut is how many packets of IPv4 and IPv6 a pod has sent.
func packetsOut(row *v1alpha1.PodStats) (packets int64) {
	d := row.Traffic.Transmit
	for _, c := range []*v1alpha1.Counters{d.Ipv4Unicast, d.Ipv4NonUnicast, d.Ipv6Unicast, d.Ipv6NonUnicast} {
		packets += c.Packets
	}
	return packets
}

// TestReadWhileAttaching reads and asks for the state all the time while pods' interfaces change: neither waits for the
// other for ever.
func TestReadWhileAttaching(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		pod, _ := pair(t)
		a := startAgent(t, config) // which follows no pod: its collector is not the one that is tried
		known, ok := a.pods.Lookup(pod.UID)
		if !ok {
			t.Fatal("the pod is not known")
		}
		c := New(config)
		defer c.Close()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					c.State()
					if err := c.ReadNode(&v1alpha1.NodeStats{Agent: &v1alpha1.AgentInfo{}}); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		for range 50 {
			changed := *known
			changed.Revision++
			changed.NetnsCookie++ // everything is attached to anew
			c.Follow([]*podmap.Pod{&changed})
			c.Follow([]*podmap.Pod{known})
		}
		close(stop)
		<-stopped
	})
}
