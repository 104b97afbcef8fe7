package scrape

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/net/netutil"
	"k8s.io/client-go/kubernetes"
)

const (
	// maxConnections is how many there may be; who comes later waits for one to end.
	maxConnections = 128
	// maxScrapes is how many scrapes of a page may be under way, each with the families that it writes.
	maxScrapes = 4
	// maxAnswers is how many answers, of all pages, may be gathered or on their way: each is held whole until who asked has
	// read it.
	maxAnswers = 8
	// maxHeader bounds what is read before a request is known, token included.
	maxHeader = 16 << 10

	headerWithin = 5 * time.Second // the handshake, too
	scrapeWithin = 10 * time.Second
	writeWithin  = 30 * time.Second
	// idleFor is longer than the time between two scrapes mostly is.
	idleFor = 3 * time.Minute
	// drainFor is how long scrapes under way may take when the agent ends.
	drainFor = 2 * time.Second
)

// Config is what New needs.
type Config struct {
	// Client asks who may read. It needs the right to create tokenreviews and subjectaccessreviews.
	Client kubernetes.Interface
	// Certificate is the one to serve with now; nil while there is none.
	Certificate func() *tls.Certificate
	Pages       []Page
	// Failed is told what goes wrong beside answers, when it begins; it must not block.
	Failed func(error)
}

// A Page is what is offered at a path.
type Page struct {
	// Path is also what the right is asked for, as /metrics.
	Path string
	// Gatherer must be safe for concurrent use. What it gathers is served also when it has an error beside.
	Gatherer prometheus.Gatherer
	// Off says why the page is not offered now, and how it would be; empty when it is. nil: always offered.
	Off func() string
}

// Server offers pages.
type Server struct {
	config  Config
	reviews *reviews
	within  time.Duration // scrapeWithin, but for tests
	answers chan struct{} // has room for those that may be under way
}

// New makes a server that does nothing before Serve.
func New(config Config) *Server {
	return &Server{config: config, reviews: newReviews(config.Client, config.Failed), within: scrapeWithin, answers: make(chan struct{}, maxAnswers)}
}

var errNoCertificate = errors.New("there is no serving certificate yet")

// Serve answers until the context ends, and closes the listener. It is called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.handler(ctx),
		ReadHeaderTimeout: headerWithin, ReadTimeout: headerWithin, WriteTimeout: writeWithin, IdleTimeout: idleFor,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(panics(s.config.Failed), "", 0),
		Protocols:      new(http.Protocols),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, // older scrapers have no 1.3
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				if own := s.config.Certificate(); own != nil {
					return own, nil
				}
				return nil, errNoCertificate
			},
		},
	}
	server.Protocols.SetHTTP1(true)
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		drain(server)
	})
	err := server.ServeTLS(netutil.LimitListener(listener, maxConnections), "", "")
	if stop() {
		server.Close() // it failed by itself
	} else {
		<-drained
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// panics is a log that tells of panics. Everything else in it is about handshakes: whoever scans ports would write it.
type panics func(error)

func (p panics) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte("panic serving")) {
		p(errors.New(string(text)))
	}
	return len(text), nil
}

func drain(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close()
	}
}

// handler has each page behind the same checks. What is no page is answered before them, and ends the connection: who sends
// no token holds none.
func (s *Server) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	for _, page := range s.config.Pages {
		mux.Handle("GET "+page.Path, s.guarded(ctx, page)) // HEAD, too
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, page := mux.Handler(r); page == "" {
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) guarded(ctx context.Context, page Page) http.Handler {
	offered := http.TimeoutHandler(s.limited(page), s.within, fmt.Sprintf("The scrape took longer than %v.\n", s.within))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := s.reviews.ask(ctx, r.Header.Get("Authorization"), page.Path)
		if answer.code != http.StatusOK {
			answer.refuse(w)
			return
		}
		if page.Off != nil {
			if why := page.Off(); why != "" {
				http.Error(w, page.Path+" is not offered: "+why, http.StatusNotFound)
				return
			}
		}
		select {
		case s.answers <- struct{}{}:
			defer func() { <-s.answers }()
			offered.ServeHTTP(w, r)
		default:
			tooMany(w, fmt.Sprintf("%d answers are on their way", cap(s.answers)))
		}
	})
}

func tooMany(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusTooManyRequests)
}

// limited is what gathers and writes. A scrape that has timed out holds its place until it ends.
func (s *Server) limited(page Page) http.Handler {
	problem := &transitions{tell: func(err error) { s.config.Failed(fmt.Errorf("gathering %s: %w", page.Path, err)) }}
	gatherer := watched{page.Gatherer, problem}
	inner := compressed(inText(gatherer, promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
	})))
	scrapes := make(chan struct{}, maxScrapes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case scrapes <- struct{}{}:
			defer func() { <-scrapes }()
			inner.ServeHTTP(w, r)
		default:
			tooMany(w, fmt.Sprintf("%d scrapes are under way", maxScrapes))
		}
	})
}

// transitions tells of an error when it begins, and not again before it has ended.
type transitions struct {
	tell   func(error)
	failed atomic.Bool
}

func (t *transitions) saw(err error) {
	if err == nil {
		t.failed.Store(false)
	} else if !t.failed.Swap(true) {
		t.tell(err)
	}
}

// watched tells of what goes wrong while gathering.
type watched struct {
	prometheus.Gatherer
	problem *transitions
}

func (w watched) Gather() ([]*dto.MetricFamily, error) {
	families, err := w.Gatherer.Gather()
	w.problem.saw(err)
	return families, err
}
