package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// secretTimeout is for one Secret: a host that is slow does not hold up the rest of the spec for longer.
	secretTimeout = 5 * time.Second
	// maxHeaders and maxHeaderBytes, names and values, are what servers commonly take.
	maxHeaders, maxHeaderBytes = 32, 16 << 10
	// maxCertificateBytes is for a certificate with those between it and its authority, and for its key.
	maxCertificateBytes = 32 << 10
	// ownSecrets begin the names of Secrets that hold this project's own keys, but for those that secretsForExporters begin.
	ownSecrets, secretsForExporters = "networkobservability-", "networkobservability-telemetry"
)

// A use is what a Secret is named for: headers, or a client's certificate.
type use struct {
	name        string
	certificate bool
}

// A secret is what one Secret has for a use, or why it has nothing. Values of headers, and keys, are nowhere else, and in no text.
type secret struct {
	headers map[string]string
	// certificate and key are PEM.
	certificate, key []byte
	// problem is for users.
	problem string
	// unread: the host did not say what is in it.
	unread bool
}

func (s secret) equal(other secret) bool {
	return s.problem == other.problem && s.unread == other.unread && maps.Equal(s.headers, other.headers) &&
		bytes.Equal(s.certificate, other.certificate) && bytes.Equal(s.key, other.key)
}

// readSecrets reads the Secrets that a spec names. One that could be read before, and which the host does not tell of now, is as
// it was.
func readSecrets(ctx context.Context, client kubernetes.Interface, object *v1alpha1.NetworkTelemetry, now time.Time, before map[use]secret) map[use]secret {
	secrets := map[use]secret{}
	for _, of := range secretsOf(object) {
		one := readSecret(ctx, client, of, now)
		if known, ok := before[of]; ok && one.unread {
			one = known
		}
		secrets[of] = one
	}
	return secrets
}

// secretsOf are those that a spec names, each use once.
func secretsOf(object *v1alpha1.NetworkTelemetry) (uses []use) {
	if object == nil {
		return nil
	}
	for i := range object.Spec.Exporters {
		otlp := object.Spec.Exporters[i].OTLP
		if otlp != nil && otlp.HeadersSecret != nil {
			uses = append(uses, use{name: otlp.HeadersSecret.Name})
		}
		if otlp != nil && otlp.ClientCertificateSecret != nil {
			uses = append(uses, use{name: otlp.ClientCertificateSecret.Name, certificate: true})
		}
	}
	slices.SortFunc(uses, func(a, b use) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(uses)
}

func readSecret(ctx context.Context, client kubernetes.Interface, of use, now time.Time) secret {
	// Admission refuses them, too. Keys of authorities are for nobody.
	if strings.HasPrefix(of.name, ownSecrets) && !strings.HasPrefix(of.name, secretsForExporters) {
		return secret{problem: fmt.Sprintf("the Secret %s is this program's own by its name and cannot be used", of.name)}
	}
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	// The client would log the answer where the server logs everything.
	object, err := client.CoreV1().Secrets(agentv1.Namespace).Get(klog.NewContext(ctx, klog.Logger{}), of.name, metav1.GetOptions{})
	switch {
	case err == nil && of.certificate:
		return certificateOf(object, now)
	case err == nil:
		return headersOf(object)
	case apierrors.IsNotFound(err):
		return secret{problem: fmt.Sprintf("there is no Secret %s in namespace %s: make it, it is looked for every minute", of.name, agentv1.Namespace)}
	case apierrors.IsForbidden(err):
		return secret{problem: fmt.Sprintf("the API server may not get the Secret %s: allow it by a Role in namespace %s", of.name, agentv1.Namespace)}
	}
	return secret{problem: fmt.Sprintf("the Secret %s cannot be read at the moment", of.name), unread: true}
}

// certificateOf takes a client's certificate and key out of a Secret. What is wrong with them is said without a word of them.
func certificateOf(object *corev1.Secret, now time.Time) secret {
	refuse := func(format string, args ...any) secret {
		return secret{problem: fmt.Sprintf("otlp.clientCertificateSecret: the Secret %s ", object.Name) + fmt.Sprintf(format, args...)}
	}
	certificate, key := object.Data[corev1.TLSCertKey], object.Data[corev1.TLSPrivateKeyKey]
	for _, name := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		switch size := len(object.Data[name]); {
		case size == 0:
			return refuse("has no %s; make it with kubectl create secret tls", name)
		case size > maxCertificateBytes:
			return refuse("has %d bytes under %s, at most %d are taken", size, name, maxCertificateBytes)
		}
	}
	pair, err := tls.X509KeyPair(certificate, key)
	switch leaf := pair.Leaf; {
	case err != nil && strings.Contains(err.Error(), "does not match public key"): // the rest of its errors is for programmers
		return refuse("has a %s that is not of the certificate in %s; put both of one pair into it", corev1.TLSPrivateKeyKey, corev1.TLSCertKey)
	case err != nil:
		return refuse("has a %s or %s that cannot be read; both have to be PEM, the key without a password", corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	case now.After(leaf.NotAfter):
		return refuse("has a certificate that expired at %s; put a renewed one into it", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return refuse("has a certificate that is valid only from %s on; put another one into it, or set clocks right", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return secret{certificate: certificate, key: key}
}

// headersOf takes the headers out of a Secret, all or none.
func headersOf(object *corev1.Secret) secret {
	refuse := func(format string, args ...any) secret {
		return secret{problem: fmt.Sprintf("the Secret %s ", object.Name) + fmt.Sprintf(format, args...)}
	}
	if len(object.Data) == 0 {
		return refuse("has no keys, each of which would be a header")
	}
	if len(object.Data) > maxHeaders {
		return refuse("has %d keys, at most %d headers are sent", len(object.Data), maxHeaders)
	}
	headers, size := make(map[string]string, len(object.Data)), 0
	for _, key := range slices.Sorted(maps.Keys(object.Data)) {
		// Files end with a line break, from which Secrets are often made; no header can have one.
		name, value := strings.ToLower(key), strings.TrimRight(string(object.Data[key]), "\r\n")
		if reason := refusedName(name); reason != "" {
			return refuse("has a key %q, which %s", key, reason)
		}
		if _, twice := headers[name]; twice {
			return refuse("has the header %q twice: upper and lower case are the same", name)
		}
		if !printableASCII(value) {
			return refuse("has a value under %q that no header can have: only printable ASCII, on one line", key)
		}
		headers[name] = value
		if size += len(name) + len(value); size > maxHeaderBytes {
			return refuse("has more than %d bytes of headers", maxHeaderBytes)
		}
	}
	return secret{headers: headers}
}

// ofTheProtocol are headers that whoever speaks HTTP or gRPC sets by himself.
var ofTheProtocol = []string{
	"connection", "content-encoding", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade",
}

// refusedName says why a header may not be called so; empty when it may.
func refusedName(name string) string {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return "is no name of a header"
	case slices.Contains(ofTheProtocol, name), strings.HasPrefix(name, "grpc-"):
		return "is a header that the protocol sets itself"
	case strings.HasSuffix(name, "-bin"):
		return "gRPC would take for binary"
	}
	return ""
}

func printableASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
