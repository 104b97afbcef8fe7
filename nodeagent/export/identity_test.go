package export

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// asSecret is a certificate and its key as they are in a Secret.
func asSecret(t *testing.T, of tls.Certificate) (certificate, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(of.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: of.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// A strict sink takes clients of an authority only, and knows who came.
type strictSink struct {
	*sink
	config *tls.Config
	mu     sync.Mutex
	came   []string
}

func newStrictSink(t *testing.T, overHTTP bool, clients []byte) *strictSink {
	t.Helper()
	certificate, bundle := authority(t, "collector")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(clients)
	s := &strictSink{sink: newSink()}
	s.config = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, VerifyConnection: func(c tls.ConnectionState) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.came = append(s.came, c.PeerCertificates[0].Subject.CommonName)
		return nil
	}}
	if overHTTP {
		s.serveHTTP(t, "/below", s.config)
	} else {
		s.serveGRPC(t, "127.0.0.1:0", credentials.NewTLS(s.config))
	}
	s.bundle = bundle
	return s
}

// knownBy is an exporter to the sink with a client's certificate.
func (s *strictSink) knownBy(certificate, key []byte, overHTTP bool) *v1alpha1.TelemetryExporter {
	wanted := toSink(s.sink, overHTTP)
	to := wanted.GetOtlp()
	to.ServerName, to.NeedsClientCertificate, to.ClientCertificate, to.ClientKey = "collector", true, certificate, key
	return wanted
}

// A collector that wants to know its clients knows the agent, before and after its certificate was renewed.
func TestClientCertificate(t *testing.T) {
	both(t, func(t *testing.T, overHTTP bool) {
		first, clients := authority(t, "agents-1")
		second, more := authority(t, "agents-2")
		s := newStrictSink(t, overHTTP, append(clients, more...))
		e := exporters(t, nil)
		for i, of := range []tls.Certificate{first, second} {
			certificate, key := asSecret(t, of)
			e.Apply(configOf(s.knownBy(certificate, key, overHTTP)))
			e.Log(flows(int64(10*i), 10))
			s.await(t, "flows", func() bool { return len(s.records) >= 10*(i+1) }) // what was not answered before the change is sent again
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if first, last := s.came[0], s.came[len(s.came)-1]; first != "agents-1" || last != "agents-2" {
			t.Errorf("came: %v", s.came)
		}
	})
}

// One that is missing, of another authority or expired is refused with a reason, which the exporter's state tells.
func TestClientCertificateRefused(t *testing.T) {
	right, clients := authority(t, "agents")
	stranger, _ := authority(t, "stranger")
	expired, expiredKey := asSecret(t, signed(t, "agents", time.Now().Add(-time.Minute)))
	both(t, func(t *testing.T, overHTTP bool) {
		for name, c := range map[string]struct {
			change func(*v1alpha1.OTLPDestination)
			want   string
		}{
			"missing": {func(o *v1alpha1.OTLPDestination) { o.NeedsClientCertificate, o.ClientKey = false, nil }, "it asks for a client certificate: name one in otlp.clientCertificateSecret"},
			"of another authority": {func(o *v1alpha1.OTLPDestination) {
				o.ClientCertificate, o.ClientKey = asSecret(t, stranger)
			}, "it asks for a client certificate and may not accept that of otlp.clientCertificateSecret"},
			"expired": {func(o *v1alpha1.OTLPDestination) { o.ClientCertificate, o.ClientKey = expired, expiredKey },
				"otlp.clientCertificateSecret: the certificate expired at "},
			"of another key": {func(o *v1alpha1.OTLPDestination) { _, o.ClientKey = asSecret(t, stranger) },
				"otlp.clientCertificateSecret: tls.crt and tls.key have to be a certificate and its key, in PEM"},
			"no PEM":      {func(o *v1alpha1.OTLPDestination) { o.ClientCertificate = []byte("canary") }, "otlp.clientCertificateSecret: tls.crt and tls.key"},
			"unavailable": {func(o *v1alpha1.OTLPDestination) { o.ClientKey, o.Problem = nil, "there is no Secret x" }, "there is no Secret x"},
		} {
			t.Run(name, func(t *testing.T) {
				s := newStrictSink(t, overHTTP, clients)
				certificate, key := asSecret(t, right)
				wanted := s.knownBy(certificate, key, overHTTP)
				c.change(wanted.GetOtlp())
				told := make(chan error, 100)
				e := exporters(t, func(config *Config) { config.Failed = func(_ string, err error) { told <- err } })
				e.Apply(configOf(wanted))
				e.Log(flows(0, 1))
				select {
				case err := <-told:
					if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") || !e.States()[0].GetFailing() {
						t.Errorf("%v, want %s", err, c.want)
					}
				case <-time.After(patience):
					t.Error("no failure")
				}
			})
		}
	})
}

// Before the API server has connected there is no key: that is no failure, and nothing is sent.
func TestWaitingForClientCertificate(t *testing.T) {
	wanted := &v1alpha1.TelemetryExporter{Name: "x", FlowLogs: true, To: &v1alpha1.TelemetryExporter_Otlp{Otlp: &v1alpha1.OTLPDestination{
		Endpoint: "https://h:1", NeedsClientCertificate: true}}}
	e := exporters(t, nil)
	e.Apply(configOf(wanted))
	if state := e.States()[0]; state.Failing || state.Reaching || !strings.HasPrefix(state.Message, "waiting for headers or client certificate") {
		t.Errorf("%v", state)
	}
}
