package captures

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/networkobservability/networkobservability/apis/networkobservability/filtertext"
	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// freshTime is for how long a single get waits for what is newer than what is stored.
const freshTime = time.Second

// Config says what the resources stand on. All of it is called concurrently.
type Config struct {
	Scheme *runtime.Scheme
	Getter generic.RESTOptionsGetter
	Policy Policy
	// Authorizer is asked for what the requester needs beside the right to create captures.
	Authorizer authorizer.Authorizer
	// Resolve looks up names of pods and Services.
	Resolve filtertext.Resolve
	// Compile compiles a filter. Names without a namespace that it finds are in the one that is given, which is empty
	// for a ClusterCapture; it resolves names by resolve only. Errors say for users where and what is wrong.
	Compile func(ctx context.Context, namespace, text string, resolve filtertext.Resolve) (v1alpha1.CaptureFilterStatus, error)
	// Matches answers with what a *v1alpha1.Capture or *v1alpha1.ClusterCapture would record now.
	Matches func(capture runtime.Object) ([]Match, error)
	// Expect says how much pods and nodes send and receive now, in all.
	Expect func(ctx context.Context, matches []Match) (Rates, error)
	// Fresh brings the status of a copy of a stored object up to date. It does what it can until ctx ends.
	Fresh func(ctx context.Context, capture runtime.Object)
	// Clock is the real one unless a test sets another.
	Clock clock.PassiveClock
}

// A Match is a pod that a capture would record on its node, or, without a Pod, a node.
type Match struct {
	Node           string
	Namespace, Pod string
	HostNetwork    bool
}

// Rates are packets and bytes a second.
type Rates struct {
	Packets, Bytes float64
}

// Storage is what the server installs, and what its other parts read captures from.
type Storage struct {
	Captures, ClusterCaptures             *REST
	CapturesStatus, ClusterCapturesStatus *StatusREST
}

// NewStorage makes both kinds' storage.
func NewStorage(config Config) (*Storage, error) {
	if config.Scheme == nil || config.Getter == nil || config.Authorizer == nil || config.Resolve == nil || config.Compile == nil ||
		config.Matches == nil || config.Expect == nil || config.Fresh == nil {
		return nil, errors.New("making the storage of captures: something of the configuration is missing")
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	namespaced, err := newREST(captureKind, config)
	if err != nil {
		return nil, err
	}
	cluster, err := newREST(clusterCaptureKind, config)
	if err != nil {
		return nil, err
	}
	return &Storage{
		Captures: namespaced, CapturesStatus: newStatusREST(namespaced),
		ClusterCaptures: cluster, ClusterCapturesStatus: newStatusREST(cluster),
	}, nil
}

// REST serves one kind of capture.
type REST struct {
	*genericregistry.Store
	kind  kind
	fresh func(context.Context, runtime.Object)
	// crowd is nil where a ResourceQuota counts.
	crowd *crowd
}

var (
	_ rest.StandardStorage      = &REST{}
	_ rest.SingularNameProvider = &REST{}
	_ rest.ShortNamesProvider   = &REST{}
	_ rest.CategoriesProvider   = &REST{}
	_ rest.ResetFieldsStrategy  = &REST{}
)

func newREST(kind kind, config Config) (*REST, error) {
	strategy := strategy{ObjectTyper: config.Scheme, NameGenerator: names.SimpleNameGenerator, kind: kind, clock: config.Clock}
	admission := &admission{Config: config, kind: kind}
	store := &genericregistry.Store{
		NewFunc: kind.newObject, NewListFunc: kind.newList,
		DefaultQualifiedResource: v1alpha1.Resource(kind.resource), SingularQualifiedResource: v1alpha1.Resource(kind.singular),
		BeginCreate:    admission.begin,
		CreateStrategy: strategy, UpdateStrategy: strategy, DeleteStrategy: strategy, ResetFieldsStrategy: strategy,
		TableConvertor: tableConvertor{config.Clock},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: config.Getter, AttrFunc: attributes}); err != nil {
		return nil, fmt.Errorf("making the storage of %s: %w", kind.resource, err)
	}
	if !kind.namespaced {
		admission.crowd = &crowd{
			resource: kind.resource, most: ptr.Deref(config.Policy.MaxClusterCaptures, defaultMaxClusterCaptures), creating: make(chan struct{}, 1),
			list: func(ctx context.Context) (runtime.Object, error) { return store.List(ctx, nil) },
		}
	}
	return &REST{Store: store, kind: kind, fresh: config.Fresh, crowd: admission.crowd}, nil
}

// ShortNames is part of rest.ShortNamesProvider.
func (r *REST) ShortNames() []string { return r.kind.shortNames }

// Categories is part of rest.CategoriesProvider.
func (*REST) Categories() []string { return []string{"networkobservability"} }

// Get answers with what is stored and newer rows of status where they can be had at once. What changes objects does not
// come by here, so they are never written back.
func (r *REST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	object, err := r.Store.Get(ctx, name, options)
	if err != nil || ended(object) {
		return object, err
	}
	object = object.DeepCopyObject()
	ctx, cancel := context.WithTimeout(ctx, freshTime)
	defer cancel()
	r.fresh(ctx, object)
	return object, nil
}

// Update may create, by server-side apply, and then the Store says that it is done with creating before it stores anything. So it is
// in turn for as long as all of it takes.
func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if force && r.crowd != nil {
		turn, leave, err := r.crowd.await(ctx)
		if err != nil {
			return nil, false, err
		}
		defer leave()
		ctx = turn
	}
	return r.Store.Update(ctx, name, info, create, update, force, options)
}

// StatusREST serves the subresource status.
type StatusREST struct {
	store *genericregistry.Store
}

var (
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
	_ rest.TableConvertor      = &StatusREST{}
)

func newStatusREST(of *REST) *StatusREST {
	store := *of.Store
	status := statusStrategy{of.CreateStrategy.(strategy)}
	store.UpdateStrategy, store.ResetFieldsStrategy = status, status
	return &StatusREST{&store}
}

// New is part of rest.Storage.
func (r *StatusREST) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the storage is that of the resource.
func (*StatusREST) Destroy() {}

// Get answers with what is stored: it may be changed and written back.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update is part of rest.Updater. There is no status without a capture.
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
