package captures

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// secretReader is the ClusterRole that a namespace binds to let the server read the Secrets that outputs name.
const secretReader = "networkobservability-secret-reader"

// A refusal is why an output cannot be used, or a name not be looked up, in words for users.
type refusal struct {
	message string
	// final: it makes no sense to try again.
	final bool
}

// store has a node copy what it recorded to those outputs that may be used. It is told of each by itself: one that the agent does not
// take, for what is in a Secret, must not keep it from the others.
func (t *term) store(ctx context.Context, e *entry, node string) (state *agentv1.CaptureState, err error) {
	e.mu.Lock()
	s, outputs := e.m.subject, e.m.outputsFor(e.m.member(node))
	e.mu.Unlock()
	for i := range outputs {
		told, refused, err := t.storeTo(ctx, e, s, node, &outputs[i])
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, err
		case refused == nil:
			state = told
		}
		e.mu.Lock()
		if refused != nil {
			e.m.cannotStore(outputs[i].Name, refused.message, refused.final, t.cfg.Clock.Now())
		} else {
			e.m.canStore(outputs[i].Name)
		}
		e.mu.Unlock()
	}
	return state, nil
}

func (t *term) storeTo(ctx context.Context, e *entry, s *subject, node string, to *v1alpha1.CaptureOutput) (*agentv1.CaptureState, *refusal, error) {
	output, refused := t.output(ctx, s, to)
	if refused != nil || ctx.Err() != nil {
		return nil, refused, nil
	}
	state, err := t.cfg.Agents.Store(ctx, node, &agentv1.StoreCaptureRequest{Uid: string(e.uid), Outputs: []*agentv1.CaptureOutput{output}})
	if errors.Is(err, ErrInvalid) {
		return nil, &refusal{err.Error(), false}, nil
	}
	return state, nil, err
}

// output is an output with its credentials, read now, if the requester may still have it used.
func (t *term) output(ctx context.Context, s *subject, output *v1alpha1.CaptureOutput) (*agentv1.CaptureOutput, *refusal) {
	networks, err := t.cfg.Allow(output)
	if err != nil {
		// Not final: while a change of the operator's is rolled out, replicas that do not have it yet lead for a while.
		return nil, &refusal{fmt.Sprintf("the operator does not allow it now: %v", err), false}
	}
	allowed, err := t.rights.mayGetPackets(ctx, s)
	if err != nil {
		return nil, &refusal{err.Error(), false}
	}
	if !allowed {
		return nil, &refusal{"who created the capture may no longer get its packets", true}
	}
	to := &agentv1.CaptureOutput{Name: output.Name, AllowedNetworks: networks}
	var credentials map[string][]byte
	if name := secretOf(output); name != "" {
		secret, refused := t.secret(ctx, s, name)
		if refused != nil {
			return nil, refused
		}
		if credentials = secret.Data; credentials == nil {
			credentials = map[string][]byte{} // No credentials at all would mean the agents' identity.
		}
	}
	if refused := fill(to, output, credentials); refused != nil {
		return nil, refused
	}
	return to, nil
}

func secretOf(output *v1alpha1.CaptureOutput) string {
	switch {
	case output.S3 != nil:
		return output.S3.SecretName
	case output.AzureBlob != nil:
		return output.AzureBlob.SecretName
	case output.GoogleCloudStorage != nil:
		return output.GoogleCloudStorage.SecretName
	}
	return ""
}

// secret reads a Secret of the capture's namespace, of ours for a ClusterCapture, if the requester may get it at this moment.
func (t *term) secret(ctx context.Context, s *subject, name string) (*corev1.Secret, *refusal) {
	namespace := s.meta.Namespace
	if s.cluster {
		namespace = agentv1.Namespace
	}
	allowed, err := t.rights.mayGet(ctx, s.settings.Requester, "secrets", namespace, name)
	if err != nil {
		return nil, &refusal{err.Error(), false}
	}
	if !allowed {
		return nil, &refusal{fmt.Sprintf("who created the capture may no longer get the Secret %s", name), true}
	}
	// The client would log the answer where the server logs everything.
	secret, err := t.cfg.Client.CoreV1().Secrets(namespace).Get(klog.NewContext(ctx, klog.Logger{}), name, metav1.GetOptions{})
	switch {
	case err == nil:
		return secret, nil
	case apierrors.IsForbidden(err):
		return nil, &refusal{fmt.Sprintf("the server may not read the Secret %s: bind the ClusterRole %s in the namespace %s to it", name, secretReader, namespace), false}
	case apierrors.IsNotFound(err):
		return nil, &refusal{fmt.Sprintf("there is no Secret %s", name), false}
	}
	return nil, &refusal{fmt.Sprintf("the Secret %s cannot be read", name), false}
}

// fill writes where to copy to. The keys of Secrets are those that the types' documentation names.
func fill(to *agentv1.CaptureOutput, output *v1alpha1.CaptureOutput, secret map[string][]byte) *refusal {
	missing := func(keys string) *refusal {
		return &refusal{fmt.Sprintf("the Secret %s has no %s", secretOf(output), keys), false}
	}
	switch {
	case output.S3 != nil:
		o := output.S3
		if secret != nil && (len(secret["accessKeyID"]) == 0 || len(secret["secretAccessKey"]) == 0) {
			return missing("accessKeyID or no secretAccessKey")
		}
		to.Prefix = o.Prefix
		to.To = &agentv1.CaptureOutput_S3{S3: &agentv1.S3Output{
			Endpoint: o.Endpoint, Region: o.Region, Bucket: o.Bucket, AccessKeyId: string(secret["accessKeyID"]),
			SecretAccessKey: string(secret["secretAccessKey"]), SessionToken: string(secret["sessionToken"]),
		}}
	case output.AzureBlob != nil:
		o := output.AzureBlob
		if secret != nil && len(secret["accountKey"]) == 0 && len(secret["sasToken"]) == 0 {
			return missing("accountKey and no sasToken")
		}
		to.Prefix = o.Prefix
		to.To = &agentv1.CaptureOutput_AzureBlob{AzureBlob: &agentv1.AzureBlobOutput{
			Endpoint: o.Endpoint, Account: o.Account, Container: o.Container, AccountKey: string(secret["accountKey"]), SasToken: string(secret["sasToken"]),
		}}
	case output.GoogleCloudStorage != nil:
		o := output.GoogleCloudStorage
		if secret != nil && len(secret["serviceAccountKey"]) == 0 {
			return missing("serviceAccountKey")
		}
		to.Prefix = o.Prefix
		to.To = &agentv1.CaptureOutput_Gcs{Gcs: &agentv1.GCSOutput{
			Endpoint: o.Endpoint, Bucket: o.Bucket, ServiceAccountKey: string(secret["serviceAccountKey"]),
		}}
	case output.Volume != nil:
		to.Prefix = output.Volume.Path
		to.To = &agentv1.CaptureOutput_Volume{Volume: &agentv1.VolumeOutput{Name: output.Volume.Volume}}
	default:
		return &refusal{"it names no place", true}
	}
	return nil
}
