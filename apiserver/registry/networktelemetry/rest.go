package networktelemetry

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const resource = "networktelemetries"

// Config says what the resource stands on. All of it is called concurrently.
type Config struct {
	Scheme *runtime.Scheme
	Getter generic.RESTOptionsGetter
	// Authorizer is asked whether the requester may get the Secrets that exporters name.
	Authorizer authorizer.Authorizer
}

// Storage is what the server installs, as networktelemetries and networktelemetries/status.
type Storage struct {
	NetworkTelemetries *REST
	Status             *StatusREST
}

// NewStorage makes the resource's storage.
func NewStorage(config Config) (*Storage, error) {
	if config.Scheme == nil || config.Getter == nil || config.Authorizer == nil {
		return nil, errors.New("making the storage of networktelemetries: Config is incomplete")
	}
	strategy := strategy{ObjectTyper: config.Scheme, NameGenerator: names.SimpleNameGenerator}
	admission := admission{config.Authorizer}
	store := &genericregistry.Store{
		NewFunc:                  func() runtime.Object { return &v1alpha1.NetworkTelemetry{} },
		NewListFunc:              func() runtime.Object { return &v1alpha1.NetworkTelemetryList{} },
		DefaultQualifiedResource: v1alpha1.Resource(resource), SingularQualifiedResource: v1alpha1.Resource("networktelemetry"),
		BeginCreate: admission.create, BeginUpdate: admission.update,
		CreateStrategy: strategy, UpdateStrategy: strategy, DeleteStrategy: strategy, ResetFieldsStrategy: strategy,
		TableConvertor: tableConvertor{},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: config.Getter, AttrFunc: attributes}); err != nil {
		return nil, fmt.Errorf("making the storage of %s: %w", resource, err)
	}
	return &Storage{NetworkTelemetries: &REST{store}, Status: newStatusREST(store)}, nil
}

// REST serves the resource.
type REST struct {
	*genericregistry.Store
}

var (
	_ rest.StandardStorage      = &REST{}
	_ rest.SingularNameProvider = &REST{}
	_ rest.ShortNamesProvider   = &REST{}
	_ rest.ResetFieldsStrategy  = &REST{}
)

// ShortNames is part of rest.ShortNamesProvider.
func (*REST) ShortNames() []string { return []string{"ntel"} }

// StatusREST serves the subresource status.
type StatusREST struct {
	store *genericregistry.Store
}

var (
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
	_ rest.TableConvertor      = &StatusREST{}
)

func newStatusREST(of *genericregistry.Store) *StatusREST {
	store := *of
	status := statusStrategy{of.UpdateStrategy.(strategy)}
	store.UpdateStrategy, store.ResetFieldsStrategy = status, status
	store.BeginUpdate = nil // the spec stays as it is
	return &StatusREST{&store}
}

// New is part of rest.Storage.
func (r *StatusREST) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the storage is that of the resource.
func (*StatusREST) Destroy() {}

// Get is part of rest.Getter.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update is part of rest.Updater. There is no status without an object.
func (r *StatusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, options)
}

// GetResetFields is part of rest.ResetFieldsStrategy.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable is part of rest.TableConvertor.
func (r *StatusREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}
