package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/networkobservability/networkobservability/nodeagent/fakepod"
)

// A server answers on UDP and TCP as the first label of the question says.
type server struct {
	t    testing.TB
	stop []io.Closer
	done sync.WaitGroup

	mu sync.Mutex
	// held is how long each answer was held back at least.
	held []time.Duration
}

var codes = map[string]dnsmessage.RCode{
	"ok": dnsmessage.RCodeSuccess, "alias": dnsmessage.RCodeSuccess, "slow": dnsmessage.RCodeSuccess,
	"nx": dnsmessage.RCodeNameError, "fail": dnsmessage.RCodeServerFailure, "refused": dnsmessage.RCodeRefused,
}

// slow is by how much a name that begins with slow is held back.
const slow = 30 * time.Millisecond

// serve starts a server in a namespace, on port 53 of each address.
func serve(t testing.TB, n *fakepod.Namespace, addresses ...string) *server {
	t.Helper()
	s := &server{t: t}
	n.Do(func() {
		for _, address := range addresses {
			packets, err := net.ListenPacket("udp", net.JoinHostPort(address, "53"))
			if err != nil {
				t.Error(err)
				return
			}
			streams, err := net.Listen("tcp", net.JoinHostPort(address, "53"))
			if err != nil {
				t.Error(err)
				return
			}
			s.stop = append(s.stop, packets, streams)
			s.done.Go(func() { s.serveUDP(packets) })
			s.done.Go(func() { s.serveTCP(streams) })
		}
	})
	t.Cleanup(func() {
		for _, one := range s.stop {
			one.Close()
		}
		s.done.Wait()
	})
	return s
}

func (s *server) serveUDP(packets net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		length, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		if reply := s.answer(buffer[:length]); reply != nil {
			_, _ = packets.WriteTo(reply, from)
		}
	}
}

func (s *server) serveTCP(streams net.Listener) {
	for {
		stream, err := streams.Accept()
		if err != nil {
			return
		}
		s.done.Go(func() {
			defer stream.Close()
			for {
				query, err := readPrefixed(stream)
				if err != nil {
					return
				}
				if reply := s.answer(query); reply != nil {
					_, _ = stream.Write(prefixed(reply))
				}
			}
		})
	}
}

func prefixed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

func readPrefixed(stream io.Reader) ([]byte, error) {
	var prefix [2]byte
	if _, err := io.ReadFull(stream, prefix[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(prefix[:]))
	_, err := io.ReadFull(stream, message)
	return message, err
}

// answer is nil for what shall stay unanswered.
func (s *server) answer(query []byte) []byte {
	begun := time.Now()
	var message dnsmessage.Message
	if err := message.Unpack(query); err != nil || len(message.Questions) == 0 {
		s.t.Errorf("the server got %x: %v", query, err)
		return nil
	}
	question := message.Questions[0]
	kind, _, _ := strings.Cut(strings.ToLower(question.Name.String()), ".")
	code, known := codes[kind]
	if !known {
		return nil
	}
	if kind == "slow" {
		time.Sleep(slow) // what the test is about
	}
	message.Response, message.RCode = true, code
	owner := question.Name
	if kind == "alias" {
		alias := dnsmessage.MustNewName("target.example.")
		message.Answers = append(message.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 5}, Body: &dnsmessage.CNAMEResource{CNAME: alias},
		})
		owner = alias
	}
	header := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 5}
	switch {
	case code != dnsmessage.RCodeSuccess:
	case question.Type == dnsmessage.TypeA:
		message.Answers = append(message.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(len(kind))}}})
	case question.Type == dnsmessage.TypeAAAA:
		message.Answers = append(message.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8, 15: byte(len(kind))}}})
	}
	reply, err := message.Pack()
	if err != nil {
		s.t.Errorf("packing an answer: %v", err)
	}
	s.mu.Lock()
	s.held = append(s.held, time.Since(begun))
	s.mu.Unlock()
	return reply
}

func (s *server) heldInAll() (sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.held {
		sum += one
	}
	return sum
}

// A client asks from a namespace.
type client struct {
	t       testing.TB
	network string
	conn    net.Conn
	id      uint16
	// took is how long answers took, as the client sees it.
	took []time.Duration
}

func dial(t testing.TB, n *fakepod.Namespace, network, address string) *client {
	t.Helper()
	c := &client{t: t, network: network}
	n.Do(func() {
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Error(err)
			return
		}
		c.conn = conn
	})
	if c.conn == nil {
		t.FailNow()
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// send asks and does not wait.
func (c *client) send(name string, kind dnsmessage.Type) {
	c.t.Helper()
	c.id++
	query := packQuery(c.t, c.id, name, kind)
	if c.network == "tcp" {
		query = prefixed(query)
	}
	if _, err := c.conn.Write(query); err != nil {
		c.t.Fatal(err)
	}
}

func packQuery(t testing.TB, id uint16, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := message.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// ask asks and waits for the answer.
func (c *client) ask(name string, kind dnsmessage.Type) {
	c.t.Helper()
	begun, lostBefore := time.Now(), lost(c.t)
	c.send(name, kind)
	if err := c.conn.SetReadDeadline(begun.Add(20 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	var reply []byte
	var err error
	if c.network == "tcp" {
		reply, err = readPrefixed(c.conn)
	} else {
		reply = make([]byte, 4096)
		_, err = c.conn.Read(reply)
	}
	if err == nil && binary.BigEndian.Uint16(reply) != c.id {
		err = fmt.Errorf("the answer %x is not to question %d", reply, c.id)
	}
	if n := lost(c.t) - lostBefore; errors.Is(err, os.ErrDeadlineExceeded) && n > 0 {
		c.t.Skipf("asking for %s: %v; this machine was too busy for %d packets meanwhile", name, err, n)
	}
	if err != nil {
		c.t.Fatalf("asking for %s: %v", name, err)
	}
	c.took = append(c.took, time.Since(begun))
}

// lost is how many packets found no place in a CPU's backlog, which all namespaces share: the second column of softnet_stat.
func lost(t testing.TB) (sum uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		n, err := strconv.ParseUint(strings.Fields(line)[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
