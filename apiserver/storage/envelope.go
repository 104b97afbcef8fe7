package storage

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// envelopeGroupVersion is that of the custom resources in artifacts/deploy/storage. The group is private: nobody but
// this server reads or writes it, and it does not end in k8s.io, which would need an approval.
var envelopeGroupVersion = schema.GroupVersion{Group: "storage.network-observability.io", Version: "v1"}

// hostTimeout bounds one request to the host cluster, watches aside, that comes with no closer deadline.
const hostTimeout = 30 * time.Second

// An envelope is the custom resource that holds one object. Its labels are the object's, so that the host can select.
type envelope struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec envelopeSpec `json:"spec"`
}

type envelopeSpec struct {
	// Namespace is that of the object. The host selects by it.
	Namespace string `json:"namespace,omitempty"`
	// Object is the object as the codec writes it, JSON, without its resourceVersion. It is a string so that the host
	// neither prunes nor reorders it, does not track its fields in managedFields, and holds it in a tenth of the memory.
	Object string `json:"object"`
}

type envelopeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []envelope `json:"items"`
}

func (e *envelope) DeepCopyObject() runtime.Object {
	out := *e
	e.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

func (l *envelopeList) DeepCopyObject() runtime.Object {
	out := *l
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]envelope, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*envelope)
	}
	return &out
}

// A host reads and writes the envelopes of one kind. It may be used concurrently.
type host struct {
	client     rest.Interface
	parameters runtime.ParameterCodec
	kind       kind
	// ended ends requests that nobody waits for any more: those of the cache have no context of their own.
	ended context.Context
}

// newHost makes a client of its own: it is not throttled, because the host's priority and fairness already is, and it
// speaks JSON, because custom resources have no other form.
func newHost(config *rest.Config, kind kind) (*host, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(envelopeGroupVersion.WithKind(kind.name), &envelope{})
	scheme.AddKnownTypeWithName(envelopeGroupVersion.WithKind(kind.name+"List"), &envelopeList{})
	metav1.AddToGroupVersion(scheme, envelopeGroupVersion)

	config = rest.CopyConfig(config)
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.GroupVersion = &envelopeGroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.Timeout = 0 // of watches, too
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the cluster for %s: %w", kind.resource, err)
	}
	return &host{client: client, parameters: runtime.NewParameterCodec(scheme), kind: kind, ended: context.Background()}, nil
}

// until is a host whose requests end when end is called.
func (h *host) until() (bounded *host, end context.CancelFunc) {
	copied := *h
	copied.ended, end = context.WithCancel(h.ended)
	return &copied, end
}

// bound gives a request an end.
func (h *host) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	stop := context.AfterFunc(h.ended, cancel)
	return ctx, func() { stop(); cancel() }
}

func (h *host) envelope(name, namespace string, labels map[string]string, object []byte) *envelope {
	return &envelope{
		TypeMeta:   metav1.TypeMeta{APIVersion: envelopeGroupVersion.String(), Kind: h.kind.name},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: agentv1.Namespace, Labels: labels},
		Spec:       envelopeSpec{Namespace: namespace, Object: string(object)},
	}
}

func (h *host) get(ctx context.Context, name string) (*envelope, error) {
	ctx, cancel := h.bound(ctx)
	defer cancel()
	got := &envelope{}
	return got, h.client.Get().Namespace(agentv1.Namespace).Resource(h.kind.resource).Name(name).Do(ctx).Into(got)
}

func (h *host) create(ctx context.Context, e *envelope) (*envelope, error) {
	ctx, cancel := h.bound(ctx)
	defer cancel()
	got := &envelope{}
	return got, h.client.Post().Namespace(agentv1.Namespace).Resource(h.kind.resource).Body(e).Do(ctx).Into(got)
}

// update replaces the envelope if it is still at the resourceVersion that e has.
func (h *host) update(ctx context.Context, e *envelope) (*envelope, error) {
	ctx, cancel := h.bound(ctx)
	defer cancel()
	got := &envelope{}
	return got, h.client.Put().Namespace(agentv1.Namespace).Resource(h.kind.resource).Name(e.Name).Body(e).Do(ctx).Into(got)
}

// delete deletes the envelope if it is still at the resourceVersion.
func (h *host) delete(ctx context.Context, name, resourceVersion string) error {
	ctx, cancel := h.bound(ctx)
	defer cancel()
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &resourceVersion}}
	return h.client.Delete().Namespace(agentv1.Namespace).Resource(h.kind.resource).Name(name).Body(options).Do(ctx).Error()
}

func (h *host) list(ctx context.Context, options metav1.ListOptions) (*envelopeList, error) {
	ctx, cancel := h.bound(ctx)
	defer cancel()
	request := h.client.Get().Namespace(agentv1.Namespace).Resource(h.kind.resource).VersionedParams(&options, h.parameters)
	if options.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
		// The host waits for a version to come before it says that there is none: asking again would take half a minute.
		request.MaxRetries(0)
	}
	got := &envelopeList{}
	return got, request.Do(ctx).Into(got)
}

func (h *host) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.Watch = true
	return h.client.Get().Namespace(agentv1.Namespace).Resource(h.kind.resource).
		VersionedParams(&options, h.parameters).Watch(ctx)
}
