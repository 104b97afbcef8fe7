package traffic

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/bpf/headers"
	bpf "github.com/networkobservability/networkobservability/bpf/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// withFlows gives a collector the maps of its node.
func withFlows(t *testing.T, config Config) Config {
	t.Helper()
	shared, err := pins.Shared(pins.Root(config.BPFFS, config.Node))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pins.CloseAll(shared) })
	config.Shared, config.Flows = shared, true
	return config
}

// flowsOf reads the flows of one pod, and their sum. Of several to one port there is the last, with what all of them
// have sent.
func flowsOf(t *testing.T, shared map[string]*ebpf.Map, key string) (byPort map[int]headers.Flow, sum bpf.Counters) {
	t.Helper()
	byPort = map[int]headers.Flow{}
	number := headers.PodNumber(key)
	add := func(pod uint64, port [2]byte, flow headers.Flow) {
		if pod == number {
			sum.Packets += flow.Receive.Packets + flow.Transmit.Packets
			sum.Bytes += flow.Receive.Bytes + flow.Transmit.Bytes
			remote := int(port[0])<<8 | int(port[1])
			flow.Transmit.Packets += byPort[remote].Transmit.Packets
			byPort[remote] = flow
		}
	}
	var key4 headers.FlowKey4
	var key6 headers.FlowKey6
	var flow headers.Flow
	in4, in6 := shared["flows4"].Iterate(), shared["flows6"].Iterate()
	for in4.Next(&key4, &flow) {
		add(key4.Pod, key4.RemotePort, flow)
	}
	for in6.Next(&key6, &flow) {
		add(key6.Pod, key6.RemotePort, flow)
	}
	if in4.Err() != nil || in6.Err() != nil {
		t.Fatal(in4.Err(), in6.Err())
	}
	return byPort, sum
}

// ofIP is what the pod's totals hold of IP.
func ofIP(totals bpf.Totals) (all bpf.Counters) {
	for _, d := range directions {
		packets, bytes := sum(&totals, d)
		all.Packets += uint64(packets)
		all.Bytes += uint64(bytes)
	}
	return all
}

// sameAsTotals waits until flows and totals, read at one quiet moment, are equal.
func sameAsTotals(t *testing.T, a *agent, config Config, pod *fakepod.Pod) {
	t.Helper()
	var flows, totals bpf.Counters
	fakepod.Eventually(t, "flows that are equal to the totals", func() bool {
		before := ofIP(a.totals(pod))
		_, flows = flowsOf(t, config.Shared, pod.UID)
		totals = ofIP(a.totals(pod))
		return before == totals && flows == totals
	}, func() string { return fmt.Sprintf("flows %v, totals %v", flows, totals) })
}

// Real sockets, with super-packets, fragments and ICMP, and both ends counted by one node.
func TestFlowsEqualTotals(t *testing.T) {
	hooksToTest(t, func(t *testing.T, config Config) {
		config = withFlows(t, config)
		pod, peer := fakepod.New(t, fakepod.Prefix()), fakepod.New(t, fakepod.Prefix())
		fakepod.Connect(pod.Namespace, peer.Namespace, "eth0", "eth0", 1)
		a := startAgent(t, config, pod, peer)
		sink(t, peer.Namespace, "10.99.1.2:7000")
		sendUDP(t, pod.Namespace, "10.99.1.2:7000", 100, 700)
		sendUDP(t, pod.Namespace, "10.99.1.2:7000", 10, 4000) // three fragments each
		sendUDP(t, pod.Namespace, "10.99.1.2:7009", 1, 100)   // nobody listens
		transferTCP(t, pod.Namespace, peer.Namespace, "10.99.1.2:7001", 20_000_000)
		transferTCP(t, pod.Namespace, peer.Namespace, "[fd99:1::2]:7002", 20_000_000)
		sameAsTotals(t, a, config, pod)
		sameAsTotals(t, a, config, peer)

		flows, _ := flowsOf(t, config.Shared, pod.UID)
		if got, want := flows[7000].Transmit.Packets, uint64(110); got != want {
			t.Errorf("UDP: %d packets, want %d: those with ports", got, want)
		}
		if got, want := flows[0].Transmit.Packets, uint64(20); got != want {
			t.Errorf("%d fragments without ports, want %d", got, want)
		}
		const syn, ack, fin = 2, 16, 1
		for _, port := range []int{7001, 7002} {
			flow := flows[port]
			if flow.BegunByTransmit != 1 || flow.HandshakeMicroseconds == 0 || flow.SYN != 0 || flow.Rejected != 0 {
				t.Errorf("port %d: %+v", port, flow)
			}
			for direction, flags := range flow.Flags {
				if flags&(syn|ack|fin) != syn|ack|fin {
					t.Errorf("port %d: flags %#x in direction %d", port, flags, direction)
				}
			}
		}
		if flows[7009].Rejected != 1 {
			t.Errorf("nobody listens: %+v", flows[7009])
		}
		row, err := a.row(pod)
		if err != nil || row.Flows.GetCreated() < 5 || row.Flows.GetUnparsed() != 0 {
			t.Errorf("the row's flows: %v (%v)", row.Flows, err)
		}
		if _, message := a.collector.State(); !strings.HasSuffix(message, "with flows") && !strings.Contains(message, "with flows:") {
			t.Errorf("state %q", message)
		}
	})
}

func TestFlowsOfHostNetworkPod(t *testing.T) {
	unified := fakepod.Unified(t)
	config := withFlows(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: Auto, CgroupRoot: unified})
	node, peer := fakepod.NewNamespace(t), fakepod.NewNamespace(t)
	fakepod.Connect(node, peer, "eth0", "eth0", 1)
	pod := &fakepod.Pod{Namespace: fakepod.Sleep(t, 0), UID: fakepod.UID()}
	path := fakepod.Prefix() + "/pod" + pod.UID
	fakepod.Cgroup(t, fakepod.Hierarchy(t), path+"/c", pod.PID)
	fakepod.Cgroup(t, unified, path+"/c", pod.PID)
	collector := New(config)
	collector.Follow([]*podmap.Pod{{Key: pod.UID, HostNetwork: true, Cgroup: path}})
	t.Cleanup(func() {
		collector.Follow(nil)
		collector.Close()
	})
	if state, message := collector.State(); state != v1alpha1.Collector_STATE_RUNNING {
		t.Fatalf("state %v: %s", state, message)
	}
	sink(t, peer, "10.99.1.2:7000")
	inCgroup(t, filepath.Join(unified, path, "c"), func() {
		sendUDP(t, node, "10.99.1.2:7000", 1000, 72)
		transferTCP(t, node, peer, "10.99.1.2:7001", 5_000_000)
		transferTCP(t, node, peer, "[fd99:1::2]:7002", 5_000_000)
	})
	sameAsTotals(t, &agent{t: t, collector: collector}, config, pod)
	flows, _ := flowsOf(t, config.Shared, pod.UID)
	if flows[7000].Transmit.Packets != 1000 || flows[7001].HandshakeMicroseconds == 0 {
		t.Errorf("UDP %+v, TCP %+v", flows[7000], flows[7001])
	}
}

// A packet that nothing can parse is counted, and said to be in no flow.
func TestUnparsed(t *testing.T) {
	config := withFlows(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX})
	pod, _ := pair(t)
	a := startAgent(t, config, pod)
	sameAsTotals(t, a, config, pod)
	frame := make([]byte, 60)
	frame[0], frame[12], frame[13], frame[14] = 2, 0x08, 0x00, 0x41 // an IPv4 header of 4 bytes
	pod.Do(func() { sendFrames(t, "eth0", frame, 30, false) })
	row, err := a.row(pod)
	if err != nil {
		t.Fatal(err)
	}
	if row.Flows.Unparsed != 30 {
		t.Errorf("%d packets were not parsed, want 30", row.Flows.Unparsed)
	}
}

// Without the node's maps pods are counted all the same, and the state says what is missing.
func TestFlowsWithoutMaps(t *testing.T) {
	for _, test := range []struct {
		flows bool
		state v1alpha1.Collector_State
	}{{true, v1alpha1.Collector_STATE_DEGRADED}, {false, v1alpha1.Collector_STATE_RUNNING}} {
		pod, peer := pair(t)
		sink(t, peer, "10.99.1.2:7000")
		a := startAgent(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX, Flows: test.flows}, pod)
		before := a.totals(pod)
		sendUDP(t, pod.Namespace, "10.99.1.2:7000", 10, 72)
		if got := minus(a.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast].Packets; got != 10 {
			t.Errorf("counted %d packets, want 10", got)
		}
		row, err := a.row(pod)
		if state, message := a.collector.State(); err != nil || row.Flows != nil || state != test.state {
			t.Errorf("flows wanted: %v: state %v: %s; row %v (%v)", test.flows, state, message, row.Flows, err)
		}
	}
}

// A kernel that refuses a program with flows counts without them, and the state says why.
func TestFlowsRefused(t *testing.T) {
	config := withFlows(t, Config{BPFFS: fakepod.BPFFS(t), Node: "n", Hook: TCX})
	pod, peer := pair(t)
	sink(t, peer, "10.99.1.2:7000")
	config.Shared = maps.Clone(config.Shared)
	config.Shared["flows4"] = config.Shared["pods_by_netns"] // whose keys are too short
	a := startAgent(t, config, pod)
	before := a.totals(pod)
	sendUDP(t, pod.Namespace, "10.99.1.2:7000", 10, 72)
	if got := minus(a.totals(pod), before).Cells[bpf.Transmit][bpf.IPv4Unicast].Packets; got != 10 {
		t.Errorf("counted %d packets, want 10", got)
	}
	state, message := a.collector.State()
	if state != v1alpha1.Collector_STATE_DEGRADED || !strings.HasPrefix(message, "packets are in no flow") {
		t.Errorf("state %v: %s", state, message)
	}
	t.Log(message)
}
