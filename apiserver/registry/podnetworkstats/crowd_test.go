package podnetworkstats

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"

	"github.com/networkobservability/networkobservability/apiserver/registry/live/livetest"
)

// TestStorms: lists, and watches that begin with all objects, are turned away when too many objects are on their way,
// and served again when others' requests have ended.
func TestStorms(t *testing.T) {
	inBubble(t, func(t *testing.T, r *replica) {
		for i := range 1000 {
			r.cluster.Put(livetest.Pod("x", fmt.Sprint(i), "", nil))
		}
		synctest.Wait()
		requests, end := context.WithCancel(in("x"))
		storm := func(one func() error) {
			t.Helper()
			for range 1000 {
				if err := one(); err != nil {
					if seconds, _ := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || seconds != 1 {
						t.Errorf("got %v", err)
					}
					return
				}
			}
			t.Error("nobody is turned away")
		}
		listing := func() error {
			_, err := r.List(requests, &metainternalversion.ListOptions{})
			return err
		}
		watching := func() error {
			options := initially()
			_, err := r.Watch(requests, &options)
			return err
		}
		storm(listing)
		storm(watching)
		end()
		synctest.Wait()
		requests, end = context.WithCancel(in("x"))
		defer end()
		if err := listing(); err != nil {
			t.Errorf("a list later: %v", err)
		}
		if err := watching(); err != nil {
			t.Errorf("a watch later: %v", err)
		}
	})
}
