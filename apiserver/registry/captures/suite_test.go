package captures

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/registry/rest/resttest"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestSuite is what every resource of Kubernetes has to pass. Watching and lists in pages are the storage's, and tested
// there.
func TestSuite(t *testing.T) {
	everything := &metav1.LabelSelector{}
	t.Run("captures", func(t *testing.T) {
		valid := &v1alpha1.Capture{Spec: v1alpha1.CaptureSpec{Pods: v1alpha1.CapturePods{Selector: everything}}}
		invalid := valid.DeepCopy()
		invalid.Spec.Pods.Selector = nil
		suite(t, func(w *world) *REST { return w.storage.Captures }, valid, invalid)
	})
	t.Run("clustercaptures", func(t *testing.T) {
		valid := &v1alpha1.ClusterCapture{Spec: v1alpha1.ClusterCaptureSpec{Nodes: &v1alpha1.CaptureNodes{Selector: everything}}}
		invalid := valid.DeepCopy()
		invalid.Spec.Nodes = nil
		suite(t, func(w *world) *REST { return w.storage.ClusterCaptures }, valid, invalid)
	})
}

func suite(t *testing.T, of func(*world) *REST, valid, invalid runtime.Object) {
	scheme.Default(valid)
	partsOf(valid).meta.Name, partsOf(invalid).meta.Name = "foo", "foo"
	for name, test := range map[string]func(*resttest.Tester, *REST){
		"create": func(tester *resttest.Tester, r *REST) { tester.TestCreate(valid, createIn(r), getFrom(r), invalid) },
		"get":    func(tester *resttest.Tester, _ *REST) { tester.TestGet(valid) },
		"delete": func(tester *resttest.Tester, r *REST) {
			tester.TestDelete(valid, createIn(r), getFrom(r), apierrors.IsNotFound)
		},
		"update": func(tester *resttest.Tester, r *REST) {
			tester.TestUpdate(valid, createIn(r), getFrom(r),
				func(object runtime.Object) runtime.Object {
					partsOf(object).settings.Stop = true
					return object
				},
				func(object runtime.Object) runtime.Object {
					partsOf(object).settings.Filter = "udp"
					return object
				})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := of(newWorld(t))
			tester := resttest.New(t, byAlice{r})
			if !r.kind.namespaced {
				tester.ClusterScope()
			}
			test(tester, r)
		})
	}
}

// byAlice gives contexts without a user one. Parts of the suite make such contexts, the server does not.
type byAlice struct{ *REST }

func (b byAlice) Create(ctx context.Context, object runtime.Object, check rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return b.REST.Create(genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "alice"}), object, check, options)
}

// createIn puts objects into the store as they are.
func createIn(r *REST) resttest.CreateFunc {
	return func(ctx context.Context, object runtime.Object) error {
		key, err := r.KeyFunc(ctx, partsOf(object).meta.Name)
		if err != nil {
			return err
		}
		return r.Storage.Create(ctx, key, object, r.New(), 0, false)
	}
}

func getFrom(r *REST) resttest.GetFunc {
	return func(ctx context.Context, object runtime.Object) (runtime.Object, error) {
		if r.kind.namespaced {
			ctx = genericapirequest.WithNamespace(ctx, partsOf(object).meta.Namespace)
		}
		return r.Get(ctx, partsOf(object).meta.Name, &metav1.GetOptions{})
	}
}
