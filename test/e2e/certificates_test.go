package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs a client certificate.
func issue(t *testing.T, authority tls.Certificate, name string) *tls.Certificate {
	t.Helper()
	parent, err := x509.ParseCertificate(authority.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), authority.PrivateKey)
	if err != nil {
		t.Fatalf("signing a certificate for %s: %v", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A request is a certificate signing request and its key.
type request struct {
	key  *ecdsa.PrivateKey
	spec certificatesv1.CertificateSigningRequestSpec
}

func newRequest(t *testing.T, signer string, subject pkix.Name, dnsNames []string, usages ...certificatesv1.KeyUsage) request {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: dnsNames}, key)
	if err != nil {
		t.Fatal(err)
	}
	return request{key, certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: signer,
		Usages:     append([]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}, usages...),
	}}
}

// submit creates the request as a user, and deletes it when the test ends.
func (c *cluster) submit(t *testing.T, as *cluster, r request) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	created, err := as.kube.CertificatesV1().CertificateSigningRequests().Create(t.Context(),
		&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}, Spec: r.spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("requesting a certificate: %v", err)
	}
	t.Cleanup(func() {
		_ = c.kube.CertificatesV1().CertificateSigningRequests().Delete(context.Background(), created.Name, metav1.DeleteOptions{})
	})
	return created
}

var errDenied = errors.New("denied")

// outcome waits until a request is signed, which gives nil, or denied, which gives errDenied.
func (c *cluster) outcome(t *testing.T, name string) (certificate []byte, denied error) {
	t.Helper()
	eventually(t, podDeadline, "the request to be signed or denied", func(ctx context.Context) error {
		r, err := c.kube.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range r.Status.Conditions {
			if condition.Type == certificatesv1.CertificateDenied || condition.Type == certificatesv1.CertificateFailed {
				denied = fmt.Errorf("%w: %s", errDenied, condition.Message)
				return nil
			}
		}
		if certificate = r.Status.Certificate; len(certificate) == 0 {
			return errors.New("nothing has happened")
		}
		return nil
	})
	return certificate, denied
}

// clusterCertificate has the cluster's own CA sign a client certificate, as any user's.
func (c *cluster) clusterCertificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	r := newRequest(t, certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: name}, nil, certificatesv1.UsageClientAuth)
	created := c.submit(t, c, r)
	created.Status.Conditions = append(created.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "EndToEndTest",
	})
	if _, err := c.kube.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), created.Name, created, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("approving a certificate: %v", err)
	}
	signed, err := c.outcome(t, created.Name)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(signed)
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: r.key}
}

// agentUser is the cluster as whoever has stolen an agent's token sees it: bound to the agent's pod, and so to
// its node, or to nothing.
func (c *cluster) agentUser(t *testing.T, pod *corev1.Pod) *cluster {
	t.Helper()
	spec := authenticationv1.TokenRequestSpec{}
	if pod != nil {
		spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	token, err := c.kube.CoreV1().ServiceAccounts(agentv1.Namespace).CreateToken(t.Context(), agentv1.ServiceAccountName,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("creating an agent's token: %v", err)
	}
	return c.withToken(t, token.Status.Token)
}

// agentSubject is the one that an agent of a node asks for.
func agentSubject(node string) pkix.Name {
	return pkix.Name{CommonName: agentv1.SubjectPrefix + node, Organization: []string{agentv1.SubjectOrganization}}
}

// TestAgentCertificates asks for agents' certificates as an agent may, and as a stolen token would try: a
// certificate is only ever for the node that Kubernetes wrote into the token.
func TestAgentCertificates(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.nodes(t)
	own, other := nodes[0], nodes[1]
	agent, unbound := c.agentUser(t, c.agents(t)[own]), c.agentUser(t, nil)
	stranger := c.user(t, c.namespace(t), "stranger")
	for _, test := range []struct {
		name    string
		as      *cluster
		subject pkix.Name
		dns     []string
		usage   certificatesv1.KeyUsage
		signed  bool
	}{
		{"its own node", agent, agentSubject(own), []string{agentv1.DNSName(own)}, certificatesv1.UsageServerAuth, true},
		{"another node", agent, agentSubject(other), []string{agentv1.DNSName(other)}, certificatesv1.UsageServerAuth, false},
		{"another node's name only", agent, agentSubject(own), []string{agentv1.DNSName(other)}, certificatesv1.UsageServerAuth, false},
		{"another node's name too", agent, agentSubject(own), []string{agentv1.DNSName(own), agentv1.DNSName(other)}, certificatesv1.UsageServerAuth, false},
		{"the API server's name", agent, agentSubject(own), []string{serverName}, certificatesv1.UsageServerAuth, false},
		{"a client", agent, agentSubject(own), []string{agentv1.DNSName(own)}, certificatesv1.UsageClientAuth, false},
		{"the API server as a client", agent, pkix.Name{CommonName: agentv1.ClientCommonName}, nil, certificatesv1.UsageClientAuth, false},
		{"a token of no pod", unbound, agentSubject(own), []string{agentv1.DNSName(own)}, certificatesv1.UsageServerAuth, false},
		{"the administrator", c, agentSubject(own), []string{agentv1.DNSName(own)}, certificatesv1.UsageServerAuth, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			created := c.submit(t, test.as, newRequest(t, agentv1.SignerName, test.subject, test.dns, test.usage))
			_, denied := c.outcome(t, created.Name)
			if signed := denied == nil; signed != test.signed {
				t.Errorf("signed: %v, want %v; %v", signed, test.signed, denied)
			}
		})
	}
	t.Run("somebody who is no agent", func(t *testing.T) {
		r := newRequest(t, agentv1.SignerName, agentSubject(own), []string{agentv1.DNSName(own)}, certificatesv1.UsageServerAuth)
		_, err := stranger.kube.CertificatesV1().CertificateSigningRequests().Create(t.Context(),
			&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}, Spec: r.spec}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("a stranger's request should be forbidden: %v", err)
		}
	})
}

// TestAgentRights demands that an agent's token is worth nothing else.
func TestAgentRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	node := c.nodes(t)[0]
	pod := c.agents(t)[node]
	agent := c.agentUser(t, pod)
	core, ctx := agent.kube.CoreV1(), t.Context()
	for name, attempt := range map[string]func() error{
		"list pods": func() error { _, err := core.Pods("").List(ctx, metav1.ListOptions{}); return err },
		"get its pod": func() error {
			_, err := core.Pods(agentv1.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			return err
		},
		"get the CA": func() error {
			_, err := core.Secrets(agentv1.Namespace).Get(ctx, agentv1.CAConfigMapName, metav1.GetOptions{})
			return err
		},
		"list secrets": func() error { _, err := core.Secrets("").List(ctx, metav1.ListOptions{}); return err },
		"list nodes":   func() error { _, err := core.Nodes().List(ctx, metav1.ListOptions{}); return err },
		"read statistics": func() error {
			_, err := agent.stats.NetworkobservabilityV1alpha1().PodNetworkStats("").List(ctx, metav1.ListOptions{})
			return err
		},
		"make a token": func() error {
			_, err := core.ServiceAccounts(agentv1.Namespace).CreateToken(ctx, agentv1.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"approve a request": func() error {
			r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "any"}}
			_, err := agent.kube.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, "any", r, metav1.UpdateOptions{})
			return err
		},
		"change the CA": func() error {
			_, err := core.ConfigMaps(agentv1.Namespace).Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: agentv1.CAConfigMapName}}, metav1.UpdateOptions{})
			return err
		},
	} {
		if err := attempt(); !apierrors.IsForbidden(err) {
			t.Errorf("an agent's token should not %s: %v", name, err)
		}
	}
}
