package serve

import (
	"net/http"
	"sync/atomic"
	"time"
)

// Health answers probes. The zero value is alive and not ready.
type Health struct{ ready atomic.Bool }

// SetReady says whether the agent has looked once and serves.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Server answers /healthz and /readyz; the caller lets it listen where only the node itself can reach it.
func (h *Health) Server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !h.ready.Load() {
			http.Error(w, "the first look is not done, or there is no certificate yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
}
