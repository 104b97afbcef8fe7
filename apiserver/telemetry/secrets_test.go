package telemetry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// pairOf makes a certificate that is valid from and until times, and its key.
func pairOf(t *testing.T, from, until time.Time) (certificate, key string) {
	t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, made.Public(), made)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(made)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// TestClientCertificates: a Secret has a pair that can be used now, or a reason why not, which says nothing of what is in it.
func TestClientCertificates(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	certificate, key := pairOf(t, now.Add(-time.Hour), now.Add(time.Hour))
	another, _ := pairOf(t, now.Add(-time.Hour), now.Add(time.Hour))
	expired, expiredKey := pairOf(t, now.Add(-time.Hour), now.Add(-time.Minute))
	early, earlyKey := pairOf(t, now.Add(time.Minute), now.Add(time.Hour))
	for want, data := range map[string]map[string]string{
		"":                        {"tls.crt": certificate, "tls.key": key, "ca.crt": "whatever else there is"},
		"has no tls.crt; make it": {"tls.key": key},
		"has no tls.key; make it": {"tls.crt": certificate, "tls.key": ""},
		"has a tls.key that is not of the certificate in tls.crt; put both of one pair into it":                       {"tls.crt": another, "tls.key": key},
		"has a tls.crt or tls.key that cannot be read; both have to be PEM, the key without a password":               {"tls.crt": "-----BEGIN canary", "tls.key": key},
		"has 40000 bytes under tls.key, at most 32768 are taken":                                                      {"tls.crt": certificate, "tls.key": strings.Repeat("a", 40_000)},
		"has a certificate that expired at " + now.Add(-time.Minute).Format(time.RFC3339) + "; put a renewed one":     {"tls.crt": expired, "tls.key": expiredKey},
		"has a certificate that is valid only from " + now.Add(time.Minute).Format(time.RFC3339) + " on; put another": {"tls.crt": early, "tls.key": earlyKey},
	} {
		object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{}}
		for name, value := range data {
			object.Data[name] = []byte(value)
		}
		got := certificateOf(object, now)
		if want == "" {
			if got.problem != "" || string(got.certificate) != certificate || string(got.key) != key {
				t.Errorf("got %q", got.problem)
			}
		} else if !strings.HasPrefix(got.problem, "otlp.clientCertificateSecret: the Secret s "+want) || got.key != nil || strings.Contains(got.problem, "canary") {
			t.Errorf("got %q, want %q", got.problem, want)
		}
	}
}

// TestClientCertificateIsRenewed: agents get what is in the Secret now, one that has expired is said to have, and no key is in
// the object, the metrics or the log.
func TestClientCertificateIsRenewed(t *testing.T) {
	var log syncBuffer
	klog.LogToStderr(false)
	klog.SetOutput(&log)
	t.Cleanup(func() { klog.LogToStderr(true); klog.SetOutput(nil) })
	w := newWorld(t, "n1")
	n1, registry := w.agents["n1"], metrics.NewKubeRegistry()
	w.controller("one", func(cfg *Config) { cfg.Register = registry.Register })
	spec := otlp("keys")
	spec.Exporters[0].OTLP.HeadersSecret, spec.Exporters[0].OTLP.ClientCertificateSecret = nil, &v1alpha1.TelemetrySecretReference{Name: "pair"}
	w.apply(spec)
	destination := func(is func(*agentv1.OTLPDestination) bool) func() bool {
		return n1.is(func() bool {
			exporters := n1.config.GetExporters()
			return len(exporters) == 1 && exporters[0].GetOtlp().NeedsClientCertificate && is(exporters[0].GetOtlp())
		})
	}
	w.eventually("the missing Secret", destination(func(to *agentv1.OTLPDestination) bool {
		return to.Problem == "there is no Secret pair in namespace network-observability: make it, it is looked for every minute" && to.ClientKey == nil
	}))
	now := time.Now()
	var keys []string
	for range 2 {
		certificate, key := pairOf(t, now.Add(-time.Hour), now.Add(10_000*time.Hour))
		keys = append(keys, key)
		w.secret("pair", map[string]string{"tls.crt": certificate, "tls.key": key})
		w.eventually("the pair", destination(func(to *agentv1.OTLPDestination) bool {
			return to.Problem == "" && string(to.ClientCertificate) == certificate && string(to.ClientKey) == key
		}))
	}
	certificate, key := pairOf(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	w.secret("pair", map[string]string{"tls.crt": certificate, "tls.key": key})
	w.eventually("the one that has expired", destination(func(to *agentv1.OTLPDestination) bool {
		return strings.Contains(to.Problem, "expired at") && to.ClientKey == nil
	}))
	w.mu.Lock()
	stored, err := json.Marshal(w.store.object)
	w.mu.Unlock()
	must(t, err)
	for where, text := range map[string]string{"the object": string(stored), "metrics": gathered(t, registry), "the log": log.String()} {
		for _, key := range append(keys, key) {
			if strings.Contains(text, strings.Split(key, "\n")[1]) {
				t.Errorf("a key is in %s", where)
			}
		}
	}
}
