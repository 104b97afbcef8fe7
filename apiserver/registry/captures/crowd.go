package captures

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

// A crowd keeps objects of one kind below a number. Of this process only one is created at a time, so that no more are
// there than that and one for each further replica.
type crowd struct {
	resource string
	most     int
	list     func(context.Context) (runtime.Object, error)
	creating chan struct{}
}

// inTurn is the key of contexts whose turn it is.
type inTurn struct{}

// await waits for its turn, which context and leave hold. What enters with that context does not wait again.
func (c *crowd) await(ctx context.Context) (turn context.Context, leave func(), err error) {
	if ctx.Value(inTurn{}) != nil {
		return ctx, func() {}, nil
	}
	select {
	case c.creating <- struct{}{}:
		return context.WithValue(ctx, inTurn{}, true), func() { <-c.creating }, nil
	case <-ctx.Done():
		return nil, nil, apierrors.NewTimeoutError("waiting for others to be created: "+ctx.Err().Error(), 0)
	}
}

// enter waits for its turn and answers 403 when there is no room. Else the FinishFunc lets the next one in.
func (c *crowd) enter(ctx context.Context, name string) (genericregistry.FinishFunc, error) {
	_, done, err := c.await(ctx)
	if err != nil {
		return nil, err
	}
	leave := func(context.Context, bool) { done() }
	there, err := c.list(ctx)
	if err != nil {
		leave(ctx, false)
		return nil, err
	}
	if count := meta.LenList(there); count >= c.most {
		leave(ctx, false)
		return nil, apierrors.NewForbidden(v1alpha1.Resource(c.resource), name, fmt.Errorf("there are %d already, and the operator of the cluster allows %d: delete one", count, c.most))
	}
	return leave, nil
}
