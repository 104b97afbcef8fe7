package flowlog

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/collectors/traffic"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
	"github.com/networkobservability/networkobservability/nodeagent/flows"
	"github.com/networkobservability/networkobservability/nodeagent/peers"
	"github.com/networkobservability/networkobservability/nodeagent/pins"
	"github.com/networkobservability/networkobservability/nodeagent/podmap"
)

// A node has one pod with address 10.99.7.1, and behind its interface a peer with 10.99.7.2.
type node struct {
	t         *testing.T
	fake      *fakepod.Pod
	peer      *fakepod.Namespace
	pod       *podmap.Pod
	counters  *traffic.Collector
	history   *flows.Collector
	telemetry *telemetry
	logger    *Logger
	peers     *peers.Counters

	mu      sync.Mutex
	records map[int64][]*Record
}

func newNode(t *testing.T) *node {
	bpffs := fakepod.BPFFS(t)
	n := &node{t: t, fake: fakepod.New(t, fakepod.Prefix()), peer: fakepod.NewNamespace(t), records: map[int64][]*Record{}}
	fakepod.Connect(n.fake.Namespace, n.peer, "eth0", "peer0", 7)
	for _, end := range []*fakepod.Namespace{n.fake.Namespace, n.peer} { // what it looks for on its own would be counted at any time
		end.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	}
	root := pins.Root(bpffs, "n")
	shared, err := pins.Shared(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pins.CloseAll(shared) })
	n.counters = traffic.New(traffic.Config{BPFFS: bpffs, Node: "n", Hook: traffic.Auto, Shared: shared, Flows: true})
	t.Cleanup(n.counters.Close)
	n.history = flows.New(flows.Config{Root: root, Shared: shared})
	t.Cleanup(n.history.Close)
	n.pod = n.findPod()
	n.telemetry = newTelemetry(&v1alpha1.TelemetryConfig{}, &v1alpha1.TelemetryPod{
		Key: n.fake.UID, Namespace: "shop", Name: "web-1", FlowLogs: true,
		Groups: []v1alpha1.TelemetryGroupName{v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC},
	})
	n.telemetry.names[netip.MustParseAddr("10.99.7.2")] = &v1alpha1.TelemetryName{Owner: &v1alpha1.TelemetryName_Pod{
		Pod: &v1alpha1.TelemetryPeerPod{Namespace: "data", Name: "db-0", WorkloadName: "db"},
	}}
	n.logger = New(Config{Flows: n.history, Telemetry: n.telemetry, Log: n.log})
	n.logger.pause = 0
	n.peers = peers.New(peers.Config{Flows: n.history, Telemetry: n.telemetry})
	return n
}

func (n *node) log(records []*Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range records {
		n.records[r.Flow] = append(n.records[r.Flow], r)
	}
}

// findPod waits until the pod is followed.
func (n *node) findPod() *podmap.Pod {
	found := make(chan *podmap.Pod, 1)
	pods, err := podmap.New(podmap.Config{Changed: func(all []*podmap.Pod) {
		for _, pod := range all {
			if pod.Key == n.fake.UID {
				n.counters.Follow([]*podmap.Pod{pod})
				n.history.Follow([]*podmap.Pod{pod})
				select {
				case found <- pod:
				default:
				}
			}
		}
	}})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pods.Run(ctx, func() {}) }()
	n.t.Cleanup(func() { cancel(); <-ended })
	return <-found
}

// counted is what the pod's own counters and its flows say, which must have become equal.
func (n *node) counted() (packets, bytes int64) {
	n.t.Helper()
	var row *v1alpha1.PodStats
	fakepod.Eventually(n.t, "flows that are equal to the counters", func() bool {
		row = &v1alpha1.PodStats{Measurement: &v1alpha1.Measurement{}}
		if err := n.history.Snapshot().ReadPod(n.pod, row); err != nil {
			n.t.Fatal(err)
		}
		if err := n.counters.ReadPod(n.pod, row); err != nil {
			n.t.Fatal(err)
		}
		packets, bytes = 0, 0
		for _, d := range []*v1alpha1.DirectionTraffic{row.Traffic.Receive, row.Traffic.Transmit} {
			for _, c := range []*v1alpha1.Counters{d.Ipv4Unicast, d.Ipv4NonUnicast, d.Ipv6Unicast, d.Ipv6NonUnicast} {
				packets, bytes = packets+c.Packets, bytes+c.Bytes
			}
		}
		return row.Flows.Packets == packets && row.Flows.Bytes == bytes
	}, func() string { return fmt.Sprint(row) })
	return packets, bytes
}

// exchange sends over UDP to many closed ports, and over some connections of TCP that it closes.
func (n *node) exchange(ports, connections int) {
	n.t.Helper()
	var l net.Listener
	var err error
	n.peer.Do(func() { l, err = net.Listen("tcp4", "10.99.7.2:8080") })
	if err != nil {
		n.t.Fatal(err)
	}
	defer l.Close()
	n.fake.Namespace.Do(func() {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 99, 7, 1), Port: 9999})
		if err != nil {
			n.t.Error(err)
			return
		}
		defer c.Close()
		for i := range ports {
			_, _ = c.WriteToUDP(make([]byte, i%100), &net.UDPAddr{IP: net.IPv4(10, 99, 7, 2), Port: 20_000 + i}) // it may hear of a closed port instead
		}
	})
	for range connections {
		n.connect(l)
	}
}

func (n *node) connect(l net.Listener) {
	n.t.Helper()
	var client net.Conn
	var err error
	n.fake.Namespace.Do(func() { client, err = net.DialTimeout("tcp4", "10.99.7.2:8080", 10*time.Second) })
	if err != nil {
		n.t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	defer server.Close()
	go func() {
		_, _ = client.Write(make([]byte, 100_000))
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.Copy(io.Discard, server); got != 100_000 || err != nil {
		n.t.Errorf("%d bytes arrived: %v", got, err)
	}
}

// sums are of all records, and of all counters.
func (n *node) sums() (logged, counted [2]int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, records := range n.records {
		for _, r := range records {
			logged[0] += r.ReceivedPackets + r.TransmittedPackets
			logged[1] += r.ReceivedBytes + r.TransmittedBytes
		}
	}
	for c := range n.peers.Read {
		counted[0] += c.Packets[0] + c.Packets[1]
		counted[1] += c.Bytes[0] + c.Bytes[1]
	}
	return logged, counted
}

// TestAgainstCounters: a real pod exchanges packets, and all records of its flows together are what its counters have
// counted since flows were asked for, packet for packet and byte for byte; and so are the counters by peer and port.
func TestAgainstCounters(t *testing.T) {
	n := newNode(t)
	n.exchange(300, 0)
	packetsBefore, bytesBefore := n.counted()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { n.logger.Run(ctx); ended <- struct{}{} }()
	go func() { n.peers.Run(ctx); ended <- struct{}{} }()
	defer stop()
	asked := time.Now()
	looks := n.telemetry.replace(&v1alpha1.TelemetryConfig{
		SeriesLimit: 1000, FlowLogs: &v1alpha1.TelemetryFlowLogs{IntervalNano: int64(3 * time.Second), SampleOneIn: 1},
		Groups: []*v1alpha1.TelemetryGroup{{
			Name:             v1alpha1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC,
			Labels:           []v1alpha1.TelemetryLabel{v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PEER_WORKLOAD, v1alpha1.TelemetryLabel_TELEMETRY_LABEL_PORT},
			LabelValuesLimit: 50,
		}},
	})
	fakepod.Eventually(t, "both to watch", func() bool { return looks() >= 4 })

	for range 3 {
		n.exchange(500, 5)
		n.history.Snapshot()
	}
	var want, logged, counted [2]int64
	fakepod.Eventually(t, "records of connections that have ended, and counters of all that passed", func() bool {
		packets, bytes := n.counted()
		want = [2]int64{packets - packetsBefore, bytes - bytesBefore}
		_, counted = n.sums()
		return counted == want && n.endedConnections() >= 15
	}, func() string {
		return fmt.Sprintf("counted %v, want %v, %d ended", counted, want, n.endedConnections())
	})
	stop()
	<-ended
	<-ended
	logged, _ = n.sums()
	if logged != want {
		t.Errorf("all records together have %v packets and bytes, want %v", logged, want)
	}
	n.compareFlows(asked)
	if lost := n.logger.Lost(); lost[StageHistory]+lost[StagePod] != 0 || n.peers.Lost() != 0 {
		t.Errorf("lost %v", lost)
	}
}

func (n *node) endedConnections() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, records := range n.records {
		if last := records[len(records)-1]; last.Ended && last.Protocol == 6 && last.Peer.WorkloadName == "db" {
			count++
		}
	}
	return count
}

// compareFlows compares the records of each flow with what the history says of it, for those that began after flows
// were asked for.
func (n *node) compareFlows(asked time.Time) {
	compared := 0
	err := n.history.Read(n.t.Context(), &v1alpha1.ReadFlowsRequest{PodKeys: []string{n.fake.UID}}, func(batch *v1alpha1.ReadFlowsResponse) error {
		for _, flow := range batch.Flows {
			if flow.Protocol != 6 || n.records[flow.Position] == nil {
				continue
			}
			var got [4]int64
			for _, r := range n.records[flow.Position] {
				got[0], got[1] = got[0]+r.ReceivedPackets, got[1]+r.ReceivedBytes
				got[2], got[3] = got[2]+r.TransmittedPackets, got[3]+r.TransmittedBytes
			}
			if flow.StartUnixNano < asked.UnixNano() {
				continue
			}
			compared++
			if want := [4]int64{flow.Receive.Packets, flow.Receive.Bytes, flow.Transmit.Packets, flow.Transmit.Bytes}; got != want {
				n.t.Errorf("the records of %v have %v together", flow, got)
			}
		}
		return nil
	})
	if err != nil || compared < 15 {
		n.t.Errorf("%d flows compared: %v", compared, err)
	}
}
