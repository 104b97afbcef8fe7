package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/protocols"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A release that changes the layout adds what its predecessor counted, and goes on from there.
func TestUpgradeFromAnEarlierLayout(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}
	pod, peer := pair(t)
	sink(t, peer, "10.99.1.2:7000")

	old := startAgent(t, config, pod)
	row, err := old.row(pod)
	if err != nil {
		t.Fatal(err)
	}
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 1000, 72)
	before := old.totals(pod)
	old.stop()
	// What the old release had pinned is now under the name of its layout.
	folder := pins.Root(config.BPFFS, config.Node)
	if err := os.Rename(filepath.Join(folder, bpf.Layout), filepath.Join(folder, "totals-v0")); err != nil {
		t.Fatal(err)
	}
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 500, 72) // while no agent runs

	upgrade := func() *agent {
		collector := New(config)
		collector.earlier = []Layout{{Name: "totals-v0", Read: bpf.Read, ReadNotes: bpf.ReadNotes}}
		return startWith(t, collector, pod)
	}
	upgraded := upgrade()
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 250, 72)
	want := bpf.Counters{Packets: 750, Bytes: 75_000, Buffers: 750}
	if got := minus(upgraded.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
	again, err := upgraded.row(pod)
	if err != nil || again.Measurement.StartUnixNano != row.Measurement.StartUnixNano {
		t.Errorf("counting began at %d, and after the upgrade at %d (%v)", row.Measurement.StartUnixNano, again.Measurement.StartUnixNano, err)
	}
	upgraded.stop()

	// The base is still there after the next restart.
	if got := minus(upgrade().totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
		t.Errorf("after a restart: counted %v, want %v", got, want)
	}
}

// What the release before flows had pinned: totals-v1 is the cells alone.
func TestUpgradeFromVersion1(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}
	pod, peer := pair(t)
	sink(t, peer, "10.99.1.2:7000")
	type notes struct {
		Start, Base int64
		_           [28]uint64
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	old, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 240, MaxEntries: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	perCPU := make([]bpf.Cells, cpus)
	for i := range perCPU {
		perCPU[i][bpf.Transmit][bpf.IPv4Unicast] = bpf.Counters{Packets: 30, Bytes: 3000, Buffers: 3}
	}
	folder := filepath.Join(pins.Root(config.BPFFS, config.Node), "totals-v1")
	if err := errors.Join(old.Put(uint32(0), perCPU), old.Put(uint32(1), []notes{{Start: 1_700_000_000_000_000_000, Base: -5}}),
		os.MkdirAll(folder, 0o700), old.Pin(filepath.Join(folder, pod.UID))); err != nil {
		t.Fatal(err)
	}

	a := startAgent(t, config, pod)
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 100, 72)
	want := bpf.Counters{Packets: 30*uint64(cpus) + 100, Bytes: 3000*uint64(cpus) + 10_000, Buffers: 3*uint64(cpus) + 100}
	if got := a.totals(pod).Cells[bpf.Transmit][bpf.IPv4Unicast]; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
	row, err := a.row(pod)
	if err != nil || row.Measurement.StartUnixNano != 1_700_000_000_000_000_000 {
		t.Errorf("counting began at %d (%v)", row.Measurement.StartUnixNano, err)
	}
}

// Counters rise for as long as the pod lives, even if its sandbox, and with it the namespace, is made anew.
func TestSandboxMadeAnew(t *testing.T) {
	prefix := fakepod.Prefix()
	pod, peer := fakepod.New(t, prefix), fakepod.NewNamespace(t)
	fakepod.Connect(pod.Namespace, peer, "eth0", "host0", 1)
	sink(t, peer, "10.99.1.2:7000")
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}, pod)
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 1000, 72)
	before := a.totals(pod)
	pod.End()
	fakepod.Eventually(t, "the end of the first sandbox", func() bool { return a.interfaces(pod) == 0 })

	second := &fakepod.Pod{Namespace: fakepod.NewNamespace(t), UID: pod.UID}
	fakepod.Cgroup(t, fakepod.Hierarchy(t), prefix+"/burstable/pod"+pod.UID+"/sandbox2", second.PID)
	fakepod.Connect(second.Namespace, peer, "eth0", "host1", 2)
	fakepod.Eventually(t, "counting the second sandbox", func() bool { return a.interfaces(second) > 0 })
	sink(t, peer, "10.99.2.2:7000")
	sendUDP(t, second.Namespace, "10.99.2.2:7000", 10, 72)
	got := minus(a.totals(second), before).Cells[bpf.Transmit][bpf.IPv4Unicast]
	if want := (bpf.Counters{Packets: 10, Bytes: 1000, Buffers: 10}); got != want {
		t.Errorf("after the sandbox was made anew: counted %v more, want %v", got, want)
	}
}

// A pod in the node's network is counted by its cgroup, without what others send there.
func TestHostNetworkByCgroup(t *testing.T) {
	unified := fakepod.Unified(t)
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto, CgroupRoot: unified}
	// Whose namespace a packet is in does not matter to the hook, so this need not disturb the machine's own.
	node, peer := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, peer, "eth0", "eth0", 1)
	pod := &fakepod.Pod{Namespace: fakepod.Sleep(t, 0), UID: fakepod.UID()}
	path := fakepod.Prefix() + "/pod" + pod.UID
	fakepod.Cgroup(t, fakepod.Hierarchy(t), path+"/c", pod.PID)
	fakepod.Cgroup(t, unified, path+"/c", pod.PID)

	collector := New(config)
	pods := []*podmap.Pod{{Key: pod.UID, HostNetwork: true, Cgroup: path}}
	collector.Follow(pods)
	t.Cleanup(func() {
		collector.Follow(nil)
		collector.Close()
	})
	if state, message := collector.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Fatalf("state %v: %s", state, message)
	}
	a := &agent{t: t, collector: collector}
	before := a.totals(pod)

	sink(t, peer, "10.99.1.2:7000")
	sink(t, peer, "[fd99:1::2]:7000")
	inCgroup(t, filepath.Join(unified, path, "c"), func() {
		sendUDP(t, node, "10.99.1.2:7000", 1000, 72)
		sendUDP(t, node, "[fd99:1::2]:7000", 500, 72)
		sendUDP(t, node, "127.0.0.1:7000", 70, 72)
	})
	sendUDP(t, node, "10.99.1.2:7000", 333, 72) // not of the pod
	got := minus(a.totals(pod), before)
	if want := (bpf.Counters{Packets: 1000, Bytes: 100_000, Buffers: 1000}); got.Cells[bpf.Transmit][bpf.IPv4Unicast] != want {
		t.Errorf("IPv4: counted %v, want %v", got.Cells[bpf.Transmit][bpf.IPv4Unicast], want)
	}
	if want := (bpf.Counters{Packets: 500, Bytes: 60_000, Buffers: 500}); got.Cells[bpf.Transmit][bpf.IPv6Unicast] != want {
		t.Errorf("IPv6: counted %v, want %v", got.Cells[bpf.Transmit][bpf.IPv6Unicast], want)
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

// An agent that cannot open what was counted leaves the programs of the former one to go on counting.
func TestProgramsStayWhenAttachingFails(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}
	pod, _ := pair(t)
	a := startAgent(t, config, pod)
	known, _ := a.pods.Lookup(pod.UID)
	next := New(config)
	defer next.Close()
	next.earlier = []Layout{{Name: bpf.Layout, ReadNotes: func(*ebpf.Map) (bpf.Notes, error) { return bpf.Notes{}, unix.ENOMEM }}}
	next.Follow([]*podmap.Pod{known})
	if state, message := next.State(); state != v1alpha1.Collector_STATE_DEGRADED {
		t.Errorf("state %v: %s", state, message)
	}
	if _, err := os.Stat(filepath.Join(next.interfacePins(known.NetnsCookie, eth0(t, pod)), "receive")); err != nil {
		t.Error(err)
	}
}

// Frames sent past the hooks are told from the interface's own statistics.
func TestBypassed(t *testing.T) {
	pod, peer := pair(t)
	sink(t, peer, "10.99.1.2:7000")
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}, pod)
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 100, 72)
	if row, err := a.row(pod); err != nil || row.Traffic.Transmit.Bypassed == nil || *row.Traffic.Transmit.Bypassed != 0 {
		t.Fatalf("bypassed = %v (%v), want 0", row.Traffic.Transmit.Bypassed, err)
	}
	pod.Do(func() { sendPast(t, "eth0", 40) })
	row, err := a.row(pod)
	if err != nil || row.Traffic.Transmit.GetBypassed() != 40 || row.Traffic.Receive.Bypassed != nil {
		t.Errorf("bypassed = %d (%v), want 40", row.Traffic.Transmit.GetBypassed(), err)
	}
	a.stop()
	again := startAgent(t, a.collector.config, pod)
	if row, err = again.row(pod); err != nil || row.Traffic.Transmit.GetBypassed() != 40 {
		t.Errorf("after a restart: bypassed = %d (%v), want 40", row.Traffic.Transmit.GetBypassed(), err)
	}
}

// An interface is known by its number: container runtimes give it its name after it came to the pod.
func TestBypassedOfRenamed(t *testing.T) {
	pod, _ := pair(t)
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}, pod)
	pod.Run("ip", "link", "set", "dev", "eth0", "down")
	pod.Run("ip", "link", "set", "dev", "eth0", "name", "net0")
	fakepod.Eventually(t, "the statistics of the renamed interface", func() bool {
		row, err := a.row(pod)
		return err == nil && row.Traffic.Transmit.Bypassed != nil
	})
}

func sendPast(t *testing.T, device string, count int) {
	frame := make([]byte, 60)
	frame[0], frame[6], frame[12], frame[13] = 2, 2, 0x88, 0xb5 // for experiments
	sendFrames(t, device, frame, count, true)
}

// sendFrames sends an Ethernet frame through a packet socket; past says past the queue, and so past the hooks.
func sendFrames(t *testing.T, device string, frame []byte, count int, past bool) {
	iface, err := net.InterfaceByName(device)
	if err != nil {
		t.Error(err)
		return
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(socket)
	if past {
		if err := unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			t.Error(err)
			return
		}
	}
	to := &unix.SockaddrLinklayer{Ifindex: iface.Index, Protocol: binary.NativeEndian.Uint16(frame[12:])}
	for range count {
		if err := unix.Sendto(socket, frame, 0, to); err != nil {
			t.Error(err)
			return
		}
	}
}

// An interface without link-layer header, as some pods have for their only one.
func TestTun(t *testing.T) {
	pod := fakepod.New(t, fakepod.Prefix())
	var tun *os.File
	pod.Do(func() { tun = openTun(t) })
	defer tun.Close()
	pod.Run("ip", "addr", "add", "10.99.7.1/24", "dev", "tun0")
	pod.Run("ip", "link", "set", "dev", "tun0", "up")
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}, pod)
	before := a.totals(pod)
	sendUDP(t, pod.Namespace, "10.99.7.2:7000", 100, 72)
	arrived := append([]byte{0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 7, 2, 10, 99, 7, 1}, make([]byte, 28)...)
	for range 30 {
		if _, err := tun.Write(arrived); err != nil {
			t.Fatal(err)
		}
	}
	got := minus(a.totals(pod), before)
	if want := (bpf.Counters{Packets: 100, Bytes: 10_000, Buffers: 100}); got.Cells[bpf.Transmit][bpf.IPv4Unicast] != want {
		t.Errorf("sent: counted %v, want %v", got.Cells[bpf.Transmit][bpf.IPv4Unicast], want)
	}
	if want := (bpf.Counters{Packets: 30, Bytes: 30 * 48, Buffers: 30}); got.Cells[bpf.Receive][bpf.IPv4Unicast] != want {
		t.Errorf("received: counted %v, want %v", got.Cells[bpf.Receive][bpf.IPv4Unicast], want)
	}
}

func openTun(t *testing.T) *os.File {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("opening /dev/net/tun: %v", err)
	}
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatalf("making a tun device: %v", err)
	}
	return os.NewFile(uintptr(fd), "tun")
}

// A bridge that does not know a destination sends frames to all. They are the pod's only if it hands them on.
func TestFramesForOthers(t *testing.T) {
	pod, peer := pair(t)
	peer.Run("ip", "neigh", "add", "10.99.1.77", "lladdr", "02:99:00:00:01:77", "dev", "host0", "nud", "permanent")
	a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}, pod)
	before := a.totals(pod)
	sendUDP(t, peer, "10.99.1.77:7000", 50, 72)
	if got := minus(a.totals(pod), before).Cells[bpf.Receive][bpf.IPv4Unicast]; got != (bpf.Counters{}) {
		t.Errorf("counted %v of another's", got)
	}
	pod.Run("ip", "link", "add", "name", "br0", "type", "bridge")
	pod.Run("ip", "link", "set", "dev", "eth0", "master", "br0")
	fakepod.Eventually(t, "the change to a bridge", func() bool {
		known := a.collector.snapshot()[pod.UID]
		known.mu.Lock()
		defer known.mu.Unlock()
		for _, iface := range known.interfaces {
			return iface.kind == bpf.EtherAny
		}
		return false
	})
	before = a.totals(pod)
	sendUDP(t, peer, "10.99.1.77:7000", 50, 72)
	if got := minus(a.totals(pod), before).Cells[bpf.Receive][bpf.IPv4Unicast]; got != (bpf.Counters{Packets: 50, Bytes: 5000, Buffers: 50}) {
		t.Errorf("counted %v, want 50 packets of 100 bytes that the bridge hands on", got)
	}
}

// After the last pod and the last agent no program of ours is loaded.
func TestNoProgramIsLeftBehind(t *testing.T) {
	config := Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX}
	pod, _ := pair(t)
	a := startAgent(t, config, pod)
	known, _ := a.pods.Lookup(pod.UID)
	ids := programsOf(t, filepath.Join(pins.Root(config.BPFFS, config.Node), bpf.Layout, pod.UID))
	if len(ids) != 2 {
		t.Errorf("%d programs use the pod's map, want 2", len(ids))
	}
	if _, err := Cleanup(config.BPFFS, config.Node, []*podmap.Pod{known}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	fakepod.Eventually(t, "the end of all programs", func() bool {
		for _, id := range ids {
			if program, err := ebpf.NewProgramFromID(id); err == nil {
				program.Close()
				return false
			}
		}
		return true
	})
}

// programsOf finds the loaded programs that use the map that is pinned at path.
func programsOf(t *testing.T, path string) (users []ebpf.ProgramID) {
	t.Helper()
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		t.Fatal(err)
	}
	own, _ := info.ID()
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone since
		}
		if info, err := program.Info(); err == nil {
			maps, _ := info.MapIDs()
			for _, used := range maps {
				if used == own {
					users = append(users, id)
				}
			}
		}
		program.Close()
	}
	return users
}

// Super-packets beyond 64 KiB (BIG TCP) declare no length. TCP itself says how many segments it sent, and the headers
// of each are known: 40 bytes of IPv6 and 32 of TCP with its timestamp, and 8 more in the first.
func TestBeyond64KiB(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		sender, receiver := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix())
		fakepod.Connect(sender.Namespace, receiver.Namespace, "eth0", "eth0", 1)
		sender.Run("ip", "link", "set", "dev", "eth0", "gso_max_size", "190000")
		a := startAgent(t, config, sender, receiver)
		const size = 50_000_000
		var sent, received bpf.Totals
		var before, after *v1alpha1.TCP
		for range 5 { // what is sent again is bytes that nobody can foretell, and a machine that is busy may do so every time
			withoutLoss(t, func() {
				sent, received, before = a.totals(sender), a.totals(receiver), tcpOf(t, a, sender)
				transferTCP(t, sender.Namespace, receiver.Namespace, "[fd99:1::2]:7000", size)
			})
			if after = tcpOf(t, a, sender); after.RetransmittedSegments == before.RetransmittedSegments {
				break
			}
		}
		var s, r bpf.Counters
		fakepod.Eventually(t, "the last packet", func() bool {
			s = minus(a.totals(sender), sent).Cells[bpf.Transmit][bpf.IPv6Unicast]
			r = minus(a.totals(receiver), received).Cells[bpf.Receive][bpf.IPv6Unicast]
			return r == s
		}, func() string { return fmt.Sprintf("sent %v, received %v", s, r) })
		again := uint64(after.RetransmittedSegments - before.RetransmittedSegments) // which TCP has not among those that it sent
		packets := uint64(after.OutSegments-before.OutSegments) + again
		least, most := size+packets*72+8, size+packets*72+8+again*1500
		if s.Packets != packets || s.Bytes < least || s.Bytes > most {
			t.Errorf("counted %d packets, %d bytes; TCP sent %d segments, %d of them again, which is %d to %d bytes", s.Packets, s.Bytes, packets, again, least, most)
		}
		t.Logf("%d buffers of %d bytes on average", s.Buffers, s.Bytes/s.Buffers)
	})
}

func tcpOf(t *testing.T, a *agent, fake *fakepod.Pod) *v1alpha1.TCP {
	t.Helper()
	pod, ok := a.pods.Lookup(fake.UID)
	if !ok {
		t.Fatal("the pod is not known")
	}
	row := &v1alpha1.PodStats{}
	if err := protocols.New().ReadPod(pod, row); err != nil {
		t.Fatal(err)
	}
	return row.Protocols.Tcp
}
