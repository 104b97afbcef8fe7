package captures

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	serverwarning "k8s.io/apiserver/pkg/warning"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// OwnNamespace is where the Secrets of cluster captures are.
const OwnNamespace = "network-observability"

const (
	// maxSaidBack is how much of a filter an error repeats.
	maxSaidBack = 200
	// maxLookups is how many names a filter and match may have: for each the cluster is asked for a right.
	maxLookups = 64
)

// An admission decides about captures that are created, however that comes about.
type admission struct {
	Config
	kind kind
	// crowd is nil where a ResourceQuota counts.
	crowd *crowd
}

// begin is the Store's BeginCreate. It runs before the strategy and is the only hook that may refuse for want of a right
// and that may write to the object: status is what it finds out, whatever the client sent.
func (a *admission) begin(ctx context.Context, object runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
	prepare(ctx, object)
	capture := partsOf(object)
	*capture.status = v1alpha1.CaptureStatus{}
	namespace := rest.ExpectedNamespaceForScope(genericapirequest.NamespaceValue(ctx), a.kind.namespaced)
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(namespace, capture.meta); err != nil {
		return nil, err
	}
	requester, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("creating a capture: the request has no user"))
	}
	r := &request{admission: a, user: requester, namespace: namespace, object: object, capture: capture}
	warnings, err := r.decide(ctx, dryrun.IsDryRun(options.DryRun))
	if err != nil {
		return nil, err
	}
	finish := func(context.Context, bool) {}
	if a.crowd != nil {
		if finish, err = a.crowd.enter(ctx, capture.meta.Name); err != nil {
			return nil, err
		}
	}
	if len(warnings) > 0 {
		serverwarning.AddWarning(ctx, "", strings.Join(warnings, "; "))
	}
	return finish, nil
}

// A request is one creation.
type request struct {
	*admission
	user      user.Info
	namespace string
	object    runtime.Object
	capture   parts
}

// decide refuses, or answers with what the requester should know, in one line.
func (r *request) decide(ctx context.Context, dryRun bool) (warnings []string, err error) {
	// The strategy checks the same, but by then it is a little later: nothing may be wrong here and right there.
	if errs := validate(r.object, r.Clock.Now()); len(errs) > 0 {
		return nil, r.invalid(errs)
	}
	if err := r.outputs(ctx); err != nil {
		return nil, err
	}
	if err := r.filter(ctx); err != nil {
		return nil, err
	}
	matches, err := r.Matches(r.object)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable("finding the pods that match: " + err.Error())
	}
	matches, warnings, err = r.hostNetwork(ctx, matches)
	if err != nil {
		return nil, err
	}
	switch {
	case dryRun:
		warnings = append([]string{r.preview(ctx, matches)}, warnings...)
	case len(matches) == 0:
		warnings = append(warnings, "nothing matches now; pods and nodes that match later will be recorded")
	}
	return warnings, nil
}

// outputs have to be allowed by the operator; and to who may read packets, since copies are nothing else.
func (r *request) outputs(ctx context.Context) error {
	var errs field.ErrorList
	path := field.NewPath("spec", "outputs")
	for i := range r.capture.settings.Outputs {
		output := &r.capture.settings.Outputs[i]
		if _, err := r.Policy.Allow(output); err != nil {
			errs = append(errs, field.Forbidden(path.Index(i).Child(destinationOf(output).kind), err.Error()))
		}
	}
	if len(errs) > 0 {
		return r.invalid(errs)
	}
	if len(r.capture.settings.Outputs) == 0 {
		return nil
	}
	if err := r.need(ctx, r.payload(), "spec.outputs: packets are copied with their payload"); err != nil {
		return err
	}
	for i := range r.capture.settings.Outputs {
		if name := destinationOf(&r.capture.settings.Outputs[i]).secretName; name != "" {
			if err := r.need(ctx, r.secret(name), path.Index(i).String()+": the Secret is read in your name"); err != nil {
				return err
			}
		}
	}
	return nil
}

// filter has to compile, by itself and with match. One that may look at payload tells of it by what it counts.
func (r *request) filter(ctx context.Context) error {
	names := &lookups{request: r, ctx: ctx, found: map[string][]netip.Addr{}}
	compiled, errs := r.compile(ctx, names)
	if names.denied != nil {
		return names.denied
	}
	if len(errs) > 0 {
		return r.invalid(errs)
	}
	r.capture.status.Filter = &compiled
	if compiled.HeadersOnly {
		return nil
	}
	return r.need(ctx, r.payload(), "spec.filter: it may look at payload, which the number of packets would tell of; keep it to headers")
}

func (r *request) compile(ctx context.Context, names *lookups) (v1alpha1.CaptureFilterStatus, field.ErrorList) {
	settings := r.capture.settings
	names.path = "spec.filter"
	// By itself and as it was written, so that it is right where errors say that it is wrong.
	compiled, err := r.Compile(ctx, r.namespace, settings.Filter, names.resolve)
	if err != nil {
		return compiled, field.ErrorList{field.Invalid(field.NewPath("spec", "filter"), saidBack(settings.Filter), err.Error())}
	}
	names.path = "spec.match"
	text, err := filtertext.Text(settings, names.resolve)
	var at *field.Error
	switch {
	case errors.As(err, &at):
		return compiled, field.ErrorList{at}
	case err != nil:
		return compiled, field.ErrorList{field.InternalError(field.NewPath("spec", "match"), err)}
	case len(settings.Match) == 0:
		return compiled, nil
	}
	compiled, err = r.Compile(ctx, r.namespace, text, names.resolve)
	if err != nil {
		return compiled, field.ErrorList{field.Invalid(field.NewPath("spec", "match"), saidBack(text), "with spec.filter: "+err.Error())}
	}
	return compiled, nil
}

func saidBack(filter string) string {
	if len(filter) > maxSaidBack {
		return filter[:maxSaidBack] + "..."
	}
	return filter
}

// lookups resolve names for the requester: that there is a pod, and its address, is for those who may get it.
type lookups struct {
	*request
	ctx    context.Context
	path   string // where the names are written
	found  map[string][]netip.Addr
	denied error
}

func (l *lookups) resolve(kind filtertext.Kind, namespace, name string) ([]netip.Addr, error) {
	if namespace == "" {
		namespace = l.namespace
	}
	key := fmt.Sprintf("%s %s/%s", kind, namespace, name)
	if addresses, ok := l.found[key]; ok {
		return addresses, nil
	}
	if len(l.found) == maxLookups {
		return nil, fmt.Errorf("names more than %d pods and Services; use ranges of addresses", maxLookups)
	}
	for _, resource := range kind.Resources() {
		err := l.need(l.ctx, authorizer.AttributesRecord{Verb: "get", APIVersion: "v1", Resource: resource, Namespace: namespace, Name: name},
			fmt.Sprintf("%s: the addresses of %s are looked up in your name", l.path, name))
		if err != nil {
			l.denied = err
			return nil, err
		}
	}
	addresses, err := l.Resolve(kind, namespace, name)
	if err == nil {
		l.found[key] = addresses
	}
	return addresses, err
}

// hostNetwork pods show the traffic of their node. Those that were named are refused to who may not record nodes, and
// those that were selected are left out.
func (r *request) hostNetwork(ctx context.Context, matches []Match) ([]Match, []string, error) {
	i := slices.IndexFunc(matches, func(m Match) bool { return m.HostNetwork && m.Pod != "" })
	if !r.kind.namespaced || i < 0 {
		return matches, nil, nil
	}
	err := r.need(ctx, r.clusterCaptures(), fmt.Sprintf("spec.pods: pod %s is in the network of its node, or may be", matches[i].Pod))
	if err == nil || !apierrors.IsForbidden(err) {
		return matches, nil, err
	}
	if capture, ok := r.object.(*v1alpha1.Capture); ok && len(capture.Spec.Pods.Names) > 0 {
		return nil, nil, err
	}
	all := len(matches)
	matches = slices.DeleteFunc(slices.Clone(matches), func(m Match) bool { return m.HostNetwork })
	return matches, []string{fmt.Sprintf("pods in the network of their node are left out (%d): recording them needs the right to create clustercaptures", all-len(matches))}, nil
}

// Rights that may be needed, each in the requester's name.

func (r *request) payload() authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		Verb: "get", APIGroup: v1alpha1.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version,
		Resource: r.kind.resource, Subresource: "pcap", Namespace: r.namespace, Name: r.capture.meta.Name,
	}
}

func (r *request) secret(name string) authorizer.AttributesRecord {
	namespace := r.namespace
	if !r.kind.namespaced {
		namespace = OwnNamespace
	}
	return authorizer.AttributesRecord{Verb: "get", APIVersion: "v1", Resource: "secrets", Namespace: namespace, Name: name}
}

func (r *request) clusterCaptures() authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		Verb: "create", APIGroup: v1alpha1.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version, Resource: clusterCaptureKind.resource,
	}
}

// need answers 403 with the reason to who lacks a right, and 503 when that is not known.
func (r *request) need(ctx context.Context, right authorizer.AttributesRecord, why string) error {
	allowed, err := r.may(ctx, right)
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("asking for the right to %s: %v", words(right), err))
	}
	if !allowed {
		return apierrors.NewForbidden(v1alpha1.Resource(r.kind.resource), r.capture.meta.Name, fmt.Errorf("%s; this needs the right to %s", why, words(right)))
	}
	return nil
}

func (r *request) may(ctx context.Context, right authorizer.AttributesRecord) (bool, error) {
	right.User, right.ResourceRequest = r.user, true
	decision, _, err := r.Authorizer.Authorize(ctx, right)
	if decision == authorizer.DecisionAllow {
		return true, nil
	}
	return false, err
}

// words say a right as kubectl auth can-i takes it.
func words(right authorizer.AttributesRecord) string {
	resource := right.Resource
	if right.Subresource != "" {
		resource += "/" + right.Subresource
	}
	text := right.Verb + " " + resource
	if right.Name != "" {
		text += " " + right.Name
	}
	if right.Namespace != "" {
		text += " in namespace " + right.Namespace
	}
	return text
}

func (r *request) invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(v1alpha1.SchemeGroupVersion.WithKind(r.kind.name).GroupKind(), r.capture.meta.Name, errs)
}
