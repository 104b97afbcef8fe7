package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// asking is what an agent sends, before it becomes a CertificateSigningRequest.
type asking struct {
	spec     certificatesv1.CertificateSigningRequestSpec
	template x509.CertificateRequest
	key      crypto.Signer
}

// askingFor is a request that all rules allow.
func askingFor(t testing.TB, node string) *asking {
	t.Helper()
	return &asking{
		spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: agentv1.SignerName,
			Username:   "system:serviceaccount:network-observability:networkobservability-nodeagent",
			Extra: map[string]certificatesv1.ExtraValue{
				nodeNameExtra:                           {node},
				"authentication.kubernetes.io/pod-name": {"agent-xyz"},
			},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature},
		},
		template: x509.CertificateRequest{
			Subject:  pkix.Name{CommonName: "system:networkobservability:agent:" + node, Organization: []string{"networkobservability:agents"}},
			DNSNames: []string{node + ".agent.networkobservability.k8s.io", "networkobservability-nodeagent.network-observability.svc"},
		},
		key: ecdsaKey(t, elliptic.P256()),
	}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	// Go refuses to make RSA keys below 1024 bits, and so does this test.
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *asking) done(t testing.TB) *certificatesv1.CertificateSigningRequestSpec {
	t.Helper()
	if a.spec.Request == nil {
		a.spec.Request = a.encode(t)
	}
	return &a.spec
}

func (a *asking) encode(t testing.TB) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.template, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestJudge(t *testing.T) {
	const node = "node-1"
	for _, test := range []struct {
		name   string
		change func(*testing.T, *asking)
		reason string // empty: allowed
		says   string
	}{
		{"right", func(*testing.T, *asking) {}, "", ""},
		{"right, P-384", func(t *testing.T, a *asking) { a.key = ecdsaKey(t, elliptic.P384()) }, "", ""},
		{"right, of an agent that offers no metrics", func(_ *testing.T, a *asking) { a.template.DNSNames = a.template.DNSNames[:1] }, "", ""},
		{"right, P-521", func(t *testing.T, a *asking) { a.key = ecdsaKey(t, elliptic.P521()) }, "", ""},

		// Rule 1.
		{"another service account", func(_ *testing.T, a *asking) {
			a.spec.Username = "system:serviceaccount:network-observability:networkobservability-apiserver"
		}, "ForeignRequester", `"system:serviceaccount:network-observability:networkobservability-apiserver"`},
		{"another namespace", func(_ *testing.T, a *asking) {
			a.spec.Username = "system:serviceaccount:tenant:networkobservability-nodeagent"
		}, "ForeignRequester", "tenant"},
		{"an administrator", func(_ *testing.T, a *asking) {
			a.spec.Username, a.spec.Groups = "kubernetes-admin", []string{"system:masters"}
		}, "ForeignRequester", "kubernetes-admin"},
		{"nobody", func(_ *testing.T, a *asking) { a.spec.Username = "" }, "ForeignRequester", `""`},

		// Rule 2.
		{"no node, as of a token that is not bound", func(_ *testing.T, a *asking) { a.spec.Extra = nil }, "NodeUnknown", "0 values"},
		{"two nodes", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{node, "node-2"} }, "NodeUnknown", "2 values"},
		{"the same node twice", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{node, node} }, "NodeUnknown", "2 values"},
		{"a forged key that looks alike", func(_ *testing.T, a *asking) {
			a.spec.Extra = map[string]certificatesv1.ExtraValue{"Authentication.kubernetes.io/node-name": {node}}
		}, "NodeUnknown", "0 values"},
		{"extra of another node", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{"node-2"} }, "SubjectForeign", `"system:networkobservability:agent:node-2"`},
		{"a node name with a slash", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{"../node-1"} }, "NodeNameInvalid", "../node-1"},
		{"a wildcard for a node", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{"*"} }, "NodeNameInvalid", `"*"`},
		{"an empty node name", func(_ *testing.T, a *asking) { a.spec.Extra[nodeNameExtra] = []string{""} }, "NodeNameInvalid", `""`},
		{"a node name too long for its DNS name", func(_ *testing.T, a *asking) {
			a.spec.Extra[nodeNameExtra] = []string{strings.Repeat("a.", 115) + "a"}
		}, "NodeNameInvalid", "makes no DNS name"},

		// Rule 3, subject.
		{"subject of another node", func(_ *testing.T, a *asking) {
			a.template.Subject.CommonName = agentv1.SubjectPrefix + "node-2"
		}, "SubjectForeign", "node-2"},
		{"common name of the API server", func(_ *testing.T, a *asking) { a.template.Subject.CommonName = agentv1.ClientCommonName }, "SubjectForeign", agentv1.ClientCommonName},
		{"two common names", func(_ *testing.T, a *asking) {
			a.template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{
				{Type: oidCommonName, Value: agentv1.SubjectPrefix + node}, {Type: oidCommonName, Value: "other"},
				{Type: oidOrganization, Value: agentv1.SubjectOrganization},
			}
		}, "SubjectForeign", `"other"`},
		{"no organization", func(_ *testing.T, a *asking) { a.template.Subject.Organization = nil }, "SubjectForeign", "organizations are []"},
		{"system:masters beside", func(_ *testing.T, a *asking) {
			a.template.Subject.Organization = append(a.template.Subject.Organization, "system:masters")
		}, "SubjectForeign", "system:masters"},
		{"an organizational unit", func(_ *testing.T, a *asking) { a.template.Subject.OrganizationalUnit = []string{"x"} }, "SubjectForeign", "2.5.4.11"},
		{"a serial number", func(_ *testing.T, a *asking) { a.template.Subject.SerialNumber = "1" }, "SubjectForeign", "2.5.4.5"},
		{"a field that Go does not know", func(_ *testing.T, a *asking) {
			a.template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}}
		}, "SubjectForeign", "1.2.3"},

		// Rule 3, alternative names.
		{"no name", func(_ *testing.T, a *asking) { a.template.DNSNames = nil }, "NamesForeign", "[]"},
		{"name of another node", func(_ *testing.T, a *asking) { a.template.DNSNames = []string{agentv1.DNSName("node-2")} }, "NamesForeign", "node-2"},
		{"only the name for metrics, which is of no node", func(_ *testing.T, a *asking) { a.template.DNSNames = a.template.DNSNames[1:] }, "NamesForeign", "node-1.agent"},
		{"the names the other way round", func(_ *testing.T, a *asking) { slices.Reverse(a.template.DNSNames) }, "NamesForeign", "or only the first"},
		{"another name than that for metrics", func(_ *testing.T, a *asking) {
			a.template.DNSNames[1] = "networkobservability-apiserver.network-observability.svc"
		}, "NamesForeign", "networkobservability-apiserver"},
		{"the name of another node second", func(_ *testing.T, a *asking) { a.template.DNSNames[1] = agentv1.DNSName("node-2") }, "NamesForeign", "node-2"},
		{"the node's name twice", func(_ *testing.T, a *asking) { a.template.DNSNames[1] = agentv1.DNSName(node) }, "NamesForeign", "or only the first"},
		{"a third name", func(_ *testing.T, a *asking) {
			a.template.DNSNames = append(a.template.DNSNames, "kubernetes.default.svc")
		}, "NamesForeign", "kubernetes.default.svc"},
		{"a wildcard", func(_ *testing.T, a *asking) { a.template.DNSNames = []string{agentv1.DNSName("*")} }, "NamesForeign", "*.agent"},
		{"the name in capitals", func(_ *testing.T, a *asking) { a.template.DNSNames = []string{agentv1.DNSName("NODE-1")} }, "NamesForeign", "NODE-1"},
		{"an address", func(_ *testing.T, a *asking) { a.template.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, "NamesForeign", "10.0.0.1"},
		{"an email address", func(_ *testing.T, a *asking) { a.template.EmailAddresses = []string{"a@b.example"} }, "NamesForeign", "a@b.example"},
		{"a URI", func(_ *testing.T, a *asking) { a.template.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "NamesForeign", "spiffe://x"},
		{"a name of a type that Go does not know", func(t *testing.T, a *asking) {
			a.template.DNSNames = nil
			a.template.ExtraExtensions = []pkix.Extension{altNames(t, dnsName(agentv1.DNSName(node)), asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{42}})}
		}, "NamesForeign", "alternative names beside"},

		// Rule 4.
		{"client auth", func(_ *testing.T, a *asking) { a.spec.Usages = append(a.spec.Usages, certificatesv1.UsageClientAuth) }, "UsagesForeign", "client auth"},
		{"client auth instead", func(_ *testing.T, a *asking) {
			a.spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
		}, "UsagesForeign", "client auth"},
		{"cert sign", func(_ *testing.T, a *asking) { a.spec.Usages = append(a.spec.Usages, certificatesv1.UsageCertSign) }, "UsagesForeign", "cert sign"},
		{"key encipherment", func(_ *testing.T, a *asking) {
			a.spec.Usages = append(a.spec.Usages, certificatesv1.UsageKeyEncipherment)
		}, "UsagesForeign", "key encipherment"},
		{"one usage short", func(_ *testing.T, a *asking) { a.spec.Usages = a.spec.Usages[:1] }, "UsagesForeign", "server auth"},
		{"no usage", func(_ *testing.T, a *asking) { a.spec.Usages = nil }, "UsagesForeign", "[]"},
		{"RSA 1024", func(t *testing.T, a *asking) { a.key = rsaKey(t, 1024) }, "KeyWeak", "RSA"},
		{"RSA 2048", func(t *testing.T, a *asking) { a.key = rsaKey(t, 2048) }, "KeyWeak", "RSA"},
		{"P-224", func(t *testing.T, a *asking) { a.key = ecdsaKey(t, elliptic.P224()) }, "KeyWeak", "P-224"},
		{"Ed25519", func(t *testing.T, a *asking) {
			_, a.key, _ = ed25519.GenerateKey(rand.Reader)
		}, "KeyWeak", "Ed25519"},

		// What does not parse.
		{"empty", func(_ *testing.T, a *asking) { a.spec.Request = []byte{} }, "RequestInvalid", "not one PEM block"},
		{"two blocks", func(t *testing.T, a *asking) { a.spec.Request = append(a.encode(t), a.encode(t)...) }, "RequestInvalid", "not one PEM block"},
		{"a certificate", func(_ *testing.T, a *asking) {
			a.spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
		}, "RequestInvalid", "not one PEM block"},
		{"garbage in a block", func(_ *testing.T, a *asking) {
			a.spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})
		}, "RequestInvalid", "does not parse"},
		{"a signature of another key", func(t *testing.T, a *asking) {
			block, _ := pem.Decode(a.encode(t))
			block.Bytes[len(block.Bytes)-1] ^= 1
			a.spec.Request = pem.EncodeToMemory(block)
		}, "RequestInvalid", "not signed with its own key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := askingFor(t, node)
			test.change(t, a)
			request, got, refused := judge(a.done(t))
			switch {
			case test.reason == "" && refused != nil:
				t.Errorf("refused: %v", refused)
			case test.reason == "" && (got != node || request == nil):
				t.Errorf("judged to be for %q", got)
			case test.reason != "" && refused == nil:
				t.Error("allowed")
			case test.reason != "" && (refused.reason != test.reason || !strings.Contains(refused.message, test.says)):
				t.Errorf("refused with %s: %s; want %s: %s", refused.reason, refused.message, test.reason, test.says)
			}
		})
	}
}

func TestJudgeSeesAllExtensions(t *testing.T) {
	a := askingFor(t, "node-1")
	a.template.DNSNames = nil
	// Go reads the last of two extensions of one kind.
	a.template.ExtraExtensions = []pkix.Extension{altNames(t, dnsName("kubernetes")), altNames(t, dnsName(agentv1.DNSName("node-1")))}
	if _, _, refused := judge(a.done(t)); refused == nil {
		t.Error("a request is allowed whose names are hidden by others")
	}
}

func TestRefusalsAreShort(t *testing.T) {
	a := askingFor(t, "node-1")
	a.spec.Username = strings.Repeat("x", 1<<20)
	if _, _, refused := judge(a.done(t)); refused == nil || len(refused.message) > maxMessage {
		t.Errorf("refused with %v", refused)
	}
}

func dnsName(name string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(name)}
}

func altNames(t *testing.T, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidAltName, Value: value}
}

// FuzzJudge holds that whatever is allowed names the requester's node, and nothing else.
func FuzzJudge(f *testing.F) {
	a := askingFor(f, "node-1")
	f.Add(a.encode(f), "node-1", "server auth")
	f.Add([]byte("x"), "", "client auth")
	f.Fuzz(func(t *testing.T, request []byte, node, usage string) {
		spec := askingFor(t, node).spec
		spec.Request = request
		spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.KeyUsage(usage)}
		parsed, got, refused := judge(&spec)
		if refused != nil {
			return
		}
		if got != node || usage != "server auth" || parsed.DNSNames[0] != agentv1.DNSName(node) ||
			len(parsed.DNSNames) > 1 && !slices.Equal(parsed.DNSNames[1:], []string{agentv1.MetricsDNSName}) ||
			parsed.Subject.CommonName != agentv1.SubjectPrefix+node || len(parsed.Subject.Names) != 2 {
			t.Errorf("allowed %v for node %q", parsed.Subject, node)
		}
	})
}
