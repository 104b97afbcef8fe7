package podnetworkstats

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/networkobservability/networkobservability/apiserver/registry/live"
	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
)

// A countingView counts what is asked of the host.
type countingView struct {
	*livetest.View
	lists int
}

func (v *countingView) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	v.lists++
	return v.View.ListWithContext(ctx, options)
}

// TestVersionsMadeUp: clients that name versions which nobody wrote, again and again, cost the host no list, and
// this replica no news.
func TestVersionsMadeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		cluster, agents := livetest.NewCluster(100), livetest.NewAgents()
		view := &countingView{View: cluster.View()}
		r := &replica{t: t, cluster: cluster, view: view.View, agents: agents, REST: live.New(live.Config{
			Kind: kind{}, Host: view, HostType: &corev1.Pod{}, Reader: agents, WatchInterval: 10 * time.Second,
		})}
		go r.Run(ctx)
		synctest.Wait()
		for range 100 {
			asking, stop := context.WithTimeout(in("x"), 200*time.Millisecond)
			if _, err := r.List(asking, &metainternalversion.ListOptions{ResourceVersion: "99900000000"}); !isTooLarge(err) {
				t.Fatal(err)
			}
			stop()
		}
		if view.lists != 1 {
			t.Errorf("%d lists of the host", view.lists)
		}
		r.put("x", "a", "n1", nil)
		time.Sleep(time.Second)
		if got := names(r.list(in("x"), metainternalversion.ListOptions{})); len(got) != 1 {
			t.Errorf("a second later the new pod is not known: %v", got)
		}
	})
}
