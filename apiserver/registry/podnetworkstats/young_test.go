package podnetworkstats

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
)

// TestGetYoungPod: a pod that the host has, but has not told us of yet, is found, and a watch goes on from there.
func TestGetYoungPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		cluster, agents := livetest.NewCluster(100), livetest.NewAgents()
		young := map[string]*corev1.Pod{
			"x/placed": livetest.Pod("x", "placed", "n1", nil), "x/waiting": livetest.Pod("x", "waiting", "", nil),
		}
		young["x/placed"].UID = "placed-uid"
		agents.Count("placed-uid", 7)
		view := cluster.View()
		r := &replica{t: t, cluster: cluster, view: view, agents: agents, REST: live.New(live.Config{
			Kind: kind{}, Host: view, HostType: &corev1.Pod{}, Reader: agents, WatchInterval: 10 * time.Second,
			HostGet: func(_ context.Context, namespace, name string) (runtime.Object, error) {
				if name == "unknown" {
					return nil, errors.New("the host is busy")
				}
				if pod := young[namespace+"/"+name]; pod != nil {
					return pod, nil
				}
				return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
			},
		})}
		go r.Run(ctx)
		synctest.Wait()
		for name, want := range map[string]v1alpha1.MeasurementState{"placed": v1alpha1.Measured, "waiting": v1alpha1.Pending} {
			object, err := r.Get(in("x"), name, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := object.(*v1alpha1.PodNetworkStats)
			if got.State != want || (want == v1alpha1.Measured) != (got.Traffic != nil) {
				t.Errorf("%s is %s, %v", name, got.State, got.Traffic)
			}
			w := r.watch(in("x"), metainternalversion.ListOptions{ResourceVersion: got.ResourceVersion})
			r.put("x", name, "n1", nil)
			w.want("ADDED x/" + name + " Pending")
			w.Stop()
		}
		for _, name := range []string{"none", "a%b"} {
			_, err := r.Get(in("x"), name, nil)
			if !apierrors.IsNotFound(err) || err.Error() != "podnetworkstats.networkobservability.k8s.io \""+name+"\" not found" {
				t.Errorf("%s: got %v", name, err)
			}
		}
		_, err := r.Get(in("x"), "unknown", nil)
		wantUnavailable(t, err)
	})
}
