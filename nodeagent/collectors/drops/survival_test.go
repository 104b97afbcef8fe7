package drops

import (
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	bpf "github.com/networkobservability/networkobservability/bpf/drops"
	"github.com/networkobservability/networkobservability/bpf/headers"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// Counting goes on while no agent runs, and the next one finds the same program and goes on from there.
func TestRestart(t *testing.T) {
	o := options{bpffs: fakepod.BPFFS(t)}
	w := newWorld(t, o)
	drop(w.router, "forward", 7300)
	to := kind{protocol: udp, port: 7300}
	send(t, w.a.Namespace, "10.99.2.1:7300", times, 100)
	expect(t, w.of(w.a), to, times)
	program, err := w.collector.program.Info()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := program.ID()
	w.stop()

	send(t, w.a.Namespace, "10.99.2.1:7300", times, 100)
	next := startNode(t, o, w.router, w.a, w.b)
	if program, err = next.collector.program.Info(); err != nil {
		t.Fatal(err)
	}
	if after, _ := program.ID(); after != before {
		t.Errorf("program %d took the place of %d, which was the same", after, before)
	}
	send(t, w.a.Namespace, "10.99.2.1:7300", times, 100)
	expect(t, next.of(w.a), to, 3*times)
	expect(t, next.of(w.b), to, 3*times)
	if missed, err := next.collector.missed(); err != nil {
		t.Error(err)
	} else {
		t.Logf("%d events missed", missed)
	}
}

// What a program missed is added up when another one takes its place: here, one with another map.
func TestMissedOutlivesPrograms(t *testing.T) {
	o := options{bpffs: fakepod.BPFFS(t)}
	first := startNode(t, o, nil)
	if err := first.collector.traced.Maps[bpf.Lost].Put(bpf.MissedBefore, uint64(7)); err != nil {
		t.Fatal(err)
	}
	first.stop()
	if err := os.Remove(filepath.Join(first.config.Root, layout, bpf.Accounts)); err != nil {
		t.Fatal(err)
	}
	again := startNode(t, o, nil)
	if missed, err := again.collector.missed(); err != nil || missed < 7 {
		t.Errorf("missed %d (%v), want 7 and what both programs missed", missed, err)
	}
}

// Two agents on one kernel count their own pods' drops only, and each its own namespace's.
func TestOtherNodes(t *testing.T) {
	w := newWorld(t, options{})
	other := newWorld(t, options{})
	drop(w.router, "forward", 7310)
	drop(w.a.Namespace, "output", 7311)
	for _, port := range []int{7310, 7311} {
		send(t, w.a.Namespace, fmt.Sprintf("10.99.2.1:%d", port), times, 100)
		expect(t, w.of(w.a), kind{port: int32(port)}, times)
		// The other node's pods even have the same addresses.
		for _, pod := range []*fakepod.Pod{other.a, other.b} {
			expect(t, other.of(pod), kind{port: int32(port)}, 0)
		}
		expect(t, other.self, kind{port: int32(port)}, 0)
	}
}

// Of a pod that is gone, rows are kept for a while and then deleted, and its account with them.
func TestForgetsThePodsThatAreGone(t *testing.T) {
	w := newWorld(t, options{})
	drop(w.router, "forward", 7320)
	send(t, w.a.Namespace, "10.99.2.1:7320", times, 100)
	expect(t, w.of(w.a), kind{port: 7320}, times)
	expect(t, w.of(w.b), kind{port: 7320}, times)

	c := w.collector
	a, b := headers.PodNumber(w.a.UID), headers.PodNumber(w.b.UID)
	now := time.Now()
	sweep := func(after time.Duration, live ...uint64) {
		t.Helper()
		set := map[uint64]bool{headers.Node: true}
		for _, number := range live {
			set[number] = true
		}
		if err := c.sweep(set, now.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	rows := func(number uint64) (rows int, account bool) {
		t.Helper()
		if err := eachRow(c.traced.Maps[bpf.Rows], func(row *bpf.Row, _ uint64) {
			if row.Pod == number {
				rows++
			}
		}); err != nil {
			t.Fatal(err)
		}
		var found bpf.Account
		return rows, c.traced.Maps[bpf.Accounts].Lookup(number, &found) == nil
	}
	func() {
		c.mu.Lock() // Follow holds it, too: between two sweeps it would say that the pod lives
		defer c.mu.Unlock()
		sweep(0, b)
		sweep(linger, b)
		if n, account := rows(a); n == 0 || !account {
			t.Error("rows of a pod were deleted before their time")
		}
		sweep(linger+time.Second, b)
		if n, account := rows(a); n != 0 || account {
			t.Errorf("%d rows of a pod that is gone, account: %v", n, account)
		}
		if n, account := rows(b); n == 0 || !account {
			t.Error("rows of a pod that lives were deleted")
		}
	}()
	send(t, w.a.Namespace, "10.99.2.1:7320", times, 100) // it has come back
	expect(t, w.of(w.a), kind{port: 7320}, times)
	expect(t, w.of(w.b), kind{port: 7320}, 2*times)
}

// A pod that sends to all ports fills its own rows only, and every packet is counted.
func TestFloodOfPorts(t *testing.T) {
	w := newWorld(t, options{})
	w.router.RunInput(`table inet flood { chain c {
		type filter hook forward priority 0; meta l4proto 17 drop; meta l4proto >= 100 drop
	}
	}`, "nft", "-f", "-")
	forwarded := func() (packets int64) {
		drops := w.pod(w.a)
		for _, d := range drops.Drops {
			if d.Reason == "NETFILTER_DROP" {
				packets += d.Packets
			}
		}
		return packets + drops.Unsorted
	}
	const ports = 5000
	for port := 1; port <= ports; port++ {
		raw(t, w.a.Namespace, datagram(4, udp, 1, 2, 64, udpTo(port, 0)), 1)
	}
	if got := forwarded(); got != ports || w.pod(w.a).Unsorted != 0 {
		t.Errorf("%d packets, want %d, all of them sorted", got, ports)
	}
	// Protocols are no ports; there are enough of them for what is left of the rows.
	const protocols, each = 150, 10
	for protocol := range protocols {
		for _, version := range []int{4, 6} {
			raw(t, w.a.Namespace, datagram(version, byte(100+protocol), 1, 2, 64, udpTo(9, 0)), each)
		}
	}
	if got := forwarded(); got != ports+2*protocols*each {
		t.Errorf("%d packets, want %d", got, ports+2*protocols*each)
	}
	var rows int
	if err := eachRow(w.collector.traced.Maps[bpf.Rows], func(row *bpf.Row, _ uint64) {
		if row.Pod == headers.PodNumber(w.a.UID) {
			rows++
		}
	}); err != nil {
		t.Fatal(err)
	}
	// All that it did was send, but for what the kernel says by itself.
	if rows < bpf.AllRows || rows > bpf.AllRows+20 {
		t.Errorf("%d rows of one pod, want no more than %d in a direction", rows, bpf.AllRows)
	}
	if w.pod(w.a).Unsorted == 0 {
		t.Error("everything was sorted: the test was too small")
	}
	if on := len(w.pod(w.a).Drops); on > most {
		t.Errorf("%d rows on the wire", on)
	}
	// What the other pod, to which all this went, sends itself has its rows.
	send(t, w.b.Namespace, "10.99.1.1:7330", times, 100)
	expect(t, w.of(w.b), kind{direction: transmit, protocol: udp, port: 7330}, times)
}

// While a pod's packets are dropped as fast as it can send, those of another one are counted exactly, and so are its own,
// but for those that interrupted the program.
func TestFlood(t *testing.T) {
	w := newWorld(t, options{flows: true})
	drop(w.a.Namespace, "output", 7430)
	drop(w.router, "forward", 7431)
	const flood, senders = 100_000, 2
	missed, err := w.collector.missed()
	if err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() { send(t, w.a.Namespace, "10.99.2.1:7430", flood, 10) })
	}
	send(t, w.b.Namespace, "10.99.1.1:7431", times, 100)
	sending.Wait()
	missedNow, err := w.collector.missed()
	if err != nil {
		t.Fatal(err)
	}
	got, of := sum(w.pod(w.a), kind{port: 7430}), int64(missedNow-missed)
	if got > senders*flood || got+of < senders*flood {
		t.Errorf("%d drops counted and %d missed, of %d", got, of, senders*flood)
	}
	if of == 0 { // else it may have been one of these
		expect(t, w.of(w.b), kind{direction: transmit, port: 7431}, times)
		expect(t, w.of(w.a), kind{direction: receive, port: 7431}, times)
	}
}

// A pod in the node's network is found by the cgroup of its sockets, and the node has its drops too.
func TestHostNetwork(t *testing.T) {
	unified := fakepod.Unified(t)
	guest := &podmap.Pod{Key: fakepod.UID(), HostNetwork: true, Cgroup: fakepod.Prefix() + "/pod" + fakepod.UID()}
	process := fakepod.Sleep(t, 0)
	fakepod.Cgroup(t, unified, guest.Cgroup+"/container", process.PID)
	w := newWorld(t, options{unified: unified, guests: []*podmap.Pod{guest}})
	drop(w.router, "output", 7340)

	inCgroup(t, filepath.Join(unified, guest.Cgroup, "container"), func() { send(t, w.router, "10.99.1.1:7340", times, 100) })
	send(t, w.router, "10.99.1.1:7340", times, 100) // not of the pod
	to := kind{direction: transmit, attribution: bySocket, protocol: udp, port: 7340}
	expect(t, w.self, to, 2*times)
	if got := sum(w.read(guest), to); got != times {
		t.Errorf("the pod has %d, want %d", got, times)
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

// Drops are noted in the flows of the pods at both ends, unless flows are off or the reason is benign.
func TestFlows(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			w := newWorld(t, options{flows: on})
			drop(w.router, "forward", 7350)
			send(t, w.a.Namespace, "10.99.2.1:7350", times, 100)
			send(t, w.a.Namespace, "[fd99:2::1]:7350", times, 100)
			for _, version := range []int{4, 6} {
				for pod, begunBy := range map[*fakepod.Pod]uint8{w.a: 1, w.b: 0} {
					flow, found := findFlow(t, w.config.Shared, pod, version)
					if !on && found {
						t.Errorf("a flow was marked: %+v", flow)
					}
					if !on {
						continue
					}
					name, class := w.collector.Reason(flow.DropReason)
					if !found || flow.Drops != times || flow.BegunByTransmit != begunBy || flow.LastDrop < flow.First || flow.First == 0 || name != "NETFILTER_DROP" || class != policy {
						t.Errorf("IPv%d: found %v: %+v, %s", version, found, flow, name)
					}
				}
			}
			var table []headers.FlowTable
			if err := w.config.Shared["flow_table"].Lookup(uint32(0), &table); err != nil {
				t.Fatal(err)
			}
			var created uint64
			for _, cpu := range table {
				created += cpu.Created
			}
			if want := map[bool]uint64{true: 4}[on]; created < want || (!on && created != 0) {
				t.Errorf("%d flows created, want %d", created, want)
			}
		})
	}
}

// findFlow finds the flow of a pod with port 7350 at the other end or its own.
func findFlow(t *testing.T, shared map[string]*ebpf.Map, pod *fakepod.Pod, version int) (flow headers.Flow, found bool) {
	t.Helper()
	port := [2]byte{7350 >> 8, 7350 & 0xff}
	number := headers.PodNumber(pod.UID)
	var one headers.Flow
	var entries *ebpf.MapIterator
	if version == 4 {
		var key headers.FlowKey4
		entries = shared["flows4"].Iterate()
		for entries.Next(&key, &one) {
			if key.Pod == number && key.Protocol == udp && (key.LocalPort == port || key.RemotePort == port) {
				if key.Local[2] == key.Remote[2] {
					t.Errorf("a flow from %v to %v", key.Local, key.Remote)
				}
				flow, found = one, true
			}
		}
	} else {
		var key headers.FlowKey6
		entries = shared["flows6"].Iterate()
		for entries.Next(&key, &one) {
			if key.Pod == number && key.Protocol == udp && (key.LocalPort == port || key.RemotePort == port) {
				flow, found = one, true
			}
		}
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return flow, found
}

// Packets that are delivered cost nothing. The program sees whatever else this machine drops meanwhile, so the quietest
// of some tries counts, and there must have been a quiet one.
func TestGoodPacketsAreNotLookedAt(t *testing.T) {
	w := newWorld(t, options{})
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Skipf("the kernel does not measure programs: %v", err)
	}
	defer statistics.Close()
	var socket net.PacketConn
	w.b.Do(func() { socket, err = net.ListenPacket("udp", "10.99.2.1:7360") })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var sender net.Conn
	w.a.Do(func() { sender, err = net.Dial("udp", "10.99.2.1:7360") })
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	runs := func(do func()) uint64 {
		before, err := w.collector.program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		do()
		after, err := w.collector.program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return after.RunCount - before.RunCount
	}
	const packets = 100_000
	buffer := make([]byte, 100)
	transfer := func() {
		for range packets {
			if _, err := sender.Write(buffer); err != nil {
				t.Fatal(err)
			}
			if _, _, err := socket.ReadFrom(buffer); err != nil {
				t.Fatal(err)
			}
		}
	}
	busy, idle := uint64(math.MaxUint64), uint64(0) // the quietest and the noisiest
	for try := 0; try < 5 && busy > packets/1000; try++ {
		began := time.Now()
		busy = min(busy, runs(transfer))
		took := time.Since(began)
		idle = max(idle, runs(func() { <-time.After(took) }))
	}
	t.Logf("%d packets, %d runs; %d in the same time without packets", packets, busy, idle)
	switch {
	case busy <= packets/1000:
	case idle > packets/1000:
		t.Skipf("this machine drops too much by itself: %d packets while the test did nothing", idle)
	default:
		t.Errorf("the program ran %d times while %d packets were delivered", busy, packets)
	}
	expect(t, w.of(w.a), kind{port: 7360}, 0)
	expect(t, w.of(w.b), kind{port: 7360}, 0)
}
