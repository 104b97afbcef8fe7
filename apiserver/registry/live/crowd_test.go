package live

import (
	"context"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestCrowd: large lists have room until their requests end, are told to come back when there is none, and leave some
// to small lists and to watches.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd()
		ctx, answered := context.WithCancel(t.Context())
		if err := c.list(ctx, 10*maxListed); err != nil {
			t.Fatalf("a list larger than the bound, alone: %v", err)
		}
		err := c.list(t.Context(), smallPage+1)
		if seconds, retry := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !retry || seconds != 1 {
			t.Errorf("a list beside it: %v", err)
		}
		if err := c.list(t.Context(), smallPage); err != nil {
			t.Errorf("a page beside it: %v", err)
		}
		release, err := c.watch(10 * maxListed)
		if err != nil {
			t.Fatalf("a watch beside it: %v", err)
		}
		release()
		answered()
		synctest.Wait()
		if err := c.list(t.Context(), smallPage+1); err != nil {
			t.Errorf("a list after it: %v", err)
		}
	})
}
