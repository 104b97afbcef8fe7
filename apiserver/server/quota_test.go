package server

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/authentication/user"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// creation is what admission is asked when a resource of ours is created.
func creation(resource string, object runtime.Object, namespace, name string) admission.Attributes {
	return admission.NewAttributesRecord(object, nil, v1alpha1.SchemeGroupVersion.WithKind("Any"), namespace, name,
		v1alpha1.SchemeGroupVersion.WithResource(resource), "", admission.Create, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: "someone"})
}

// TestQuota creates many captures at once against a quota of ten: ten are admitted, and other namespaces are not limited.
func TestQuota(t *testing.T) {
	const allowed, asked = 10, 100
	hard := corev1.ResourceList{"count/captures.networkobservability.k8s.io": *resource.NewQuantity(allowed, resource.DecimalSI)}
	client := fake.NewClientset(&corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "limited", Name: "captures", ResourceVersion: "0"},
		Spec:       corev1.ResourceQuotaSpec{Hard: hard},
		Status:     corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"count/captures.networkobservability.k8s.io": resource.MustParse("0")}},
	})
	countVersions(client)
	plugin := quotaPlugin(t, client)
	for namespace, want := range map[string]int64{"limited": allowed, "free": asked} {
		var admitted atomic.Int64
		var running sync.WaitGroup
		for i := range asked {
			running.Go(func() {
				err := plugin.Validate(t.Context(), creation("captures", &v1alpha1.Capture{}, namespace, fmt.Sprintf("c%d", i)), nil)
				if err == nil {
					admitted.Add(1)
				} else if !apierrors.IsForbidden(err) {
					t.Errorf("refused otherwise than as forbidden: %v", err)
				}
			})
		}
		running.Wait()
		if got := admitted.Load(); got != want {
			t.Errorf("%s: %d are admitted, want %d", namespace, got, want)
		}
	}
	quota, err := client.CoreV1().ResourceQuotas("limited").Get(t.Context(), "captures", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used := quota.Status.Used["count/captures.networkobservability.k8s.io"]
	if used.Value() != allowed {
		t.Errorf("used is %v, want %d", used.String(), allowed)
	}
}

// countVersions makes each update of a quota another version, as etcd does, by which the plugin knows the newer.
func countVersions(client *fake.Clientset) {
	var version atomic.Int64
	client.PrependReactor("update", "resourcequotas", func(action clienttesting.Action) (bool, runtime.Object, error) {
		quota := action.(clienttesting.UpdateAction).GetObject().(*corev1.ResourceQuota)
		quota.ResourceVersion = fmt.Sprint(version.Add(1))
		return false, nil, nil
	})
}

func quotaPlugin(t *testing.T, client *fake.Clientset) admission.ValidationInterface {
	t.Helper()
	options := genericoptions.NewAdmissionOptions()
	addQuota(options)
	if last := options.RecommendedPluginOrder[len(options.RecommendedPluginOrder)-1]; last != resourcequota.PluginName {
		t.Errorf("the last plugin is %s, behind which requests may be refused that were counted", last)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	chain := admission.PluginInitializers{
		initializer.New(client, nil, factory, nil, nil, nil, t.Context().Done(), nil), quotaInitializer{},
	}
	plugin, err := options.Plugins.InitPlugin(resourcequota.PluginName, nil, chain)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	t.Cleanup(factory.Shutdown)
	return plugin.(admission.ValidationInterface)
}
