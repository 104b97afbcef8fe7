package certificates

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	certificatesinformers "k8s.io/client-go/informers/certificates/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// leaseName is the Lease of the replica that has the duties.
const leaseName = "networkobservability-certificates"

// lead stands for leader until ctx ends, again after each defeat.
func (m *Manager) lead(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.term(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "No leader can be elected, and certificates are not renewed")
			return
		}
	}
}

// term is one candidacy, and the time as leader if it succeeds. The Lease is given back when the duties have
// ended and not before: client-go releases it as soon as the election's context ends, so that outlives them.
func (m *Manager) term(ctx context.Context) error {
	election, resign := context.WithCancel(context.WithoutCancel(ctx))
	elected := make(chan context.Context, 1)
	elector, err := m.elector(func(leading context.Context) { elected <- leading })
	if err != nil {
		resign()
		return fmt.Errorf("standing for leader: %w", err)
	}
	var duties sync.WaitGroup
	duties.Go(func() {
		defer resign()
		select {
		case leading := <-elected:
			leading, stop := context.WithCancel(leading)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			m.fulfil(leading)
		case <-ctx.Done():
		case <-election.Done():
		}
	})
	elector.Run(election)
	resign()
	duties.Wait()
	return nil
}

func (m *Manager) elector(started func(context.Context)) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: leaseName,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: agentv1.Namespace, Name: leaseName},
			Client:    m.cfg.Client.CoordinationV1(),
			// A restarted process is another candidate than the one before it.
			LockConfig: resourcelock.ResourceLockConfig{Identity: m.cfg.Identity + "_" + string(uuid.NewUUID())},
		},
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     2 * time.Second,
		ReleaseOnCancel: true,
		Callbacks:       leaderelection.LeaderCallbacks{OnStartedLeading: started, OnStoppedLeading: func() {}},
	})
}

// duty is one thing that the leader sees to, whenever an object that its informer watches changes, the
// authorities change, or time has passed.
type duty struct {
	name     string
	informer cache.SharedIndexInformer // nil when only time matters
	signal   chan struct{}
	do       func(context.Context) error
}

// fulfil sees to all duties until ctx ends.
func (m *Manager) fulfil(ctx context.Context) {
	duties := []*duty{m.rotating(), m.informingAgents(), m.informingAggregator(), m.deciding()}
	var group sync.WaitGroup
	defer group.Wait()
	for _, d := range duties {
		d.signal = make(chan struct{}, 1)
		group.Go(func() { d.run(ctx, m) })
	}
	for {
		_, changed := m.current()
		for _, d := range duties {
			nudge(d.signal)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (d *duty) run(ctx context.Context, m *Manager) {
	if d.informer != nil {
		if err := onChange(d.informer, d.signal); err != nil {
			klog.FromContext(ctx).Error(err, "Duty cannot be fulfilled", "duty", d.name)
			return
		}
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() { d.informer.RunWithContext(ctx) })
		if !cache.WaitForCacheSync(ctx.Done(), d.informer.HasSynced) {
			return
		}
	}
	repeat(ctx, m.cfg.Clock, d.signal, d.name, d.do)
}

func (m *Manager) rotating() *duty {
	return &duty{name: "rotating the authorities", do: func(ctx context.Context) error {
		found := m.seen()
		if found == nil {
			return nil // Every replica sees to that there is one.
		}
		_, err := m.vault.tend(ctx, found, m.cfg.Clock.Now())
		if apierrors.IsConflict(err) {
			return nil // What was written instead is on the way here.
		}
		return err
	}}
}

func (m *Manager) informingAgents() *duty {
	informer := coreinformers.NewFilteredConfigMapInformer(m.cfg.Client, agentv1.Namespace, 0, cache.Indexers{}, named(agentv1.CAConfigMapName))
	configMaps := m.cfg.Client.CoreV1().ConfigMaps(agentv1.Namespace)
	return &duty{name: "informing agents of the authorities", informer: informer, do: func(ctx context.Context) error {
		t, _ := m.current()
		if t == nil {
			return nil
		}
		now := m.cfg.Clock.Now()
		found := only[*corev1.ConfigMap](informer, agentv1.CAConfigMapName)
		return publishToAgents(ctx, configMaps, found, t.serving.bundle(now), t.client.bundle(now))
	}}
}

func (m *Manager) informingAggregator() *duty {
	informer := apiregistrationinformers.NewFilteredAPIServiceInformer(m.cfg.Aggregator, 0, cache.Indexers{}, named(apiServiceName))
	apiServices := m.cfg.Aggregator.ApiregistrationV1().APIServices()
	return &duty{name: "informing the aggregator of the serving authority", informer: informer, do: func(ctx context.Context) error {
		t, _ := m.current()
		if t == nil {
			return nil
		}
		found := only[*apiregistrationv1.APIService](informer, apiServiceName)
		return publishToAggregator(ctx, apiServices, found, t.serving.bundle(m.cfg.Clock.Now()))
	}}
}

func (m *Manager) deciding() *duty {
	informer := certificatesinformers.NewFilteredCertificateSigningRequestInformer(m.cfg.Client, 0, cache.Indexers{}, ofOurSigner)
	d := &decider{
		requests: m.cfg.Client.CertificatesV1().CertificateSigningRequests(),
		issuer:   m.issuer,
		now:      m.cfg.Clock.Now,
	}
	return &duty{name: "deciding requests of agents", informer: informer, do: func(ctx context.Context) error {
		return d.decideAll(ctx, informer.GetStore().List())
	}}
}

// issuer is the generation that signs the agents' certificates now.
func (m *Manager) issuer() (generation, error) {
	t, _ := m.current()
	if t == nil {
		return generation{}, m.Ready()
	}
	return t.serving.signing(m.cfg.Clock.Now(), m.cfg.CAPropagation)
}
