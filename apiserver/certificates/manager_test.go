package certificates

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorfake "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"
	testclock "k8s.io/utils/clock/testing"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a control plane and a clock for managers.
type cluster struct {
	t          *testing.T
	kube       *fake.Clientset
	aggregator *aggregatorfake.Clientset
	clock      *testclock.FakeClock
}

func newCluster(t *testing.T) *cluster {
	return &cluster{
		t: t, kube: fake.NewClientset(), clock: testclock.NewFakeClock(epoch),
		aggregator: aggregatorfake.NewSimpleClientset(&apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: apiServiceName}, Spec: apiregistrationv1.APIServiceSpec{GroupPriorityMinimum: 1001},
		}),
	}
}

// manager runs a Manager until stop or the end of the test.
func (c *cluster) manager(identity string) (m *Manager, stop func()) {
	c.t.Helper()
	m, err := New(Config{
		Client: c.kube, Aggregator: c.aggregator, Identity: identity, Clock: c.clock,
		CALifetime: testPace.lifetime, CAPropagation: testPace.propagation,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	c.t.Cleanup(stop)
	return m, stop
}

// eventually waits for something that happens in the background, and lets the fake clock's tickers go.
func (c *cluster) eventually(what string, is func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
			c.clock.Step(lookEvery)
		case <-ctx.Done():
			c.t.Fatalf("%s did not happen", what)
		}
	}
}

func (c *cluster) ready(m *Manager) {
	c.t.Helper()
	c.eventually("readiness", func() bool { return m.Ready() == nil })
}

func (c *cluster) secret() *corev1.Secret {
	c.t.Helper()
	secret, err := c.kube.CoreV1().Secrets(agentv1.Namespace).Get(c.t.Context(), secretName, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return secret
}

func servingLeaf(t *testing.T, m *Manager) *x509.Certificate {
	t.Helper()
	certificate, key := m.ServingCertificate().CurrentCertKeyContent()
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestReplicasShareWhatTheFirstMakes(t *testing.T) {
	c := newCluster(t)
	a, _ := c.manager("a")
	b, _ := c.manager("b")
	c.ready(a)
	c.ready(b)
	// Each trusts the other: the certificates are of one authority.
	for _, m := range []*Manager{a, b} {
		roots, err := a.ServingCAs()
		if err != nil {
			t.Fatal(err)
		}
		leaf := servingLeaf(t, m)
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, CurrentTime: c.clock.Now(), DNSName: "networkobservability-apiserver.network-observability.svc",
		}); err != nil {
			t.Error(err)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 24*time.Hour {
			t.Errorf("the serving certificate lives for %v", life)
		}
		client, err := m.ClientCertificate()
		if err != nil {
			t.Fatal(err)
		}
		trust, err := parseTrust(c.secret().Data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Leaf.Verify(x509.VerifyOptions{
			Roots: poolOf(trust.client.trusted(c.clock.Now())), CurrentTime: c.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil || client.Leaf.Subject.CommonName != agentv1.ClientCommonName {
			t.Errorf("%v: %v", client.Leaf.Subject, err)
		}
	}
}

// TestLostRace has another replica create the Secret between this one's look and its attempt.
func TestLostRace(t *testing.T) {
	c := newCluster(t)
	theirs, err := firstTrust(t, epoch).data()
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	c.kube.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		once.Do(func() {
			err := c.kube.Tracker().Add(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: agentv1.Namespace}, Data: theirs,
			})
			if err != nil {
				t.Error(err)
			}
		})
		return false, nil, nil
	})
	m, _ := c.manager("late")
	c.ready(m)
	if !bytes.Equal(c.secret().Data[servingCertificates], theirs[servingCertificates]) {
		t.Error("the Secret of the other replica was overwritten")
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	c := newCluster(t)
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, secretName, errors.New("no right"))
	var allowed atomic.Bool
	c.kube.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return !allowed.Load(), nil, forbidden
	})
	m, _ := c.manager("a")
	if _, err := m.ServingCAs(); err == nil {
		t.Error("there are authorities before any")
	}
	c.eventually("a reason", func() bool {
		err := m.Ready()
		return err != nil && strings.Contains(err.Error(), "creating Secret networkobservability-ca") && strings.Contains(err.Error(), "no right")
	})
	allowed.Store(true)
	c.ready(m)
}

func TestSpoiltSecretIsNotOverwritten(t *testing.T) {
	c := newCluster(t)
	spoilt := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: agentv1.Namespace},
		Data:       map[string][]byte{servingCertificates: []byte("not PEM")},
	}
	if err := c.kube.Tracker().Add(spoilt); err != nil {
		t.Fatal(err)
	}
	m, _ := c.manager("a")
	c.eventually("a reason", func() bool {
		err := m.Ready()
		return err != nil && strings.Contains(err.Error(), "delete it to have a new one made")
	})
	if string(c.secret().Data[servingCertificates]) != "not PEM" {
		t.Error("it was overwritten")
	}
	if err := c.kube.CoreV1().Secrets(agentv1.Namespace).Delete(t.Context(), secretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ready(m)
}

type counter struct{ n atomic.Int64 }

func (c *counter) Enqueue() { c.n.Add(1) }

func TestLeavesAreRenewedAndListenersTold(t *testing.T) {
	c := newCluster(t)
	m, _ := c.manager("a")
	var told counter
	m.ServingCertificate().AddListener(&told)
	c.ready(m)
	first := servingLeaf(t, m)
	client, err := m.ClientCertificate()
	if err != nil {
		t.Fatal(err)
	}
	before := told.n.Load()
	c.clock.SetTime(first.NotBefore.Add(17 * time.Hour))
	c.eventually("renewal", func() bool { return !servingLeaf(t, m).Equal(first) })
	if told.n.Load() <= before {
		t.Error("the listener was not told")
	}
	renewed, err := m.ClientCertificate()
	if err != nil || renewed.Leaf.Equal(client.Leaf) {
		t.Errorf("the client certificate was not renewed: %v", err)
	}
}

func TestDeletedSecretMakesNewCertificates(t *testing.T) {
	c := newCluster(t)
	m, _ := c.manager("a")
	c.ready(m)
	first := servingLeaf(t, m)
	if err := c.kube.CoreV1().Secrets(agentv1.Namespace).Delete(t.Context(), secretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("a new certificate", func() bool { return !servingLeaf(t, m).Equal(first) })
	roots, err := m.ServingCAs()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.clock.Now()}); err == nil {
		t.Error("the deleted authority is still trusted")
	}
}

// TestAuthoritiesFromTheFuture: the leader makes others beside those that were made while the clock was ahead, and leaves that
// were signed meanwhile are replaced.
func TestAuthoritiesFromTheFuture(t *testing.T) {
	c := newCluster(t)
	data, err := firstTrust(t, epoch.Add(100*time.Hour)).data()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.kube.Tracker().Add(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: agentv1.Namespace}, Data: data,
	}); err != nil {
		t.Fatal(err)
	}
	m, _ := c.manager("a")
	c.ready(m)
	c.eventually("a serving certificate that the aggregator takes", func() bool {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.bundleOfAPIService())
		_, err := servingLeaf(t, m).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.clock.Now()})
		return err == nil
	})
	c.eventually("a client certificate that agents take", func() bool {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(c.configMap()[agentv1.ClientCAKey]))
		client, err := m.ClientCertificate()
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Leaf.Verify(x509.VerifyOptions{
			Roots: roots, CurrentTime: c.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		return err == nil
	})
}

func (c *cluster) bundleOfAPIService() []byte {
	c.t.Helper()
	s, err := c.aggregator.ApiregistrationV1().APIServices().Get(c.t.Context(), apiServiceName, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Spec.CABundle
}

func (c *cluster) configMap() map[string]string {
	m, err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Get(c.t.Context(), agentv1.CAConfigMapName, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return m.Data
}

func TestLeaderPublishesAndHeals(t *testing.T) {
	c := newCluster(t)
	m, _ := c.manager("a")
	c.ready(m)
	published := func() bool {
		data := c.secret().Data
		return bytes.Equal(c.bundleOfAPIService(), data[servingCertificates]) && len(c.bundleOfAPIService()) > 0 &&
			c.configMap()[agentv1.ServingCAKey] == string(data[servingCertificates]) &&
			c.configMap()[agentv1.ClientCAKey] == string(data[clientCertificates])
	}
	c.eventually("publication", published)
	for name, value := range c.configMap() {
		if strings.Contains(value, "PRIVATE") {
			t.Errorf("%s holds a private key", name)
		}
	}

	// Someone applies the manifests again, in which there is no bundle.
	s, err := c.aggregator.ApiregistrationV1().APIServices().Get(t.Context(), apiServiceName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.CABundle = nil
	if _, err := c.aggregator.ApiregistrationV1().APIServices().Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.kube.CoreV1().ConfigMaps(agentv1.Namespace).Delete(t.Context(), agentv1.CAConfigMapName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("healing", published)

	// Only the bundle was written, and nothing when nothing differed. A duty that runs before the informer has seen the last
	// patch repeats it; one that patched at each tick would not come to rest.
	patches := func() (all []clienttesting.PatchAction) {
		for _, action := range c.aggregator.Actions() {
			if patch, ok := action.(clienttesting.PatchAction); ok {
				all = append(all, patch)
			}
		}
		return all
	}
	count, looks := 0, 0
	c.eventually("rest", func() bool {
		if now := len(patches()); now != count {
			count, looks = now, 0
		}
		looks++
		return looks > 20
	})
	if count < 2 {
		t.Errorf("%d patches for two changes", count)
	}
	for _, patch := range patches() {
		var content map[string]map[string]any
		if err := json.Unmarshal(patch.GetPatch(), &content); err != nil || len(content) != 1 || len(content["spec"]) != 1 || content["spec"]["caBundle"] == nil {
			t.Errorf("patch is %s", patch.GetPatch())
		}
	}
}

func TestLeaderRotatesWithoutBreakingAnything(t *testing.T) {
	c := newCluster(t)
	m, _ := c.manager("a")
	c.ready(m)
	old := c.secret().Data[servingCertificates]
	c.clock.SetTime(epoch.Add(205 * time.Hour))
	c.eventually("the second generation, everywhere", func() bool {
		bundle := c.secret().Data[servingCertificates]
		return bytes.Count(bundle, []byte("BEGIN")) == 2 && bytes.HasPrefix(bundle, old) &&
			bytes.Equal(c.bundleOfAPIService(), bundle) && c.configMap()[agentv1.ServingCAKey] == string(bundle)
	})
	c.ready(m)
	// Once it signs, the leaves still chain to what is published.
	c.clock.Step(24 * time.Hour)
	c.eventually("the end of the first key", func() bool {
		return bytes.Count(c.secret().Data[servingKeys], []byte("BEGIN")) == 1
	})
	c.eventually("a certificate of the new generation", func() bool {
		trust, err := parseTrust(c.secret().Data)
		return err == nil && servingLeaf(t, m).CheckSignatureFrom(trust.serving.generations[1].certificate) == nil
	})
}

// request puts a CertificateSigningRequest into the cluster.
func (c *cluster) request(name string, a *asking, conditions ...certificatesv1.CertificateSigningRequestCondition) {
	c.t.Helper()
	_, err := c.kube.CertificatesV1().CertificateSigningRequests().Create(c.t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *a.done(c.t),
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: conditions},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) requestNow(name string) *certificatesv1.CertificateSigningRequest {
	c.t.Helper()
	request, err := c.kube.CertificatesV1().CertificateSigningRequests().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return request
}

func TestLeaderDecidesRequests(t *testing.T) {
	c := newCluster(t)
	approvedByHand := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "ByHand"}
	c.request("right", askingFor(t, "node-1"))
	wrong := askingFor(t, "node-1")
	wrong.template.DNSNames = []string{agentv1.DNSName("node-2")}
	c.request("wrong", wrong)
	c.request("wrong-approved", wrong, approvedByHand)
	c.request("right-approved", askingFor(t, "node-3"), approvedByHand)
	foreign := askingFor(t, "node-1")
	foreign.spec.SignerName = "kubernetes.io/kubelet-serving"
	c.request("foreign", foreign)
	short := askingFor(t, "node-4")
	short.spec.ExpirationSeconds = new(int32(600))
	c.request("short", short)
	long := askingFor(t, "node-5")
	long.spec.ExpirationSeconds = new(int32(1 << 30))
	c.request("long", long)

	m, stop := c.manager("a")
	c.eventually("the decisions", func() bool {
		return len(c.requestNow("right").Status.Certificate) > 0 && len(c.requestNow("right-approved").Status.Certificate) > 0 &&
			len(c.requestNow("short").Status.Certificate) > 0 && len(c.requestNow("long").Status.Certificate) > 0 &&
			has(c.requestNow("wrong"), certificatesv1.CertificateDenied) && has(c.requestNow("wrong-approved"), certificatesv1.CertificateFailed)
	})
	denied := c.requestNow("wrong")
	if got := denied.Status.Conditions[0]; got.Reason != "NamesForeign" || !strings.Contains(got.Message, "node-2") || len(denied.Status.Certificate) > 0 {
		t.Errorf("denied with %+v", got)
	}
	if got := c.requestNow("wrong-approved"); len(got.Status.Certificate) > 0 {
		t.Error("a request against the rules was signed because someone had approved it")
	}
	if got := c.requestNow("foreign"); len(got.Status.Conditions) > 0 || len(got.Status.Certificate) > 0 {
		t.Error("the request of another signer was touched")
	}

	roots, err := m.ServingCAs()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		node string
		left time.Duration
	}{"right": {"node-1", 24*time.Hour - backdate}, "short": {"node-4", 10 * time.Minute}, "long": {"node-5", 24*time.Hour - backdate}} {
		var leaf *x509.Certificate
		err := eachBlock(c.requestNow(name).Status.Certificate, certificateBlock, func(der []byte) (err error) {
			leaf, err = x509.ParseCertificate(der)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotBefore.Add(backdate), DNSName: agentv1.DNSName(want.node)})
		if err != nil || len(chains) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if left := leaf.NotAfter.Sub(leaf.NotBefore.Add(backdate)); left != want.left || leaf.NotAfter.Sub(leaf.NotBefore) > 24*time.Hour {
			t.Errorf("%s is valid for %v from now on, want %v", name, left, want.left)
		}
		if leaf.IsCA || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s has usages %v %v, CA %v", name, leaf.KeyUsage, leaf.ExtKeyUsage, leaf.IsCA)
		}
	}

	// Deciding again does nothing.
	stop()
	before := len(c.writes("certificatesigningrequests"))
	list, err := c.kube.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := &decider{requests: c.kube.CertificatesV1().CertificateSigningRequests(), issuer: m.issuer, now: c.clock.Now}
	var objects []any
	for i := range list.Items {
		objects = append(objects, &list.Items[i])
	}
	if err := d.decideAll(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	if after := c.writes("certificatesigningrequests"); len(after) != before {
		t.Errorf("decided twice: %v", after[before:])
	}
	for _, verb := range c.writes("certificatesigningrequests") {
		if strings.HasPrefix(verb, "delete") {
			t.Error("a request was deleted")
		}
	}
}

// writes are the verbs that changed a resource.
func (c *cluster) writes(resource string) (verbs []string) {
	for _, action := range c.kube.Actions() {
		if action.GetResource().Resource == resource && action.GetVerb() != "get" && action.GetVerb() != "list" && action.GetVerb() != "watch" {
			verbs = append(verbs, action.GetVerb())
		}
	}
	return verbs
}

func TestOneLeadsAndTheOtherTakesOver(t *testing.T) {
	c := newCluster(t)
	a, stopA := c.manager("a")
	c.ready(a)
	holder := func() string {
		lease, err := c.kube.CoordinationV1().Leases(agentv1.Namespace).Get(t.Context(), leaseName, metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	c.eventually("leadership", func() bool { return strings.HasPrefix(holder(), "a_") })
	b, _ := c.manager("b")
	c.ready(b)
	stopA()
	if h := holder(); strings.HasPrefix(h, "a_") {
		t.Errorf("after the end the Lease is held by %q", h)
	}
	c.eventually("the other's leadership", func() bool { return strings.HasPrefix(holder(), "b_") })
	c.request("late", askingFor(t, "node-9"))
	c.eventually("a decision of the new leader", func() bool { return len(c.requestNow("late").Status.Certificate) > 0 })
}
