package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// ofOurSigner restricts an informer to the requests that are ours to decide.
func ofOurSigner(options *metav1.ListOptions) {
	options.FieldSelector = fields.OneTermEqualSelector("spec.signerName", agentv1.SignerName).String()
}

// decider approves or denies, and signs.
type decider struct {
	requests certificatesclient.CertificateSigningRequestInterface
	// issuer gives the generation that signs now.
	issuer func() (generation, error)
	now    func() time.Time
}

// decide brings one request as far as it can: to denied, failed or signed. It does nothing to a request that is
// there already, or is another signer's. A request that was approved by someone else is judged all the same.
func (d *decider) decide(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error {
	if request.Spec.SignerName != agentv1.SignerName || len(request.Status.Certificate) > 0 ||
		has(request, certificatesv1.CertificateDenied) || has(request, certificatesv1.CertificateFailed) {
		return nil
	}
	parsed, node, refused := judge(&request.Spec)
	approved := has(request, certificatesv1.CertificateApproved)
	switch {
	case refused != nil && approved:
		return d.fail(ctx, request, refused)
	case refused != nil:
		_, err := d.settle(ctx, request, certificatesv1.CertificateDenied, refused.reason, refused.message)
		return err
	case !approved:
		var err error
		request, err = d.settle(ctx, request, certificatesv1.CertificateApproved, "AgentOfNode", "the requester is the agent on node "+node)
		if err != nil {
			return err
		}
	}
	return d.sign(ctx, request, parsed)
}

// settle approves or denies.
func (d *decider) settle(ctx context.Context, request *certificatesv1.CertificateSigningRequest,
	kind certificatesv1.RequestConditionType, reason, message string) (*certificatesv1.CertificateSigningRequest, error) {
	request = request.DeepCopy()
	request.Status.Conditions = append(request.Status.Conditions, d.condition(kind, reason, message))
	updated, err := d.requests.UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("marking CertificateSigningRequest %s as %s: %w", request.Name, kind, err)
	}
	return updated, nil
}

// fail marks a request that was approved, but not by our rules.
func (d *decider) fail(ctx context.Context, request *certificatesv1.CertificateSigningRequest, refused *refusal) error {
	request = request.DeepCopy()
	request.Status.Conditions = append(request.Status.Conditions, d.condition(certificatesv1.CertificateFailed, refused.reason, refused.message))
	if _, err := d.requests.UpdateStatus(ctx, request, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("marking CertificateSigningRequest %s as failed: %w", request.Name, err)
	}
	return nil
}

func (d *decider) condition(kind certificatesv1.RequestConditionType, reason, message string) certificatesv1.CertificateSigningRequestCondition {
	now := metav1.NewTime(d.now())
	return certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	}
}

// sign issues the certificate of an approved request.
func (d *decider) sign(ctx context.Context, request *certificatesv1.CertificateSigningRequest, parsed *x509.CertificateRequest) error {
	issuer, err := d.issuer()
	if err != nil {
		return fmt.Errorf("signing CertificateSigningRequest %s: %w", request.Name, err)
	}
	certificate, err := issuer.issue(d.template(request, parsed), parsed.PublicKey)
	if err != nil {
		return fmt.Errorf("signing CertificateSigningRequest %s: %w", request.Name, err)
	}
	request = request.DeepCopy()
	request.Status.Certificate = encode(certificate)
	if _, err := d.requests.UpdateStatus(ctx, request, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("issuing CertificateSigningRequest %s: %w", request.Name, err)
	}
	return nil
}

// template takes from the request only what judge has compared. A certificate is valid for the time that was
// asked for from now on, and never for more than maxLeafLifetime in all.
func (d *decider) template(request *certificatesv1.CertificateSigningRequest, parsed *x509.CertificateRequest) *x509.Certificate {
	now := d.now()
	begin := now.Add(-backdate)
	end := begin.Add(maxLeafLifetime)
	if seconds := request.Spec.ExpirationSeconds; seconds != nil {
		if asked := now.Add(time.Duration(*seconds) * time.Second); asked.Before(end) {
			end = asked
		}
	}
	return &x509.Certificate{
		Subject:     parsed.Subject,
		DNSNames:    parsed.DNSNames,
		NotBefore:   begin,
		NotAfter:    end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func has(request *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	for i := range request.Status.Conditions {
		if request.Status.Conditions[i].Type == kind {
			return true
		}
	}
	return false
}

// decideAll decides each request. One that another has changed or deleted meanwhile comes by again, or need not.
func (d *decider) decideAll(ctx context.Context, objects []any) error {
	var errs []error
	for _, object := range objects {
		request, ok := object.(*certificatesv1.CertificateSigningRequest)
		if !ok || ctx.Err() != nil {
			continue
		}
		if err := d.decide(ctx, request); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
