package streams

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A largest notes the largest write.
type largest struct {
	*httptest.ResponseRecorder
	bytes int
}

func (l *largest) Write(b []byte) (int, error) {
	l.bytes = max(l.bytes, len(b))
	return l.ResponseRecorder.Write(b)
}

// TestBeginIsWrittenInPieces: a long filter and many interfaces make much that comes before the packets, of which a stream holds little.
func TestBeginIsWrittenInPieces(t *testing.T) {
	node := newNode()
	for i := range uint32(100) {
		node.state.Parts = append(node.state.Parts, partOf(i, "shop", fmt.Sprintf("web-%d", i), "eth0"))
	}
	node.end()
	w := newWorld(t, fakeAgents{"a": node})
	w.store.change(func(c *v1alpha1.Capture) { c.Spec.Filter = "udp" + strings.Repeat(" ", 50_000) })
	w.finish()
	s, err := w.session(t.Context(), "pcap", v1alpha1.CaptureReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	written := &largest{ResponseRecorder: httptest.NewRecorder()}
	if err := s.stream(t.Context(), &output{response: written}); err != nil {
		t.Fatal(err)
	}
	if size := written.Body.Len(); size < 5_000_000 || written.bytes > 200_000 {
		t.Errorf("of %d bytes %d were held", size, written.bytes)
	}
}

// BenchmarkOutput is megabytes a second from runs as agents send them to a client that reads over HTTP/2, as kube-apiserver does.
func BenchmarkOutput(b *testing.B) {
	const runs = 64
	run := make([]byte, batchMemory)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out := &output{response: w, begin: setHeaders}
		for range runs {
			if err := out.write(run); err != nil {
				return // The client sees it.
			}
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	b.SetBytes(runs * int64(len(run)))
	for b.Loop() {
		answer, err := server.Client().Get(server.URL)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil || answer.ProtoMajor != 2 || n != runs*int64(len(run)) {
			b.Fatalf("%d bytes over %s: %v", n, answer.Proto, err)
		}
	}
}
