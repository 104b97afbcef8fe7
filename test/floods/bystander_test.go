package floods

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A bystander is a pod that does known things with a peer of its own.
type bystander struct {
	*fakepod.Pod
	t *testing.T
	// before is what its interface had carried when counting began.
	before interfaceCounters
}

// What a bystander does.
const (
	datagrams    = 2000
	datagramSize = 72 // and 28 of headers
	refusals     = 300
	connections  = 20
	bytesEach    = 10_000

	sinkAddress   = "10.99.2.2:7000"
	serverAddress = "10.99.2.2:7001"
	droppedPort   = 7002
)

// newBystander makes a pod, a peer that takes datagrams and sends something on each connection, and a rule that drops
// datagrams to one port.
func newBystander(t *testing.T, prefix string) *bystander {
	t.Helper()
	b := &bystander{Pod: fakepod.New(t, prefix), t: t}
	peer := fakepod.NewNamespace(t)
	fakepod.Connect(b.Namespace, peer, "eth0", "eth0", 2)
	quiet(b.Namespace, peer)
	dropUDP(b.Namespace, "output", strconv.Itoa(droppedPort))
	var sink net.PacketConn
	var server net.Listener
	var err error
	peer.Do(func() {
		if sink, err = net.ListenPacket("udp", sinkAddress); err == nil {
			server, err = net.Listen("tcp", serverAddress)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serve(server)
	}()
	t.Cleanup(func() {
		sink.Close()
		server.Close()
		<-ended
	})
	return b
}

// quiet switches IPv6 off: with it the kernel sends packets of its own, whenever it likes.
func quiet(all ...*fakepod.Namespace) {
	for _, n := range all {
		n.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	}
}

// dropUDP has netfilter drop datagrams to ports at a hook.
func dropUDP(in *fakepod.Namespace, hook, ports string) {
	in.RunInput(fmt.Sprintf("add table inet t\nadd chain inet t c { type filter hook %s priority 0; }\n"+
		"add rule inet t c udp dport %s drop\n", hook, ports), "nft", "-f", "-")
}

// serve sends so many bytes on each connection, and ends it.
func serve(server net.Listener) {
	for {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write(make([]byte, bytesEach))
		conn.Close()
	}
}

// send sends so many datagrams. Those that are dropped on their way out are sent too.
func (b *bystander) send(to string, count int) {
	b.t.Helper()
	var socket net.Conn
	var err error
	b.Do(func() { socket, err = net.Dial("udp", to) })
	if err != nil {
		b.t.Fatal(err)
	}
	defer socket.Close()
	for range count {
		if _, err := socket.Write(make([]byte, datagramSize)); err != nil && !errors.Is(err, unix.EPERM) {
			b.t.Fatal(err)
		}
	}
}

func (b *bystander) connect() {
	b.t.Helper()
	for range connections {
		var conn net.Conn
		var err error
		b.Do(func() { conn, err = net.Dial("tcp", serverAddress) })
		if err != nil {
			b.t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, conn); err != nil || n != bytesEach {
			b.t.Errorf("got %d bytes, want %d: %v", n, bytesEach, err)
		}
		conn.Close()
	}
}

// act does all that a bystander does, and checks each part where nothing else happens.
func (b *bystander) act(w *world) {
	b.t.Helper()
	before := w.Row(b.Pod)
	b.send(sinkAddress, datagrams)
	sent := w.Row(b.Pod).Traffic.Transmit.Ipv4Unicast
	old := before.Traffic.Transmit.Ipv4Unicast
	if packets, bytes := sent.Packets-old.Packets, sent.Bytes-old.Bytes; packets != datagrams || bytes != datagrams*(datagramSize+28) {
		b.t.Errorf("%d packets and %d bytes sent were counted, want %d and %d", packets, bytes, datagrams, datagrams*(datagramSize+28))
	}
	b.send("10.99.2.2:"+strconv.Itoa(droppedPort), refusals)
	b.connect()
}

// check checks all that was counted since the pod was new.
func (b *bystander) check(w *world) {
	b.t.Helper()
	var row *v1alpha1.PodStats
	fakepod.Eventually(b.t, "the bystander's connections to be closed and its flows to be recorded", func() bool {
		row = w.Row(b.Pod)
		open := row.Connections.FinWait1 + row.Connections.CloseWait + row.Connections.LastAck + row.Connections.Established
		return open == 0 && recorded(row)
	}, func() string { return describe(row) })
	if c := row.Connections; c.OpenedActively != connections || c.BytesReceived != connections*(bytesEach+1) { // and a FIN each
		b.t.Errorf("%d connections and %d bytes were counted, want %d and %d", c.OpenedActively, c.BytesReceived, connections, connections*(bytesEach+1))
	}
	var drops int64
	for _, drop := range row.Drops.Drops {
		if drop.Class == v1alpha1.Drop_CLASS_POLICY && drop.Port == droppedPort && drop.Direction == v1alpha1.Direction_DIRECTION_TRANSMIT {
			drops += drop.Packets
		}
	}
	if drops != refusals || row.Drops.Unsorted != 0 {
		b.t.Errorf("%d drops by policy and %d unsorted were counted, want %d and none", drops, row.Drops.Unsorted, refusals)
	}
	had := carried(b.t, b.Pod)
	want := had.transmitted + had.dropped - b.before.transmitted - b.before.dropped
	if got := buffers(row.Traffic.Transmit); got != want {
		b.t.Errorf("%d buffers sent were counted, and by the interface %d", got, want)
	}
	if got := buffers(row.Traffic.Receive); got != had.received-b.before.received {
		b.t.Errorf("%d received buffers were counted, and by the interface %d", got, had.received-b.before.received)
	}
	if c := row.Dns; len(c.Queries)+len(c.Responses) > 0 || c.Lost+c.Unanswered+c.Unparsed > 0 {
		b.t.Errorf("DNS was counted of a pod that has none: %v", c)
	}
}

// interfaceCounters are what an interface says itself, in buffers. What the other end could not take is dropped, and
// not in transmitted.
type interfaceCounters struct{ received, transmitted, dropped int64 }

// carried reads the counters of eth0 from /proc/net/dev.
func carried(t testing.TB, pod *fakepod.Pod) (c interfaceCounters) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pod.PID) + "/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, values, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name != "eth0" {
			continue
		}
		number := func(i int) int64 {
			n, err := strconv.ParseInt(strings.Fields(values)[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		const received, transmitted, dropped = 1, 9, 11
		return interfaceCounters{number(received), number(transmitted), number(dropped)}
	}
	t.Fatal("the pod has no eth0")
	return c
}
