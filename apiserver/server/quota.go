package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericoptions "k8s.io/apiserver/pkg/server/options"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// captureLimitPlugin is the admission plugin by which cluster captures are limited in number. They are in no namespace,
// so no ResourceQuota counts them.
const captureLimitPlugin = "ClusterCaptureLimit"

// addQuota adds the plugins that count captures, behind all others: what is refused is not counted.
func addQuota(o *genericoptions.AdmissionOptions, limit *captureLimit) {
	resourcequota.Register(o.Plugins)
	o.Plugins.Register(captureLimitPlugin, func(io.Reader) (admission.Interface, error) { return limit, nil })
	o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, captureLimitPlugin, resourcequota.PluginName)
}

// quotaInitializer tells ResourceQuota that captures are counted, as count/captures.networkobservability.k8s.io. Usage is
// counted anew, when captures are deleted too, by the cluster's own quota controller, which finds them by discovery.
type quotaInitializer struct{}

var _ admission.PluginInitializer = quotaInitializer{}

func (quotaInitializer) Initialize(plugin admission.Interface) {
	wants, ok := plugin.(initializer.WantsQuotaConfiguration)
	if !ok {
		return
	}
	// Nothing here asks for the whole usage, so nothing has to list.
	unlisted := func(string) ([]runtime.Object, error) { return nil, errNotListed }
	captures := generic.NewObjectCountEvaluator(v1alpha1.Resource("captures"), unlisted, corev1.ResourceName(""))
	ignored := map[schema.GroupResource]struct{}{}
	wants.SetQuotaConfiguration(generic.NewConfiguration([]quota.Evaluator{captures}, ignored))
}

var errNotListed = errors.New("captures are not listed for quotas here")

// A captureLimit refuses cluster captures beyond a number. It is exact among the requests of this replica; replicas that
// are asked at the same moment may together admit one more each.
type captureLimit struct {
	*admission.Handler
	max int

	mu sync.Mutex
	// stored lists what there is; nil until it is set, before the server serves.
	stored rest.Lister
	// admitted are the names that requests under way were let through with.
	admitted map[string]int
}

var _ admission.ValidationInterface = (*captureLimit)(nil)

func newCaptureLimit(max int) *captureLimit {
	return &captureLimit{Handler: admission.NewHandler(admission.Create), max: max, admitted: map[string]int{}}
}

// count sets what is counted.
func (l *captureLimit) count(stored rest.Lister) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stored = stored
}

// Validate refuses with 403, as quotas do.
func (l *captureLimit) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != v1alpha1.Resource("clustercaptures") || a.GetSubresource() != "" {
		return nil
	}
	object, err := meta.Accessor(a.GetObject())
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("reading the name of a cluster capture: %w", err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	names, err := l.names(ctx)
	if err != nil {
		return fmt.Errorf("counting cluster captures: %w", err)
	}
	if len(names) >= l.max && !names[object.GetName()] {
		return admission.NewForbidden(a, fmt.Errorf("there are %d cluster captures, which is the most that this cluster allows: delete one, or have its operator raise --max-cluster-captures", len(names)))
	}
	if !a.IsDryRun() {
		l.hold(ctx, object.GetName())
	}
	return nil
}

// names are those of all that are stored or about to be.
func (l *captureLimit) names(ctx context.Context) (map[string]bool, error) {
	if l.stored == nil {
		return nil, errors.New("not known yet")
	}
	list, err := l.stored.List(ctx, &metainternalversion.ListOptions{Limit: int64(l.max)})
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range l.admitted {
		names[name] = true
	}
	return names, meta.EachListItem(list, func(object runtime.Object) error {
		names[object.(metav1.Object).GetName()] = true
		return nil
	})
}

// hold counts a name until its request ends, from when on it is stored, or refused by somebody else.
func (l *captureLimit) hold(ctx context.Context, name string) {
	l.admitted[name]++
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.admitted[name]--; l.admitted[name] == 0 {
			delete(l.admitted, name)
		}
	})
}
