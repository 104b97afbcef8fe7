package server

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// addQuota adds the plugin that counts captures, behind all others: what is refused is not counted. Cluster captures are in
// no namespace, so no ResourceQuota counts them; the registry bounds their number.
func addQuota(o *genericoptions.AdmissionOptions) {
	resourcequota.Register(o.Plugins)
	o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, resourcequota.PluginName)
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
