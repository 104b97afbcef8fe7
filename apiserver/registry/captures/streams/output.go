package streams

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/networkobservability/networkobservability/apis/bulk"
)

const (
	// outputBuffer gathers short runs; runs of directWrite bytes and more are written as they are.
	outputBuffer = 64 << 10
	directWrite  = 32 << 10
)

// An output is the body of an answer. Nothing is sent before the first byte that is not left out.
type output struct {
	response http.ResponseWriter
	// upgrade is whether the body goes over the connection itself, and gone is told when the client leaves it.
	upgrade bool
	gone    func()
	// begin sets the headers, before the first byte.
	begin func(http.Header)
	// skip is how many bytes are left out still.
	skip int64

	buffer []byte
	began  bool
	// sent counts bytes that were handed to the connection.
	sent int64

	// mu guards conn, which is there once it was taken over, and late, which is true when nothing may be written any more.
	mu   sync.Mutex
	conn net.Conn
	late bool
	// watching is the reading of conn.
	watching sync.WaitGroup
}

// write adds to the body.
func (o *output) write(b []byte) error {
	if leave := min(o.skip, int64(len(b))); leave > 0 {
		o.skip -= leave
		b = b[leave:]
	}
	switch {
	case len(b) == 0:
		return nil
	case len(o.buffer)+len(b) <= outputBuffer && len(b) < directWrite:
		if o.buffer == nil {
			o.buffer = make([]byte, 0, outputBuffer)
		}
		o.buffer = append(o.buffer, b...)
		return nil
	}
	if err := o.drain(); err != nil {
		return err
	}
	if len(b) < directWrite {
		o.buffer = append(o.buffer, b...)
		return nil
	}
	return o.send(b)
}

// drain sends what was gathered.
func (o *output) drain() error {
	if len(o.buffer) == 0 {
		return nil
	}
	err := o.send(o.buffer)
	o.buffer = o.buffer[:0]
	return err
}

func (o *output) send(b []byte) error {
	if err := o.start(); err != nil {
		return err
	}
	n, err := o.put(b)
	o.sent += int64(n)
	if err != nil {
		return clientError{err}
	}
	return nil
}

func (o *output) put(b []byte) (int, error) {
	if o.upgrade {
		return bulk.Write(o.conn, b)
	}
	return o.response.Write(b)
}

// start sends the status, if it was not yet sent.
func (o *output) start() error {
	if o.began {
		return nil
	}
	o.begin(o.response.Header())
	if o.upgrade {
		return o.takeOver()
	}
	o.began = true
	o.response.WriteHeader(http.StatusOK)
	return nil
}

// abort makes writes fail, also one that waits for the client.
func (o *output) abort() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.late = true
	past := time.Unix(1, 0)
	if o.conn != nil {
		_ = o.conn.SetWriteDeadline(past) // It fails only when the connection is closed.
		return
	}
	// Where it is not supported, the client's own timeouts have to do.
	_ = http.NewResponseController(o.response).SetWriteDeadline(past)
}

// flush makes the client see everything that was written.
func (o *output) flush() error {
	if len(o.buffer) == 0 {
		return nil
	}
	if err := o.drain(); err != nil {
		return err
	}
	if err := http.NewResponseController(o.response).Flush(); err != nil {
		return clientError{err}
	}
	return nil
}

// A clientError is one of the connection to the client.
type clientError struct{ error }

func (e clientError) Error() string { return "writing to the client: " + e.error.Error() }
func (e clientError) Unwrap() error { return e.error }
