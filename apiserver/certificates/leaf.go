package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// serviceName is the Service of the API server, by whose names the aggregator and others dial it.
const serviceName = "networkobservability-apiserver"

// maxLeafLifetime is how long a certificate of ours or of an agent is valid at most (PROTOCOL.md, Trust).
const maxLeafLifetime = 24 * time.Hour

// leaf is a certificate of this process with its key. It is immutable.
type leaf struct {
	pair    tls.Certificate
	certPEM []byte
	keyPEM  []byte
}

func servingTemplate() *x509.Certificate {
	full := serviceName + "." + agentv1.Namespace
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: full + ".svc"},
		DNSNames:    []string{serviceName, full, full + ".svc", full + ".svc.cluster.local"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func clientTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: agentv1.ClientCommonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// mint makes a key and has it certified.
func mint(g generation, template *x509.Certificate, now time.Time) (*leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", template.Subject.CommonName, err)
	}
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = template.NotBefore.Add(maxLeafLifetime)
	certificate, err := g.issue(template, key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", template.Subject.CommonName, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %s: %w", template.Subject.CommonName, err)
	}
	return &leaf{
		pair:    tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate},
		certPEM: encode(certificate),
		keyPEM:  pem.EncodeToMemory(&pem.Block{Type: privateKeyBlock, Bytes: der}),
	}, nil
}

// fresh says that a leaf need not be replaced: it is valid already, which one from before a clock was set back is not, a
// third of its life is left, and it is of one of the issuers.
func (l *leaf) fresh(now time.Time, issuers []*x509.Certificate) bool {
	if l == nil {
		return false
	}
	c := l.pair.Leaf
	if now.Before(c.NotBefore) || c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/3 {
		return false
	}
	return slices.ContainsFunc(issuers, func(issuer *x509.Certificate) bool { return c.CheckSignatureFrom(issuer) == nil })
}

func (l *leaf) expired(now time.Time) bool { return !now.Before(l.pair.Leaf.NotAfter) }

// servingProvider hands the serving certificate to the generic server. It is safe for concurrent use.
type servingProvider struct {
	mu        sync.Mutex
	current   *leaf
	listeners []dynamiccertificates.Listener
}

var _ dynamiccertificates.CertKeyContentProvider = &servingProvider{}

// Name implements dynamiccertificates.CertKeyContentProvider.
func (p *servingProvider) Name() string { return "serving certificate from Secret " + secretName }

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider; it gives nil until there is a
// certificate, and the generic server then refuses handshakes.
func (p *servingProvider) CurrentCertKeyContent() (certificate, key []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return nil, nil
	}
	return p.current.certPEM, p.current.keyPEM
}

// AddListener implements dynamiccertificates.Notifier.
func (p *servingProvider) AddListener(listener dynamiccertificates.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners = append(p.listeners, listener)
}

func (p *servingProvider) set(l *leaf) {
	p.mu.Lock()
	p.current = l
	listeners := slices.Clone(p.listeners)
	p.mu.Unlock()
	for _, listener := range listeners {
		listener.Enqueue()
	}
}

func (p *servingProvider) leaf() *leaf {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}
