package networktelemetry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/networkobservability/networkobservability/apis/networkobservability/install"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/networkobservability/validation"
	"github.com/networkobservability/networkobservability/apiserver/registry/managedfields"
)

// A strategy is how the object is created and changed.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

var (
	_ rest.RESTCreateStrategy  = strategy{}
	_ rest.RESTUpdateStrategy  = strategy{}
	_ rest.RESTDeleteStrategy  = strategy{}
	_ rest.ResetFieldsStrategy = strategy{}
)

// of panics over other objects: the store holds no others.
func of(object runtime.Object) *v1alpha1.NetworkTelemetry {
	return object.(*v1alpha1.NetworkTelemetry)
}

func (strategy) NamespaceScoped() bool { return false }

// PrepareForCreate drops a status that came along: nothing is known yet.
func (strategy) PrepareForCreate(_ context.Context, object runtime.Object) {
	of(object).Generation = 1
	of(object).Status = v1alpha1.NetworkTelemetryStatus{}
}

func (strategy) Validate(_ context.Context, object runtime.Object) field.ErrorList {
	return validation.NetworkTelemetry(of(object))
}

func (strategy) WarningsOnCreate(_ context.Context, object runtime.Object) []string {
	return validation.NetworkTelemetryWarnings(of(object))
}

func (strategy) Canonicalize(runtime.Object) {}

func (strategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

// PrepareForUpdate keeps the status, and raises the generation when the spec is another.
func (strategy) PrepareForUpdate(ctx context.Context, object, old runtime.Object) {
	of(object).Status = of(old).Status
	if !equality.Semantic.DeepEqual(of(object).Spec, of(old).Spec) {
		of(object).Generation = of(old).Generation + 1
	}
	managedfields.KeepTimes(ctx, object, old)
}

func (strategy) ValidateUpdate(_ context.Context, object, old runtime.Object) field.ErrorList {
	return validation.NetworkTelemetryUpdate(of(object), of(old))
}

func (strategy) WarningsOnUpdate(_ context.Context, object, _ runtime.Object) []string {
	return validation.NetworkTelemetryWarnings(of(object))
}

// GetResetFields: nobody owns, by server-side apply, what the server writes.
func (strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return reset("status")
}

// A statusStrategy is how the subresource status changes the object.
type statusStrategy struct{ strategy }

var _ rest.RESTUpdateStrategy = statusStrategy{}

func (statusStrategy) PrepareForUpdate(_ context.Context, object, old runtime.Object) {
	of(object).Spec = of(old).Spec
	metav1.ResetObjectMetaForStatus(&of(object).ObjectMeta, &of(old).ObjectMeta)
}

func (statusStrategy) ValidateUpdate(_ context.Context, object, old runtime.Object) field.ErrorList {
	if equality.Semantic.DeepEqual(of(object).Status, of(old).Status) {
		return nil
	}
	return validation.NetworkTelemetryStatus(&of(object).Status)
}

func (statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return reset("spec", "metadata")
}

func reset(fields ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, name := range fields {
		set.Insert(fieldpath.MakePathOrDie(name))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): set}
}

// attributes are what objects are selected by.
func attributes(object runtime.Object) (labels.Set, fields.Set, error) {
	return of(object).Labels, fields.Set{install.NameField: of(object).Name}, nil
}
