package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// nodeNameExtra is set by Kubernetes 1.30 and later from the claims of a token that is bound to a pod
// (KEP-4193). Its holder cannot choose it.
const nodeNameExtra = "authentication.kubernetes.io/node-name"

// agentUser is the only one who may ask.
const agentUser = "system:serviceaccount:" + agentv1.Namespace + ":" + agentv1.ServiceAccountName

// refusal is why a request is denied: a reason for machines and a message that names what is wrong.
type refusal struct {
	reason  string
	message string
}

func (r *refusal) Error() string { return r.message }

// maxMessage is where a message is cut, in bytes: it quotes what anyone may have written.
const maxMessage = 1 << 10

func refuse(reason, format string, args ...any) *refusal {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	return &refusal{reason, message}
}

// judge applies the rules of PROTOCOL.md to a request of our signer. It gives the parsed request and the node
// that it is for, or a *refusal.
func judge(spec *certificatesv1.CertificateSigningRequestSpec) (*x509.CertificateRequest, string, *refusal) {
	node, err := nodeOf(spec)
	if err != nil {
		return nil, "", err
	}
	request, err := parseRequest(spec.Request)
	if err != nil {
		return nil, "", err
	}
	for _, rule := range []func() *refusal{
		func() *refusal { return checkSubject(request, node) },
		func() *refusal { return checkNames(request, node) },
		func() *refusal { return checkUsages(spec.Usages) },
		func() *refusal { return checkKey(request) },
	} {
		if err := rule(); err != nil {
			return nil, "", err
		}
	}
	return request, node, nil
}

// nodeOf is rules 1 and 2: who asks, and from which node, as Kubernetes says.
func nodeOf(spec *certificatesv1.CertificateSigningRequestSpec) (string, *refusal) {
	if spec.Username != agentUser {
		return "", refuse("ForeignRequester", "the requester is %q; only %q may ask", spec.Username, agentUser)
	}
	values := spec.Extra[nodeNameExtra]
	if len(values) != 1 {
		return "", refuse("NodeUnknown", "the requester has %d values of %s and must have one: its token has to be bound to a pod", len(values), nodeNameExtra)
	}
	node := values[0]
	if errs := validation.IsDNS1123Subdomain(node); len(errs) > 0 {
		return "", refuse("NodeNameInvalid", "the node name %q is not a DNS subdomain: %s", node, strings.Join(errs, "; "))
	}
	if errs := validation.IsDNS1123Subdomain(agentv1.DNSName(node)); len(errs) > 0 {
		return "", refuse("NodeNameInvalid", "the node name %q makes no DNS name: %s", node, strings.Join(errs, "; "))
	}
	return node, nil
}

func parseRequest(text []byte) (*x509.CertificateRequest, *refusal) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, refuse("RequestInvalid", "the request is not one PEM block of type CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuse("RequestInvalid", "the request does not parse: %v", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, refuse("RequestInvalid", "the request is not signed with its own key: %v", err)
	}
	return request, nil
}

var (
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// checkSubject is the first half of rule 3. Names lists every attribute, known to Go or not.
func checkSubject(request *x509.CertificateRequest, node string) *refusal {
	var names, organizations []string
	for _, attribute := range request.Subject.Names {
		value, _ := attribute.Value.(string)
		switch {
		case attribute.Type.Equal(oidCommonName):
			names = append(names, value)
		case attribute.Type.Equal(oidOrganization):
			organizations = append(organizations, value)
		default:
			return refuse("SubjectForeign", "the subject has the field %v, and may have a common name and an organization only", attribute.Type)
		}
	}
	if want := agentv1.SubjectPrefix + node; !slices.Equal(names, []string{want}) {
		return refuse("SubjectForeign", "the common names are %q; for an agent on node %q there must be one, %q", names, node, want)
	}
	if want := agentv1.SubjectOrganization; !slices.Equal(organizations, []string{want}) {
		return refuse("SubjectForeign", "the organizations are %q; there must be one, %q", organizations, want)
	}
	return nil
}

// checkNames is the second half of rule 3. The extension is compared as bytes, since names of types that Go
// does not know are in none of the request's fields.
func checkNames(request *x509.CertificateRequest, node string) *refusal {
	one := []string{agentv1.DNSName(node)}
	two := append(slices.Clone(one), agentv1.MetricsDNSName)
	if n := len(request.IPAddresses) + len(request.EmailAddresses) + len(request.URIs); n > 0 {
		return refuse("NamesForeign", "there are %d alternative names that are not DNS names: %v %q %v", n, request.IPAddresses, request.EmailAddresses, request.URIs)
	}
	if !slices.Equal(request.DNSNames, one) && !slices.Equal(request.DNSNames, two) {
		return refuse("NamesForeign", "the DNS names are %q; for an agent on node %q there must be %q, or only the first of them", request.DNSNames, node, two)
	}
	only, err := encodeNames(request.DNSNames)
	if err != nil {
		return refuse("NamesForeign", "the DNS names %q cannot be encoded: %v", request.DNSNames, err)
	}
	found := 0
	for _, extension := range request.Extensions {
		if !extension.Id.Equal(oidAltName) {
			continue
		}
		if found++; found > 1 || !slices.Equal(extension.Value, only) {
			return refuse("NamesForeign", "there are alternative names beside the DNS names %q", request.DNSNames)
		}
	}
	return nil
}

// encodeNames is the value of an extension that has these names and no others.
// GeneralName ::= CHOICE { ... dNSName [2] IA5String ... } (RFC 5280, section 4.2.1.6)
func encodeNames(names []string) ([]byte, error) {
	var values []asn1.RawValue
	for _, name := range names {
		values = append(values, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(name)})
	}
	return asn1.Marshal(values)
}

// checkUsages is the first half of rule 4.
func checkUsages(usages []certificatesv1.KeyUsage) *refusal {
	want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	sorted := slices.Compact(slices.Sorted(slices.Values(usages)))
	if !slices.Equal(sorted, want) {
		return refuse("UsagesForeign", "the usages are %q and must be %q", usages, want)
	}
	return nil
}

// checkKey is the second half of rule 4.
func checkKey(request *x509.CertificateRequest) *refusal {
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return refuse("KeyWeak", "the key is %v and must be ECDSA", request.PublicKeyAlgorithm)
	}
	switch key.Curve {
	case elliptic.P256(), elliptic.P384(), elliptic.P521():
		return nil
	}
	return refuse("KeyWeak", "the key is on the curve %s and must be on P-256 or a stronger one", key.Curve.Params().Name)
}
