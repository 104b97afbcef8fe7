// Package managedfields is what the resources that are stored here have in common of server-side apply.
package managedfields

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager"
)

// KeepTimes makes an update that changes nothing but the times at which fields were written change nothing at all, so that
// an object that is applied again and again keeps its resourceVersion and wakes no watch. It is for the end of a strategy's
// PrepareForUpdate. The generic server does so for patches too early for us, before a strategy has filled in what the client
// left out, and with old objects that have a kind while new ones have none: the field manager's converter, which copies
// nothing, sets it on types that serve as their own internal version.
func KeepTimes(ctx context.Context, object, old runtime.Object) {
	old.GetObjectKind().SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	if _, err := fieldmanager.IgnoreManagedFieldsTimestampsTransformer(ctx, object, old); err != nil {
		utilruntime.HandleErrorWithContext(ctx, err, "Keeping the times of managed fields")
	}
}
