package scrape

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
)

// Config is what New needs.
type Config struct {
	// Client asks who may read. It needs the right to create tokenreviews and subjectaccessreviews.
	Client kubernetes.Interface
	// Certificate is the one to serve with now; nil while there is none.
	Certificate func() *tls.Certificate
	Pages       []Page
	// Failed is told what goes wrong beside answers; it must not block.
	Failed func(error)
}

// A Page is what is offered at a path.
type Page struct {
	// Path is also what the right is asked for, as /metrics.
	Path string
	// Gatherer must be safe for concurrent use.
	Gatherer prometheus.Gatherer
	// Off says why the page is not offered now, and how it would be; empty when it is. nil: always offered.
	Off func() string
}

// Server offers pages.
type Server struct{ config Config }

// New makes a server that does nothing before Serve.
func New(config Config) *Server { return &Server{config: config} }

// Serve answers until the context ends, and closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	return errors.New("not yet")
}
