package streams

import (
	"net/http"
)

const (
	// outputBuffer gathers short runs; runs of directWrite bytes and more are written as they are.
	outputBuffer = 64 << 10
	directWrite  = 32 << 10
)

// An output is the body of an answer. Nothing is sent before the first byte that is not left out.
type output struct {
	response http.ResponseWriter
	// begin sets the headers, before the first byte.
	begin func(http.Header)
	// skip is how many bytes are left out still.
	skip int64

	buffer []byte
	began  bool
	// sent counts bytes that were handed to the connection.
	sent int64
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
	o.start()
	n, err := o.response.Write(b)
	o.sent += int64(n)
	if err != nil {
		return clientError{err}
	}
	return nil
}

// start sends the status, if it was not yet sent.
func (o *output) start() {
	if o.began {
		return
	}
	o.began = true
	o.begin(o.response.Header())
	o.response.WriteHeader(http.StatusOK)
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
