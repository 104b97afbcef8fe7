package scrape

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api is a Kubernetes API that knows tokens "good" (may get /metrics) and "poor" (may not), over real HTTP.
type api struct {
	t testing.TB
	// down makes it answer 500, and holding wait for the channel.
	down    atomic.Bool
	revoked atomic.Bool
	tokens  atomic.Int64
	access  atomic.Int64
	// arrived, unless nil, is told of each question.
	arrived chan struct{}
	hold    chan struct{}
	// asked is the last question about access.
	asked atomic.Pointer[authorization.SubjectAccessReviewSpec]
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.arrived != nil {
		a.arrived <- struct{}{}
	}
	if a.hold != nil {
		<-a.hold
	}
	body, _ := io.ReadAll(r.Body)
	switch r.URL.Path {
	case "/apis/authentication.k8s.io/v1/tokenreviews":
		a.tokens.Add(1)
		var review authentication.TokenReview
		a.decode(body, &review)
		if a.down.Load() {
			a.status(w, "no etcd for "+review.Spec.Token)
			return
		}
		switch review.Spec.Token {
		case "good", "poor":
			review.Status.Authenticated = true
			review.Status.User = authentication.UserInfo{
				Username: "user-" + review.Spec.Token, UID: "1", Groups: []string{"g"}, Extra: map[string]authentication.ExtraValue{"k": {"v"}},
			}
		default:
			review.Status.Error = "invalid bearer token"
		}
		review.Spec.Token = ""
		a.encode(w, &review)
	case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		a.access.Add(1)
		var review authorization.SubjectAccessReview
		a.decode(body, &review)
		a.asked.Store(&review.Spec)
		at := review.Spec.NonResourceAttributes
		review.Status.Allowed = review.Spec.User == "user-good" && at.Path != "/forbidden" && at.Verb == "get" && !a.revoked.Load()
		a.encode(w, &review)
	default:
		a.t.Errorf("the agent asked for %s", r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}
}

func (a *api) decode(body []byte, into any) {
	if err := json.Unmarshal(body, into); err != nil {
		a.t.Error(err)
	}
}

func (a *api) encode(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(object)
}

func (a *api) status(w http.ResponseWriter, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(&metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: 500, Message: message,
	})
}

func (a *api) client() kubernetes.Interface {
	server := httptest.NewServer(a)
	a.t.Cleanup(server.Close)
	transport := &http.Transport{}
	a.t.Cleanup(transport.CloseIdleConnections)
	client, err := kubernetes.NewForConfigAndClient(&rest.Config{
		Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}, QPS: -1,
	}, &http.Client{Transport: transport})
	if err != nil {
		a.t.Fatal(err)
	}
	return client
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) step(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// certificateFor makes one that signs itself.
func certificateFor(t *testing.T, names ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// gatherer offers one native histogram and what extra gathers.
type gatherer struct {
	registry *prometheus.Registry
	extra    func() ([]*dto.MetricFamily, error)
}

func newGatherer() *gatherer {
	g := &gatherer{registry: prometheus.NewRegistry()}
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "test_seconds", Help: "A test.", Buckets: []float64{1}, NativeHistogramBucketFactor: 1.1,
	})
	histogram.Observe(0.5)
	g.registry.MustRegister(histogram)
	return g
}

func (g *gatherer) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.registry.Gather()
	if g.extra != nil && err == nil {
		return g.extra()
	}
	return families, err
}

// world is a server that is scraped.
type world struct {
	t           *testing.T
	api         *api
	clock       *clock
	server      *Server
	gatherer    *gatherer
	off         atomic.Pointer[string]
	certificate atomic.Pointer[tls.Certificate]
	failures    chan error
	address     string
	client      *http.Client
	transport   *http.Transport
	stop        func() error
}

func newWorld(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := &world{t: t, api: &api{t: t}, clock: &clock{now: time.Unix(1e9, 0)}, gatherer: newGatherer(), failures: make(chan error, 1000)}
	w.certificate.Store(certificateFor(t, v1alpha1.DNSName("node-1"), v1alpha1.MetricsDNSName))
	w.server = New(Config{
		Client: w.api.client(), Certificate: w.certificate.Load, Failed: func(err error) { w.failures <- err },
		Pages: []Page{
			{Path: "/metrics", Gatherer: w.gatherer},
			{Path: "/forbidden", Gatherer: w.gatherer},
			{Path: "/metrics/retina", Gatherer: w.gatherer, Off: func() string {
				if why := w.off.Load(); why != nil {
					return *why
				}
				return ""
			}},
		},
	})
	w.server.reviews.now = w.clock.Now
	if change != nil {
		change(w)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Serve(ctx, listener) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	w.client, w.transport = w.dialer(&tls.Config{ServerName: v1alpha1.MetricsDNSName})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// dialer trusts the server's certificate of now.
func (w *world) dialer(config *tls.Config) (*http.Client, *http.Transport) {
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AddCert(w.certificate.Load().Leaf)
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, transport
}

func (w *world) do(method, path, authorization string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+w.address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response, string(body)
}

// code is that of a scrape with a token.
func (w *world) code(token string) int {
	w.t.Helper()
	response, _ := w.do("GET", "/metrics", "Bearer "+token)
	return response.StatusCode
}

func TestWhoMayScrape(t *testing.T) {
	w := newWorld(t, nil)
	for _, test := range []struct {
		name, method, path, authorization string
		code                              int
		says                              string
	}{
		{"allowed", "GET", "/metrics", "Bearer good", 200, "test_seconds_count 1"},
		{"allowed, other letters", "GET", "/metrics", "bearer good", 200, "test_seconds_count 1"},
		{"allowed, HEAD", "HEAD", "/metrics", "Bearer good", 200, ""},
		{"another page", "GET", "/metrics/retina", "Bearer good", 200, "test_seconds_count 1"},
		{"one metric of it", "GET", "/metrics?name[]=other", "Bearer good", 200, ""},
		{"nobody", "GET", "/metrics", "", 401, "a bearer token is needed"},
		{"an empty token", "GET", "/metrics", "Bearer ", 401, "a bearer token is needed"},
		{"a password", "GET", "/metrics", "Basic Z29vZA==", 401, "a bearer token is needed"},
		{"a token that is none", "GET", "/metrics", "Bearer forged", 401, "not valid in this cluster"},
		{"no right", "GET", "/metrics", "Bearer poor", 403, `"user-poor" may not get /metrics; the ClusterRole networkobservability-metrics-reader`},
		{"no right to this page", "GET", "/forbidden", "Bearer good", 403, `"user-good" may not get /forbidden`},
		{"writing", "POST", "/metrics", "Bearer good", 405, ""},
		{"no page", "GET", "/metrics/other", "Bearer good", 404, ""},
		{"the root", "GET", "/", "Bearer good", 404, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := w.do(test.method, test.path, test.authorization)
			if response.StatusCode != test.code || !strings.Contains(body, test.says) {
				t.Errorf("%d %q, want %d %q", response.StatusCode, body, test.code, test.says)
			}
			if strings.Contains(body, "goroutine") || test.code == 401 && response.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%v %q", response.Header, body)
			}
			if refused := test.code == 401 || test.code == 403; refused && !response.Close {
				t.Error("the connection of who may not scrape stays open")
			}
		})
	}
	spec := w.api.asked.Load()
	if len(spec.Groups) != 1 || spec.UID != "1" || spec.Extra["k"][0] != "v" || spec.ResourceAttributes != nil {
		t.Errorf("asked about %+v", spec)
	}
	select {
	case err := <-w.failures:
		t.Errorf("told of %v", err)
	default:
	}
}

// Connections are few, so that who has not shown a token must not keep one.
func TestStrangersHoldNoConnection(t *testing.T) {
	w := newWorld(t, nil)
	for _, test := range []struct {
		method, path string
		code         int
	}{{"GET", "/elsewhere", 404}, {"POST", "/metrics", 405}, {"GET", "/metrics", 401}} {
		response, _ := w.do(test.method, test.path, "")
		if response.StatusCode != test.code || !response.Close {
			t.Errorf("%s %s: %d, and the connection ends: %v", test.method, test.path, response.StatusCode, response.Close)
		}
	}
	if response, _ := w.do("GET", "/metrics", "Bearer good"); response.StatusCode != 200 || response.Close {
		t.Errorf("a scrape: %d, and the connection ends: %v", response.StatusCode, response.Close)
	}
}

func TestPageThatIsOff(t *testing.T) {
	w := newWorld(t, nil)
	w.off.Store(new("spec.retinaMetrics is false"))
	if response, body := w.do("GET", "/metrics/retina", "Bearer good"); response.StatusCode != 404 || !strings.Contains(body, "spec.retinaMetrics is false") {
		t.Errorf("%d %q", response.StatusCode, body)
	}
	if response, body := w.do("GET", "/metrics/retina", "Bearer poor"); response.StatusCode != 403 || strings.Contains(body, "spec") {
		t.Errorf("who may not learns of it: %d %q", response.StatusCode, body)
	}
	w.off.Store(nil)
	if response, _ := w.do("GET", "/metrics/retina", "Bearer good"); response.StatusCode != 200 {
		t.Errorf("switched on: %d", response.StatusCode)
	}
}

func TestForms(t *testing.T) {
	w := newWorld(t, nil)
	response, body := w.do("GET", "/metrics", "Bearer good", "Accept-Encoding", "gzip")
	unpacked, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v: %v", response.Header, err)
	}
	if text, err := io.ReadAll(unpacked); err != nil || !bytes.Contains(text, []byte("test_seconds_bucket{le=\"1\"} 1")) {
		t.Errorf("%v: %s", err, text)
	}
	if n := response.Header.Get("Content-Length"); n != fmt.Sprint(len(body)) || response.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("of %d bytes it says %v", len(body), response.Header)
	}
	accept := `application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited`
	response, body = w.do("GET", "/metrics", "Bearer good", "Accept", accept, "Accept-Encoding", "identity")
	var family dto.MetricFamily
	if err := expfmt.NewDecoder(strings.NewReader(body), expfmt.ResponseFormat(response.Header)).Decode(&family); err != nil {
		t.Fatal(err)
	}
	if h := family.Metric[0].Histogram; h.GetSchema() != 3 || len(h.PositiveSpan) != 1 || len(h.Bucket) != 1 {
		t.Errorf("the native histogram is %v", h)
	}
}

func TestAccepts(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "gzip;q=x": false,
		"zstd,gzip": true, "identity": false, "*": false, "gzipped": false,
	} {
		if got := accepts([]string{header}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

func TestTransport(t *testing.T) {
	w := newWorld(t, nil)
	for _, test := range []struct {
		name    string
		config  *tls.Config
		allowed bool
	}{
		{"by the node's name", &tls.Config{ServerName: v1alpha1.DNSName("node-1")}, true},
		{"by the name for metrics", &tls.Config{ServerName: v1alpha1.MetricsDNSName}, true},
		{"TLS 1.2", &tls.Config{ServerName: v1alpha1.MetricsDNSName, MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", &tls.Config{ServerName: v1alpha1.MetricsDNSName, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"by the name of another node", &tls.Config{ServerName: v1alpha1.DNSName("node-2")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, _ := w.dialer(test.config)
			request, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+w.address+"/metrics", nil)
			request.Header.Set("Authorization", "Bearer good")
			response, err := client.Do(request)
			if err == nil {
				response.Body.Close()
				if response.ProtoMajor != 1 {
					t.Errorf("spoke %s", response.Proto)
				}
			}
			if (err == nil) != test.allowed {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCertificateIsTheOneOfNow(t *testing.T) {
	w := newWorld(t, nil)
	if code := w.code("good"); code != 200 {
		t.Fatal(code)
	}
	w.certificate.Store(certificateFor(t, v1alpha1.MetricsDNSName))
	w.transport.CloseIdleConnections()
	w.client, w.transport = w.dialer(&tls.Config{ServerName: v1alpha1.MetricsDNSName})
	if code := w.code("good"); code != 200 {
		t.Errorf("after rotation: %d", code)
	}
	w.certificate.Store(nil)
	w.transport.CloseIdleConnections()
	if response, err := w.client.Get("https://" + w.address + "/metrics"); err == nil {
		response.Body.Close()
		t.Error("served without a certificate")
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	if code := w.code(strings.Repeat("x", 2*maxHeader)); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d", code)
	}
	if w.api.tokens.Load() != 0 {
		t.Error("the token was asked about")
	}
}

// What was gathered is served, and what went wrong beside is told of once.
func TestProblemsOfGathering(t *testing.T) {
	g := newGatherer()
	broken := true
	w := newWorld(t, func(w *world) {
		w.gatherer.extra = func() ([]*dto.MetricFamily, error) {
			families, _ := g.Gather()
			if broken {
				return families, errors.New("half is missing")
			}
			return families, nil
		}
	})
	for range 3 {
		if response, body := w.do("GET", "/metrics", "Bearer good"); response.StatusCode != 200 || !strings.Contains(body, "test_seconds_count 1") {
			t.Errorf("%d %q", response.StatusCode, body)
		}
	}
	if err := <-w.failures; !strings.Contains(err.Error(), "gathering /metrics: half is missing") || len(w.failures) != 0 {
		t.Errorf("told of %v and %d more", err, len(w.failures))
	}
	broken = false
	w.code("good")
	broken = true
	w.code("good")
	if len(w.failures) != 1 {
		t.Errorf("told %d times of what went wrong again", len(w.failures))
	}
}

func TestNothingWasGathered(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.gatherer.extra = func() ([]*dto.MetricFamily, error) { return nil, errors.New("all is missing") }
	})
	for _, encoding := range []string{"gzip", "identity"} {
		response, body := w.do("GET", "/metrics", "Bearer good", "Accept-Encoding", encoding)
		if response.StatusCode != 500 || !strings.Contains(body, "all is missing") || response.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %q %v", encoding, response.StatusCode, body, response.Header)
		}
	}
}

func TestPanicIsTold(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.gatherer.extra = func() ([]*dto.MetricFamily, error) { panic("a mistake of ours") }
	})
	request, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+w.address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer good")
	if response, err := w.client.Do(request); err == nil {
		response.Body.Close()
		t.Errorf("answered with %d", response.StatusCode)
	}
	if err := <-w.failures; !strings.Contains(err.Error(), "a mistake of ours") {
		t.Errorf("told of %v", err)
	}
	if response, _ := w.do("GET", "/forbidden", "Bearer good"); response.StatusCode != 403 {
		t.Errorf("afterwards: %d", response.StatusCode)
	}
}

func TestSlowScrapes(t *testing.T) {
	release, gathering := make(chan struct{}), make(chan struct{}, 100)
	w := newWorld(t, func(w *world) {
		w.server.within = time.Second
		w.gatherer.extra = func() ([]*dto.MetricFamily, error) {
			gathering <- struct{}{}
			<-release
			return nil, nil
		}
	})
	w.do("GET", "/forbidden", "Bearer good") // connects
	var slow sync.WaitGroup
	for range maxScrapes {
		slow.Go(func() {
			if response, body := w.do("GET", "/metrics", "Bearer good"); response.StatusCode != 503 || !strings.Contains(body, "longer than 1s") {
				t.Errorf("%d %q", response.StatusCode, body)
			}
		})
		<-gathering
	}
	slow.Wait()
	var response *http.Response
	var body string
	for range 10 { // a busy machine may take the second for an answer that needs none
		if response, body = w.do("GET", "/metrics", "Bearer good"); response.StatusCode != http.StatusServiceUnavailable {
			break
		}
	}
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %d %q", response.StatusCode, body)
	}
	close(release)
}

// Who does not read what they asked for cannot have the agent hold ever more answers.
func TestUnreadAnswers(t *testing.T) {
	large := new(strings.Repeat("x", 8<<20)) // more than sockets take
	w := newWorld(t, func(w *world) {
		w.server.answers = make(chan struct{}, 2)
		w.gatherer.extra = func() ([]*dto.MetricFamily, error) {
			metric := &dto.Metric{Label: []*dto.LabelPair{{Name: new("a"), Value: large}}, Gauge: &dto.Gauge{Value: new(1.0)}}
			return []*dto.MetricFamily{{Name: new("large"), Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{metric}}}, nil
		}
	})
	unread := make([]net.Conn, cap(w.server.answers))
	for i := range unread {
		unread[i] = w.ask(t)
	}
	if response, body := w.do("GET", "/metrics", "Bearer good"); response.StatusCode != http.StatusTooManyRequests || body != "2 answers are on their way\n" {
		t.Errorf("one more: %d %.100q", response.StatusCode, body)
	}
	if response, _ := w.do("GET", "/metrics", "Bearer nobody's"); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("of a stranger: %d", response.StatusCode)
	}
	for _, connection := range unread {
		connection.Close()
	}
	for len(w.server.answers) > 0 { // as soon as writing to them fails
		runtime.Gosched()
	}
	if response, body := w.do("GET", "/metrics", "Bearer good"); response.StatusCode != http.StatusOK || len(body) < 8<<20 {
		t.Errorf("afterwards: %d, %d bytes", response.StatusCode, len(body))
	}
}

// ask asks for metrics, and reads no more than the beginning of the answer.
func (w *world) ask(t *testing.T) net.Conn {
	t.Helper()
	plain, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	if err := plain.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{ServerName: v1alpha1.MetricsDNSName, RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(w.certificate.Load().Leaf)
	connection := tls.Client(plain, config)
	_, err = fmt.Fprintf(connection, "GET /metrics HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer good\r\n\r\n")
	if err == nil {
		_, err = io.ReadFull(connection, make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestEndWhileAsking(t *testing.T) {
	w := newWorld(t, func(w *world) { w.api.hold, w.api.arrived = make(chan struct{}), make(chan struct{}, 10) })
	ended := make(chan int, 1)
	go func() {
		request, _ := http.NewRequest("GET", "https://"+w.address+"/metrics", nil)
		request.Header.Set("Authorization", "Bearer good")
		response, err := w.client.Do(request)
		if err != nil {
			ended <- 0
			return
		}
		response.Body.Close()
		ended <- response.StatusCode
	}()
	<-w.api.arrived
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if code := <-ended; code == 200 {
		t.Error("a scrape was answered without a yes")
	}
	close(w.api.hold)
}

func TestListenerThatFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := New(Config{}).Serve(t.Context(), listener); err == nil || !strings.Contains(err.Error(), "serving metrics") {
		t.Errorf("%v", err)
	}
}

var _ flowcontrol.RateLimiter = unlimited{}

// unlimited is no limit, for tests of something else.
type unlimited struct{ flowcontrol.RateLimiter }

func (unlimited) TryAccept() bool { return true }

func ExampleServer() {
	fmt.Println(v1alpha1.MetricsPort, v1alpha1.MetricsDNSName)
	// Output: 10263 networkobservability-nodeagent.network-observability.svc
}
