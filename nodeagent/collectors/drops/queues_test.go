package drops

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// control runs do on the descriptor of a connection.
func control(t testing.TB, connection net.Conn, do func(fd int) error) {
	t.Helper()
	socket, err := connection.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var problem error
	if err := socket.Control(func(fd uintptr) { problem = do(int(fd)) }); err != nil || problem != nil {
		t.Fatal(err, problem)
	}
}

// connect makes a connection of TCP between two namespaces.
func connect(t testing.TB, from, to *fakepod.Namespace, address string) (client, server net.Conn) {
	t.Helper()
	var listener net.Listener
	var err error
	to.Do(func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	from.Do(func() { client, err = net.Dial("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// sequences are what a connection will send next and what it expects.
func sequences(t testing.TB, connection net.Conn) (send, receive uint32) {
	t.Helper()
	control(t, connection, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return err
		}
		defer unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, -1) // without a probe of the window
		for queue, to := range map[int]*uint32{1: &receive, 2: &send} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue); err != nil {
				return err
			}
			value, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
			if err != nil {
				return err
			}
			*to = uint32(value)
		}
		return nil
	})
	return send, receive
}

// segment is a segment of a connection from pod a to pod b.
func segment(from, to uint16, sequence, acknowledged uint32, data int) []byte {
	h := make([]byte, 20+data)
	binary.BigEndian.PutUint16(h, from)
	binary.BigEndian.PutUint16(h[2:], to)
	binary.BigEndian.PutUint32(h[4:], sequence)
	binary.BigEndian.PutUint32(h[8:], acknowledged)
	h[12], h[13] = 5<<4, 0x10 // ACK
	binary.BigEndian.PutUint16(h[14:], 500)
	packet := datagram(4, tcp, 1, 2, 64, h)
	sum := uint32(tcp + len(h))
	for i := 12; i < len(packet); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(packet[20+16:], ^uint16(sum))
	return packet
}

// Segments that came out of order are kept in a tree, which lies over the field of the interface. Dropped from there
// they are still found, and they are benign: their data came in another segment.
func TestDropsFromTheTreeOfTCP(t *testing.T) {
	kernels(t, func(t *testing.T, o options) {
		o.flows = true
		w := newWorld(t, o)
		client, _ := connect(t, w.a.Namespace, w.b.Namespace, "10.99.2.1:7350")
		sequence, acknowledged := sequences(t, client)
		from := uint16(client.LocalAddr().(*net.TCPAddr).Port)
		const pieces = 50
		for i := range uint32(pieces) {
			raw(t, w.a.Namespace, segment(from, 7350, sequence+1000+i*20, acknowledged, 10), 1)
		}
		before := statistic(w.b.Namespace, "TcpExtTCPOFOMerge")
		raw(t, w.a.Namespace, segment(from, 7350, sequence+1000, acknowledged, pieces*20), 1)
		if got := statistic(w.b.Namespace, "TcpExtTCPOFOMerge") - before; got != pieces {
			t.Fatalf("TCPOFOMerge rose by %d", got)
		}
		expect(t, w.of(w.b), kind{reason: "TCP_OFOMERGE", class: benign, direction: receive, attribution: bySocket, protocol: tcp, port: 7350}, pieces)
		if flow, found := findFlow(t, w.config.Shared, w.b, 4); found {
			t.Errorf("a benign drop made a flow: %+v", flow)
		}
	})
}

// A super-packet counts as the packets that it would have been on the wire.
func TestSegments(t *testing.T) {
	w := newWorld(t, options{})
	dropped := drop(w.router, "forward", 7380)
	var socket net.Conn
	var err error
	w.a.Do(func() { socket, err = net.Dial("udp", "10.99.2.1:7380") })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	const segments, size = 20, 1000
	control(t, socket, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) })
	for range times {
		if _, err := socket.Write(make([]byte, segments*size)); err != nil {
			t.Fatal(err)
		}
	}
	if got := dropped(); got != times {
		t.Fatalf("%d buffers were dropped, want %d: there were no super-packets", got, times)
	}
	expect(t, w.of(w.a), kind{port: 7380}, times*segments)
	expect(t, w.of(w.b), kind{port: 7380}, times*segments)
}

// Copies that a capture could not take are no drops.
func TestPacketSockets(t *testing.T) {
	w := newWorld(t, options{})
	var capture int
	w.b.Do(func() {
		var err error
		if capture, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0300); err != nil {
			t.Error(err)
		}
	})
	defer unix.Close(capture)
	if err := unix.SetsockoptInt(capture, unix.SOL_SOCKET, unix.SO_RCVBUF, 2048); err != nil {
		t.Fatal(err)
	}
	var sink net.PacketConn
	var err error
	w.b.Do(func() { sink, err = net.ListenPacket("udp", "10.99.2.1:7390") })
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	send(t, w.a.Namespace, "10.99.2.1:7390", times/3, 100) // the sink has space for them
	statistics, err := unix.GetsockoptTpacketStats(capture, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || statistics.Drops < times/6 {
		t.Fatalf("the capture lost %+v (%v)", statistics, err)
	}
	expect(t, w.of(w.b), kind{port: 7390}, 0)
}

// On loopback both ends are the pod's, and there is one drop.
func TestLoopback(t *testing.T) {
	w := newWorld(t, options{})
	drop(w.a.Namespace, "output", 7400)
	drop(w.a.Namespace, "input", 7401)
	for port, direction := range map[int32]kind{7400: {direction: transmit, port: 7400}, 7401: {direction: receive, port: 7401}} {
		send(t, w.a.Namespace, net.JoinHostPort("127.0.0.1", map[int32]string{7400: "7400", 7401: "7401"}[port]), times, 100)
		expect(t, w.of(w.a), direction, times)
		expect(t, w.of(w.a), kind{port: port}, times)
	}
}

// Without a route there is no packet of UDP. TCP has one, but no header yet: it is read from the socket.
func TestTCPLosesItsRoute(t *testing.T) {
	w := newWorld(t, options{})
	client, _ := connect(t, w.a.Namespace, w.b.Namespace, "10.99.2.1:7410")
	w.a.Run("ip", "route", "del", "default")
	if _, err := client.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	lost := kind{reason: "IP_OUTNOROUTES", class: routing, direction: transmit, attribution: bySocket, protocol: tcp, port: 7410}
	fakepod.Eventually(t, "a drop", func() bool { return sum(w.pod(w.a), lost) > 0 }, func() string { return text(w.pod(w.a)) })
}

// Every neighbour discovery reaches namespaces that have not joined its group: no loss to anybody.
func TestStrayMulticasts(t *testing.T) {
	w := newWorld(t, options{flows: true})
	packet := datagram(6, udp, 2, 1, 64, udpTo(7420, 0))
	copy(packet[24:40], []byte{0xff, 0x02, 15: 0x77}) // a group that nobody has joined
	w.router.Do(func() {
		iface, err := net.InterfaceByName("veth1")
		if err != nil {
			t.Error(err)
			return
		}
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(socket)
		to := &unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: iface.Index, Halen: 6, Addr: [8]byte{0x33, 0x33, 0, 0, 0, 0x77}}
		for range times {
			if err := unix.Sendto(socket, packet, 0, to); err != nil {
				t.Error(err)
				return
			}
		}
	})
	expect(t, w.of(w.a), kind{class: benign, direction: receive, attribution: byInterface, protocol: udp, port: 7420}, times)
	expect(t, w.of(w.a), kind{port: 7420}, times)
}

// Connections that end as they should lose nothing, though the kernel drops their last acknowledgments, and the ends of
// streams that nobody read.
func TestConnectionsThatEnd(t *testing.T) {
	w := newWorld(t, options{flows: true})
	for i := range times / 10 {
		client, server := connect(t, w.a.Namespace, w.b.Namespace, "10.99.2.1:"+strconv.Itoa(7500+i))
		if _, err := client.Write([]byte("all that there is")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 17)); err != nil {
			t.Fatal(err)
		}
		// Whoever closes last waits for the last acknowledgment.
		first, last := client, server
		if i%2 == 1 {
			first, last = server, client
		}
		first.Close()
		last.Close()
	}
	for _, pod := range []*fakepod.Pod{w.a, w.b} {
		fakepod.Eventually(t, "connections to end", func() bool { return !strings.Contains(pod.Run("ss", "-Htan"), "LAST-ACK") })
		for _, row := range w.pod(pod).GetDrops() {
			if row.Protocol == tcp && row.Class != benign {
				t.Errorf("dropped: %v", row)
			}
		}
	}
}
