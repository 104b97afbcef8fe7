package captures

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/clock"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
	"github.com/networkobservability/networkobservability/apiserver/registry/managedfields"
)

// A strategy is how objects of a kind are created and changed.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind  kind
	clock clock.PassiveClock
}

var (
	_ rest.RESTCreateStrategy  = strategy{}
	_ rest.RESTUpdateStrategy  = strategy{}
	_ rest.RESTDeleteStrategy  = strategy{}
	_ rest.ResetFieldsStrategy = strategy{}
)

func (s strategy) NamespaceScoped() bool { return s.kind.namespaced }

// PrepareForCreate leaves status alone: admit, which comes before, has put there what is known by now and nothing else.
func (strategy) PrepareForCreate(ctx context.Context, object runtime.Object) { prepare(ctx, object) }

// prepare may be called more than once.
func prepare(ctx context.Context, object runtime.Object) {
	capture := partsOf(object)
	capture.meta.Generation = 1
	capture.settings.Requester = requester(ctx)
	fillPeers(ctx, capture.settings)
}

// requester is nil only where there is no user, which is in no request that is served.
func requester(ctx context.Context) *v1alpha1.CaptureRequester {
	user, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil
	}
	stamped := &v1alpha1.CaptureRequester{Username: user.GetName(), UID: user.GetUID(), Groups: user.GetGroups()}
	if extra := user.GetExtra(); len(extra) > 0 {
		stamped.Extra = map[string][]string{}
		for key, values := range extra {
			stamped.Extra[key] = values
		}
	}
	return stamped.DeepCopy()
}

// fillPeers gives peers without a namespace the capture's.
func fillPeers(ctx context.Context, settings *v1alpha1.CaptureSettings) {
	namespace := genericapirequest.NamespaceValue(ctx)
	for i := range settings.Match {
		for j := range settings.Match[i].Peers {
			peer := &settings.Match[i].Peers[j]
			for _, name := range []*v1alpha1.CapturePeerName{peer.Pod, peer.Service} {
				if name != nil && name.Namespace == "" {
					name.Namespace = namespace
				}
			}
		}
	}
}

func (s strategy) Validate(_ context.Context, object runtime.Object) field.ErrorList {
	return validate(object, s.clock.Now())
}

func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

func (strategy) Canonicalize(runtime.Object) {}

func (strategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

// PrepareForUpdate keeps what clients do not write.
func (strategy) PrepareForUpdate(ctx context.Context, object, old runtime.Object) {
	capture, before := partsOf(object), partsOf(old)
	*capture.status = *before.status
	capture.settings.Requester = before.settings.Requester
	fillPeers(ctx, capture.settings)
	if capture.settings.Stop != before.settings.Stop {
		capture.meta.Generation = before.meta.Generation + 1
	}
	managedfields.KeepTimes(ctx, object, old)
}

func (strategy) ValidateUpdate(_ context.Context, object, old runtime.Object) field.ErrorList {
	return validateUpdate(object, old)
}

func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetResetFields: nobody owns, by server-side apply, what the server writes.
func (strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): fieldpath.NewSet(
			fieldpath.MakePathOrDie("status"), fieldpath.MakePathOrDie("spec", "requester"),
		),
	}
}

// A statusStrategy is how the subresource status changes objects.
type statusStrategy struct{ strategy }

var _ rest.RESTUpdateStrategy = statusStrategy{}

func (statusStrategy) PrepareForUpdate(_ context.Context, object, old runtime.Object) {
	switch capture := object.(type) {
	case *v1alpha1.Capture:
		capture.Spec = old.(*v1alpha1.Capture).Spec
	case *v1alpha1.ClusterCapture:
		capture.Spec = old.(*v1alpha1.ClusterCapture).Spec
	}
	metav1.ResetObjectMetaForStatus(partsOf(object).meta, partsOf(old).meta)
}

func (statusStrategy) ValidateUpdate(_ context.Context, object, old runtime.Object) field.ErrorList {
	status := partsOf(object).status
	if equality.Semantic.DeepEqual(status, partsOf(old).status) {
		return nil
	}
	return validation.CaptureStatus(status)
}

func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): fieldpath.NewSet(
			fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "labels"),
		),
	}
}

// attributes are what objects are selected by.
func attributes(object runtime.Object) (labels.Set, fields.Set, error) {
	capture := partsOf(object)
	set := fields.Set{install.NameField: capture.meta.Name, install.PhaseField: phase(object)}
	if capture.meta.Namespace != "" {
		set[install.NamespaceField] = capture.meta.Namespace
	}
	return capture.meta.Labels, set, nil
}
