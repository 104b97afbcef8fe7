package streams

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

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
