package networktelemetry

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest/resttest"
	"k8s.io/utils/ptr"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// TestSuite is what every resource of Kubernetes has to pass, as far as it does not want objects of other names: creating
// and getting are in TestCreate and TestRefused. Watching and lists in pages are the storage's, and tested there.
func TestSuite(t *testing.T) {
	valid := &v1alpha1.NetworkTelemetry{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NetworkTelemetryName}}
	scheme.Default(valid)
	for name, test := range map[string]func(*resttest.Tester, *REST){
		"delete": func(tester *resttest.Tester, r *REST) {
			tester.TestDelete(valid, createIn(r), getFrom(r), apierrors.IsNotFound)
		},
		"update": func(tester *resttest.Tester, r *REST) {
			tester.TestUpdate(valid, createIn(r), getFrom(r),
				func(object runtime.Object) runtime.Object {
					of(object).Spec.RetinaMetrics = true
					return object
				},
				func(object runtime.Object) runtime.Object {
					of(object).Spec.SeriesLimit = ptr.To[int32](1)
					return object
				})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newWorld(t).storage.NetworkTelemetries
			test(resttest.New(t, r).ClusterScope(), r)
		})
	}
}

// createIn puts objects into the store as they are.
func createIn(r *REST) resttest.CreateFunc {
	return func(ctx context.Context, object runtime.Object) error {
		key, err := r.KeyFunc(ctx, of(object).Name)
		if err != nil {
			return err
		}
		return r.Storage.Create(ctx, key, object, r.New(), 0, false)
	}
}

func getFrom(r *REST) resttest.GetFunc {
	return func(ctx context.Context, object runtime.Object) (runtime.Object, error) {
		return r.Get(ctx, of(object).Name, &metav1.GetOptions{})
	}
}
