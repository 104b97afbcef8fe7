package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// lifetime is what is asked for, and the most that the signer grants.
	lifetime = 24 * time.Hour
	// signWithin is how long a request is waited for.
	signWithin = 5 * time.Minute
	// checkEvery is how often the certificate is compared with the bundle of serving CAs.
	checkEvery = 10 * time.Second
	// leastPause and mostPause are the times between two requests: more with each that led to nothing.
	leastPause = time.Second
	mostPause  = 5 * time.Minute

	storeName = "agent-serving"
)

var usages = []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth}

// Certificate is the agent's serving certificate: asked for from certificates.k8s.io, renewed in time, and asked for
// anew when the bundle of serving CAs no longer covers it. It is kept in a file, so that an agent that restarts while
// nobody signs can serve at once. One that cannot be stored is used all the same, and storing is tried again.
//
// client-go's certificate manager is not used for the loop, only its parts: it renews by time alone, so it would have
// to be thrown away whenever the bundle changes, and what it leaves behind then sleeps until the next renewal.
type Certificate struct {
	node, caDir, dataDir string
	client               kubernetes.Interface
	failed               func(error)
	checkEvery           time.Duration // the constant, but for tests
	leastPause           time.Duration // the constant, but for tests

	current atomic.Pointer[tls.Certificate]
	// renew is when the current certificate is to be replaced, unstored what of it is not in the file yet. They belong to Run.
	renew    time.Time
	unstored *pair
}

// A pair is a certificate and its key as PEM.
type pair struct{ certificate, key []byte }

// NewCertificate makes the certificate of a node's agent. Run gets it, and tells failed about each request that led to
// nothing and each attempt to store that did.
func NewCertificate(client kubernetes.Interface, node, caDir, dataDir string, failed func(error)) *Certificate {
	return &Certificate{
		node: node, caDir: caDir, dataDir: dataDir, client: client, failed: failed,
		checkEvery: checkEvery, leastPause: leastPause,
	}
}

// Current is nil while there is no valid certificate.
func (c *Certificate) Current() *tls.Certificate {
	own := c.current.Load()
	if own != nil && time.Now().After(own.Leaf.NotAfter) {
		return nil
	}
	return own
}

// Run keeps the certificate good until the context ends.
func (c *Certificate) Run(ctx context.Context) error {
	if err := os.MkdirAll(c.dataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	store, err := certificate.NewFileStore(storeName, c.dataDir, c.dataDir, "", "")
	if err != nil {
		return fmt.Errorf("opening the certificate's store: %w", err)
	}
	// One that is damaged or that nobody would accept is as none.
	if own, err := store.Current(); err == nil && c.check(own) == nil {
		c.use(own)
	}
	asking, storing := attempts{pause: c.leastPause}, attempts{pause: c.leastPause}
	for ctx.Err() == nil {
		if c.needed() {
			c.attempt(ctx, &asking, func() error { return c.ask(ctx) })
		}
		if c.unstored != nil {
			c.attempt(ctx, &storing, func() error { return c.save(store) })
		}
		sleep(ctx, min(asking.pause, storing.pause, c.checkEvery))
	}
	return nil
}

// attempts are those at one thing: when the last was, and how long after it is the next.
type attempts struct {
	last  time.Time
	pause time.Duration
}

// attempt tries once, if enough time has passed.
func (c *Certificate) attempt(ctx context.Context, a *attempts, try func() error) {
	if time.Since(a.last) < a.pause {
		return
	}
	a.last = time.Now()
	a.pause = min(2*a.pause, mostPause)
	if err := try(); err == nil {
		a.pause = c.leastPause
	} else if ctx.Err() == nil {
		c.failed(err)
	}
}

func sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (c *Certificate) needed() bool {
	own := c.current.Load()
	return own == nil || time.Now().After(c.renew) || c.check(own) != nil || !namesMetrics(own)
}

// namesMetrics is false for a certificate from before there were metrics: it serves the API server until there is
// another one.
func namesMetrics(own *tls.Certificate) bool {
	return own.Leaf.VerifyHostname(v1alpha1.MetricsDNSName) == nil
}

// check refuses a certificate that the API server would not accept now. While there is no bundle, it cannot tell.
func (c *Certificate) check(own *tls.Certificate) error {
	err := chains(own, c.caDir, c.node)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ask gets a certificate for a new key. One that the bundle does not cover, or that lacks a name, is taken, but counts as
// a failure: the bundle may be on its way to this node.
func (c *Certificate) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	request, err := cert.MakeCSRFromTemplate(key, c.template())
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	requested := lifetime
	name, uid, err := csr.RequestCertificateWithContext(ctx, c.client, request, "", v1alpha1.SignerName, &requested, usages, key)
	if err != nil {
		return fmt.Errorf("asking for a certificate: %w", err)
	}
	signed, err := csr.WaitForCertificate(ctx, c.client, name, uid)
	if err != nil {
		return fmt.Errorf("waiting for certificate request %s: %w", name, err)
	}
	own, err := tls.X509KeyPair(signed, keyPEM)
	if err != nil {
		return fmt.Errorf("reading the new certificate: %w", err)
	}
	c.use(&own)
	c.unstored = &pair{signed, keyPEM}
	if err := c.check(&own); err != nil {
		return fmt.Errorf("checking the new certificate: %w", err)
	}
	if !namesMetrics(&own) {
		return fmt.Errorf("checking the new certificate: it is not for %s", v1alpha1.MetricsDNSName)
	}
	return nil
}

// save stores the current certificate. Until that succeeds, an agent that starts anew has the one before, or none.
func (c *Certificate) save(store certificate.Store) error {
	if _, err := store.Update(c.unstored.certificate, c.unstored.key); err != nil {
		c.tidy()
		return fmt.Errorf("storing the certificate, which serves meanwhile: %w", err)
	}
	c.unstored = nil
	return nil
}

// tidy removes certificates that nothing points to: each attempt to store one leaves a file, even where there is no room
// for what should be in it.
func (c *Certificate) tidy() {
	var used []fs.FileInfo
	for _, link := range []string{"-current.pem", "-updated.pem"} {
		file, err := os.Stat(filepath.Join(c.dataDir, storeName+link))
		switch {
		case err == nil:
			used = append(used, file)
		case !errors.Is(err, fs.ErrNotExist):
			return
		}
	}
	entries, _ := os.ReadDir(c.dataDir)
	for _, entry := range entries {
		file, err := entry.Info()
		if err != nil || !file.Mode().IsRegular() || !strings.HasPrefix(file.Name(), storeName+"-") ||
			slices.ContainsFunc(used, func(u fs.FileInfo) bool { return os.SameFile(u, file) }) {
			continue
		}
		_ = os.Remove(filepath.Join(c.dataDir, file.Name()))
	}
}

func (c *Certificate) template() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject: pkix.Name{
			CommonName:   v1alpha1.SubjectPrefix + c.node,
			Organization: []string{v1alpha1.SubjectOrganization},
		},
		DNSNames: []string{v1alpha1.DNSName(c.node), v1alpha1.MetricsDNSName},
	}
}

// use makes a certificate the current one, to be renewed after 70 to 90 percent of its life: agents that started
// together shall not ask together.
func (c *Certificate) use(own *tls.Certificate) {
	life := own.Leaf.NotAfter.Sub(own.Leaf.NotBefore)
	c.renew = own.Leaf.NotBefore.Add(time.Duration(float64(life) * (0.7 + 0.2*mathrand.Float64())))
	c.current.Store(own)
}
