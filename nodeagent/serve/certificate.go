package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// lifetime is what is asked for, and the most that the signer grants.
	lifetime = 24 * time.Hour
	// checkEvery is how often the certificate is compared with the bundle of serving CAs.
	checkEvery = 10 * time.Second
	// asksApart is the least time between two requests because of a bundle: a new bundle may reach this node before
	// the signer uses its key, or after.
	asksApart = time.Minute
	storeName = "agent-serving"
)

// Certificate is the agent's serving certificate. It is kept in a file, so that an agent that restarts while nobody
// signs can serve at once.
type Certificate struct {
	node, caDir, dataDir string
	client               kubernetes.Interface
	current              atomic.Pointer[tls.Certificate]
}

// NewCertificate makes the certificate of a node's agent. Run gets it.
func NewCertificate(client kubernetes.Interface, node, caDir, dataDir string) *Certificate {
	return &Certificate{node: node, caDir: caDir, dataDir: dataDir, client: client}
}

// Current is nil while there is no valid certificate.
func (c *Certificate) Current() *tls.Certificate {
	own := c.current.Load()
	if own != nil && own.Leaf != nil && time.Now().After(own.Leaf.NotAfter) {
		return nil
	}
	return own
}

// Run asks for a certificate, renews it in time, and asks for another when the bundle of serving CAs no longer covers
// it, until the context ends.
func (c *Certificate) Run(ctx context.Context) error {
	if err := os.MkdirAll(c.dataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	for ctx.Err() == nil {
		if err := c.serveOne(ctx); err != nil {
			return err
		}
	}
	return nil
}

// serveOne runs a manager until its certificate no longer chains to the bundle, or the context ends.
func (c *Certificate) serveOne(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	manager, err := c.newManager(ctx)
	if err != nil {
		return err
	}
	manager.Start()
	defer manager.Stop()

	asked := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var checked time.Time
	for {
		if own := manager.Current(); own != nil && own != c.current.Load() {
			c.current.Store(own)
			checked = time.Time{}
		}
		own := c.current.Load()
		if own != nil && own == manager.Current() && time.Since(checked) > checkEvery {
			checked = time.Now()
			if chains(own, c.caDir, c.node) != nil && time.Since(asked) > asksApart {
				return nil // Run makes a manager that finds nothing usable in the store, and asks
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Certificate) newManager(ctx context.Context) (certificate.Manager, error) {
	files, err := certificate.NewFileStore(storeName, c.dataDir, c.dataDir, "", "")
	if err != nil {
		return nil, fmt.Errorf("opening the certificate's store: %w", err)
	}
	requested := lifetime
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return c.client, nil },
		SignerName:  v1alpha1.SignerName,
		Usages:      []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
		Template: &x509.CertificateRequest{
			Subject: pkix.Name{
				CommonName:   v1alpha1.SubjectPrefix + c.node,
				Organization: []string{v1alpha1.SubjectOrganization},
			},
			DNSNames: []string{v1alpha1.DNSName(c.node)},
		},
		RequestedCertificateLifetime: &requested,
		CertificateStore:             chainedStore{Store: files, check: c.check},
		Ctx:                          &ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing certificate requests: %w", err)
	}
	return manager, nil
}

// check refuses only a certificate that a bundle that is there does not cover.
func (c *Certificate) check(own *tls.Certificate) error {
	err := chains(own, c.caDir, c.node)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// chainedStore hides a stored certificate that cannot be read or that nobody would accept, which makes the manager ask
// for one at once.
type chainedStore struct {
	certificate.Store
	check func(*tls.Certificate) error
}

func (s chainedStore) Current() (*tls.Certificate, error) {
	own, err := s.Store.Current()
	if err == nil {
		err = s.check(own)
	}
	if err != nil {
		missing := certificate.NoCertKeyError(err.Error())
		return nil, &missing
	}
	return own, nil
}
