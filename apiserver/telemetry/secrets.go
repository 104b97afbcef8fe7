package telemetry

import (
	"context"
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
	// ownSecrets begin the names of Secrets that hold this project's own keys, but for those that secretsForHeaders begin.
	ownSecrets, secretsForHeaders = "networkobservability-", "networkobservability-telemetry"
)

// A secret is the headers of one Secret, or why there are none. Values of headers are nowhere else, and in no text.
type secret struct {
	headers map[string]string
	// problem is for users.
	problem string
	// unread: the host did not say what is in it.
	unread bool
}

func (s secret) equal(other secret) bool {
	return s.problem == other.problem && s.unread == other.unread && maps.Equal(s.headers, other.headers)
}

// readSecrets reads the Secrets that a spec names. One that could be read before, and which the host does not tell of now, is as
// it was.
func readSecrets(ctx context.Context, client kubernetes.Interface, object *v1alpha1.NetworkTelemetry, before map[string]secret) map[string]secret {
	secrets := map[string]secret{}
	for _, name := range secretNames(object) {
		one := readSecret(ctx, client, name)
		if known, ok := before[name]; ok && one.unread {
			one = known
		}
		secrets[name] = one
	}
	return secrets
}

func secretNames(object *v1alpha1.NetworkTelemetry) (names []string) {
	if object == nil {
		return nil
	}
	for i := range object.Spec.Exporters {
		if otlp := object.Spec.Exporters[i].OTLP; otlp != nil && otlp.HeadersSecret != nil {
			names = append(names, otlp.HeadersSecret.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func readSecret(ctx context.Context, client kubernetes.Interface, name string) secret {
	// Admission refuses them, too. Keys of authorities are never headers.
	if strings.HasPrefix(name, ownSecrets) && !strings.HasPrefix(name, secretsForHeaders) {
		return secret{problem: fmt.Sprintf("the Secret %s is this program's own by its name and cannot be used", name)}
	}
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	// The client would log the answer where the server logs everything.
	object, err := client.CoreV1().Secrets(agentv1.Namespace).Get(klog.NewContext(ctx, klog.Logger{}), name, metav1.GetOptions{})
	switch {
	case err == nil:
		return headersOf(object)
	case apierrors.IsNotFound(err):
		return secret{problem: fmt.Sprintf("there is no Secret %s in namespace %s", name, agentv1.Namespace)}
	case apierrors.IsForbidden(err):
		return secret{problem: fmt.Sprintf("the API server may not get the Secret %s: allow it by a Role in namespace %s", name, agentv1.Namespace)}
	}
	return secret{problem: fmt.Sprintf("the Secret %s cannot be read at the moment", name), unread: true}
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
