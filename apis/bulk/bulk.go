// Package bulk moves many bytes over TLS with few system calls. crypto/tls reads and writes one record of 16 KiB at a time; for
// each, there is a call, a pass through the network's layers and often a wake-up of the other side, which together cost more
// than the cipher does. A Conn below the TLS connection reads ahead, and gathers the records of a large write.
package bulk

import (
	"bufio"
	"errors"
	"net"
	"sync"
)

const (
	// record is the most that one record of TLS holds.
	record = 16 << 10
	// gathered is how many bytes are written at a time, about.
	gathered = 256 << 10
)

// A Conn is a connection below TLS. Like any other, it may be used by several goroutines.
type Conn struct {
	net.Conn
	ahead *bufio.Reader

	mu      sync.Mutex
	holding bool
	held    []byte
}

var _ net.Conn = &Conn{}

// New puts a Conn on a connection. It reads up to so many bytes ahead of who reads from it, and has memory for them; 0 for none.
func New(conn net.Conn, ahead int) *Conn {
	c := &Conn{Conn: conn}
	if ahead > 0 {
		c.ahead = bufio.NewReaderSize(conn, ahead)
	}
	return c
}

// A Listener puts a Conn on each connection that it accepts. It reads nothing ahead.
type Listener struct{ net.Listener }

// Accept implements net.Listener.
func (l Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return New(conn, 0), nil
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if c.ahead == nil {
		return c.Conn.Read(b)
	}
	return c.ahead.Read(b)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holding {
		return c.Conn.Write(b)
	}
	if len(c.held)+len(b) > cap(c.held) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.held = append(c.held, b...)
	return len(b), nil
}

// flush writes what is held. The lock is held.
func (c *Conn) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}

// hold makes writes wait for release.
func (c *Conn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
	if c.held == nil {
		c.held = *buffers.Get().(*[]byte)
	}
}

// release writes what was held.
func (c *Conn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.flush()
	c.holding = false
	empty := c.held[:0]
	buffers.Put(&empty)
	c.held = nil
	return err
}

// buffers are what is held, while it is.
var buffers = sync.Pool{New: func() any {
	buffer := make([]byte, 0, gathered+gathered/8)
	return &buffer
}}

// Write writes to a TLS connection, whose records go out together if it is over a Conn. All of b has been handed to the
// system when it returns without an error; after an error the connection is of no more use. A connection must not be written to
// otherwise meanwhile.
func Write(conn net.Conn, b []byte) (int, error) {
	over, ok := conn.(interface{ NetConn() net.Conn })
	if !ok || len(b) <= record {
		return conn.Write(b)
	}
	below, ok := over.NetConn().(*Conn)
	if !ok {
		return conn.Write(b)
	}
	below.hold()
	n, err := conn.Write(b)
	return n, errors.Join(err, below.release())
}
