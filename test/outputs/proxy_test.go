package outputs

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A proxy is between the agent and a stand-in, and lets go wrong what a test asks for.
type proxy struct {
	url     string
	target  *standin
	forward http.Handler
	ended   chan struct{} // closed when the test ends: what stalls until then

	mu sync.Mutex
	// fault is asked about each request, whose body was not read yet. It answers whether it has dealt with it.
	fault func(p *proxy, w http.ResponseWriter, r *http.Request) bool
	// passed are the requests that came through, in their order.
	passed []passed
	// sessions of Google's protocol and the bytes that each has; what was made of those that are whole.
	sessions map[string]int64
	made     map[string][]byte
}

// passed is what is remembered of a request.
type passed struct {
	kind  kind
	key   string
	place string // which part
}

func newProxy(t *testing.T, target *standin) *proxy {
	p := &proxy{target: target, ended: make(chan struct{}), sessions: map[string]int64{}, made: map[string][]byte{}}
	backend := mustURL(t, target.url)
	transport := &http.Transport{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = backend.Scheme, backend.Host, r.In.Host // signatures are of the host
		},
		ModifyResponse: func(r *http.Response) error {
			if location := r.Header.Get("Location"); location != "" && target.sessions {
				r.Header.Set("Location", p.moved(location))
			}
			return nil
		},
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.forward = forward
	server := httptest.NewServer(p)
	p.url = server.URL + backend.Path
	t.Cleanup(func() {
		close(p.ended)
		server.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// moved is where a session is for those who come through the proxy.
func (p *proxy) moved(location string) string {
	u, err := url.Parse(location)
	own, ownErr := url.Parse(p.url)
	if err != nil || ownErr != nil {
		return location
	}
	u.Scheme, u.Host = own.Scheme, own.Host
	return u.String()
}

func (p *proxy) breaks(fault func(p *proxy, w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

func (p *proxy) seen() []passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]passed(nil), p.passed...)
}

// count is how many requests of a kind came through.
func (p *proxy) count(of kind) int {
	n := 0
	for _, one := range p.seen() {
		if one.kind == of {
			n++
		}
	}
	return n
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	fault := p.fault
	p.mu.Unlock()
	if fault != nil && fault(p, w, r) {
		return
	}
	p.pass(w, r)
}

// pass passes a request on, and remembers it if the store took it.
func (p *proxy) pass(w http.ResponseWriter, r *http.Request) {
	if p.target.sessions && r.Header.Get("Content-Range") == "bytes */*" {
		p.has(w, r) // the stand-in would take the question for the end
		return
	}
	about := p.about(r)
	recorder := &status{ResponseWriter: w, code: http.StatusOK}
	p.forward.ServeHTTP(recorder, r)
	if recorder.code/100 != 2 && recorder.code != http.StatusPermanentRedirect && recorder.code != 499 {
		return // 499 is how Google says that a session was given up
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed = append(p.passed, about)
	if to, ok := lastByte(r); ok {
		session := r.URL.Query().Get(gcsSession)
		p.sessions[session] = to + 1
		if recorder.code == http.StatusOK {
			p.made[session] = recorder.said.Bytes()
		}
	}
}

func (p *proxy) about(r *http.Request) passed {
	query := r.URL.Query()
	about := passed{kind: p.target.kind(r), key: r.URL.Path, place: query.Get("partNumber") + query.Get("blockid")}
	if about.place == "" {
		about.place = r.Header.Get("Content-Range")
	}
	if name := query.Get("name"); name != "" {
		about.key = name
	}
	return about
}

// has answers what Google's reference says: how many bytes the session has.
func (p *proxy) has(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	session := r.URL.Query().Get(gcsSession)
	if made, ok := p.made[session]; ok {
		_, _ = w.Write(made)
		return
	}
	if n := p.sessions[session]; n > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", n-1))
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}

// lastByte is the number of the last byte that a request of a session sends.
func lastByte(r *http.Request) (int64, bool) {
	place, _, _ := strings.Cut(r.Header.Get("Content-Range"), "/")
	_, last, found := strings.Cut(place, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	return n, found && err == nil
}

type status struct {
	http.ResponseWriter
	code int
	said bytes.Buffer
}

func (s *status) Write(content []byte) (int, error) {
	s.said.Write(content)
	return s.ResponseWriter.Write(content)
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// The faults.
type fault = func(p *proxy, w http.ResponseWriter, r *http.Request) bool

// sends tells of a request that carries content.
func sends(p *proxy, r *http.Request) bool {
	k := p.target.kind(r)
	return k == aPart || k == aWhole
}

// nth lets a fault happen to the nth request that sends content (from 1) and to no other; 0 is every one.
func nth(n int, f fault) fault {
	var mu sync.Mutex
	count := 0
	return func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
		if !sends(p, r) {
			return false
		}
		mu.Lock()
		count++
		now := n == 0 || count == n
		mu.Unlock()
		return now && f(p, w, r)
	}
}

// answers answers with a status.
func answers(code int) fault {
	return func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		// What a store says may hold anything.
		w.Header().Set("X-Ms-Error-Code", "Because "+p.target.secrets[0])
		w.WriteHeader(code)
		fmt.Fprintf(w, "<Error><Code>Because %s</Code><Message>%s %s</Message></Error>", p.target.secrets[0], r.URL, r.Header)
		return true
	}
}

// breaksOff takes half of the content and ends the connection.
func breaksOff(_ *proxy, w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	connection, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		connection.Close()
	}
	return true
}

// losesTheEnd lets the request that finishes an object through, once, and loses the answer.
func losesTheEnd() fault {
	var once sync.Once
	return func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
		place := r.Header.Get("Content-Range")
		if k := p.target.kind(r); k != aFinish && (k != aPart || place == "" || strings.HasSuffix(place, "*")) {
			return false
		}
		lost := false
		once.Do(func() {
			lost = true
			p.pass(httptest.NewRecorder(), r)
			breaksOff(p, w, r)
		})
		return lost
	}
}

// stalls takes nothing and answers nothing.
func stalls(p *proxy, _ http.ResponseWriter, r *http.Request) bool {
	select {
	case <-p.ended:
	case <-r.Context().Done():
	}
	return true
}

// corrupts changes a byte on the way.
func corrupts(p *proxy, w http.ResponseWriter, r *http.Request) bool {
	content, err := io.ReadAll(r.Body)
	if err != nil || len(content) == 0 {
		return false
	}
	content[len(content)/3] ^= 0x20
	r.Body = io.NopCloser(bytes.NewReader(content))
	p.pass(w, r)
	return true
}
