package bulk

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A counted connection counts calls.
type counted struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *counted) Read(b []byte) (int, error)  { c.reads.Add(1); return c.Conn.Read(b) }
func (c *counted) Write(b []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(b) }

// connect makes a TLS connection over TCP, a Conn at each end, and says what is below these.
func connect(t *testing.T, ahead int) (from, to *tls.Conn, below, above *counted) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	certificates := server.TLS.Certificates
	server.Close()
	below, above = &counted{Conn: accepted}, &counted{Conn: dialled}
	from = tls.Server(New(below, 0), &tls.Config{MinVersion: tls.VersionTLS13, Certificates: certificates})
	to = tls.Client(New(above, ahead), &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	done := make(chan error, 1)
	go func() { done <- from.Handshake() }()
	if err := errors.Join(to.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return from, to, below, above
}

// TestWrite: what is written arrives, in fewer calls than records.
func TestWrite(t *testing.T) {
	from, to, below, above := connect(t, 256<<10)
	content := make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	wrote := make(chan error, 1)
	go func() {
		rest := content
		for _, size := range []int{1, record, record + 1, 100_000, 3 << 20} {
			if n, err := Write(from, rest[:size]); err != nil || n != size {
				wrote <- errors.Join(err, errors.New("a short write"))
				return
			}
			rest = rest[size:]
		}
		_, err := Write(from, rest)
		wrote <- errors.Join(err, from.CloseWrite())
	}()
	got, err := io.ReadAll(to)
	if err := errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes of %d: %v", len(got), len(content), err)
	}
	records := int64(len(content) / record)
	if calls := below.writes.Load(); calls > records/8 {
		t.Errorf("%d calls for %d records", calls, records)
	}
	t.Logf("%d records: %d writes, %d reads", records, below.writes.Load(), above.reads.Load())
}

// TestWriteFails: a reader that is gone, or that does not read until the deadline, is an error.
func TestWriteFails(t *testing.T) {
	from, _, _, _ := connect(t, 0)
	if err := from.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(from, make([]byte, 1<<20)); err == nil {
		t.Error("no error behind the deadline")
	}
	from, to, _, _ := connect(t, 0)
	if err := to.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := Write(from, make([]byte, 1<<20)); err != nil {
			return
		}
	}
	t.Error("no error with a reader that is gone")
}

// TestPlain writes to what is not over a Conn.
func TestPlain(t *testing.T) {
	from, to := net.Pipe()
	defer to.Close()
	go func() {
		_, _ = Write(from, make([]byte, 3*record)) // The reader sees what is missing.
		from.Close()
	}()
	if got, err := io.ReadAll(to); err != nil || len(got) != 3*record {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}
