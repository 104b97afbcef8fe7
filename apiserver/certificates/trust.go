package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

const (
	// secretName is the Secret with both authorities.
	secretName = "networkobservability-ca"

	// Its keys. Certificates are the bundles, keys those of the generations that sign or will.
	servingCertificates = "serving-ca.crt"
	servingKeys         = "serving-ca.key"
	clientCertificates  = "client-ca.crt"
	clientKeys          = "client-ca.key"

	servingName = "networkobservability-serving-ca"
	clientName  = "networkobservability-client-ca"
)

// trust is both authorities. It is immutable.
type trust struct {
	serving authority
	client  authority
}

// tended is the trust as it should be now, and whether that differs. A nil trust makes the first.
func (t *trust) tended(now time.Time, p pace) (*trust, bool, error) {
	if t == nil {
		t = &trust{}
	}
	serving, servingChanged, err := t.serving.tended(servingName, x509.ExtKeyUsageServerAuth, now, p)
	if err != nil {
		return nil, false, err
	}
	client, clientChanged, err := t.client.tended(clientName, x509.ExtKeyUsageClientAuth, now, p)
	if err != nil {
		return nil, false, err
	}
	return &trust{serving, client}, servingChanged || clientChanged, nil
}

func (t *trust) data() (map[string][]byte, error) {
	sc, sk, err := t.serving.marshal()
	if err != nil {
		return nil, err
	}
	cc, ck, err := t.client.marshal()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{servingCertificates: sc, servingKeys: sk, clientCertificates: cc, clientKeys: ck}, nil
}

// parseTrust is the inverse of data. It gives nil for a Secret that has none of the keys, as one that was
// applied as a placeholder.
func parseTrust(data map[string][]byte) (*trust, error) {
	if len(data[servingCertificates])+len(data[servingKeys])+len(data[clientCertificates])+len(data[clientKeys]) == 0 {
		return nil, nil
	}
	serving, err := parseAuthority(data[servingCertificates], data[servingKeys])
	if err != nil {
		return nil, fmt.Errorf("reading the serving authority: %w", err)
	}
	client, err := parseAuthority(data[clientCertificates], data[clientKeys])
	if err != nil {
		return nil, fmt.Errorf("reading the client authority: %w", err)
	}
	return &trust{serving, client}, nil
}

// vault reads and writes the Secret. Of replicas that write at once one succeeds and the others read.
type vault struct {
	secrets corev1client.SecretInterface
	pace    pace
}

// tend makes the Secret what it should be now. found is the Secret as it is known, nil when there is none; the
// result is what it holds then, which may be another replica's work.
func (v vault) tend(ctx context.Context, found *corev1.Secret, now time.Time) (*corev1.Secret, error) {
	ctx = unlogged(ctx)
	var current *trust
	if found != nil {
		var err error
		if current, err = parseTrust(found.Data); err != nil {
			return nil, fmt.Errorf("reading Secret %s: %w (delete it to have a new one made)", secretName, err)
		}
	}
	next, changed, err := current.tended(now, v.pace)
	if err != nil {
		return nil, fmt.Errorf("making certificate authorities: %w", err)
	}
	if !changed {
		return found, nil
	}
	return v.write(ctx, found, next)
}

func (v vault) write(ctx context.Context, found *corev1.Secret, next *trust) (*corev1.Secret, error) {
	data, err := next.data()
	if err != nil {
		return nil, err
	}
	if found == nil {
		return v.create(ctx, data)
	}
	// The resource version of found makes this fail when another wrote in between.
	secret := found.DeepCopy()
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	for key, value := range data {
		secret.Data[key] = value
	}
	secret, err = v.secrets.Update(ctx, secret, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("updating Secret %s: %w", secretName, err)
	}
	return secret, nil
}

// unlogged keeps keys out of the log: where the server logs everything, the client logs what it sends and gets.
func unlogged(ctx context.Context) context.Context { return klog.NewContext(ctx, klog.Logger{}) }

func (v vault) create(ctx context.Context, data map[string][]byte) (*corev1.Secret, error) {
	secret, err := v.secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: agentv1.Namespace},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		secret, err = v.secrets.Get(ctx, secretName, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("creating Secret %s: %w", secretName, err)
	}
	return secret, nil
}
