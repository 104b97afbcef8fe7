package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/keyutil"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = "node-1.example"

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

var serial atomic.Int64

func newAuthority(t *testing.T) authority {
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: fmt.Sprint("authority ", serial.Load())},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _ := x509.ParseCertificate(der)
	return authority{certificate, key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a authority) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a authority) sign(t *testing.T, public any, subject pkix.Name, names []string, usage x509.ExtKeyUsage) []byte {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: subject, DNSNames: names,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, a.certificate, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (a authority) client(t *testing.T, name string) tls.Certificate {
	key := newKey(t)
	return tls.Certificate{PrivateKey: key, Certificate: [][]byte{
		a.sign(t, key.Public(), pkix.Name{CommonName: name}, nil, x509.ExtKeyUsageClientAuth),
	}}
}

func (a authority) serving(t *testing.T) tls.Certificate {
	key := newKey(t)
	return tls.Certificate{PrivateKey: key, Certificate: [][]byte{
		a.sign(t, key.Public(), pkix.Name{CommonName: v1alpha1.SubjectPrefix + node}, []string{v1alpha1.DNSName(node)}, x509.ExtKeyUsageServerAuth),
	}}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("%s: not within a minute", what)
}

// rows is a Reader of rows of a given size; each read waits for hold, if there is one.
type rows struct {
	message string
	hold    chan struct{}
	reading atomic.Int32
}

func (r *rows) Read([]string) Reading { return r }

func (r *rows) Pod(key string) *v1alpha1.PodStats {
	r.reading.Add(1)
	if r.hold != nil {
		<-r.hold
	}
	return &v1alpha1.PodStats{Key: key, Measurement: &v1alpha1.Measurement{Message: r.message}}
}

func (r *rows) Node() *v1alpha1.NodeStats {
	return &v1alpha1.NodeStats{Agent: &v1alpha1.AgentInfo{Version: "test"}}
}

// A setup is a server with its authorities.
type setup struct {
	t                *testing.T
	clients, serving authority
	caDir, address   string
	current          atomic.Pointer[tls.Certificate]
}

func newSetup(t *testing.T, reader Reader) *setup { return newSetupWithFlows(t, reader, nil) }

func newSetupWithFlows(t *testing.T, reader Reader, flows FlowReader) *setup {
	return newSetupWith(t, Config{Reader: reader, Flows: flows})
}

// newSetupWith adds the transport to a configuration.
func newSetupWith(t *testing.T, config Config) *setup {
	s := &setup{t: t, clients: newAuthority(t), serving: newAuthority(t), caDir: t.TempDir()}
	write(t, filepath.Join(s.caDir, v1alpha1.ClientCAKey), s.clients.bundle())
	own := s.serving.serving(t)
	s.current.Store(&own)
	config.Transport = Transport(s.caDir, s.current.Load)
	server := NewServer(config)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return s
}

func (s *setup) dial(config *tls.Config) v1alpha1.AgentClient {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(s.serving.certificate)
	config.RootCAs, config.ServerName = pool, v1alpha1.DNSName(node)
	connection, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { connection.Close() })
	return v1alpha1.NewAgentClient(connection)
}

func (s *setup) asAPIServer() v1alpha1.AgentClient {
	return s.dial(&tls.Config{Certificates: []tls.Certificate{s.clients.client(s.t, v1alpha1.ClientCommonName)}})
}

// ask gives all batches of an answer. It may be held until others are asked for.
func ask(t *testing.T, client v1alpha1.AgentClient, request *v1alpha1.ReadStatsRequest) ([]*v1alpha1.ReadStatsResponse, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.ReadStats(ctx, request)
	if err != nil {
		return nil, err
	}
	var batches []*v1alpha1.ReadStatsResponse
	for {
		batch, err := stream.Recv()
		if err == io.EOF {
			return batches, nil
		}
		if err != nil {
			return batches, err
		}
		batches = append(batches, batch)
	}
}

func TestWhoMayAsk(t *testing.T) {
	s := newSetup(t, &rows{})
	other := newAuthority(t)
	for _, test := range []struct {
		name    string
		config  *tls.Config
		allowed bool
	}{
		{"the API server", &tls.Config{Certificates: []tls.Certificate{s.clients.client(t, v1alpha1.ClientCommonName)}}, true},
		{"nobody", &tls.Config{}, false},
		{"another name", &tls.Config{Certificates: []tls.Certificate{s.clients.client(t, "system:masters")}}, false},
		{"the right name from another authority", &tls.Config{Certificates: []tls.Certificate{other.client(t, v1alpha1.ClientCommonName)}}, false},
		{"another agent", &tls.Config{Certificates: []tls.Certificate{s.serving.serving(t)}}, false},
		{"a client made by the agents' authority", &tls.Config{Certificates: []tls.Certificate{s.serving.client(t, v1alpha1.ClientCommonName)}}, false},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{s.clients.client(t, v1alpha1.ClientCommonName)}, MaxVersion: tls.VersionTLS12}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			batches, err := ask(t, s.dial(test.config), &v1alpha1.ReadStatsRequest{PodKeys: []string{"a"}})
			if allowed := err == nil && len(batches) == 1; allowed != test.allowed {
				t.Errorf("allowed: %v (%v), want %v", allowed, err, test.allowed)
			}
		})
	}
}

func TestClientAuthorityChanges(t *testing.T) {
	s := newSetup(t, &rows{})
	old := s.asAPIServer()
	if _, err := ask(t, old, &v1alpha1.ReadStatsRequest{}); err != nil {
		t.Fatal(err)
	}
	s.clients = newAuthority(t)
	if _, err := ask(t, s.asAPIServer(), &v1alpha1.ReadStatsRequest{}); err == nil {
		t.Error("a client of an authority that is not in the bundle was let in")
	}
	write(t, filepath.Join(s.caDir, v1alpha1.ClientCAKey), s.clients.bundle())
	if _, err := ask(t, s.asAPIServer(), &v1alpha1.ReadStatsRequest{}); err != nil {
		t.Errorf("after the bundle changed: %v", err)
	}
	if _, err := ask(t, old, &v1alpha1.ReadStatsRequest{}); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
}

func TestNoCertificateYet(t *testing.T) {
	s := newSetup(t, &rows{})
	s.current.Store(nil)
	if _, err := ask(t, s.asAPIServer(), &v1alpha1.ReadStatsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	}
}

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("key-%d", i)
	}
	return all
}

func TestEveryKeyHasOneRowInBoundedBatches(t *testing.T) {
	s := newSetup(t, &rows{message: strings.Repeat("x", 1000)})
	asked := keys(v1alpha1.MaxPodKeys)
	batches, err := ask(t, s.asAPIServer(), &v1alpha1.ReadStatsRequest{PodKeys: asked, Node: true})
	if err != nil {
		t.Fatal(err)
	}
	var answered []string
	for i, batch := range batches {
		if size := proto.Size(batch); size > v1alpha1.MaxBatchBytes {
			t.Errorf("batch %d has %d bytes", i, size)
		}
		if hasNode := batch.Node != nil; hasNode != (i == 0) {
			t.Errorf("batch %d has the node: %v", i, hasNode)
		}
		for _, pod := range batch.Pods {
			answered = append(answered, pod.Key)
		}
	}
	if !slices.Equal(answered, asked) {
		t.Errorf("%d rows for %d keys", len(answered), len(asked))
	}
}

func TestLimits(t *testing.T) {
	s := newSetup(t, &rows{})
	client := s.asAPIServer()
	for _, test := range []struct {
		name string
		keys []string
		want codes.Code
		rows int
	}{
		{"as many as allowed", keys(v1alpha1.MaxPodKeys), codes.OK, v1alpha1.MaxPodKeys},
		{"one more", keys(v1alpha1.MaxPodKeys + 1), codes.InvalidArgument, 0},
		{"an empty key", []string{""}, codes.InvalidArgument, 0},
		{"a long key", []string{strings.Repeat("k", 253)}, codes.OK, 1},
		{"a longer key", []string{strings.Repeat("k", 254)}, codes.InvalidArgument, 0},
		{"a key twice", []string{"a", "b", "a"}, codes.OK, 2},
		{"a key that is a path", []string{"../../etc/passwd"}, codes.OK, 1},
		{"a request over 4 MiB", []string{strings.Repeat("k", 4<<20)}, codes.ResourceExhausted, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			batches, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: test.keys})
			if status.Code(err) != test.want {
				t.Fatalf("%v, want %v", err, test.want)
			}
			got := 0
			for _, batch := range batches {
				got += len(batch.Pods)
			}
			if got != test.rows {
				t.Errorf("%d rows, want %d", got, test.rows)
			}
		})
	}
}

func TestReadsUnderWay(t *testing.T) {
	reader := &rows{hold: make(chan struct{})}
	s := newSetup(t, reader)
	client := s.asAPIServer()
	results := make(chan error, maxReads)
	for range maxReads {
		go func() {
			_, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: []string{"a"}})
			results <- err
		}()
	}
	eventually(t, "as many reads as allowed", func() bool { return reader.reading.Load() == maxReads })
	if _, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: []string{"a"}}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more read: %v, want ResourceExhausted", err)
	}
	close(reader.hold)
	for range maxReads {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, err := ask(t, client, &v1alpha1.ReadStatsRequest{PodKeys: []string{"a"}}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestHealth(t *testing.T) {
	health := &Health{}
	answer := func(path string) int {
		recorder := httptest.NewRecorder()
		health.Server().Handler.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
		return recorder.Code
	}
	if live, ready := answer("/healthz"), answer("/readyz"); live != http.StatusOK || ready != http.StatusServiceUnavailable {
		t.Errorf("at the start healthz %d, readyz %d", live, ready)
	}
	health.SetReady(true)
	if ready := answer("/readyz"); ready != http.StatusOK {
		t.Errorf("readyz %d when ready", ready)
	}
}

// A signer answers certificate requests as the API server's controller would, with the authority that it has now.
type signer struct {
	t         *testing.T
	authority atomic.Pointer[authority]
	requests  atomic.Int32
	failures  atomic.Int32
	// refuse makes it deny what is asked for.
	refuse atomic.Bool
	last   atomic.Pointer[certificates.CertificateSigningRequest]
}

func (s *signer) client() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*certificates.CertificateSigningRequest).DeepCopy()
		n := s.requests.Add(1)
		request.Name = fmt.Sprintf("csr-%d", n)
		// The fake server knows no field selectors: whoever waits for one request would see the one before.
		_ = client.Tracker().Delete(action.GetResource(), "", fmt.Sprintf("csr-%d", n-1))
		s.last.Store(request)
		block, _ := pem.Decode(request.Spec.Request)
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return true, nil, err
		}
		der := s.authority.Load().sign(s.t, parsed.PublicKey, parsed.Subject, parsed.DNSNames, x509.ExtKeyUsageServerAuth)
		request.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		request.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateApproved, Status: "True"}}
		if s.refuse.Load() {
			request.Status.Certificate, request.Status.Conditions[0].Type = nil, certificates.CertificateDenied
		}
		return true, request, client.Tracker().Add(request)
	})
	return client
}

func (s *signer) use(a authority) { s.authority.Store(&a) }

// runCertificate runs until the test ends or stop is called.
func runCertificate(t *testing.T, s *signer, caDir, dataDir string) (c *Certificate, stop func()) {
	t.Helper()
	c = NewCertificate(s.client(), node, caDir, dataDir, func(error) { s.failures.Add(1) })
	c.leastPause, c.checkEvery = time.Millisecond, 10*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return c, stop
}

func TestCertificateIsAskedForAndKept(t *testing.T) {
	s, caDir, dataDir := &signer{t: t}, t.TempDir(), filepath.Join(t.TempDir(), "data")
	first := newAuthority(t)
	s.use(first)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), first.bundle())
	c, stop := runCertificate(t, s, caDir, dataDir)
	eventually(t, "a certificate", func() bool { return c.Current() != nil })
	asked := s.last.Load()
	if asked.Spec.SignerName != v1alpha1.SignerName || *asked.Spec.ExpirationSeconds != 24*3600 ||
		!slices.Equal(asked.Spec.Usages, []certificates.KeyUsage{"digital signature", "server auth"}) {
		t.Errorf("asked for %+v", asked.Spec)
	}
	leaf := c.Current().Leaf
	if leaf.Subject.String() != "CN=system:networkobservability:agent:node-1.example,O=networkobservability:agents" ||
		!slices.Equal(leaf.DNSNames, []string{"node-1.example.agent.networkobservability.k8s.io", "networkobservability-nodeagent.network-observability.svc"}) {
		t.Errorf("asked for %v, %v", leaf.Subject, leaf.DNSNames)
	}
	stop()
	again, _ := runCertificate(t, s, caDir, dataDir)
	eventually(t, "the certificate after a restart", func() bool { return again.Current() != nil })
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1: the certificate is kept", n)
	}
	info, err := os.Stat(filepath.Join(dataDir, storeName+"-current.pem"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the key's file: %v (%v), want it closed to others", info.Mode(), err)
	}
}

func TestCertificateFollowsTheBundle(t *testing.T) {
	s, caDir := &signer{t: t}, t.TempDir()
	first, second := newAuthority(t), newAuthority(t)
	s.use(first)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), first.bundle())
	c, _ := runCertificate(t, s, caDir, t.TempDir())
	eventually(t, "a certificate", func() bool { return c.Current() != nil })
	s.use(second)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), second.bundle())
	eventually(t, "a certificate of the new authority", func() bool {
		own := c.Current()
		if own == nil {
			t.Fatal("there was no certificate for a while")
		}
		return chains(own, caDir, node) == nil
	})
}

// A certificate of an earlier release is for the node's name only. It serves, and another one is asked for.
func TestCertificateWithoutTheNameForMetricsIsReplaced(t *testing.T) {
	s, caDir, dataDir := &signer{t: t}, t.TempDir(), t.TempDir()
	only := newAuthority(t)
	s.use(only)
	s.refuse.Store(true)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), only.bundle())
	stored := only.serving(t)
	key, err := keyutil.MarshalPrivateKeyToPEM(stored.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stored.Certificate[0]}), key...)
	write(t, filepath.Join(dataDir, storeName+"-old.pem"), text)
	if err := os.Symlink(filepath.Join(dataDir, storeName+"-old.pem"), filepath.Join(dataDir, storeName+"-current.pem")); err != nil {
		t.Fatal(err)
	}
	c, _ := runCertificate(t, s, caDir, dataDir)
	eventually(t, "a refusal", func() bool { return s.failures.Load() > 0 })
	if own := c.Current(); own == nil || len(own.Leaf.DNSNames) != 1 {
		t.Fatal("the certificate that was stored does not serve")
	}
	s.refuse.Store(false)
	eventually(t, "the certificate for metrics", func() bool { return namesMetrics(c.Current()) })
	if err := chains(c.Current(), caDir, node); err != nil {
		t.Errorf("for the API server: %v", err)
	}
}

func TestDeniedRequestIsMadeAgain(t *testing.T) {
	s, caDir := &signer{t: t}, t.TempDir()
	s.use(newAuthority(t))
	s.refuse.Store(true)
	c, _ := runCertificate(t, s, caDir, t.TempDir())
	eventually(t, "two failures", func() bool { return s.failures.Load() >= 2 })
	if c.Current() != nil {
		t.Error("there is a certificate though every request was denied")
	}
	s.refuse.Store(false)
	eventually(t, "a certificate", func() bool { return c.Current() != nil })
}

func TestDamagedStoreIsReplaced(t *testing.T) {
	s, caDir, dataDir := &signer{t: t}, t.TempDir(), t.TempDir()
	first := newAuthority(t)
	s.use(first)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), first.bundle())
	write(t, filepath.Join(dataDir, storeName+"-old.pem"), []byte("garbage"))
	if err := os.Symlink(filepath.Join(dataDir, storeName+"-old.pem"), filepath.Join(dataDir, storeName+"-current.pem")); err != nil {
		t.Fatal(err)
	}
	c, _ := runCertificate(t, s, caDir, dataDir)
	eventually(t, "a certificate", func() bool { return c.Current() != nil })
}

// A certificate that cannot be stored serves, no other one is asked for instead, and it is stored as soon as it can be.
func TestCertificateThatCannotBeStoredServes(t *testing.T) {
	s, caDir, dataDir := &signer{t: t}, t.TempDir(), t.TempDir()
	only := newAuthority(t)
	s.use(only)
	write(t, filepath.Join(caDir, v1alpha1.ServingCAKey), only.bundle())
	current := filepath.Join(dataDir, storeName+"-current.pem")
	write(t, current, []byte("in the way of the link")) // a full disk is made less easily, and root may write everywhere
	c, stop := runCertificate(t, s, caDir, dataDir)
	eventually(t, "three failures", func() bool { return s.failures.Load() >= 3 })
	own := c.Current()
	if own == nil || s.requests.Load() != 1 {
		t.Fatalf("%v serves after %d requests, want what the first one gave", own, s.requests.Load())
	}
	if err := os.Remove(current); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stored certificate", func() bool { _, err := os.Stat(current); return err == nil })
	stop()
	if files, err := os.ReadDir(dataDir); err != nil || len(files) != 2 {
		t.Errorf("the folder has %v (%v), want one certificate and the link to it", files, err)
	}
	again, _ := runCertificate(t, s, caDir, dataDir)
	eventually(t, "the certificate after a restart", func() bool { return again.Current() != nil })
	if got := again.Current(); s.requests.Load() != 1 || !got.Leaf.Equal(own.Leaf) {
		t.Errorf("%v serves after %d requests, want %v, which was stored late", got.Leaf.SerialNumber, s.requests.Load(), own.Leaf.SerialNumber)
	}
}
