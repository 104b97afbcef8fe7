package certificates

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/clock"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// lookEvery is how often what depends on time, or went wrong, is looked at again.
const lookEvery = 5 * time.Second

// Config is what a Manager needs. Client, Aggregator and Identity must be set; zero values elsewhere mean the
// default.
type Config struct {
	// Client has the rights that doc.go's duties need, in our namespace and for our signer only.
	Client kubernetes.Interface
	// Aggregator reads and patches our one APIService.
	Aggregator aggregator.Interface
	// Identity names this replica in the Lease; the name of its pod.
	Identity string
	// CALifetime is how long a generation of an authority is valid; a year by default. Leaves end with it.
	CALifetime time.Duration
	// CAPropagation is how long a new generation is trusted before it signs; an hour by default.
	CAPropagation time.Duration
	// Clock drives everything but the Lease.
	Clock clock.WithTicker
}

// Manager keeps the certificates of this replica and, while it leads, those of everyone. Its methods are safe
// for concurrent use.
type Manager struct {
	cfg     Config
	vault   vault
	secrets cache.SharedIndexInformer
	looked  chan struct{}
	serving servingProvider

	// mu guards what follows. What it points to is immutable.
	mu sync.Mutex
	// data is what trust was read from.
	data   map[string][]byte
	trust  *trust
	pool   *x509.CertPool
	client *leaf
	err    error
	// changed is closed and replaced when trust changes.
	changed chan struct{}
}

// New makes a Manager, which has certificates once Run is called.
func New(cfg Config) (*Manager, error) {
	if cfg.Client == nil || cfg.Aggregator == nil || cfg.Identity == "" {
		return nil, errors.New("a manager of certificates needs a client, an aggregator's client and an identity")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.CALifetime == 0 {
		cfg.CALifetime = 365 * 24 * time.Hour
	}
	if cfg.CAPropagation == 0 {
		cfg.CAPropagation = time.Hour
	}
	m := &Manager{
		cfg:     cfg,
		vault:   vault{cfg.Client.CoreV1().Secrets(agentv1.Namespace), pace{cfg.CALifetime, cfg.CAPropagation}},
		looked:  make(chan struct{}, 1),
		changed: make(chan struct{}),
		err:     fmt.Errorf("the Secret %s is not read yet", secretName),
	}
	m.secrets = coreinformers.NewFilteredSecretInformer(cfg.Client, agentv1.Namespace, 0, cache.Indexers{}, named(secretName))
	if err := onChange(m.secrets, m.looked); err != nil {
		return nil, err
	}
	err := m.secrets.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		m.unreadable(err)
		cache.DefaultWatchErrorHandler(ctx, r, err)
	})
	if err != nil {
		return nil, fmt.Errorf("watching Secret %s: %w", secretName, err)
	}
	return m, nil
}

// named restricts an informer to one object.
func named(name string) func(*metav1.ListOptions) {
	return func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

// onChange makes an informer's events come out of a channel of capacity one, several of them as one.
func onChange(informer cache.SharedIndexInformer, signal chan struct{}) error {
	notify := func() { nudge(signal) }
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		return fmt.Errorf("watching: %w", err)
	}
	return nil
}

// nudge leaves a signal, unless one is there already.
func nudge(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// only is the object of a name in an informer's memory, nil if there is none. An informer with a field selector
// should see no other, but not everything that answers a list knows selectors.
func only[T metav1.Object](informer cache.SharedIndexInformer, name string) (none T) {
	for _, object := range informer.GetStore().List() {
		if found, ok := object.(T); ok && found.GetName() == name {
			return found
		}
	}
	return none
}

// Run keeps the certificates until ctx ends, and stands for leader; the Lease is released on return. It may be
// called once.
func (m *Manager) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { m.secrets.RunWithContext(unlogged(ctx)) })
	if !cache.WaitForCacheSync(ctx.Done(), m.secrets.HasSynced) {
		return
	}
	group.Go(func() { m.lead(ctx) })
	repeat(ctx, m.cfg.Clock, m.looked, "certificates of this replica", m.look)
}

// repeat does a duty at each signal and from time to time, and logs when its error changes.
func repeat(ctx context.Context, clock clock.WithTicker, signal <-chan struct{}, duty string, do func(context.Context) error) {
	ticker := clock.NewTicker(lookEvery)
	defer ticker.Stop()
	logger := klog.FromContext(ctx)
	last := ""
	for ctx.Err() == nil {
		err := do(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != last:
			logger.Error(err, "Duty is not fulfilled and is tried again", "duty", duty)
			last = err.Error()
		case err == nil && last != "":
			logger.Info("Duty is fulfilled again", "duty", duty)
			last = ""
		}
		select {
		case <-ctx.Done():
		case <-signal:
		case <-ticker.C():
		}
	}
}

// look reads the Secret, makes it if there is none, and renews the leaves. Another replica that wrote in
// between is not an error: its Secret is on the way here.
func (m *Manager) look(ctx context.Context) error {
	err := m.take(ctx)
	if apierrors.IsConflict(err) {
		return nil
	}
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	return err
}

func (m *Manager) take(ctx context.Context) error {
	secret, err := m.secretOrNew(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Clock.Now()
	if m.trust == nil || !maps.EqualFunc(m.data, secret.Data, bytes.Equal) {
		parsed, err := parseTrust(secret.Data)
		if err != nil {
			return fmt.Errorf("reading Secret %s: %w (delete it to have a new one made)", secretName, err)
		}
		if parsed == nil {
			return fmt.Errorf("the Secret %s is empty", secretName)
		}
		m.adopt(secret.Data, parsed, now)
	}
	return m.renew(now)
}

// secretOrNew is the Secret as it was last seen. Only where there is none, or an empty one, is one made: the
// rest of its care is the leader's.
func (m *Manager) secretOrNew(ctx context.Context) (*corev1.Secret, error) {
	found := m.seen()
	if found != nil && len(found.Data) > 0 {
		return found, nil
	}
	return m.vault.tend(ctx, found, m.cfg.Clock.Now())
}

// seen is the Secret in the informer's memory, nil if there is none.
func (m *Manager) seen() *corev1.Secret { return only[*corev1.Secret](m.secrets, secretName) }

// adopt takes over authorities, under the lock.
func (m *Manager) adopt(data map[string][]byte, t *trust, now time.Time) {
	m.data, m.trust = data, t
	m.pool = x509.NewCertPool()
	for _, certificate := range t.serving.trusted(now) {
		m.pool.AddCert(certificate)
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// renew mints the leaves that are due, under the lock.
func (m *Manager) renew(now time.Time) error {
	if !m.client.fresh(now, m.trust.client.issuers(now)) {
		l, err := m.mint(m.trust.client, clientTemplate(), now)
		if err != nil {
			return err
		}
		m.client = l
	}
	if !m.serving.leaf().fresh(now, m.trust.serving.issuers(now)) {
		l, err := m.mint(m.trust.serving, servingTemplate(), now)
		if err != nil {
			return err
		}
		m.serving.set(l)
	}
	return nil
}

func (m *Manager) mint(a authority, template *x509.Certificate, now time.Time) (*leaf, error) {
	g, err := a.signing(now, m.cfg.CAPropagation)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", template.Subject.CommonName, err)
	}
	return mint(g, template, now)
}

// unreadable notes why the Secret cannot be watched, for as long as there are no certificates.
func (m *Manager) unreadable(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trust == nil {
		m.err = fmt.Errorf("watching Secret %s: %w", secretName, err)
	}
}

// Ready says why this replica has no valid certificates, or nil.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Clock.Now()
	serving := m.serving.leaf()
	switch {
	case m.client != nil && serving != nil && !m.client.expired(now) && !serving.expired(now):
		// What is wrong now does not hurt as long as they are valid.
		return nil
	case m.err != nil:
		return m.err
	}
	return errors.New("the certificates have expired")
}

// ServingCertificate is the API server's own serving certificate; it renews itself and tells listeners.
func (m *Manager) ServingCertificate() dynamiccertificates.CertKeyContentProvider { return &m.serving }

// ClientCertificate is the certificate by which agents know the API server.
func (m *Manager) ClientCertificate() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil {
		return nil, m.missing()
	}
	return &m.client.pair, nil
}

// ServingCAs are the authorities of which an agent's certificate must be.
func (m *Manager) ServingCAs() (*x509.CertPool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pool == nil {
		return nil, m.missing()
	}
	return m.pool, nil
}

func (m *Manager) missing() error {
	if m.err != nil {
		return m.err
	}
	return errors.New("there are no certificates yet")
}

// current is what the authorities are now, nil when they are not known yet, and a channel that closes when that
// changes.
func (m *Manager) current() (*trust, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trust, m.changed
}
